//! What devices do: they are heard, they report, they sign receipts.

use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::plan::evidence::{Receipt, ReceiptState};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::{Phase, Status};

use super::{with_device, with_member};
use crate::fleet::{Device, Fleet};
use crate::member::Outcome;

pub(super) fn started(fleet: &mut Fleet, at: u64) {
    fleet.started = fleet.started.max(at);
    let devices: Vec<DeviceId> = fleet.devices.keys().copied().collect();
    for device in devices {
        with_device(fleet, &device, |d| d.connected = false);
    }
}

pub(super) fn heard(fleet: &mut Fleet, device: &DeviceId, at: u64, change: impl FnOnce(&mut Device)) {
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

pub(super) fn reported(fleet: &mut Fleet, device: &DeviceId, at: u64, status: &Status) {
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
        // Only what was fetched for this plan: a device that ran the release before had nothing to save.
        m.fetched |=
            status.transfer.plain > 0 && !matches!(status.phase, Phase::Idle | Phase::Fetching | Phase::Rejected);
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

pub(super) fn received(fleet: &mut Fleet, device: &DeviceId, at: u64, receipt: &Receipt) {
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
