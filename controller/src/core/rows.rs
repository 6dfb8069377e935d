//! Rows of the ledger, one struct per key of the table below. Fields may be added with a default, never renamed.
//!
//! | key | value |
//! |---|---|
//! | `fleet` | [`FleetRow`] |
//! | `role/root/<n>` (8 digits), `role/{targets,snapshot,timestamp}` | [`RoleRow`] |
//! | `release/<product>/<version>` | [`ReleaseRow`] |
//! | `token/<key>` | [`TokenRow`] |
//! | `device/<id>` | [`DeviceRow`] |
//! | `name/<name>` | [`NameRow`]: the living device with this name |
//! | `api-token/<sha256>` | [`ApiTokenRow`] |
//! | `plan/<id>` | `PlanRow`: a plan as it was signed, its lists, its gates |
//! | `receipt/<rollout>/<device>` | `ReceiptRow` |
//! | `rollouts`, `rollout/<id>`, `slot/<rollout>/<device>` | rows of the planner's model (`ensign_rollout::rows`) |

use std::collections::BTreeMap;

use ensign_bundle::digest::{DeviceId, Digest, FleetId};
use ensign_bundle::ids::{Ident, Labels, Version};
use ensign_bundle::wire::Status;
use ensign_crypto::PublicKey;
use ensign_rollout::{DeviceState, Event, Order};
use serde::{Deserialize, Serialize};

use crate::roles::Role;

/// Which fleet this ledger belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetRow {
    pub format: u16,
    pub fleet: FleetId,
    pub name: String,
    /// `HOST:PORT` of the kit.
    pub address: String,
    /// Digest of the envelope of root 1.
    pub root_hash: Digest,
    /// Starts of this controller: the upper half of every generation that devices see, so that those never go back.
    pub starts: u64,
}

/// The current document of a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRow {
    pub version: u64,
    /// Of the whole envelope; the bytes are in the document store.
    pub digest: Digest,
    pub length: u64,
    pub issued: u64,
    pub expires: u64,
    /// The document before this one, kept for readers under way until the next takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
}

/// A published release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRow {
    pub product: Ident,
    pub version: Version,
    pub counter: u64,
    /// Version, digest and length of the release document's envelope.
    pub document: RoleRow,
    pub manifest: Digest,
    /// Plain size of all components.
    pub bytes: u64,
    /// A list of [`ComponentRow`] in the document store: with all its units it may be larger than a row.
    pub components: Digest,
    pub yanked: Option<String>,
    pub published: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentRow {
    pub name: Ident,
    pub kind: String,
    pub files: u64,
    pub bytes: u64,
    pub units: Vec<String>,
}

/// A join token: its grant, and what is left of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    pub key: PublicKey,
    /// Digest of the grant's envelope, which is in the document store.
    pub grant: Digest,
    /// Digest of the grant's payload: what bindings name.
    pub grant_payload: Digest,
    pub labels: Labels,
    pub uses: u32,
    pub used: u32,
    pub expires: u64,
    pub approve: bool,
    pub revoked: bool,
    pub created: u64,
}

/// A device and what it last said. Durable before the device is told that it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    pub id: DeviceId,
    pub name: String,
    pub state: DeviceState,
    /// Who made its state what it is.
    #[serde(default)]
    pub ordered: Order,
    pub key: PublicKey,
    pub receipt_key: PublicKey,
    pub token: PublicKey,
    /// Envelopes in the document store: the binding, the grant of the token, the newest grant and hold of the device's own.
    pub binding: Digest,
    pub token_grant: Digest,
    #[serde(default)]
    pub grant: Option<StatementRow>,
    #[serde(default)]
    pub hold: Option<StatementRow>,
    /// Of the newest grant.
    pub labels: Labels,
    #[serde(default)]
    pub claims: BTreeMap<String, String>,
    pub held: bool,
    /// Who holds it, or let go of it, and why.
    #[serde(default)]
    pub held_by: Order,
    pub joined: u64,
    /// None: never connected. Written with other changes only, so it may lag behind a crash.
    #[serde(default)]
    pub last_seen: Option<u64>,
    /// Highest session counter seen: one that goes back is a copy of the device.
    #[serde(default)]
    pub session: u64,
    /// A second device answered with this identity: neither gets installs until an operator ends the alarm.
    #[serde(default)]
    pub alarm: Option<CloneAlarm>,
    #[serde(default)]
    pub agent: String,
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    #[serde(default)]
    pub status: Option<Status>,
    /// The key that the device will come with, not yet proven: `key` is accepted until it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextKey>,
    /// Envelopes of the changes from the binding's key to `key`, in order, in the document store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotations: Vec<Digest>,
    /// Version of the root that its applier says it holds; 0 = it was never connected.
    #[serde(default)]
    pub root: u64,
    /// Sequence number of the newest report in the ledger.
    #[serde(default)]
    pub report_seq: u64,
    /// Sequence number of the newest receipt in the ledger.
    #[serde(default)]
    pub receipt_seq: u64,
}

/// A key that a device has announced, and the envelope that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextKey {
    pub key: PublicKey,
    pub statement: Digest,
}

/// A session counter went back, and somebody lives behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneAlarm {
    /// When it last did.
    pub at: u64,
    /// The highest counter at that time.
    pub above: u64,
}

impl DeviceRow {
    /// Two devices answer with this identity, as far as is known.
    pub fn is_cloned(&self) -> bool {
        self.alarm.is_some()
    }

    /// What the planner has to observe to know it: when it joins, and at each start, for the model has no row of its own for devices.
    pub fn events(&self) -> Vec<Event> {
        let device = self.id;
        let mut events = vec![
            Event::DeviceAdded {
                device,
                name: self.name.clone(),
                state: self.state,
                at: self.joined,
            },
            Event::DeviceState {
                device,
                state: self.state,
                order: self.ordered.clone(),
            },
            Event::Labelled {
                device,
                labels: self.labels.clone(),
            },
            Event::Held {
                device,
                held: self.held,
                order: self.held_by.clone(),
            },
            Event::Cloned {
                device,
                cloned: self.is_cloned(),
            },
        ];
        let at = self.last_seen.unwrap_or(self.joined);
        events.extend(self.status.clone().map(|status| Event::Reported { device, at, status }));
        events.push(Event::Disconnected { device, at });
        events
    }
}

/// A signed statement about one device: an envelope in the document store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementRow {
    pub seq: u64,
    /// Of the envelope.
    pub digest: Digest,
    pub length: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRow {
    pub device: DeviceId,
}

/// A login.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenRow {
    pub name: String,
    pub role: Role,
    #[serde(default)]
    pub expires: Option<u64>,
}

/// The keys of the table above.
pub mod key {
    use ensign_bundle::digest::{DeviceId, Digest, PlanId};
    use ensign_bundle::ids::{Ident, Version};
    use ensign_crypto::PublicKey;

    pub const FLEET: &str = "fleet";
    pub const TARGETS: &str = "role/targets";
    pub const SNAPSHOT: &str = "role/snapshot";
    pub const TIMESTAMP: &str = "role/timestamp";
    pub const ROOTS: &str = "role/root/";
    pub const RELEASES: &str = "release/";
    pub const TOKENS: &str = "token/";
    pub const DEVICES: &str = "device/";
    pub const API_TOKENS: &str = "api-token/";
    pub const ROLLOUTS: &str = "rollout/";
    pub const PLANS: &str = "plan/";
    pub const SLOTS: &str = "slot/";
    pub const RECEIPTS: &str = "receipt/";
    pub const MODEL_FLEET: &str = "rollouts";

    pub fn root(version: u64) -> String {
        format!("{ROOTS}{version:08}")
    }

    pub fn release(product: &Ident, version: &Version) -> String {
        format!("{RELEASES}{product}/{version}")
    }

    pub fn token(key: &PublicKey) -> String {
        format!("{TOKENS}{key}")
    }

    pub fn device(id: &DeviceId) -> String {
        format!("{DEVICES}{id}")
    }

    /// Names are foreign text of any characters, so the key holds their digest.
    pub fn name(name: &str) -> String {
        format!("name/{}", Digest::of(name.as_bytes()))
    }

    pub fn api_token(hash: &Digest) -> String {
        format!("{API_TOKENS}{hash}")
    }

    pub fn plan(id: &PlanId) -> String {
        format!("{PLANS}{id}")
    }

    pub fn rollout(id: &PlanId) -> String {
        format!("{ROLLOUTS}{id}")
    }

    pub fn slot(rollout: &PlanId, device: &DeviceId) -> String {
        format!("{SLOTS}{rollout}/{device}")
    }

    pub fn receipt(rollout: &PlanId, device: &DeviceId) -> String {
        format!("{RECEIPTS}{rollout}/{device}")
    }
}
