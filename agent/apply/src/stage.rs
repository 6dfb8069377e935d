//! Where the one attempt stands that a device works on at a time.

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::plan::statements::HealthBounds;
use ensign_bundle::reason::Refusal;
use ensign_bundle::trust::roles::FileRef;
use ensign_bundle::wire::Phase;
use serde::{Deserialize, Serialize};

use crate::generation::Component;
use crate::trial::Watch;

/// What an accepted plan wants of this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub plan: Digest,
    pub product: Ident,
    pub version: Version,
    pub counter: u64,
    pub manifest: FileRef,
    /// Soak of this device's wave, seconds: a second receipt follows when it is reached.
    pub min_soak_s: u64,
    /// What the plan tightens of the release's own trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthBounds>,
}

impl Target {
    /// The same release for the same plan.
    pub fn same(&self, other: &Self) -> bool {
        self.plan == other.plan && self.manifest.digest == other.manifest.digest
    }
}

/// What staging found out about a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    pub components: Vec<Component>,
    pub policy: Policy,
}

/// How long a release must prove itself: the manifest's numbers, tightened by the plan's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Time without a failed probe that confirms, milliseconds of boot clock. Default 5 s.
    pub window_ms: u64,
    /// Time after which an unconfirmed trial has failed, milliseconds of boot clock. Default 60 s.
    pub deadline_ms: u64,
    /// False where there is neither probe nor unit: confirmed at once.
    pub probed: bool,
}

/// The state of the attempt. docs/states.md has the diagram.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    #[default]
    Idle,
    Fetching(Fetching),
    Staged(Staged),
    Waiting(Waiting),
    Switching(Switching),
    Trial(Trial),
    Confirmed(Confirmed),
    RollingBack(RollingBack),
    RolledBack(RolledBack),
    Rejected(Rejected),
}

/// Accepted; bytes are coming in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetching {
    pub target: Target,
}

/// All trees stand, complete and synced. May switch as soon as acceptance says so again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    pub target: Target,
    pub prepared: Prepared,
}

/// Something that passes keeps it from going on: a window, a lock, a lease, a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub target: Target,
    /// None where it waits before anything was fetched.
    pub prepared: Option<Prepared>,
    pub reason: Refusal,
}

/// Past the point of no return to waiting: forward or back, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switching {
    pub target: Target,
    pub policy: Policy,
    /// Generation numbers; 0 = none.
    pub from: u64,
    pub to: u64,
    /// Starts of the machine since the switch began.
    pub boots: u32,
    /// See [`Trial::contact`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contact: bool,
}

/// The new generation runs and must prove itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub target: Target,
    pub policy: Policy,
    pub from: u64,
    pub to: u64,
    pub boots: u32,
    /// The controller was heard from lately before the switch, so that a release after which it is not has failed. Where it was not, an
    /// offline site keeps a good update.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contact: bool,
    /// Not journalled: a restart begins a new window, on the elapsed time that is.
    #[serde(skip)]
    pub watch: Watch,
}

/// The release runs and has proven itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    pub target: Target,
}

/// On the way back from `from` to `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollingBack {
    pub target: Target,
    pub from: u64,
    pub to: u64,
    pub reason: Refusal,
}

/// The generation before runs again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    pub target: Target,
    pub reason: Refusal,
}

/// Nothing was switched. `target` is missing where the plan itself was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    pub target: Option<Target>,
    pub reason: Refusal,
}

impl Stage {
    /// As operators see it.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Idle => Phase::Idle,
            Self::Fetching(_) => Phase::Fetching,
            Self::Staged(_) => Phase::Staged,
            Self::Waiting(_) => Phase::Waiting,
            Self::Switching(_) => Phase::Switching,
            Self::Trial(_) => Phase::Trial,
            Self::Confirmed(_) => Phase::Confirmed,
            Self::RollingBack(_) => Phase::RollingBack,
            Self::RolledBack(_) => Phase::RolledBack,
            Self::Rejected(_) => Phase::Rejected,
        }
    }

    /// The release that the stage is about.
    pub fn target(&self) -> Option<&Target> {
        match self {
            Self::Idle => None,
            Self::Fetching(s) => Some(&s.target),
            Self::Staged(s) => Some(&s.target),
            Self::Waiting(s) => Some(&s.target),
            Self::Switching(s) => Some(&s.target),
            Self::Trial(s) => Some(&s.target),
            Self::Confirmed(s) => Some(&s.target),
            Self::RollingBack(s) => Some(&s.target),
            Self::RolledBack(s) => Some(&s.target),
            Self::Rejected(s) => s.target.as_ref(),
        }
    }

    /// Why it does not run.
    pub fn reason(&self) -> Option<&Refusal> {
        match self {
            Self::Waiting(s) => Some(&s.reason),
            Self::RollingBack(s) => Some(&s.reason),
            Self::RolledBack(s) => Some(&s.reason),
            Self::Rejected(s) => Some(&s.reason),
            _ => None,
        }
    }

    /// True where units or the pointer are being changed or judged: only recovery rules apply, offers wait.
    pub fn is_committed(&self) -> bool {
        matches!(self, Self::Switching(_) | Self::Trial(_) | Self::RollingBack(_))
    }

    /// Staged components, before the switch.
    pub fn prepared(&self) -> Option<&Prepared> {
        match self {
            Self::Staged(s) => Some(&s.prepared),
            Self::Waiting(s) => s.prepared.as_ref(),
            _ => None,
        }
    }
}
