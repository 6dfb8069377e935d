//! Releases: a signed document enters the snapshot once every byte that it names is stored.

use std::collections::BTreeSet;

use ensign_bundle::blocks::{BlockKind, BlockTable};
use ensign_bundle::codec;
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::limits;
use ensign_bundle::manifest::{Component, Entry, Kind, Manifest};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::Release;

use super::metadata::Draft;
use super::online::release_document;
use super::rows::{ComponentRow, ReleaseRow};
use super::state::State;
use crate::store::blobs::BlobStore;

/// A release document whose content was found whole, before signatures are counted against the current targets.
#[derive(Debug)]
pub struct Complete {
    envelope: Vec<u8>,
    release: Release,
    manifest: Manifest,
}

impl Complete {
    /// Reads manifest and tables from `blobs` and looks for every block. Blocks, so it is done outside of the core.
    pub fn check(envelope: Vec<u8>, blobs: &dyn BlobStore) -> Result<Self, Refusal> {
        let release = statement::open_unverified::<Release>(&envelope)?.body;
        let bytes = stored(blobs, release.manifest.digest, limits::MANIFEST_BYTES, "the manifest")?;
        let manifest = Manifest::open(&bytes, &release)?;
        let mut named = BTreeSet::new();
        for component in &manifest.components {
            let what = format!("the block table of {}", component.name);
            let table = stored(blobs, component.blocks.digest, limits::BLOCK_TABLE_BYTES, &what)?;
            BlockTable::check(&table, component, |row| {
                if row.kind != BlockKind::Zero {
                    named.insert(row.stored);
                }
            })?;
        }
        let named: Vec<Digest> = named.into_iter().collect();
        let missing = blobs.missing(&named)?;
        if let Some(first) = missing.first() {
            return refuse!(
                ContentMismatch,
                "{} of {} blocks are not stored, the first is {first}",
                missing.len(),
                named.len()
            );
        }
        Ok(Self {
            envelope,
            release,
            manifest,
        })
    }
}

impl State {
    /// Publishes a release, or the next version of its document. The same bytes again change nothing.
    pub fn publish_release(&mut self, complete: Complete) -> Result<ReleaseRow, Refusal> {
        let Complete {
            envelope,
            release,
            manifest,
        } = complete;
        let product = self.roles.targets()?.product(&release.product);
        let Some(product) = product else {
            return refuse!(
                OutsideDelegation,
                "no entry of targets covers product {}",
                release.product
            );
        };
        let signed =
            statement::open::<Release>(&envelope, &product.role.keys, product.role.threshold, &self.fleet.fleet)?;
        debug_assert_eq!(signed.body, release);
        let name = (release.product.clone(), release.release.clone());
        if let Some(known) = self.releases.get(&name) {
            if known.document.digest == Digest::of(&envelope) {
                return Ok(known.clone());
            }
            if known.manifest != release.manifest.digest || known.counter != release.counter {
                return refuse!(
                    AlreadyPublished,
                    "{}@{} is published with manifest {}, not {}",
                    release.product,
                    release.release,
                    known.manifest,
                    release.manifest.digest
                );
            }
            if release.version == known.document.version {
                return self.same_release(known, &envelope);
            }
            if release.version < known.document.version {
                return refuse!(
                    RollbackRefused,
                    "document version {} of {}@{} is older than {}",
                    release.version,
                    release.product,
                    release.release,
                    known.document.version
                );
            }
        }
        self.check_counter(&release, product.lowest)?;
        let row = ReleaseRow {
            product: release.product.clone(),
            version: release.release.clone(),
            counter: release.counter,
            document: release_document(&release, &envelope),
            manifest: release.manifest.digest,
            bytes: manifest.totals.bytes,
            components: self.keep_document(&component_rows(&manifest)?)?,
            yanked: release.yanked.clone(),
            published: self.now,
        };
        self.publish(&Draft {
            releases: vec![(row.clone(), envelope)],
            ..Draft::default()
        })?;
        tracing::info!(product = %row.product, version = %row.version, "a release is published");
        Ok(row)
    }

    /// The same statement with other signatures: still the same release.
    fn same_release(&self, known: &ReleaseRow, envelope: &[u8]) -> Result<ReleaseRow, Refusal> {
        let stored = self.document(&known.document.digest)?;
        let stored = statement::open_unverified::<Release>(&stored)?;
        let offered = statement::open_unverified::<Release>(envelope)?;
        if stored.digest() == offered.digest() {
            return Ok(known.clone());
        }
        refuse!(
            AlreadyPublished,
            "document version {} of {}@{} is published with other content",
            known.document.version,
            known.product,
            known.version
        )
    }

    /// Two versions of a product never share a counter, and none is below what the product keeps.
    fn check_counter(&self, release: &Release, lowest: u64) -> Result<(), Refusal> {
        if release.counter < lowest {
            return refuse!(
                DowngradeRefused,
                "counter {} is below {lowest}, the lowest that {} keeps",
                release.counter,
                release.product
            );
        }
        let twin = self
            .releases
            .values()
            .find(|r| r.product == release.product && r.version != release.release && r.counter == release.counter);
        match twin {
            Some(twin) => refuse!(
                Conflict,
                "{}@{} has counter {} already",
                twin.product,
                twin.version,
                twin.counter
            ),
            None => Ok(()),
        }
    }

    /// The release of this name.
    pub fn release(&self, product: &Ident, version: &Version) -> Result<&ReleaseRow, Refusal> {
        self.releases
            .get(&(product.clone(), version.clone()))
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no release {product}@{version}")))
    }
}

/// What `release show` says of the components, as a document.
fn component_rows(manifest: &Manifest) -> Result<Vec<u8>, Refusal> {
    let row = |component: &Component| {
        let files = component.entries().filter(|e| matches!(e, Entry::File { .. }));
        let (files, bytes) = files.fold((0u64, 0u64), |(n, bytes), e| (n + 1, bytes.saturating_add(e.size())));
        ComponentRow {
            name: component.name.clone(),
            kind: kind_name(component.kind).to_owned(),
            files,
            bytes,
            units: component.units.clone(),
        }
    };
    let rows: Vec<ComponentRow> = manifest.components.iter().map(row).collect();
    codec::encode(&rows).map_err(|e| Refusal::new(Code::Malformed, e.to_string()))
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Tree => "tree",
        Kind::Image => "image",
        Kind::Oci => "oci",
        Kind::Agent => "agent",
        Kind::Handler => "handler",
    }
}

fn stored(blobs: &dyn BlobStore, digest: Digest, most: usize, what: &str) -> Result<Vec<u8>, Refusal> {
    match blobs.read(digest, most as u64)? {
        Some(bytes) => Ok(bytes),
        None => refuse!(ContentMismatch, "{what} {digest} is not stored"),
    }
}
