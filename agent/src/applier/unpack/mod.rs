//! The unpack worker: the one process that decodes foreign bytes, with nothing but a staging directory in its hands.
//!
//! `ensign-applier unpack` is started by the applier with a socket as standard input. It is single-threaded, confines itself
//! ([`crate::sandbox`]) before it reads the first byte, and ends with the socket. The first packet carries the staging directory and the
//! directory of trees, the worker answers `Confined`; then: `Begin` (what to stage) → `Surveyed` (what it takes) → `Go` → `Need` →
//! `Blobs` … → `Staged`.
//!
//! It makes no hard links: a second name for a file of a standing tree would be a way to write to it. It says which there should be
//! (`Links`, any number of times before an answer), and the applier makes them when the worker is gone.

mod stage;
mod worker;

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Refusal;
use ensign_bundle::trust::roles::FileRef;
use serde::{Deserialize, Serialize};

use crate::sandbox::Level;

pub(super) use worker::read;
pub use worker::{Worker, main};

/// From the applier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToWorker {
    /// Descriptors: the manifest, then one for each source.
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
    /// Unasked, before anything was read.
    Confined(Level),
    Surveyed(Survey),
    /// Unasked: these files are those.
    Links(Links),
    /// The next blobs that are lacking, at most [`crate::ipc::NEED_DIGESTS`].
    Need {
        blobs: Vec<FileRef>,
        /// Room for what is still to be written, bytes; at first [`Survey::bytes`].
        left: u64,
    },
    /// Every tree is whole but for its links, with its modes, not yet synced.
    Staged,
    Failed(Refusal),
}

/// Files of a staged tree that have the same content and mode as files of another tree, or of the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// The staged tree.
    pub to: Digest,
    /// The standing tree; `None` = `to` itself.
    pub from: Option<Digest>,
    /// Path in `to`, path in `from`; an empty one is the same path.
    pub paths: Vec<(String, String)>,
}

impl Links {
    /// Most bytes of paths in one message.
    const BYTES: usize = crate::ipc::socket::MESSAGE_BYTES / 2;

    /// Bytes of paths.
    pub fn bytes(&self) -> usize {
        self.paths.iter().map(|(to, from)| to.len() + from.len()).sum()
    }
}

/// What comes with the first packet, whose descriptors are what counts.
pub(super) const PLACES: &[u8] = b"places";

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
