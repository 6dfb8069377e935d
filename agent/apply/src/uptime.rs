//! Time that nobody can set: the boot clock, summed over boots.

use serde::{Deserialize, Serialize};

/// The moment of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Wall clock, seconds since 1970: for people and receipts, decides nothing here.
    pub unix_s: u64,
    /// Identity of this boot.
    pub boot: String,
    /// CLOCK_BOOTTIME, milliseconds.
    pub boot_ms: u64,
}

/// How long something has been running. A reboot pauses it and never resets it; what passed after the last record is lost with
/// a power cut, never invented.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uptime {
    /// Earlier boots and earlier records of this one, milliseconds.
    base_ms: u64,
    boot: String,
    /// Boot clock at the last record.
    since_ms: u64,
}

impl Uptime {
    /// A clock that starts now.
    pub fn start(now: &Now) -> Self {
        Self {
            base_ms: 0,
            boot: now.boot.clone(),
            since_ms: now.boot_ms,
        }
    }

    /// Milliseconds up to `now`.
    pub fn elapsed_ms(&self, now: &Now) -> u64 {
        if self.boot == now.boot {
            self.base_ms.saturating_add(now.boot_ms.saturating_sub(self.since_ms))
        } else {
            self.base_ms
        }
    }

    /// The same, counted from `now` on.
    #[must_use]
    pub fn carried(&self, now: &Now) -> Self {
        Self {
            base_ms: self.elapsed_ms(now),
            boot: now.boot.clone(),
            since_ms: now.boot_ms,
        }
    }

    /// The same, going on at `now` after a pause.
    #[must_use]
    pub fn resumed(&self, now: &Now) -> Self {
        Self {
            base_ms: self.base_ms,
            ..Self::start(now)
        }
    }

    /// Milliseconds since the last record, where that was in this boot.
    pub fn unrecorded_ms(&self, now: &Now) -> u64 {
        self.elapsed_ms(now) - self.base_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: &str, boot_ms: u64) -> Now {
        Now {
            unix_s: 0,
            boot: boot.to_owned(),
            boot_ms,
        }
    }

    #[test]
    fn a_reboot_pauses_and_never_resets() {
        let up = Uptime::start(&at("a", 1000)).carried(&at("a", 4000));
        assert_eq!(up.elapsed_ms(&at("a", 5000)), 4000);
        assert_eq!(up.elapsed_ms(&at("b", 90_000)), 3000);
        let up = up.carried(&at("b", 10));
        assert_eq!(up.elapsed_ms(&at("b", 510)), 3500);
        assert_eq!(up.unrecorded_ms(&at("b", 510)), 500);
    }
}
