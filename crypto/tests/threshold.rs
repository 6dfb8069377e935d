//! Thresholds count distinct keys with valid signatures, and nothing else.

use ensign_crypto::{
    Envelope, KEY_BYTES, KeyId, PublicKey, SIGNATURE_BYTES, SecretKey, Signature, ThresholdError, aad,
    require_threshold, valid_signers,
};

const FLEET: [u8; 32] = [9; 32];

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; KEY_BYTES])
}

fn publics<const N: usize>(seeds: [u8; N]) -> [PublicKey; N] {
    seeds.map(|seed| key(seed).public())
}

fn ids<const N: usize>(seeds: [u8; N]) -> Vec<KeyId> {
    let mut ids = seeds.map(|seed| key(seed).public().id()).to_vec();
    ids.sort();
    ids
}

fn signed_by<const N: usize>(seeds: [u8; N]) -> Envelope {
    let mut envelope = Envelope::new("root", b"\xa0".to_vec());
    for seed in seeds {
        envelope.sign(&key(seed), &aad(&FLEET));
    }
    envelope
}

/// As [`signed_by`], and one more signature that is wrong.
fn with_bad<const N: usize>(seeds: [u8; N], bad: u8) -> Envelope {
    let mut envelope = signed_by(seeds);
    let bad = Signature {
        key: key(bad).public().id(),
        bytes: [7; SIGNATURE_BYTES],
    };
    assert_eq!(envelope.add(bad), Ok(()));
    envelope
}

#[test]
fn enough_signers_are_returned_sorted() {
    let mut expected = publics([1, 2, 3]).to_vec();
    expected.sort();
    let envelope = signed_by([3, 1, 2]);
    assert_eq!(
        require_threshold(&envelope, &publics([1, 2, 3, 4]), 3, &aad(&FLEET)),
        Ok(expected.clone())
    );
    assert_eq!(valid_signers(&envelope, &publics([2, 3, 1]), &aad(&FLEET)), expected);
    // More than enough is fine and all of them are named.
    assert_eq!(
        require_threshold(&envelope, &publics([1, 2, 3]), 1, &aad(&FLEET)),
        Ok(expected)
    );
}

#[test]
fn e22_a_key_listed_twice_counts_once() {
    let envelope = signed_by([1]);
    let twice = publics([1, 1, 2]);
    assert_eq!(valid_signers(&envelope, &twice, &aad(&FLEET)), publics([1]));
    assert_eq!(
        require_threshold(&envelope, &twice, 2, &aad(&FLEET)),
        Err(ThresholdError::NotReached {
            needed: 2,
            valid: 1,
            invalid: vec![],
            unknown: vec![]
        })
    );
    // Nor does it make a threshold reachable.
    assert_eq!(
        require_threshold(&envelope, &publics([1, 1]), 2, &aad(&FLEET)),
        Err(ThresholdError::Unreachable { threshold: 2, keys: 1 })
    );
}

#[test]
fn a_bad_signature_beside_enough_good_ones_is_ignored() {
    let mut expected = publics([1, 2]).to_vec();
    expected.sort();
    let envelope = with_bad([1, 2], 3);
    assert_eq!(
        require_threshold(&envelope, &publics([1, 2, 3]), 2, &aad(&FLEET)),
        Ok(expected)
    );
}

#[test]
fn a_bad_signature_does_not_count() {
    let envelope = with_bad([1, 8, 9], 3);
    assert_eq!(
        require_threshold(&envelope, &publics([1, 2, 3]), 2, &aad(&FLEET)),
        Err(ThresholdError::NotReached {
            needed: 2,
            valid: 1,
            invalid: ids([3]),
            unknown: ids([8, 9])
        })
    );
}

#[test]
fn one_signature_under_another_kid_does_not_count() {
    let mut envelope = signed_by([1]);
    let stolen = envelope.signatures().first().map(|signature| signature.bytes);
    let stolen = Signature {
        key: key(2).public().id(),
        bytes: stolen.unwrap_or([0; SIGNATURE_BYTES]),
    };
    assert_eq!(envelope.add(stolen), Ok(()));
    assert_eq!(valid_signers(&envelope, &publics([1, 2]), &aad(&FLEET)), publics([1]));
}

#[test]
fn strangers_do_not_count() {
    let envelope = signed_by([1, 2]);
    assert_eq!(
        require_threshold(&envelope, &publics([3]), 1, &aad(&FLEET)),
        Err(ThresholdError::NotReached {
            needed: 1,
            valid: 0,
            invalid: vec![],
            unknown: ids([1, 2])
        })
    );
}

#[test]
fn e20_thresholds_that_mean_nothing_are_errors() {
    let envelope = signed_by([1, 2]);
    let keys = publics([1, 2]);
    assert_eq!(
        require_threshold(&envelope, &keys, 0, &aad(&FLEET)),
        Err(ThresholdError::Zero)
    );
    assert_eq!(
        require_threshold(&envelope, &[], 0, &aad(&FLEET)),
        Err(ThresholdError::Zero)
    );
    for threshold in [3, u32::MAX] {
        let error = ThresholdError::Unreachable { threshold, keys: 2 };
        assert_eq!(require_threshold(&envelope, &keys, threshold, &aad(&FLEET)), Err(error));
    }
    assert!(require_threshold(&envelope, &keys, 2, &aad(&FLEET)).is_ok());
}

#[test]
fn a_signature_of_another_fleet_does_not_count() {
    let envelope = signed_by([1, 2]);
    assert!(valid_signers(&envelope, &publics([1, 2]), &aad(&[8; 32])).is_empty());
    assert!(valid_signers(&envelope, &publics([1, 2]), b"").is_empty());
}

#[test]
fn the_error_says_what_is_missing() {
    let error = require_threshold(&with_bad([1, 9], 3), &publics([1, 2, 3]), 2, &aad(&FLEET))
        .map_err(|error| error.to_string());
    let expected = "1 of 2 needed signatures are valid (1 of the role's keys do not match, 1 are by other keys)";
    assert_eq!(error, Err(expected.to_owned()));
}
