//! What operators do to rollouts: start, pause, resume, cancel, promote, give slots back; and the brake on the whole fleet.

use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::plan::scope::Scopes;
use ensign_bundle::plan::statements::{Cancel, Promote};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement::{self};
use ensign_bundle::text::printable;
use ensign_rollout::{Event, Order, Rollout};

use super::devices::subject_of;
use super::state::State;

/// Characters of an operator's reason that are kept.
const REASON: usize = 200;

impl State {
    /// An operator's stop: nothing new starts, leases end, what is switching finishes.
    pub fn pause(&mut self, id: &PlanId, reason: &str, by: &str) -> Result<(), Refusal> {
        self.require_unfinished(id)?;
        tracing::info!(rollout = %id, by, "paused");
        self.happened(&Event::Paused {
            rollout: *id,
            order: self.order(reason, by),
        });
        Ok(())
    }

    /// Goes on, and acknowledges what halted it.
    pub fn resume(&mut self, id: &PlanId, reason: &str, by: &str) -> Result<(), Refusal> {
        self.require_unfinished(id)?;
        self.rollouts.entry(id)?.signed()?;
        tracing::info!(rollout = %id, by, reason = %printable(reason, REASON), "resumed");
        self.happened(&Event::Resumed {
            rollout: *id,
            at: self.now,
        });
        Ok(())
    }

    /// Ends a plan for ever, by a signed statement that devices get to see.
    pub fn cancel(&mut self, id: &PlanId, envelope: &[u8], by: &str) -> Result<(), Refusal> {
        let cancel = statement::open_unverified::<Cancel>(envelope)?;
        let entry = self.rollouts.entry(id)?;
        if cancel.body.plan != entry.row.plan {
            return refuse!(
                PlanMismatch,
                "the cancel is of plan {}, not of {}",
                cancel.body.plan,
                entry.row.plan
            );
        }
        let Some(rollout) = self.rollouts.model.rollout(id) else {
            return refuse!(NotFound, "there is no rollout {id}");
        };
        if cancel.body.product != rollout.spec.product {
            return refuse!(
                PlanMismatch,
                "the cancel names product {}, the plan {}",
                cancel.body.product,
                rollout.spec.product
            );
        }
        let known = entry.row.cancel;
        if known.is_some_and(|known| known.digest == Digest::of(envelope)) {
            return Ok(());
        }
        // A finished rollout that may still reach some devices has something left to end.
        if rollout.is_over() {
            return Err(self.over(id));
        }
        // What only stops needs any one of the scopes that it touches.
        let mut last = Refusal::new(Code::NobodyMatches, "the plan lists nobody");
        let mut allowed = false;
        for device in self.label_sets(rollout.members().map(|(device, _)| *device)) {
            let Some(row) = self.devices.get(&device) else { continue };
            match Scopes::of_device(self.roles.root(), subject_of(row))
                .and_then(|scopes| scopes.require_any(&cancel.envelope, &self.fleet.fleet))
            {
                Ok(()) => allowed = true,
                Err(refusal) => last = refusal,
            }
        }
        if !allowed {
            return Err(last);
        }
        self.authority().check_issued(&cancel.body)?;
        let row = self.keep_statement(envelope, 0)?;
        if let Some(entry) = self.rollouts.plans.get_mut(id) {
            entry.row.cancel = Some(row);
        }
        self.put_plan(id)?;
        tracing::info!(rollout = %id, by, "cancelled for ever");
        self.happened(&Event::Aborted {
            rollout: *id,
            by: by.to_owned(),
            reason: printable(&cancel.body.reason, REASON),
            at: self.now,
        });
        Ok(())
    }

    /// Takes the signed promotion of a manual gate.
    pub fn promote(&mut self, id: &PlanId, envelope: &[u8]) -> Result<(), Refusal> {
        let promote = statement::open_unverified::<Promote>(envelope)?;
        let entry = self.rollouts.entry(id)?;
        if promote.body.plan != entry.row.plan {
            return refuse!(
                PlanMismatch,
                "the promotion is of plan {}, not of {}",
                promote.body.plan,
                entry.row.plan
            );
        }
        let wave = promote.body.wave;
        entry.signed()?;
        let Some(rollout) = self.rollouts.model.rollout(id) else {
            return refuse!(NotFound, "there is no rollout {id}");
        };
        let waves = rollout.waves().len();
        if wave == 0 || wave as usize > waves {
            return refuse!(NotFound, "rollout {id} has {waves} waves, no wave {wave}");
        }
        self.require_promotable(rollout, wave)?;
        for device in self.label_sets(rollout.members().map(|(device, _)| *device)) {
            let row = self.device(&device)?;
            Scopes::of_device(self.roles.root(), subject_of(row))?.require(&promote.envelope, &self.fleet.fleet)?;
        }
        self.authority().check_issued(&promote.body)?;
        let row = self.keep_statement(envelope, u64::from(wave))?;
        if let Some(entry) = self.rollouts.plans.get_mut(id) {
            entry.row.promotes.insert(wave, row);
        }
        self.put_plan(id)?;
        tracing::info!(rollout = %id, wave, "promoted");
        self.happened(&Event::Promoted {
            rollout: *id,
            wave,
            at: self.now,
        });
        Ok(())
    }

    /// A promotion opens a gate that an operator keeps shut, after the soak before it and never instead of it.
    fn require_promotable(&self, rollout: &Rollout, wave: u32) -> Result<(), Refusal> {
        let id = &rollout.id;
        self.require_unfinished(id)?;
        if !rollout.is_manual(wave) {
            return refuse!(Conflict, "wave {wave} of rollout {id} opens by itself");
        }
        for (earlier, number) in rollout.waves().iter().zip(1..=wave) {
            if number == wave && earlier.opened_at.is_some() {
                return refuse!(Conflict, "wave {wave} of rollout {id} is open already");
            }
            if number < wave && earlier.done_at.is_none() {
                return refuse!(
                    GateNotOpen,
                    "wave {number} of rollout {id} is not done yet: wave {wave} can be promoted after it"
                );
            }
        }
        Ok(())
    }

    fn require_unfinished(&self, id: &PlanId) -> Result<(), Refusal> {
        self.rollouts.entry(id)?;
        let unfinished = |r: &Rollout| r.is_stopped() || r.stage == ensign_rollout::Stage::Running;
        if self.rollouts.model.rollout(id).is_some_and(unfinished) {
            return Ok(());
        }
        Err(self.over(id))
    }

    /// What is told to whoever orders something of a rollout that has ended.
    fn over(&self, id: &PlanId) -> Refusal {
        let status = ensign_rollout::status(&self.rollouts.model, id, self.now);
        let state = status.map_or("not there", |status| status.state.name());
        Refusal::new(Code::Conflict, format!("the rollout {id} is {state}"))
    }

    /// Gives back the slots of dark devices.
    pub fn release_slots(&mut self, id: &PlanId, devices: &[DeviceId], by: &str) -> Result<(), Refusal> {
        let Some(rollout) = self.rollouts.model.rollout(id) else {
            return refuse!(NotFound, "there is no rollout {id}");
        };
        for device in devices {
            if rollout.member(device).is_none() {
                return refuse!(NotFound, "device {device} is not in rollout {id}");
            }
        }
        for device in devices {
            tracing::info!(rollout = %id, %device, by, "a slot is given back");
            self.happened(&Event::Released {
                rollout: *id,
                device: *device,
                at: self.now,
            });
        }
        Ok(())
    }

    /// Nothing starts anywhere.
    pub fn freeze_fleet(&mut self, reason: &str, by: &str) {
        if self.rollouts.model.freeze().is_none() {
            tracing::info!(by, reason = %printable(reason, REASON), "the fleet is frozen");
            self.happened(&Event::Frozen {
                order: self.order(reason, by),
            });
        }
    }

    /// Lets go of the brake.
    pub fn unfreeze_fleet(&mut self, reason: &str, by: &str) {
        if self.rollouts.model.freeze().is_some() {
            tracing::info!(by, reason = %printable(reason, REASON), "the fleet is no longer frozen");
            self.happened(&Event::Unfrozen { at: self.now });
        }
    }

    pub(super) fn order(&self, reason: &str, by: &str) -> Order {
        Order {
            at: self.now,
            by: by.to_owned(),
            reason: reason.to_owned(),
        }
    }
}
