//! Ensign's own format for the state machine: COSE envelopes around deterministic CBOR (`statement.rs`).

use std::fmt;

use super::format::{Delegation, Delegator, Format, Meta};
use super::roles::{Listed, Product, Release, Root, Snapshot, Targets, Timestamp};
use crate::digest::{Digest, FleetId};
use crate::ids::{Ident, Version};
use crate::reason::Refusal;
use crate::refuse;
use crate::statement::{self, Document as _};

/// The codec of one fleet: its id is part of what every signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ensign {
    pub fleet: FleetId,
}

/// A version of a product: what targets are named by. Text form `PRODUCT/VERSION`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseName {
    pub product: Ident,
    pub version: Version,
}

impl fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.product, self.version)
    }
}

/// A role in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DocName {
    Targets,
    Release(ReleaseName),
}

impl fmt::Display for DocName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Targets => f.write_str("targets"),
            Self::Release(name) => name.fmt(f),
        }
    }
}

impl Format for Ensign {
    type Root = Root;
    type Timestamp = Timestamp;
    type Snapshot = Snapshot;
    type Targets = Targets;
    type Delegated = Release;
    type Name = DocName;
    type Target = ReleaseName;
    type Pin = Listed;

    fn open_root(&self, bytes: &[u8], by: Option<&Root>) -> Result<Root, Refusal> {
        let root = match by {
            Some(old) => {
                let role = &old.roles.root;
                statement::open::<Root>(bytes, &role.keys, role.threshold, &self.fleet)?
            }
            None => statement::open_unverified::<Root>(bytes)?,
        };
        let own = &root.body.roles.root;
        statement::count(&root.envelope, &own.keys, own.threshold, &self.fleet)?;
        root.body.check_lifetime()?;
        if root.body.fleet != self.fleet {
            return refuse!(WrongFleet, "root of fleet {}, not of {}", root.body.fleet, self.fleet);
        }
        Ok(root.body)
    }

    fn open_timestamp(&self, bytes: &[u8], root: &Root) -> Result<Timestamp, Refusal> {
        let role = &root.roles.timestamp;
        Ok(statement::open(bytes, &role.keys, role.threshold, &self.fleet)?.body)
    }

    fn open_snapshot(&self, bytes: &[u8], root: &Root) -> Result<Snapshot, Refusal> {
        let role = &root.roles.snapshot;
        Ok(statement::open(bytes, &role.keys, role.threshold, &self.fleet)?.body)
    }

    fn open_targets(&self, bytes: &[u8], root: &Root) -> Result<Targets, Refusal> {
        let role = &root.roles.targets;
        Ok(statement::open(bytes, &role.keys, role.threshold, &self.fleet)?.body)
    }

    fn open_delegated(&self, bytes: &[u8], name: &DocName, parent: Delegator<'_, Self>) -> Result<Release, Refusal> {
        let (DocName::Release(name), Delegator::Targets(targets)) = (name, parent) else {
            return refuse!(OutsideDelegation, "{name} is not delegated");
        };
        let Some(product) = targets.product(&name.product) else {
            return refuse!(OutsideDelegation, "no entry of targets covers product {}", name.product);
        };
        let role = &product.role;
        let release: Release = statement::open(bytes, &role.keys, role.threshold, &self.fleet)?.body;
        if (&release.product, &release.release) != (&name.product, &name.version) {
            return refuse!(
                ContentMismatch,
                "the document of {name} speaks of {}/{}",
                release.product,
                release.release
            );
        }
        Ok(release)
    }

    fn online_keys_rotated(&self, old: &Root, new: &Root) -> bool {
        let gone = |old: &super::roles::Role, new: &super::roles::Role| old.keys.iter().any(|k| !new.keys.contains(k));
        gone(&old.roles.timestamp, &new.roles.timestamp) || gone(&old.roles.snapshot, &new.roles.snapshot)
    }

    fn snapshot_pin(timestamp: &Timestamp) -> &Listed {
        &timestamp.snapshot
    }

    fn targets_name() -> DocName {
        DocName::Targets
    }

    fn listed(snapshot: &Snapshot) -> Vec<(DocName, Listed)> {
        let releases = snapshot.releases.iter().map(|entry| {
            let name = ReleaseName {
                product: entry.product.clone(),
                version: entry.release.clone(),
            };
            (DocName::Release(name), entry.document)
        });
        std::iter::once((DocName::Targets, snapshot.targets))
            .chain(releases)
            .collect()
    }

    fn pin(snapshot: &Snapshot, name: &DocName) -> Option<Listed> {
        match name {
            DocName::Targets => Some(snapshot.targets),
            DocName::Release(name) => snapshot.release(name).map(|entry| entry.document),
        }
    }

    fn pin_version(pin: &Listed) -> u64 {
        pin.version
    }

    fn check_pin(pin: &Listed, what: &str, bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.len() as u64 != pin.length {
            return refuse!(
                ContentMismatch,
                "{what} has {} bytes, {} are listed",
                bytes.len(),
                pin.length
            );
        }
        let digest = Digest::of(bytes);
        if digest != pin.digest {
            return refuse!(ContentMismatch, "{what} has digest {digest}, {} is listed", pin.digest);
        }
        Ok(())
    }

    fn delegations_for(&self, parent: Delegator<'_, Self>, target: &ReleaseName) -> Vec<Delegation<DocName>> {
        match parent {
            Delegator::Targets(targets) if targets.product(&target.product).is_some() => vec![Delegation {
                name: DocName::Release(target.clone()),
                terminating: true,
            }],
            _ => Vec::new(),
        }
    }

    fn describes(&self, role: Delegator<'_, Self>, target: &ReleaseName) -> bool {
        matches!(role, Delegator::Delegated(r) if r.product == target.product && r.release == target.version)
    }
}

impl Targets {
    /// The one delegation that covers a product: its own entry, else `*`, never both.
    pub fn product(&self, name: &Ident) -> Option<&Product> {
        self.entry(name.as_str())
    }

    /// The same for `*` as well, whose entry covers what has none of its own.
    pub(super) fn entry(&self, name: &str) -> Option<&Product> {
        let entry = |name: &str| self.products.iter().find(|p| p.name == name);
        entry(name).or_else(|| entry("*"))
    }
}

impl Snapshot {
    /// The entry of a release document.
    pub fn release(&self, name: &ReleaseName) -> Option<&super::roles::ListedRelease> {
        let key = (&name.product, &name.version);
        let found = self.releases.binary_search_by(|e| (&e.product, &e.release).cmp(&key));
        found.ok().and_then(|at| self.releases.get(at))
    }
}

impl Listed {
    /// How snapshot and timestamp list the document with these bytes.
    pub fn of(version: u64, bytes: &[u8]) -> Self {
        Self {
            version,
            length: bytes.len() as u64,
            digest: Digest::of(bytes),
        }
    }
}

macro_rules! meta {
    ($($role:ty),*) => {$(
        impl Meta for $role {
            fn version(&self) -> u64 {
                self.version
            }

            fn expires(&self) -> u64 {
                self.expires
            }

            fn issued(&self) -> Option<u64> {
                Some(self.issued)
            }
        }
    )*};
}

meta!(Root, Timestamp, Snapshot, Targets, Release);
