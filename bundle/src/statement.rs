//! Signed documents: what every role and statement has in common, and the one way to open and to seal them.
//!
//! Order of a verifier (docs/formats.md): size cap → envelope → signatures over the raw payload → strict scanner → decode → checks.

use ensign_crypto::{Envelope, PublicKey, SecretKey, aad, require_threshold};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::digest::{Digest, FleetId};
use crate::kinds::Known;
use crate::limits;
use crate::reason::{Code, Refusal};
use crate::refuse;

/// The payload of an envelope of one kind. The kinds stand in [`each_document`](crate::each_document).
pub trait Document: Known + Serialize + DeserializeOwned {
    /// `plan` in `application/vnd.ensign.plan+cbor`.
    const KIND: &'static str;
    /// Largest envelope, bytes.
    const MAX_BYTES: usize;
    /// Most CBOR items.
    const MAX_ITEMS: usize = limits::ROLE_ITEMS;

    /// What the types alone do not say: orders, ranges, fields that must agree.
    fn check(&self) -> Result<(), Refusal>;

    /// How long it may live, where it says so. Judged after the signatures only: a byte that flipped in a time is no lifetime, and a
    /// lifetime that nobody signed is nobody's.
    fn check_lifetime(&self) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A document whose signatures were counted, with the bytes it came from.
#[derive(Clone, Debug)]
pub struct Signed<T> {
    pub body: T,
    pub envelope: Envelope,
}

impl<T> Signed<T> {
    /// SHA-256 of the payload: the identity of a statement, whoever else signs it later.
    pub fn digest(&self) -> Digest {
        Digest(self.envelope.payload_digest())
    }
}

/// Opens a document that at least `threshold` distinct `keys` of `fleet` have signed.
pub fn open<T: Document>(
    bytes: &[u8],
    keys: &[PublicKey],
    threshold: u32,
    fleet: &FleetId,
) -> Result<Signed<T>, Refusal> {
    open_with(bytes, |envelope| count(envelope, keys, threshold, fleet).map(|_| ()))
}

/// Opens a document whose signatures `verify` accepts: for statements that several roles must have signed.
pub fn open_with<T: Document>(
    bytes: &[u8],
    verify: impl FnOnce(&Envelope) -> Result<(), Refusal>,
) -> Result<Signed<T>, Refusal> {
    let envelope = envelope::<T>(bytes)?;
    verify(&envelope)?;
    let body: T = body(&envelope)?;
    body.check_lifetime()?;
    Ok(Signed { body, envelope })
}

/// Opens a document without looking at its signatures. For showing it, and for documents that name their own keys (root, binding):
/// those are then counted with [`count`], and the lifetime is checked after that.
pub fn open_unverified<T: Document>(bytes: &[u8]) -> Result<Signed<T>, Refusal> {
    let envelope = envelope::<T>(bytes)?;
    let body = body(&envelope)?;
    Ok(Signed { body, envelope })
}

/// Refuses unless at least `threshold` distinct `keys` signed the envelope for `fleet`. Returns the keys that did.
pub fn count(
    envelope: &Envelope,
    keys: &[PublicKey],
    threshold: u32,
    fleet: &FleetId,
) -> Result<Vec<PublicKey>, Refusal> {
    if envelope.signatures().is_empty() {
        return refuse!(Unsigned, "the {} has no signature", envelope.kind());
    }
    require_threshold(envelope, keys, threshold, &aad(&fleet.0)).map_err(|e| {
        let known = envelope
            .signatures()
            .iter()
            .any(|s| keys.iter().any(|k| k.id() == s.key));
        let code = if known {
            Code::ThresholdNotMet
        } else {
            Code::RoleNotAuthorised
        };
        Refusal::new(code, format!("{}: {e}", envelope.kind()))
    })
}

/// An unsigned envelope around `body`.
pub fn seal<T: Document>(body: &T) -> Result<Envelope, Refusal> {
    body.check()?;
    body.check_lifetime()?;
    let payload = codec::encode(body).map_err(|e| Refusal::new(Code::Malformed, format!("{}: {e}", T::KIND)))?;
    Ok(Envelope::new(T::KIND, payload))
}

/// The bytes of `body` signed by `keys` for `fleet`.
pub fn sign<T: Document>(body: &T, keys: &[&SecretKey], fleet: &FleetId) -> Result<Vec<u8>, Refusal> {
    let mut envelope = seal(body)?;
    for key in keys {
        envelope.sign(key, &aad(&fleet.0));
    }
    let bytes = envelope.encode();
    if bytes.len() > T::MAX_BYTES {
        return refuse!(
            LimitExceeded,
            "{} has {} bytes, at most {} are allowed",
            T::KIND,
            bytes.len(),
            T::MAX_BYTES
        );
    }
    Ok(bytes)
}

fn envelope<T: Document>(bytes: &[u8]) -> Result<Envelope, Refusal> {
    if bytes.len() > T::MAX_BYTES {
        return refuse!(
            LimitExceeded,
            "{} has {} bytes, at most {} are allowed",
            T::KIND,
            bytes.len(),
            T::MAX_BYTES
        );
    }
    let envelope =
        Envelope::parse(bytes, T::MAX_BYTES).map_err(|e| Refusal::new(Code::Malformed, format!("{}: {e}", T::KIND)))?;
    if envelope.kind() != T::KIND {
        return refuse!(Malformed, "expected a {}, found a {}", T::KIND, envelope.kind());
    }
    Ok(envelope)
}

fn body<T: Document>(envelope: &Envelope) -> Result<T, Refusal> {
    let body: T = codec::decode_exact(envelope.payload(), T::MAX_ITEMS)
        .map_err(|e| Refusal::new(Code::Malformed, format!("{}: {e}", T::KIND)))?;
    body.check()?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::statements::Plan;

    /// Found by fuzzing: serde takes the name of a variant as a byte string too.
    #[test]
    fn a_document_has_one_spelling() {
        let envelope = Envelope::parse(include_bytes!("../testdata/plan-v1.cose"), Plan::MAX_BYTES).unwrap();
        let golden = envelope.payload().to_vec();
        let at = golden.windows(5).position(|w| w == b"\x64halt").unwrap();
        let mut other = golden.clone();
        other[at] = 0x44;
        let (key, fleet) = (SecretKey::from_seed([7; 32]), FleetId([1; 32]));
        let open_signed = |payload: Vec<u8>| {
            let mut envelope = Envelope::new(Plan::KIND, payload);
            envelope.sign(&key, &aad(&fleet.0));
            open::<Plan>(&envelope.encode(), &[key.public()], 1, &fleet)
        };
        assert!(open_signed(golden).is_ok());
        let refusal = open_signed(other).unwrap_err();
        assert_eq!(refusal.code, Code::Malformed);
        assert!(refusal.text.contains("another spelling"), "{refusal}");
    }
}
