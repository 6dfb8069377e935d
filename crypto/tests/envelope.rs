//! The envelope: one byte string per content, everything else refused, golden bytes.

#![expect(clippy::unwrap_used, reason = "constants of the tests")]

use ensign_crypto::{
    AddError, Envelope, EnvelopeError, KEY_BYTES, KeyId, MAX_SIGNATURES, PublicKey, SIGNATURE_BYTES, SecretKey,
    Signature, aad,
    cbor::{self, ScanError},
    require_threshold,
};
use proptest::{collection::vec, prelude::*};

/// Kind `plan`, payload `{"seq": 7, "product": "thermostat"}`, fleet id 32 × 0x0f, seeds 32 × 0x01 and 32 × 0x02. Made by an
/// independent implementation. Kept for ever: what was signed once must be read by every later version.
const GOLDEN: &[u8] = include_bytes!("../testdata/plan-two-signers.cbor");
const PAYLOAD: &[u8] = b"\xa2\x63seq\x07\x67product\x6athermostat";
const FLEET: [u8; 32] = [0x0f; 32];
const LIMIT: usize = 64 * 1024;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; KEY_BYTES])
}

fn publics() -> [PublicKey; 2] {
    [key(1).public(), key(2).public()]
}

fn signed() -> Envelope {
    let mut envelope = Envelope::new("plan", PAYLOAD.to_vec());
    envelope.sign(&key(1), &aad(&FLEET));
    envelope.sign(&key(2), &aad(&FLEET));
    envelope
}

fn stranger(number: u8) -> Signature {
    Signature {
        key: KeyId([number; KEY_BYTES]),
        bytes: [number; SIGNATURE_BYTES],
    }
}

/// The golden bytes with one part replaced.
fn with(from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = GOLDEN.windows(from.len()).position(|window| window == from).unwrap();
    [&GOLDEN[..at], to, &GOLDEN[at + from.len()..]].concat()
}

fn parse(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
    Envelope::parse(bytes, LIMIT)
}

#[test]
fn writes_and_reads_the_golden_bytes() {
    assert_eq!(hex::encode(signed().encode()), hex::encode(GOLDEN));
    let envelope = parse(GOLDEN).unwrap();
    assert_eq!(envelope, signed());
    assert_eq!(envelope.kind(), "plan");
    assert_eq!(envelope.payload(), PAYLOAD);
    assert_eq!(cbor::scan(envelope.payload(), cbor::Limits::default()), Ok(()));
    assert_eq!(
        hex::encode(envelope.payload_digest()),
        "bc609be265f635271d361f386c8616c5ccb5a79df05313dd1fc7236a7cd79c8e"
    );
    let signers = require_threshold(&envelope, &publics(), 2, &aad(&FLEET)).unwrap();
    assert_eq!(signers.len(), 2);
}

#[test]
fn every_flipped_bit_is_refused_or_breaks_a_signature() {
    for bit in 0..GOLDEN.len() * 8 {
        let mut bytes = GOLDEN.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(envelope) = parse(&bytes) {
            assert_eq!(envelope.encode(), bytes, "bit {bit} is read and not written");
            assert!(
                require_threshold(&envelope, &publics(), 2, &aad(&FLEET)).is_err(),
                "bit {bit} is covered by nothing"
            );
        }
    }
}

#[test]
fn every_truncation_and_any_addition_is_refused() {
    for length in 0..GOLDEN.len() {
        assert!(parse(&GOLDEN[..length]).is_err(), "{length} bytes");
    }
    let longer = [GOLDEN, &[0]].concat();
    assert_eq!(
        parse(&longer),
        Err(ScanError::TrailingBytes { offset: GOLDEN.len() }.into())
    );
}

#[test]
fn the_size_limit_comes_first() {
    let size = GOLDEN.len();
    assert_eq!(Envelope::parse(GOLDEN, size), Ok(signed()));
    assert_eq!(
        Envelope::parse(GOLDEN, size - 1),
        Err(EnvelopeError::TooLarge { size, limit: size - 1 })
    );
    assert_eq!(
        Envelope::parse(&[0xff; 9], 8),
        Err(EnvelopeError::TooLarge { size: 9, limit: 8 })
    );
}

#[test]
fn a_signature_covers_kind_payload_fleet_and_kid() {
    let good = signed();
    for (kind, payload, fleet) in [
        ("plam", PAYLOAD, FLEET),
        ("plan", b"\xa0".as_slice(), FLEET),
        ("plan", PAYLOAD, [0; 32]),
    ] {
        let mut moved = Envelope::new(kind, payload.to_vec());
        for signature in good.signatures() {
            moved.add(signature.clone()).unwrap();
        }
        assert!(
            require_threshold(&moved, &publics(), 1, &aad(&fleet)).is_err(),
            "{kind} {payload:?} {fleet:?}"
        );
    }
    let (one, two) = (key(1).public().id(), key(2).public().id());
    assert_ne!(good.signed_bytes(&one, b""), good.signed_bytes(&two, b""));
}

#[test]
fn the_order_of_signing_does_not_show() {
    let mut reversed = Envelope::new("plan", PAYLOAD.to_vec());
    reversed.sign(&key(2), &aad(&FLEET));
    reversed.sign(&key(1), &aad(&FLEET));
    assert_eq!(reversed, signed());

    let mut detached = Envelope::new("plan", PAYLOAD.to_vec());
    for signature in signed().signatures().iter().rev() {
        detached.add(signature.clone()).unwrap();
    }
    assert_eq!(detached, signed());
}

#[test]
fn signing_again_replaces() {
    let mut envelope = Envelope::new("plan", PAYLOAD.to_vec());
    let garbage = Signature {
        key: key(1).public().id(),
        bytes: [0; SIGNATURE_BYTES],
    };
    envelope.add(garbage).unwrap();
    envelope.sign(&key(2), &aad(&FLEET));
    envelope.sign(&key(1), &aad(&FLEET));
    assert_eq!(envelope, signed());
}

#[test]
fn adding_refuses_a_key_twice_and_a_full_envelope() {
    let mut envelope = Envelope::new("plan", PAYLOAD.to_vec());
    for number in 0..64 {
        envelope.add(stranger(number)).unwrap();
    }
    assert_eq!(
        envelope.add(stranger(3)),
        Err(AddError::DuplicateKey {
            key: KeyId([3; KEY_BYTES])
        })
    );
    assert_eq!(envelope.add(stranger(64)), Err(AddError::TooManySignatures));
    assert_eq!(envelope.signatures().len(), MAX_SIGNATURES);
    assert_eq!(parse(&envelope.encode()), Ok(envelope.clone()));

    envelope.sign(&key(1), b"");
    assert_eq!(
        parse(&envelope.encode()),
        Err(EnvelopeError::TooManySignatures { found: 65 })
    );
}

#[test]
fn a_claimed_count_costs_nothing() {
    let empty = Envelope::new("plan", PAYLOAD.to_vec()).encode();
    let (count, start) = empty.split_last().unwrap();
    assert_eq!(*count, 0x80);
    let huge = [start, &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat();
    assert_eq!(parse(&huge), Err(EnvelopeError::TooManySignatures { found: u64::MAX }));
}

#[test]
fn e21_refuses_a_kid_twice_and_signatures_out_of_order() {
    let encoded = |number: u8| {
        let signature = [
            &[0x83, 0x58, 0x26, 0xa2, 0x01, 0x32, 0x04, 0x58, 0x20][..],
            &[number; 32],
            &[0xa0, 0x58, 0x40],
            &[1; 64],
        ];
        signature.concat()
    };
    let start = [&Envelope::new("plan", PAYLOAD.to_vec()).encode()[..], &[]].concat();
    let start = &start[..start.len() - 1];
    let key = KeyId([5; KEY_BYTES]);
    let twice = [start, &[0x82], &encoded(5), &encoded(5)].concat();
    assert_eq!(parse(&twice), Err(EnvelopeError::DuplicateKey { key }));
    let unsorted = [start, &[0x82], &encoded(6), &encoded(5)].concat();
    assert_eq!(parse(&unsorted), Err(EnvelopeError::SignatureOrder { key }));
    let sorted = [start, &[0x82], &encoded(5), &encoded(6)].concat();
    assert_eq!(parse(&sorted).map(|envelope| envelope.signatures().len()), Ok(2));
}

/// Each line is a valid COSE or CBOR spelling of the same document that only a lenient parser would take.
#[test]
fn e33_refuses_other_spellings() {
    let body = b"\xa1\x03\x78\x20application/vnd.ensign.plan+cbor";
    let framed = [b"\x58\x24", &body[..]].concat();
    let kid = key(2).public().id().0;
    let header = [b"\x58\x26\xa2\x01\x32\x04\x58\x20", &kid[..]].concat();
    let other_header = |inner: &[u8]| {
        let length = u8::try_from(inner.len() + kid.len()).unwrap();
        with(&header, &[&[0x58, length], inner, &kid[..]].concat())
    };
    let shape = |bytes: &[u8]| matches!(parse(bytes), Err(EnvelopeError::Shape { .. }));
    let encoding = |bytes: &[u8]| matches!(parse(bytes), Err(EnvelopeError::Encoding(_)));

    assert!(shape(&GOLDEN[2..]), "no tag");
    assert!(shape(&with(b"\xd8\x62", b"\xd2")), "the tag of COSE_Sign1");
    assert!(shape(&with(b"\xd8\x62", b"\xd9\x00\x62")), "a long tag");
    assert!(shape(&with(b"\xd8\x62\x84", b"\xd8\x62\x9f")), "an indefinite array");
    assert!(
        encoding(&with(&framed, &[b"\x59\x00\x24", &body[..]].concat())),
        "a long length of the header"
    );
    assert!(
        encoding(&with(b"\x58\x19\xa2", b"\x59\x00\x19\xa2")),
        "a long length of the payload"
    );
    assert!(
        encoding(&with(b"\x78\x20appl", b"\x79\x00\x20appl")),
        "a header with a wrong length"
    );
    assert!(
        shape(&with(b"cbor\xa0", b"cbor\xa1\x04\x41\x00")),
        "an unprotected header"
    );
    assert!(
        shape(&with(
            &[&kid[..], &[0xa0]].concat(),
            &[&kid[..], &[0xa1, 0x04, 0x41, 0x00]].concat()
        )),
        "another one"
    );
    assert!(shape(&with(b"\xa0\x58\x19\xa2", b"\xa0\xf6\xa2")), "a detached payload");
    assert!(
        shape(&with(b"\xa0\x58\x19\xa2", b"\xa0\x78\x19\xa2")),
        "a payload of text"
    );
    assert!(
        encoding(&with(b"\x82\x83", b"\x98\x02\x83")),
        "a long count of signatures"
    );
    assert!(shape(&with(b"\x82\x83", b"\xa2\x83")), "a map of signatures");
    assert!(shape(&with(b"\x82\x83", b"\x82\x84")), "a signature of four parts");
    assert!(
        encoding(&with(b"\xa0\x58\x40", b"\xa0\x59\x00\x40")),
        "a long length of a signature"
    );

    for algorithm in [&[0x27][..], &[0x26], &[0x38, 0x12], &[0x39, 0x00, 0x12]] {
        let bytes = other_header(&[b"\xa2\x01", algorithm, b"\x04\x58\x20"].concat());
        assert_eq!(
            parse(&bytes),
            Err(EnvelopeError::Algorithm { index: 0 }),
            "{algorithm:?}"
        );
    }
    assert!(shape(&other_header(b"\xa2\x04\x58\x20")), "another order of keys");
    assert!(
        shape(&other_header(b"\xa3\x01\x32\x02\x80\x04\x58\x20")),
        "a critical header"
    );
    assert!(
        shape(&other_header(b"\xa2\x01\x32\x04\x59\x00\x20")),
        "a long length of the kid"
    );
    assert!(
        shape(&with(&header, &[b"\x58\x27", &header[2..], b"\x00"].concat())),
        "bytes after the kid"
    );
    let body_and_more = [b"\x58\x25", &body[..], b"\x00"].concat();
    assert_eq!(
        parse(&with(&framed, &body_and_more)),
        Err(ScanError::TrailingBytes { offset: 36 }.into())
    );
}

#[test]
fn refuses_signatures_and_kids_of_other_lengths() {
    let empty = Envelope::new("plan", PAYLOAD.to_vec()).encode();
    let start = &empty[..empty.len() - 1];
    for (kid, signature) in [(31, 64), (33, 64), (32, 63), (32, 65)] {
        let header = [&[0xa2, 0x01, 0x32, 0x04, 0x58, kid][..], &vec![7; usize::from(kid)]].concat();
        let length = u8::try_from(header.len()).unwrap();
        let bytes = [
            start,
            &[0x81, 0x83, 0x58, length],
            &header,
            &[0xa0, 0x58, signature],
            &vec![7; usize::from(signature)],
        ];
        assert!(
            matches!(parse(&bytes.concat()), Err(EnvelopeError::Shape { .. })),
            "{kid} {signature}"
        );
    }
}

#[test]
fn kinds_are_plain_names_of_our_own_types() {
    let long = "k".repeat(32);
    for kind in ["plan", "a", "release-2", "0", &long] {
        let bytes = Envelope::new(kind, Vec::new()).encode();
        assert_eq!(
            parse(&bytes).map(|envelope| envelope.kind().to_owned()),
            Ok(kind.to_owned())
        );
    }
    let too_long = format!("application/vnd.ensign.{}+cbor", "k".repeat(33));
    for content_type in [
        "application/vnd.ensign.+cbor",
        "application/vnd.ensign.Plan+cbor",
        "application/vnd.ensign.pl.an+cbor",
        "application/vnd.ensign.pl an+cbor",
        "application/vnd.ensign.plän+cbor",
        "application/vnd.ensign.plan+json",
        "application/vnd.ensign.plan",
        "application/vnd.insign.plan+cbor",
        "application/vnd.ensign+cbor",
        "text/vnd.ensign.plan+cbor",
        &too_long,
    ] {
        let length = u8::try_from(content_type.len()).unwrap();
        let start: &[u8] = if length < 24 {
            &[0xa1, 0x03, 0x60 | length]
        } else {
            &[0xa1, 0x03, 0x78, length]
        };
        let header = [start, content_type.as_bytes()].concat();
        let framed = [
            &[0xd8, 0x62, 0x84, 0x58, u8::try_from(header.len()).unwrap()],
            &header[..],
            &[0xa0, 0x40, 0x80],
        ]
        .concat();
        assert_eq!(parse(&framed), Err(EnvelopeError::ContentType), "{content_type}");
    }
    // A content type as a number (CoAP) is none of ours.
    assert_eq!(
        parse(&[0xd8, 0x62, 0x84, 0x43, 0xa1, 0x03, 0x18, 0xa0, 0x40, 0x80]).ok(),
        None
    );
}

#[test]
fn an_unsigned_document_reaches_no_threshold() {
    let unsigned = Envelope::new("plan", PAYLOAD.to_vec());
    assert_eq!(parse(&unsigned.encode()), Ok(unsigned.clone()));
    assert!(require_threshold(&unsigned, &publics(), 1, &aad(&FLEET)).is_err());
}

#[test]
fn the_external_data_names_version_and_fleet() {
    assert_eq!(aad(&FLEET), [&b"ensign/v1"[..], &FLEET[..]].concat());
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    // Payload sizes on both sides of every form of a length.
    let payload = prop_oneof![
        vec(any::<u8>(), 0..300),
        vec(any::<u8>(), 23..26),
        Just(vec![7; 0xffff]),
        Just(vec![7; 0x1_0000]),
    ];
    ("[a-z0-9-]{1,32}", payload, vec(any::<([u8; 32], [u8; 32])>(), 0..30)).prop_map(|(kind, payload, signatures)| {
        let mut envelope = Envelope::new(&kind, payload);
        for (kid, half) in signatures {
            let bytes = [half, half].concat().try_into().unwrap();
            envelope.add(Signature { key: KeyId(kid), bytes }).unwrap();
        }
        envelope
    })
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(envelope in envelopes()) {
        let bytes = envelope.encode();
        prop_assert_eq!(cbor::scan(&bytes[2..], cbor::Limits::default()), Ok(()));
        prop_assert_eq!(Envelope::parse(&bytes, bytes.len()), Ok(envelope));
    }

    #[test]
    fn what_is_read_is_written_the_same(
        envelope in envelopes(),
        cuts in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), vec(any::<u8>(), 0..4)), 1..4),
    ) {
        let mut bytes = envelope.encode();
        for (from, length, new) in cuts {
            let from = from.index(bytes.len() + 1);
            let to = (from + length.index(4)).min(bytes.len());
            bytes.splice(from..to, new);
        }
        if let Ok(read) = Envelope::parse(&bytes, usize::MAX) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn e75_garbage_never_panics(start in any::<bool>(), bytes in vec(any::<u8>(), 0..200)) {
        let bytes = if start { [&GOLDEN[..41], &bytes].concat() } else { bytes };
        if let Ok(read) = Envelope::parse(&bytes, usize::MAX) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }
}
