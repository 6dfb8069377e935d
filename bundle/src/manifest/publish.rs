//! From frozen bytes to a published release. Each step is a type: what is not signed cannot be published.

use ensign_crypto::{Envelope, PublicKey, SecretKey, aad};

use crate::container::Contents;
use crate::digest::{Digest, FleetId};
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::statement;
use crate::trust::roles::Release;

/// Life of a release document from its first signature, seconds: 365 days.
pub const RELEASE_LIFE_S: u64 = 365 * 24 * 3600;

/// A release with frozen bytes, and any number of signatures that nobody has counted.
#[derive(Clone, Debug)]
pub struct Unsigned(Contents);

/// A release that enough of its product's keys have signed.
#[derive(Clone, Debug)]
pub struct Signed {
    contents: Contents,
    signers: Vec<PublicKey>,
}

/// A release whose every blob and document has been uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub release: Release,
    /// Of the whole envelope, as a snapshot lists it.
    pub document: Digest,
}

/// A blob to upload before the release document; the blocks come from the bundle file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob<'a> {
    pub digest: Digest,
    pub bytes: &'a [u8],
}

impl From<Contents> for Unsigned {
    fn from(contents: Contents) -> Self {
        Self(contents)
    }
}

impl Unsigned {
    /// Release document, manifest and tables, with whatever signatures are there.
    pub fn contents(&self) -> &Contents {
        &self.0
    }

    /// The same, given away.
    pub fn into_contents(self) -> Contents {
        self.0
    }

    /// Adds this key's signature. The first one dates the document: issued `now` (seconds since the epoch), expires 365 days
    /// later. Signing again with the same key changes nothing.
    pub fn sign(&mut self, key: &SecretKey, fleet: &FleetId, now: u64) -> Result<(), Refusal> {
        let mut document = if self.0.document.signatures().is_empty() {
            let expires = now
                .checked_add(RELEASE_LIFE_S)
                .ok_or_else(|| Refusal::new(Code::LifetimeRefused, format!("{now} is no time to sign at")))?;
            let mut release = self.0.release.clone();
            (release.issued, release.expires) = (now, expires);
            statement::seal(&release)?
        } else {
            self.0.document.clone()
        };
        document.sign(key, &aad(&fleet.0));
        self.replace_document(document)
    }

    /// Takes another document for the same content: one with more signatures, or a newer version.
    pub fn replace_document(&mut self, document: Envelope) -> Result<(), Refusal> {
        let bytes = document.encode();
        let release = statement::open_unverified::<Release>(&bytes)?.body;
        if release.manifest != self.0.release.manifest {
            return refuse!(
                ManifestMismatch,
                "the document names the manifest {}, the file holds {}",
                release.manifest.digest,
                self.0.release.manifest.digest
            );
        }
        self.0.manifest.check_release(&release)?;
        self.0.document = document;
        self.0.release = release;
        Ok(())
    }

    /// Counts the signatures of `keys` for `fleet`: the keys and threshold that the fleet's targets give this product.
    pub fn into_signed(self, keys: &[PublicKey], threshold: u32, fleet: &FleetId) -> Result<Signed, Refusal> {
        let signers = statement::count(&self.0.document, keys, threshold, fleet)?;
        Ok(Signed {
            contents: self.0,
            signers,
        })
    }
}

impl Signed {
    /// Release document, manifest and tables; the threshold is met.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The keys whose signatures counted.
    pub fn signers(&self) -> &[PublicKey] {
        &self.signers
    }

    /// The manifest and the block tables.
    pub fn blobs(&self) -> impl Iterator<Item = Blob<'_>> {
        let Contents {
            release,
            manifest,
            manifest_bytes,
            tables,
            ..
        } = &self.contents;
        let manifest_blob = Blob {
            digest: release.manifest.digest,
            bytes: manifest_bytes,
        };
        let tables = manifest.components.iter().zip(tables).map(|(component, table)| Blob {
            digest: component.blocks.digest,
            bytes: table.bytes(),
        });
        std::iter::once(manifest_blob).chain(tables)
    }

    /// The release document to upload, after every blob.
    pub fn document(&self) -> Vec<u8> {
        self.contents.document.encode()
    }

    /// Called when the last upload, that of the document, has been acknowledged.
    pub fn published(self) -> Published {
        Published {
            document: Digest::of(&self.document()),
            release: self.contents.release,
        }
    }
}
