//! What a rollout, or a device of it, waits for: each reason in words, with its numbers.

use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::utc;
use ensign_bundle::words::show_seconds;

use crate::rollout::Rollout;
use crate::rules;

/// What a device said, in words that stand for themselves where it gave none.
pub fn told(reason: &Refusal) -> Refusal {
    let said = reason.text.trim().trim_end_matches(':');
    let text = match reason.code {
        Code::OperatorRollback if said.is_empty() => "somebody on the device went back; no reason given".to_owned(),
        Code::OperatorRollback => format!("somebody on the device went back: {said}"),
        Code::Locked if matches!(said, "" | "the device is locked") => {
            "the device is locked; no reason given".to_owned()
        }
        // What the code means says more than nothing.
        code if said.is_empty() => code.meaning().trim().trim_end_matches('.').to_owned(),
        _ => return reason.clone(),
    };
    Refusal::new(reason.code, text)
}

pub(crate) fn not_yet(rollout: &Rollout, now: u64) -> Refusal {
    Refusal::new(
        Code::NotYet,
        format!(
            "starts in {}, at {}",
            show_seconds(rollout.spec.not_before.saturating_sub(now)),
            utc(rollout.spec.not_before)
        ),
    )
}

pub(crate) fn soaking(wave: u32, proven: u32, needed: u32, seconds: u64) -> Refusal {
    let left = show_seconds(seconds);
    let text = if needed == 0 {
        format!("wave {wave} soaks, {left} to go")
    } else {
        format!(
            "wave {wave} soaks, {left} to go ({proven} of {} healthy for long enough)",
            rules::devices(needed)
        )
    };
    Refusal::new(Code::Soaking, text)
}

pub(crate) fn promote(wave: u32) -> Refusal {
    Refusal::new(
        Code::GateNotOpen,
        format!("wave {wave} waits for an operator to promote it"),
    )
}

pub(crate) fn at_capacity(rollout: &Rollout) -> Refusal {
    Refusal::new(
        Code::AtCapacity,
        format!(
            "{} updating, the plan allows {} at once",
            rules::devices(rollout.in_flight()),
            rollout.cap()
        ),
    )
}

pub(crate) fn at_rate(rate: u32, opens: u64, now: u64) -> Refusal {
    Refusal::new(
        Code::AtCapacity,
        format!(
            "the plan allows {rate} offers an hour, the next in {}",
            show_seconds(opens.saturating_sub(now))
        ),
    )
}
