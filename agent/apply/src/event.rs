//! What goes into the machine and what comes out of it.

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::Refusal;

use crate::device::Lock;
use crate::stage::{Prepared, Target};

/// What the shell saw. Late, repeated and unexpected ones do no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A plan for this device was verified; it may be accepted or not.
    Met {
        plan: Digest,
    },
    /// A plan for this device was accepted.
    Offered(Target),
    /// It was not, or not any more.
    Refused {
        target: Option<Target>,
        reason: Refusal,
    },
    /// Nothing is wanted.
    Withdrawn,
    /// The device belongs to another fleet from now on, or to none.
    Left,
    /// All trees of the release with this manifest stand, synced.
    Staged {
        manifest: Digest,
        prepared: Prepared,
    },
    StagingFailed {
        manifest: Digest,
        reason: Refusal,
    },
    /// A tree that already stood there is not what it was: the release is made anew from blocks.
    Tampered {
        manifest: Digest,
    },
    /// The old generation's trees are not what they were: it must not run again.
    WayBackBlocked {
        reason: Refusal,
    },
    /// The acceptance function, asked again right before the switch, said yes.
    Cleared {
        /// The controller was heard from lately: the trial may fail because it is not any more.
        contact: bool,
    },
    /// Pointer and units are changed.
    Switched,
    SwitchFailed {
        reason: Refusal,
    },
    /// A round of probes passed (None) or one of them failed.
    Probed {
        failure: Option<String>,
    },
    /// The trial's time is over ([`crate::Device::trial_left_ms`]) and no round of probes has ended it.
    Overdue {
        /// What has not answered.
        pending: String,
    },
    /// A unit of the new generation is in state `failed`, for good.
    UnitFailed {
        text: String,
    },
    /// The old generation stands again.
    SwitchedBack,
    /// Root asked for the previous generation.
    RollbackAsked {
        reason: String,
    },
    /// The controller has everything up to this report.
    Acknowledged {
        report: u64,
    },
    DenialsCleared {
        manifest: Option<Digest>,
    },
    Locked(Lock),
    Unlocked,
    /// These generations' directories are gone.
    Forgotten {
        generations: Vec<u64>,
    },
    /// Time passed.
    Tick,
}

/// What the shell must do once the records are on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Get what the release of the stage's target lacks.
    Fetch,
    /// Ask the acceptance function again, and say `Cleared` or `Refused`.
    AskAgain,
    /// Bring generation `to` into being and make it run.
    Switch { from: u64, to: u64 },
    /// Run the probes, each second.
    Watch,
    /// Make generation `to` run again.
    SwitchBack { from: u64, to: u64 },
    /// Let the pointer show what the journal says.
    Repoint { to: u64 },
    /// Tell the link half.
    Report,
    /// Remove generations and trees that nothing needs.
    Collect,
}
