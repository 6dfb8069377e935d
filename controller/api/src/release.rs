//! Releases and the blobs they are made of.

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::{Ident, Version};
use ensign_crypto::KeyId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::value::Time;

/// `release show`, and a row of `release ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    #[schema(value_type = String)]
    pub product: Ident,
    #[schema(value_type = String)]
    pub version: Version,
    /// Orders the releases of a product.
    pub counter: u64,
    pub components: Vec<Component>,
    /// Plain size of all components.
    pub bytes: u64,
    pub signatures: Vec<SignatureRow>,
    /// How many of them must be valid; 0 = no entry of targets covers the product.
    #[serde(default)]
    pub threshold: u32,
    /// `ok`, or the reason code of what is wrong with it.
    pub verdict: String,
    #[schema(value_type = String)]
    pub manifest: Digest,
    /// SHA-256 of the release document's envelope, as the snapshot lists it.
    #[schema(value_type = Option<String>)]
    pub document: Option<Digest>,
    pub expires: Option<Time>,
    /// None: it is a file.
    #[serde(default)]
    pub published: Option<Time>,
    /// Attempts of devices to take it that failed, in all its rollouts.
    #[serde(default)]
    pub failed: u64,
    /// Why it was withdrawn.
    pub yanked: Option<String>,
}

/// A part of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Component {
    #[schema(value_type = String)]
    pub name: Ident,
    /// `tree`, `image`, `oci`, ...
    pub kind: String,
    /// Number of files, without directories and symlinks.
    pub files: u64,
    /// Plain size.
    pub bytes: u64,
    #[serde(default)]
    pub units: Vec<String>,
}

/// Who signed, and whether that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignatureRow {
    #[schema(value_type = String)]
    pub key: KeyId,
    /// `release`, or `unknown` where the key is in no role.
    pub role: String,
    pub valid: bool,
}

/// Which of these are not stored?
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Digests {
    #[schema(value_type = Vec<String>)]
    pub digests: Vec<Digest>,
}

/// What is not stored of the digests that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missing {
    /// In the order asked for.
    #[schema(value_type = Vec<String>)]
    pub missing: Vec<Digest>,
}

/// Blobs that a batch added; those that were there already do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stored {
    pub stored: u64,
}

/// What stands before each blob of a batch: 32 bytes of digest, then its length as u64 big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub digest: Digest,
    /// Bytes of the blob.
    pub length: u64,
}

impl BatchHeader {
    /// Bytes of an encoded header.
    pub const BYTES: usize = Digest::BYTES + 8;
    /// Most blobs in one question about [`Missing`] ones.
    pub const DIGESTS_MAX: usize = 16_384;
    /// A batch ends with the blob that reaches this size, bytes.
    pub const BATCH_BYTES: usize = 8 << 20;

    /// Digest, then length as u64 big-endian.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..Digest::BYTES].copy_from_slice(self.digest.as_bytes());
        out[Digest::BYTES..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// The header in these bytes; nothing is checked.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let (mut digest, mut length) = ([0; Digest::BYTES], [0; 8]);
        digest.copy_from_slice(&bytes[..Digest::BYTES]);
        length.copy_from_slice(&bytes[Digest::BYTES..]);
        Self {
            digest: Digest(digest),
            length: u64::from_be_bytes(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_headers_round_trip() {
        let header = BatchHeader {
            digest: Digest::of(b"x"),
            length: 0x0102_0304,
        };
        let bytes = header.encode();
        assert_eq!(bytes[32..], [0, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(BatchHeader::decode(&bytes), header);
    }
}
