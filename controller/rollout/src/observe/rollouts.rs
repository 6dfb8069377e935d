//! What becomes of a rollout: it starts, its waves open, it goes on, it ends.

use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::reason::{Code, Refusal};

use super::{with_stage, with_wave};
use crate::event::{DeviceState, RolloutSpec};
use crate::fleet::{Device, Fleet};
use crate::member::Member;
use crate::rollout::{Control, Index, Rollout, Stage, Wave};
use crate::rules::quorum_is_lost;

pub(super) fn rollout_started(fleet: &mut Fleet, id: PlanId, plan: Digest, spec: &RolloutSpec, at: u64) {
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

pub(super) fn offered(fleet: &mut Fleet, rollout: &PlanId, device: &DeviceId, at: u64) {
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

pub(super) fn wave_opened(
    fleet: &mut Fleet,
    rollout: &PlanId,
    wave: u32,
    evidence: &[DeviceId],
    control: Control,
    at: u64,
) {
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

pub(super) fn resumed(fleet: &mut Fleet, rollout: &PlanId) {
    let Some(r) = fleet.rollouts.get_mut(rollout) else {
        return;
    };
    match &r.stage {
        Stage::Paused { .. } => {}
        Stage::Halted { reason, .. } => {
            let quorum_bp = r.spec.pace.stop.quorum_bp;
            let by_quorum = reason.code == Code::QuorumNotReached;
            let by_devices = matches!(reason.code, Code::TooManyFailed | Code::TooManyDark);
            for wave in &mut r.waves {
                let open = wave.opened_at.is_some() && wave.done_at.is_none();
                // Who accepts the failures accepts what follows from them: else the next halt would say the same again.
                let follows = by_devices && quorum_is_lost(&wave.counts, quorum_bp);
                wave.quorum_acknowledged |= open && (by_quorum || follows);
            }
        }
        _ => return,
    }
    r.stage = Stage::Running;
    r.epoch += 1;
    fleet.recount_rollout(rollout);
}

pub(super) fn finished(fleet: &mut Fleet, rollout: &PlanId, at: u64) {
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
