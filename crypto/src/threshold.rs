//! Thresholds: how many distinct keys of a role really signed. Counted here and nowhere else.

use std::collections::BTreeSet;

use crate::{
    envelope::Envelope,
    key::{KeyId, PublicKey, verify},
};

/// Why a document does not count as signed by a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// A threshold of 0 would accept what nobody signed.
    #[error("a threshold of 0 asks for no signature at all")]
    Zero,
    /// The role has fewer distinct keys than its threshold.
    #[error("a threshold of {threshold} cannot be reached by {keys} distinct keys")]
    Unreachable {
        /// The threshold.
        threshold: u32,
        /// Distinct keys of the role.
        keys: usize,
    },
    /// Not enough valid signatures.
    #[error("{valid} of {needed} needed signatures are valid ({} of the role's keys do not match, {} are by other keys)", invalid.len(), unknown.len())]
    NotReached {
        /// The threshold.
        needed: u32,
        /// Distinct keys of the role with a valid signature.
        valid: usize,
        /// Keys of the role whose signature is there and wrong, sorted.
        invalid: Vec<KeyId>,
        /// Keys that signed and are not of the role, sorted. Their signatures were not checked.
        unknown: Vec<KeyId>,
    },
}

/// What keeps a threshold from being met, whatever the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall<K> {
    /// A threshold of 0.
    Zero,
    /// More than there are distinct keys.
    Unreachable {
        /// Distinct keys.
        keys: usize,
    },
    /// Not enough of the keys signed.
    NotReached {
        /// Those that did, sorted.
        valid: Vec<K>,
    },
}

/// The distinct keys for which `has_signed` holds, sorted, if there are at least `threshold` of them. Every threshold is
/// counted here; what equals counts once, so `K` must be the key itself and not a name for it.
pub fn meet_threshold<K: Ord>(
    keys: impl IntoIterator<Item = K>,
    threshold: u32,
    has_signed: impl Fn(&K) -> bool,
) -> Result<Vec<K>, Shortfall<K>> {
    let keys: BTreeSet<K> = keys.into_iter().collect();
    let needed = usize::try_from(threshold).unwrap_or(usize::MAX);
    if needed == 0 {
        return Err(Shortfall::Zero);
    }
    if needed > keys.len() {
        return Err(Shortfall::Unreachable { keys: keys.len() });
    }
    let valid: Vec<K> = keys.into_iter().filter(has_signed).collect();
    if valid.len() < needed {
        return Err(Shortfall::NotReached { valid });
    }
    Ok(valid)
}

/// The distinct keys among `keys` (by their bytes) with a valid signature on this envelope, sorted. Duplicates in `keys`
/// count once; invalid signatures and those of other keys are ignored.
#[must_use]
pub fn valid_signers(envelope: &Envelope, keys: &[PublicKey], aad: &[u8]) -> Vec<PublicKey> {
    let keys: BTreeSet<PublicKey> = keys.iter().copied().collect();
    keys.into_iter().filter(|key| has_signed(envelope, key, aad)).collect()
}

/// The distinct valid signers, sorted, if there are at least `threshold` of them.
///
/// A threshold of 0, or above the number of distinct keys, is an error whatever the signatures are.
pub fn require_threshold(
    envelope: &Envelope,
    keys: &[PublicKey],
    threshold: u32,
    aad: &[u8],
) -> Result<Vec<PublicKey>, ThresholdError> {
    let valid = match meet_threshold(keys.iter().copied(), threshold, |key| has_signed(envelope, key, aad)) {
        Ok(valid) => return Ok(valid),
        Err(Shortfall::Zero) => return Err(ThresholdError::Zero),
        Err(Shortfall::Unreachable { keys }) => return Err(ThresholdError::Unreachable { threshold, keys }),
        Err(Shortfall::NotReached { valid }) => valid,
    };
    let distinct: BTreeSet<KeyId> = keys.iter().map(PublicKey::id).collect();
    let good: BTreeSet<KeyId> = valid.iter().map(PublicKey::id).collect();
    let (ours, unknown): (Vec<KeyId>, Vec<KeyId>) = envelope
        .signatures()
        .iter()
        .map(|signature| signature.key)
        .partition(|key| distinct.contains(key));
    Err(ThresholdError::NotReached {
        needed: threshold,
        valid: valid.len(),
        invalid: ours.into_iter().filter(|key| !good.contains(key)).collect(),
        unknown,
    })
}

fn has_signed(envelope: &Envelope, key: &PublicKey, aad: &[u8]) -> bool {
    let kid = key.id();
    envelope
        .signatures()
        .iter()
        .filter(|signature| signature.key == kid)
        .any(|signature| verify(key, &envelope.signed_bytes(&kid, aad), &signature.bytes))
}
