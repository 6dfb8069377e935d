//! The only module of the device that reads clocks.
#![expect(clippy::disallowed_methods, reason = "this is the module made for reading clocks")]

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Time since the machine started, suspension included (CLOCK_BOOTTIME): leases, trials and soaks count on it. Nobody sets it.
pub fn boot() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    Duration::from(time) + AHEAD.get()
}

/// Wall clock, seconds since 1970. 0 where it stands before that.
pub fn unix() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Changes with every start of the machine.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let id = id.map_or_else(|_| String::new(), |id| id.trim().to_owned());
    match RESTARTS.get() {
        0 => id,
        n => format!("{id}+{n}"),
    }
}

thread_local! {
    static AHEAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static RESTARTS: Cell<u32> = const { Cell::new(0) };
}

/// Lets the boot clock of this thread go ahead. For tests that run a whole device in one thread: they wait for nothing.
pub fn go_ahead(time: Duration) {
    AHEAD.set(AHEAD.get().saturating_add(time));
}

/// Gives this thread a boot that no other had: for tests of what follows a power cut.
pub fn restart() {
    static ALL: AtomicU32 = AtomicU32::new(0);
    RESTARTS.set(ALL.fetch_add(1, Ordering::Relaxed).saturating_add(1));
}

/// True where systemd-timesyncd says that it keeps the wall clock right. What other programs keep counts as not synchronised, and is
/// vouched for by the controller instead: docs/decisions/0009-who-says-the-clock-is-right.md.
pub fn synchronised() -> bool {
    std::path::Path::new("/run/systemd/timesync/synchronized").exists()
}
