//! The wall clock: read here and nowhere else.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Unix seconds.
#[expect(clippy::disallowed_methods, reason = "this is the module that reads the wall clock")]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// For measuring how long something takes.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that reads the monotonic clock"
)]
pub fn monotonic() -> Instant {
    Instant::now()
}
