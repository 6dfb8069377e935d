//! Keys and the one verification: the standards' vectors, their text forms, and everything a strict verifier refuses.

#![expect(clippy::unwrap_used, reason = "constants of the tests")]

use coset::cbor;
use ed25519_dalek::Verifier as _;
use ensign_crypto::{KEY_BYTES, KeyError, KeyId, PublicKey, SIGNATURE_BYTES, SecretKey, verify};

/// RFC 8032 §7.1, TEST 1 to 3: seed, public key, message, signature.
const RFC_8032: [[&str; 4]; 3] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
];

/// RFC 8410 §10.1 and §10.3: one key pair.
const RFC_8410_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
const RFC_8410_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";
/// RFC 8410 §10.3, the second form: version 2 with attributes and the public key.
const RFC_8410_PRIVATE_V2: &str = "-----BEGIN PRIVATE KEY-----
MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB
Z9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PRIVATE KEY-----
";

/// The points of order 1, 2, 4, 4, 8, 8, 8, 8.
const SMALL_ORDER: [&str; 8] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
];

/// Points of full order spelt with y + p, for y = 3, 4, 5, 6, 9, 10, 14, 15, 16, 18: the low byte is 0xed + y.
const SECOND_SPELLINGS: [u8; 10] = [3, 4, 5, 6, 9, 10, 14, 15, 16, 18];

fn bytes<const N: usize>(hex_text: &str) -> [u8; N] {
    hex::decode(hex_text).unwrap().try_into().unwrap()
}

fn secret() -> SecretKey {
    SecretKey::from_seed([1; KEY_BYTES])
}

#[test]
fn signs_and_verifies_the_vectors_of_rfc_8032() {
    for [seed, public, message, signature] in RFC_8032 {
        let key = SecretKey::from_seed(bytes(seed));
        let message = hex::decode(message).unwrap();
        assert_eq!(key.public().as_bytes(), &bytes(public));
        assert_eq!(key.sign(&message), bytes(signature));
        assert_eq!(*key.seed(), bytes(seed));
        assert!(verify(&key.public(), &message, &bytes(signature)));
    }
}

#[test]
fn refuses_every_flipped_bit_of_a_signature_and_any_other_message_or_key() {
    let (key, message) = (secret(), b"message");
    let good = key.sign(message);
    assert!(verify(&key.public(), message, &good));
    for bit in 0..SIGNATURE_BYTES * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!verify(&key.public(), message, &bad), "bit {bit}");
    }
    assert!(!verify(&key.public(), b"massage", &good));
    assert!(!verify(&SecretKey::from_seed([2; KEY_BYTES]).public(), message, &good));
}

#[test]
fn e26_refuses_s_plus_the_group_order() {
    /// L of RFC 8032 §5.1, little endian.
    const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
    let (key, message) = (secret(), b"message");
    let mut signature = key.sign(message);
    let mut carry = 0;
    for (byte, order) in signature[32..].iter_mut().zip(bytes::<32>(ORDER)) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    assert!(!verify(&key.public(), message, &signature));
}

#[test]
fn e26_refuses_an_r_of_small_order_that_lenient_verifiers_accept() {
    // R is the identity, S = H(R, A, M) · a: it satisfies the equation.
    let signature: [u8; SIGNATURE_BYTES] = bytes(
        "0100000000000000000000000000000000000000000000000000000000000000a8cbc417f8e24bf2fd37a45e6b7908a5285e69ef8a480e2dc00559aaa87ce209",
    );
    let (key, message) = (secret().public(), b"small order R");
    let lenient = ed25519_dalek::VerifyingKey::from_bytes(key.as_bytes()).unwrap();
    assert!(
        lenient
            .verify(message, &ed25519_dalek::Signature::from_bytes(&signature))
            .is_ok()
    );
    assert!(!verify(&key, message, &signature));
}

#[test]
fn e26_refuses_keys_of_small_order() {
    for weak in SMALL_ORDER {
        assert_eq!(PublicKey::from_bytes(&bytes::<32>(weak)), Err(KeyError::Weak), "{weak}");
    }
}

/// The identity as key and (B, 1) as signature would satisfy the equation for every message.
#[test]
fn refuses_the_forgery_by_the_identity_key() {
    let identity: [u8; KEY_BYTES] = bytes(SMALL_ORDER[0]);
    let mut signature = [0x66; SIGNATURE_BYTES];
    signature[0] = 0x58;
    signature[32..].fill(0);
    signature[32] = 1;
    let lenient = ed25519_dalek::VerifyingKey::from_bytes(&identity).unwrap();
    assert!(
        lenient
            .verify(b"anything", &ed25519_dalek::Signature::from_bytes(&signature))
            .is_ok()
    );
    assert_eq!(PublicKey::from_bytes(&identity), Err(KeyError::Weak));
    assert_eq!(PublicKey::from_spki(&spki(&identity)), Err(KeyError::Weak));
    assert_eq!(PublicKey::from_pem(&public_pem(&identity)), Err(KeyError::Weak));
    assert_eq!(hex::encode(identity).parse::<PublicKey>(), Err(KeyError::Weak));
    assert!(serde_json::from_value::<PublicKey>(hex::encode(identity).into()).is_err());
    assert!(from_cbor::<PublicKey>(&cbor::Value::Bytes(identity.to_vec())).is_err());
}

#[test]
fn refuses_the_second_spelling_of_a_key() {
    for y in SECOND_SPELLINGS {
        let mut canonical = [0; KEY_BYTES];
        canonical[0] = y;
        assert!(PublicKey::from_bytes(&canonical).is_ok(), "y = {y}");
        for sign in [0, 0x80] {
            let mut second = [0xff; KEY_BYTES];
            second[0] = 0xed + y;
            second[31] = 0x7f | sign;
            // The curve library takes it: the check is ours.
            assert!(!ed25519_dalek::VerifyingKey::from_bytes(&second).unwrap().is_weak());
            assert_eq!(PublicKey::from_bytes(&second), Err(KeyError::NotCanonical), "y = {y}");
        }
    }
}

/// y = p - 1 - k are canonical, however close to p.
#[test]
fn takes_keys_right_below_the_field_prime() {
    let accepted = (0..0xed)
        .filter(|low| {
            let mut key = [0xff; KEY_BYTES];
            key[0] = *low;
            key[31] = 0x7f;
            let found = PublicKey::from_bytes(&key);
            assert_ne!(found, Err(KeyError::NotCanonical), "low byte {low}");
            found.is_ok()
        })
        .count();
    assert!(accepted > 50, "about half of them are on the curve, not {accepted}");
}

#[test]
fn e23_refuses_what_is_no_point_and_wrong_lengths() {
    let mut no_point = [0; KEY_BYTES];
    no_point[0] = 2;
    assert_eq!(PublicKey::from_bytes(&no_point), Err(KeyError::NotOnCurve));
    for length in [0, 31, 33, 44] {
        assert_eq!(
            PublicKey::from_bytes(&vec![9; length]),
            Err(KeyError::Length { found: length })
        );
    }
}

#[test]
fn reads_and_writes_the_examples_of_rfc_8410() {
    let key = SecretKey::from_pem(RFC_8410_PRIVATE).unwrap();
    assert_eq!(key.to_pem().as_str(), RFC_8410_PRIVATE);
    assert_eq!(key.public().to_pem(), RFC_8410_PUBLIC);
    assert_eq!(PublicKey::from_pem(RFC_8410_PUBLIC), Ok(key.public()));
    assert_eq!(SecretKey::from_pem(RFC_8410_PRIVATE_V2).unwrap().public(), key.public());
    assert_eq!(key.to_pkcs8_der().len(), 48);
    assert_eq!(PublicKey::from_spki(&key.public().to_spki()), Ok(key.public()));
}

#[test]
fn refuses_other_documents() {
    let private = KeyError::Pem {
        expected: "private key",
    };
    let public = KeyError::Pem { expected: "public key" };
    assert_eq!(SecretKey::from_pem(RFC_8410_PUBLIC).unwrap_err(), private);
    assert_eq!(PublicKey::from_pem(RFC_8410_PRIVATE), Err(public.clone()));
    assert_eq!(SecretKey::from_pem("").unwrap_err(), private);
    assert_eq!(PublicKey::from_pem("MCow"), Err(public));
    // The public key inside belongs to another seed.
    let swapped = RFC_8410_PRIVATE_V2.replace("INTuctv5", "INTuctv6");
    assert_eq!(SecretKey::from_pem(&swapped).unwrap_err(), private);
    let der = secret().public().to_spki();
    assert_eq!(PublicKey::from_spki(&der[..43]), Err(KeyError::Length { found: 31 }));
    assert_eq!(
        PublicKey::from_spki(&[&der[..], &[0]].concat()),
        Err(KeyError::Length { found: 33 })
    );
    assert_eq!(PublicKey::from_spki(&der[1..]), Err(KeyError::Spki));
    // X25519 (1.3.101.110) has keys of the same size.
    let mut x25519 = der;
    x25519[8] = 0x6e;
    assert_eq!(PublicKey::from_spki(&x25519), Err(KeyError::Spki));
}

#[test]
fn an_id_is_the_digest_of_the_spki() {
    // Computed by an independent implementation.
    let expected = "fd110d301d2f077de1414b8f99f441b1403fab207b2052fbd2c065e4ee8e7dc2";
    assert_eq!(secret().public().id().to_string(), expected);
    assert_eq!(expected.parse(), Ok(secret().public().id()));
}

#[test]
fn text_forms_have_one_spelling() {
    let id = secret().public().id();
    let text = id.to_string();
    for bad in [
        text.to_uppercase(),
        text[1..].to_owned(),
        format!("{text}0"),
        format!(" {text}"),
        text.replace('0', "g"),
    ] {
        assert_eq!(bad.parse::<KeyId>(), Err(KeyError::Hex), "{bad}");
        assert_eq!(bad.parse::<PublicKey>(), Err(KeyError::Hex), "{bad}");
    }
    let key = secret().public();
    assert_eq!(key.to_string().parse(), Ok(key));
}

#[test]
fn serde_writes_hex_for_people_and_bytes_in_cbor() {
    let (key, id) = (secret().public(), secret().public().id());
    assert_eq!(serde_json::to_value(key).unwrap(), key.to_string());
    assert_eq!(serde_json::to_value(id).unwrap(), id.to_string());
    assert_eq!(
        serde_json::from_value::<PublicKey>(key.to_string().into()).unwrap(),
        key
    );
    assert_eq!(serde_json::from_value::<KeyId>(id.to_string().into()).unwrap(), id);

    let (key_value, id_value) = (
        cbor::Value::Bytes(key.as_bytes().to_vec()),
        cbor::Value::Bytes(id.0.to_vec()),
    );
    assert_eq!(cbor::Value::serialized(&key).unwrap(), key_value);
    assert_eq!(cbor::Value::serialized(&id).unwrap(), id_value);
    assert_eq!(from_cbor::<PublicKey>(&key_value).unwrap(), key);
    assert_eq!(from_cbor::<KeyId>(&id_value).unwrap(), id);

    assert!(
        from_cbor::<KeyId>(&cbor::Value::Text(id.to_string())).is_err(),
        "text in CBOR"
    );
    assert!(
        from_cbor::<KeyId>(&cbor::Value::Bytes(vec![0; 31])).is_err(),
        "too short"
    );
    assert!(
        from_cbor::<KeyId>(&cbor::Value::Bytes(vec![0; 33])).is_err(),
        "too long"
    );
}

#[test]
fn debug_keeps_the_secret() {
    let shown = format!("{:?} {:#?}", secret(), secret());
    assert!(shown.contains(&secret().public().to_string()));
    assert!(
        !shown.contains(&hex::encode([1; KEY_BYTES])) && !shown.contains("1, 1, 1"),
        "{shown}"
    );
}

/// Through real bytes: values in memory would not tell text and bytes apart the way a decoder does.
fn from_cbor<T: serde::de::DeserializeOwned>(value: &cbor::Value) -> Result<T, String> {
    let mut bytes = Vec::new();
    cbor::into_writer(value, &mut bytes).unwrap();
    cbor::from_reader(bytes.as_slice()).map_err(|error| error.to_string())
}

fn spki(key: &[u8; KEY_BYTES]) -> Vec<u8> {
    let mut der = secret().public().to_spki();
    der[12..].copy_from_slice(key);
    der
}

fn public_pem(key: &[u8; KEY_BYTES]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(spki(key));
    format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
}
