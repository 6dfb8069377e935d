//! All devices and rollouts, as far as rollouts are concerned.

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::ids::{Ident, Label, Labels};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::{Installed, Phase};
use serde::{Deserialize, Serialize};

use crate::event::{DeviceState, Order};
use crate::rollout::Rollout;

/// Silence that makes a device dark where the plan says nothing: so many check-in intervals ...
const DARK_INTERVALS: u64 = 3;
/// ... and at least this, seconds: a reboot with a file-system check is no failure.
const DARK_AT_LEAST_S: u64 = 30 * 60;

/// The controller's own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Longest silence between reports that devices are told, seconds. Default here 60; the daemon passes
    /// `check_in_s` of its `controller.toml`, default 300.
    pub check_in_s: u64,
}

impl Default for Policies {
    fn default() -> Self {
        Self { check_in_s: 60 }
    }
}

impl Policies {
    /// Dark limit of a plan that names none, seconds.
    pub fn dark_after_s(&self) -> u64 {
        self.check_in_s.saturating_mul(DARK_INTERVALS).max(DARK_AT_LEAST_S)
    }
}

/// The whole model: it changes by [`crate::observe`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    pub(crate) policies: Policies,
    /// When this controller started: nothing was heard while it was away.
    pub(crate) started: u64,
    /// The brake on the whole fleet.
    pub(crate) freeze: Option<Order>,
    pub(crate) devices: BTreeMap<DeviceId, Device>,
    pub(crate) rollouts: BTreeMap<PlanId, Rollout>,
    /// Rollouts that have not ended: highest priority first, then the older one.
    pub(crate) live: BTreeSet<(std::cmp::Reverse<u32>, u64, PlanId)>,
}

/// A device, as far as rollouts need it. The ledger keeps it in whatever row it has for devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    pub state: DeviceState,
    /// Of the newest grant.
    pub labels: Labels,
    /// Who made its state what it is.
    #[serde(default)]
    pub ordered: Order,
    /// Why an operator holds it.
    pub hold: Option<String>,
    /// Who holds it, and since when.
    #[serde(default)]
    pub held: Order,
    /// Another copy of it connected: it is held until an operator ends the alarm.
    #[serde(default)]
    pub cloned: bool,
    /// When it joined; 0 = not known.
    #[serde(default)]
    pub added_at: u64,
    /// A session stands; false after a start.
    #[serde(skip)]
    pub connected: bool,
    /// 0 = never.
    pub heard_at: u64,
    pub phase: Phase,
    /// The plan that the phase belongs to.
    pub plan: Option<Digest>,
    pub reason: Option<Refusal>,
    pub installed: Vec<Installed>,
    /// The newest rollout of each product that names it: older ones have no say any more.
    #[serde(skip)]
    pub newest: BTreeMap<Ident, PlanId>,
    /// Rollouts whose counters follow this device.
    #[serde(skip)]
    pub(crate) rollouts: BTreeSet<PlanId>,
}

impl Fleet {
    /// A fleet without devices and rollouts.
    pub fn new(policies: Policies) -> Self {
        Self {
            policies,
            started: 0,
            freeze: None,
            devices: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            live: BTreeSet::new(),
        }
    }

    /// The device, if it is known; revoked ones are.
    pub fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.get(id)
    }

    /// Every device, in the order of ids.
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceId, &Device)> {
        self.devices.iter()
    }

    /// The rollout, if it is known; ended ones are.
    pub fn rollout(&self, id: &PlanId) -> Option<&Rollout> {
        self.rollouts.get(id)
    }

    /// Every rollout, in the order of ids.
    pub fn rollouts(&self) -> impl Iterator<Item = (&PlanId, &Rollout)> {
        self.rollouts.iter()
    }

    /// Rollouts that follow what `device` does: an event about the device may have changed its membership in each of them.
    pub fn followed(&self, device: &DeviceId) -> impl Iterator<Item = &PlanId> {
        self.devices.get(device).into_iter().flat_map(|d| &d.rollouts)
    }

    /// The controller's own numbers.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The brake that holds the whole fleet.
    pub fn freeze(&self) -> Option<&Order> {
        self.freeze.as_ref()
    }

    /// Why nothing may start anywhere, where the brake holds.
    pub fn frozen(&self) -> Option<Refusal> {
        let text = |order: &Order| format!("the fleet is frozen{}", order.said());
        self.freeze
            .as_ref()
            .map(|order| Refusal::new(Code::Frozen, text(order)))
    }

    /// Dark limit of a rollout, seconds.
    pub fn dark_after_s(&self, rollout: &Rollout) -> u64 {
        rollout
            .spec
            .pace
            .stop
            .dark_after_s
            .unwrap_or_else(|| self.policies.dark_after_s())
    }

    /// Rollouts that have not ended: highest priority first, then the older one.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Rollout> {
        self.live.iter().filter_map(|(_, _, id)| self.rollouts.get(id))
    }

    /// When a device was last heard; where that is not known, since when it could have been.
    pub(crate) fn last_heard(&self, device: &Device) -> u64 {
        match device.heard_at {
            0 => self.started,
            heard_at => heard_at,
        }
    }

    /// From when on the silence of a device that is not connected counts: nothing was heard while the controller was away.
    pub(crate) fn silent_since(&self, device: &Device) -> u64 {
        device.heard_at.max(self.started)
    }
}

impl Device {
    /// One that nothing is known of yet.
    pub fn new(name: String, state: DeviceState) -> Self {
        Self {
            name,
            state,
            labels: Labels::new(),
            ordered: Order::default(),
            hold: None,
            held: Order::default(),
            cloned: false,
            added_at: 0,
            connected: false,
            heard_at: 0,
            phase: Phase::Idle,
            plan: None,
            reason: None,
            installed: Vec::new(),
            newest: BTreeMap::new(),
            rollouts: BTreeSet::new(),
        }
    }

    /// The value of this label, as the newest grant has it.
    pub fn label(&self, key: &Label) -> Option<&Label> {
        self.labels.get(key)
    }

    /// What it runs of a product.
    pub fn runs(&self, product: &Ident) -> Option<&Installed> {
        self.installed.iter().find(|i| i.product == *product)
    }

    /// Takes part in no update: an operator holds it, or two devices answer with its identity.
    pub fn is_held(&self) -> bool {
        self.hold.is_some() || self.cloned
    }

    /// Is past the point of no return for this plan: it ends in a terminal report whatever it is told.
    pub(crate) fn is_switching(&self, plan: &Digest) -> bool {
        self.plan.as_ref() == Some(plan) && matches!(self.phase, Phase::Switching | Phase::Trial | Phase::RollingBack)
    }
}
