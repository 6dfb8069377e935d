//! The tree over a wave's devices (RFC 9162 §2.1): the plan signs its root and count, each device gets its own path.

use std::iter::successors;

use ensign_crypto::PublicKey;

use crate::digest::{DeviceId, Digest, Hasher};
use crate::limits;
use crate::reason::Refusal;
use crate::refuse;

/// What stands before a leaf and before an inner node, so that neither passes for the other (RFC 9162 §2.1.1).
const LEAF: [u8; 1] = [0x00];
const NODE: [u8; 1] = [0x01];

/// The leaf of a device: SHA-256(0x00 ‖ u32be wave ‖ device id ‖ receipt key). Waves count from 1.
pub fn leaf(wave: u32, device: &DeviceId, receipt_key: &PublicKey) -> Digest {
    let mut hasher = Hasher::new();
    hasher
        .update(&LEAF)
        .update(&wave.to_be_bytes())
        .update(&device.0)
        .update(receipt_key.as_bytes());
    hasher.finish()
}

/// The root over leaves in order; that of no leaves is SHA-256 of nothing.
pub fn root(leaves: &[Digest]) -> Digest {
    levels(leaves)
        .last()
        .and_then(|top| top.first().copied())
        .unwrap_or_else(|| Digest::of(b""))
}

/// The inclusion path of the leaf at `index`, from the leaf's sibling upwards; `None` outside the tree.
pub fn path(leaves: &[Digest], index: usize) -> Option<Vec<Digest>> {
    paths(leaves).nth(index)
}

/// The paths of all leaves, in order; the tree is hashed once.
pub fn paths(leaves: &[Digest]) -> impl Iterator<Item = Vec<Digest>> {
    let levels: Vec<Vec<Digest>> = levels(leaves).collect();
    (0..leaves.len()).map(move |index| {
        let siblings = levels.iter().enumerate();
        siblings
            .filter_map(|(height, level)| level.get((index >> height) ^ 1).copied())
            .collect()
    })
}

/// Refuses unless `leaf` is the one at `index` of the `count` leaves under `root`, by a path of exactly the length that index and
/// count give (RFC 9162 §2.1.3.2).
pub fn verify(root: &Digest, leaf: Digest, index: u32, count: u32, path: &[Digest]) -> Result<(), Refusal> {
    if index >= count {
        return refuse!(NotInPlan, "place {index} of a wave of {count}");
    }
    if path.len() > limits::PROOF_STEPS {
        return refuse!(
            LimitExceeded,
            "a proof of {} steps, at most {} are possible",
            path.len(),
            limits::PROOF_STEPS
        );
    }
    let (mut node, mut last, mut hash) = (index, count - 1, leaf);
    let mut rest = path.iter();
    while last > 0 {
        // The last node of a level with an odd number of them has no sibling: it goes up as it is.
        if node != last || node % 2 == 1 {
            let Some(sibling) = rest.next() else {
                return refuse!(
                    NotInPlan,
                    "the proof has {} steps, too few for place {index} of {count}",
                    path.len()
                );
            };
            hash = if node % 2 == 1 {
                inner(sibling, &hash)
            } else {
                inner(&hash, sibling)
            };
        }
        node /= 2;
        last /= 2;
    }
    if rest.next().is_some() {
        return refuse!(
            NotInPlan,
            "the proof has {} steps, too many for place {index} of {count}",
            path.len()
        );
    }
    if hash != *root {
        return refuse!(NotInPlan, "the proof ends at {hash}, the plan has {root}");
    }
    Ok(())
}

/// The levels of the tree from the leaves to its root. An odd last node goes up unchanged, which is RFC 9162's split at the largest
/// power of two.
fn levels(leaves: &[Digest]) -> impl Iterator<Item = Vec<Digest>> {
    successors(Some(leaves.to_vec()), |level| {
        (level.len() > 1).then(|| {
            level
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => inner(left, right),
                    [odd] => *odd,
                    _ => Digest::of(b""),
                })
                .collect()
        })
    })
}

fn inner(left: &Digest, right: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(&NODE).update(&left.0).update(&right.0);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 9162 §2.1.1, word for word.
    fn reference_root(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(b""),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                inner(&reference_root(&leaves[..split]), &reference_root(&leaves[split..]))
            }
        }
    }

    /// RFC 9162 §2.1.3.1, word for word.
    fn reference_path(leaves: &[Digest], index: usize) -> Vec<Digest> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let split = leaves.len().next_power_of_two() / 2;
        let (mut path, other) = if index < split {
            (
                reference_path(&leaves[..split], index),
                reference_root(&leaves[split..]),
            )
        } else {
            (
                reference_path(&leaves[split..], index - split),
                reference_root(&leaves[..split]),
            )
        };
        path.push(other);
        path
    }

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count).map(|n| Digest::of(&n.to_be_bytes())).collect()
    }

    #[test]
    fn every_small_tree_is_that_of_the_rfc() {
        for count in 0..70 {
            let leaves = leaves(count);
            assert_eq!(root(&leaves), reference_root(&leaves), "{count}");
            for index in 0..count {
                let path = path(&leaves, index).unwrap();
                assert_eq!(path, reference_path(&leaves, index), "{index} of {count}");
                let (i, c) = (u32::try_from(index).unwrap(), u32::try_from(count).unwrap());
                verify(&root(&leaves), leaves[index], i, c, &path).unwrap();
            }
            assert_eq!(path(&leaves, count), None);
        }
    }

    #[test]
    fn a_leaf_binds_wave_device_and_key() {
        let key = |seed| ensign_crypto::SecretKey::from_seed([seed; 32]).public();
        let all = [
            leaf(1, &DeviceId([1; 32]), &key(1)),
            leaf(2, &DeviceId([1; 32]), &key(1)),
            leaf(1, &DeviceId([2; 32]), &key(1)),
            leaf(1, &DeviceId([1; 32]), &key(2)),
        ];
        assert_eq!(std::collections::BTreeSet::from(all).len(), all.len());
    }

    proptest! {
        #[test]
        fn any_other_place_count_leaf_or_path_is_refused(count in 2usize..300, at in 0usize..300, other in 0usize..300, flip in 0usize..9) {
            let leaves = leaves(count);
            let (at, other) = (at % count, other % count);
            let top = root(&leaves);
            let proof = path(&leaves, at).unwrap();
            let (index, total) = (u32::try_from(at).unwrap(), u32::try_from(count).unwrap());
            if other != at {
                prop_assert!(verify(&top, leaves[other], index, total, &proof).is_err());
                prop_assert!(verify(&top, leaves[at], u32::try_from(other).unwrap(), total, &proof).is_err());
            }
            prop_assert!(verify(&top, leaves[at], index, index, &proof).is_err());
            prop_assert!(verify(&top, leaves[at], index, total, &proof[1..]).is_err());
            let mut longer = proof.clone();
            longer.push(top);
            prop_assert!(verify(&top, leaves[at], index, total, &longer).is_err());
            let mut wrong = proof.clone();
            let step = flip % wrong.len();
            wrong[step].0[flip] ^= 1;
            prop_assert!(verify(&top, leaves[at], index, total, &wrong).is_err());
        }
    }
}
