//! What must hold after every step, looked at from the devices' side and not from the planner's counters.

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::digest::DeviceId;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_rollout::{Outcome, Rollout, Stage as RolloutStage, Standing, desired};

use super::controller::{CAP, Controller, SOAK_S, plan_digest};
use super::device::{Nature, VirtualDevice};

/// Steps between two looks at the whole fleet; devices that move are looked at each time.
const WHOLE_EVERY: u64 = 64;
/// Longest lease: after a halt, nothing starts later than this. Seconds.
const LEASE_S: u64 = 900;

#[derive(Debug, Default)]
pub struct Checks {
    /// Switches of each device that were looked at.
    switches: BTreeMap<DeviceId, usize>,
    generations: BTreeMap<DeviceId, u64>,
    /// Past the point of no return.
    committed: BTreeSet<DeviceId>,
    /// When the rollout was stopped, while it is.
    stopped_at: Option<u64>,
}

impl Checks {
    pub fn after_step(
        &mut self,
        step: u64,
        now: u64,
        moved: Option<DeviceId>,
        controller: &Controller,
        devices: &BTreeMap<DeviceId, VirtualDevice>,
    ) -> Result<(), String> {
        let Some(rollout) = controller.rollout() else {
            return Ok(());
        };
        match (&rollout.stage, self.stopped_at) {
            (RolloutStage::Halted { at, .. }, None) => self.stopped_at = Some(*at),
            (RolloutStage::Halted { .. }, Some(_)) => {}
            _ => self.stopped_at = None,
        }
        if rollout.in_flight() > CAP {
            return Err(format!("{} in flight, the plan allows {CAP}", rollout.in_flight()));
        }
        let Some(device) = moved.and_then(|id| devices.get(&id)) else {
            return Ok(());
        };
        let id = device.id;
        if device.machine().stage.is_committed() {
            self.committed.insert(id);
        } else {
            self.committed.remove(&id);
        }
        if self.committed.len() > CAP as usize {
            return Err(format!(
                "{} devices switch at once, the plan allows {CAP}",
                self.committed.len()
            ));
        }
        let seen = self.switches.entry(id).or_default();
        while let Some(offer) = device.switches.get(*seen) {
            *seen += 1;
            if self.stopped_at.is_some_and(|at| now > at + LEASE_S) {
                return Err(format!("{id} starts although the rollout was halted a lease ago"));
            }
            if offer.plan != plan_digest() || offer.lease.is_none() {
                return Err(format!("{id} starts without a lease"));
            }
            gate(rollout, offer.wave, &offer.evidence, devices).map_err(|wrong| format!("{id}: {wrong}"))?;
        }
        let generation = self.generations.entry(id).or_default();
        let newest = device.machine().newest;
        if newest < *generation {
            return Err(format!("{id}: generation {newest} after {generation}"));
        }
        *generation = newest;
        if step.is_multiple_of(WHOLE_EVERY) && !controller.is_dead() {
            whole(now, rollout, controller)?;
        }
        Ok(())
    }

    /// Faults are over and nothing moves any more: what the controller believes is what is.
    pub fn at_rest(
        &mut self,
        now: u64,
        controller: &Controller,
        devices: &BTreeMap<DeviceId, VirtualDevice>,
    ) -> Result<(), String> {
        let rollout = controller.rollout().ok_or("no rollout")?;
        whole(now, rollout, controller)?;
        if controller.replayed() != controller.fleet {
            return Err("the ledger makes another fleet".to_owned());
        }
        for (id, device) in devices {
            let member = rollout.member(id).ok_or_else(|| format!("{id} is no member"))?;
            let runs = device
                .machine()
                .running()
                .is_some_and(|g| g.products.iter().any(|p| p.confirmed));
            let expected = if runs { Standing::Ok } else { Standing::Failed };
            if member.standing() != expected {
                return Err(format!("{id} is {:?}, counted as {:?}", expected, member.standing()));
            }
            if device.nature == Nature::Bad && runs {
                return Err(format!("{id} runs a release that is bad for it"));
            }
        }
        Ok(())
    }
}

/// The wave before is done, and the evidence is made of receipts that appliers really signed.
fn gate(
    rollout: &Rollout,
    wave: u32,
    evidence: &[DeviceId],
    devices: &BTreeMap<DeviceId, VirtualDevice>,
) -> Result<(), String> {
    for earlier in rollout.waves().iter().take(wave as usize - 1) {
        if earlier.done_at.is_none() {
            return Err(format!("starts in wave {wave} before the wave before is done"));
        }
    }
    if wave > 1 && evidence.len() < 3 {
        return Err(format!("starts in wave {wave} with {} receipts", evidence.len()));
    }
    for id in evidence {
        let soaked = devices.get(id).is_some_and(|d| {
            d.signed
                .iter()
                .any(|r| r.state == ReceiptState::Confirmed && r.healthy_for_s >= SOAK_S)
        });
        if !soaked {
            return Err(format!("evidence of {id}, which never signed it"));
        }
    }
    Ok(())
}

/// The counters are what a recount gives; nobody has a lease that should not.
fn whole(now: u64, rollout: &Rollout, controller: &Controller) -> Result<(), String> {
    let mut slots = 0;
    for (id, member) in rollout.members() {
        slots += u32::from(member.in_flight());
        let lease = desired(&controller.fleet, id, now).is_some_and(|d| d.lease);
        if lease && !(member.in_flight() && rollout.serves()) {
            return Err(format!("{id} has a lease without a slot in a running rollout"));
        }
        if matches!(member.outcome, Some(Outcome::Confirmed { .. })) && member.receipt_seq == 0 {
            return Err(format!("{id} counts as confirmed without a receipt"));
        }
    }
    if slots != rollout.in_flight() || rollout.counts().total() as usize != rollout.members().count() {
        return Err("the counters differ from a recount".to_owned());
    }
    Ok(())
}
