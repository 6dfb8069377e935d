//! The fleet as a whole, and its metadata.

use std::collections::BTreeMap;

use ensign_bundle::digest::{FleetId, PlanId};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::reason::Code;
use ensign_crypto::KeyId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::device::DeviceState;
use crate::value::{Base64, Reason, Time};

/// The fleet at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fleet {
    #[schema(value_type = String)]
    pub id: FleetId,
    pub name: String,
    /// `HOST:PORT` that devices and operators use.
    pub address: String,
    /// Version of the controller.
    pub version: String,
    /// Keys without passphrases: no fleet for production.
    pub lab: bool,
    pub frozen: Option<Frozen>,
    /// How many devices are in each state.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub devices: BTreeMap<DeviceState, u64>,
    /// Devices with a session just now.
    pub connected: u64,
    /// Devices that are dark.
    pub dark: u64,
    /// Published releases.
    pub releases: u64,
    /// Rollouts that are not finished.
    pub rollouts: u64,
    /// Rollouts that a rule stopped and that no operator has answered yet, newest first.
    #[serde(default)]
    pub halted: Vec<Halted>,
    /// Living devices that their last update left in trouble, by reason. Dark ones are not among them.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub unwell: BTreeMap<Code, u64>,
    pub root: RoleState,
    pub targets: RoleState,
    pub snapshot: RoleState,
    pub timestamp: RoleState,
    /// Why the controller's clock is not believed; left out where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Reason>,
    /// The newest TLS key that root names to devices, while approved devices have not heard of it; left out where all have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard: Option<Unheard>,
}

/// A TLS key of the controller that not all devices know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unheard {
    /// SHA-256 of its SPKI.
    #[schema(value_type = String)]
    pub key: KeyId,
    /// The first root that names it.
    pub root: u64,
    /// It is the one that is shown: these devices cannot connect any more.
    pub shown: bool,
    /// Approved devices that have not said that they hold this root or a later one.
    pub devices: u64,
}

/// A rollout that a rule stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Halted {
    #[schema(value_type = String)]
    pub rollout: PlanId,
    #[schema(value_type = String)]
    pub product: Ident,
    #[schema(value_type = String)]
    pub version: Version,
    pub reason: Reason,
}

/// Nothing starts anywhere until an operator lifts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Frozen {
    pub since: Time,
    pub reason: String,
    /// Name of the login that froze it; empty = not known.
    #[serde(default)]
    pub by: String,
}

/// Which version of a role is current, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleState {
    pub version: u64,
    pub expires: Time,
}

/// What a client of TUF needs to refresh: every root above the one it has in ascending order, then targets, snapshot, timestamp.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Metadata {
    pub kind: MetadataKind,
    /// The envelope.
    pub bytes: Base64,
}

/// Which role a document is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MetadataKind {
    Root,
    Targets,
    Snapshot,
    Timestamp,
}

/// Targets, and the next versions of release documents that would not be valid under them: in one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewTargets {
    /// The envelope.
    pub targets: Base64,
    /// Envelopes.
    #[serde(default)]
    pub releases: Vec<Base64>,
}

/// The next root, and the next targets where those in force would not be valid under it: in one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewRoot {
    /// The envelope.
    pub root: Base64,
    /// The envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Base64>,
}

/// What the client has already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MetadataQuery {
    /// Root version that the client has; 0 or absent = none.
    #[serde(default)]
    pub root: u64,
}
