//! What the journal holds: every fact that must survive, in the order in which it became true.

use ensign_bundle::digest::Digest;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::{Code, Refusal};
use serde::{Deserialize, Serialize};

use crate::device::{Device, Lock};
use crate::generation::Generation;
use crate::stage::{Policy, Prepared, Target};
use crate::uptime::Now;

/// One fact. [`Device::apply`] folds it in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// Everything before it, folded: first record of a compacted journal.
    Snapshot(Box<Device>),
    /// The processes started again in this boot.
    Started(Now),
    /// A new attempt.
    Offered(Target),
    /// The plan's release runs already, confirmed.
    Running(Target),
    /// The offer is gone before anything was switched.
    Withdrawn,
    Rejected {
        target: Option<Target>,
        reason: Refusal,
    },
    Staged(Prepared),
    Waiting {
        target: Target,
        reason: Refusal,
    },
    /// The trial's numbers are on disk before anything risky happens.
    Switching {
        to: Box<Generation>,
        policy: Policy,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        contact: bool,
    },
    /// Pointer and units are changed.
    Switched(Now),
    Confirmed(Now),
    RollingBack {
        target: Target,
        from: u64,
        to: u64,
        reason: Refusal,
    },
    RolledBack(Now),
    /// A receipt to be signed and sent until it is acknowledged.
    Receipt {
        plan: Digest,
        release: Digest,
        state: ReceiptState,
        healthy_for_s: u64,
        issued: u64,
    },
    /// The second receipt of the running plan, for its soak, is made.
    Soaked,
    Acknowledged {
        report: u64,
    },
    Denied {
        manifest: Digest,
        code: Code,
    },
    /// None = all.
    DenialsCleared {
        manifest: Option<Digest>,
    },
    /// Uptimes so far.
    Clock(Now),
    Locked(Lock),
    Unlocked,
    /// These generations were removed.
    Forgotten {
        generations: Vec<u64>,
    },
    /// A plan for this device was verified for the first time.
    Met {
        plan: Digest,
        now: Now,
    },
    /// The way back is not safe to go: this generation stays.
    Stayed {
        generation: u64,
        reason: Refusal,
    },
    /// The fleet that the device was in is no longer its own: what it wanted, and what it was to be told, is over. What runs goes on.
    Left,
}

impl Record {
    /// Number in the journal's frame. Never used again for something else.
    pub const fn number(&self) -> u16 {
        match self {
            Self::Snapshot(_) => 1,
            Self::Started(_) => 2,
            Self::Offered(_) => 3,
            Self::Running(_) => 4,
            Self::Withdrawn => 5,
            Self::Rejected { .. } => 6,
            Self::Staged(_) => 7,
            Self::Waiting { .. } => 8,
            Self::Switching { .. } => 9,
            Self::Switched(_) => 10,
            Self::Confirmed(_) => 11,
            Self::RollingBack { .. } => 12,
            Self::RolledBack(_) => 13,
            Self::Receipt { .. } => 14,
            Self::Soaked => 15,
            Self::Acknowledged { .. } => 16,
            Self::Denied { .. } => 17,
            Self::DenialsCleared { .. } => 18,
            Self::Clock(_) => 19,
            Self::Locked(_) => 20,
            Self::Unlocked => 21,
            Self::Forgotten { .. } => 22,
            Self::Met { .. } => 23,
            Self::Stayed { .. } => 24,
            Self::Left => 25,
        }
    }

    /// Highest number that this version knows.
    pub const LAST: u16 = 25;

    /// True where the attempt moves on: these are counted against the cap.
    pub(crate) const fn is_edge(&self) -> bool {
        matches!(
            self,
            Self::Started(_)
                | Self::Staged(_)
                | Self::Switching { .. }
                | Self::Switched(_)
                | Self::Confirmed(_)
                | Self::RollingBack { .. }
                | Self::RolledBack(_)
                | Self::Stayed { .. }
        )
    }

    /// True where the controller should hear of it.
    pub(crate) const fn is_news(&self) -> bool {
        !matches!(
            self,
            Self::Snapshot(_)
                | Self::Started(_)
                | Self::Acknowledged { .. }
                | Self::Clock(_)
                | Self::Soaked
                | Self::Locked(_)
                | Self::Unlocked
                | Self::Forgotten { .. }
                | Self::Met { .. }
        )
    }
}
