//! Refusing what is late without trusting a clock that someone else sets.

use std::collections::BTreeSet;

use ensign_crypto::KeyId;
use serde::{Deserialize, Serialize};

use super::format::At;
use super::roles::Root;
use crate::limits;

/// A system clock this far behind the floor is wrong, seconds.
pub const CLOCK_SLACK_S: u64 = 600;

/// What the shell knows of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Seconds since the epoch.
    pub now: u64,
    /// Synchronised (NTP), or set by a time attestation since the boot.
    pub trusted: bool,
}

impl Clock {
    /// A clock that nothing vouches for: no battery, not yet synchronised.
    pub fn untrusted(now: u64) -> Self {
        Self { now, trusted: false }
    }
}

/// A trusted clock.
impl From<u64> for Clock {
    fn from(now: u64) -> Self {
        Self { now, trusted: true }
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

    /// True when the clock can be used to refuse what is late: it is trusted and not behind what is proven.
    pub(super) fn allows(&self, clock: Clock) -> bool {
        clock.trusted && clock.now.saturating_add(CLOCK_SLACK_S) >= self.proven()
    }

    /// The times to judge by: never before what is proven. Root's own expiry looks at offline proof and a trusted clock only, so
    /// that stolen online keys cannot make the root that evicts them look expired.
    pub(super) fn judge(&self, clock: Clock, online: bool) -> At {
        At {
            root: self.offline.max(if clock.trusted { clock.now } else { 0 }),
            now: self.proven().max(clock.now),
            latest_issue: clock
                .trusted
                .then_some(clock.now.max(self.offline).saturating_add(limits::ISSUED_AHEAD_S)),
            online,
        }
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
