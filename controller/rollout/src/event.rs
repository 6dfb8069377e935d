//! Everything that can happen to a fleet. Events change the model and are not stored: the ledger keeps the rows that follow from them.
//! Times are unix seconds of the controller's clock.

use std::fmt::Write as _;

use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::ids::{Ident, Labels, Version};
use ensign_bundle::plan::evidence::Receipt;
use ensign_bundle::plan::statements::{Evidence, GateKind, Pace};
use ensign_bundle::reason::Refusal;
use ensign_bundle::text::utc;
use ensign_bundle::wire::Status;
use serde::{Deserialize, Serialize};

use crate::rollout::Control;

/// One thing that happened. Repeating one, or one about a device or rollout that is not known, changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The controller started: no device is connected any more, and silence counts from here.
    Started {
        at: u64,
    },
    DeviceAdded {
        device: DeviceId,
        name: String,
        state: DeviceState,
        at: u64,
    },
    DeviceState {
        device: DeviceId,
        state: DeviceState,
        order: Order,
    },
    /// The newest labels of a device.
    Labelled {
        device: DeviceId,
        labels: Labels,
    },
    /// A signed hold, or its end.
    Held {
        device: DeviceId,
        held: bool,
        order: Order,
    },
    /// A second device answered with this identity, or an operator ended that alarm.
    Cloned {
        device: DeviceId,
        cloned: bool,
    },
    /// A connection was authenticated. The transport ends connections whose peer is silent, so a connected device is not dark.
    Connected {
        device: DeviceId,
        at: u64,
    },
    /// The last connection of the device ended; `at` = when it was last heard.
    Disconnected {
        device: DeviceId,
        at: u64,
    },
    /// Latest whole status of the device, unsigned: its link half says so.
    Reported {
        device: DeviceId,
        at: u64,
        status: Status,
    },
    /// Verified by the controller against the device's receipt key.
    Receipt {
        device: DeviceId,
        at: u64,
        receipt: Receipt,
    },
    RolloutStarted {
        id: PlanId,
        /// Digest of the plan's payload: what receipts name.
        plan: Digest,
        spec: Box<RolloutSpec>,
        at: u64,
    },
    /// The device has a slot. Committed before it is told.
    Offered {
        rollout: PlanId,
        device: DeviceId,
        at: u64,
    },
    /// Silent for too long after the offer.
    WentDark {
        rollout: PlanId,
        device: DeviceId,
        at: u64,
    },
    /// Not connected for `reach_s` since its wave opened.
    Unreached {
        rollout: PlanId,
        device: DeviceId,
        at: u64,
    },
    /// An operator gave back the slot of a dark device.
    Released {
        rollout: PlanId,
        device: DeviceId,
        at: u64,
    },
    /// The signed promote statement of a manual gate.
    Promoted {
        rollout: PlanId,
        wave: u32,
        at: u64,
    },
    /// `evidence`: the devices whose receipts make this wave's gate, fixed so that everybody gets the same gate document.
    WaveOpened {
        rollout: PlanId,
        wave: u32,
        evidence: Vec<DeviceId>,
        control: Control,
        at: u64,
    },
    WaveDone {
        rollout: PlanId,
        wave: u32,
        at: u64,
    },
    Paused {
        rollout: PlanId,
        order: Order,
    },
    /// Goes on, and acknowledges what halted it: counters start again.
    Resumed {
        rollout: PlanId,
        at: u64,
    },
    /// A rule stopped it.
    Halted {
        rollout: PlanId,
        reason: Refusal,
        at: u64,
    },
    Aborted {
        rollout: PlanId,
        /// Name of the login; empty = not known.
        #[serde(default)]
        by: String,
        reason: String,
        at: u64,
    },
    Superseded {
        rollout: PlanId,
        by: PlanId,
        at: u64,
    },
    Expired {
        rollout: PlanId,
        at: u64,
    },
    Finished {
        rollout: PlanId,
        at: u64,
    },
    /// The brake on the whole fleet.
    Frozen {
        order: Order,
    },
    Unfrozen {
        at: u64,
    },
}

/// What an operator ordered: since when, who, and what for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Unix seconds; 0 = not known.
    pub at: u64,
    /// Name of the login; empty = not known.
    #[serde(default)]
    pub by: String,
    pub reason: String,
}

/// Where a device stands with the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// Joined; waits for an operator.
    Pending,
    /// Takes part.
    Approved,
    /// May not connect until it is unsuspended.
    Suspended,
    /// May not connect, for ever.
    Revoked,
}

impl DeviceState {
    /// The word in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }
}

impl Order {
    /// ` since 2026-12-01T02:00:00Z by bob: till demo`, as far as it is known; follows what is ordered.
    pub(crate) fn said(&self) -> String {
        let mut said = String::new();
        // Writing to a string cannot fail.
        if self.at > 0 {
            let _ = write!(said, " since {}", utc(self.at));
        }
        if !self.by.is_empty() {
            let _ = write!(said, " by {}", self.by);
        }
        if !self.reason.is_empty() {
            let _ = write!(said, ": {}", self.reason);
        }
        said
    }
}

/// A signed plan with its cohorts resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSpec {
    pub product: Ident,
    pub version: Version,
    /// Of the release.
    pub counter: u64,
    /// Digest of the release's manifest.
    pub manifest: Digest,
    /// Grows with every plan of the product.
    pub seq: u64,
    /// The first is wave 1.
    pub waves: Vec<WaveSpec>,
    pub pace: Pace,
    /// Unix seconds; 0 = at once.
    pub not_before: u64,
    /// Unix seconds.
    pub expires: u64,
    /// The plan may go back to a lower counter.
    pub downgrade: bool,
    /// The rollout that this one takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverts: Option<PlanId>,
    /// Who was meant, as the plan says it; empty = not known.
    #[serde(default)]
    pub select: String,
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// A wave as the plan signs it, with its devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveSpec {
    /// Devices of this wave alone. A device stands in one wave.
    pub members: Vec<DeviceId>,
    /// Health that a receipt of this wave must show to count for the next gate, seconds.
    pub min_soak_s: u64,
    pub gate: GateKind,
    pub evidence: Evidence,
}

/// What an event is about: the rows to write once it was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The fleet's own row.
    Fleet,
    /// The device's row and its memberships ([`crate::Fleet::followed`]).
    Device(DeviceId),
    /// The rollout's row.
    Rollout(PlanId),
    /// The rollout's row, the device's row and the membership that ties them.
    Member(PlanId, DeviceId),
    /// The rollout's row, and the row and membership of every member.
    Cohort(PlanId),
}

impl Event {
    /// What may look different after this event.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Started { .. } | Self::Frozen { .. } | Self::Unfrozen { .. } => Subject::Fleet,
            Self::DeviceAdded { device, .. }
            | Self::DeviceState { device, .. }
            | Self::Labelled { device, .. }
            | Self::Held { device, .. }
            | Self::Cloned { device, .. }
            | Self::Connected { device, .. }
            | Self::Disconnected { device, .. }
            | Self::Reported { device, .. } => Subject::Device(*device),
            Self::Receipt { device, receipt, .. } => Subject::Member(PlanId::of(&receipt.plan), *device),
            Self::RolloutStarted { id, .. } => Subject::Cohort(*id),
            Self::Offered { rollout, device, .. }
            | Self::WentDark { rollout, device, .. }
            | Self::Unreached { rollout, device, .. }
            | Self::Released { rollout, device, .. } => Subject::Member(*rollout, *device),
            Self::Promoted { rollout, .. }
            | Self::WaveOpened { rollout, .. }
            | Self::WaveDone { rollout, .. }
            | Self::Paused { rollout, .. }
            | Self::Resumed { rollout, .. }
            | Self::Halted { rollout, .. }
            | Self::Aborted { rollout, .. }
            | Self::Superseded { rollout, .. }
            | Self::Expired { rollout, .. }
            | Self::Finished { rollout, .. } => Subject::Rollout(*rollout),
        }
    }
}
