//! The fleet as rows of a ledger, and back. Every counter and queue is made anew from them, so a row can never disagree with one.

use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use serde::{Deserialize, Serialize};

use crate::event::{Order, RolloutSpec};
use crate::fleet::{Device, Fleet, Policies};
use crate::member::{Entry, Member};
use crate::rollout::{Control, Index, Rollout, Stage, Wave};

/// Key `rollouts`: the fleet itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetRow {
    /// When the controller started last, unix seconds.
    pub started: u64,
    pub freeze: Option<Order>,
}

/// Key `rollout/<id>`: everything but its members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRow {
    pub plan: Digest,
    pub spec: RolloutSpec,
    /// Unix seconds.
    pub started_at: u64,
    pub order: u64,
    pub stage: Stage,
    pub epoch: u32,
    pub rate_due_ms: u64,
    pub control: Control,
    pub waves: Vec<Wave>,
}

impl Fleet {
    /// What the ledger keeps of the fleet itself.
    pub fn row(&self) -> FleetRow {
        FleetRow {
            started: self.started,
            freeze: self.freeze.clone(),
        }
    }

    /// The fleet that has these rows. A device from the ledger is not connected. Rows that name something unknown are left out.
    pub fn from_rows(
        policies: Policies,
        fleet: &FleetRow,
        devices: impl IntoIterator<Item = (DeviceId, Device)>,
        rollouts: impl IntoIterator<Item = (PlanId, RolloutRow)>,
        members: impl IntoIterator<Item = (PlanId, DeviceId, Member)>,
    ) -> Self {
        let mut new = Self::new(policies);
        new.started = fleet.started;
        new.freeze.clone_from(&fleet.freeze);
        for (id, mut device) in devices {
            device.rollouts.clear();
            device.newest.clear();
            new.devices.insert(id, device);
        }
        new.rollouts = rollouts.into_iter().map(|(id, row)| (id, row.rollout(id))).collect();
        for (rollout, device, mut member) in members {
            member.entry = Entry::default();
            if let Some(r) = new.rollouts.get_mut(&rollout)
                && r.wave(member.wave).is_some()
                && new.devices.contains_key(&device)
            {
                r.members.insert(device, member);
            }
        }
        let mut started: Vec<(u64, PlanId)> = new.rollouts.values().map(|r| (r.order, r.id)).collect();
        started.sort_unstable();
        for (_, id) in started {
            let Some(rollout) = new.rollouts.get(&id) else { continue };
            for device in rollout.members.keys() {
                if let Some(d) = new.devices.get_mut(device) {
                    d.newest.insert(rollout.spec.product.clone(), id);
                }
            }
        }
        let ids: Vec<PlanId> = new.rollouts.keys().copied().collect();
        for id in ids {
            new.recount_rollout(&id);
        }
        new
    }
}

impl Rollout {
    /// What the ledger keeps of it, but for its members.
    pub fn row(&self) -> RolloutRow {
        RolloutRow {
            plan: self.plan,
            spec: self.spec.clone(),
            started_at: self.started_at,
            order: self.order,
            stage: self.stage.clone(),
            epoch: self.epoch,
            rate_due_ms: self.rate_due_ms,
            control: self.control,
            waves: self.waves.clone(),
        }
    }
}

impl RolloutRow {
    fn rollout(self, id: PlanId) -> Rollout {
        let uncounted = |wave: Wave| Wave {
            opened_at: wave.opened_at,
            done_at: wave.done_at,
            promoted_at: wave.promoted_at,
            evidence: wave.evidence,
            quorum_acknowledged: wave.quorum_acknowledged,
            ..Wave::default()
        };
        Rollout {
            id,
            plan: self.plan,
            spec: self.spec,
            started_at: self.started_at,
            order: self.order,
            stage: self.stage,
            epoch: self.epoch,
            rate_due_ms: self.rate_due_ms,
            control: self.control,
            waves: self.waves.into_iter().map(uncounted).collect(),
            members: std::collections::BTreeMap::new(),
            index: Index::default(),
        }
    }
}
