//! The clocks of this process: the only place that reads them. Everything below takes time as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time, seconds since 1970-01-01 UTC; 0 on a clock set before that.
#[expect(clippy::disallowed_methods, reason = "this module is where the wall clock is read")]
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// True where something says that it keeps the wall clock right (NTP): systemd-timesyncd and chrony's helper leave this stamp.
pub fn synchronised() -> bool {
    std::path::Path::new("/run/systemd/timesync/synchronized").exists()
}

/// The monotonic clock: for durations and deadlines within this process, never stored.
#[expect(
    clippy::disallowed_methods,
    reason = "this module is where the monotonic clock is read"
)]
pub fn monotonic() -> Instant {
    Instant::now()
}
