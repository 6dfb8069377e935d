//! One release out of a bundle, everything but its blocks; and the documents of the metadata chain.

use ensign_crypto::Envelope;

use crate::blocks::BlockTable;
use crate::limits::TARGETS_BYTES;
use crate::manifest::Manifest;
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

/// A signed document on the way from root to the release: root steps, timestamp, snapshot, targets, an offline plan and what
/// proves a device's place in it. Verified by the state machine of trust, not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainDocument {
    /// `root` in `application/vnd.ensign.root+cbor`.
    pub kind: String,
    /// The whole envelope.
    pub bytes: Vec<u8>,
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

    /// Largest document of any kind; each kind's own limit is below it.
    pub(super) const MAX_BYTES: usize = TARGETS_BYTES;
}
