//! Grants that are signed anew: the same words with other signatures, once root has dropped a key or asks for more of them.

use ensign_bundle::digest::Digest;
use ensign_bundle::plan::statements::Grant;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement;
use ensign_crypto::{PublicKey, aad, valid_signers};

use super::state::State;

/// What an offered grant is to the stored one.
pub(super) enum Anew {
    /// It says something else.
    Other,
    /// The same, and no signature that counts is new.
    Same,
    /// The same: the stored one with the new signatures.
    Signed(Vec<u8>),
}

impl State {
    /// The stored grant with those signatures of the offered one that deploy keys of today's root made. Whether they are enough
    /// is counted where the grant is used, so several people may bring theirs one after the other.
    pub(super) fn signed_anew(&self, stored: &Digest, offered: &[u8]) -> Result<Anew, Refusal> {
        let mut held = statement::open_unverified::<Grant>(&self.document(stored)?)?;
        let offered = statement::open_unverified::<Grant>(offered)?;
        if held.digest() != offered.digest() {
            return Ok(Anew::Other);
        }
        let scopes = &self.roles.root().scopes;
        let keys: Vec<PublicKey> = scopes.iter().flat_map(|s| s.role.keys.iter().copied()).collect();
        let fleet = aad(&self.fleet.fleet.0);
        let known = valid_signers(&held.envelope, &keys, &fleet);
        let mut added = false;
        for key in valid_signers(&offered.envelope, &keys, &fleet) {
            let signature = offered.envelope.signatures().iter().find(|s| s.key == key.id());
            if let Some(signature) = signature
                && !known.contains(&key)
            {
                held.envelope
                    .add(signature.clone())
                    .map_err(|e| Refusal::new(Code::LimitExceeded, e.to_string()))?;
                added = true;
            }
        }
        Ok(if added {
            Anew::Signed(held.envelope.encode())
        } else {
            Anew::Same
        })
    }
}
