//! TUF 5.6: targets and the roles that it delegates to.

use std::collections::BTreeMap;

use super::super::format::{At, Candidate, Delegator, Format, Profile};
use super::{Held, Machine, Step, check_expiry, check_pinned, check_version, listed, present};
use crate::reason::Refusal;
use crate::refuse;

impl<F: Format, P: Profile<F>> Machine<F, P> {
    /// Takes the targets that the newest snapshot lists. A snapshot that waits for them becomes trusted with them, or is
    /// dropped when they do not let go what it drops.
    pub fn update_targets(&mut self, bytes: &[u8], at: &At) -> Result<Step, Refusal> {
        let result = self.try_targets(bytes, at);
        if result.is_err() {
            self.pending = None;
        }
        result
    }

    fn try_targets(&mut self, bytes: &[u8], at: &At) -> Result<Step, Refusal> {
        let snapshot = self.newest_snapshot(at)?;
        let name = F::targets_name();
        let pin = listed::<F>(&snapshot.body, &name)?;
        F::check_pin(&pin, "targets", bytes)?;
        let new = self.format.open_targets(bytes, &self.root.body)?;
        check_version("targets", &new, F::pin_version(&pin))?;
        check_expiry("targets", &new, at.now)?;
        let candidate = Candidate::Targets {
            root: &self.root.body,
            old: self.targets.as_ref().map(|held| &held.body),
            new: &new,
        };
        self.profile.check(candidate, at)?;
        if let Some(pending) = &self.pending {
            self.check_leaving(&pending.body, &new)?;
        }
        if let Some(pending) = self.pending.take() {
            self.commit_snapshot(pending);
        }
        let unchanged = self.targets.as_ref().is_some_and(|held| held.bytes == bytes);
        self.targets = Some(Held {
            bytes: bytes.to_vec(),
            body: new,
        });
        if unchanged {
            return Ok(Step::Unchanged);
        }
        // Keys may have left: what is still covered is found out by counting again.
        let held = std::mem::take(&mut self.delegated);
        self.restore_delegated(held.into_iter().map(|(name, held)| (name, held.bytes)).collect());
        Ok(Step::Updated)
    }

    /// Takes a delegated role that the snapshot lists and the top-level targets delegate to, checked exactly as targets are.
    pub fn update_delegated(&mut self, name: &F::Name, bytes: &[u8], at: &At) -> Result<Step, Refusal> {
        self.update_delegated_by(None, name, bytes, at)
    }

    /// The same for a role to which `parent` delegates; `None` = the top-level targets.
    pub(super) fn update_delegated_by(
        &mut self,
        parent: Option<&F::Name>,
        name: &F::Name,
        bytes: &[u8],
        at: &At,
    ) -> Result<Step, Refusal> {
        self.check_fresh(at)?;
        let snapshot = present(self.snapshot.as_ref(), "snapshot")?;
        let targets = present(self.targets.as_ref(), "targets")?;
        let pin = listed::<F>(&snapshot.body, name)?;
        let what = name.to_string();
        F::check_pin(&pin, &what, bytes)?;
        let new = self.open_delegated(parent, name, bytes)?;
        check_version(&what, &new, F::pin_version(&pin))?;
        check_expiry(&what, &new, at.now)?;
        let candidate = Candidate::Delegated {
            root: &self.root.body,
            targets: &targets.body,
            pin: &pin,
            name,
            new: &new,
        };
        self.profile.check(candidate, at)?;
        let held = Held {
            bytes: bytes.to_vec(),
            body: new,
        };
        match self.delegated.insert(name.clone(), held) {
            Some(old) if old.bytes == bytes => Ok(Step::Unchanged),
            _ => Ok(Step::Updated),
        }
    }

    /// A delegated role that is held (so a delegator that is held vouched for it), listed by the newest snapshot and unexpired.
    pub fn fresh_delegated(&self, name: &F::Name, at: &At) -> Result<&Held<F::Delegated>, Refusal> {
        self.check_fresh(at)?;
        let snapshot = present(self.snapshot.as_ref(), "snapshot")?;
        let pin = listed::<F>(&snapshot.body, name)?;
        let what = name.to_string();
        let held = present(self.delegated.get(name), &what)?;
        check_pinned::<F, _>(&what, held, &pin)?;
        check_expiry(&what, &held.body, at.now)?;
        Ok(held)
    }

    /// Opens a role with the keys that `parent` gives it; `None` = the top-level targets.
    pub(super) fn open_delegated(
        &self,
        parent: Option<&F::Name>,
        name: &F::Name,
        bytes: &[u8],
    ) -> Result<F::Delegated, Refusal> {
        let parent = match parent {
            Some(parent) => Delegator::Delegated(&present(self.delegated.get(parent), &parent.to_string())?.body),
            None => Delegator::Targets(&present(self.targets.as_ref(), "targets")?.body),
        };
        self.format.open_delegated(bytes, name, parent)
    }

    /// Holds again what the targets or a role held again vouch for; the rest is fetched anew when it is asked for.
    pub(super) fn restore_delegated(&mut self, mut stored: BTreeMap<F::Name, Vec<u8>>) {
        let mut parents = vec![None];
        while let Some(parent) = parents.pop() {
            let opened: Vec<_> = stored
                .iter()
                .filter_map(|(name, bytes)| {
                    Some((name.clone(), self.open_delegated(parent.as_ref(), name, bytes).ok()?))
                })
                .collect();
            for (name, body) in opened {
                if let Some(bytes) = stored.remove(&name) {
                    self.delegated.insert(name.clone(), Held { bytes, body });
                    parents.push(Some(name));
                }
            }
        }
    }

    fn newest_snapshot(&self, at: &At) -> Result<&Held<F::Snapshot>, Refusal> {
        self.check_root_fresh(at)?;
        let timestamp = present(self.timestamp.as_ref(), "timestamp")?;
        let snapshot = present(self.pending.as_ref().or(self.snapshot.as_ref()), "snapshot")?;
        if !self.snapshot_is_current() {
            return refuse!(MetadataMissing, "the snapshot that the timestamp names is not there");
        }
        if at.online {
            check_expiry("timestamp", &timestamp.body, at.now)?;
            check_expiry("snapshot", &snapshot.body, at.now)?;
        }
        Ok(snapshot)
    }
}
