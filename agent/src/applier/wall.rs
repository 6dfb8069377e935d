//! What time it is, and how far that can be trusted.

use std::time::Duration;

use ensign_apply::Now;
use ensign_bundle::trust::{CLOCK_SLACK_S, Clock};

use crate::clock;

/// The wall clock, or the controller's where that vouches for one.
#[derive(Debug, Default)]
pub(super) struct Wall {
    /// Time that the controller attested, and the boot clock then.
    attested: Option<(u64, Duration)>,
    boot_id: String,
}

impl Wall {
    pub(super) fn new() -> Self {
        Self {
            attested: None,
            boot_id: clock::boot_id(),
        }
    }

    pub(super) fn attest(&mut self, time: u64) {
        self.attested = Some((time, clock::boot()));
    }

    /// Seconds since 1970. A synchronised clock is believed alone. The controller's word only moves one forward that is not, and
    /// by more than the slack: one that agrees is finer than whole seconds that travelled, and a plan that starts now starts now.
    pub(super) fn unix(&self) -> u64 {
        latest(clock::unix(), clock::synchronised(), self.attested, clock::boot())
    }

    pub(super) fn clock(&self) -> Clock {
        Clock {
            now: self.unix(),
            trusted: self.attested.is_some() || clock::synchronised(),
        }
    }

    pub(super) fn now(&self) -> Now {
        Now {
            unix_s: self.unix(),
            boot: self.boot_id.clone(),
            boot_ms: u64::try_from(clock::boot().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

fn latest(system: u64, synchronised: bool, attested: Option<(u64, Duration)>, boot: Duration) -> u64 {
    let Some((time, at)) = attested.filter(|_| !synchronised) else {
        return system;
    };
    let attested = time.saturating_add(boot.saturating_sub(at).as_secs());
    if attested > system.saturating_add(CLOCK_SLACK_S) {
        attested
    } else {
        system
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_controllers_word_moves_no_good_clock_and_none_back() {
        let system = 1_800_000_000;
        let month = 30 * 24 * 3600;
        assert_eq!(
            latest(system, true, Some((system + month, SECOND)), SECOND),
            system,
            "synchronised"
        );
        assert_eq!(
            latest(system, false, Some((system - month, SECOND)), SECOND),
            system,
            "back"
        );
        assert_eq!(
            latest(system, false, Some((system + 1, SECOND)), SECOND),
            system,
            "within the slack"
        );
        assert_eq!(
            latest(0, false, Some((system, SECOND)), 3 * SECOND),
            system + 2,
            "a clock of 1970"
        );
        assert_eq!(
            latest(0, false, Some((u64::MAX, SECOND)), 3 * SECOND),
            u64::MAX,
            "no overflow"
        );
    }
}
