//! How a gate opens: receipts of real devices of an earlier wave, which each device of the next wave checks itself.
//!
//! A device sees the receipts that the controller chose. It can hold back a receipt that says a device later failed, so m lying or
//! forgotten devices open a gate: the plan's author sets m.

use std::collections::BTreeMap;

use serde_bytes::ByteBuf;

use super::evidence::{Gate, GateReceipt, Membership, Receipt, ReceiptState};
use super::merkle;
use super::scope::{self, Scopes};
use super::statements::{Cohort, Evidence, GateKind, Plan, Promote, Reverts};
use crate::codec;
use crate::digest::{DeviceId, Digest, FleetId};
use crate::limits;
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::statement;
use crate::trust::Authority;
use crate::trust::roles::FORMAT;

/// What has to be shown before a device of a wave may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// Nothing: no earlier wave has a device.
    Nothing,
    /// So many good receipts of this wave, each after its whole soak.
    Receipts { wave: u32, receipts: u32, min_soak_s: u64 },
    /// So much time since this device first verified the plan, seconds of its own clock.
    Dwell { seconds: u64 },
}

impl Gate {
    /// Reads a gate. It carries no signature of its own: everything in it is signed by itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > limits::GATE_BYTES {
            return refuse!(
                LimitExceeded,
                "the gate has {} bytes, at most {} are allowed",
                bytes.len(),
                limits::GATE_BYTES
            );
        }
        let gate: Self = codec::decode_exact(bytes, limits::ROLE_ITEMS)
            .map_err(|e| Refusal::new(Code::Malformed, format!("gate: {e}")))?;
        if gate.format != FORMAT {
            return refuse!(
                VersionUnknown,
                "gate has format {}, this program knows {FORMAT}",
                gate.format
            );
        }
        if gate.receipts.len() > limits::GATE_RECEIPTS {
            return refuse!(
                LimitExceeded,
                "a gate of {} receipts, at most {} are allowed",
                gate.receipts.len(),
                limits::GATE_RECEIPTS
            );
        }
        Ok(gate)
    }

    /// Deterministic CBOR; a gate has no envelope.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        codec::encode(self).map_err(|e| Refusal::new(Code::Malformed, format!("gate: {e}")))
    }
}

/// What opens wave `number` (from 1), not counting an operator's promotion.
pub fn needed(plan: &Plan, number: u32) -> Result<Needed, Refusal> {
    let (wave, earlier) = wave(plan, number)?;
    match wave.evidence {
        Evidence::Dwell => {
            let soaks = earlier.iter().map(|w| w.min_soak_s);
            let seconds = soaks.fold(0u64, u64::saturating_add);
            Ok(Needed::Dwell { seconds })
        }
        Evidence::Receipts(receipts) => {
            let nearest = earlier
                .iter()
                .zip(1u32..)
                .filter(|(w, _)| has_devices(&w.cohort))
                .last();
            Ok(nearest.map_or(Needed::Nothing, |(wave, number)| Needed::Receipts {
                wave: number,
                receipts,
                min_soak_s: wave.min_soak_s,
            }))
        }
    }
}

/// True when a [`Promote`] has to come with the gate of this wave.
pub fn needs_promotion(plan: &Plan, number: u32) -> bool {
    number > 1 && wave(plan, number).is_ok_and(|(wave, _)| wave.gate == GateKind::Manual)
}

/// Refuses unless the gate of `number` is open for a device that has known the plan for `dwell_s` seconds.
pub fn check(
    plan: &Plan,
    digest: &Digest,
    number: u32,
    gate: Option<&Gate>,
    dwell_s: u64,
    scopes: &Scopes<'_>,
    authority: &Authority<'_>,
) -> Result<(), Refusal> {
    if let Some(gate) = gate
        && (gate.plan != *digest || gate.wave != number)
    {
        return refuse!(
            GateNotOpen,
            "the gate is of plan {} and wave {}, not of {digest} and {number}",
            gate.plan,
            gate.wave
        );
    }
    match needed(plan, number)? {
        Needed::Nothing => {}
        Needed::Dwell { seconds } if dwell_s >= seconds => {}
        Needed::Dwell { seconds } => {
            return refuse!(
                GateNotOpen,
                "wave {number} opens {seconds} s after the plan, {dwell_s} s have passed"
            );
        }
        Needed::Receipts {
            wave,
            receipts,
            min_soak_s,
        } => {
            let shown = gate.map_or(&[][..], |gate| &gate.receipts);
            // The gate of a revert carries receipts of the forward plan's failures too: those open nothing here.
            let forward = plan.reverts.as_ref().map(|reverts| reverts.plan);
            let shown = shown.iter().filter(|r| forward.is_none() || plan_of(r) != forward);
            let found = newest(plan, digest, shown, authority.fleet)?;
            let good = found.values().filter(|(at, receipt)| {
                *at == wave && receipt.state == ReceiptState::Confirmed && receipt.healthy_for_s >= min_soak_s
            });
            let good = good.count();
            if good < receipts as usize {
                return refuse!(
                    GateNotOpen,
                    "wave {number} opens with {receipts} receipts of wave {wave} that are healthy for {min_soak_s} s, {good} are there"
                );
            }
        }
    }
    if needs_promotion(plan, number) {
        check_promotion(digest, number, gate, scopes, authority)?;
    }
    Ok(())
}

/// Refuses unless enough devices of the forward plan have failed on it.
pub fn check_failures(
    reverts: &Reverts,
    forward: &Plan,
    shown: &[GateReceipt],
    fleet: &FleetId,
) -> Result<(), Refusal> {
    let of_forward = shown.iter().filter(|r| plan_of(r) == Some(reverts.plan));
    let found = newest(forward, &reverts.plan, of_forward, fleet)?;
    let failed = found
        .values()
        .filter(|(_, r)| r.state != ReceiptState::Confirmed)
        .count();
    if failed < reverts.failures as usize {
        return refuse!(
            GateNotOpen,
            "the revert needs {} receipts of failure, {failed} are there",
            reverts.failures
        );
    }
    Ok(())
}

/// The gate of wave `number` from what the controller knows, `None` while there is not enough. Of each device its newest receipt
/// counts, so a later bad one cancels an earlier good one.
pub fn build(
    plan: &Plan,
    digest: &Digest,
    number: u32,
    receipts: &[(ByteBuf, DeviceId, Membership)],
    promote: Option<ByteBuf>,
    fleet: &FleetId,
) -> Result<Option<Gate>, Refusal> {
    if needs_promotion(plan, number) && promote.is_none() {
        return Ok(None);
    }
    let mut gate = Gate {
        format: FORMAT,
        plan: *digest,
        wave: number,
        receipts: Vec::new(),
        promote,
    };
    let Needed::Receipts {
        wave,
        receipts: needed,
        min_soak_s,
    } = needed(plan, number)?
    else {
        return Ok(Some(gate));
    };
    let mut newest: BTreeMap<DeviceId, (u64, bool, GateReceipt)> = BTreeMap::new();
    for (envelope, device, member) in receipts.iter().filter(|(_, _, member)| member.wave == wave) {
        let shown = GateReceipt {
            receipt: envelope.clone(),
            device: *device,
            member: member.clone(),
        };
        let Ok(receipt) = open_receipt(plan, digest, &shown, fleet) else {
            continue;
        };
        let good = receipt.state == ReceiptState::Confirmed && receipt.healthy_for_s >= min_soak_s;
        if newest.get(device).is_none_or(|(seq, _, _)| *seq < receipt.seq) {
            newest.insert(*device, (receipt.seq, good, shown));
        }
    }
    let good = newest
        .into_values()
        .filter(|(_, good, _)| *good)
        .map(|(_, _, shown)| shown);
    gate.receipts = good.take(needed as usize).collect();
    Ok((gate.receipts.len() == needed as usize).then_some(gate))
}

/// Refuses unless `device` with this receipt key is in the listed cohort of the wave it claims.
pub fn check_member(plan: &Plan, device: &DeviceId, member: &Membership) -> Result<(), Refusal> {
    let (wave, _) = wave(plan, member.wave)?;
    let Cohort::Listed { root, count } = &wave.cohort else {
        return refuse!(NotInPlan, "wave {} lists nobody, it has a selector", member.wave);
    };
    let leaf = merkle::leaf(member.wave, device, &member.receipt_key);
    merkle::verify(root, leaf, member.index, *count, &member.path)
}

/// Opens and checks a receipt: plan, release, device, its place in a wave, and the signature by the key in the proven leaf.
pub fn open_receipt(plan: &Plan, digest: &Digest, shown: &GateReceipt, fleet: &FleetId) -> Result<Receipt, Refusal> {
    let of = |refusal: Refusal| {
        Refusal::new(
            Code::ReceiptInvalid,
            format!("receipt of device {}: {refusal}", shown.device),
        )
    };
    check_member(plan, &shown.device, &shown.member).map_err(of)?;
    let receipt: Receipt = statement::open(&shown.receipt, &[shown.member.receipt_key], 1, fleet)
        .map_err(of)?
        .body;
    if receipt.device != shown.device || receipt.plan != *digest || receipt.release != plan.release.manifest {
        return refuse!(
            ReceiptInvalid,
            "a receipt of device {}, plan {} and release {} is offered for {}, {digest} and {}",
            receipt.device,
            receipt.plan,
            receipt.release,
            shown.device,
            plan.release.manifest
        );
    }
    Ok(receipt)
}

/// The newest receipt of each device, with its wave.
fn newest<'a>(
    plan: &Plan,
    digest: &Digest,
    shown: impl Iterator<Item = &'a GateReceipt>,
    fleet: &FleetId,
) -> Result<BTreeMap<DeviceId, (u32, Receipt)>, Refusal> {
    let mut newest: BTreeMap<DeviceId, (u32, Receipt)> = BTreeMap::new();
    for receipt in shown {
        let opened = open_receipt(plan, digest, receipt, fleet)?;
        if newest
            .get(&receipt.device)
            .is_none_or(|(_, other)| other.seq < opened.seq)
        {
            newest.insert(receipt.device, (receipt.member.wave, opened));
        }
    }
    Ok(newest)
}

fn check_promotion(
    digest: &Digest,
    number: u32,
    gate: Option<&Gate>,
    scopes: &Scopes<'_>,
    authority: &Authority<'_>,
) -> Result<(), Refusal> {
    let Some(bytes) = gate.and_then(|gate| gate.promote.as_ref()) else {
        return refuse!(GateNotOpen, "wave {number} waits for an operator to promote it");
    };
    // Nobody but operators can make one that counts, so one that does not count is none.
    let promote = scope::open::<Promote>(bytes, scopes, authority.fleet)
        .and_then(|promote| authority.check_issued(&promote.body).map(|()| promote))
        .map_err(|refusal| Refusal::new(Code::GateNotOpen, format!("the promotion is none: {refusal}")))?;
    if promote.body.plan != *digest || promote.body.wave != number {
        return refuse!(
            GateNotOpen,
            "the promotion is of plan {} and wave {}, not of {digest} and {number}",
            promote.body.plan,
            promote.body.wave
        );
    }
    Ok(())
}

fn wave(plan: &Plan, number: u32) -> Result<(&super::statements::Wave, &[super::statements::Wave]), Refusal> {
    let place = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
    match place.and_then(|at| Some((plan.waves.get(at)?, plan.waves.get(..at)?))) {
        Some(found) => Ok(found),
        None => refuse!(NotInPlan, "wave {number} of a plan with {}", plan.waves.len()),
    }
}

pub(super) fn has_devices(cohort: &Cohort) -> bool {
    !matches!(cohort, Cohort::Listed { count: 0, .. })
}

fn plan_of(shown: &GateReceipt) -> Option<Digest> {
    statement::open_unverified::<Receipt>(&shown.receipt)
        .ok()
        .map(|receipt| receipt.body.plan)
}
