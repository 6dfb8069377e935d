//! How long to wait before the next try: exponential with full jitter, so that a fleet that lost its controller does not come back as one.

use std::time::Duration;

/// Upper end of the first wait: a controller that restarts is back within a second.
const FIRST: Duration = Duration::from_millis(500);
/// Upper end of every wait.
const CAP: Duration = Duration::from_secs(60);
/// Doublings after which the cap is reached for certain.
const DOUBLINGS: u32 = 7;

/// Failed tries in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next try: uniform between zero and min(60 s, 500 ms · 2^failures). `random` is any random number.
    pub fn next(&mut self, random: u64) -> Duration {
        let window = self.window();
        self.failures = self.failures.saturating_add(1);
        let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random % nanos.max(1))
    }

    /// Longest possible next wait.
    pub fn window(&self) -> Duration {
        CAP.min(FIRST * (1 << self.failures.min(DOUBLINGS)))
    }

    /// A try succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_double_up_to_the_cap_and_start_again() {
        let mut backoff = Backoff::default();
        let mut windows = Vec::new();
        for _ in 0..10 {
            windows.push(backoff.window().as_millis());
            backoff.next(0);
        }
        assert_eq!(
            windows,
            [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]
        );
        backoff.reset();
        assert_eq!(backoff, Backoff::default());
    }

    #[test]
    fn jitter_covers_the_whole_window_and_never_more() {
        for random in [0, 1, 499_999_999, 500_000_000, u64::MAX] {
            assert!(Backoff::default().next(random) < FIRST);
        }
        assert_eq!(Backoff::default().next(499_999_999), Duration::from_nanos(499_999_999));
        let mut long = Backoff { failures: u32::MAX };
        assert!(long.next(u64::MAX) < CAP);
        assert_eq!(long.failures, u32::MAX);
    }
}
