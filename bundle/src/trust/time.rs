//! Refusing what is late without trusting a clock that someone else sets.

use std::collections::BTreeSet;

use ensign_crypto::KeyId;
use serde::{Deserialize, Serialize};

use super::format::At;
use super::roles::Root;
use crate::limits;

/// A system clock this far behind the floor is wrong, seconds.
pub const CLOCK_SLACK_S: u64 = 600;

/// What the shell knows of the time. Each part is believed for what it is worth and no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The system's clock, seconds since the epoch.
    pub now: u64,
    /// Something keeps the system's clock right (NTP).
    pub synchronised: bool,
    /// The time that a [`TimeAttestation`](crate::plan::evidence::TimeAttestation) gave, carried on by the boot clock since then.
    pub attested: Option<u64>,
}

impl Clock {
    /// A clock that nothing vouches for: no battery, not yet synchronised.
    pub fn untrusted(now: u64) -> Self {
        Self {
            now,
            synchronised: false,
            attested: None,
        }
    }

    /// Such a clock, and what the controller says it is.
    pub fn attested(now: u64, time: u64) -> Self {
        Self {
            attested: Some(time),
            ..Self::untrusted(now)
        }
    }

    /// The time to show and to wait by. A synchronised clock is believed alone. The controller's word only moves one forward that
    /// is not, and by more than the slack: one that agrees is finer than whole seconds that travelled.
    pub fn wall(&self) -> u64 {
        match self.attested {
            Some(time) if !self.synchronised && time > self.now.saturating_add(CLOCK_SLACK_S) => time,
            _ => self.now,
        }
    }
}

/// A synchronised clock.
impl From<u64> for Clock {
    fn from(now: u64) -> Self {
        Self {
            now,
            synchronised: true,
            attested: None,
        }
    }
}

/// The latest times that signed documents prove. Only signed times enter, never the system clock: one wrong clock must not block
/// a device for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeFloors {
    /// `issued` of offline roles: permanent.
    offline: u64,
    /// `issued` of online roles, and attestations: only as good as the timestamp keys, so it goes when one of them goes.
    online: u64,
    online_keys: BTreeSet<KeyId>,
}

impl TimeFloors {
    pub(super) fn saw_offline(&mut self, issued: u64) {
        self.offline = self.offline.max(issued);
    }

    pub(super) fn saw_online(&mut self, issued: u64, root: &Root) {
        self.follow(root);
        self.online = self.online.max(issued);
    }

    /// Drops the online slot when one of the keys it rests on is no timestamp key any more.
    pub(super) fn follow(&mut self, root: &Root) {
        let keys = timestamp_keys(root);
        if !self.online_keys.is_subset(&keys) {
            self.online = 0;
        }
        self.online_keys = keys;
    }

    /// Root says that the floor was poisoned: start again from there.
    pub(super) fn reset(&mut self, offline: u64) {
        self.offline = offline;
        self.online = 0;
    }

    /// The latest time that is proven.
    pub(super) fn proven(&self) -> u64 {
        self.offline.max(self.online)
    }

    /// True when the system's clock cannot be right: nothing keeps it right, or it is behind what signed documents prove.
    pub(super) fn suspects(&self, clock: Clock) -> bool {
        !clock.synchronised || self.is_behind(clock)
    }

    /// True when there is a time to refuse by what is late: a clock that is not suspect, or the controller's word for this run.
    pub(super) fn allows(&self, clock: Clock) -> bool {
        clock.attested.is_some() || !self.suspects(clock)
    }

    fn is_behind(&self, clock: Clock) -> bool {
        clock.now.saturating_add(CLOCK_SLACK_S) < self.proven()
    }

    /// The times to judge by: never before what is proven. Root's own expiry looks at offline proof and a synchronised clock only,
    /// so that stolen online keys cannot make the root that evicts them look expired, neither by what they sign nor by what they
    /// attest.
    pub(super) fn judge(&self, clock: Clock, online: bool) -> At {
        let offline_or_system = if clock.synchronised {
            self.offline.max(clock.now)
        } else {
            self.offline
        };
        At {
            root: offline_or_system,
            now: self.proven().max(clock.wall()),
            latest_issue: self.latest_issue(clock),
            online,
        }
    }

    /// Nothing is issued later than this; none = no clock to say so. One that signed documents prove to be late does not decide.
    pub(super) fn latest_issue(&self, clock: Clock) -> Option<u64> {
        let now = self.offline.max(clock.now);
        clock.synchronised.then_some(now.saturating_add(limits::ISSUED_AHEAD_S))
    }
}

fn timestamp_keys(root: &Root) -> BTreeSet<KeyId> {
    root.roles
        .timestamp
        .keys
        .iter()
        .map(ensign_crypto::PublicKey::id)
        .collect()
}
