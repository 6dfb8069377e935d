//! Devices, their evidence, and the tokens they join with.

use std::collections::BTreeMap;

use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::ids::{Ident, Labels, Version};
use ensign_bundle::wire::Phase;
use ensign_crypto::PublicKey;
pub use ensign_rollout::DeviceState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::value::{Base64, Reason, Time};

/// A row of `device ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    #[schema(value_type = String)]
    pub id: DeviceId,
    pub name: String,
    pub state: DeviceState,
    /// Of the newest signed grant.
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Labels,
    #[schema(value_type = BTreeMap<String, InstalledProduct>)]
    pub products: BTreeMap<Ident, InstalledProduct>,
    pub status: DeviceStatus,
    /// `PRODUCT@VERSION` that status and reason are about, where it is known.
    #[serde(default)]
    pub status_of: Option<String>,
    pub reason: Option<Reason>,
    /// None: never connected since it joined.
    pub last_seen: Option<Time>,
    /// A session stands just now.
    pub connected: bool,
    /// Took an update and then was silent for longer than its rollout allows.
    pub dark: bool,
    /// What the device says of itself: untrusted.
    pub facts: BTreeMap<String, String>,
    /// Held by an operator: takes part in no update.
    #[serde(default)]
    pub held: bool,
    /// Manifests that failed on this device and are not tried again.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub denied: Vec<Digest>,
    /// Rollouts that list it and are not over.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub rollouts: Vec<PlanId>,
    /// Version of the root that it says it holds; 0 = it was never connected.
    #[serde(default)]
    pub root: u64,
}

/// What a device is doing, in the words that scripts see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceStatus {
    #[default]
    Idle,
    Fetching,
    Staged,
    Waiting,
    Switching,
    Trial,
    Confirmed,
    RollingBack,
    RolledBack,
    Rejected,
}

/// What a device runs of a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstalledProduct {
    #[schema(value_type = String)]
    pub version: Version,
    /// Number of the generation on the device; goes up with every switch.
    pub generation: u64,
    /// By the device's own clock.
    pub since: Time,
    /// False during its trial.
    #[serde(default)]
    pub confirmed: bool,
}

/// `device show`: the row and what does not fit into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceDetail {
    #[serde(flatten)]
    pub device: Device,
    #[schema(value_type = String)]
    pub receipt_key: PublicKey,
    pub joined: Time,
    /// Unsigned: serial numbers and the like, never matched by plans.
    #[serde(default)]
    pub claims: BTreeMap<String, String>,
    /// The newest rollout that lists it.
    #[schema(value_type = Option<String>)]
    pub rollout: Option<PlanId>,
    pub agent: Option<String>,
}

/// What a device's place in the fleet rests on: signed by others than the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceEvidence {
    #[schema(value_type = String)]
    pub device: DeviceId,
    pub name: String,
    pub state: DeviceState,
    /// Envelope of the binding made at join.
    pub binding: Base64,
    /// Envelope of the grant of the token it joined with.
    pub token_grant: Base64,
    /// Envelope of its newest grant of its own, if it was ever labelled.
    pub grant: Option<Base64>,
    /// Envelope of its newest hold, if it was ever held.
    pub hold: Option<Base64>,
}

/// Body of a change that needs nothing but its reason. May be empty: `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    #[serde(default)]
    pub reason: String,
}

/// A token is its grant: the controller never sees the seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// Envelope of the grant.
    pub grant: Base64,
}

/// A row of `token ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    #[schema(value_type = String)]
    pub key: PublicKey,
    /// Most devices that join with it.
    pub uses: u32,
    /// Devices that have joined with it.
    pub used: u32,
    pub expires: Time,
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Labels,
    /// Devices that join with it are approved at once.
    pub approve: bool,
    pub revoked: bool,
}

impl From<Phase> for DeviceStatus {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Idle => Self::Idle,
            Phase::Fetching => Self::Fetching,
            Phase::Staged => Self::Staged,
            Phase::Waiting => Self::Waiting,
            Phase::Switching => Self::Switching,
            Phase::Trial => Self::Trial,
            Phase::Confirmed => Self::Confirmed,
            Phase::RollingBack => Self::RollingBack,
            Phase::RolledBack => Self::RolledBack,
            Phase::Rejected => Self::Rejected,
        }
    }
}

impl DeviceStatus {
    /// Every status, in the order of an update.
    pub const ALL: [Self; 10] = [
        Self::Idle,
        Self::Fetching,
        Self::Staged,
        Self::Waiting,
        Self::Switching,
        Self::Trial,
        Self::Confirmed,
        Self::RollingBack,
        Self::RolledBack,
        Self::Rejected,
    ];

    /// The word in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Fetching => "fetching",
            Self::Staged => "staged",
            Self::Waiting => "waiting",
            Self::Switching => "switching",
            Self::Trial => "trial",
            Self::Confirmed => "confirmed",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
            Self::Rejected => "rejected",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_keys_that_scripts_read() {
        let row = Device {
            id: DeviceId([1; 32]),
            name: "dev1".to_owned(),
            state: DeviceState::Approved,
            labels: Labels::new(),
            products: BTreeMap::from([(
                Ident::parse("app").unwrap(),
                InstalledProduct {
                    version: Version::parse("1.0.0").unwrap(),
                    generation: 1,
                    since: Time(0),
                    confirmed: true,
                },
            )]),
            status: DeviceStatus::RollingBack,
            status_of: None,
            reason: None,
            last_seen: None,
            connected: true,
            dark: false,
            facts: BTreeMap::new(),
            held: false,
            denied: Vec::new(),
            rollouts: Vec::new(),
            root: 1,
        };
        let json = serde_json::to_value(&row).unwrap();
        let promised = [
            "id",
            "name",
            "state",
            "labels",
            "products",
            "status",
            "reason",
            "last_seen",
            "connected",
            "dark",
            "facts",
        ];
        for key in promised {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["status"], "rolling-back");
        assert_eq!(json["products"]["app"]["since"], "1970-01-01T00:00:00Z");
        assert_eq!(serde_json::from_value::<Device>(json).unwrap(), row);
    }

    #[test]
    fn names_are_what_json_says() {
        for state in [
            DeviceState::Pending,
            DeviceState::Approved,
            DeviceState::Suspended,
            DeviceState::Revoked,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for phase in [
            Phase::Idle,
            Phase::RollingBack,
            Phase::RolledBack,
            Phase::Rejected,
            Phase::Trial,
        ] {
            let status = DeviceStatus::from(phase);
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
            assert_eq!(serde_json::to_value(phase).unwrap(), status.name());
        }
    }
}
