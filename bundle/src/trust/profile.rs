//! Ensign's profile: what its clients ask beyond TUF. One function, run on roles that TUF itself finds valid.

use ensign_crypto::PublicKey;

use super::ensign::{DocName, Ensign};
use super::format::{At, Candidate, Meta, Profile};
use super::roles::{Floors, Listed, ProductFloor, Role, Root, Snapshot, Targets};
use crate::ids::Ident;
use crate::limits;
use crate::reason::Refusal;
use crate::refuse;

/// Lifetimes, one key one role across documents, floors, bounds that only rise, and what may leave the snapshot. (Thresholds within the number of keys
/// and mandatory hashes stand in the types and their `check`: such a document is neither made nor read.)
#[derive(Clone, Copy, Debug, Default)]
pub struct Strict;

impl Profile<Ensign> for Strict {
    fn check(&self, candidate: Candidate<'_, Ensign>, at: &At) -> Result<(), Refusal> {
        match candidate {
            Candidate::Root { old, new } => {
                check_life("root", new, limits::OFFLINE_ROLE_LIFE_S, at)?;
                old.map_or(Ok(()), |old| check_floors(&old.floors, &new.floors))
            }
            Candidate::Timestamp { root, new } => {
                let life = root.policy.timestamp_life_s.unwrap_or(limits::TIMESTAMP_LIFE_S);
                check_life("timestamp", new, life, at)
            }
            Candidate::Snapshot { root, new } => {
                check_life("snapshot", new, limits::SNAPSHOT_LIFE_S, at)?;
                check_targets_floor(root, new.targets.version)
            }
            Candidate::Targets { root, old, new } => {
                check_life("targets", new, limits::OFFLINE_ROLE_LIFE_S, at)?;
                check_targets_floor(root, new.version)?;
                check_disjoint(root, new)?;
                old.map_or(Ok(()), |old| check_bounds_rise(old, new))
            }
            Candidate::Delegated { name, new, .. } => {
                check_life(&name.to_string(), new, limits::OFFLINE_ROLE_LIFE_S, at)
            }
        }
    }

    fn resets(&self, old: &Root, new: &Root) -> bool {
        new.floors.reset_epoch > old.floors.reset_epoch
    }

    fn may_leave(&self, name: &DocName, _: &Listed, old: &Snapshot, targets: &Targets) -> bool {
        let DocName::Release(name) = name else { return false };
        let counter = old.release(name).map(|entry| entry.counter);
        let lowest = targets.product(&name.product).map(|product| product.lowest);
        matches!((counter, lowest), (Some(counter), Some(lowest)) if counter < lowest)
    }
}

fn check_life(what: &str, role: &impl Meta, most: u64, at: &At) -> Result<(), Refusal> {
    let issued = role.issued().unwrap_or(0);
    let life = role.expires().saturating_sub(issued);
    if life > most {
        return refuse!(
            LifetimeRefused,
            "{what} is to live {life} s, at most {most} s are allowed"
        );
    }
    match at.latest_issue {
        Some(latest) if issued > latest => refuse!(
            LifetimeRefused,
            "{what} was issued at {issued}, after {latest}: the clock here or the signer's is wrong"
        ),
        _ => Ok(()),
    }
}

fn check_targets_floor(root: &Root, version: u64) -> Result<(), Refusal> {
    let floor = root.floors.targets_version;
    if version < floor {
        return refuse!(
            RollbackRefused,
            "targets version {version} is below root's floor {floor}"
        );
    }
    Ok(())
}

/// Floors only rise, unless the reset epoch goes up by one with them.
fn check_floors(old: &Floors, new: &Floors) -> Result<(), Refusal> {
    if new.reset_epoch < old.reset_epoch || new.reset_epoch - old.reset_epoch > 1 {
        return refuse!(
            RollbackRefused,
            "root's reset epoch goes from {} to {}",
            old.reset_epoch,
            new.reset_epoch
        );
    }
    if new.reset_epoch > old.reset_epoch {
        return Ok(());
    }
    if new.targets_version < old.targets_version {
        return refuse!(
            RollbackRefused,
            "root lowers the floor of targets from {} to {} without a new reset epoch",
            old.targets_version,
            new.targets_version
        );
    }
    for (product, floor) in &old.products {
        if !at_least(new.products.get(product).copied().unwrap_or_default(), *floor) {
            return refuse!(
                RollbackRefused,
                "root lowers a floor of product {product} without a new reset epoch"
            );
        }
    }
    Ok(())
}

/// A product's security floor and lowest counter only rise, whichever entry covers it: a document that left the snapshot never
/// comes back in an older version. Only root's reset starts anew.
fn check_bounds_rise(old: &Targets, new: &Targets) -> Result<(), Refusal> {
    for name in old.products.iter().chain(&new.products).map(|p| p.name.as_str()) {
        let (was, is) = (bounds(old, name), bounds(new, name));
        if is.0 < was.0 || is.1 < was.1 {
            return refuse!(
                RollbackRefused,
                "targets lower the security floor of {name} from {} to {} or its lowest counter from {} to {}, without a reset by root",
                was.0,
                is.0,
                was.1,
                is.1
            );
        }
    }
    Ok(())
}

fn bounds(targets: &Targets, name: &str) -> (u64, u64) {
    targets
        .entry(name)
        .map_or((0, 0), |product| (product.security_floor, product.lowest))
}

fn at_least(new: ProductFloor, old: ProductFloor) -> bool {
    new.plan_seq >= old.plan_seq && new.counter >= old.counter && new.security >= old.security
}

/// Refuses a targets role that gives a product a key which stands in a role of root, or is the controller's.
fn check_disjoint(root: &Root, targets: &Targets) -> Result<(), Refusal> {
    for product in &targets.products {
        for key in &product.role.keys {
            if let Some(other) = root.role_of(key) {
                return refuse!(
                    KeysRefused,
                    "key {} signs releases of {} and stands in the role {other}",
                    key.id(),
                    product.name
                );
            }
        }
    }
    Ok(())
}

impl Root {
    /// The role of root in which a key stands: `deploy` for any scope, `controller` for its TLS keys.
    pub fn role_of(&self, key: &PublicKey) -> Option<&'static str> {
        let roles = &self.roles;
        let named = [
            ("root", &roles.root),
            ("targets", &roles.targets),
            ("snapshot", &roles.snapshot),
            ("timestamp", &roles.timestamp),
        ];
        let holds = |role: &Role| role.keys.contains(key);
        named
            .into_iter()
            .find_map(|(name, role)| holds(role).then_some(name))
            .or_else(|| self.scopes.iter().any(|s| holds(&s.role)).then_some("deploy"))
            .or_else(|| self.controller.keys.contains(&key.id()).then_some("controller"))
    }

    /// Root's floors of a product.
    pub fn floor(&self, product: &Ident) -> ProductFloor {
        self.floors.products.get(product).copied().unwrap_or_default()
    }
}
