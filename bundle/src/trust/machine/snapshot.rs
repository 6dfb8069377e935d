//! TUF 5.5: the snapshot.

use super::super::format::{At, Candidate, Format, Profile};
use super::{Held, Machine, Step, check_expiry, check_pinned, check_version, present};
use crate::reason::Refusal;
use crate::refuse;

impl<F: Format, P: Profile<F>> Machine<F, P> {
    /// Takes the snapshot that the timestamp names: exactly its bytes where pinned, exactly its version, and no listed role
    /// goes back (TUF 5.5.2 to 5.5.6). A snapshot that drops roles waits for its targets to allow that, if the profile may.
    pub fn update_snapshot(&mut self, bytes: &[u8], at: &At) -> Result<Step, Refusal> {
        self.check_root_fresh(at)?;
        let timestamp = present(self.timestamp.as_ref(), "timestamp")?;
        if at.online {
            check_expiry("timestamp", &timestamp.body, at.now)?;
        }
        if self.snapshot.as_ref().is_some_and(|held| held.bytes == bytes) {
            return self.keep_snapshot(at);
        }
        let pin = F::snapshot_pin(&timestamp.body);
        F::check_pin(pin, "snapshot", bytes)?;
        let new = self.format.open_snapshot(bytes, &self.root.body)?;
        check_version("the snapshot", &new, F::pin_version(pin))?;
        let left = self.check_listed(&new)?;
        if at.online {
            check_expiry("snapshot", &new, at.now)?;
        }
        let candidate = Candidate::Snapshot {
            root: &self.root.body,
            new: &new,
        };
        self.profile.check(candidate, at)?;
        let held = Held {
            bytes: bytes.to_vec(),
            body: new,
        };
        if left.is_empty() {
            self.commit_snapshot(held);
            return Ok(Step::Updated);
        }
        let same_targets = self
            .snapshot
            .as_ref()
            .is_some_and(|old| F::pin(&old.body, &F::targets_name()) == F::pin(&held.body, &F::targets_name()));
        match &self.targets {
            Some(targets) if same_targets => {
                self.check_leaving(&held.body, &targets.body)?;
                self.commit_snapshot(held);
            }
            _ => self.pending = Some(held),
        }
        Ok(Step::Updated)
    }

    /// True when the held snapshot (or the one that waits for its targets) is the one that the timestamp names.
    pub(super) fn snapshot_is_current(&self) -> bool {
        let newest = self.pending.as_ref().or(self.snapshot.as_ref());
        match (&self.timestamp, newest) {
            (Some(timestamp), Some(snapshot)) => {
                check_pinned::<F, _>("snapshot", snapshot, F::snapshot_pin(&timestamp.body)).is_ok()
            }
            _ => false,
        }
    }

    pub(super) fn commit_snapshot(&mut self, held: Held<F::Snapshot>) {
        self.delegated.retain(|name, role| {
            F::pin(&held.body, name).is_some_and(|pin| check_pinned::<F, _>("role", role, &pin).is_ok())
        });
        self.snapshot = Some(held);
        self.pending = None;
    }

    /// Refuses when a role that the held snapshot lists has vanished from `new` and `targets` does not let it go.
    pub(super) fn check_leaving(&self, new: &F::Snapshot, targets: &F::Targets) -> Result<(), Refusal> {
        let Some(old) = &self.snapshot else { return Ok(()) };
        for (name, pin) in F::listed(&old.body) {
            if F::pin(new, &name).is_none() && !self.profile.may_leave(&name, &pin, &old.body, targets) {
                return refuse!(RollbackRefused, "the snapshot no longer lists {name}");
            }
        }
        Ok(())
    }

    fn keep_snapshot(&mut self, at: &At) -> Result<Step, Refusal> {
        if !self.snapshot_is_current() {
            return refuse!(
                ContentMismatch,
                "the held snapshot is not the one that the timestamp names"
            );
        }
        if at.online {
            check_expiry("snapshot", &present(self.snapshot.as_ref(), "snapshot")?.body, at.now)?;
        }
        Ok(Step::Unchanged)
    }

    /// No listed role goes back. Returns those that are gone.
    fn check_listed(&self, new: &F::Snapshot) -> Result<Vec<F::Name>, Refusal> {
        let mut left = Vec::new();
        let Some(old) = &self.snapshot else { return Ok(left) };
        for (name, pin) in F::listed(&old.body) {
            match F::pin(new, &name) {
                Some(offered) if F::pin_version(&offered) < F::pin_version(&pin) => {
                    return refuse!(
                        RollbackRefused,
                        "the snapshot lists {name} version {}, before it was {}",
                        F::pin_version(&offered),
                        F::pin_version(&pin)
                    );
                }
                Some(_) => {}
                None if name == F::targets_name() => {
                    return refuse!(RollbackRefused, "the snapshot no longer lists {name}");
                }
                None => left.push(name),
            }
        }
        Ok(left)
    }
}
