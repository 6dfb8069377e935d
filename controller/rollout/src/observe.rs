//! Folding events into the fleet. Nothing is decided here: an event already happened.

mod devices;
mod rollouts;

use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::printable;

use self::devices::{heard, received, reported, started};
use self::rollouts::{finished, offered, resumed, rollout_started, wave_opened};
use crate::event::{Event, Order};
use crate::fleet::{Device, Fleet};
use crate::member::{Member, Outcome};
use crate::rollout::{Stage, Wave};

/// Longest reason of an operator that is kept, characters.
const REASON_CHARACTERS: usize = 200;
/// Longest name of an operator, characters.
const NAME_CHARACTERS: usize = 64;

/// The fleet after `event`.
pub fn observe(fleet: &mut Fleet, event: &Event) {
    match event {
        Event::Started { at } => started(fleet, *at),
        Event::DeviceAdded {
            device,
            name,
            state,
            at,
        } => {
            let entry = fleet
                .devices
                .entry(*device)
                .or_insert_with(|| Device::new(name.clone(), *state));
            entry.name.clone_from(name);
            entry.state = *state;
            entry.heard_at = entry.heard_at.max(*at);
            if entry.added_at == 0 {
                entry.added_at = *at;
            }
            fleet.recount_device(device);
        }
        Event::DeviceState { device, state, order } => with_device(fleet, device, |d| {
            d.state = *state;
            d.ordered = order.kept();
        }),
        Event::Labelled { device, labels } => with_device(fleet, device, |d| d.labels.clone_from(labels)),
        Event::Held { device, held, order } => with_device(fleet, device, |d| {
            d.held = order.kept();
            d.hold = held.then(|| d.held.reason.clone());
        }),
        Event::Cloned { device, cloned } => with_device(fleet, device, |d| d.cloned = *cloned),
        Event::Connected { device, at } => heard(fleet, device, *at, |d| d.connected = true),
        Event::Disconnected { device, at } => with_device(fleet, device, |d| {
            d.connected = false;
            d.heard_at = d.heard_at.max(*at);
        }),
        Event::Reported { device, at, status } => reported(fleet, device, *at, status),
        Event::Receipt { device, at, receipt } => received(fleet, device, *at, receipt),
        Event::RolloutStarted { id, plan, spec, at } => rollout_started(fleet, *id, *plan, spec, *at),
        Event::Offered { rollout, device, at } => offered(fleet, rollout, device, *at),
        Event::WentDark { rollout, device, at } => with_member(fleet, rollout, device, |m, epoch| {
            if m.dark_since.is_none() && (m.slot || matches!(m.outcome, Some(Outcome::Confirmed { .. }))) {
                m.dark_since = Some(*at);
                m.epoch = epoch;
            }
        }),
        Event::Unreached { rollout, device, at } => with_member(fleet, rollout, device, |m, _| {
            m.unreached_since.get_or_insert(*at);
            // Nothing of it is under way: others may go on, and it asks for a slot again when it returns.
            m.slot = false;
        }),
        Event::Released { rollout, device, .. } => with_member(fleet, rollout, device, |m, _| {
            if m.dark_since.is_some() {
                m.slot = false;
            }
        }),
        Event::Promoted { rollout, wave, at } => with_wave(fleet, rollout, *wave, |w| {
            w.promoted_at.get_or_insert(*at);
        }),
        Event::WaveOpened {
            rollout,
            wave,
            evidence,
            control,
            at,
        } => wave_opened(fleet, rollout, *wave, evidence, *control, *at),
        Event::WaveDone { rollout, wave, at } => with_wave(fleet, rollout, *wave, |w| {
            w.done_at.get_or_insert(*at);
        }),
        Event::Paused { rollout, order } => with_stage(fleet, rollout, |stage| match stage {
            Stage::Running => Some(Stage::Paused {
                reason: Refusal::new(Code::Paused, format!("paused{}", order.kept().said())),
                at: order.at,
            }),
            _ => None,
        }),
        Event::Resumed { rollout, .. } => resumed(fleet, rollout),
        Event::Halted { rollout, reason, at } => with_stage(fleet, rollout, |stage| match stage {
            Stage::Running | Stage::Done { closed: false, .. } => Some(Stage::Halted {
                reason: reason.clone(),
                at: *at,
            }),
            // Whatever stopped it before, this has to be mended first.
            Stage::Paused { reason: before, .. } | Stage::Halted { reason: before, .. }
                if reason.code == Code::PlanLost && before.code != Code::PlanLost =>
            {
                Some(Stage::Halted {
                    reason: reason.clone(),
                    at: *at,
                })
            }
            _ => None,
        }),
        Event::Aborted {
            rollout,
            by,
            reason,
            at,
        } => with_stage(fleet, rollout, |stage| {
            let order = Order {
                at: *at,
                by: by.clone(),
                reason: printable(reason, REASON_CHARACTERS),
            };
            let reason = Refusal::new(
                Code::Aborted,
                format!("aborted{}", order.said().replacen(" since ", " at ", 1)),
            );
            (!stage.ended()).then_some(Stage::Aborted { reason, at: *at })
        }),
        Event::Superseded { rollout, by, at } => with_stage(fleet, rollout, |stage| match stage {
            Stage::Running | Stage::Paused { .. } | Stage::Halted { .. } => {
                Some(Stage::Superseded { by: *by, at: *at })
            }
            Stage::Done { at, .. } => Some(Stage::Done { at: *at, closed: true }),
            _ => None,
        }),
        Event::Expired { rollout, at } => with_stage(fleet, rollout, |stage| match stage {
            Stage::Running | Stage::Paused { .. } | Stage::Halted { .. } => Some(Stage::Expired { at: *at }),
            Stage::Done { at, .. } => Some(Stage::Done { at: *at, closed: true }),
            _ => None,
        }),
        Event::Finished { rollout, at } => finished(fleet, rollout, *at),
        Event::Frozen { order } => {
            fleet.freeze.get_or_insert_with(|| order.kept());
        }
        Event::Unfrozen { .. } => fleet.freeze = None,
    }
}

impl Order {
    /// As it is kept: what an operator wrote is foreign text.
    #[must_use]
    pub fn kept(&self) -> Self {
        Self {
            at: self.at,
            by: printable(&self.by, NAME_CHARACTERS),
            reason: printable(&self.reason, REASON_CHARACTERS),
        }
    }
}

fn with_device(fleet: &mut Fleet, device: &DeviceId, change: impl FnOnce(&mut Device)) {
    if let Some(d) = fleet.devices.get_mut(device) {
        change(d);
        fleet.recount_device(device);
    }
}

/// `change` gets the member and the rollout's epoch.
fn with_member(fleet: &mut Fleet, rollout: &PlanId, device: &DeviceId, change: impl FnOnce(&mut Member, u32)) {
    let Some(r) = fleet.rollouts.get_mut(rollout) else {
        return;
    };
    let epoch = r.epoch;
    if let Some(m) = r.members.get_mut(device) {
        change(m, epoch);
        fleet.recount(rollout, device);
    }
}

fn with_wave(fleet: &mut Fleet, rollout: &PlanId, wave: u32, change: impl FnOnce(&mut Wave)) {
    if let Some(w) = fleet.rollouts.get_mut(rollout).and_then(|r| r.wave_mut(wave)) {
        change(w);
    }
}

fn with_stage(fleet: &mut Fleet, rollout: &PlanId, next: impl FnOnce(&Stage) -> Option<Stage>) {
    let Some(r) = fleet.rollouts.get_mut(rollout) else {
        return;
    };
    let Some(stage) = next(&r.stage) else { return };
    let ended = r.ended();
    r.stage = stage;
    if r.ended() != ended {
        fleet.recount_rollout(rollout);
    }
}
