//! The scanner against each rule of RFC 8949 §4.2.1, and against an independent encoder as the judge of whole documents.

#![expect(clippy::unwrap_used, reason = "encoding into memory")]

use coset::cbor::Value;
use ensign_crypto::cbor::{Limits, ScanError, scan, scan_sequence};
use proptest::{collection::vec, prelude::*};

fn check(bytes: &[u8]) -> Result<(), ScanError> {
    scan(bytes, Limits::default())
}

#[test]
fn accepts_the_deterministic_examples_of_rfc_8949() {
    // Appendix A, without floats, tags, undefined and what is not in its shortest or definite form.
    for text in [
        "00",
        "01",
        "0a",
        "17",
        "1818",
        "1819",
        "1864",
        "1903e8",
        "1a000f4240",
        "1b000000e8d4a51000",
        "1bffffffffffffffff",
        "3bffffffffffffffff",
        "20",
        "29",
        "3863",
        "3903e7",
        "f4",
        "f5",
        "f6",
        "40",
        "4401020304",
        "60",
        "6161",
        "6449455446",
        "62225c",
        "62c3bc",
        "63e6b0b4",
        "64f0908591",
        "80",
        "83010203",
        "8301820203820405",
        "98190102030405060708090a0b0c0d0e0f101112131415161718181819",
        "a0",
        "a201020304",
        "a26161016162820203",
        "826161a161626163",
        "a56161614161626142616361436164614461656145",
    ] {
        assert_eq!(check(&hex::decode(text).unwrap()), Ok(()), "{text}");
    }
}

#[test]
fn refuses_each_rule_broken_and_says_where() {
    use ScanError::*;
    for (text, error) in [
        // Shortest form, in every width and every major type that has a number.
        ("1817", NotShortest { offset: 0 }),
        ("1900ff", NotShortest { offset: 0 }),
        ("1a0000ffff", NotShortest { offset: 0 }),
        ("1b00000000ffffffff", NotShortest { offset: 0 }),
        ("3800", NotShortest { offset: 0 }),
        ("820058021234", NotShortest { offset: 2 }),
        ("780161", NotShortest { offset: 0 }),
        ("980100", NotShortest { offset: 0 }),
        ("b8010000", NotShortest { offset: 0 }),
        // Indefinite lengths and a stray break.
        ("5f4100ff", Indefinite { offset: 0 }),
        ("7f6161ff", Indefinite { offset: 0 }),
        ("9fff", Indefinite { offset: 0 }),
        ("bfff", Indefinite { offset: 0 }),
        ("81ff", Indefinite { offset: 1 }),
        // Not well-formed.
        ("1c", Reserved { offset: 0 }),
        ("3d", Reserved { offset: 0 }),
        ("fe", Reserved { offset: 0 }),
        // Tags, also of big numbers and of the encoded-CBOR kind.
        ("c074323031332d30332d32315432303a30343a30305a", Tag { offset: 0 }),
        ("c249010000000000000000", Tag { offset: 0 }),
        ("81d8184164", Tag { offset: 1 }),
        ("d9d9f700", Tag { offset: 0 }),
        // Floats, undefined, other simple values, and true in two bytes.
        ("f90000", Simple { offset: 0 }),
        ("fa47c35000", Simple { offset: 0 }),
        ("fb3ff199999999999a", Simple { offset: 0 }),
        ("f7", Simple { offset: 0 }),
        ("e0", Simple { offset: 0 }),
        ("f3", Simple { offset: 0 }),
        ("f818", Simple { offset: 0 }),
        ("f815", Simple { offset: 0 }),
        // Text that is not UTF-8: a lone continuation, an overlong slash, a surrogate.
        ("6180", NotUtf8 { offset: 0 }),
        ("8162c0af", NotUtf8 { offset: 1 }),
        ("63eda080", NotUtf8 { offset: 0 }),
        // Map keys: twice, out of order; bytewise on the encoded form, so 10 < 100 < -1 < "z" < "aa".
        ("a201000100", DuplicateKey { offset: 3 }),
        ("a2616100616100", DuplicateKey { offset: 4 }),
        ("a202000100", KeyOrder { offset: 3 }),
        ("a262616100617a00", KeyOrder { offset: 5 }),
        ("a3010002000200", DuplicateKey { offset: 5 }),
        ("81a22000186400", KeyOrder { offset: 4 }),
        ("a2810200810100", KeyOrder { offset: 4 }),
        // The end.
        ("", Truncated { offset: 0 }),
        ("18", Truncated { offset: 0 }),
        ("1b00000000000000", Truncated { offset: 0 }),
        ("4200", Truncated { offset: 0 }),
        ("8200", Truncated { offset: 2 }),
        ("a100", Truncated { offset: 2 }),
        ("0000", TrailingBytes { offset: 1 }),
        ("8000", TrailingBytes { offset: 1 }),
    ] {
        assert_eq!(check(&hex::decode(text).unwrap()), Err(error), "{text}");
    }
    assert_eq!(
        check(&hex::decode("a50a0018640020000000617a00").unwrap()),
        Err(KeyOrder { offset: 8 })
    );
    assert_eq!(check(&hex::decode("a50a001864002000617a0062616100").unwrap()), Ok(()));
}

#[test]
fn a_claimed_length_costs_nothing() {
    for major in [0x5b, 0x7b, 0x9b, 0xbb] {
        for length in [u64::MAX, 1 << 63, 1 << 32] {
            let mut bytes = vec![major];
            bytes.extend(length.to_be_bytes());
            assert!(
                matches!(check(&bytes), Err(ScanError::Truncated { .. })),
                "{major:x} {length}"
            );
        }
    }
}

#[test]
fn e32_depth_counts_arrays_and_maps() {
    let nested = |depth: usize| [vec![0x81; depth], vec![0]].concat();
    let limits = Limits::default();
    assert_eq!((limits.max_depth, limits.max_items), (12, 100_000));
    assert_eq!(check(&nested(12)), Ok(()));
    assert_eq!(check(&nested(13)), Err(ScanError::TooDeep { offset: 12, limit: 12 }));
    // Maps too, in values and in keys.
    let flat = Limits { max_depth: 1, ..limits };
    assert_eq!(scan(&[0xa1, 0x00, 0x00], flat), Ok(()));
    assert_eq!(
        scan(&[0xa1, 0x00, 0xa0], flat),
        Err(ScanError::TooDeep { offset: 2, limit: 1 })
    );
    assert_eq!(
        scan(&[0xa1, 0x80, 0x00], flat),
        Err(ScanError::TooDeep { offset: 1, limit: 1 })
    );
    assert_eq!(scan(&[0x00], Limits { max_depth: 0, ..limits }), Ok(()));
    // Siblings do not add up.
    assert_eq!(scan(&[0x82, 0x80, 0x80], Limits { max_depth: 2, ..limits }), Ok(()));
}

#[test]
fn e32_items_count_containers_keys_and_values() {
    let bytes = [0x82, 0xa1, 0x00, 0x01, 0x02];
    let limit = |max_items| Limits {
        max_items,
        ..Limits::default()
    };
    assert_eq!(scan(&bytes, limit(5)), Ok(()));
    assert_eq!(
        scan(&bytes, limit(4)),
        Err(ScanError::TooManyItems { offset: 4, limit: 4 })
    );
    assert_eq!(
        scan(&[0], limit(0)),
        Err(ScanError::TooManyItems { offset: 0, limit: 0 })
    );
    // A sequence shares the limit among its items.
    assert_eq!(scan_sequence(&[0, 0, 0], limit(3)), Ok(3));
    assert_eq!(
        scan_sequence(&[0, 0, 0], limit(2)),
        Err(ScanError::TooManyItems { offset: 2, limit: 2 })
    );
}

#[test]
fn sequences_hold_any_number_of_items() {
    let sequence = |bytes: &[u8]| scan_sequence(bytes, Limits::default());
    assert_eq!(sequence(&[]), Ok(0));
    assert_eq!(sequence(&[0x80]), Ok(1));
    assert_eq!(sequence(&[0x82, 0x01, 0x02, 0xa0, 0x61, 0x61]), Ok(3));
    assert_eq!(sequence(&[0x00, 0x18]), Err(ScanError::Truncated { offset: 1 }));
    assert_eq!(sequence(&[0x00, 0xff]), Err(ScanError::Indefinite { offset: 1 }));
}

/// The judge: another encoder, with the one thing sorted that it leaves to its caller.
fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    coset::cbor::into_writer(&sorted(value), &mut bytes).unwrap();
    bytes
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Map(entries) => {
            let mut entries: Vec<(Value, Value)> = entries
                .iter()
                .map(|(key, value)| (sorted(key), sorted(value)))
                .collect();
            entries.sort_by_key(|(key, _)| encode(key));
            entries.dedup_by_key(|(key, _)| encode(key));
            Value::Map(entries)
        }
        other => other.clone(),
    }
}

/// Whether the bytes are what the judge would write for what it reads, with nothing in it that we leave out.
fn judge(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let Ok(value) = coset::cbor::from_reader::<Value, _>(&mut rest) else {
        return false;
    };
    rest.is_empty() && plain(&value) && encode(&value) == bytes
}

fn plain(value: &Value) -> bool {
    match value {
        Value::Integer(number) => (-(1_i128 << 64)..1 << 64).contains(&i128::from(*number)),
        Value::Bytes(_) | Value::Text(_) | Value::Bool(_) | Value::Null => true,
        Value::Array(items) => items.iter().all(plain),
        Value::Map(entries) => entries.iter().all(|(key, value)| plain(key) && plain(value)),
        _ => false,
    }
}

fn values() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<u64>(),
        0..300_u64,
        Just(0xffff),
        Just(0x1_0000),
        Just(0xffff_ffff),
        Just(1 << 32)
    ];
    let leaf = prop_oneof![
        number.clone().prop_map(Value::from),
        number.prop_map(|number| Value::from(-1 - i64::try_from(number >> 1).unwrap())),
        vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        Just(Value::Bytes(vec![0; 256])),
        ".{0,12}".prop_map(Value::Text),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null),
    ];
    leaf.prop_recursive(5, 60, 30, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..30).prop_map(Value::Array),
            vec((inner.clone(), inner), 0..8).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn accepts_all_that_the_judge_writes(values in vec(values(), 0..4)) {
        let encoded: Vec<Vec<u8>> = values.iter().map(encode).collect();
        for bytes in &encoded {
            prop_assert_eq!(check(bytes), Ok(()));
        }
        prop_assert_eq!(scan_sequence(&encoded.concat(), Limits::default()), Ok(values.len()));
    }

    #[test]
    fn agrees_with_the_judge_on_damaged_documents(
        value in values(),
        damage in vec((any::<prop::sample::Index>(), 0..3_usize, vec(any::<u8>(), 0..3)), 1..3),
    ) {
        let mut bytes = encode(&value);
        for (from, length, new) in damage {
            let from = from.index(bytes.len() + 1);
            let to = (from + length).min(bytes.len());
            bytes.splice(from..to, new);
        }
        prop_assert_eq!(check(&bytes).is_ok(), judge(&bytes), "{}", hex::encode(&bytes));
    }

    #[test]
    fn agrees_with_the_judge_on_garbage(bytes in vec(any::<u8>(), 0..12)) {
        prop_assert_eq!(check(&bytes).is_ok(), judge(&bytes), "{}", hex::encode(&bytes));
    }

    #[test]
    fn refuses_every_truncation(value in values()) {
        let bytes = encode(&value);
        for length in 0..bytes.len() {
            prop_assert!(matches!(check(&bytes[..length]), Err(ScanError::Truncated { .. })), "{length}");
        }
    }

    #[test]
    fn refuses_entries_out_of_order(value in values(), left in any::<u64>(), right in any::<u64>()) {
        prop_assume!(left != right);
        let entry = |key: u64| [encode(&Value::from(key)), encode(&value)].concat();
        let [first, second] = if encode(&Value::from(left)) < encode(&Value::from(right)) { [left, right] } else { [right, left] };
        prop_assert_eq!(check(&[&[0xa2][..], &entry(first), &entry(second)].concat()), Ok(()));
        let swapped = check(&[&[0xa2][..], &entry(second), &entry(first)].concat());
        prop_assert!(matches!(swapped, Err(ScanError::KeyOrder { .. })), "keys swapped");
        let twice = check(&[&[0xa2][..], &entry(first), &entry(first)].concat());
        prop_assert!(matches!(twice, Err(ScanError::DuplicateKey { .. })), "one key twice");
    }
}
