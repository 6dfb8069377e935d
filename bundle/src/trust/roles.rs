//! The five roles of Ensign's TUF profile: root, targets, release documents, snapshot, timestamp.
//!
//! Times are unsigned seconds since the epoch, lengths are bytes.

use std::collections::{BTreeMap, BTreeSet};

use ensign_crypto::{KeyId, PublicKey};
use serde::{Deserialize, Serialize};

use crate::codec::Ext;
use crate::digest::{Digest, FleetId};
use crate::ids::{Ident, Label, Version};
use crate::limits;
use crate::reason::Refusal;
use crate::refuse;
use crate::selector::Selector;
use crate::statement::Document;

/// The format number in every signed document of this version.
pub const FORMAT: u16 = 1;

/// Keys and how many of them must sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Distinct.
    pub keys: Vec<PublicKey>,
    /// 1 to the number of keys.
    pub threshold: u32,
}

/// Digest and length of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    pub digest: Digest,
    /// Bytes.
    pub length: u64,
}

/// A document as snapshot or timestamp list it: the digest is of the whole envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    pub version: u64,
    /// Bytes of the envelope.
    pub length: u64,
    pub digest: Digest,
}

/// Who may say what in this fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    pub format: u16,
    /// From 1; each next root has the next number.
    pub version: u64,
    /// Unix seconds.
    pub issued: u64,
    /// Unix seconds; at most 400 days after `issued`.
    pub expires: u64,
    pub fleet: FleetId,
    /// For people.
    pub name: String,
    pub roles: RootRoles,
    /// Deploy scopes: which keys may say what the devices of a selector run. Sorted by unique names.
    pub scopes: Vec<Scope>,
    /// Labels that decide a scope: a grant that touches one needs its scope's threshold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protected: Vec<Label>,
    pub policy: Policy,
    pub controller: Controller,
    pub floors: Floors,
    /// Mends a clock floor poisoned by a clock of 2100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_reset: Option<u64>,
    /// Lowest protocol version a device speaks.
    pub min_protocol: u16,
    #[serde(default, skip_serializing_if = "Ext::is_empty")]
    pub ext: Ext,
}

/// TUF's top-level roles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootRoles {
    pub root: Role,
    pub targets: Role,
    pub snapshot: Role,
    pub timestamp: Role,
}

/// Which keys may deploy to which devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    pub name: Ident,
    /// Selector; empty matches every device.
    pub select: String,
    pub role: Role,
}

/// What devices of this fleet insist on or tolerate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Keys without a passphrase: devices on `/` refuse unless they allow it.
    pub lab: bool,
    /// Most devices in the first wave that has any; none = no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_wave_max: Option<u32>,
    /// Scopes whose plans may be used offline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offline: Vec<Ident>,
    /// An offline plan may be used by a device that does not know the time.
    pub offline_without_time: bool,
    /// Longest life of a timestamp where it is not the default (air-gapped fleets: up to 30 days), seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_life_s: Option<u64>,
    /// Has a place here, and no effect in this version.
    pub known_canaries: bool,
}

/// Where the controller is and which keys it shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Controller {
    /// SPKI digests of its QUIC keys.
    pub keys: Vec<KeyId>,
    /// SPKI digests of its HTTPS keys.
    pub api: Vec<Digest>,
    /// `HOST:PORT`.
    pub addresses: Vec<String>,
}

/// What may never go back, except by a root with a higher `reset_epoch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floors {
    /// A higher one lets floors and clocks go back, once.
    pub reset_epoch: u64,
    /// No targets below this version.
    pub targets_version: u64,
    /// By product.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub products: BTreeMap<Ident, ProductFloor>,
}

/// Below what nothing of a product counts any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductFloor {
    /// Plans with this number and all below are retired; 0 = none.
    pub plan_seq: u64,
    /// No release below it is installed.
    pub counter: u64,
    /// The same, raised for a reason of security.
    pub security: u64,
}

/// Which products there are and who signs their releases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    pub format: u16,
    /// From 1; only rises.
    pub version: u64,
    /// Unix seconds.
    pub issued: u64,
    /// Unix seconds; at most 400 days after `issued`.
    pub expires: u64,
    /// Sorted by unique names; `*` stands for every product without an entry of its own.
    pub products: Vec<Product>,
    #[serde(default, skip_serializing_if = "Ext::is_empty")]
    pub ext: Ext,
}

/// A product's delegation: its keys, and the bounds of what they may sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// An identifier or `*`.
    pub name: String,
    /// The release keys.
    pub role: Role,
    /// Patterns of component names; `*` matches any run of characters.
    pub components: Vec<String>,
    /// Kinds of components by name (`tree`, `oci`, ...); `agent` and `image` only if named here.
    pub kinds: Vec<String>,
    /// Handlers that a component of kind `handler` may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<Ident>,
    /// Patterns of unit names.
    pub units: Vec<String>,
    /// No lower counter is installed; only rises.
    pub security_floor: u64,
    /// Release documents below this counter may leave the snapshot.
    pub lowest: u64,
    /// A product whose failure cuts the device off: it probes the controller by default.
    pub network: bool,
    #[serde(default, skip_serializing_if = "Ext::is_empty")]
    pub ext: Ext,
}

impl Product {
    /// The field of `ext` that [`Self::select`] is in.
    const SELECT: &'static str = "select";

    /// Which devices a rollout means that says nothing else: a selector, for the operator's program alone.
    pub fn select(&self) -> Option<&str> {
        self.ext.text(Self::SELECT)
    }

    pub fn set_select(&mut self, select: Option<String>) {
        self.ext.set_text(Self::SELECT, select);
    }
}

/// What one version of a product is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    pub format: u16,
    /// Version of this document, from 1; renewing or yanking signs the next.
    pub version: u64,
    /// Unix seconds.
    pub issued: u64,
    /// Unix seconds; at most 400 days after `issued`.
    pub expires: u64,
    pub product: Ident,
    pub release: Version,
    /// Orders the releases of a product.
    pub counter: u64,
    /// No lower counter may follow this release on a device; at most `counter`.
    pub security_floor: u64,
    pub manifest: FileRef,
    pub compatible: Compatible,
    /// Why it was withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yanked: Option<String>,
    /// The list of patches, once there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch_index: Option<FileRef>,
    #[serde(default, skip_serializing_if = "Ext::is_empty")]
    pub ext: Ext,
}

/// Which devices a release fits. Empty lists fit all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compatible {
    /// As Rust names it: `x86_64`, `aarch64`, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arch: Vec<String>,
    /// Compared with `applier.hardware` of the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hardware: Vec<String>,
    /// Lowest version of the agent, `MAJOR.MINOR.PATCH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_agent: Option<Version>,
    /// Lowest release counter from which this one can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_from: Option<u64>,
}

/// Which documents are current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub format: u16,
    /// From 1; only rises.
    pub version: u64,
    /// Unix seconds.
    pub issued: u64,
    /// Unix seconds; at most 14 days after `issued`.
    pub expires: u64,
    pub targets: Listed,
    /// Sorted by product, then release; unique.
    pub releases: Vec<ListedRelease>,
    #[serde(default, skip_serializing_if = "Ext::is_empty")]
    pub ext: Ext,
}

/// A release document in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedRelease {
    pub product: Ident,
    pub release: Version,
    pub counter: u64,
    pub document: Listed,
}

/// Which snapshot is current: short-lived, so that nobody can hide the newest for long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timestamp {
    pub format: u16,
    /// From 1; only rises.
    pub version: u64,
    /// Unix seconds.
    pub issued: u64,
    /// Unix seconds; at most 3 days after `issued`, or what root's policy says.
    pub expires: u64,
    pub snapshot: Listed,
    #[serde(default, skip_serializing_if = "Ext::is_empty")]
    pub ext: Ext,
}

impl Document for Root {
    const KIND: &'static str = "root";
    const MAX_BYTES: usize = limits::ROOT_BYTES;

    fn check(&self) -> Result<(), Refusal> {
        check_header(Self::KIND, self.format, self.version)?;
        let roles = [
            ("root", &self.roles.root),
            ("targets", &self.roles.targets),
            ("snapshot", &self.roles.snapshot),
            ("timestamp", &self.roles.timestamp),
        ];
        // Scopes share the role deploy, so one key may stand in several of them.
        let scopes = self.scopes.iter().map(|s| ("deploy", &s.role));
        let mut seen: BTreeMap<PublicKey, &str> = BTreeMap::new();
        for (name, role) in roles.into_iter().chain(scopes) {
            check_role(name, role)?;
            for key in &role.keys {
                if let Some(other) = seen.insert(*key, name)
                    && other != name
                {
                    return refuse!(KeysRefused, "key {} stands in the roles {other} and {name}", key.id());
                }
            }
        }
        if let Some(key) = seen.keys().find(|k| self.controller.keys.contains(&k.id())) {
            return refuse!(KeysRefused, "key {} is a role's and the controller's", key.id());
        }
        if !strictly_increasing(self.scopes.iter().map(|s| &s.name)) {
            return refuse!(Malformed, "scopes are not sorted by unique names");
        }
        for scope in &self.scopes {
            // A selector that nobody can read would leave every device without a scope.
            Selector::parse(&scope.select)?;
        }
        Ok(())
    }

    fn check_lifetime(&self) -> Result<(), Refusal> {
        check_times(Self::KIND, self.issued, self.expires)?;
        match self.policy.timestamp_life_s {
            Some(life) if life > limits::AIR_GAPPED_TIMESTAMP_LIFE_S => refuse!(
                LifetimeRefused,
                "policy lets timestamps live {life} s, at most {} s are possible",
                limits::AIR_GAPPED_TIMESTAMP_LIFE_S
            ),
            _ => Ok(()),
        }
    }
}

impl Document for Targets {
    const KIND: &'static str = "targets";
    const MAX_BYTES: usize = limits::TARGETS_BYTES;

    fn check(&self) -> Result<(), Refusal> {
        check_header(Self::KIND, self.format, self.version)?;
        if !strictly_increasing(self.products.iter().map(|p| &p.name)) {
            return refuse!(Malformed, "products are not sorted by unique names");
        }
        for product in &self.products {
            if product.name != "*" && Ident::parse(&product.name).is_err() {
                return refuse!(
                    Malformed,
                    "`{}` is no product name",
                    crate::text::printable(&product.name, 64)
                );
            }
            check_role("release", &product.role)?;
        }
        Ok(())
    }

    fn check_lifetime(&self) -> Result<(), Refusal> {
        check_times(Self::KIND, self.issued, self.expires)
    }
}

impl Document for Release {
    const KIND: &'static str = "release";
    const MAX_BYTES: usize = limits::RELEASE_BYTES;

    fn check(&self) -> Result<(), Refusal> {
        check_header(Self::KIND, self.format, self.version)?;
        let (length, most) = (self.manifest.length, limits::MANIFEST_BYTES);
        if length > most as u64 {
            return refuse!(
                LimitExceeded,
                "the manifest has {length} bytes, at most {most} are allowed"
            );
        }
        if self.security_floor > self.counter {
            return refuse!(
                Malformed,
                "the security floor {} is above the release's own counter {}",
                self.security_floor,
                self.counter
            );
        }
        Ok(())
    }

    fn check_lifetime(&self) -> Result<(), Refusal> {
        check_times(Self::KIND, self.issued, self.expires)
    }
}

impl Document for Snapshot {
    const KIND: &'static str = "snapshot";
    const MAX_BYTES: usize = limits::SNAPSHOT_BYTES;

    fn check(&self) -> Result<(), Refusal> {
        check_header(Self::KIND, self.format, self.version)?;
        if !strictly_increasing(self.releases.iter().map(|r| (&r.product, &r.release))) {
            return refuse!(Malformed, "releases are not sorted by unique names");
        }
        Ok(())
    }

    fn check_lifetime(&self) -> Result<(), Refusal> {
        check_times(Self::KIND, self.issued, self.expires)
    }
}

impl Document for Timestamp {
    const KIND: &'static str = "timestamp";
    const MAX_BYTES: usize = limits::TIMESTAMP_BYTES;

    fn check(&self) -> Result<(), Refusal> {
        check_header(Self::KIND, self.format, self.version)
    }

    fn check_lifetime(&self) -> Result<(), Refusal> {
        check_times(Self::KIND, self.issued, self.expires)
    }
}

/// What every role has in common.
fn check_header(kind: &str, format: u16, version: u64) -> Result<(), Refusal> {
    if format != FORMAT {
        return refuse!(
            VersionUnknown,
            "{kind} has format {format}, this program knows {FORMAT}"
        );
    }
    if version == 0 {
        return refuse!(Malformed, "{kind} has version 0, versions start at 1");
    }
    Ok(())
}

/// What each role's lifetime has in common; how long it may be is the profile's.
fn check_times(kind: &str, issued: u64, expires: u64) -> Result<(), Refusal> {
    if expires <= issued {
        return refuse!(
            LifetimeRefused,
            "{kind} expires at {expires}, not after it was issued at {issued}"
        );
    }
    Ok(())
}

/// 1 ≤ threshold ≤ number of distinct keys.
fn check_role(what: &str, role: &Role) -> Result<(), Refusal> {
    let distinct: BTreeSet<_> = role.keys.iter().collect();
    if distinct.len() != role.keys.len() {
        return refuse!(KeysRefused, "{what} lists a key twice");
    }
    if role.threshold == 0 || role.threshold as usize > distinct.len() {
        return refuse!(
            KeysRefused,
            "{what} has threshold {} with {} keys",
            role.threshold,
            distinct.len()
        );
    }
    Ok(())
}

/// True when each item is greater than the one before: sorted and unique.
pub(crate) fn strictly_increasing<T: Ord>(items: impl IntoIterator<Item = T>) -> bool {
    let mut items = items.into_iter();
    let Some(mut last) = items.next() else { return true };
    items.all(|item| {
        let more = item > last;
        last = item;
        more
    })
}
