//! Memory and processor time of a process and everything below it, from `/proc`.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{pause, tree_of};

/// `sysconf(_SC_CLK_TCK)`: 100 on every Linux that matters.
pub(super) const TICKS_PER_SECOND: f64 = 100.0;
const SAMPLE: Duration = Duration::from_millis(20);

/// Proportional set size of the process tree, KiB: pages that processes share are counted once.
pub(super) fn pss(id: u32) -> u64 {
    let one = |id: u32| {
        let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
        text.lines()
            .filter_map(|l| l.strip_prefix("Pss:"))
            .filter_map(|l| l.split_whitespace().next()?.parse::<u64>().ok())
            .sum::<u64>()
    };
    tree_of(id).into_iter().map(one).sum()
}

/// User and system time of the process tree, clock ticks.
pub(super) fn ticks(id: u32) -> u64 {
    let one = |id: u32| {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields: Vec<_> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields
            .iter()
            .skip(11)
            .take(2)
            .filter_map(|f| f.parse::<u64>().ok())
            .sum::<u64>()
    };
    tree_of(id).into_iter().map(one).sum()
}

/// The highest PSS of the process tree while `work` runs, KiB.
pub(super) fn peak<T>(id: u32, work: impl FnOnce() -> T) -> (u64, T) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(pss(id));
                pause(SAMPLE);
            }
            most
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (watcher.join().unwrap_or_default(), result)
    })
}
