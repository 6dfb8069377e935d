//! TUF 5.3: from root N to N+1.

use super::super::format::{At, Candidate, Format, Meta, Profile};
use super::{Held, Machine, reopen};
use crate::reason::Refusal;
use crate::refuse;

impl<F: Format, P: Profile<F>> Machine<F, P> {
    /// Takes the root after the held one: signed by thresholds of both, its version exactly one higher. Its expiry does not
    /// matter here: a root that has expired is still needed to reach the next (TUF 5.3.4 to 5.3.8).
    ///
    /// Roles that the new root does not cover are dropped: timestamp and snapshot when one of their keys went (TUF 5.3.11, so
    /// that a thief's fast-forward can be undone), targets when it resets what they said, every role that its keys no longer signed.
    pub fn update_root(&mut self, bytes: &[u8], at: &At) -> Result<(), Refusal> {
        let old = &self.root.body;
        let new = self.format.open_root(bytes, Some(old))?;
        let next = old.version().checked_add(1);
        if next != Some(new.version()) {
            return refuse!(
                RollbackRefused,
                "root version {} offered after {}, only the next one is taken",
                new.version(),
                old.version()
            );
        }
        let candidate = Candidate::Root {
            old: Some(old),
            new: &new,
        };
        self.profile.check(candidate, at)?;
        let rotated = self.format.online_keys_rotated(old, &new);
        let reset = self.profile.resets(old, &new);
        self.root = Held {
            bytes: bytes.to_vec(),
            body: new,
        };
        self.pending = None;
        if reset {
            self.targets = None;
        }
        self.recheck(rotated);
        Ok(())
    }

    fn recheck(&mut self, rotated: bool) {
        let root = &self.root.body;
        if rotated {
            self.timestamp = None;
            self.snapshot = None;
        }
        let timestamp = self.timestamp.take().map(|held| held.bytes);
        self.timestamp = reopen(timestamp, |b| self.format.open_timestamp(b, root));
        let snapshot = self.snapshot.take().map(|held| held.bytes);
        self.snapshot = reopen(snapshot, |b| self.format.open_snapshot(b, root));
        let targets = self.targets.take().map(|held| held.bytes);
        self.targets = reopen(targets, |b| self.format.open_targets(b, root));
        if self.targets.is_none() {
            self.delegated.clear();
        }
    }
}
