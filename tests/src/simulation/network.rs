//! Everything that will happen, in order of time; what happens at one time, in the order it was scheduled.

use std::collections::BTreeMap;

use ensign_apply::Action;
use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::plan::evidence::Receipt;
use ensign_bundle::wire::Status;

#[derive(Clone, Debug)]
pub enum Item {
    Power {
        device: DeviceId,
        on: bool,
    },
    /// The applier of `device` is done with `action`, if it still runs in this boot.
    Work {
        device: DeviceId,
        boot: u32,
        action: Work,
    },
    ToDevice {
        device: DeviceId,
        message: ToDevice,
    },
    ToController {
        device: DeviceId,
        message: FromDevice,
    },
    Wake {
        life: u64,
    },
    Crash,
    Restart,
    StartRollout,
    /// An operator resumes what a rule halted.
    Operator,
    FaultsOver,
}

impl Item {
    /// The device that this changes; none = it may be any.
    pub fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Power { device, .. }
            | Self::Work { device, .. }
            | Self::ToDevice { device, .. }
            | Self::ToController { device, .. } => Some(*device),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    Duty(Action),
    /// The link's timer: report again what was not acknowledged, or show that it lives.
    Timer,
    /// Time alone changes something in the applier.
    Tick,
}

/// Device to controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromDevice {
    /// Connection, growing.
    pub session: u64,
    /// Newest desired generation it has.
    pub desired: u64,
    /// None where nothing is new.
    pub report: Option<Report>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub seq: u64,
    pub status: Status,
    pub receipts: Vec<Receipt>,
}

/// Controller to device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToDevice {
    /// Of `desired`; never goes back.
    pub generation: u64,
    pub offer: Option<Offer>,
    /// Every report up to this one is committed.
    pub acknowledged: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub plan: Digest,
    pub wave: u32,
    /// Devices whose receipts make the gate.
    pub evidence: Vec<DeviceId>,
    /// Unix seconds when it was signed.
    pub lease: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Network {
    queue: BTreeMap<(u64, u64), Item>,
    scheduled: u64,
}

impl Network {
    /// Lets `item` happen at `at_ms`.
    pub fn at(&mut self, at_ms: u64, item: Item) {
        self.scheduled += 1;
        self.queue.insert((at_ms, self.scheduled), item);
    }

    pub fn pop(&mut self) -> Option<(u64, Item)> {
        self.queue.pop_first().map(|((at, _), item)| (at, item))
    }
}
