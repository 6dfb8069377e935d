//! What a session is made of: the wish for its device, and the word that it is over.

use std::sync::Arc;

use ensign_bundle::digest::{DeviceId, Digest, FleetId, PlanId};
use ensign_bundle::reason::Refusal;
use ensign_bundle::trust::roles::Role;
use ensign_bundle::wire::{Desired, Welcome};
use ensign_crypto::KeyId;
use tokio::sync::watch;

use super::Core;

/// What a device is to be told: everything but the lease, which its session signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    pub fleet: FleetId,
    /// Who signs leases.
    pub timestamp: Role,
    pub desired: Desired,
    /// Digest of the plan that a lease is to be signed for.
    pub lease: Option<Digest>,
    /// The session ends with this.
    pub refused: Option<Refusal>,
    /// Manifest that the plan brings, with its rollout, and those that the device runs.
    pub(super) plan: Option<(Digest, PlanId)>,
    pub(super) installed: Vec<Digest>,
}

/// Why a device may fetch blobs of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// This rollout brings it.
    Planned(PlanId),
    /// It runs it, and may have lost some of it.
    Installed,
}

impl Want {
    /// Whether it names this document.
    pub fn names(&self, document: &Digest) -> bool {
        let rollout = self
            .desired
            .rollout
            .iter()
            .flat_map(|r| [Some(&r.plan), Some(&r.release), r.gate.as_ref()].into_iter().flatten());
        self.desired
            .documents
            .iter()
            .chain(rollout)
            .any(|doc| doc.digest == *document)
    }

    /// Why blobs of this release may be fetched; `None` = they may not.
    pub fn may_fetch(&self, manifest: &Digest) -> Option<Fetch> {
        match self.plan {
            Some((planned, plan)) if planned == *manifest => Some(Fetch::Planned(plan)),
            _ => self.installed.contains(manifest).then_some(Fetch::Installed),
        }
    }

    /// Whether the current plan brings this release.
    pub fn plans(&self, manifest: &Digest) -> bool {
        self.plan.is_some_and(|(planned, _)| planned == *manifest)
    }
}

/// A welcomed connection.
#[derive(Debug)]
pub struct Session {
    pub device: DeviceId,
    pub wants: watch::Receiver<Arc<Want>>,
}

/// Tells that a connection is over, however it ends. Made before the device is announced, so that no way out leaves it behind.
#[derive(Debug)]
pub struct Leave {
    core: Core,
    peer: KeyId,
    connection: u64,
}

impl Leave {
    pub fn new(core: &Core, peer: &KeyId, connection: u64) -> Self {
        Self {
            core: core.clone(),
            peer: *peer,
            connection,
        }
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let (peer, connection) = (self.peer, self.connection);
        self.core
            .tell(move |state| state.disconnect(&state.device_of(&peer), connection));
    }
}

#[derive(Debug)]
pub struct Welcomed {
    pub session: Session,
    pub welcome: Welcome,
}
