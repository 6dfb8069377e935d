//! Folding events into the fleet. Nothing is decided here: an event already happened.

use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::plan::evidence::{Receipt, ReceiptState};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::selector::Selector;
use ensign_bundle::text::printable;
use ensign_bundle::wire::{Phase, Status};

use crate::event::{Abort, DeviceState, Event, Group, RolloutSpec};
use crate::fleet::{Device, Fleet, Freeze, FrozenGroup};
use crate::member::{Member, Outcome};
use crate::rollout::{Control, Index, Rollout, Stage, Wave};

/// Longest reason of an operator that is kept, characters.
const REASON_CHARACTERS: usize = 200;

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
            regroup(fleet, device);
        }
        Event::DeviceState { device, state } => with_device(fleet, device, |d| d.state = *state),
        Event::Renamed { device, name } => {
            with_device(fleet, device, |d| d.name.clone_from(name));
            regroup(fleet, device);
        }
        Event::Labelled { device, labels } => {
            with_device(fleet, device, |d| d.labels.clone_from(labels));
            regroup(fleet, device);
        }
        Event::Held { device, held, reason } => {
            with_device(fleet, device, |d| {
                d.hold = held.then(|| printable(reason, REASON_CHARACTERS));
            });
        }
        Event::Connected { device, at } => heard(fleet, device, *at, |d| d.connected = true),
        Event::Disconnected { device, at } => with_device(fleet, device, |d| {
            d.connected = false;
            d.heard_at = d.heard_at.max(*at);
        }),
        Event::Seen { device, at } => heard(fleet, device, *at, |_| {}),
        Event::Reported { device, at, status } => reported(fleet, device, *at, status),
        Event::Receipt { device, at, receipt } => received(fleet, device, *at, receipt),
        Event::RolloutStarted { id, plan, spec, at } => rollout_started(fleet, *id, *plan, spec, *at),
        Event::Joined {
            rollout, device, wave, ..
        } => joined(fleet, rollout, device, *wave),
        Event::Offered { rollout, device, at } => offered(fleet, rollout, device, *at),
        Event::WentDark { rollout, device, at } => with_member(fleet, rollout, device, |m, epoch| {
            if m.dark_since.is_none() && (m.slot || matches!(m.outcome, Some(Outcome::Confirmed { .. }))) {
                m.dark_since = Some(*at);
                m.epoch = epoch;
            }
        }),
        Event::Unreached { rollout, device, at } => with_member(fleet, rollout, device, |m, _| {
            m.unreached_since.get_or_insert(*at);
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
        Event::Paused { rollout, reason, at } => with_stage(fleet, rollout, |stage| match stage {
            Stage::Running => Some(Stage::Paused {
                reason: operator(Code::Paused, "an operator paused the rollout", reason),
                at: *at,
            }),
            _ => None,
        }),
        Event::Resumed { rollout, .. } => resumed(fleet, rollout),
        Event::Halted { rollout, reason, at } => with_stage(fleet, rollout, |stage| match stage {
            Stage::Running | Stage::Done { closed: false, .. } => Some(Stage::Halted {
                reason: reason.clone(),
                at: *at,
            }),
            _ => None,
        }),
        Event::Aborted {
            rollout,
            how,
            reason,
            at,
        } => {
            let reason = operator(Code::Aborted, "the rollout was aborted", reason);
            with_stage(fleet, rollout, |stage| match (stage, how) {
                (Stage::Superseded { .. } | Stage::Expired { .. } | Stage::Reverted { .. }, _) => None,
                (_, Abort::Keep) => Some(Stage::Aborted { reason, at: *at }),
                (_, Abort::Revert) => Some(Stage::Reverting { reason, at: *at }),
            });
        }
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
        Event::Frozen { group, reason, at } => frozen(fleet, group.as_ref(), reason, *at),
        Event::Unfrozen { group, .. } => match group {
            None => fleet.freeze = None,
            Some(name) => {
                fleet.groups.remove(name);
                regroup_all(fleet);
            }
        },
    }
}

fn started(fleet: &mut Fleet, at: u64) {
    fleet.started = fleet.started.max(at);
    let devices: Vec<DeviceId> = fleet.devices.keys().copied().collect();
    for device in devices {
        with_device(fleet, &device, |d| d.connected = false);
    }
}

fn heard(fleet: &mut Fleet, device: &DeviceId, at: u64, change: impl FnOnce(&mut Device)) {
    let Some(d) = fleet.devices.get_mut(device) else {
        return;
    };
    d.heard_at = d.heard_at.max(at);
    change(d);
    for rollout in &d.rollouts {
        if let Some(member) = fleet.rollouts.get_mut(rollout).and_then(|r| r.members.get_mut(device)) {
            member.heard();
        }
    }
    fleet.recount_device(device);
}

fn reported(fleet: &mut Fleet, device: &DeviceId, at: u64, status: &Status) {
    let Some(before) = fleet.devices.get(device) else {
        return;
    };
    let news = (before.phase, before.plan, &before.reason) != (status.phase, status.plan, &status.reason);
    heard(fleet, device, at, |d| {
        d.phase = status.phase;
        d.plan = status.plan;
        d.reason.clone_from(&status.reason);
        d.installed.clone_from(&status.installed);
    });
    let terminal = matches!(status.phase, Phase::Rejected | Phase::RolledBack);
    let refusal = || {
        status
            .reason
            .clone()
            .unwrap_or_else(|| Refusal::new(Code::Failed, "the device gave no reason"))
    };
    let Some(plan) = status.plan else {
        // A plan that it cannot even read has no name there: it is the one that it was offered.
        if terminal && news {
            refused_unread(fleet, device, &Outcome::refused(refusal(), at));
        }
        return;
    };
    with_member(fleet, &PlanId::of(&plan), device, |m, epoch| {
        if status.transfer.plain > 0 && status.transfer.received >= m.transfer.received {
            m.transfer = status.transfer;
        }
        // A failure is believed without a receipt, a success is not. Once ended, only a receipt changes it: its slot is gone.
        if terminal && m.outcome.is_none() {
            m.finish(Outcome::refused(refusal(), at), epoch);
        }
    });
}

fn refused_unread(fleet: &mut Fleet, device: &DeviceId, outcome: &Outcome) {
    let offered: Vec<PlanId> = fleet
        .followed(device)
        .filter(|id| fleet.rollouts.get(*id).is_some_and(|r| r.index.slots.contains(device)))
        .copied()
        .collect();
    for rollout in offered {
        with_member(fleet, &rollout, device, |m, epoch| m.finish(outcome.clone(), epoch));
    }
}

fn received(fleet: &mut Fleet, device: &DeviceId, at: u64, receipt: &Receipt) {
    let id = PlanId::of(&receipt.plan);
    let Some(rollout) = fleet.rollouts.get(&id) else {
        return;
    };
    if rollout.plan != receipt.plan || rollout.spec.manifest != receipt.release || receipt.device != *device {
        return;
    }
    let outcome = match &receipt.state {
        ReceiptState::Confirmed => Outcome::Confirmed {
            healthy_for_s: receipt.healthy_for_s,
            at,
        },
        ReceiptState::Failed { code } => {
            Outcome::refused(Refusal::new(*code, format!("could not be applied: {code}")), at)
        }
        ReceiptState::RolledBack { code } => Outcome::Failed {
            reason: Refusal::new(*code, format!("rolled back after {} s: {code}", receipt.healthy_for_s)),
            at,
        },
    };
    // The device's own words say more than the receipt's code.
    let words = fleet
        .devices
        .get(device)
        .filter(|d| d.plan == Some(receipt.plan))
        .and_then(|d| d.reason.clone());
    with_member(fleet, &id, device, |m, epoch| {
        if receipt.seq <= m.receipt_seq {
            return;
        }
        m.receipt_seq = receipt.seq;
        let outcome = match (outcome, words) {
            (Outcome::Failed { reason, at }, Some(words)) if words.code == reason.code => {
                Outcome::Failed { reason: words, at }
            }
            (outcome, _) => outcome,
        };
        m.finish(outcome, epoch);
    });
}

fn rollout_started(fleet: &mut Fleet, id: PlanId, plan: Digest, spec: &RolloutSpec, at: u64) {
    if fleet.rollouts.contains_key(&id) {
        return;
    }
    let order = fleet.rollouts.len() as u64;
    let mut spec = spec.clone();
    let mut members = std::collections::BTreeMap::new();
    for (wave, number) in spec.waves.iter_mut().zip(1u32..) {
        for device in std::mem::take(&mut wave.members) {
            members.entry(device).or_insert_with(|| Member::new(number));
        }
    }
    let waves = vec![Wave::default(); spec.waves.len()];
    let (product, reverts) = (spec.product.clone(), spec.reverts);
    for device in members.keys() {
        // A plan may name a device that this ledger does not know (a restored backup): it is held until it is known.
        let d = fleet
            .devices
            .entry(*device)
            .or_insert_with(|| Device::new(device.to_string(), DeviceState::Revoked));
        d.newest.insert(product.clone(), id);
    }
    let devices: Vec<DeviceId> = members.keys().copied().collect();
    fleet.rollouts.insert(
        id,
        Rollout {
            id,
            plan,
            spec,
            started_at: at,
            order,
            stage: Stage::Running,
            epoch: 0,
            rate_due_ms: 0,
            control: Control::default(),
            waves,
            members,
            index: Index::default(),
        },
    );
    if let Some(forward) = reverts {
        with_stage(fleet, &forward, |stage| match stage {
            Stage::Reverted { .. } | Stage::Reverting { .. } => None,
            _ => Some(Stage::Reverting {
                reason: Refusal::new(Code::Aborted, format!("rollout {id} brings its devices back")),
                at,
            }),
        });
    }
    fleet.recount_rollout(&id);
    for device in devices {
        fleet.recount_device(&device);
    }
}

fn joined(fleet: &mut Fleet, rollout: &PlanId, device: &DeviceId, wave: u32) {
    let (Some(r), Some(d)) = (fleet.rollouts.get_mut(rollout), fleet.devices.get_mut(device)) else {
        return;
    };
    if r.wave(wave).is_none() || r.ended() || r.members.contains_key(device) {
        return;
    }
    r.members.insert(*device, Member::new(wave));
    d.newest.insert(r.spec.product.clone(), *rollout);
    fleet.recount(rollout, device);
    fleet.recount_device(device);
}

fn offered(fleet: &mut Fleet, rollout: &PlanId, device: &DeviceId, at: u64) {
    let Some(r) = fleet.rollouts.get_mut(rollout) else {
        return;
    };
    let Some(m) = r.members.get_mut(device) else { return };
    if m.slot || m.outcome.is_some() {
        return;
    }
    m.slot = true;
    m.offered_at.get_or_insert(at);
    m.heard();
    if let Some(rate) = r.spec.pace.rate_per_h {
        r.rate_due_ms = crate::rules::rate_after(r.rate_due_ms, at, rate);
    }
    fleet.recount(rollout, device);
}

fn wave_opened(fleet: &mut Fleet, rollout: &PlanId, wave: u32, evidence: &[DeviceId], control: Control, at: u64) {
    let mut opened = false;
    with_wave(fleet, rollout, wave, |w| {
        if w.opened_at.is_none() {
            w.opened_at = Some(at);
            w.evidence = evidence.to_vec();
            opened = true;
        }
    });
    if !opened {
        return;
    }
    if let Some(r) = fleet.rollouts.get_mut(rollout) {
        r.control = control;
        let members: Vec<DeviceId> = r
            .members
            .iter()
            .filter(|(_, m)| m.wave == wave)
            .map(|(id, _)| *id)
            .collect();
        for device in members {
            fleet.recount(rollout, &device);
        }
    }
}

fn resumed(fleet: &mut Fleet, rollout: &PlanId) {
    let Some(r) = fleet.rollouts.get_mut(rollout) else {
        return;
    };
    match &r.stage {
        Stage::Paused { .. } => {}
        Stage::Halted { reason, .. } => {
            if reason.code == Code::QuorumNotReached {
                for wave in r
                    .waves
                    .iter_mut()
                    .filter(|w| w.opened_at.is_some() && w.done_at.is_none())
                {
                    wave.quorum_acknowledged = true;
                }
            }
        }
        _ => return,
    }
    r.stage = Stage::Running;
    r.epoch += 1;
    fleet.recount_rollout(rollout);
}

fn finished(fleet: &mut Fleet, rollout: &PlanId, at: u64) {
    with_stage(fleet, rollout, |stage| match stage {
        Stage::Running => Some(Stage::Done { at, closed: false }),
        _ => None,
    });
    let forward = fleet
        .rollouts
        .get(rollout)
        .filter(|r| matches!(r.stage, Stage::Done { .. }))
        .and_then(|r| r.spec.reverts);
    if let Some(forward) = forward {
        with_stage(fleet, &forward, |stage| match stage {
            Stage::Reverting { .. } => Some(Stage::Reverted { at }),
            _ => None,
        });
    }
}

fn frozen(fleet: &mut Fleet, group: Option<&Group>, reason: &str, at: u64) {
    let freeze = Freeze {
        reason: printable(reason, REASON_CHARACTERS),
        at,
    };
    match group {
        None => {
            fleet.freeze.get_or_insert(freeze);
        }
        Some(group) => {
            fleet.groups.insert(
                group.name.clone(),
                FrozenGroup {
                    select: group.select.clone(),
                    selector: Selector::parse(&group.select).ok(),
                    freeze,
                },
            );
            regroup_all(fleet);
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

fn regroup(fleet: &mut Fleet, device: &DeviceId) {
    let group = fleet.devices.get(device).and_then(|d| fleet.group_of(device, d));
    with_device(fleet, device, |d| d.frozen_by = group);
}

fn regroup_all(fleet: &mut Fleet) {
    let devices: Vec<DeviceId> = fleet.devices.keys().copied().collect();
    for device in devices {
        regroup(fleet, &device);
    }
}

fn operator(code: Code, what: &str, reason: &str) -> Refusal {
    if reason.is_empty() {
        return Refusal::new(code, what);
    }
    Refusal::new(code, format!("{what}: {}", printable(reason, REASON_CHARACTERS)))
}
