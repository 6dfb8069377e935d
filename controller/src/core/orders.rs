//! What operators do to rollouts: start, pause, resume, cancel, promote, give slots back; and the brake on the whole fleet.

use std::collections::BTreeSet;

use ensign_api::Member;
use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::ids::Labels;
use ensign_bundle::plan::cohort::{CutWave, Listed};
use ensign_bundle::plan::scope::Scopes;
use ensign_bundle::plan::statements::{Cancel, Cohort, Plan, Promote};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement::{self, Signed};
use ensign_bundle::text::printable;
use ensign_rollout::{Abort, Event, RolloutSpec, WaveSpec};

use super::devices::subject_of;
use super::rollouts::{Entry, PlanRow, encode_lists};
use super::rows::{FreezeRow, Standing, key};
use super::state::State;

/// Characters of an operator's reason that are kept.
const REASON: usize = 200;

impl State {
    /// Starts a signed plan. Everything is checked before anything is written; the same plan again changes nothing.
    pub fn start_rollout(&mut self, envelope: &[u8], lists: &[Vec<Member>], by: &str) -> Result<PlanId, Refusal> {
        let plan = statement::open_unverified::<Plan>(envelope)?;
        let digest = plan.digest();
        let id = PlanId::of(&digest);
        if self.rollouts.plans.contains_key(&id) {
            return Ok(id);
        }
        let waves = check_lists(&plan.body, lists)?;
        self.check_members(&plan, &waves)?;
        self.check_release(&plan.body)?;
        self.check_seq(&plan.body)?;
        if plan.body.expires <= self.now {
            return refuse!(PlanExpired, "the plan expired at {}", plan.body.expires);
        }
        let spec = spec(&plan.body, &waves);
        let lists = encode_lists(&waves)?;
        let row = PlanRow {
            plan: digest,
            document: self.keep_statement(envelope, plan.body.seq)?,
            lists: self.keep_document(&lists)?,
            gates: std::collections::BTreeMap::new(),
            promotes: std::collections::BTreeMap::new(),
            cancel: None,
            sent: 0,
            started_by: by.to_owned(),
        };
        self.put_new(key::plan(&id), &row)?;
        tracing::info!(
            rollout = %id,
            product = %plan.body.product,
            version = %plan.body.release.version,
            devices = waves.iter().map(|w| w.members.len()).sum::<usize>(),
            by,
            "a rollout starts"
        );
        self.rollouts.plans.insert(id, Entry::new(row, plan.body, waves));
        self.happened(&Event::RolloutStarted {
            id,
            plan: digest,
            spec: Box::new(spec),
            at: self.now,
        });
        Ok(id)
    }

    /// An operator's stop: nothing new starts, leases end, what is switching finishes.
    pub fn pause(&mut self, id: &PlanId, reason: &str, by: &str) -> Result<(), Refusal> {
        self.rollouts.entry(id)?;
        tracing::info!(rollout = %id, by, "paused");
        self.happened(&Event::Paused {
            rollout: *id,
            reason: printable(reason, REASON),
            at: self.now,
        });
        Ok(())
    }

    /// Goes on, and acknowledges what halted it.
    pub fn resume(&mut self, id: &PlanId, reason: &str, by: &str) -> Result<(), Refusal> {
        let ended = self
            .rollouts
            .model
            .rollout(id)
            .is_none_or(ensign_rollout::Rollout::ended);
        if ended {
            return refuse!(Conflict, "rollout {id} has ended: start a new one");
        }
        tracing::info!(rollout = %id, by, reason = %printable(reason, REASON), "resumed");
        self.happened(&Event::Resumed {
            rollout: *id,
            at: self.now,
        });
        Ok(())
    }

    /// Ends a plan for ever, by a signed statement that devices get to see.
    pub fn cancel(&mut self, id: &PlanId, envelope: &[u8]) -> Result<(), Refusal> {
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
        if cancel.body.product != entry.body.product {
            return refuse!(
                PlanMismatch,
                "the cancel names product {}, the plan {}",
                cancel.body.product,
                entry.body.product
            );
        }
        // What only stops needs any one of the scopes that it touches.
        let mut last = Refusal::new(Code::NobodyMatches, "the plan lists nobody");
        let mut allowed = false;
        for labels in self.label_sets(&entry.waves) {
            let Some(row) = self.devices.get(&labels) else { continue };
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
        if entry
            .row
            .cancel
            .is_some_and(|known| known.digest == Digest::of(envelope))
        {
            return Ok(());
        }
        let row = self.keep_statement(envelope, 0)?;
        if let Some(entry) = self.rollouts.plans.get_mut(id) {
            entry.row.cancel = Some(row);
        }
        self.put_plan(id)?;
        tracing::info!(rollout = %id, "cancelled for ever");
        self.happened(&Event::Aborted {
            rollout: *id,
            how: Abort::Keep,
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
        if wave == 0 || wave as usize > entry.waves.len() {
            return refuse!(NotFound, "rollout {id} has {} waves, no wave {wave}", entry.waves.len());
        }
        for device in self.label_sets(&entry.waves) {
            let row = self.device(&device)?;
            Scopes::of_device(self.roles.root(), subject_of(row))?.require(&promote.envelope, &self.fleet.fleet)?;
        }
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

    /// The device may try again what failed there: its own list is cleared by the device, the registry only notes the wish.
    pub fn clear_denied(&mut self, id: &DeviceId) -> Result<(), Refusal> {
        let row = self.device_mut(id)?;
        if let Some(status) = &mut row.status {
            row.cleared = std::mem::take(&mut status.denied);
        }
        self.put_device(id)?;
        self.sessions.touch(*id);
        Ok(())
    }

    /// Nothing starts anywhere.
    pub fn freeze_fleet(&mut self, reason: &str, by: &str) -> Result<(), Refusal> {
        if self.freeze.is_some() {
            return Ok(());
        }
        let row = FreezeRow {
            since: self.now,
            reason: printable(reason, REASON),
            by: by.to_owned(),
        };
        self.put(key::FREEZE.to_owned(), &row)?;
        tracing::info!(by, reason = %row.reason, "the fleet is frozen");
        self.happened(&Event::Frozen {
            group: None,
            reason: row.reason.clone(),
            at: self.now,
        });
        self.freeze = Some(row);
        Ok(())
    }

    /// Lets go of the brake.
    pub fn unfreeze_fleet(&mut self, reason: &str, by: &str) {
        if self.freeze.take().is_some() {
            self.delete(key::FREEZE.to_owned());
            tracing::info!(by, reason = %printable(reason, REASON), "the fleet is no longer frozen");
            self.happened(&Event::Unfrozen {
                group: None,
                at: self.now,
            });
        }
    }

    /// Everybody in the plan is known here by the listed receipt key, and every scope that they are in has signed.
    fn check_members(&self, plan: &Signed<Plan>, waves: &[CutWave]) -> Result<(), Refusal> {
        for member in waves.iter().flat_map(|wave| &wave.members) {
            let row = self.device(&member.device)?;
            if row.receipt_key != member.receipt_key {
                return refuse!(
                    IdentityChanged,
                    "device {} ({}) has another receipt key than the plan lists",
                    member.device,
                    printable(&row.name, 64)
                );
            }
            if row.state == Standing::Revoked {
                return refuse!(Revoked, "{} is revoked", printable(&row.name, 64));
            }
        }
        for device in self.label_sets(waves) {
            let row = self.device(&device)?;
            Scopes::of_device(self.roles.root(), subject_of(row))?.require(&plan.envelope, &self.fleet.fleet)?;
        }
        Ok(())
    }

    /// One device for each set of labels among the members, or every device where a scope asks for names or ids: what scopes see.
    fn label_sets(&self, waves: &[CutWave]) -> Vec<DeviceId> {
        let by_name = self.roles.root().scopes.iter().any(|scope| {
            ensign_bundle::selector::Selector::parse(&scope.select)
                .is_ok_and(|s| s.keys().iter().any(|k| ["name", "id"].contains(&k.as_str())))
        });
        let mut seen: BTreeSet<&Labels> = BTreeSet::new();
        let members = waves.iter().flat_map(|wave| &wave.members);
        members
            .filter(|m| by_name || self.devices.get(&m.device).is_some_and(|row| seen.insert(&row.labels)))
            .map(|m| m.device)
            .collect()
    }

    fn check_release(&self, plan: &Plan) -> Result<(), Refusal> {
        let release = self.release(&plan.product, &plan.release.version)?;
        if release.manifest != plan.release.manifest || release.counter != plan.release.counter {
            return refuse!(
                PlanMismatch,
                "the plan brings manifest {}, {}@{} is published with {}",
                plan.release.manifest,
                plan.product,
                plan.release.version,
                release.manifest
            );
        }
        if let Some(why) = &release.yanked {
            return refuse!(
                Yanked,
                "{}@{} was withdrawn: {}",
                plan.product,
                plan.release.version,
                printable(why, REASON)
            );
        }
        Ok(())
    }

    fn check_seq(&self, plan: &Plan) -> Result<(), Refusal> {
        let of_product = self.rollouts.plans.values().filter(|e| e.body.product == plan.product);
        let newest = of_product.map(|e| e.body.seq).max().unwrap_or(0);
        let floor = self.roles.root().floor(&plan.product).plan_seq;
        let newest = newest.max(floor);
        if plan.seq <= newest {
            return refuse!(
                PlanReplayed,
                "the plan has number {}, {} was started already",
                plan.seq,
                newest
            );
        }
        Ok(())
    }
}

/// The lists hash to exactly the roots that the plan signs.
fn check_lists(plan: &Plan, lists: &[Vec<Member>]) -> Result<Vec<CutWave>, Refusal> {
    if lists.len() != plan.waves.len() {
        return refuse!(
            Malformed,
            "{} lists came with a plan of {} waves",
            lists.len(),
            plan.waves.len()
        );
    }
    let mut seen = BTreeSet::new();
    let mut waves = Vec::with_capacity(lists.len());
    for ((list, wave), number) in lists.iter().zip(&plan.waves).zip(1u32..) {
        let Cohort::Listed { root, count } = &wave.cohort else {
            return refuse!(Usage, "wave {number} has a selector; a rollout is started with lists");
        };
        if !list.is_sorted_by(|a, b| a.device < b.device) {
            return refuse!(Malformed, "the list of wave {number} is not strictly increasing");
        }
        if let Some(twice) = list.iter().find(|m| !seen.insert(m.device)) {
            return refuse!(Conflict, "device {} is in two waves", twice.device);
        }
        let members = list.iter().map(|m| Listed {
            device: m.device,
            receipt_key: m.receipt_key,
        });
        let cut = CutWave::new(number, members.collect());
        if cut.root != *root || cut.count() != *count {
            return refuse!(
                ContentMismatch,
                "the list of wave {number} has {} devices and root {}, the plan signs {count} and {root}",
                cut.count(),
                cut.root
            );
        }
        waves.push(cut);
    }
    Ok(waves)
}

fn spec(plan: &Plan, waves: &[CutWave]) -> RolloutSpec {
    let wave_spec = |(cut, wave): (&CutWave, &ensign_bundle::plan::statements::Wave)| WaveSpec {
        members: cut.members.iter().map(|m| m.device).collect(),
        min_soak_s: wave.min_soak_s,
        gate: wave.gate,
        evidence: wave.evidence,
    };
    RolloutSpec {
        product: plan.product.clone(),
        version: plan.release.version.clone(),
        counter: plan.release.counter,
        manifest: plan.release.manifest,
        seq: plan.seq,
        waves: waves.iter().zip(&plan.waves).map(wave_spec).collect(),
        pace: plan.pace.clone(),
        not_before: plan.not_before,
        expires: plan.expires,
        downgrade: plan.downgrade.is_some(),
        reverts: plan.reverts.as_ref().map(|r| PlanId::of(&r.plan)),
        prepared_revert: None,
    }
}
