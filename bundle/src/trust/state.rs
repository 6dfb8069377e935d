//! The trust state as it is stored: received bytes of every role, and what is remembered.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::ensign::{DocName, Ensign, ReleaseName};
use super::machine::{Held, Machine, Stored};
use super::memory::Memory;
use super::profile::Strict;
use super::roles::{FORMAT, Root};
use super::trusted::Trusted;
use crate::codec;
use crate::digest::{Digest, FleetId};
use crate::limits;
use crate::reason::{Code, Refusal};
use crate::refuse;

/// What a device or a signer keeps in a file of its own. Only its owner can write it, so nothing in it is a secret and nothing is
/// foreign; it is decoded strictly all the same, and signatures are counted again when it is loaded. A field that comes later is left
/// out while it has its default, or states of before it would not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustState {
    format: u16,
    fleet: FleetId,
    root: ByteBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<ByteBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<ByteBuf>,
    releases: Vec<StoredRelease>,
    memory: Memory,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRelease {
    product: crate::ids::Ident,
    release: crate::ids::Version,
    envelope: ByteBuf,
}

impl TrustState {
    /// The start of trust: root 1, pinned by its digest and the fleet's id (from kit, token or image).
    #[expect(clippy::new_ret_no_self, reason = "the live form is what everybody works with")]
    pub fn new(root1: &[u8], expected: &Digest, fleet: &FleetId) -> Result<Trusted, Refusal> {
        let digest = Digest::of(root1);
        if digest != *expected {
            return refuse!(WrongFleet, "the first root has digest {digest}, {expected} is pinned");
        }
        let mut trusted = Trusted {
            machine: Machine::new(Ensign { fleet: *fleet }, Strict, root1)?,
            memory: Memory::default(),
        };
        let root = trusted.root();
        if root.version != 1 {
            return refuse!(Malformed, "the first root has version {}", root.version);
        }
        trusted.memory.reset_epoch = root.floors.reset_epoch;
        trusted.saw_root();
        Ok(trusted)
    }

    /// Reads a stored state.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > limits::TRUST_STATE_BYTES {
            return refuse!(LimitExceeded, "the trust state has {} bytes", bytes.len());
        }
        codec::decode_exact(bytes, limits::ROLE_ITEMS)
            .map_err(|e| Refusal::new(Code::Malformed, format!("trust state: {e}")))
    }

    /// The bytes to store; at most 256 MiB are read again.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        codec::encode(self).map_err(|e| Refusal::new(Code::Malformed, format!("trust state: {e}")))
    }

    /// The live form. Roles other than root that no longer verify are dropped, to be fetched again.
    pub fn load(self) -> Result<Trusted, Refusal> {
        if self.format != FORMAT {
            return refuse!(
                VersionUnknown,
                "the trust state has format {}, this program knows {FORMAT}",
                self.format
            );
        }
        let delegated = self.releases.into_iter().map(|r| {
            let name = ReleaseName {
                product: r.product,
                version: r.release,
            };
            (DocName::Release(name), r.envelope.into_vec())
        });
        let stored = Stored {
            root: self.root.into_vec(),
            timestamp: self.timestamp.map(ByteBuf::into_vec),
            snapshot: self.snapshot.map(ByteBuf::into_vec),
            targets: self.targets.map(ByteBuf::into_vec),
            delegated: delegated.collect::<BTreeMap<_, _>>(),
        };
        Ok(Trusted {
            machine: Machine::load(Ensign { fleet: self.fleet }, Strict, stored)?,
            memory: self.memory,
        })
    }
}

impl Trusted {
    /// Reads and loads a stored state.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        TrustState::decode(bytes)?.load()
    }

    /// What to store: before anything is done on the strength of it.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        self.state().encode()
    }

    /// The stored form.
    pub fn state(&self) -> TrustState {
        let machine = &self.machine;
        let releases = machine.delegated.iter().filter_map(|(name, held)| match name {
            DocName::Release(name) => Some(StoredRelease {
                product: name.product.clone(),
                release: name.version.clone(),
                envelope: ByteBuf::from(held.bytes.clone()),
            }),
            DocName::Targets => None,
        });
        TrustState {
            format: FORMAT,
            fleet: machine.format.fleet,
            root: bytes_of::<Root>(&machine.root),
            timestamp: machine.timestamp.as_ref().map(bytes_of),
            snapshot: machine.snapshot.as_ref().map(bytes_of),
            targets: machine.targets.as_ref().map(bytes_of),
            releases: releases.collect(),
            memory: self.memory.clone(),
        }
    }
}

fn bytes_of<T>(held: &Held<T>) -> ByteBuf {
    ByteBuf::from(held.bytes.clone())
}
