//! What the planner decides: actions, and why nothing else happens.

use std::collections::BTreeMap;

use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::reason::Refusal;

use crate::event::Event;
use crate::rollout::Control;

/// What the controller does next: it observes [`Action::event`], writes the rows, and the rest follows from [`crate::desired`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    OpenWave {
        rollout: PlanId,
        wave: u32,
        evidence: Vec<DeviceId>,
        control: Control,
    },
    CloseWave {
        rollout: PlanId,
        wave: u32,
    },
    Offer {
        rollout: PlanId,
        wave: u32,
        device: DeviceId,
    },
    MarkDark {
        rollout: PlanId,
        device: DeviceId,
    },
    MarkUnreached {
        rollout: PlanId,
        device: DeviceId,
    },
    Halt {
        rollout: PlanId,
        reason: Refusal,
    },
    Supersede {
        rollout: PlanId,
        by: PlanId,
    },
    Expire {
        rollout: PlanId,
    },
    Finish {
        rollout: PlanId,
    },
}

/// What follows from the state of the fleet now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    pub actions: Vec<Action>,
    pub report: Report,
}

/// Why nothing else happens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What each rollout that has not ended waits for.
    pub waits: BTreeMap<PlanId, Refusal>,
}

impl Action {
    /// What has happened once this is done.
    pub fn event(&self, at: u64) -> Event {
        match self.clone() {
            Self::OpenWave {
                rollout,
                wave,
                evidence,
                control,
            } => Event::WaveOpened {
                rollout,
                wave,
                evidence,
                control,
                at,
            },
            Self::CloseWave { rollout, wave } => Event::WaveDone { rollout, wave, at },
            Self::Offer { rollout, device, .. } => Event::Offered { rollout, device, at },
            Self::MarkDark { rollout, device } => Event::WentDark { rollout, device, at },
            Self::MarkUnreached { rollout, device } => Event::Unreached { rollout, device, at },
            Self::Halt { rollout, reason } => Event::Halted { rollout, reason, at },
            Self::Supersede { rollout, by } => Event::Superseded { rollout, by, at },
            Self::Expire { rollout } => Event::Expired { rollout, at },
            Self::Finish { rollout } => Event::Finished { rollout, at },
        }
    }

    /// The rollout that it is about.
    pub fn rollout(&self) -> PlanId {
        match self {
            Self::OpenWave { rollout, .. }
            | Self::CloseWave { rollout, .. }
            | Self::Offer { rollout, .. }
            | Self::MarkDark { rollout, .. }
            | Self::MarkUnreached { rollout, .. }
            | Self::Halt { rollout, .. }
            | Self::Supersede { rollout, .. }
            | Self::Expire { rollout }
            | Self::Finish { rollout } => *rollout,
        }
    }
}
