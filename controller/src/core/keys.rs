//! Which key each device comes with, and how it changes: announced, proven, and only then the old one is refused. Each step is one row of
//! the ledger, so whatever is cut off, the device has a key that is accepted.

use ensign_bundle::digest::DeviceId;
use ensign_bundle::plan::rotation::Rotation;
use ensign_bundle::reason::Refusal;
use ensign_bundle::refuse;
use ensign_crypto::{KeyId, PublicKey};

use super::rows::{DeviceRow, NextKey};
use super::state::State;

/// Changes of one device's key that are kept.
const ROTATIONS: usize = 1000;

impl State {
    /// The device that comes with this key. One that never changed its key has the id of it.
    pub fn device_of(&self, peer: &KeyId) -> DeviceId {
        self.rotated.get(peer).copied().unwrap_or_else(|| DeviceId::from(*peer))
    }

    /// Refuses a key that was the device's once; takes the announced one as proven. Called when the connection has shown it.
    pub(super) fn prove_key(&mut self, id: &DeviceId, peer: &KeyId) -> Result<(), Refusal> {
        let row = self.device(id)?;
        if row.key.id() == *peer {
            return Ok(());
        }
        let Some(next) = row.next.filter(|next| next.key.id() == *peer) else {
            return refuse!(
                IdentityChanged,
                "key {peer} was replaced: device {id} comes with {}",
                row.key.id()
            );
        };
        let row = self.device_mut(id)?;
        row.key = next.key;
        row.next = None;
        row.rotations.push(next.statement);
        self.put_device(id)?;
        tracing::info!(device = %id, key = %peer, "the device has proven its new key: the old one is refused");
        Ok(())
    }

    /// Takes a device's announcement of its next key. Told again it changes nothing; another one before it was proven replaces it.
    pub fn rotate(&mut self, id: &DeviceId, connection: u64, envelope: &[u8]) -> Result<(), Refusal> {
        self.lives(id, connection)?;
        let row = self.device(id)?;
        let rotation = Rotation::verify(envelope, &self.fleet.fleet, id, &row.key, &row.receipt_key)?;
        if row.next.is_some_and(|next| next.key == rotation.new) {
            return Ok(());
        }
        if self.used_keys.contains(&rotation.new) || self.authority().role_of(&rotation.new).is_some() {
            return refuse!(KeysRefused, "key {} of {id} is in use elsewhere", rotation.new.id());
        }
        if row.rotations.len() >= ROTATIONS {
            return refuse!(
                LimitExceeded,
                "the key of {id} was changed {} times, at most {ROTATIONS} are kept: join it anew",
                row.rotations.len()
            );
        }
        let statement = self.keep_document(envelope)?;
        let row = self.device_mut(id)?;
        row.next = Some(NextKey {
            key: rotation.new,
            statement,
        });
        self.put_device(id)?;
        self.used_keys.insert(rotation.new);
        self.rotated.insert(rotation.new.id(), *id);
        tracing::info!(device = %id, key = %rotation.new.id(), "the device announces its next key");
        Ok(())
    }
}

impl DeviceRow {
    /// Keys that are not the one that the id is made of, by which the device comes or will come.
    pub(super) fn later_keys(&self) -> impl Iterator<Item = PublicKey> {
        let current = Some(self.key).filter(|key| DeviceId::from(key.id()) != self.id);
        current.into_iter().chain(self.next.map(|next| next.key))
    }
}
