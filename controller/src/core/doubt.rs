//! A clock of this machine that cannot be believed: then nothing is signed with its time, and nothing happens because of it.
//!
//! A device without a synchronised clock takes the controller's word for the time and keeps it as a floor: a controller that once said
//! 2100 would stop updates there until the timestamp key is replaced.

use ensign_api::Reason;
use ensign_bundle::limits;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::utc;
use ensign_bundle::trust::Authority;

use super::state::State;

impl State {
    /// Why the clock is not believed; `None` where it is.
    ///
    /// It may be ahead of the newest signed time in the ledger by one life of a timestamp, the 3 days of a default fleet: that is how far
    /// a wrong time can hold devices up, and a controller that runs signs one each third of it. Further only where something keeps the
    /// clock right.
    pub(super) fn clock_doubt(&self, signed: u64) -> Option<Refusal> {
        if self.synchronised || self.parts.config.trust_clock {
            return None;
        }
        let newest = self.newest_signed().max(signed);
        let ahead = self.roles.root().policy.timestamp_life_s.unwrap_or(0);
        let ahead = ahead.max(limits::TIMESTAMP_LIFE_S);
        (self.now > newest.saturating_add(ahead)).then(|| {
            let text = format!(
                "the clock of the controller says {}, {} s after the newest signed time that it knows ({}), and nothing synchronises it",
                utc(self.now),
                self.now - newest,
                utc(newest)
            );
            Refusal::new(Code::ClockSuspect, text)
        })
    }

    /// Why no time is attested: the clock is not believed, or it is one at which a role of this fleet has expired.
    pub(super) fn attest_doubt(&self) -> Option<Refusal> {
        self.clock_doubt(0).or_else(|| {
            let root = self.roles.root();
            let roles = [
                ("root", root.expires),
                ("targets", self.roles.targets.expires),
                ("snapshot", self.roles.snapshot.expires),
                ("timestamp", self.roles.timestamp.expires),
            ];
            let (name, expires) = roles.into_iter().find(|(_, expires)| *expires <= self.now)?;
            let text = format!(
                "the clock of the controller says {}, {name} expired at {}: no time is attested to devices",
                utc(self.now),
                utc(expires)
            );
            Some(Refusal::new(Code::ClockSuspect, text))
        })
    }

    /// What new evidence and orders are judged by. A clock that is not believed calls nothing too late.
    pub(super) fn authority(&self) -> Authority<'_> {
        let believed = self.clock_doubt(0).is_none();
        Authority {
            root: self.roles.root(),
            targets: self.roles.targets().ok(),
            fleet: &self.fleet.fleet,
            latest_issue: believed.then_some(self.now.saturating_add(limits::ISSUED_AHEAD_S)),
        }
    }

    pub(super) fn view_clock(&self) -> Option<Reason> {
        let Refusal { code, text } = self.attest_doubt()?;
        Some(Reason { code, text })
    }

    fn newest_signed(&self) -> u64 {
        let roles = [&self.roles.targets, &self.roles.snapshot, &self.roles.timestamp];
        let roles = roles.into_iter().map(|row| row.issued);
        let releases = self.releases.values().map(|row| row.document.issued);
        roles.chain(releases).fold(self.roles.root().issued, u64::max)
    }
}
