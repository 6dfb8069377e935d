//! Protocol `ensign/1`: the messages between devices and the controller (docs/protocol.md).
//!
//! The control stream carries length-prefixed CBOR frames; every byte that is larger than a frame is fetched by digest on a
//! stream of its own ([`Request`]). Messages are level-triggered: each says what is, so one that is lost or repeated does no harm.
//! Unknown fields are ignored.

pub mod frame;
#[cfg(test)]
mod golden;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::digest::{DeviceId, Digest, FleetId, Nonce};
use crate::ids::{Ident, Labels, Version};
use crate::plan::evidence::Membership;
use crate::reason::Refusal;

/// ALPN of approved devices.
pub const ALPN: &[u8] = b"ensign/1";
/// ALPN of devices that join.
pub const ALPN_ENROLL: &[u8] = b"ensign-enroll/1";
/// Protocol versions this program speaks, lowest and highest.
pub const PROTOCOL: (u16, u16) = (1, 1);

/// A document the device may lack; it fetches what its applier has not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocRef {
    pub kind: DocKind,
    /// Of the whole envelope.
    pub digest: Digest,
    /// Bytes of the envelope.
    pub length: u64,
}

/// Which document a reference names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DocKind {
    /// One root version; several in ascending order.
    Root,
    Timestamp,
    Snapshot,
    Targets,
    Release,
    Plan,
    Gate,
    Cancel,
    Hold,
    Grant,
}

/// From the device, on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromDevice {
    /// First frame of every connection.
    Hello(Hello),
    /// Whenever something changed, and again until acknowledged.
    Report(Report),
    /// A signed [`crate::plan::rotation::Rotation`]: the key with which this device comes next. Answer: [`ToDevice::Rotated`].
    Rotate { statement: ByteBuf },
}

/// From the controller, on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToDevice {
    /// Answers `hello`: the session stands.
    Welcome(Welcome),
    /// What is wanted of the device now; replaces what was wanted before.
    Desired(Desired),
    /// Every report up to this sequence number is in the ledger.
    Ack { seq: u64 },
    /// The next key is in the ledger: both are accepted until the device has come with the new one. Or why it is not.
    Rotated {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<Refusal>,
    },
    /// The connection ends for this reason (suspended, revoked, cloned, protocol).
    Refused(Refusal),
}

/// Who speaks, what its applier holds, and the whole status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest and highest version that the device speaks.
    pub protocol: (u16, u16),
    /// Version of the agent; 128 bytes are kept.
    pub agent: String,
    /// `arch`, `hardware`, `kernel`, ...: untrusted, for people and filters.
    pub facts: BTreeMap<String, String>,
    /// Versions the applier holds; 0 = none.
    pub held: Held,
    /// Goes up with every connection: a copy of the device shows as one that goes back.
    pub session: u64,
    /// Of the kernel, new with each start of the machine.
    pub boot_id: String,
    /// The applier's challenge: leases and time attestations answer it.
    pub nonce: Nonce,
    pub status: Status,
}

/// Metadata versions that a device holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub root: u64,
    pub timestamp: u64,
    pub snapshot: u64,
    pub targets: u64,
}

/// The session stands: as whom the controller knows the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that is spoken from here on.
    pub protocol: u16,
    pub device: DeviceId,
    /// As the registry has it; 1 to 63 bytes.
    pub name: String,
    pub fleet: FleetId,
    /// A signed [`crate::plan::evidence::TimeAttestation`].
    pub time: ByteBuf,
    /// Longest silence between reports, seconds; the device clamps it.
    pub interval_s: u64,
    /// Newest labels, for applications on the device.
    pub labels: Labels,
}

/// What is wanted of the device now. Level-triggered: it replaces what was wanted before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Never goes back within a ledger.
    pub generation: u64,
    /// Current roles, and every root version above the held one; statements for this device (cancel, hold, grant).
    pub documents: Vec<DocRef>,
    /// Nothing here = start nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<DesiredRollout>,
}

/// What to install, and the proofs that it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredRollout {
    pub plan: DocRef,
    pub release: DocRef,
    /// Proof that this device's wave is open; missing where none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<DocRef>,
    /// The device's place in the plan.
    pub member: Membership,
    /// A signed [`crate::plan::evidence::Lease`]; none = prepare nothing new, switch nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<ByteBuf>,
}

/// The whole of what a device has to say. `seq` 0 in `hello`: nothing to acknowledge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Goes up when there is something new to say; an acknowledgement repeats it.
    pub seq: u64,
    pub status: Status,
    /// Envelopes of receipts that were not yet acknowledged, oldest first.
    pub receipts: Vec<ByteBuf>,
    /// Version of the root that the applier holds: it may be newer than in `hello`. 0 = not said.
    #[serde(default, skip_serializing_if = "is_unsaid")]
    pub root: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_unsaid(version: &u64) -> bool {
    *version == 0
}

/// What the device runs and does. At most 64 products and 64 denied manifests are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Generation that `current` points at; 0 = none yet.
    pub generation: u64,
    /// By the running generation.
    pub installed: Vec<Installed>,
    pub phase: Phase,
    /// The plan that the phase belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Digest>,
    /// Why it is in this phase; 1,024 bytes of text are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Refusal>,
    /// Digests of manifests that failed here.
    pub denied: Vec<Digest>,
    pub transfer: Transfer,
}

/// A product that the running generation has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    pub product: Ident,
    pub version: Version,
    /// Of the release.
    pub counter: u64,
    pub manifest: Digest,
    /// False during its trial.
    pub confirmed: bool,
    /// The plan that brought it.
    pub plan: Digest,
    /// Unix seconds of the switch by the device's clock.
    pub since: u64,
}

/// Bytes of the current attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Records of blocks received with their framing, retries included.
    pub received: u64,
    /// Plain size of the release.
    pub plain: u64,
}

/// What an operator sees as `status` of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing is wanted, or it was withdrawn.
    #[default]
    Idle,
    /// Accepted; bytes come in.
    Fetching,
    /// Whole on the disk; switches when lease and gate are judged once more.
    Staged,
    /// Something that passes holds it.
    Waiting,
    /// Units stop, the pointer moves, units start.
    Switching,
    /// Runs, and must prove itself.
    Trial,
    /// Runs, and has proven itself.
    Confirmed,
    /// On the way to the generation before.
    RollingBack,
    /// The generation before runs again.
    RolledBack,
    /// Refused, or could not be staged; nothing was switched.
    Rejected,
}

/// First frame of a stream that a device opens to fetch bytes. The answer is one record per digest, in the order asked for:
/// u32 big-endian length and the bytes, or [`frame::ABSENT`] where the controller has or gives none; then FIN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Documents that a `desired` named.
    Documents { digests: Vec<Digest> },
    /// The manifest, block tables and blocks (by the digest of their stored bytes) of the release whose manifest this is.
    Blobs { manifest: Digest, digests: Vec<Digest> },
}

/// Most digests in one [`Request`].
pub const REQUEST_DIGESTS: usize = 1024;

/// Only frame of a joining device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enroll {
    /// Lowest and highest version that the device speaks.
    pub protocol: (u16, u16),
    pub step: EnrollStep,
}

/// Joining takes two requests on one connection: first the grant behind the token, then the binding that names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnrollStep {
    /// The grant and the chain of roots for the token with this public key.
    Ask { token: ensign_crypto::PublicKey },
    /// A signed [`crate::plan::evidence::Binding`].
    Join { binding: ByteBuf },
}

/// From the controller to a joining device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnrollReply {
    /// Every root from 1 to the newest, and the grant's envelope.
    Granted {
        roots: Vec<ByteBuf>,
        grant: ByteBuf,
    },
    /// In the registry. `approved` false = waits for an operator.
    Joined {
        name: String,
        approved: bool,
    },
    Refused(Refusal),
}
