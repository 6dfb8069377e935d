//! TUF's roles in JSON (1.0.34 §4) and how many of a role's keys signed one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::format::Meta;
use ensign_crypto::meet_threshold;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};

use super::delegation::Delegations;
use super::json;
use super::key::{Key, Keys};

/// Signatures that a file may carry.
const MAX_SIGNATURES: usize = 64;

/// Which keys sign for a role, and how many of them must.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Role {
    keyids: Vec<String>,
    threshold: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Root {
    #[serde(flatten)]
    header: Header,
    pub(super) keys: Keys,
    pub(super) roles: BTreeMap<String, Role>,
    #[serde(default)]
    pub(super) consistent_snapshot: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Timestamp {
    #[serde(flatten)]
    header: Header,
    pub(super) meta: TimestampMeta,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimestampMeta {
    #[serde(rename = "snapshot.json")]
    pub(super) snapshot: Pin,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Snapshot {
    #[serde(flatten)]
    header: Header,
    /// By file name: `ROLE.json`.
    pub(super) meta: BTreeMap<String, Pin>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Targets {
    #[serde(flatten)]
    header: Header,
    #[serde(rename = "targets")]
    pub(super) files: BTreeMap<String, Target>,
    #[serde(default)]
    pub(super) delegations: Option<Delegations>,
}

/// What a file must be that timestamp or snapshot list. Length and hashes may be missing there (TUF §4.4).
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Pin {
    pub(super) version: u64,
    #[serde(default)]
    pub(super) length: Option<u64>,
    #[serde(default)]
    hashes: Option<Hashes>,
}

/// What a target file must be.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Target {
    pub(super) length: u64,
    pub(super) hashes: Hashes,
}

/// Hexadecimal digests by the name of their algorithm.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
pub(super) struct Hashes(BTreeMap<String, String>);

#[derive(Clone, Debug, Deserialize)]
struct Header {
    #[serde(rename = "_type")]
    kind: String,
    spec_version: String,
    version: u64,
    #[serde(deserialize_with = "seconds")]
    expires: u64,
}

/// A file that has the shape of metadata. Nothing is known of its signatures yet.
pub(super) struct Unverified {
    signed: Value,
    message: Vec<u8>,
    signatures: BTreeMap<String, Vec<u8>>,
}

#[derive(Deserialize)]
struct Envelope {
    signatures: Vec<Signature>,
    signed: Value,
}

#[derive(Deserialize)]
struct Signature {
    keyid: String,
    sig: String,
}

impl Unverified {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let value = json::parse(bytes).map_err(|e| malformed(&format!("{e:#}")))?;
        let envelope: Envelope = serde_json::from_value(value).map_err(|e| malformed(&e))?;
        if envelope.signatures.len() > MAX_SIGNATURES {
            return refuse!(LimitExceeded, "{} signatures", envelope.signatures.len());
        }
        let mut signatures = BTreeMap::new();
        for Signature { keyid, sig } in envelope.signatures {
            // What is no hexadecimal is a signature of nobody, like every other wrong one.
            let twice = signatures.insert(keyid, hex::decode(sig).unwrap_or_default());
            if twice.is_some() {
                return refuse!(Malformed, "a key id stands twice among the signatures");
            }
        }
        Ok(Self {
            message: json::canonical(&envelope.signed).map_err(|e| malformed(&e))?,
            signed: envelope.signed,
            signatures,
        })
    }

    /// Refuses unless a threshold of the role's keys signed.
    pub(super) fn count(&self, what: &str, role: &Role, keys: &Keys) -> Result<(), Refusal> {
        // One key under two ids is one signer.
        let ids = |key: &Key| -> Vec<&String> {
            let own = |id: &&String| keys.get(*id).is_some_and(|record| record.key() == *key);
            role.keyids.iter().filter(own).collect()
        };
        let known = role.keyids.iter().filter_map(|id| Some(keys.get(id)?.key()));
        let has_signed = |key: &Key| {
            let mut signatures = ids(key).into_iter().filter_map(|id| self.signatures.get(id));
            signatures.any(|signature| key.verify(&self.message, signature))
        };
        match meet_threshold(known, role.threshold, has_signed) {
            Ok(_) => Ok(()),
            Err(shortfall) => refuse!(ThresholdNotMet, "{what}, threshold {}: {shortfall:?}", role.threshold),
        }
    }

    /// The role, of the kind that was asked for.
    pub(super) fn body<T: Body>(self) -> Result<T, Refusal> {
        let body: T = serde_json::from_value(self.signed).map_err(|e| malformed(&e))?;
        let header = body.header();
        if header.kind != T::KIND {
            return refuse!(Malformed, "expected a {}, found a {}", T::KIND, header.kind);
        }
        if header.spec_version != "1" && !header.spec_version.starts_with("1.") {
            return refuse!(VersionUnknown, "version {} of TUF is not known", header.spec_version);
        }
        if header.version == 0 {
            return refuse!(Malformed, "{} has version 0, versions start at 1", T::KIND);
        }
        body.check().map_err(|e| malformed(&e))?;
        Ok(body)
    }
}

/// A role's own part.
pub(super) trait Body: DeserializeOwned {
    const KIND: &'static str;

    #[expect(private_interfaces, reason = "only read here")]
    fn header(&self) -> &Header;

    /// What the types alone do not say.
    fn check(&self) -> Result<(), String>;
}

impl Role {
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        let distinct: BTreeSet<_> = self.keyids.iter().collect();
        if distinct.len() != self.keyids.len() {
            return Err(format!("the role {name} lists a key id twice"));
        }
        if self.threshold == 0 {
            return Err(format!("the role {name} asks for no signature"));
        }
        Ok(())
    }

    /// The keys that may sign.
    pub(super) fn keys(&self, keys: &Keys) -> BTreeSet<Key> {
        self.keyids.iter().filter_map(|id| Some(keys.get(id)?.key())).collect()
    }
}

impl Root {
    /// A top-level role; all four are there.
    pub(super) fn role(&self, name: &str) -> Result<&Role, Refusal> {
        match self.roles.get(name) {
            Some(role) => Ok(role),
            None => refuse!(Malformed, "root has no role {name}"),
        }
    }
}

impl Pin {
    fn check_shape(&self) -> Result<(), String> {
        self.hashes.as_ref().map_or(Ok(()), Hashes::check_shape)
    }

    pub(super) fn check(&self, what: &str, bytes: &[u8]) -> Result<(), Refusal> {
        if let Some(length) = self.length {
            check_length(what, bytes, length)?;
        }
        self.hashes.as_ref().map_or(Ok(()), |hashes| hashes.check(what, bytes))
    }
}

impl Target {
    fn check_shape(&self) -> Result<(), String> {
        self.hashes.check_shape()
    }

    pub(super) fn check(&self, what: &str, bytes: &[u8]) -> Result<(), Refusal> {
        check_length(what, bytes, self.length)?;
        self.hashes.check(what, bytes)
    }
}

impl Hashes {
    fn check_shape(&self) -> Result<(), String> {
        if self.0.is_empty() {
            return Err("an empty list of hashes".to_owned());
        }
        Ok(())
    }

    /// One digest of an algorithm that is known, for the names of files.
    pub(super) fn known(&self) -> Option<&str> {
        let known = ["sha256", "sha512"].iter().find_map(|name| self.0.get(*name));
        known.map(String::as_str)
    }

    /// Every digest of a known algorithm must match, and there must be one.
    fn check(&self, what: &str, bytes: &[u8]) -> Result<(), Refusal> {
        if self.known().is_none() {
            return refuse!(ContentMismatch, "{what} is listed with no known hash");
        }
        for (name, listed) in &self.0 {
            let found = match name.as_str() {
                "sha256" => hex::encode(Sha256::digest(bytes)),
                "sha512" => hex::encode(Sha512::digest(bytes)),
                _ => continue,
            };
            if found != *listed {
                return refuse!(ContentMismatch, "{what} has the {name} {found}, listed is another");
            }
        }
        Ok(())
    }
}

fn check_length(what: &str, bytes: &[u8], length: u64) -> Result<(), Refusal> {
    if bytes.len() as u64 != length {
        return refuse!(ContentMismatch, "{what} has {} bytes, {length} are listed", bytes.len());
    }
    Ok(())
}

/// An ISO 8601 time as seconds since the epoch.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let time: jiff::Timestamp = String::deserialize(deserializer)?.parse().map_err(D::Error::custom)?;
    u64::try_from(time.as_second()).map_err(D::Error::custom)
}

fn malformed(why: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Code::Malformed, why.to_string())
}

macro_rules! roles {
    ($($role:ty = $kind:literal, $check:expr;)*) => {$(
        impl Body for $role {
            const KIND: &'static str = $kind;

            #[expect(private_interfaces, reason = "only read here")]
            fn header(&self) -> &Header {
                &self.header
            }

            fn check(&self) -> Result<(), String> {
                $check(self)
            }
        }

        impl Meta for $role {
            fn version(&self) -> u64 {
                self.header.version
            }

            fn expires(&self) -> u64 {
                self.header.expires
            }

            fn issued(&self) -> Option<u64> {
                None
            }
        }
    )*};
}

roles! {
    Root = "root", |root: &Root| {
        if !root.roles.keys().map(String::as_str).eq(["root", "snapshot", "targets", "timestamp"]) {
            return Err("root has other roles than the four".to_owned());
        }
        root.roles.iter().try_for_each(|(name, role)| role.check(name))
    };
    Timestamp = "timestamp", |timestamp: &Timestamp| timestamp.meta.snapshot.check_shape();
    Snapshot = "snapshot", |snapshot: &Snapshot| {
        let wrong = snapshot.meta.keys().find(|name| name.strip_suffix(".json").is_none());
        wrong.map_or(Ok(()), |name| Err(format!("the snapshot lists {name}")))?;
        snapshot.meta.values().try_for_each(Pin::check_shape)
    };
    Targets = "targets", |targets: &Targets| {
        targets.files.values().try_for_each(Target::check_shape)?;
        targets.delegations.as_ref().map_or(Ok(()), Delegations::check)
    };
}
