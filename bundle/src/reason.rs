//! Every reason code, what it means, and the exit code it maps to: the one table of the project.
//!
//! Codes are kebab-case, never re-used and never renamed: scripts depend on them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A refusal or a reason for not running: code for scripts, text for people with both values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    pub code: Code,
    pub text: String,
}

impl Refusal {
    /// A refusal with this code; `text` says what was met and what is allowed.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// What to type or do next.
    pub fn hint(&self) -> &'static str {
        self.code.hint()
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $exit:literal, $hint:literal;)*) => {
        /// A reason code. The documentation of each variant is its page's first line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The kebab-case name that scripts see.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The exit code that this reason ends a command with; `docs/operating.md` lists them.
            pub const fn exit(self) -> u8 {
                match self { $(Self::$variant => $exit,)* }
            }

            /// What to type or do next.
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)* }
            }
        }
    };
}

codes! {
    /// Something failed that has no code of its own; the text says what.
    Failed = "failed", 1, "run again with -v for details";
    /// The words of the command do not fit together.
    Usage = "usage", 2, "the verb's --help lists its words";
    /// An operator paused the rollout.
    Paused = "paused", 10, "`ensign rollout resume`";
    /// More devices failed than the plan allows.
    TooManyFailed = "too-many-failed", 10, "`ensign rollout why`, then `ensign rollout resume` or `ensign rollout abort --keep`";
    /// More devices went dark than the plan allows.
    TooManyDark = "too-many-dark", 10, "`ensign rollout why`, then `ensign rollout resume` or `ensign rollout abort --keep`";
    /// A wave ended with fewer healthy devices than the quorum.
    QuorumNotReached = "quorum-not-reached", 10, "`ensign rollout why`, then `ensign rollout resume` or `ensign rollout abort --keep`";
    /// A wave ended with fewer receipts than the next gate needs.
    EvidenceMissing = "evidence-missing", 10, "`ensign rollout why`, then `ensign rollout abort --keep`, mend, release a higher version";
    /// The kit was imported before: its private keys are with that controller.
    KitUsed = "kit-used", 33, "serve with the --data that imported it; `ensign fleet init --name NAME --controller HOST:PORT --kit DIR` makes another fleet";
    /// The controller's own copy of the plan is damaged or gone: the rollout is halted, everything else goes on.
    PlanLost = "plan-lost", 10, "put metadata/ of the controller back from a backup and start it; or start the same release again";
    /// The fleet or the group is frozen.
    Frozen = "frozen", 10, "`ensign fleet unfreeze`";
    /// The rollout was aborted.
    Aborted = "aborted", 11, "start a new rollout";
    /// The rollout was reverted.
    Reverted = "reverted", 11, "start a new rollout";
    /// A newer rollout of the product took its place.
    Superseded = "superseded", 11, "`ensign rollout ls`";
    /// Somebody stopped waiting (Ctrl-C); what was waited for goes on.
    Interrupted = "interrupted", 1, "`ensign rollout status -w`";
    /// Waiting ended before the rollout did; it goes on.
    TimedOut = "timed-out", 12, "`ensign rollout status -w`";

    /// No signature at all.
    Unsigned = "unsigned", 20, "`ensign release sign FILE`";
    /// A signature does not verify.
    SignatureInvalid = "signature-invalid", 20, "sign again with the right key";
    /// Fewer valid signatures of distinct keys than the role's threshold.
    ThresholdNotMet = "threshold-not-met", 20, "another key holder signs the same file: `ensign release sign FILE`, `ensign rollout sign PLAN` or `ensign token sign GRANT`";
    /// The signing key is not one of this role.
    RoleNotAuthorised = "role-not-authorised", 20, "sign with a key of the role: `ensign key ls`";
    /// Outside of what the product's delegation allows.
    OutsideDelegation = "outside-delegation", 20, "`ensign product ls`";
    /// One public key in two roles, or a weak key, or a threshold that cannot be met.
    KeysRefused = "keys-refused", 20, "use a key of its own for each role";
    /// A receipt does not belong to the plan, wave or device it is offered for.
    ReceiptInvalid = "receipt-invalid", 20, "the device signs a new one at its next report";
    /// The device's receipt key is not the one the plan lists.
    IdentityChanged = "identity-changed", 20, "start a new rollout";

    /// Older than what runs, and the plan does not allow it.
    DowngradeRefused = "downgrade-refused", 21, "release a higher version, or --allow-downgrade --reason TEXT";
    /// Metadata older than what was seen before.
    RollbackRefused = "rollback-refused", 21, "check the controller: it offers old metadata";
    /// Below the security floor.
    BelowFloor = "below-floor", 21, "release a higher version";
    /// A plan that is not newer than the last one started.
    PlanReplayed = "plan-replayed", 21, "start a new rollout";

    /// A role is past its expiry.
    MetadataExpired = "metadata-expired", 22, "`ensign fleet status` says which role and what to do";
    /// The plan is past its expiry.
    PlanExpired = "plan-expired", 22, "start a new rollout";
    /// Issued too far in the future, or valid for longer than its role may be.
    LifetimeRefused = "lifetime-refused", 22, "check the clocks of signer and device";
    /// The number of a plan, a hold or a grant runs ahead of the time at which it was issued: it would block all that come after it.
    NumberAhead = "number-ahead", 22, "check the clock of the signer; numbers that are too high already are freed by a root: `ensign key root rotate --reset`";

    /// The clock is not synchronised, or behind what signed documents prove.
    ClockSuspect = "clock-suspect", 22, "synchronise the clock, or connect to the controller once";

    /// Bytes do not have the signed digest or length.
    ContentMismatch = "content-mismatch", 23, "fetch or build the file again";
    /// Bytes that are not of the format.
    Malformed = "malformed", 23, "fetch or build the file again";
    /// A size, count or depth above its limit.
    LimitExceeded = "limit-exceeded", 23, "see docs/formats.md for the limits";
    /// A path that may not stand in a release.
    PathRefused = "path-refused", 23, "rename it and build again";
    /// Manifest and release document disagree.
    ManifestMismatch = "manifest-mismatch", 23, "build and sign the release again";
    /// A listed document is not there.
    MetadataMissing = "metadata-missing", 23, "check the controller";
    /// A tree that already stood on the device is not what it was.
    GenerationTampered = "generation-tampered", 23, "nothing to do: the tree is rebuilt from blocks; look at the disk";

    /// For another fleet.
    WrongFleet = "wrong-fleet", 24, "use the context of that fleet";
    /// For another device.
    WrongDevice = "wrong-device", 24, "nothing to do";
    /// For other hardware or another architecture.
    HardwareMismatch = "hardware-mismatch", 24, "build the release for this hardware";
    /// The agent is older than the release needs.
    AgentTooOld = "agent-too-old", 24, "update the agent first";

    /// The kernel cannot confine what unpacks releases as this machine's configuration requires: nothing is unpacked.
    SandboxUnavailable = "sandbox-unavailable", 24, "a kernel from 5.13 with Landlock in `lsm=` and with seccomp filters; or `applier.sandbox = \"best-available\"` in etc/ensign/agent.toml, then restart the applier";
    /// What unpacks releases made a call that it may not make, and was ended: the bytes or this build are not as they should be.
    SandboxViolation = "sandbox-violation", 1, "look at the device's log; `ensign-agent verify FILE` judges the same release; update the agent or release a higher version";

    /// A release in between has to be installed first.
    StepMissing = "step-missing", 24, "install the release in between first";

    /// The signed plan does not list this device in an open wave.
    NotInPlan = "not-in-plan", 25, "`ensign device why DEVICE`";
    /// The wave before has not yet proven itself.
    GateNotOpen = "gate-not-open", 25, "`ensign rollout status`";
    /// The plan's release is another one.
    PlanMismatch = "plan-mismatch", 25, "start a rollout for this release";
    /// Root's policy forbids what the plan asks for.
    PolicyRefused = "policy-refused", 25, "`ensign fleet show`";
    /// The plan was cancelled.
    PlanCancelled = "plan-cancelled", 25, "start a new rollout";
    /// No permission to start now.
    LeaseMissing = "lease-missing", 25, "the controller grants a new one while the rollout runs";
    /// Before `not_before`.
    NotYet = "not-yet", 25, "wait, or start a rollout without --start-at";
    /// Outside the maintenance window.
    OutsideWindow = "outside-window", 25, "wait for the window";
    /// Locked on the device.
    Locked = "locked", 25, "on the device: `ensign-agent unlock`";
    /// An operator holds this device.
    Held = "held", 25, "`ensign device unhold DEVICE`";
    /// No signed plan for offline use.
    NoOfflinePlan = "no-offline-plan", 25, "plans for offline use come with a later version: start a rollout";
    /// Withdrawn by its signers.
    Yanked = "yanked", 25, "release a newer version";
    /// Failed on this device before.
    Denied = "denied", 25, "on the device: `ensign-agent clear-denied`, then `ensign rollout start --product PRODUCT --version VERSION` again; or release a higher version";
    /// A later version is already there.
    NewerInstalled = "newer-installed", 25, "nothing to do";
    /// The trust state on the device was lost.
    NeedsReprovision = "needs-reprovision", 25, "enrol the device again";
    /// The journal of the device lost steps or cannot be read: what runs is left alone, nothing else is done.
    JournalLost = "journal-lost", 25, "on the device: put the whole journal back, or start it anew as `ensign-agent status` says";
    /// The older copy of the trust state is in use.
    TrustDegraded = "trust-degraded", 25, "connect to the controller once";

    /// Not enough room, with the bytes or inodes that are missing.
    NoSpace = "no-space", 26, "free space there, then do it again";
    /// Unhealthy within its trial: rolled back.
    Unhealthy = "unhealthy", 27, "mend the release; on the device: `ensign-agent status`";
    /// The trial ended without a whole healthy window.
    TrialDeadline = "trial-deadline", 27, "`ensign device why DEVICE`; mend the release or its --health-deadline";
    /// A unit could not be restarted.
    UnitFailed = "unit-failed", 27, "`ensign device why DEVICE`; look at the unit's journal";
    /// The device restarted too often during the trial.
    CrashLoop = "crash-loop", 27, "`ensign device why DEVICE`; mend the release";
    /// The operator on the device asked for the previous release.
    OperatorRollback = "operator-rollback", 27, "somebody on the device went back; to update it after all, there: `ensign-agent clear-denied`, then `ensign rollout start --product PRODUCT --version VERSION` again";

    /// No answer from the controller.
    ControllerUnreachable = "controller-unreachable", 30, "check address, firewall and the controller's log";
    /// The body of a request came more slowly than 1 KiB/s.
    TooSlow = "too-slow", 30, "look at the network, then run it again: what has arrived is kept";
    /// The controller's key is not the pinned one.
    WrongControllerKey = "wrong-controller-key", 30, "use a fresh token, or check who answers there";
    /// Not allowed.
    NotAuthorised = "not-authorised", 31, "check the API token and its role";
    /// The join token is unknown.
    TokenUnknown = "token-unknown", 31, "`ensign token publish GRANT` where its grant is not published yet, else `ensign token create`";
    /// The join token is past its expiry.
    TokenExpired = "token-expired", 31, "`ensign token create --ttl 1h`";
    /// The join token has no uses left.
    TokenUsedUp = "token-used-up", 31, "`ensign token create --uses N`";
    /// The join token was revoked.
    TokenRevoked = "token-revoked", 31, "`ensign token create`";
    /// The join token is not well-formed.
    TokenMalformed = "token-malformed", 31, "copy the whole token";
    /// The device is suspended.
    Suspended = "suspended", 31, "`ensign device unsuspend DEVICE`";
    /// The device is revoked.
    Revoked = "revoked", 31, "enrol the device again";
    /// Waiting for an operator's approval.
    Pending = "pending", 31, "`ensign device accept DEVICE`";
    /// The passphrase does not open the signing key.
    PassphraseWrong = "passphrase-wrong", 31, "try again with the passphrase of `fleet init`, or look at the file that ENSIGN_PASSPHRASE_FILE names";
    /// The signing keys have a passphrase, and nobody can be asked for it.
    PassphraseMissing = "passphrase-missing", 2, "run it in a terminal, or let ENSIGN_PASSPHRASE_FILE name a file whose first line is the passphrase";
    /// Too many requests.
    RateLimited = "rate-limited", 31, "try again later";

    /// There is no such thing.
    NotFound = "not-found", 32, "check the name";
    /// The selector matches nobody.
    NobodyMatches = "nobody-matches", 32, "`ensign device ls` shows names, labels and states";
    /// It exists already, or changed meanwhile, or fits two things.
    Conflict = "conflict", 33, "look at what is there";
    /// The same version with other bytes.
    AlreadyPublished = "already-published", 33, "build a new version";
    /// The address is taken by another process.
    PortInUse = "port-in-use", 33, "stop the other process or choose another port";
    /// Two devices answer with one identity.
    CloneDetected = "clone-detected", 33, "`ensign device accept DEVICE`, if it was restored from a backup; else revoke it and enrol the genuine one again";
    /// The folder is in use by another process.
    InUse = "in-use", 33, "stop the other process";

    /// The wave of this device is not open yet.
    WaveWaiting = "wave-waiting", 25, "`ensign rollout status`";
    /// The wave before must be healthy for its whole soak.
    Soaking = "soaking", 25, "wait";
    /// As many devices are updating as the plan allows at once.
    AtCapacity = "at-capacity", 25, "wait, or a plan with a higher --max-parallel";
    /// Not connected since the wave opened.
    Offline = "offline", 25, "bring the device online";
    /// Took the update and missed its check-in.
    Dark = "dark", 25, "power the device on: it goes on by itself";
    /// Not touched by any rollout.
    NoRollout = "no-rollout", 32, "`ensign rollout start --product PRODUCT --version VERSION`";
    /// Runs what the rollout asks for.
    UpToDate = "up-to-date", 0, "nothing to do";
    /// The device is working on it.
    InProgress = "in-progress", 0, "`ensign rollout status -w`";
    /// The applier, link or runner of the device is not there.
    AgentNotRunning = "agent-not-running", 1, "`ensign-agent run`";
    /// This machine's configuration is not usable.
    ConfigRefused = "config-refused", 2, "mend the named file";
    /// Written by a newer version.
    VersionUnknown = "version-unknown", 23, "update this program";
    /// A file or a folder could not be read or written.
    Io = "io", 1, "check the path, its permissions and the disk";
    /// The controller's ledger is damaged.
    LedgerDamaged = "ledger-damaged", 23, "put back the newest backup of the whole data folder: docs/operating.md; without one, look at the disk first";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `refuse!(Code, "text {value}")`: an `Err` with the code and the text.
#[macro_export]
macro_rules! refuse {
    ($code:ident, $($text:tt)+) => {
        Err($crate::reason::Refusal::new($crate::reason::Code::$code, format!($($text)+)))
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EXITS: [u8; 18] = [0, 1, 2, 10, 11, 12, 20, 21, 22, 23, 24, 25, 26, 27, 30, 31, 32, 33];

    #[test]
    fn names_are_unique_kebab_case_and_exits_are_documented() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(
                code.name().chars().all(|c| c.is_ascii_lowercase() || c == '-'),
                "{code}"
            );
            assert!(EXITS.contains(&code.exit()), "{code}");
            assert!(!code.hint().is_empty(), "{code}");
        }
    }

    #[test]
    fn serde_uses_the_name() {
        for code in Code::ALL {
            let name = through_cbor(*code);
            assert_eq!(name, code.name());
        }
    }

    fn through_cbor(code: Code) -> String {
        let bytes = crate::codec::encode(&code).unwrap();
        crate::codec::decode::<String>(&bytes, 1).unwrap()
    }
}
