//! The manifest: everything that a release is, in one signed-for document. Nothing trusted lies outside of it.
//!
//! Its digest and length stand in the release document, which is what people sign. Entries are a byte string that holds a CBOR
//! sequence (RFC 8742), so a device reads a tree of any size one entry at a time.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::codec::{self, Ext};
use crate::digest::{Digest, Hasher};
use crate::ids::{Ident, Version};
use crate::limits::{BLOCK_TABLE_BYTES, COMPONENTS, MANIFEST_BYTES, MANIFEST_ITEMS};
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::trust::roles::{Compatible, FORMAT, FileRef, Release};

mod address;
mod draft;
mod entry;
mod health;
mod publish;
#[cfg(test)]
mod tests;
mod tree;

pub use address::{HttpUrl, check_address};
pub use draft::{Draft, Tree, TreeDraft};
pub use entry::{Entry, MODE_EXECUTABLE, MODE_PLAIN};
pub use health::{ARGS, CONTROLLER_WITHIN_S, Health, PROBES, Probe, Restart, TEXT_BYTES, check_unit};
pub use publish::{Blob, Published, RELEASE_LIFE_S, Signed, Unsigned};
pub use tree::Totals;

use tree::TreeCheck;

/// What the name of a tree is a digest of, before its entries.
const TREE_START: &[u8] = b"ensign-tree-v1";
/// Units of a component.
pub const UNITS: usize = 64;

/// One release of one product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u16,
    pub product: Ident,
    pub version: Version,
    /// Orders the releases of a product.
    pub release_counter: u64,
    /// Devices that ran this release take no release with a lower counter than this, ever again.
    pub security_floor: u64,
    pub compatible: Compatible,
    /// In the order in which their units are restarted. Unique names.
    pub components: Vec<Component>,
    pub totals: Totals,
    pub health: Health,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Raised when older releases cannot read the application's data any more: no rollback once confirmed.
    pub data_epoch: u64,
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
    #[serde(default, skip_serializing_if = "Ext::is_empty")]
    pub ext: Ext,
}

/// One tree of a release and what is done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Component {
    pub name: Ident,
    pub kind: Kind,
    /// For kind `handler` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<Handler>,
    /// Restarted in this order, stopped in the reverse one. Unique.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    entries: ByteBuf,
    /// The block table.
    pub blocks: FileRef,
}

/// What a component is to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A directory that stands at `current/NAME`.
    Tree,
    /// The content of a partition or a file: a tree of exactly one file.
    Image,
    /// An OCI image layout directory.
    Oci,
    /// Ensign itself.
    Agent,
    /// Handed to a program of the device.
    Handler,
}

/// The program that a component is handed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    pub id: Ident,
    /// Version of the protocol it is spoken to.
    pub protocol: u16,
}

/// Where a release came from. For people; nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sbom: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<String>,
    /// Seconds since the epoch; only where the build was given a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
}

impl Provenance {
    /// Nothing is said; it is then left out of the encoding.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Manifest {
    /// Reads a manifest of at most 64 MiB and checks everything that can be known without a signature: shape, limits, paths,
    /// order, that directories exist, that totals and probes agree with the entries.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > MANIFEST_BYTES {
            return refuse!(
                LimitExceeded,
                "the manifest has {} bytes, at most {MANIFEST_BYTES} are allowed",
                bytes.len()
            );
        }
        let manifest: Self = codec::decode_exact(bytes, MANIFEST_ITEMS)
            .map_err(|e| Refusal::new(Code::Malformed, format!("manifest: {e}")))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads the manifest that `release` names: its length and digest before anything else, the fields that stand in both after.
    pub fn open(bytes: &[u8], release: &Release) -> Result<Self, Refusal> {
        check_file("the manifest", bytes, &release.manifest)?;
        let manifest = Self::parse(bytes)?;
        manifest.check_release(release)?;
        Ok(manifest)
    }

    /// Refuses unless every field that stands in both documents is the same: `manifest-mismatch`.
    pub fn check_release(&self, release: &Release) -> Result<(), Refusal> {
        let differs = |what: &str, here: &dyn std::fmt::Display, there: &dyn std::fmt::Display| {
            refuse!(
                ManifestMismatch,
                "{what} is {here} in the manifest and {there} in the release document"
            )
        };
        if self.product != release.product {
            return differs("the product", &self.product, &release.product);
        }
        if self.version != release.release {
            return differs("the version", &self.version, &release.release);
        }
        if self.release_counter != release.counter {
            return differs("the counter", &self.release_counter, &release.counter);
        }
        if self.security_floor != release.security_floor {
            return differs("the security floor", &self.security_floor, &release.security_floor);
        }
        if self.compatible != release.compatible {
            return refuse!(
                ManifestMismatch,
                "the manifest and the release document name different devices (`compatible`)"
            );
        }
        Ok(())
    }

    /// The component of this name.
    pub fn component(&self, name: &str) -> Option<&Component> {
        self.components.iter().find(|c| c.name.as_str() == name)
    }

    /// Everything that [`Self::parse`] checks after decoding.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.format != FORMAT {
            return refuse!(
                VersionUnknown,
                "the manifest has format {}, this program knows {FORMAT}",
                self.format
            );
        }
        if self.components.len() > COMPONENTS {
            return refuse!(
                LimitExceeded,
                "{} components, at most {COMPONENTS} are allowed",
                self.components.len()
            );
        }
        self.health.check()?;
        self.restart.map_or(Ok(()), Restart::check)?;
        for text in [&self.provenance.source, &self.provenance.builder]
            .into_iter()
            .flatten()
        {
            health::check_text("the provenance", text)?;
        }
        let mut names = BTreeSet::new();
        let mut units = BTreeSet::new();
        let mut executables: BTreeSet<(&str, String)> = BTreeSet::new();
        let mut totals = Totals::default();
        for component in &self.components {
            let name = component.name.as_str();
            if !names.insert(name) {
                return refuse!(Malformed, "two components are called {name}");
            }
            if let Some(unit) = component.units.iter().find(|unit| !units.insert(unit.as_str())) {
                return refuse!(
                    Malformed,
                    "the unit {unit} belongs to two components, or twice to {name}"
                );
            }
            let wanted = self.probed(name);
            let tree = component.check(|entry| {
                if is_runnable(entry) && wanted.contains(entry.path().as_str()) {
                    executables.insert((name, entry.path().as_str().to_owned()));
                }
            })?;
            totals = totals.plus(tree)?;
        }
        for probe in &self.health.probes {
            if let Probe::Exec { component, path, .. } = probe
                && !executables.contains(&(component.as_str(), path.as_str().to_owned()))
            {
                return refuse!(
                    Malformed,
                    "the probe {path} is no executable file of the component {component}"
                );
            }
        }
        if totals != self.totals {
            return refuse!(
                Malformed,
                "the totals are {:?}, the entries add up to {totals:?}",
                self.totals
            );
        }
        Ok(())
    }

    /// Paths that probes run in the component `name`.
    fn probed(&self, name: &str) -> BTreeSet<&str> {
        let mut paths = BTreeSet::new();
        for probe in &self.health.probes {
            if let Probe::Exec { component, path, .. } = probe
                && component.as_str() == name
            {
                paths.insert(path.as_str());
            }
        }
        paths
    }
}

impl Component {
    /// The entries, sorted by path. Decoded one by one from the manifest's own bytes, which [`Manifest::parse`] has checked.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        // Checked bytes do not fail; `check` below is the one place that reads unchecked ones.
        self.raw_entries().map_while(Result::ok)
    }

    /// The name of this tree on a device: SHA-256 of `ensign-tree-v1` and the entries. The same content has the same name in
    /// every release.
    pub fn tree_digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(TREE_START).update(&self.entries);
        hasher.finish()
    }

    fn raw_entries(&self) -> impl Iterator<Item = Result<Entry, Refusal>> + '_ {
        codec::sequence::<entry::Raw>(&self.entries).map(|raw| {
            raw.map_err(|e| Refusal::new(Code::Malformed, format!("an entry: {e}")))
                .and_then(Entry::try_from)
        })
    }

    /// Checks the component and sums it up; shows each entry to `seen`.
    fn check(&self, mut seen: impl FnMut(&Entry)) -> Result<Totals, Refusal> {
        let name = &self.name;
        if self.handler.is_some() != (self.kind == Kind::Handler) {
            return refuse!(Malformed, "{name}: a handler belongs to kind `handler` and to no other");
        }
        if self.units.len() > UNITS {
            return refuse!(LimitExceeded, "{name}: {} units, at most {UNITS}", self.units.len());
        }
        self.units.iter().try_for_each(|unit| check_unit(unit))?;
        if self.blocks.length > BLOCK_TABLE_BYTES as u64 {
            return refuse!(
                LimitExceeded,
                "{name}: a block table of {} bytes, at most {BLOCK_TABLE_BYTES} are allowed",
                self.blocks.length
            );
        }
        codec::scan_sequence(&self.entries, MANIFEST_ITEMS)
            .map_err(|e| Refusal::new(Code::Malformed, format!("{name}: entries: {e}")))?;
        let mut check = TreeCheck::default();
        let mut single_file = true;
        let mut rest = self.entries.as_slice();
        for entry in self.raw_entries() {
            let entry = entry.map_err(|e| Refusal::new(e.code, format!("{name}: {}", e.text)))?;
            rest = codec::after_exact(rest, &entry)
                .map_err(|e| Refusal::new(Code::Malformed, format!("{name}: {}: {e}", entry.path())))?;
            check
                .push(&entry)
                .map_err(|e| Refusal::new(e.code, format!("{name}: {}", e.text)))?;
            single_file &= matches!(entry, Entry::File { .. });
            seen(&entry);
        }
        let totals = check.totals();
        if self.kind == Kind::Image && !(single_file && totals.inodes == 1) {
            return refuse!(Malformed, "{name}: an image is exactly one file");
        }
        Ok(totals)
    }
}

impl Kind {
    /// The name that delegations use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Image => "image",
            Self::Oci => "oci",
            Self::Agent => "agent",
            Self::Handler => "handler",
        }
    }
}

/// Refuses bytes that are not the ones that `file` names.
pub(crate) fn check_file(what: &str, bytes: &[u8], file: &FileRef) -> Result<(), Refusal> {
    if bytes.len() as u64 != file.length {
        return refuse!(
            ContentMismatch,
            "{what} has {} bytes, {} were signed for",
            bytes.len(),
            file.length
        );
    }
    let digest = Digest::of(bytes);
    if digest != file.digest {
        return refuse!(
            ContentMismatch,
            "{what} has the digest {digest}, {} was signed for",
            file.digest
        );
    }
    Ok(())
}

/// A symlink may lead to the executable.
fn is_runnable(entry: &Entry) -> bool {
    match entry {
        Entry::File { mode, .. } => *mode == MODE_EXECUTABLE,
        Entry::Symlink { .. } => true,
        Entry::Dir { .. } => false,
    }
}
