//! The rules that stop a rollout, end a wave and open the next one; each says its numbers.

use ensign_bundle::digest::DeviceId;
use ensign_bundle::plan::statements::{Bound, Evidence};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::words::{show_count, show_share};

use crate::member::{Counts, Outcome};
use crate::rollout::{Rollout, Wave};

/// Control devices below which a share of them says nothing.
pub(crate) const CONTROL_AT_LEAST: u32 = 20;
/// All of something, basis points.
const ALL_BP: u64 = 10_000;
const MS: u64 = 1000;
/// An hour, milliseconds.
const HOUR_MS: u64 = 3600 * MS;
/// How far offers may run ahead of an even pace, milliseconds: a minute's worth may go out at once.
const BURST_MS: u64 = 60 * MS;

/// The stop rule that is broken, counted since the last resume.
pub(crate) fn breach(rollout: &Rollout) -> Option<Refusal> {
    too_many_failed(rollout).or_else(|| too_many_dark(rollout))
}

fn too_many_failed(rollout: &Rollout) -> Option<Refusal> {
    let (stop, tally) = (&rollout.spec.pace.stop, rollout.index.tally);
    let finished = tally.ok + tally.failed;
    let wave_of_one = of_one(rollout, |wave| wave.tally.failed);
    let why = match stop.failed {
        Bound::Count(limit) => (tally.failed >= limit.max(1))
            .then(|| format!("{} failed, the plan stops at {limit}", devices(tally.failed))),
        Bound::BasisPoints(bp) if finished >= stop.min_sample.max(1) => {
            (tally.failed > 0 && reaches(tally.failed, finished, bp)).then(|| {
                format!(
                    "{} of {} that finished failed, the plan stops at {}",
                    tally.failed,
                    devices(finished),
                    show_share(bp)
                )
            })
        }
        Bound::BasisPoints(_) => small(tally.failed, wave_of_one, "failed", stop.min_sample),
    };
    why.map(|text| Refusal::new(Code::TooManyFailed, text))
}

fn too_many_dark(rollout: &Rollout) -> Option<Refusal> {
    let (stop, tally, control) = (&rollout.spec.pace.stop, rollout.index.tally, rollout.control);
    let took = tally.ok + tally.failed + tally.dark;
    let wave_of_one = of_one(rollout, |wave| wave.tally.dark);
    let why = match stop.dark {
        Bound::Count(limit) => (tally.dark >= limit.max(1))
            .then(|| format!("{} went dark, the plan stops at {limit}", devices(tally.dark))),
        Bound::BasisPoints(bp) if control.devices >= CONTROL_AT_LEAST && took >= stop.min_sample.max(1) => {
            // Share among the updated, less the share among those that were not: rain over a town is no failure.
            let dark = share_bp(tally.dark, took);
            let usual = share_bp(control.silent, control.devices);
            (tally.dark > 0 && dark >= usual.saturating_add(u64::from(bp))).then(|| {
                format!(
                    "{} of {} that took the update went dark; of {} that had not, {} were silent; the plan stops at {} more",
                    tally.dark,
                    devices(took),
                    devices(control.devices),
                    control.silent,
                    show_share(bp)
                )
            })
        }
        Bound::BasisPoints(_) => small(tally.dark, wave_of_one, "went dark", stop.min_sample),
    };
    why.map(|text| Refusal::new(Code::TooManyDark, text))
}

/// Before there is a sample: the first in a wave of one, else the second.
fn small(n: u32, wave_of_one: Option<u32>, what: &str, min_sample: u32) -> Option<String> {
    if let Some(wave) = wave_of_one {
        return Some(format!("the only device of wave {wave} {what}"));
    }
    (n >= 2).then(|| {
        format!(
            "{} {what}; before {min_sample} have finished the second one stops the rollout",
            devices(n)
        )
    })
}

fn of_one(rollout: &Rollout, n: impl Fn(&Wave) -> u32) -> Option<u32> {
    rollout
        .numbered()
        .find(|(_, wave)| wave.counts.total() == 1 && n(wave) == 1)
        .map(|(number, _)| number)
}

/// Nothing of this wave will change by itself.
pub(crate) fn is_settled(counts: &Counts) -> bool {
    counts.pending == 0 && counts.active == 0
}

/// Too few of the wave's devices that were reached and not held are healthy.
pub(crate) fn below_quorum(rollout: &Rollout, number: u32, wave: &Wave) -> Option<Refusal> {
    let (ok, reached) = (wave.counts.ok, wave.counts.answered());
    let quorum_bp = rollout.spec.pace.stop.quorum_bp;
    let enough = u64::from(ok) * ALL_BP >= u64::from(reached) * u64::from(quorum_bp);
    (!enough && !wave.quorum_acknowledged).then(|| {
        Refusal::new(
            Code::QuorumNotReached,
            format!(
                "{ok} of {} in wave {number} are ok, the plan wants {} ({} failed, {} dark)",
                devices(reached),
                show_share(quorum_bp),
                wave.counts.failed,
                wave.counts.dark
            ),
        )
    })
}

/// What a wave still owes the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Soak {
    /// The next gate can be made.
    Over,
    /// Enough devices are healthy, not yet for long enough. Seconds, as far as receipts tell.
    Left { proven: u32, needed: u32, seconds: u64 },
    /// Not enough healthy devices are left.
    Missing(Refusal),
}

/// Whether the receipts of wave `number` open the gate of the next wave that has devices.
pub(crate) fn soak(rollout: &Rollout, number: u32, wave: &Wave, now: u64) -> Soak {
    let next = rollout
        .numbered()
        .find(|(later, w)| *later > number && w.counts.total() > 0);
    let (Some((next, _)), false) = (next, wave.counts.total() == 0) else {
        return Soak::Over;
    };
    let min_soak_s = soak_of(rollout, number);
    let Some(spec) = rollout.spec.waves.get(next as usize - 1) else {
        return Soak::Over;
    };
    let needed = match spec.evidence {
        Evidence::Receipts(needed) => needed,
        Evidence::Dwell => {
            let over = wave.opened_at.unwrap_or(now).saturating_add(min_soak_s);
            if over <= now {
                return Soak::Over;
            }
            return Soak::Left {
                proven: 0,
                needed: 0,
                seconds: over - now,
            };
        }
    };
    let proven = crate::rollout::count(wave.proven.len());
    if proven >= needed {
        return Soak::Over;
    }
    if wave.counts.ok < needed {
        return Soak::Missing(Refusal::new(
            Code::EvidenceMissing,
            format!(
                "wave {number} ended with {} that can vouch for the release, the gate of wave {next} needs {needed}",
                devices(wave.counts.ok)
            ),
        ));
    }
    Soak::Left {
        proven,
        needed,
        seconds: soak_left_s(rollout, number, min_soak_s, needed, now),
    }
}

/// Why no resume can bring a halted rollout further: too few devices of the wave can still vouch for the release, or nobody is left who
/// could still take it.
pub(crate) fn dead_end(rollout: &Rollout) -> Option<String> {
    gate_is_lost(rollout).or_else(|| {
        (rollout.remaining() == 0)
            .then(|| "a resume cannot help: each device has ended, none is left that could still become ok".to_owned())
    })
}

fn gate_is_lost(rollout: &Rollout) -> Option<String> {
    let (number, wave) = rollout
        .numbered()
        .find(|(_, wave)| wave.opened_at.is_some() && wave.done_at.is_none())?;
    let (next, _) = rollout
        .numbered()
        .find(|(later, w)| *later > number && w.counts.total() > 0)?;
    let needed = match rollout.spec.waves.get(next as usize - 1)?.evidence {
        Evidence::Receipts(needed) => needed,
        Evidence::Dwell => 0,
    };
    let can = could_be_ok(&wave.counts);
    (can < needed).then(|| {
        format!(
            "a resume cannot help: the gate of wave {next} needs {} of wave {number} healthy, at most {can} can still be",
            devices(needed)
        )
    })
}

/// Whether a wave stays below its quorum even if everybody who is still under way becomes ok.
pub(crate) fn quorum_is_lost(counts: &Counts, quorum_bp: u32) -> bool {
    let under_way = counts.pending.saturating_add(counts.active);
    let reached = counts.answered().saturating_add(under_way);
    u64::from(could_be_ok(counts)) * ALL_BP < u64::from(reached) * u64::from(quorum_bp)
}

/// Devices that are ok, or that may become ok without coming back from somewhere first.
fn could_be_ok(counts: &Counts) -> u32 {
    counts.ok.saturating_add(counts.pending).saturating_add(counts.active)
}

/// When the `needed`-th healthiest device of a wave will have soaked, by its last receipt. Seconds.
fn soak_left_s(rollout: &Rollout, number: u32, min_soak_s: u64, needed: u32, now: u64) -> u64 {
    let mut left: Vec<u64> = rollout
        .members
        .values()
        .filter(|m| m.wave == number && m.dark_since.is_none())
        .filter_map(|m| match m.outcome {
            Some(Outcome::Confirmed { healthy_for_s, at }) => {
                let healthy = healthy_for_s.saturating_add(now.saturating_sub(at));
                Some(min_soak_s.saturating_sub(healthy))
            }
            _ => None,
        })
        .collect();
    left.sort_unstable();
    left.get((needed as usize).saturating_sub(1))
        .copied()
        .unwrap_or(min_soak_s)
}

pub(crate) fn soak_of(rollout: &Rollout, number: u32) -> u64 {
    (number as usize)
        .checked_sub(1)
        .and_then(|i| rollout.spec.waves.get(i))
        .map_or(0, |wave| wave.min_soak_s)
}

/// The gate of wave `number` needs a signed promote statement that is not here yet.
pub(crate) fn waits_for_promote(rollout: &Rollout, number: u32) -> bool {
    rollout.is_manual(number) && rollout.wave(number).is_some_and(|wave| wave.promoted_at.is_none())
}

/// The devices whose receipts make the gate of wave `number`: of the nearest earlier wave that has any. `None`: too few.
pub(crate) fn gate(rollout: &Rollout, number: u32) -> Option<Vec<DeviceId>> {
    let needed = match rollout.spec.waves.get((number as usize).checked_sub(1)?)?.evidence {
        Evidence::Receipts(needed) => needed as usize,
        Evidence::Dwell => 0,
    };
    let earlier = rollout
        .numbered()
        .rev()
        .find(|(earlier, w)| *earlier < number && w.counts.total() > 0);
    let evidence: Vec<DeviceId> = match earlier {
        Some((_, wave)) => wave.proven.iter().take(needed).copied().collect(),
        None => return Some(Vec::new()),
    };
    (evidence.len() >= needed).then_some(evidence)
}

/// When the rate allows the offer after one at `at` (seconds). Milliseconds in, milliseconds out.
pub(crate) fn rate_after(due_ms: u64, at: u64, per_hour: u32) -> u64 {
    due_ms
        .max(at.saturating_mul(MS))
        .saturating_add(HOUR_MS.div_ceil(u64::from(per_hour.max(1))))
}

/// When the rate allows the next offer, seconds. `due_ms` = what [`rate_after`] gave for the last one.
pub(crate) fn rate_opens_at(due_ms: u64, per_hour: u32) -> u64 {
    let interval = HOUR_MS.div_ceil(u64::from(per_hour.max(1)));
    // A slow rate has no burst: its offers are further apart than that.
    let burst = if interval >= BURST_MS { 0 } else { BURST_MS };
    due_ms.saturating_sub(burst).div_ceil(MS)
}

fn reaches(n: u32, of: u32, bp: u32) -> bool {
    u64::from(n) * ALL_BP >= u64::from(of) * u64::from(bp)
}

fn share_bp(n: u32, of: u32) -> u64 {
    (u64::from(n) * ALL_BP).checked_div(u64::from(of)).unwrap_or(0)
}

pub(crate) fn devices(n: u32) -> String {
    show_count(u64::from(n), "device")
}
