//! Ed25519 keys (RFC 8032), their ids, and the one place where a signature is checked.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{
    Signer as _, SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey as _, DecodePublicKey as _},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Bytes of a public key, of a seed, and of a key id.
pub const KEY_BYTES: usize = 32;
/// Bytes of a signature (RFC 8032 §5.1.6).
pub const SIGNATURE_BYTES: usize = 64;

/// What stands before the 32 key bytes in an Ed25519 SubjectPublicKeyInfo (RFC 8410 §4): 44 bytes of DER in all.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands before the 32 seed bytes in an Ed25519 PKCS#8 v1 document (RFC 8410 §7): 48 bytes of DER in all. Version 1
/// because every TLS stack and OpenSSL reads it.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// SHA-256 of a public key's SPKI (RFC 8410 DER). Device ids, kids and pins are all this one thing.
///
/// As text 64 lower-case hex digits, the only spelling that is read back; a byte string in CBOR.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; KEY_BYTES]);

/// An Ed25519 public key that is canonically encoded and not weak. Every way to make one checks this.
///
/// As text 64 lower-case hex digits, the only spelling that is read back; a byte string in CBOR.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

/// An Ed25519 private key. Wiped from memory when dropped; `Debug` shows the public key only.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

/// Why bytes or text are not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes.
    #[error("a key has {KEY_BYTES} bytes, this one has {found}")]
    Length {
        /// Bytes given.
        found: usize,
    },
    /// The y coordinate is not below 2^255 - 19 (RFC 8032 §5.1.3): a second spelling of another key.
    #[error("the key is not canonically encoded")]
    NotCanonical,
    /// No point of the curve has this encoding.
    #[error("the key is not a point of the curve")]
    NotOnCurve,
    /// A point of small order: it would accept signatures that nobody made.
    #[error("the key is weak (a point of small order)")]
    Weak,
    /// Not the DER of an Ed25519 SubjectPublicKeyInfo (RFC 8410 §4).
    #[error("not an Ed25519 public key in SPKI form")]
    Spki,
    /// Not a PEM text with the key that was asked for.
    #[error("not an Ed25519 {expected} in PEM form")]
    Pem {
        /// What was asked for: `public key` or `private key`.
        expected: &'static str,
    },
    /// Not 64 lower-case hex digits.
    #[error("not 64 lower-case hex digits")]
    Hex,
}

/// Whether `signature` is `key`'s signature over `message`: the only place where an Ed25519 signature outside TLS is checked.
///
/// Strict (RFC 8032 §5.1.7 without the cofactor): keys and R of small order, S ≥ L and non-canonical R are refused, so
/// nobody can make a second signature from a given one.
#[must_use]
pub fn verify(key: &PublicKey, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    #[cfg(feature = "counted")]
    crate::counted::note();
    VerifyingKey::from_bytes(&key.0).is_ok_and(|key| {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        key.verify_strict(message, &signature).is_ok()
    })
}

impl PublicKey {
    /// The key with these 32 bytes (RFC 8032 §5.1.5).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| KeyError::Length { found: bytes.len() })?;
        if !is_canonical(&bytes) {
            return Err(KeyError::NotCanonical);
        }
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::NotOnCurve)?;
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        Ok(Self(bytes))
    }

    /// The 32 bytes of RFC 8032 §5.1.5.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The SubjectPublicKeyInfo: 44 bytes of DER (RFC 8410 §4).
    pub fn to_spki(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0[..]].concat()
    }

    /// Reads exactly what [`Self::to_spki`] writes.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        Self::from_bytes(der.strip_prefix(&SPKI_PREFIX).ok_or(KeyError::Spki)?)
    }

    /// The SPKI as `PUBLIC KEY` PEM (RFC 7468 §13), with a final newline.
    pub fn to_pem(&self) -> String {
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(self.to_spki())
        )
    }

    /// Reads a `PUBLIC KEY` PEM (RFC 7468 §13).
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_public_key_pem(pem).map_err(|_| KeyError::Pem { expected: "public key" })?;
        Self::from_bytes(key.as_bytes())
    }

    /// The id of this key.
    pub fn id(&self) -> KeyId {
        KeyId(
            Sha256::new()
                .chain_update(SPKI_PREFIX)
                .chain_update(self.0)
                .finalize()
                .into(),
        )
    }
}

impl SecretKey {
    /// The key of a 32-byte seed (RFC 8032 §5.1.5). The seed must come from the system's random source.
    pub fn from_seed(seed: [u8; KEY_BYTES]) -> Self {
        let seed = Zeroizing::new(seed);
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads a `PRIVATE KEY` PEM: PKCS#8 version 1 or 2 (RFC 8410 §7); a public key inside must be the seed's own.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| KeyError::Pem {
            expected: "private key",
        })
    }

    /// PKCS#8 version 1 as `PRIVATE KEY` PEM (RFC 7468 §10), with a final newline. Not encrypted.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let body = Zeroizing::new(STANDARD.encode(self.to_pkcs8_der()));
        Zeroizing::new(format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            body.as_str()
        ))
    }

    /// PKCS#8 version 1: 48 bytes of DER (RFC 8410 §7). Not encrypted.
    pub fn to_pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&PKCS8_PREFIX[..], &self.seed()[..]].concat())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        // Never weak: the scalar is clamped, so it is no multiple of the group's order (RFC 8032 §5.1.5).
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The signature over `message` (RFC 8032 §5.1.6). Deterministic.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.0.sign(message).to_bytes()
    }

    /// The 32-byte seed the key is made from.
    pub fn seed(&self) -> Zeroizing<[u8; KEY_BYTES]> {
        Zeroizing::new(self.0.to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey")
            .field("public", &self.public())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        from_hex(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&from_hex(text)?)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_bytes(&deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// Whether y < p = 2^255 - 19. The top bit is the sign of x; the two points where it is meaningless (x = 0) are weak anyway.
fn is_canonical(bytes: &[u8; KEY_BYTES]) -> bool {
    let [low, middle @ .., high] = bytes;
    *low < 0xed || *high & 0x7f != 0x7f || middle.iter().any(|byte| *byte != 0xff)
}

/// One spelling only, so that ids can be compared as text.
fn from_hex(text: &str) -> Result<[u8; KEY_BYTES], KeyError> {
    let mut bytes = [0; KEY_BYTES];
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(KeyError::Hex);
    }
    hex::decode_to_slice(text, &mut bytes).map_err(|_| KeyError::Hex)?;
    Ok(bytes)
}

fn serialize<S: Serializer>(bytes: &[u8; KEY_BYTES], serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.serialize_str(&hex::encode(bytes))
    } else {
        serializer.serialize_bytes(bytes)
    }
}

fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; KEY_BYTES], D::Error> {
    if deserializer.is_human_readable() {
        deserializer.deserialize_str(KeyVisitor { text: true })
    } else {
        deserializer.deserialize_bytes(KeyVisitor { text: false })
    }
}

/// Takes hex text only from formats made for people. Bytes always: serde's buffered content (`flatten`, tagged enums)
/// calls itself human readable whatever it came from.
struct KeyVisitor {
    text: bool,
}

impl de::Visitor<'_> for KeyVisitor {
    type Value = [u8; KEY_BYTES];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.text {
            "64 lower-case hex digits"
        } else {
            "a string of 32 bytes"
        })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if self.text {
            from_hex(text).map_err(E::custom)
        } else {
            Err(E::invalid_type(de::Unexpected::Str(text), &self))
        }
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}
