//! What the controller knows, in memory: rebuilt from the ledger at start, changed by jobs, written back with each batch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::roles::Controller;
use ensign_crypto::{KeyId, PublicKey};
use serde::Serialize;
use tokio::sync::watch;

use super::metadata::Roles;
use super::rollouts::Rollouts;
use super::rows::{ApiTokenRow, DeviceRow, FleetRow, ReleaseRow, TokenRow, key};
use super::sessions::Sessions;
use crate::clock;
use crate::config::Config;
use crate::keys::Keys;
use crate::store::blobs::BlobStore;
use crate::store::ledger::{Change, Expect, VALUE_BYTES};

/// What state and sessions share, beside the state itself.
pub struct Parts {
    pub config: Config,
    /// The online keys can delay updates and nothing else (docs/threat-model.md).
    pub keys: Keys,
    /// The TLS keys that root names: each side shows one of them.
    pub named: watch::Sender<Controller>,
    /// Signed documents by the digest of their envelope.
    pub documents: Arc<dyn BlobStore>,
    /// Manifests, block tables, blocks.
    pub blobs: Arc<dyn BlobStore>,
    pub data: PathBuf,
    /// Record bytes sent to devices since the start, with their framing.
    pub bytes_sent: AtomicU64,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

/// Everything that jobs look at and change. See [`super::Core`].
#[derive(Debug)]
pub struct State {
    pub parts: Arc<Parts>,
    /// Wall clock of the batch, seconds since the epoch.
    pub now: u64,
    /// Something keeps the wall clock right.
    pub synchronised: bool,
    pub fleet: FleetRow,
    pub roles: Roles,
    pub releases: BTreeMap<(Ident, Version), ReleaseRow>,
    pub tokens: BTreeMap<PublicKey, TokenRow>,
    pub devices: BTreeMap<DeviceId, DeviceRow>,
    /// Names of devices that are not revoked.
    pub names: BTreeMap<String, DeviceId>,
    /// Keys of devices, revoked ones too: none is ever taken again.
    pub(super) used_keys: BTreeSet<PublicKey>,
    /// Devices by keys that they have changed to, or announced.
    pub(super) rotated: BTreeMap<KeyId, DeviceId>,
    pub api_tokens: BTreeMap<Digest, ApiTokenRow>,
    pub rollouts: Rollouts,
    pub sessions: Sessions,
    /// Commits since the start.
    pub commits: u64,
    /// What the batch writes; the last write of a key counts.
    pub(super) changes: BTreeMap<String, Change>,
    /// Devices whose `last_seen` is newer in memory than in the ledger.
    pub(super) seen: BTreeSet<DeviceId>,
}

impl State {
    pub(super) fn look_at_the_clock(&mut self) {
        self.now = clock::unix_now();
        self.synchronised = clock::synchronised();
    }

    /// Writes a row with this batch.
    pub(super) fn put<T: Serialize>(&mut self, key: String, value: &T) -> Result<(), Refusal> {
        self.write(Change::put(key, value, Expect::Any)?)
    }

    /// Writes a row that must not exist yet.
    pub(super) fn put_new<T: Serialize>(&mut self, key: String, value: &T) -> Result<(), Refusal> {
        self.write(Change::put(key, value, Expect::Absent)?)
    }

    /// What no ledger takes is refused here, where it harms one request and not the whole batch.
    fn write(&mut self, change: Change) -> Result<(), Refusal> {
        let bytes = change.value.as_ref().map_or(0, Vec::len);
        if bytes > VALUE_BYTES {
            return refuse!(
                LimitExceeded,
                "the row `{}` would have {bytes} bytes, at most {VALUE_BYTES} are possible",
                change.key
            );
        }
        self.changes.insert(change.key.clone(), change);
        Ok(())
    }

    pub(super) fn delete(&mut self, key: String) {
        let change = Change::delete(key.clone(), Expect::Any);
        self.changes.insert(key, change);
    }

    /// Writes the device's row as it is in memory.
    pub(super) fn put_device(&mut self, id: &DeviceId) -> Result<(), Refusal> {
        let row = self.device(id)?.clone();
        self.seen.remove(id);
        self.put(key::device(id), &row)
    }

    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes).into_values().collect()
    }

    /// Rows that are written with others only: times of last contact.
    pub(super) fn persist_lazy(&mut self) {
        for id in std::mem::take(&mut self.seen) {
            if let Err(error) = self.put_device(&id) {
                tracing::warn!(device = %id, %error, "the time of last contact is not kept");
            }
        }
    }

    /// The device with this id.
    pub fn device(&self, id: &DeviceId) -> Result<&DeviceRow, Refusal> {
        self.devices
            .get(id)
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no device {id}")))
    }

    pub(super) fn device_mut(&mut self, id: &DeviceId) -> Result<&mut DeviceRow, Refusal> {
        self.devices
            .get_mut(id)
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no device {id}")))
    }

    /// Stores a signed document; durable when it returns.
    pub(super) fn keep_document(&self, bytes: &[u8]) -> Result<Digest, Refusal> {
        let digest = Digest::of(bytes);
        self.parts.documents.put(digest, bytes)?;
        Ok(digest)
    }

    /// Reads a signed document that a row names.
    pub(super) fn document(&self, digest: &Digest) -> Result<Vec<u8>, Refusal> {
        read_document(self.parts.documents.as_ref(), digest)
    }
}

/// Largest document: lists of devices under a plan's Merkle roots, 64 bytes and a little for each of a million.
const DOCUMENT_BYTES: u64 = 96 << 20;

/// Reads a whole document. Rows name only what was stored before them.
pub fn read_document(store: &dyn BlobStore, digest: &Digest) -> Result<Vec<u8>, Refusal> {
    store
        .read(*digest, DOCUMENT_BYTES)?
        .ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no document {digest}")))
}
