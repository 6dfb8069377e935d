//! The unpack worker: the one process that decodes foreign bytes, with nothing but a staging directory in its hands.
//!
//! `ensign-applier unpack` is started by the applier with a socket as standard input. It is single-threaded, sets its limits before it
//! reads the first byte, and ends with the socket. Order: `Begin` (what to stage, where, from which trees) → `Surveyed` (what it
//! takes) → `Go` → `Need` → `Blobs` … → `Staged`.

mod stage;
mod worker;

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Refusal;
use ensign_bundle::trust::roles::FileRef;
use serde::{Deserialize, Serialize};

pub use worker::main;
pub(super) use worker::read;

/// From the applier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToWorker {
    /// Descriptors: the manifest, the staging directory, the directory of trees, then a manifest for each source.
    Begin {
        manifest: FileRef,
        /// Components whose trees stand already.
        skip: Vec<Ident>,
        /// Manifests whose trees may hold files that are needed again.
        sources: Vec<FileRef>,
    },
    /// There is room.
    Go,
    /// One descriptor each.
    Blobs { digests: Vec<Digest> },
}

/// To the applier: one answer to each message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromWorker {
    Surveyed(Survey),
    /// The next blobs that are lacking, at most [`crate::ipc::NEED_DIGESTS`].
    Need {
        blobs: Vec<FileRef>,
        /// Room for what is still to be written, bytes; at first [`Survey::bytes`].
        left: u64,
    },
    /// Every tree is whole, with its modes, not yet synced.
    Staged,
    Failed(Refusal),
}

/// What staging will take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Room for files whose bytes are not on the device, rounded up to whole pages, without what an earlier try wrote of them.
    pub bytes: u64,
    pub inodes: u64,
    /// Plain size of the whole release, bytes.
    pub plain: u64,
    /// Of that, bytes that are on the device already.
    pub reused: u64,
}
