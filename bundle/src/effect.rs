//! What a reason code means for the update that met it: the one place that says whether a device waits, may try again, or denies.

use crate::reason::Code;

/// Where a reason lies, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Passes by itself: the device keeps what it has, waits, and goes on.
    Waits,
    /// In the device, or around it: the attempt is over, the same release may be tried again once that is put right.
    Surroundings,
    /// In the release: the device does not try it again until somebody clears that.
    Release,
}

impl Code {
    /// What it means for the update that met it. Each code is named, so that a new one has to say.
    pub const fn effect(self) -> Effect {
        match self {
            Self::LeaseMissing
            | Self::NotYet
            | Self::OutsideWindow
            | Self::Locked
            | Self::Held
            | Self::GateNotOpen
            | Self::WaveWaiting
            | Self::Soaking
            | Self::Paused
            | Self::Frozen
            | Self::TrustDegraded
            | Self::ClockSuspect
            | Self::InProgress
            // Whoever stands between signers and device can bring these about, by old, withheld or made-up metadata and by forged proofs.
            // They say nothing about the plan: an honest controller after a thief, or new online keys, must find it alive.
            | Self::MetadataExpired
            | Self::MetadataMissing
            | Self::ContentMismatch
            | Self::NotFound
            | Self::RollbackRefused
            | Self::LifetimeRefused
            | Self::ReceiptInvalid
            | Self::NotInPlan => Effect::Waits,
            Self::Failed
            | Self::NoSpace
            | Self::Io
            | Self::LedgerDamaged
            | Self::InUse
            | Self::AgentNotRunning
            | Self::AgentTooOld
            | Self::SandboxUnavailable
            | Self::SandboxViolation
            | Self::ConfigRefused
            | Self::Offline
            | Self::Dark
            | Self::Denied
            | Self::OperatorRollback
            | Self::NeedsReprovision
            | Self::IdentityChanged
            | Self::JournalLost
            | Self::GenerationTampered
            | Self::PlanExpired
            | Self::PlanReplayed
            | Self::NumberAhead
            | Self::PlanCancelled
            | Self::StepMissing
            | Self::ControllerUnreachable
            | Self::TooSlow
            // No release is at fault: they are met elsewhere, or say nothing of it.
            | Self::Usage
            | Self::TooManyFailed
            | Self::TooManyDark
            | Self::QuorumNotReached
            | Self::EvidenceMissing
            | Self::KitUsed
            | Self::PlanLost
            | Self::Aborted
            | Self::Reverted
            | Self::Superseded
            | Self::Interrupted
            | Self::TimedOut
            | Self::WrongControllerKey
            | Self::NotAuthorised
            | Self::TokenUnknown
            | Self::TokenExpired
            | Self::TokenUsedUp
            | Self::TokenRevoked
            | Self::TokenMalformed
            | Self::Suspended
            | Self::Revoked
            | Self::Pending
            | Self::PassphraseWrong
            | Self::PassphraseMissing
            | Self::RateLimited
            | Self::NobodyMatches
            | Self::AlreadyPublished
            | Self::PortInUse
            | Self::CloneDetected
            | Self::AtCapacity
            | Self::NoRollout
            | Self::UpToDate => Effect::Surroundings,
            Self::Unsigned
            | Self::SignatureInvalid
            | Self::ThresholdNotMet
            | Self::RoleNotAuthorised
            | Self::OutsideDelegation
            | Self::KeysRefused
            | Self::DowngradeRefused
            | Self::BelowFloor
            | Self::Malformed
            | Self::LimitExceeded
            | Self::PathRefused
            | Self::ManifestMismatch
            | Self::WrongFleet
            | Self::WrongDevice
            | Self::HardwareMismatch
            | Self::PlanMismatch
            | Self::PolicyRefused
            | Self::NoOfflinePlan
            | Self::Yanked
            | Self::NewerInstalled
            | Self::Unhealthy
            | Self::TrialDeadline
            | Self::UnitFailed
            | Self::CrashLoop
            | Self::Conflict
            | Self::VersionUnknown => Effect::Release,
        }
    }
}
