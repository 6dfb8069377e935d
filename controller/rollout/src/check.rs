//! A second opinion on a plan, from the members themselves and not from the counters: what is wrong with it, in words.

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::digest::{DeviceId, PlanId};

use crate::action::{Action, Planned};
use crate::event::DeviceState;
use crate::fleet::Fleet;
use crate::planner::{busy_elsewhere, site};
use crate::rollout::{Rollout, Stage};

/// Contradictions, broken caps and broken orders in `planned`; empty for every plan that [`crate::plan`] makes. The controller logs
/// what it finds and refuses to act on it.
pub fn check(fleet: &Fleet, planned: &Planned) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut offers: BTreeMap<PlanId, Vec<DeviceId>> = BTreeMap::new();
    let mut stops: BTreeSet<PlanId> = BTreeSet::new();
    for action in &planned.actions {
        let Some(rollout) = fleet.rollout(&action.rollout()) else {
            wrong.push(format!("{action:?}: there is no such rollout"));
            continue;
        };
        match action {
            Action::Offer { wave, device, .. } => {
                offers.entry(rollout.id).or_default().push(*device);
                wrong.extend(check_offer(fleet, rollout, *wave, device));
            }
            Action::OpenWave { wave, evidence, .. } => wrong.extend(check_open(rollout, *wave, evidence)),
            Action::CloseWave { wave, .. } => {
                let opened = rollout.wave(*wave).is_some_and(|w| w.opened_at.is_some());
                if !opened {
                    wrong.push(format!("rollout {}: closes wave {wave}, which is not open", rollout.id));
                }
            }
            Action::MarkDark { .. } | Action::MarkUnreached { .. } => {}
            Action::Halt { .. } | Action::Supersede { .. } | Action::Expire { .. } | Action::Finish { .. } => {
                if !stops.insert(rollout.id) {
                    wrong.push(format!("rollout {}: ends in two ways at once", rollout.id));
                }
            }
        }
    }
    let mut once: BTreeSet<DeviceId> = BTreeSet::new();
    for (id, devices) in &offers {
        let Some(rollout) = fleet.rollout(id) else { continue };
        if stops.contains(id) {
            wrong.push(format!("rollout {id}: offers and stops at once"));
        }
        let in_flight = rollout.members().filter(|(_, m)| m.in_flight()).count();
        if (in_flight + devices.len()) as u64 > u64::from(rollout.cap()) {
            wrong.push(format!(
                "rollout {id}: {in_flight} in flight and {} offers, the plan allows {}",
                devices.len(),
                rollout.cap()
            ));
        }
        let mut sites = BTreeSet::new();
        for device in devices {
            if !once.insert(*device) {
                wrong.push(format!("device {device}: two offers at once"));
            }
            if site(fleet, rollout, device).is_some_and(|site| !sites.insert(site)) {
                wrong.push(format!("rollout {id}: device {device} is the second of its site"));
            }
        }
    }
    wrong
}

fn check_offer(fleet: &Fleet, rollout: &Rollout, wave: u32, device: &DeviceId) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut say = |what: &str| wrong.push(format!("rollout {}, device {device}: {what}", rollout.id));
    if !rollout.serves() {
        say("offered although the rollout does not run");
    }
    if rollout.wave(wave).is_none_or(|w| w.opened_at.is_none()) {
        say("offered although its wave is not open");
    }
    match rollout.member(device) {
        None => say("offered although it is no member"),
        Some(m) if m.wave != wave => say("offered in a wave that is not its own"),
        Some(m) if m.slot || m.outcome.is_some() => say("offered twice"),
        Some(_) => {}
    }
    match fleet.device(device) {
        None => say("offered although it is not known"),
        Some(d) => {
            if !d.connected || d.state != DeviceState::Approved || d.is_held() {
                say("offered although it is offline, held or not approved");
            }
            if fleet.freeze().is_some() {
                say("offered although it is frozen");
            }
        }
    }
    if busy_elsewhere(fleet, rollout, device).is_some() {
        say("offered although another rollout updates it");
    }
    wrong
}

fn check_open(rollout: &Rollout, wave: u32, evidence: &[DeviceId]) -> Vec<String> {
    let mut wrong = Vec::new();
    if rollout.stage != Stage::Running {
        wrong.push(format!(
            "rollout {}: opens wave {wave} although it does not run",
            rollout.id
        ));
    }
    let order = rollout.numbered().all(|(number, w)| {
        if number < wave {
            w.done_at.is_some()
        } else {
            w.opened_at.is_none()
        }
    });
    if !order {
        wrong.push(format!("rollout {}: wave {wave} is out of order", rollout.id));
    }
    if evidence
        .iter()
        .any(|id| rollout.member(id).is_none_or(|m| m.wave >= wave))
    {
        wrong.push(format!(
            "rollout {}: the evidence of wave {wave} is not from earlier waves",
            rollout.id
        ));
    }
    wrong
}
