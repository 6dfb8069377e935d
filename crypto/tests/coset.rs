//! The envelope is COSE: an independent implementation reads ours and writes what we read.

use coset::{
    CoseSign, CoseSignBuilder, CoseSignatureBuilder, Header, HeaderBuilder, TaggedCborSerializable as _, iana,
};
use ensign_crypto::{Envelope, EnvelopeError, KEY_BYTES, PublicKey, SecretKey, aad, require_threshold, verify};

const PAYLOAD: &[u8] = b"\xa1\x61a\x01";
const FLEET: [u8; 32] = [3; 32];

/// In the order of their ids, which is the order of the signatures.
fn keys() -> Vec<SecretKey> {
    let mut keys: Vec<SecretKey> = (1..=3).map(|seed| SecretKey::from_seed([seed; KEY_BYTES])).collect();
    keys.sort_by_key(|key| key.public().id());
    keys
}

fn publics() -> Vec<PublicKey> {
    keys().iter().map(SecretKey::public).collect()
}

fn body() -> Header {
    HeaderBuilder::new()
        .content_type("application/vnd.ensign.grant+cbor".to_owned())
        .build()
}

fn by(key: &SecretKey, algorithm: iana::Algorithm) -> Header {
    HeaderBuilder::new()
        .algorithm(algorithm)
        .key_id(key.public().id().0.to_vec())
        .build()
}

fn made_by_coset(algorithm: iana::Algorithm, unprotected: &Header) -> CoseSign {
    let start = CoseSignBuilder::new().protected(body()).payload(PAYLOAD.to_vec());
    let builder = keys().iter().fold(start, |builder, key| {
        let signature = CoseSignatureBuilder::new()
            .protected(by(key, algorithm))
            .unprotected(unprotected.clone())
            .build();
        builder.add_created_signature(signature, &aad(&FLEET), |message| key.sign(message).to_vec())
    });
    builder.build()
}

#[test]
fn coset_reads_and_verifies_ours() {
    let mut ours = Envelope::new("grant", PAYLOAD.to_vec());
    for key in keys() {
        ours.sign(&key, &aad(&FLEET));
    }
    let theirs = CoseSign::from_tagged_slice(&ours.encode()).unwrap();
    assert_eq!(theirs.payload.as_deref(), Some(PAYLOAD));
    assert_eq!(theirs.protected.header, body());
    assert_eq!(theirs.signatures.len(), 3);
    for (index, key) in keys().iter().enumerate() {
        let signature = &theirs.signatures[index];
        assert_eq!(signature.protected.header, by(key, iana::Algorithm::Ed25519));
        assert_eq!(
            theirs.tbs_data(&aad(&FLEET), signature),
            ours.signed_bytes(&key.public().id(), &aad(&FLEET))
        );
        let verified = theirs.verify_signature(index, &aad(&FLEET), |signature, message| {
            let signature = signature.try_into().unwrap();
            if verify(&key.public(), message, signature) {
                Ok(())
            } else {
                Err("invalid")
            }
        });
        assert_eq!(verified, Ok(()));
    }
}

#[test]
fn we_read_and_verify_what_coset_writes() {
    let theirs = made_by_coset(iana::Algorithm::Ed25519, &Header::default());
    let bytes = theirs.clone().to_tagged_vec().unwrap();
    let ours = Envelope::parse(&bytes, bytes.len()).unwrap();
    assert_eq!((ours.kind(), ours.payload()), ("grant", PAYLOAD));
    assert_eq!(ours.encode(), bytes);
    let signers = require_threshold(&ours, &publics(), 3, &aad(&FLEET)).unwrap();
    assert_eq!(signers.len(), 3);
}

#[test]
fn e35_we_refuse_the_freedom_that_cose_gives() {
    let parse = |sign: CoseSign| {
        let bytes = sign.to_tagged_vec().unwrap();
        Envelope::parse(&bytes, bytes.len())
    };
    // EdDSA (-8) leaves the curve to the key; RFC 9864 deprecates it.
    let deprecated = made_by_coset(iana::Algorithm::EdDSA, &Header::default());
    assert_eq!(parse(deprecated), Err(EnvelopeError::Algorithm { index: 0 }));

    let hint = HeaderBuilder::new().key_id(b"hint".to_vec()).build();
    let unprotected = made_by_coset(iana::Algorithm::Ed25519, &hint);
    assert!(matches!(parse(unprotected), Err(EnvelopeError::Shape { .. })));

    let mut detached = made_by_coset(iana::Algorithm::Ed25519, &Header::default());
    detached.payload = None;
    assert!(matches!(parse(detached), Err(EnvelopeError::Shape { .. })));

    let mut unsorted = made_by_coset(iana::Algorithm::Ed25519, &Header::default());
    unsorted.signatures.swap(0, 1);
    assert!(matches!(parse(unsorted), Err(EnvelopeError::SignatureOrder { .. })));
}
