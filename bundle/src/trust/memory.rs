//! What a device (or a signer) remembers beside the roles: it never goes back, except where root says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::roles::Root;
use super::time::TimeFloors;
use crate::digest::{DeviceId, Digest};
use crate::ids::Ident;

/// Cancels that are remembered. Plans live 30 days at most, so the oldest are of plans long expired.
const CANCELS: usize = 4096;
/// Products and devices that are remembered apart.
pub(super) const ENTRIES: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Memory {
    pub(super) reset_epoch: u64,
    pub(super) time: TimeFloors,
    /// The last plan that was started, by product.
    pub(super) started: BTreeMap<Ident, Started>,
    /// Highest security floor of a confirmed release, by product.
    pub(super) security: BTreeMap<Ident, u64>,
    /// Cancelled plans, with the time their cancel was issued.
    pub(super) cancelled: BTreeMap<Digest, u64>,
    pub(super) holds: BTreeMap<DeviceId, Standing>,
    /// The newest grants, by device: a device keeps its own.
    pub(super) grants: BTreeMap<DeviceId, Granted>,
}

/// A plan that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// Its number; the next plan of the product has a higher one.
    pub seq: u64,
    pub plan: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Standing {
    pub seq: u64,
    pub held: bool,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Granted {
    /// 0 for the grant of the token a device joined with.
    pub label_seq: u64,
    pub envelope: ByteBuf,
}

impl Memory {
    /// Follows a new root: its floors hold from now on; a new reset epoch forgets what was remembered of plans and releases,
    /// and the numbers of holds.
    pub(super) fn follow(&mut self, root: &Root) {
        if root.floors.reset_epoch > self.reset_epoch {
            self.reset_epoch = root.floors.reset_epoch;
            self.started.clear();
            self.security.clear();
            // Who is held stays held, by a number that any later one is above.
            self.holds.values_mut().for_each(|standing| standing.seq = 0);
            if let Some(time) = root.time_reset {
                self.time.reset(time);
            }
        }
        self.time.follow(root);
    }

    pub(super) fn cancel(&mut self, plan: Digest, issued: u64) {
        self.cancelled.entry(plan).or_insert(issued);
        while self.cancelled.len() > CANCELS {
            let oldest = self
                .cancelled
                .iter()
                .min_by_key(|(_, issued)| **issued)
                .map(|(p, _)| *p);
            let Some(oldest) = oldest else { break };
            self.cancelled.remove(&oldest);
        }
    }
}
