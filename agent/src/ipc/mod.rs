//! What the processes of a device say to each other: SOCK_SEQPACKET sockets under `run/ensign`, one CBOR message of at most
//! 64 KiB per packet, larger things as descriptors.
//!
//! The link's word is never believed: the applier checks everything it is handed. Every request gets exactly one answer, in order;
//! the applier may send [`FromApplier::Changed`] between answers.

pub mod socket;
#[cfg(test)]
mod tests;

use ensign_bundle::digest::{DeviceId, Digest, FleetId, Nonce};
use ensign_bundle::plan::evidence::Membership;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::trust::roles::FileRef;
use ensign_bundle::wire::{DocKind, Held, Report};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Most descriptors beside one message.
pub const DESCRIPTORS: usize = 32;
/// Most digests that one [`Need`] names; the rest follows with the next answer.
pub const NEED_DIGESTS: usize = 512;

/// From the link half to the applier (`applier.sock`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToApplier {
    /// First message of a connection. Answer: `State`.
    Hello,
    /// What the controller wants. One descriptor: the documents' bytes back to back, in the order of `documents`. Answer: `Need`.
    Offer(Offer),
    /// One descriptor per blob. Answer: `Need`, when all of them were taken or refused.
    Provide { blobs: Vec<Digest> },
    /// The controller has everything up to this report. Answer: `State`.
    Acknowledged { seq: u64 },
    /// The controller's clock, from `welcome`: a signed [`ensign_bundle::plan::evidence::TimeAttestation`]. Answer: `State`.
    Time { attestation: ByteBuf },
}

/// From the applier to the link half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromApplier {
    State(Box<State>),
    Need(Need),
    Refused(Refusal),
    /// Not an answer: there is something new to report.
    Changed(Box<State>),
}

/// The applier's view, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// None before enrolment.
    pub device: Option<DeviceId>,
    pub held: Held,
    pub nonce: Nonce,
    /// Reported status and receipts that were not acknowledged.
    pub report: Report,
    /// SPKI digests of controllers and their addresses, from the verified root: the link takes its pins from here.
    pub controller: Option<ensign_bundle::trust::roles::Controller>,
}

impl State {
    /// Whether there is a controller to talk to: this device is in a fleet, or was and cannot tell any more, which somebody must hear.
    pub fn has_fleet(&self) -> bool {
        let reason = self.report.status.reason.as_ref();
        self.device.is_some() || reason.is_some_and(|r| r.code == Code::NeedsReprovision)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What lies in the descriptor, in order.
    pub documents: Vec<Piece>,
    /// Nothing here = start nothing, finish what runs.
    pub rollout: Option<OfferedRollout>,
    /// None where the link half cannot say.
    #[serde(default)]
    pub cache: Option<CacheSize>,
}

/// What the link half has downloaded, and gives up where staging needs the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSize {
    /// The file system it is on, as `st_dev` names it.
    pub device: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub kind: DocKind,
    pub length: u64,
}

/// Which of the documents make up the rollout, and what came with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedRollout {
    pub member: Membership,
    pub lease: Option<ByteBuf>,
}

/// Room that fetching takes at least beside what is staged, bytes.
pub const FETCH_BYTES: u64 = 4 << 20;

/// What the applier lacks to go on with the offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Nothing: staged, refused (see the report) or nothing wanted.
    Nothing,
    /// These blobs (manifest, block tables, blocks by the digest of their stored bytes) of the release with this manifest.
    Blobs {
        manifest: Digest,
        blobs: Vec<FileRef>,
        /// Free room beside what is still to be staged and the reserve, bytes; none where the cache is on another file system.
        #[serde(default)]
        spare: Option<u64>,
    },
}

/// From root's commands (`admin.sock`) to the applier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToAdmin {
    Status,
    /// Makes the receipt key for joining this fleet, in place of the one there is. Answer: `ReceiptKey`.
    BeginEnroll {
        fleet: FleetId,
        /// A new key, whatever is there: the device joins as another one.
        fresh: bool,
    },
    /// Signs the payload of a binding that names this receipt key. Answer: `Signature`.
    SignBinding {
        payload: ByteBuf,
    },
    /// Signs the payload of a change of the TLS key that names this device and its receipt key. Answer: `Signature`.
    SignRotation {
        payload: ByteBuf,
    },
    /// One descriptor: root 1 to the newest back to back with these lengths, then the grant, then the binding. Creates the trust
    /// state, refuses unless root 1 has the hash. Answer: `Done`.
    FinishEnroll {
        root_hash: Digest,
        fleet: FleetId,
        roots: Vec<u64>,
        grant: u64,
        binding: u64,
    },
    Rollback {
        reason: String,
    },
    Lock {
        reason: String,
        ttl_s: u64,
    },
    Unlock,
    /// None = every entry.
    ClearDenied {
        manifest: Option<Digest>,
    },
    /// One descriptor: a bundle. Answer: `Done` or `Refused`.
    Apply,
    Leave,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromAdmin {
    Done {
        text: String,
    },
    Refused(Refusal),
    State(Box<State>),
    ReceiptKey {
        key: ensign_crypto::PublicKey,
    },
    Signature {
        key: ensign_crypto::PublicKey,
        bytes: ByteBuf,
    },
}

/// From the applier to the runner (`runner.sock`): the few privileged verbs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToRunner {
    /// systemd where root is `/`, the hook otherwise.
    Unit { verb: UnitVerb, name: String },
    /// Runs a path inside the live component, argv without a shell. `args[0]` is the path relative to the component.
    Exec {
        component: String,
        args: Vec<String>,
        product: String,
        version: String,
        timeout_s: u64,
    },
    /// Whether `HOST:PORT` accepts a connection.
    Tcp { address: String, timeout_s: u64 },
    /// Whether a GET answers 200 to 399.
    Http { url: String, timeout_s: u64 },
    /// Runs `etc/ensign/hooks/labels` after `labels.json` changed.
    LabelsChanged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitVerb {
    Start,
    Stop,
    IsActive,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromRunner {
    /// The verb or probe succeeded.
    Ok,
    /// It ran and failed: exit status and the last line it printed.
    Failed {
        text: String,
    },
    /// The unit is gone for good: systemd tells that from one that is still coming up. The last line it printed.
    UnitFailed {
        text: String,
    },
    /// No hook manages units under this root: counts as success, logged once.
    NotManaged,
    Refused(Refusal),
}
