//! The fleet's metadata: roots and targets that people sign, snapshot and timestamp that this controller signs by itself.
//!
//! Before anything is published it goes through the machine that every client runs, so what clients would refuse never leaves here.

use std::collections::BTreeMap;

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement;
use ensign_bundle::trust::ensign::{DocName, Ensign, ReleaseName};
use ensign_bundle::trust::format::At;
use ensign_bundle::trust::machine::Machine;
use ensign_bundle::trust::profile::Strict;
use ensign_bundle::trust::roles::{FORMAT, Listed, ListedRelease, Release, Root, Snapshot, Targets, Timestamp};
use ensign_bundle::{codec::Ext, limits};
use ensign_crypto::PublicKey;

use super::rows::{ReleaseRow, RoleRow, key};
use super::state::{OnlineKeys, State};
use crate::config::Config;

/// Part of its life after which a role is renewed: two renewals may fail before anything expires.
const RENEW_AT: u64 = 3;

/// The client's machine over what this controller serves, and where the bytes are.
#[derive(Debug)]
pub struct Roles {
    pub machine: Machine<Ensign, Strict>,
    pub roots: BTreeMap<u64, RoleRow>,
    pub targets: RoleRow,
    pub snapshot: RoleRow,
    pub timestamp: RoleRow,
}

/// What a publication brings.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub root: Option<Vec<u8>>,
    pub targets: Option<Vec<u8>>,
    pub release: Option<(ReleaseRow, Vec<u8>)>,
}

impl Roles {
    /// The newest root.
    pub fn root(&self) -> &Root {
        &self.machine.root().body
    }

    /// The current targets.
    pub fn targets(&self) -> Result<&Targets, Refusal> {
        match self.machine.targets() {
            Some(held) => Ok(&held.body),
            None => refuse!(MetadataMissing, "there are no valid targets: publish new ones"),
        }
    }

    /// Whether the key stands in any role.
    pub fn names_key(&self, key: &PublicKey) -> bool {
        self.root().role_of(key).is_some()
            || self
                .machine
                .targets()
                .is_some_and(|t| t.body.products.iter().any(|p| p.role.keys.contains(key)))
    }

    /// When the next role is due, seconds since the epoch.
    pub fn renew_at(&self) -> u64 {
        due(&self.snapshot).min(due(&self.timestamp))
    }
}

impl State {
    /// Takes the next root, signed by thresholds of its own keys and of the one before.
    pub fn publish_root(&mut self, envelope: Vec<u8>) -> Result<(), Refusal> {
        if self.roles.machine.root().bytes == envelope {
            return Ok(());
        }
        self.publish(&Draft {
            root: Some(envelope),
            ..Draft::default()
        })
    }

    /// Takes the next targets.
    pub fn publish_targets(&mut self, envelope: Vec<u8>) -> Result<(), Refusal> {
        if self.roles.machine.targets().is_some_and(|held| held.bytes == envelope) {
            return Ok(());
        }
        self.publish(&Draft {
            targets: Some(envelope),
            ..Draft::default()
        })
    }

    /// Signs what is due. Returns when to come again.
    pub(super) fn renew(&mut self) -> Result<u64, Refusal> {
        if self.now >= due(&self.roles.snapshot) {
            self.publish(&Draft::default())?;
        } else if self.now >= due(&self.roles.timestamp) {
            self.publish_timestamp()?;
        }
        Ok(self.roles.renew_at())
    }

    /// Tries the new documents on a copy of the clients' machine, then stores them and writes their rows.
    pub(super) fn publish(&mut self, draft: &Draft) -> Result<(), Refusal> {
        let parts = self.parts.clone();
        let at = At::plain(self.now);
        let mut machine = self.roles.machine.clone();
        if let Some(root) = &draft.root {
            machine.update_root(root, &at)?;
        }
        let old_targets = self.document(&self.roles.targets.digest)?;
        let targets = draft.targets.as_ref().unwrap_or(&old_targets);
        let listed_targets = {
            let role = &machine.root().body.roles.targets;
            let signed = statement::open::<Targets>(targets, &role.keys, role.threshold, &self.fleet.fleet)?;
            if signed.body.version < self.roles.targets.version {
                return refuse!(
                    RollbackRefused,
                    "targets version {} is older than {}",
                    signed.body.version,
                    self.roles.targets.version
                );
            }
            if draft.targets.is_some() && signed.body.version == self.roles.targets.version {
                return refuse!(
                    AlreadyPublished,
                    "targets version {} is there with other bytes",
                    signed.body.version
                );
            }
            signed.body
        };
        let mut rows = self.releases.clone();
        if let Some((row, _)) = &draft.release {
            rows.insert((row.product.clone(), row.version.clone()), row.clone());
        }
        // Releases leave only when the product's `lowest` says so (`may_leave` of the profile).
        rows.retain(|_, row| {
            listed_targets
                .product(&row.product)
                .is_none_or(|p| row.counter >= p.lowest)
        });
        let online = Online {
            keys: &parts.keys,
            config: &parts.config,
            root: &machine.root().body,
            now: self.now,
        };
        let snapshot_version = online.next(self.roles.snapshot.version)?;
        let snapshot = online.snapshot(snapshot_version, listed(targets, listed_targets.version), &rows)?;
        let timestamp_version = online.next(self.roles.timestamp.version)?;
        let timestamp = online.timestamp(timestamp_version, listed(&snapshot, snapshot_version))?;
        machine.update_timestamp(&timestamp, &at)?;
        machine.update_snapshot(&snapshot, &at)?;
        machine.update_targets(targets, &at)?;
        self.check_releases(&mut machine, &rows, draft.release.as_ref(), &at)?;

        if let Some(root) = &draft.root {
            let body = &machine.root().body;
            let row = self.role_row(root, body.version, body.issued, body.expires, None)?;
            self.put(key::root(row.version), &row)?;
            tracing::info!(version = row.version, "a new root is published");
            self.roles.roots.insert(row.version, row);
        }
        if draft.targets.is_some() {
            let row = self.role_row(
                targets,
                listed_targets.version,
                listed_targets.issued,
                listed_targets.expires,
                None,
            )?;
            self.put(key::TARGETS.to_owned(), &row)?;
            tracing::info!(version = row.version, "new targets are published");
            self.roles.targets = row;
        }
        if let Some((row, envelope)) = &draft.release {
            self.keep_document(envelope)?;
            self.put(key::release(&row.product, &row.version), row)?;
        }
        let gone: Vec<_> = self
            .releases
            .keys()
            .filter(|k| !rows.contains_key(*k))
            .cloned()
            .collect();
        for (product, version) in gone {
            self.delete(key::release(&product, &version));
        }
        self.releases = rows;
        self.roles.machine = machine;
        self.keep_snapshot(&snapshot, snapshot_version)?;
        self.keep_timestamp(&timestamp, timestamp_version)
    }

    /// A new timestamp over the same snapshot.
    fn publish_timestamp(&mut self) -> Result<(), Refusal> {
        let parts = self.parts.clone();
        let online = Online {
            keys: &parts.keys,
            config: &parts.config,
            root: self.roles.root(),
            now: self.now,
        };
        let version = online.next(self.roles.timestamp.version)?;
        let snapshot = Listed {
            version: self.roles.snapshot.version,
            length: self.roles.snapshot.length,
            digest: self.roles.snapshot.digest,
        };
        let bytes = online.timestamp(version, snapshot)?;
        self.roles.machine.update_timestamp(&bytes, &At::plain(self.now))?;
        self.keep_timestamp(&bytes, version)
    }

    fn keep_snapshot(&mut self, bytes: &[u8], version: u64) -> Result<(), Refusal> {
        let life = self.parts.config.snapshot_life_s;
        let row = self.role_row(bytes, version, self.now, self.now + life, Some(&self.roles.snapshot))?;
        self.put(key::SNAPSHOT.to_owned(), &row)?;
        tracing::debug!(version, "a snapshot was signed");
        self.roles.snapshot = row;
        Ok(())
    }

    fn keep_timestamp(&mut self, bytes: &[u8], version: u64) -> Result<(), Refusal> {
        let life = timestamp_life(&self.parts.config, self.roles.root());
        let row = self.role_row(bytes, version, self.now, self.now + life, Some(&self.roles.timestamp))?;
        self.put(key::TIMESTAMP.to_owned(), &row)?;
        tracing::debug!(version, "a timestamp was signed");
        self.roles.timestamp = row;
        Ok(())
    }

    /// Stores the document; the one before `replaced` is not needed any more.
    fn role_row(
        &self,
        bytes: &[u8],
        version: u64,
        issued: u64,
        expires: u64,
        replaced: Option<&RoleRow>,
    ) -> Result<RoleRow, Refusal> {
        if let Some(oldest) = replaced.and_then(|row| row.previous) {
            self.parts.documents.remove(oldest)?;
        }
        Ok(RoleRow {
            version,
            digest: self.keep_document(bytes)?,
            length: bytes.len() as u64,
            issued,
            expires,
            previous: replaced.map(|row| row.digest),
        })
    }

    /// Every listed release document must be good under the new targets: an old one that no longer is refuses them.
    fn check_releases(
        &self,
        machine: &mut Machine<Ensign, Strict>,
        rows: &BTreeMap<(ensign_bundle::ids::Ident, ensign_bundle::ids::Version), ReleaseRow>,
        new: Option<&(ReleaseRow, Vec<u8>)>,
        at: &At,
    ) -> Result<(), Refusal> {
        for row in rows.values() {
            let name = DocName::Release(ReleaseName {
                product: row.product.clone(),
                version: row.version.clone(),
            });
            if let Some((_, envelope)) = new.filter(|(r, _)| r.document.digest == row.document.digest) {
                machine.update_delegated(&name, envelope, at)?;
            } else if !machine.delegated().contains_key(&name) && row.document.expires > at.now {
                let bytes = self.document(&row.document.digest)?;
                machine.update_delegated(&name, &bytes, at).map_err(|refusal| {
                    Refusal::new(
                        Code::Conflict,
                        format!("{name} would no longer be valid ({}): {}", refusal.code, refusal.text),
                    )
                })?;
            }
        }
        Ok(())
    }
}

/// Everything needed to sign as the online roles.
#[derive(Debug)]
pub struct Online<'a> {
    pub keys: &'a OnlineKeys,
    pub config: &'a Config,
    pub root: &'a Root,
    pub now: u64,
}

impl Online<'_> {
    /// Greater than the last, and never behind the clock: a restored ledger does not re-use numbers.
    pub fn next(&self, last: u64) -> Result<u64, Refusal> {
        match last.checked_add(1) {
            Some(next) => Ok(next.max(self.now)),
            None => refuse!(LimitExceeded, "no version follows {last}"),
        }
    }

    pub fn snapshot(
        &self,
        version: u64,
        targets: Listed,
        releases: &BTreeMap<(ensign_bundle::ids::Ident, ensign_bundle::ids::Version), ReleaseRow>,
    ) -> Result<Vec<u8>, Refusal> {
        let body = Snapshot {
            format: FORMAT,
            version,
            issued: self.now,
            expires: self.now + self.config.snapshot_life_s,
            targets,
            releases: releases.values().map(listed_release).collect(),
            ext: Ext::default(),
        };
        statement::sign(&body, &[&self.keys.snapshot], &self.root.fleet)
    }

    pub fn timestamp(&self, version: u64, snapshot: Listed) -> Result<Vec<u8>, Refusal> {
        let body = Timestamp {
            format: FORMAT,
            version,
            issued: self.now,
            expires: self.now + timestamp_life(self.config, self.root),
            snapshot,
            ext: Ext::default(),
        };
        statement::sign(&body, &[&self.keys.timestamp], &self.root.fleet)
    }
}

/// An envelope as snapshot and timestamp list it.
pub fn listed(envelope: &[u8], version: u64) -> Listed {
    Listed {
        version,
        length: envelope.len() as u64,
        digest: Digest::of(envelope),
    }
}

pub fn timestamp_life(config: &Config, root: &Root) -> u64 {
    let most = root.policy.timestamp_life_s.unwrap_or(limits::TIMESTAMP_LIFE_S);
    config.timestamp_life_s.min(most)
}

fn listed_release(row: &ReleaseRow) -> ListedRelease {
    ListedRelease {
        product: row.product.clone(),
        release: row.version.clone(),
        counter: row.counter,
        document: Listed {
            version: row.document.version,
            length: row.document.length,
            digest: row.document.digest,
        },
    }
}

fn due(row: &RoleRow) -> u64 {
    row.issued + row.expires.saturating_sub(row.issued) / RENEW_AT
}

/// The row of a verified release document.
pub(super) fn release_document(release: &Release, envelope: &[u8]) -> RoleRow {
    RoleRow {
        version: release.version,
        digest: Digest::of(envelope),
        length: envelope.len() as u64,
        issued: release.issued,
        expires: release.expires,
        previous: None,
    }
}
