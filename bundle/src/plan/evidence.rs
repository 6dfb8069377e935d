//! What happened: bindings made at join, receipts signed by appliers, gates that carry them, leases of the controller.

use std::collections::BTreeMap;

use ensign_crypto::PublicKey;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::statements::{check_format, small_statement};
use crate::digest::{DeviceId, Digest, FleetId, Nonce};
use crate::limits;
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::statement::Document;

/// Ties a device's keys to the token it joined with. Signed by three keys: the token's, the TLS key and the receipt key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    pub format: u16,
    /// Unix seconds.
    pub issued: u64,
    /// SHA-256 of the SPKI of `key`.
    pub device: DeviceId,
    /// Of TLS.
    pub key: PublicKey,
    /// Of the applier.
    pub receipt_key: PublicKey,
    pub token: PublicKey,
    /// Digest of the token's grant, as the controller handed it out.
    pub grant: Digest,
    /// What people call it; at most 63 bytes.
    pub name: String,
    /// What the device says of itself (serial numbers); never matched by plans.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
}

/// What an applier says about a release it ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    pub format: u16,
    /// Unix seconds by the device's clock.
    pub issued: u64,
    pub plan: Digest,
    /// Digest of the release's manifest.
    pub release: Digest,
    pub device: DeviceId,
    pub state: ReceiptState,
    /// Boot-clock time since the switch, summed over boots, seconds.
    pub healthy_for_s: u64,
    /// Grows with every receipt of the device; a later bad one cancels an earlier good one.
    pub seq: u64,
}

/// How the attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReceiptState {
    /// It runs, and has proven itself.
    Confirmed,
    /// Refused or could not be applied; nothing was switched.
    Failed { code: Code },
    /// Was switched to, proved unhealthy, is gone.
    RolledBack { code: Code },
}

/// Why a device of wave `wave` may start: enough good receipts of an earlier wave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    pub format: u16,
    pub plan: Digest,
    /// From 1: the wave that it opens.
    pub wave: u32,
    /// At most 64.
    pub receipts: Vec<GateReceipt>,
    /// The signed promote statement of a manual gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promote: Option<ByteBuf>,
}

/// A receipt (its envelope) and the proof that its device is in the earlier wave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateReceipt {
    /// The envelope.
    pub receipt: ByteBuf,
    pub device: DeviceId,
    pub member: Membership,
}

/// Place of a device in a listed cohort, with its RFC 9162 inclusion path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// From 1.
    pub wave: u32,
    /// From 0, in the order of ids.
    pub index: u32,
    pub receipt_key: PublicKey,
    /// From the leaf's sibling upwards; at most 32.
    pub path: Vec<Digest>,
}

/// Permission to start, signed by the timestamp key for one device and one answer of its applier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    pub format: u16,
    /// Unix seconds by the controller's clock; compared with other leases only.
    pub issued: u64,
    pub plan: Digest,
    pub device: DeviceId,
    /// The applier's nonce from `hello`.
    pub nonce: Nonce,
    /// On the boot clock, at most 900.
    pub ttl_s: u64,
}

/// The controller's clock, bound to an applier's nonce. Signed by the timestamp key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeAttestation {
    pub format: u16,
    pub fleet: FleetId,
    pub device: DeviceId,
    pub nonce: Nonce,
    /// Unix seconds.
    pub time: u64,
}

small_statement!(Receipt, "receipt");
small_statement!(Lease, "lease");
small_statement!(TimeAttestation, "time");

impl Document for Binding {
    const KIND: &'static str = "binding";
    const MAX_BYTES: usize = limits::STATEMENT_BYTES;

    fn check(&self) -> Result<(), Refusal> {
        check_format(Self::KIND, self.format)?;
        if self.device != DeviceId::from(self.key.id()) {
            return refuse!(
                Malformed,
                "the binding names device {} for key {}",
                self.device,
                self.key.id()
            );
        }
        if self.key == self.receipt_key || self.key == self.token || self.receipt_key == self.token {
            return refuse!(
                KeysRefused,
                "the binding of {} uses one key for two purposes",
                self.device
            );
        }
        if self.name.len() > limits::DEVICE_NAME_BYTES || self.name.is_empty() {
            return refuse!(
                LimitExceeded,
                "the name has {} bytes, 1 to {}",
                self.name.len(),
                limits::DEVICE_NAME_BYTES
            );
        }
        Ok(())
    }
}
