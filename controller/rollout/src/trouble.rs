//! What is wrong in a fleet just now: rollouts that a rule stopped, and devices that did not take their last update.

use std::collections::BTreeMap;

use ensign_bundle::effect::Effect;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::Phase;

use crate::event::DeviceState;
use crate::fleet::{Device, Fleet};
use crate::rollout::{Rollout, Stage};

/// Rollouts that a rule stopped and that no operator has answered yet, newest first.
pub fn halted(fleet: &Fleet) -> Vec<(&Rollout, &Refusal)> {
    let mut halted: Vec<_> = fleet
        .rollouts
        .values()
        .filter_map(|r| match &r.stage {
            Stage::Halted { reason, .. } => Some((r, reason)),
            _ => None,
        })
        .collect();
    halted.sort_by_key(|(r, _)| std::cmp::Reverse(r.order));
    halted
}

/// How many living devices are in which trouble. Dark ones are counted elsewhere: what they last said says nothing about now.
pub fn unwell(fleet: &Fleet) -> BTreeMap<Code, u64> {
    let mut counts = BTreeMap::new();
    let living = fleet.devices.values().filter(|d| d.state != DeviceState::Revoked);
    for code in living.filter_map(trouble) {
        *counts.entry(code).or_default() += 1;
    }
    counts
}

fn trouble(d: &Device) -> Option<Code> {
    if d.cloned {
        return Some(Code::CloneDetected);
    }
    let said = d.reason.as_ref().map(|r| r.code);
    match d.phase {
        Phase::Idle | Phase::Confirmed => None,
        Phase::RollingBack | Phase::RolledBack => Some(said.unwrap_or(Code::Unhealthy)),
        // What runs is newer, or the device is held: that is no trouble.
        Phase::Rejected => match said {
            Some(Code::NewerInstalled | Code::Held) => None,
            said => Some(said.unwrap_or(Code::Failed)),
        },
        Phase::Fetching | Phase::Staged | Phase::Waiting | Phase::Switching | Phase::Trial => {
            said.filter(|code| code.effect() != Effect::Waits)
        }
    }
}
