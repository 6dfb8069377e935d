//! When time alone changes the plan: the controller sleeps until then, and never polls.

use crate::fleet::Fleet;
use crate::planner;
use crate::rollout::{Rollout, Stage};
use crate::rules::{self, Soak};

/// The next time after `now` at which [`crate::plan`] may say something new although nothing happened; `None` = only an event can
/// change anything. Meant for a fleet whose plan is empty at `now`.
pub fn next_wakeup(fleet: &Fleet, now: u64) -> Option<u64> {
    let frozen = fleet.freeze().is_some();
    fleet
        .live()
        .flat_map(|rollout| times(rollout, now, frozen))
        .filter(|at| *at > now)
        .min()
}

fn times(rollout: &Rollout, now: u64, frozen: bool) -> Vec<u64> {
    let mut times = vec![rollout.spec.expires];
    times.extend(rollout.index.deadlines.first().map(|(at, _)| *at));
    if frozen || !rollout.serves() {
        return times;
    }
    times.push(rollout.spec.not_before);
    if let Some(rate) = rollout.spec.pace.rate_per_h
        && !rollout.index.ready.is_empty()
    {
        times.push(rules::rate_opens_at(rollout.rate_due_ms, rate));
    }
    // Receipts end a soak and are events; only `dwell` goes by this clock.
    if matches!(rollout.stage, Stage::Running)
        && let Some((number, wave)) = planner::current(rollout)
        && rules::is_settled(&wave.counts)
        && let Soak::Left { needed: 0, seconds, .. } = rules::soak(rollout, number, wave, now)
    {
        times.push(now.saturating_add(seconds));
    }
    times
}
