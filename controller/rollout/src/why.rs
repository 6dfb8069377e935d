//! Why a device is where it is: the one rule that decides, with its numbers, and when it may move on.

mod member;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::selector::{Selector, Subject};
use ensign_bundle::text::utc;
use ensign_bundle::wire::Phase;
use serde::{Deserialize, Serialize};

use self::member::Asked;
use crate::event::DeviceState;
use crate::fleet::{Device, Fleet};
use crate::hints;
use crate::member::{Member, Outcome, Standing};
use crate::rollout::Rollout;
use crate::status;

/// The rule that decides about a device just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    pub device: DeviceId,
    pub rollout: Option<PlanId>,
    /// From 1.
    pub wave: Option<u32>,
    /// Of the device, as it says itself.
    pub status: Phase,
    /// In the rollout.
    pub standing: Option<Standing>,
    pub reason: Refusal,
    /// Unix seconds; none where only an event can change it.
    pub next_eligible: Option<u64>,
    /// Steps, separated by `; `: each is a command, or words, a colon and a command.
    pub hint: String,
}

/// A reason, and when time alone ends it.
type Reason = (Refusal, Option<u64>);

/// Why `device` has, or has not, what `rollout` brings. `None` asks about the device itself: what keeps it from every update comes
/// first, then, of the newest rollouts of each product that concern it, what says most just now.
pub fn why(fleet: &Fleet, rollout: Option<&PlanId>, device: &DeviceId, now: u64) -> Why {
    let Some(d) = fleet.device(device) else {
        let reason = Refusal::new(Code::NotFound, format!("there is no device {device}"));
        return answer(fleet, None, None, device, (reason, None));
    };
    let (rollout, reason) = match rollout.map(|id| (id, fleet.rollout(id))) {
        None => deciding(fleet, d, device, now),
        Some((_, Some(rollout))) => (Some(rollout), in_rollout(fleet, rollout, d, device, now)),
        Some((id, None)) => (None, only(Code::NotFound, format!("there is no rollout {id}"))),
    };
    answer(fleet, rollout, Some(d), device, reason)
}

/// What decides about a device just now, and the rollout that this concerns.
fn deciding<'a>(fleet: &'a Fleet, d: &Device, device: &DeviceId, now: u64) -> (Option<&'a Rollout>, Reason) {
    let concerning = concerning(fleet, d, device);
    if let Some(reason) = kept_out(d) {
        return (concerning.first().copied(), (reason, None));
    }
    let mut answers: Vec<_> = concerning
        .iter()
        .map(|rollout| (Some(*rollout), in_rollout(fleet, rollout, d, device, now)))
        .collect();
    let confirmed_at = concerning.iter().filter_map(|r| confirmed_at(r, device)).max();
    // The sort keeps the newest of those with the same weight in front.
    answers.sort_by_key(|(rollout, (reason, _))| {
        rollout.map_or(Weight::Elsewhere, |r| weight(r, device, reason.code, confirmed_at))
    });
    let untouched = || {
        (
            None,
            only(Code::NoRollout, format!("no rollout was started yet for {}", d.name)),
        )
    };
    answers.into_iter().next().unwrap_or_else(untouched)
}

/// How much an answer says about a device just now; what says most comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// A rollout that is not over.
    UnderWay,
    /// The newest thing that happened to the device, although that rollout is over.
    Last,
    UpToDate,
    /// Something came since, of another product.
    Past,
    /// A rollout that does not list the device.
    Elsewhere,
}

/// `confirmed_at`: when the device last became up to date, by any rollout.
fn weight(r: &Rollout, device: &DeviceId, code: Code, confirmed_at: Option<u64>) -> Weight {
    let Some(member) = r.member(device) else {
        return Weight::Elsewhere;
    };
    let at = match &member.outcome {
        Some(Outcome::Failed { at, .. } | Outcome::Spared { at, .. }) => *at,
        _ => r.started_at,
    };
    match () {
        () if code == Code::UpToDate => Weight::UpToDate,
        () if r.is_under_way() => Weight::UnderWay,
        () if confirmed_at.is_some_and(|confirmed| confirmed > at) => Weight::Past,
        () => Weight::Last,
    }
}

fn confirmed_at(r: &Rollout, device: &DeviceId) -> Option<u64> {
    match r.member(device)?.outcome {
        Some(Outcome::Confirmed { at, .. }) => Some(at),
        _ => None,
    }
}

fn answer(
    fleet: &Fleet,
    rollout: Option<&Rollout>,
    known: Option<&Device>,
    device: &DeviceId,
    (reason, next_eligible): Reason,
) -> Why {
    let member = rollout.and_then(|r| r.member(device));
    Why {
        device: *device,
        rollout: rollout.map(|r| r.id),
        wave: member.map(|m| m.wave),
        status: known.map(|d| d.phase).unwrap_or_default(),
        standing: member.map(Member::standing),
        hint: hints::of_device(fleet, rollout, known, device, reason.code),
        reason,
        next_eligible,
    }
}

/// The newest rollout of each product that the device runs or was ever offered, newest first; else the newest of all.
fn concerning<'a>(fleet: &'a Fleet, d: &Device, device: &DeviceId) -> Vec<&'a Rollout> {
    let mut newest: BTreeMap<&Ident, &Rollout> = BTreeMap::new();
    for rollout in fleet.rollouts.values() {
        let known = newest.entry(&rollout.spec.product).or_insert(rollout);
        if known.order < rollout.order {
            *known = rollout;
        }
    }
    let mut all: Vec<&Rollout> = newest.into_values().collect();
    all.sort_by_key(|r| std::cmp::Reverse(r.order));
    let mine = |r: &&Rollout| {
        let product = &r.spec.product;
        r.members.contains_key(device) || d.newest.contains_key(product) || d.runs(product).is_some()
    };
    if all.iter().any(mine) {
        all.retain(mine);
    } else {
        all.truncate(1);
    }
    all
}

fn in_rollout(fleet: &Fleet, r: &Rollout, d: &Device, device: &DeviceId, now: u64) -> Reason {
    match r.member(device) {
        Some(m) => Asked {
            fleet,
            r,
            m,
            d,
            device,
            now,
        }
        .reason(),
        None => (not_selected(r, d, device, status::state_name(fleet, r, now)), None),
    }
}

/// Nothing reaches a device in this state, whatever the rollout.
pub(crate) fn kept_out(device: &Device) -> Option<Refusal> {
    let name = &device.name;
    let ordered = device.ordered.said();
    let (code, text) = match device.state {
        DeviceState::Pending => (Code::Pending, format!("{name} waits for approval{ordered}")),
        DeviceState::Revoked => (Code::Revoked, format!("{name} is revoked{ordered}")),
        _ if device.cloned => (
            Code::CloneDetected,
            format!("another copy of {name} connected: nothing is installed on either"),
        ),
        DeviceState::Suspended => (Code::Suspended, format!("{name} is suspended{ordered}")),
        DeviceState::Approved => {
            let reason = device.hold.as_ref()?;
            let mut order = device.held.clone();
            order.reason.clone_from(reason);
            (Code::Held, format!("{name} is held{}", order.said()))
        }
    };
    Some(Refusal::new(code, text))
}

/// Why the newest rollout has no place for a device.
fn not_selected(r: &Rollout, d: &Device, device: &DeviceId, state: &str) -> Refusal {
    let name = &d.name;
    let matches = |expr: &str| {
        let subject = Subject {
            id: device,
            name,
            labels: &d.labels,
        };
        Selector::parse(expr).is_ok_and(|s| s.matches(subject))
    };
    let spec = &r.spec;
    let because = if d.added_at > r.started_at {
        format!("{name} joined after its start, at {}", utc(d.added_at))
    } else if !spec.select.is_empty() && !matches(&spec.select) {
        format!("it selects `{}`", spec.select)
    } else if d.state == DeviceState::Suspended && d.ordered.at <= r.started_at {
        format!("{name} was suspended when it started (suspended{})", d.ordered.said())
    } else if d.state == DeviceState::Approved && d.ordered.at > r.started_at {
        format!(
            "{name} was suspended, or not accepted yet, when it started, and was let in at {}",
            utc(d.ordered.at)
        )
    } else if let Some(excluded) = spec.exclude.iter().find(|e| matches(e)) {
        format!("it leaves out `{excluded}`")
    } else {
        "when it was signed, the device was not approved, or was not selected yet".to_owned()
    };
    let mut text = format!(
        "not selected by the rollout {} of {} {} ({state}): {because}",
        hints::short(&r.id),
        spec.product,
        spec.version
    );
    // Writing to a string cannot fail.
    let _ = match d.runs(&spec.product) {
        Some(installed) => write!(text, "; {name} runs {} {}", installed.product, installed.version),
        None => write!(text, "; {name} runs no {}", spec.product),
    };
    Refusal::new(Code::NotInPlan, text)
}

fn only(code: Code, text: String) -> Reason {
    (Refusal::new(code, text), None)
}
