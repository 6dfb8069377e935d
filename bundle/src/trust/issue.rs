//! Making roles: the first ones of a fleet, and the next version of each. Pure; signing is [`crate::statement::sign`].

use ensign_crypto::PublicKey;

use super::format::Meta;
use super::roles::{
    Controller, FORMAT, Floors, Listed, ListedRelease, Policy, Product, Release, Role, Root, RootRoles, Scope,
    Snapshot, Targets, Timestamp,
};
use crate::codec::Ext;
use crate::digest::FleetId;
use crate::ids::Ident;
use crate::reason::{Code, Refusal};
use crate::refuse;

const DAY_S: u64 = 24 * 3600;
/// Life of root, targets and release documents: a yearly ceremony, with 35 days of slack before devices would refuse (400 days).
pub const OFFLINE_LIFE_S: u64 = 365 * DAY_S;
/// Life of a snapshot. The controller signs a new one with every change, and at half its life.
pub const SNAPSHOT_LIFE_S: u64 = 7 * DAY_S;
/// Life of a timestamp: how long a thief of the network can hide what is new. The controller signs one an hour.
pub const TIMESTAMP_LIFE_S: u64 = DAY_S;

/// Kinds of components that every release may hold unless its product says otherwise.
const KINDS: [&str; 2] = ["tree", "oci"];

/// The keys and names that a fleet starts with: one operator's machine, one controller.
#[derive(Clone, Debug)]
pub struct NewFleet {
    pub fleet: FleetId,
    pub name: String,
    /// The everyday root key and one kept elsewhere; any one of them signs.
    pub root: Vec<PublicKey>,
    pub targets: PublicKey,
    pub release: PublicKey,
    pub deploy: PublicKey,
    pub snapshot: PublicKey,
    pub timestamp: PublicKey,
    pub controller: Controller,
    /// Keys without a passphrase.
    pub lab: bool,
}

impl NewFleet {
    /// Root 1: thresholds of 1, one deploy scope `all` that covers every device.
    pub fn root(&self, now: u64) -> Result<Root, Refusal> {
        Ok(Root {
            format: FORMAT,
            version: 1,
            issued: now,
            expires: now.saturating_add(OFFLINE_LIFE_S),
            fleet: self.fleet,
            name: self.name.clone(),
            roles: RootRoles {
                root: Role {
                    keys: self.root.clone(),
                    threshold: 1,
                },
                targets: one(self.targets),
                snapshot: one(self.snapshot),
                timestamp: one(self.timestamp),
            },
            scopes: vec![Scope {
                name: Ident::parse("all").map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?,
                select: String::new(),
                role: one(self.deploy),
            }],
            protected: Vec::new(),
            policy: Policy {
                lab: self.lab,
                ..Policy::default()
            },
            controller: self.controller.clone(),
            floors: Floors::default(),
            time_reset: None,
            min_protocol: crate::wire::PROTOCOL.0,
            ext: Ext::default(),
        })
    }

    /// Targets 1: one entry for every product, any component and unit name, and the kinds that need not be named.
    pub fn targets(&self, now: u64) -> Targets {
        Targets {
            format: FORMAT,
            version: 1,
            issued: now,
            expires: now.saturating_add(OFFLINE_LIFE_S),
            products: vec![Product {
                name: "*".to_owned(),
                role: one(self.release),
                components: vec!["*".to_owned()],
                kinds: KINDS.map(str::to_owned).to_vec(),
                handlers: Vec::new(),
                units: vec!["*".to_owned()],
                security_floor: 0,
                lowest: 0,
                network: false,
                ext: Ext::default(),
            }],
            ext: Ext::default(),
        }
    }
}

/// A copy to change and sign as the next version: offline roles count up by one.
pub trait Next: Sized {
    fn next(&self, now: u64) -> Result<Self, Refusal>;
}

macro_rules! next {
    ($($role:ty),*) => {$(
        impl Next for $role {
            fn next(&self, now: u64) -> Result<Self, Refusal> {
                let mut next = self.clone();
                next.version = version_after(self)?;
                next.issued = now;
                next.expires = now.saturating_add(OFFLINE_LIFE_S);
                Ok(next)
            }
        }
    )*};
}

next!(Root, Targets, Release);

/// The snapshot after `previous` (from the ledger or a bundle; none = the first). Releases may come in any order.
pub fn snapshot(
    previous: Option<&Snapshot>,
    targets: Listed,
    mut releases: Vec<ListedRelease>,
    now: u64,
) -> Result<Snapshot, Refusal> {
    releases.sort_by(|a, b| (&a.product, &a.release).cmp(&(&b.product, &b.release)));
    Ok(Snapshot {
        format: FORMAT,
        version: online_version(previous, now)?,
        issued: now,
        expires: now.saturating_add(SNAPSHOT_LIFE_S),
        targets,
        releases,
        ext: Ext::default(),
    })
}

/// The timestamp after `previous`, over the snapshot with these bytes. `life_s`: [`TIMESTAMP_LIFE_S`], or what root's policy allows
/// in air-gapped fleets.
pub fn timestamp(previous: Option<&Timestamp>, snapshot: Listed, now: u64, life_s: u64) -> Result<Timestamp, Refusal> {
    Ok(Timestamp {
        format: FORMAT,
        version: online_version(previous, now)?,
        issued: now,
        expires: now.saturating_add(life_s),
        snapshot,
        ext: Ext::default(),
    })
}

impl ListedRelease {
    /// How the snapshot lists a release document with these bytes.
    pub fn of(release: &Release, bytes: &[u8]) -> Self {
        Self {
            product: release.product.clone(),
            release: release.release.clone(),
            counter: release.counter,
            document: Listed::of(release.version, bytes),
        }
    }
}

/// Online versions are at least the time, so a controller restored from a backup never signs one a second time.
fn online_version(previous: Option<&impl Meta>, now: u64) -> Result<u64, Refusal> {
    let after = previous.map_or(Ok(1), version_after)?;
    Ok(after.max(now))
}

fn version_after(role: &impl Meta) -> Result<u64, Refusal> {
    match role.version().checked_add(1) {
        Some(version) => Ok(version),
        None => refuse!(LimitExceeded, "version {} has no next one", role.version()),
    }
}

fn one(key: PublicKey) -> Role {
    Role {
        keys: vec![key],
        threshold: 1,
    }
}
