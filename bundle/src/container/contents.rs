//! One release out of a bundle, everything but its blocks; and the documents of the metadata chain.

use ensign_crypto::Envelope;
use serde::{Deserialize, Serialize};

use crate::blocks::BlockTable;
use crate::codec;
use crate::digest::DeviceId;
use crate::limits::{STATEMENT_BYTES, TARGETS_BYTES};
use crate::manifest::Manifest;
use crate::plan::evidence::Membership;
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::statement;
use crate::text::printable;
use crate::trust::roles::Release;

/// A release whose parts agree: the document names the manifest, the manifest names the tables. Whether anyone may say so
/// is for who counts the document's signatures.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The release document with its signatures, none of them checked.
    pub document: Envelope,
    /// The document's payload.
    pub release: Release,
    pub manifest: Manifest,
    /// As the document's digest names them.
    pub manifest_bytes: Vec<u8>,
    /// One per component.
    pub tables: Vec<BlockTable>,
}

/// A signed document on the way from root to the release: root steps, timestamp, snapshot, targets, an offline plan; or what
/// proves a device's place in that plan ([`Member`]). Verified by the state machine of trust, not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainDocument {
    /// `root` in `application/vnd.ensign.root+cbor`.
    pub kind: String,
    /// The whole envelope; of the kind `member`, a [`Member`] without one.
    pub bytes: Vec<u8>,
}

/// The place of one device in the offline plan of a bundle. Nobody signs it: the path leads to the root in the signed plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub device: DeviceId,
    pub member: Membership,
}

impl Contents {
    /// Puts the parts together. Refuses parts that do not belong to each other.
    pub fn parse(document: &[u8], manifest: Vec<u8>, tables: &[Vec<u8>]) -> Result<Self, Refusal> {
        let statement::Signed {
            body: release,
            envelope,
        } = statement::open_unverified::<Release>(document)?;
        let manifest_bytes = manifest;
        let manifest = Manifest::open(&manifest_bytes, &release)?;
        if manifest.components.len() != tables.len() {
            return refuse!(
                Malformed,
                "{} block tables for {} components",
                tables.len(),
                manifest.components.len()
            );
        }
        let tables = manifest
            .components
            .iter()
            .zip(tables)
            .map(|(component, bytes)| BlockTable::parse(bytes, component))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            document: envelope,
            release,
            manifest,
            manifest_bytes,
            tables,
        })
    }
}

impl ChainDocument {
    /// Refuses bytes that are no envelope of this kind. The signatures are not looked at.
    pub fn parse(kind: &str, bytes: Vec<u8>) -> Result<Self, Refusal> {
        if kind == Member::KIND {
            Member::parse(&bytes)?;
            return Ok(Self {
                kind: kind.to_owned(),
                bytes,
            });
        }
        let shown = printable(kind, 32);
        let envelope = Envelope::parse(&bytes, Self::MAX_BYTES)
            .map_err(|e| Refusal::new(Code::Malformed, format!("the {shown} of the metadata chain: {e}")))?;
        if envelope.kind() != kind {
            return refuse!(Malformed, "the header says {shown} where a {} stands", envelope.kind());
        }
        Ok(Self {
            kind: kind.to_owned(),
            bytes,
        })
    }

    /// The document that carries `member`.
    pub fn member(member: &Member) -> Result<Self, Refusal> {
        let bytes =
            codec::encode(member).map_err(|e| Refusal::new(Code::Malformed, format!("a member of a plan: {e}")))?;
        Self::parse(Member::KIND, bytes)
    }

    /// Largest document of any kind; each kind's own limit is below it.
    pub(super) const MAX_BYTES: usize = TARGETS_BYTES;
}

impl Member {
    /// The kind of a [`ChainDocument`] that holds one.
    pub const KIND: &'static str = "member";

    /// Reads the bytes of a chain document of this kind, at most 4 KiB.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > STATEMENT_BYTES {
            return refuse!(
                LimitExceeded,
                "a member of a plan has {} bytes, at most {STATEMENT_BYTES} are allowed",
                bytes.len()
            );
        }
        let malformed = |e| Refusal::new(Code::Malformed, format!("a member of a plan: {e}"));
        codec::decode_exact(bytes, STATEMENT_BYTES).map_err(malformed)
    }
}
