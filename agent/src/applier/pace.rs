//! How often the link half may make the applier write: each offer, time and acknowledgement may cost a sync of the disk, and a flash that
//! is worn out by lies is broken all the same.

use std::time::Duration;

/// Messages at once. An update of an honest link half has about ten.
const BURST: u32 = 50;
/// One more in each such time.
const EACH: Duration = Duration::from_millis(50);

/// Messages that may still be taken. It outlives connections.
#[derive(Debug)]
pub(super) struct Pace {
    left: u32,
    /// Up to when `left` was counted, boot clock.
    counted: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            left: BURST,
            counted: Duration::ZERO,
        }
    }

    /// Notes that one was taken.
    pub(super) fn took(&mut self, now: Duration) {
        self.count(now);
        self.left = self.left.saturating_sub(1);
    }

    /// How long nothing more is read.
    pub(super) fn rest(&mut self, now: Duration) -> Option<Duration> {
        self.count(now);
        (self.left == 0).then(|| (self.counted + EACH).saturating_sub(now))
    }

    fn count(&mut self, now: Duration) {
        let more = now.saturating_sub(self.counted).as_millis() / EACH.as_millis();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if self.left.saturating_add(more) >= BURST {
            (self.left, self.counted) = (BURST, now);
        } else {
            self.left += more;
            self.counted += EACH * more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_at_once_and_the_rest_in_its_time() {
        let mut pace = Pace::new();
        let start = Duration::from_secs(1000);
        for _ in 0..BURST {
            assert_eq!(pace.rest(start), None);
            pace.took(start);
        }
        assert_eq!(pace.rest(start), Some(EACH));
        // A flood for ten seconds, asking each millisecond.
        let mut taken = 0;
        for milli in 0..10_000 {
            let now = start + Duration::from_millis(milli);
            if pace.rest(now).is_none() {
                pace.took(now);
                taken += 1;
            }
        }
        assert_eq!(taken, 199);
        let later = start + Duration::from_secs(60);
        for _ in 0..BURST {
            assert_eq!(pace.rest(later), None, "as before");
            pace.took(later);
        }
    }
}
