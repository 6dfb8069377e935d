//! Rollouts: how they are started, where they stand, and why a device waits.

use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::ids::{Ident, Version};
use ensign_crypto::PublicKey;
pub use ensign_rollout::{RolloutState, TransferBytes, WaveState, WaveStatus};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::fleet::Frozen;
use crate::value::{Base64, Reason, Time};

/// A signed plan and the devices under its Merkle roots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartRollout {
    /// Envelope of the plan.
    pub plan: Base64,
    /// Wave by wave, ids strictly increasing.
    pub waves: Vec<Vec<Member>>,
}

/// The plan of a rollout as it was signed: what people who sign about it look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedPlan {
    /// Envelope of the plan.
    pub plan: Base64,
    /// The devices under its Merkle roots, wave by wave.
    pub waves: Vec<Vec<Member>>,
    /// Envelopes of the promotions that were given so far.
    pub promotes: Vec<Base64>,
}

/// A leaf of a listed cohort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    #[schema(value_type = String)]
    pub device: DeviceId,
    #[schema(value_type = String)]
    pub receipt_key: PublicKey,
}

/// `rollout status`, and a row of `rollout ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    #[schema(value_type = String)]
    pub id: PlanId,
    #[schema(value_type = String)]
    pub product: Ident,
    #[schema(value_type = String)]
    pub version: Version,
    pub state: RolloutState,
    pub reason: Option<Reason>,
    pub waves: Vec<WaveStatus>,
    pub bytes: TransferBytes,
    /// Devices that open waves wait for and that are not connected: the first to count against it first, at most 8.
    #[serde(default)]
    pub away: Vec<Away>,
    /// Connected devices that were asked and wait for something of their own (a lock, a window), at most 8.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// The brake on the whole fleet, where it holds this rollout.
    #[serde(default)]
    pub frozen: Option<Frozen>,
    /// Steps, separated by `; `: each is a command, or words, a colon and a command. Empty: nothing is to be done.
    #[serde(default)]
    pub hint: String,
    /// Goes up with every change: what a long poll waits for.
    pub revision: u64,
    /// The plan's digest: what a cancel names.
    #[schema(value_type = String)]
    pub plan: Digest,
    /// Of the plan; each next plan of the product has a higher one.
    pub seq: u64,
    pub started: Time,
    /// End of the plan.
    pub expires: Time,
}

/// A device that was asked, or could be, and is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Away {
    #[schema(value_type = String)]
    pub device: DeviceId,
    pub name: String,
    /// From 1.
    pub wave: u32,
    /// Last sign of life.
    pub since: Time,
    /// `dark` or `unreached` ...
    pub counts_as: String,
    /// ... from then on.
    pub at: Time,
}

/// A device that was asked and waits for something of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    #[schema(value_type = String)]
    pub device: DeviceId,
    pub name: String,
    pub wave: u32,
    pub reason: Reason,
}

/// Waits until the rollout's revision is above `after`, at most `wait_s` seconds (0 to 60), then answers what is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RolloutQuery {
    #[serde(default)]
    pub after: Option<u64>,
    #[serde(default)]
    pub wait_s: Option<u64>,
}

/// Devices whose slots are given back although they are dark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseSlots {
    #[schema(value_type = Vec<String>)]
    pub devices: Vec<DeviceId>,
    #[serde(default)]
    pub reason: String,
}

/// About which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WhyQuery {
    #[param(value_type = String)]
    pub device: DeviceId,
}

/// The rule that decides about a device just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    #[schema(value_type = String)]
    pub device: DeviceId,
    #[schema(value_type = Option<String>)]
    pub rollout: Option<PlanId>,
    /// `PRODUCT@VERSION` that this rollout brings: what the reason is about.
    #[serde(default)]
    pub release: Option<String>,
    /// From 1; none = in no wave.
    pub wave: Option<u32>,
    /// Of the device: the words of `device ls`.
    pub status: String,
    /// `PRODUCT@VERSION` that the status is about, where it is known.
    #[serde(default)]
    pub status_of: Option<String>,
    pub reason: Option<Reason>,
    /// None: time alone changes nothing, or it is not known.
    pub next_eligible: Option<Time>,
    pub hint: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_keys_that_scripts_read() {
        let wave = WaveStatus {
            index: 1,
            state: WaveState::Soaking,
            target: 3,
            pending: 0,
            active: 1,
            ok: 2,
            failed: 0,
            dark: 0,
            unreached: 0,
            held: 0,
            away: 1,
            soak_left_s: 60,
        };
        let status = Rollout {
            id: PlanId([2; 16]),
            product: Ident::parse("app").unwrap(),
            version: Version::parse("1.0.0").unwrap(),
            state: RolloutState::Running,
            reason: None,
            waves: vec![wave],
            bytes: TransferBytes { sent: 1, saved: 2 },
            away: Vec::new(),
            waiting: Vec::new(),
            frozen: None,
            hint: String::new(),
            revision: 1,
            plan: Digest([2; 32]),
            seq: 1,
            started: Time(0),
            expires: Time(1),
        };
        let json = serde_json::to_value(&status).unwrap();
        for key in ["id", "product", "version", "state", "reason", "waves", "bytes"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        let keys = [
            "index",
            "state",
            "target",
            "pending",
            "active",
            "ok",
            "failed",
            "dark",
            "unreached",
            "held",
            "soak_left_s",
        ];
        for key in keys {
            assert!(json["waves"][0].get(key).is_some(), "{key}");
        }
        assert_eq!(json["bytes"], serde_json::json!({"sent": 1, "saved": 2}));
        assert_eq!(serde_json::from_value::<Rollout>(json).unwrap(), status);
    }

    #[test]
    fn names_are_what_json_says() {
        for state in [
            RolloutState::Scheduled,
            RolloutState::Superseded,
            RolloutState::Done,
            RolloutState::Halted,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for state in [
            WaveState::Waiting,
            WaveState::Open,
            WaveState::Soaking,
            WaveState::Done,
            WaveState::Halted,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
    }
}
