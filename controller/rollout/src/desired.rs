//! What a device should be told right now. Follows from state alone, so it is the same after any restart.

use ensign_bundle::digest::{DeviceId, Digest, PlanId};

use crate::event::DeviceState;
use crate::fleet::Fleet;
use crate::member::Standing;
use crate::rollout::{Rollout, Stage};

/// What a device is to be shown of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    pub rollout: PlanId,
    pub plan: Digest,
    /// From 1.
    pub wave: u32,
    /// Devices whose newest receipts for this plan make the gate; fixed when the wave opened.
    pub evidence: Vec<DeviceId>,
    /// The gate also carries the promote statement.
    pub promote: bool,
    /// May start now: the controller signs a lease. Without one a device prepares nothing new and switches nothing.
    pub lease: bool,
}

/// The rollout that `device` is told of at `now`; `None` = start nothing.
pub fn desired(fleet: &Fleet, device: &DeviceId, now: u64) -> Option<Desired> {
    let d = fleet.device(device)?;
    if d.state != DeviceState::Approved {
        return None;
    }
    let mine = || {
        d.rollouts.iter().filter_map(|id| {
            let rollout = fleet.rollout(id)?;
            let wanted = !rollout.ended() && !rollout.expired(now) && !crate::index::taken(rollout, d);
            wanted.then_some((rollout, rollout.member(device)?))
        })
    };
    // A device does one thing at a time: the slot it holds decides. Otherwise it stays with what it finished last, so that its
    // soak ends in a receipt.
    let (rollout, member) = mine().find(|(_, member)| member.in_flight()).or_else(|| {
        mine()
            .filter(|(_, member)| member.standing() == Standing::Ok)
            .max_by_key(|(rollout, _)| rollout.order)
    })?;
    let wave = rollout.wave(member.wave)?;
    let lease = member.in_flight()
        && rollout.serves()
        && now >= rollout.spec.not_before
        && !d.is_held()
        && fleet.freeze().is_none();
    Some(Desired {
        rollout: rollout.id,
        plan: rollout.plan,
        wave: member.wave,
        evidence: wave.evidence.clone(),
        promote: rollout.is_manual(member.wave),
        lease,
    })
}

impl Rollout {
    /// An operator or a rule stopped it, and it may go on.
    pub fn is_stopped(&self) -> bool {
        matches!(self.stage, Stage::Paused { .. } | Stage::Halted { .. })
    }
}
