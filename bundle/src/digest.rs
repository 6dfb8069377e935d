//! SHA-256 digests and other 32-byte values, each a type of its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Text that is not `N` bytes of lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {bytes} bytes of hexadecimal")]
pub struct NotHex {
    pub text: String,
    pub bytes: usize,
}

/// Fixed-length byte values: a byte string in CBOR, lower-case hexadecimal for people and JSON.
macro_rules! byte_value {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Length, bytes.
            pub const BYTES: usize = $bytes;

            /// The raw bytes; `Display` writes them in lower-case hexadecimal.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = NotHex;

            fn from_str(text: &str) -> Result<Self, NotHex> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| NotHex { text: text.to_owned(), bytes: $bytes })?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = NotHex;

            fn try_from(bytes: &[u8]) -> Result<Self, NotHex> {
                bytes.try_into().map(Self).map_err(|_| NotHex { text: hex::encode(bytes), bytes: $bytes })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
                    Self::try_from(bytes.as_slice()).map_err(serde::de::Error::custom)
                }
            }
        }
    };
}

byte_value!(
    /// SHA-256 (FIPS 180-4) of some bytes.
    Digest, 32
);
byte_value!(
    /// A device: SHA-256 of the SPKI of its first TLS key, for ever.
    DeviceId, 32
);
byte_value!(
    /// A trust domain: 32 random bytes chosen by `fleet init`.
    FleetId, 32
);
byte_value!(
    /// 32 bytes that are used once: an applier's challenge, a lease's binding.
    Nonce, 32
);
byte_value!(
    /// A plan (and its rollout): the first 16 bytes of the plan payload's SHA-256.
    PlanId, 16
);
byte_value!(
    /// 16 random bytes that fix the order in which devices enter waves.
    CutSeed, 16
);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl From<ensign_crypto::KeyId> for DeviceId {
    fn from(key: ensign_crypto::KeyId) -> Self {
        Self(key.0)
    }
}

impl PlanId {
    /// The id of the plan whose payload has this digest.
    pub fn of(plan: &Digest) -> Self {
        let mut id = [0; Self::BYTES];
        id.copy_from_slice(&plan.0[..Self::BYTES]);
        Self(id)
    }
}

/// Hashes bytes as they stream past.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hashes more bytes.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// The SHA-256 of everything so far.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_bytes_round_trip() {
        let digest = Digest::of(b"abc");
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert_eq!(Digest::try_from(&digest.0[..]), Ok(digest));
        assert!("ab".parse::<Digest>().is_err());
    }

    #[test]
    fn streaming_equals_whole() {
        let mut hasher = Hasher::new();
        hasher.update(b"a").update(b"bc");
        assert_eq!(hasher.finish(), Digest::of(b"abc"));
    }
}
