//! Rollouts in the core: the planner's model with its rows, the plans as they were signed, and the documents that devices are shown.
//!
//! Whatever happens to the fleet goes through [`State::happened`]: the model observes it, its rows are written with the batch, and
//! the sessions it may concern are looked at again once that is durable.

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::plan::evidence::Receipt;
use ensign_bundle::plan::gate;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::Status;
use ensign_rollout::rows as model_rows;
use ensign_rollout::{Event, Fleet, Member, Policies, Subject, observe};
use serde_bytes::ByteBuf;
use tokio::sync::watch;

use super::load::rows;
use super::plans::{Entry, PlanRow, ReceiptRow, SignedPlan};
use super::rows::{DeviceRow, key};
use super::state::State;
use crate::config::Config;
use crate::store::blobs::BlobStore;
use crate::store::ledger::{Ledger, Typed as _};

/// See the module.
#[derive(Debug)]
pub struct Rollouts {
    pub(super) model: Fleet,
    pub(super) plans: BTreeMap<PlanId, Entry>,
    pub(super) receipts: BTreeMap<(PlanId, DeviceId), ReceiptRow>,
    pub(super) dirty: BTreeSet<Dirty>,
    /// Plans whose `sent` is newer in memory than in the ledger.
    pub(super) counted: BTreeSet<PlanId>,
    /// What long polls compare: goes up with every change of a rollout, over restarts too.
    pub(super) revisions: BTreeMap<PlanId, u64>,
    revision: u64,
    changes: watch::Sender<u64>,
}

/// Rows of the model that the batch writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dirty {
    Fleet,
    Device(DeviceId),
    Rollout(PlanId),
    Member(PlanId, DeviceId),
}

impl Rollouts {
    /// The model and the plans as the ledger has them.
    pub(super) fn load(
        ledger: &dyn Ledger,
        documents: &dyn BlobStore,
        config: &Config,
        starts: u64,
        devices: &BTreeMap<DeviceId, DeviceRow>,
    ) -> Result<Self, Refusal> {
        let policies = Policies {
            check_in_s: config.check_in_s,
        };
        let model = load_model(ledger, policies, devices)?;
        let mut plans = BTreeMap::new();
        for (_, row) in rows::<PlanRow>(ledger, key::PLANS)? {
            let id = PlanId::of(&row.plan);
            let signed = SignedPlan::read(documents, &row).inspect_err(|refusal| {
                tracing::error!(rollout = %id, code = %refusal.code, error = %refusal.text, "the plan of a rollout cannot be read");
            });
            let signed = signed.ok();
            plans.insert(id, Entry { row, signed });
        }
        let mut receipts = BTreeMap::new();
        for (name, row) in rows::<ReceiptRow>(ledger, key::RECEIPTS)? {
            receipts.insert(parse_pair(&name)?, row);
        }
        let revision = starts << 32;
        Ok(Self {
            model,
            plans,
            receipts,
            dirty: BTreeSet::new(),
            counted: BTreeSet::new(),
            revisions: BTreeMap::new(),
            revision,
            changes: watch::Sender::new(revision),
        })
    }

    /// Ticks after every commit that changed a rollout.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The revision of a rollout; what a start makes of it counts as a change.
    pub(super) fn revision(&self, id: &PlanId) -> u64 {
        self.revisions
            .get(id)
            .copied()
            .unwrap_or(self.revision & !u64::from(u32::MAX))
    }

    pub(super) fn changed(&mut self, id: PlanId) {
        self.revision += 1;
        self.revisions.insert(id, self.revision);
    }

    pub(super) fn announce(&self) {
        self.changes.send_if_modified(|seen| {
            let news = *seen != self.revision;
            *seen = self.revision;
            news
        });
    }

    pub(super) fn entry(&self, id: &PlanId) -> Result<&Entry, Refusal> {
        self.plans
            .get(id)
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no rollout {id}")))
    }
}

/// The planner's model from its rows.
fn load_model(
    ledger: &dyn Ledger,
    policies: Policies,
    devices: &BTreeMap<DeviceId, DeviceRow>,
) -> Result<Fleet, Refusal> {
    let fleet = ledger.read_as::<model_rows::FleetRow>(key::MODEL_FLEET)?;
    let mut known = Fleet::new(policies);
    for event in devices.values().flat_map(DeviceRow::events) {
        observe(&mut known, &event);
    }
    let devices = known.devices().map(|(id, device)| (*id, device.clone()));
    let mut rollouts = Vec::new();
    for (name, row) in rows::<model_rows::RolloutRow>(ledger, key::ROLLOUTS)? {
        rollouts.push((parse_last(&name)?, row));
    }
    let mut members = Vec::new();
    for (name, row) in rows::<Member>(ledger, key::SLOTS)? {
        let (rollout, device) = parse_pair(&name)?;
        members.push((rollout, device, row));
    }
    let fleet = fleet.map(|stored| stored.value).unwrap_or_default();
    Ok(Fleet::from_rows(policies, &fleet, devices, rollouts, members))
}

impl State {
    /// The start itself: nobody is connected, silence counts from here.
    pub(super) fn rollouts_started(&mut self) {
        self.happened(&Event::Started { at: self.now });
        self.halt_lost();
    }

    /// Without its plan a rollout cannot go on: nobody could be shown it. The others need not wait for it.
    fn halt_lost(&mut self) {
        let model = &self.rollouts.model;
        let plans = self.rollouts.plans.iter();
        let lost = plans.filter_map(|(id, entry)| Some((*id, entry.signed().err()?)));
        let lost: Vec<_> = lost
            .filter(|(id, _)| model.rollout(id).is_some_and(|r| !r.is_over()))
            .collect();
        for (id, reason) in lost {
            self.halt(id, reason);
        }
    }

    pub(super) fn halt(&mut self, rollout: PlanId, reason: Refusal) {
        tracing::error!(%rollout, code = %reason.code, text = %reason.text, "halted");
        self.happened(&Event::Halted {
            rollout,
            reason,
            at: self.now,
        });
    }

    /// Something happened: the model follows, rows and sessions too.
    pub(super) fn happened(&mut self, event: &Event) {
        observe(&mut self.rollouts.model, event);
        let contact = matches!(
            event,
            Event::Started { .. } | Event::Connected { .. } | Event::Disconnected { .. }
        );
        let subject = event.subject();
        self.touch(subject);
        if contact {
            // Times of contact are written with something else; after a restart they count from the start anyway.
            return;
        }
        let dirty = &mut self.rollouts.dirty;
        match subject {
            Subject::Fleet => {
                dirty.insert(Dirty::Fleet);
            }
            Subject::Device(device) => {
                dirty.insert(Dirty::Device(device));
                // What a device says may change its place in every rollout that follows it.
                let followed = self.rollouts.model.followed(&device);
                dirty.extend(followed.map(|id| Dirty::Member(*id, device)));
            }
            Subject::Rollout(id) => {
                dirty.insert(Dirty::Rollout(id));
            }
            Subject::Member(id, device) => {
                dirty.extend([Dirty::Rollout(id), Dirty::Device(device), Dirty::Member(id, device)]);
            }
            Subject::Cohort(id) => {
                dirty.insert(Dirty::Rollout(id));
                if let Some(rollout) = self.rollouts.model.rollout(&id) {
                    for (device, _) in rollout.members() {
                        dirty.extend([Dirty::Device(*device), Dirty::Member(id, *device)]);
                    }
                }
            }
        }
    }

    fn touch(&mut self, subject: Subject) {
        match subject {
            Subject::Fleet => {
                self.sessions.touch_all();
                let live: Vec<PlanId> = self.rollouts.plans.keys().copied().collect();
                for id in live {
                    self.rollouts.changed(id);
                }
            }
            Subject::Device(device) => {
                self.sessions.touch(device);
                let model = &self.rollouts.model;
                let of: Vec<PlanId> = model
                    .rollouts()
                    .filter(|(_, r)| !r.ended() && r.member(&device).is_some())
                    .map(|(id, _)| *id)
                    .collect();
                for id in of {
                    self.rollouts.changed(id);
                }
            }
            Subject::Member(id, device) => {
                self.sessions.touch(device);
                self.rollouts.changed(id);
            }
            Subject::Rollout(id) | Subject::Cohort(id) => {
                if let Some(rollout) = self.rollouts.model.rollout(&id) {
                    rollout.members().for_each(|(device, _)| self.sessions.touch(*device));
                }
                self.rollouts.changed(id);
            }
        }
    }

    pub(super) fn device_connected(&mut self, device: &DeviceId) {
        self.happened(&Event::Connected {
            device: *device,
            at: self.now,
        });
    }

    pub(super) fn device_disconnected(&mut self, device: &DeviceId) {
        self.happened(&Event::Disconnected {
            device: *device,
            at: self.now,
        });
    }

    /// What the device says of itself: unsigned, so it opens nothing.
    pub(super) fn device_reported(&mut self, device: &DeviceId, status: Status) {
        if let Some(row) = self.devices.get_mut(device) {
            row.status = Some(status.clone());
        }
        self.happened(&Event::Reported {
            device: *device,
            at: self.now,
            status,
        });
    }

    /// A receipt whose signature was verified. One that is known already changes nothing.
    pub(super) fn take_receipt(
        &mut self,
        device: &DeviceId,
        receipt: Receipt,
        envelope: &ByteBuf,
    ) -> Result<(), Refusal> {
        let id = PlanId::of(&receipt.plan);
        let known = self.rollouts.receipts.get(&(id, *device));
        if known.is_some_and(|row| row.seq >= receipt.seq) {
            return Ok(());
        }
        let Some(rollout) = self.rollouts.model.rollout(&id) else {
            // Of a plan from before a restore, or of an offline one: kept by nobody.
            tracing::debug!(device = %device, plan = %receipt.plan, "a receipt of a plan that is not known here");
            return Ok(());
        };
        if rollout.plan != receipt.plan || rollout.member(device).is_none() {
            tracing::warn!(device = %device, plan = %receipt.plan, "a receipt for a plan that does not list the device");
            return Ok(());
        }
        let row = ReceiptRow {
            seq: receipt.seq,
            envelope: envelope.clone(),
        };
        self.put(key::receipt(&id, device), &row)?;
        self.rollouts.receipts.insert((id, *device), row);
        if let Some(row) = self.devices.get_mut(device) {
            row.receipt_seq = row.receipt_seq.max(receipt.seq);
        }
        tracing::info!(device = %device, plan = %id, state = ?receipt.state, healthy_for_s = receipt.healthy_for_s, "receipt");
        self.happened(&Event::Receipt {
            device: *device,
            at: self.now,
            receipt,
        });
        Ok(())
    }

    /// Bytes of records that went to a device for a rollout.
    pub fn bytes_sent(&mut self, id: &PlanId, _device: &DeviceId, bytes: u64) {
        if let Some(entry) = self.rollouts.plans.get_mut(id) {
            entry.row.sent = entry.row.sent.saturating_add(bytes);
            self.rollouts.counted.insert(*id);
            self.rollouts.changed(*id);
        }
    }

    /// The gate document of a wave: made once, so that everybody gets the same one.
    pub(super) fn make_gate(&mut self, id: &PlanId, wave: u32, evidence: &[DeviceId]) -> Result<(), Refusal> {
        let entry = self.rollouts.entry(id)?;
        let signed = entry.signed()?;
        let promote = match entry.row.promotes.get(&wave) {
            Some(promote) => Some(ByteBuf::from(self.document(&promote.digest)?)),
            None => None,
        };
        let shown: Vec<_> = evidence
            .iter()
            .filter_map(|device| {
                let receipt = self.rollouts.receipts.get(&(*id, *device))?;
                Some((receipt.envelope.clone(), *device, signed.membership(device)?))
            })
            .collect();
        if shown.is_empty() && promote.is_none() {
            return Ok(());
        }
        let plan = entry.row.plan;
        let built = gate::build(&signed.body, &plan, wave, &shown, promote, &self.fleet.fleet)?;
        let Some(gate) = built else {
            return Err(Refusal::new(
                Code::GateNotOpen,
                format!("wave {wave} of {id} was opened without enough receipts"),
            ));
        };
        let bytes = gate.encode()?;
        let row = self.keep_statement(&bytes, u64::from(wave))?;
        let entry = self
            .rollouts
            .plans
            .get_mut(id)
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no rollout {id}")))?;
        entry.row.gates.insert(wave, row);
        self.put_plan(id)
    }

    pub(super) fn put_plan(&mut self, id: &PlanId) -> Result<(), Refusal> {
        let row = self.rollouts.entry(id)?.row.clone();
        self.rollouts.counted.remove(id);
        self.put(key::plan(id), &row)
    }
}

/// The id at the end of a key.
fn parse_last<T: std::str::FromStr>(name: &str) -> Result<T, Refusal> {
    let last = name.rsplit('/').next().and_then(|id| id.parse().ok());
    last.ok_or_else(|| Refusal::new(Code::Malformed, format!("the ledger has a strange row `{name}`")))
}

/// The rollout and the device in `receipt/<rollout>/<device>` or `slot/<rollout>/<device>`.
fn parse_pair(name: &str) -> Result<(PlanId, DeviceId), Refusal> {
    let mut parts = name.rsplit('/');
    let device = parts.next().and_then(|d| d.parse().ok());
    let rollout = parts.next().and_then(|r| r.parse().ok());
    match (rollout, device) {
        (Some(rollout), Some(device)) => Ok((rollout, device)),
        _ => Err(Refusal::new(
            Code::Malformed,
            format!("the ledger has a strange row `{name}`"),
        )),
    }
}
