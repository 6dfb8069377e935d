//! TUF's JSON as a format of the state machine.

use ensign_bundle::reason::Refusal;
use ensign_bundle::refuse;
use ensign_bundle::trust::format::{Delegation, Delegator, Format};

use super::metadata::{Pin, Root, Snapshot, Targets, Timestamp, Unverified};

/// The codec. Roles and targets are named by plain strings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json;

impl Format for Json {
    type Root = Root;
    type Timestamp = Timestamp;
    type Snapshot = Snapshot;
    type Targets = Targets;
    type Delegated = Targets;
    type Name = String;
    type Target = String;
    type Pin = Pin;

    fn open_root(&self, bytes: &[u8], by: Option<&Root>) -> Result<Root, Refusal> {
        if let Some(old) = by {
            Unverified::parse(bytes)?.count("root", old.role("root")?, &old.keys)?;
        }
        // Its own keys stand in it, so it is read before they are counted.
        let root: Root = Unverified::parse(bytes)?.body()?;
        Unverified::parse(bytes)?.count("root", root.role("root")?, &root.keys)?;
        Ok(root)
    }

    fn open_timestamp(&self, bytes: &[u8], root: &Root) -> Result<Timestamp, Refusal> {
        opened(bytes, root, "timestamp")?.body()
    }

    fn open_snapshot(&self, bytes: &[u8], root: &Root) -> Result<Snapshot, Refusal> {
        opened(bytes, root, "snapshot")?.body()
    }

    fn open_targets(&self, bytes: &[u8], root: &Root) -> Result<Targets, Refusal> {
        opened(bytes, root, "targets")?.body()
    }

    fn open_delegated(&self, bytes: &[u8], name: &String, parent: Delegator<'_, Self>) -> Result<Targets, Refusal> {
        let delegations = role(parent).delegations.as_ref();
        let keys = delegations.and_then(|d| Some((d.role(name)?, &d.keys)));
        let Some((role, keys)) = keys else {
            return refuse!(OutsideDelegation, "{name} is not delegated");
        };
        let file = Unverified::parse(bytes)?;
        file.count(name, role, keys)?;
        file.body()
    }

    fn online_keys_rotated(&self, old: &Root, new: &Root) -> bool {
        let keys = |root: &Root, name: &str| root.role(name).map(|role| role.keys(&root.keys)).unwrap_or_default();
        let gone = |name: &str| !keys(old, name).is_subset(&keys(new, name));
        gone("timestamp") || gone("snapshot")
    }

    fn snapshot_pin(timestamp: &Timestamp) -> &Pin {
        &timestamp.meta.snapshot
    }

    fn targets_name() -> String {
        "targets".to_owned()
    }

    fn listed(snapshot: &Snapshot) -> Vec<(String, Pin)> {
        let role = |name: &String| name.strip_suffix(".json").unwrap_or(name).to_owned();
        snapshot
            .meta
            .iter()
            .map(|(name, pin)| (role(name), pin.clone()))
            .collect()
    }

    fn pin(snapshot: &Snapshot, name: &String) -> Option<Pin> {
        snapshot.meta.get(&format!("{name}.json")).cloned()
    }

    fn pin_version(pin: &Pin) -> u64 {
        pin.version
    }

    fn check_pin(pin: &Pin, what: &str, bytes: &[u8]) -> Result<(), Refusal> {
        pin.check(what, bytes)
    }

    fn delegations_for(&self, parent: Delegator<'_, Self>, target: &String) -> Vec<Delegation<String>> {
        let roles = role(parent).delegations.as_ref().map(|d| d.for_path(target));
        let delegation = |(name, terminating)| Delegation { name, terminating };
        roles.unwrap_or_default().into_iter().map(delegation).collect()
    }

    fn describes(&self, parent: Delegator<'_, Self>, target: &String) -> bool {
        role(parent).files.contains_key(target)
    }
}

fn opened(bytes: &[u8], root: &Root, name: &str) -> Result<Unverified, Refusal> {
    let file = Unverified::parse(bytes)?;
    file.count(name, root.role(name)?, &root.keys)?;
    Ok(file)
}

fn role(delegator: Delegator<'_, Json>) -> &Targets {
    match delegator {
        Delegator::Targets(role) | Delegator::Delegated(role) => role,
    }
}
