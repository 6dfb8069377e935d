//! What several people sign: signatures that travel in files of their own, and how many of how many are there.
//!
//! A detached signature is the signed document with one signature and without what it speaks of: the release document without the
//! bundle, the plan without its devices. So it says by itself what was signed.

use std::fmt;
use std::path::Path;

use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::reason::Code;
use ensign_bundle::statement::{self, Document, Signed};
use ensign_crypto::{Envelope, KeyId, PublicKey, SecretKey, aad, valid_signers};

use crate::args::SignFile;
use crate::durable;
use crate::failure::{Failure, Result, fail};
use crate::home;

/// How many valid signatures there are, and how many are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    pub signatures: usize,
    pub threshold: u32,
}

impl Count {
    pub fn of(envelope: &Envelope, keys: &[PublicKey], threshold: u32, fleet: &FleetId) -> Self {
        Self {
            signatures: valid_signers(envelope, keys, &aad(&fleet.0)).len(),
            threshold,
        }
    }

    pub fn is_enough(self) -> bool {
        self.signatures >= self.threshold as usize
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} needed", self.signatures, self.threshold)
    }
}

/// A document in a file, none of its signatures checked.
pub fn open<T: Document>(path: &Path) -> Result<Signed<T>> {
    let bytes = home::read_up_to(path, T::MAX_BYTES as u64)?;
    statement::open_unverified::<T>(&bytes).map_err(|e| Failure::new(e.code, e.text).about(path))
}

/// The file of a detached signature.
pub fn read<T: Document>(path: &Path) -> Result<Signed<T>> {
    let signed = open::<T>(path).map_err(|e| match e.code {
        Code::Malformed | Code::LimitExceeded => e.hint(match T::KIND {
            "plan" => "give the file that `ensign rollout sign FILE --detached --out SIG` wrote",
            "grant" => "give the file that `ensign token sign FILE --detached --out SIG` wrote",
            _ => "give the file that `ensign release sign FILE --detached --out SIG` wrote",
        }),
        _ => e,
    })?;
    if signed.envelope.signatures().is_empty() {
        return fail!(Unsigned, "{} carries no signature", path.display());
    }
    Ok(signed)
}

/// Writes the signature of one key, alone.
pub fn write(path: &Path, envelope: &Envelope, key: &KeyId) -> Result<()> {
    let mut alone = Envelope::new(envelope.kind(), envelope.payload().to_vec());
    let own = envelope.signatures().iter().find(|s| s.key == *key);
    if let Some(own) = own {
        alone
            .add(own.clone())
            .map_err(|e| Failure::new(Code::Failed, e.to_string()))?;
    }
    durable::write(path, &alone.encode(), durable::PUBLIC).map_err(|e| Failure::io("write", path, &e))
}

/// Joins the signatures of a file. Each must be of one of `keys`, over exactly this document. Returns how many are new.
pub fn join(
    into: &mut Envelope,
    from: &Envelope,
    keys: &[PublicKey],
    fleet: &FleetId,
    path: &Path,
    file: &Path,
) -> Result<usize> {
    if (into.kind(), into.payload()) != (from.kind(), from.payload()) {
        return Err(Failure::new(
            Code::ContentMismatch,
            format!(
                "{} signs sha256 {}, {} holds sha256 {}",
                path.display(),
                Digest(from.payload_digest()),
                file.display(),
                Digest(into.payload_digest())
            ),
        )
        .hint("let its signer sign the file as it is now: join the other signatures first, then --detached"));
    }
    let valid: Vec<KeyId> = valid_signers(from, keys, &aad(&fleet.0))
        .iter()
        .map(PublicKey::id)
        .collect();
    let mut new = 0;
    for signature in from.signatures() {
        if !keys.iter().any(|key| key.id() == signature.key) {
            return fail!(
                RoleNotAuthorised,
                "key {} of {} is none of the {} that sign it",
                signature.key,
                path.display(),
                keys.len()
            );
        }
        if !valid.contains(&signature.key) {
            return fail!(
                SignatureInvalid,
                "the signature of key {} in {} does not verify",
                signature.key,
                path.display()
            );
        }
        if into.signatures().iter().any(|s| s.key == signature.key) {
            continue;
        }
        into.add(signature.clone())
            .map_err(|e| Failure::new(Code::LimitExceeded, e.to_string()))?;
        new += 1;
    }
    Ok(new)
}

/// Joins every detached signature that the words name. Returns how many are new.
pub fn join_all<T: Document>(
    into: &mut Envelope,
    words: &SignFile,
    keys: &[PublicKey],
    fleet: &FleetId,
) -> Result<usize> {
    let mut added = 0;
    for sig in &words.by.add {
        let detached = read::<T>(sig)?;
        added += join(into, &detached.envelope, keys, fleet, sig, &words.file)?;
    }
    Ok(added)
}

/// True when this key has signed.
pub fn has_signed(envelope: &Envelope, key: &PublicKey, fleet: &FleetId) -> bool {
    !valid_signers(envelope, &[*key], &aad(&fleet.0)).is_empty()
}

/// Adds the signature of a key.
pub fn sign(envelope: &mut Envelope, key: &SecretKey, fleet: &FleetId) {
    envelope.sign(key, &aad(&fleet.0));
}

#[cfg(test)]
mod tests {
    use ensign_bundle::plan::statements::Cancel;
    use ensign_bundle::trust::roles::FORMAT;

    use super::*;

    const FLEET: FleetId = FleetId([7; 32]);

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed([n; 32])
    }

    fn document(reason: &str, keys: &[u8]) -> Envelope {
        let cancel = Cancel {
            format: FORMAT,
            issued: 1,
            plan: Digest([1; 32]),
            product: "app".parse().unwrap(),
            reason: reason.to_owned(),
        };
        let mut envelope = statement::seal(&cancel).unwrap();
        for n in keys {
            sign(&mut envelope, &key(*n), &FLEET);
        }
        envelope
    }

    fn joined(into: &[u8], from: &Envelope) -> Result<(usize, Count), Code> {
        let keys: Vec<PublicKey> = [1, 2, 3].map(|n| key(n).public()).to_vec();
        let mut envelope = document("why", into);
        let (path, file) = (Path::new("a.sig"), Path::new("f"));
        let new = join(&mut envelope, from, &keys, &FLEET, path, file).map_err(|e| e.code)?;
        Ok((new, Count::of(&envelope, &keys, 2, &FLEET)))
    }

    #[test]
    fn signatures_are_joined_each_once() {
        let count = |signatures| Count {
            signatures,
            threshold: 2,
        };
        assert_eq!(joined(&[], &document("why", &[1])), Ok((1, count(1))));
        assert_eq!(joined(&[1], &document("why", &[2])), Ok((1, count(2))));
        assert_eq!(joined(&[1], &document("why", &[1])), Ok((0, count(1))));
        assert!(!count(1).is_enough() && count(2).is_enough());
        assert_eq!(count(1).to_string(), "1 of 2 needed");
    }

    #[test]
    fn what_is_no_signature_of_this_document_is_refused() {
        assert_eq!(joined(&[1], &document("another", &[2])), Err(Code::ContentMismatch));
        assert_eq!(joined(&[1], &document("why", &[9])), Err(Code::RoleNotAuthorised));
        let mut elsewhere = document("why", &[]);
        sign(&mut elsewhere, &key(2), &FleetId([8; 32]));
        assert_eq!(joined(&[1], &elsewhere), Err(Code::SignatureInvalid));
    }

    #[test]
    fn a_signature_travels_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sig");
        write(&path, &document("why", &[1, 2]), &key(2).public().id()).unwrap();
        let alone = read::<Cancel>(&path).unwrap();
        assert_eq!(alone.envelope, document("why", &[2]));
        write(&path, &document("why", &[]), &key(2).public().id()).unwrap();
        assert_eq!(read::<Cancel>(&path).unwrap_err().code, Code::Unsigned);
    }
}
