//! How long to wait before the next try: exponential with full jitter, so that a fleet that lost its controller does not come back as one.

use std::time::Duration;

use ensign_bundle::reason::Code;

/// Upper end of the first wait: a controller that restarts is back within a second.
const FIRST: Duration = Duration::from_millis(500);
/// Upper end of every wait.
const CAP: Duration = Duration::from_secs(60);
/// Upper end of every wait for a controller on this machine: one device is no herd, and there is no network to spare.
const LOCAL_CAP: Duration = Duration::from_secs(2);
/// Doublings after which the cap is reached for certain.
const DOUBLINGS: u32 = 7;
/// A welcome that came to nothing counts as this many failures: whoever welcomes is there, and a window of 2 s is enough for one that
/// is restarted again and again.
const WELCOMED: u32 = 3;
/// A session that lived this long after its welcome was a success: the next wait starts small again.
const SETTLED: Duration = Duration::from_secs(5);

/// Failed tries in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes how a session ended that lived `lived` after its welcome; `None` = it never was welcomed, however long that took.
    pub fn ended(&mut self, lived: Option<Duration>) {
        self.failures = match lived {
            None => self.failures.saturating_add(1),
            Some(lived) if lived >= SETTLED => 0,
            Some(_) => WELCOMED.min(self.failures.saturating_add(1)),
        };
    }

    /// The wait before the next try: uniform between zero and the window. `random` is any random number.
    pub fn wait(self, local: bool, random: u64) -> Duration {
        let nanos = u64::try_from(self.window(local).as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random % nanos.max(1))
    }

    /// min(60 s, 500 ms · 2^(failures - 1)), on this machine at most 2 s.
    fn window(self, local: bool) -> Duration {
        let cap = if local { LOCAL_CAP } else { CAP };
        cap.min(FIRST * (1 << self.failures.saturating_sub(1).min(DOUBLINGS)))
    }
}

/// What was last said of a controller that cannot be had: the same again is said ever more rarely, at the pace of the longest waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Complaint {
    /// The reason, when it was said, and how often in a row.
    said: Option<(Code, Duration, u32)>,
}

impl Complaint {
    /// Whether to say at `now` (boot clock) that there is no session for this reason; `lived` as for [`Backoff::ended`].
    pub fn is_due(&mut self, code: Code, lived: Option<Duration>, now: Duration) -> bool {
        let times = match self.said {
            // After a session that was one, its end is news.
            Some((same, at, times)) if same == code && lived.is_none_or(|lived| lived < SETTLED) => {
                if now.saturating_sub(at) < CAP.min(FIRST * (1 << times.min(DOUBLINGS))) {
                    return false;
                }
                times
            }
            _ => 0,
        };
        self.said = Some((code, now, times.saturating_add(1)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Option<Duration> = Some(Duration::from_secs(1));

    fn windows(local: bool, lived: Option<Duration>) -> Vec<u128> {
        let mut backoff = Backoff::default();
        let next = |_| {
            backoff.ended(lived);
            backoff.window(local).as_millis()
        };
        (0..10).map(next).collect()
    }

    #[test]
    fn windows_double_up_to_the_cap_while_nobody_answers() {
        let doubled = [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000];
        assert_eq!(windows(false, None), doubled);
        assert_eq!(windows(true, None)[..4], [500, 1000, 2000, 2000]);
    }

    #[test]
    fn a_controller_that_welcomes_is_back_within_seconds_however_often_it_falls() {
        let most = 2000;
        assert_eq!(windows(false, SHORT)[..4], [500, 1000, 2000, 2000]);
        assert!(windows(false, SHORT).into_iter().all(|w| w <= most));
        let mut backoff = Backoff { failures: 20 };
        backoff.ended(SHORT);
        assert!(backoff.window(false).as_millis() <= most);
    }

    #[test]
    fn a_session_that_lived_starts_anew() {
        let mut backoff = Backoff { failures: 20 };
        backoff.ended(Some(SETTLED));
        assert_eq!(backoff.window(false), FIRST);
        // One more failure is the first again.
        backoff.ended(None);
        assert_eq!(backoff.window(false), FIRST);
    }

    #[test]
    fn the_same_trouble_is_said_ever_more_rarely_and_another_at_once() {
        let mut complaint = Complaint::default();
        // A try every half second for ten minutes, as with a controller on this machine.
        let tries = |from: u64| (0..1200).map(move |n| Duration::from_millis(from + n * 500));
        let mut said: Vec<u64> = Vec::new();
        for now in tries(0) {
            if complaint.is_due(Code::ControllerUnreachable, None, now) {
                said.push(now.as_secs());
            }
        }
        assert_eq!(said[..7], [0, 1, 3, 7, 15, 31, 63]);
        assert!(said.windows(2).skip(6).all(|w| w[1] - w[0] == 60), "{said:?}");
        let now = Duration::from_secs(600);
        assert!(complaint.is_due(Code::Revoked, None, now), "another reason");
        assert!(!complaint.is_due(Code::Revoked, SHORT, now));
        assert!(
            complaint.is_due(Code::Revoked, Some(SETTLED), now),
            "a session that ends"
        );
    }

    #[test]
    fn jitter_covers_the_whole_window_and_never_more() {
        for random in [0, 1, 499_999_999, 500_000_000, u64::MAX] {
            assert!(Backoff::default().wait(false, random) < FIRST);
        }
        assert_eq!(
            Backoff::default().wait(false, 499_999_999),
            Duration::from_nanos(499_999_999)
        );
        let mut long = Backoff { failures: u32::MAX };
        long.ended(None);
        assert!(long.wait(false, u64::MAX) < CAP);
    }
}
