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

    /// Seconds since 1970. The controller's word corrects a clock that is wrong; one that agrees is finer than whole seconds that
    /// travelled, and a plan that starts now starts now.
    pub(super) fn unix(&self) -> u64 {
        let system = clock::unix();
        match self.attested {
            Some((time, at)) => {
                let attested = time + clock::boot().saturating_sub(at).as_secs();
                if system.abs_diff(attested) <= CLOCK_SLACK_S {
                    system
                } else {
                    attested
                }
            }
            None => system,
        }
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
