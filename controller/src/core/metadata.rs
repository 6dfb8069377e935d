//! The fleet's metadata: roots and targets that people sign, snapshot and timestamp that this controller signs by itself.
//!
//! Before anything is published it goes through the machine that every client runs, so what clients would refuse never leaves here.

use std::collections::BTreeMap;

use ensign_bundle::accept::check_manifest;
use ensign_bundle::digest::Digest;
use ensign_bundle::manifest::Manifest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement;
use ensign_bundle::trust::ensign::{DocName, Ensign, ReleaseName};
use ensign_bundle::trust::format::At;
use ensign_bundle::trust::machine::{Held, Machine};
use ensign_bundle::trust::profile::Strict;
use ensign_bundle::trust::roles::{Listed, Release, Root, Targets};

use super::online::{Online, due, listed, release_document, timestamp_life};
use super::rows::{ReleaseRow, RoleRow, key};
use super::state::{State, read_document};
use crate::store::blobs::BlobStore;

/// The client's machine over what this controller serves, and where the bytes are.
#[derive(Debug)]
pub struct Roles {
    pub machine: Machine<Ensign, Strict>,
    pub roots: BTreeMap<u64, RoleRow>,
    /// The first of the newest roots without a gap that names the newest TLS key of the controller.
    pub controller_since: u64,
    pub targets: RoleRow,
    pub snapshot: RoleRow,
    pub timestamp: RoleRow,
}

/// What a publication brings.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub root: Option<Vec<u8>>,
    pub targets: Option<Vec<u8>>,
    pub releases: Vec<(ReleaseRow, Vec<u8>)>,
}

/// The first of the newest roots without a gap that names the TLS key which the newest root names last: whoever holds it, or one of those
/// after it, takes that key.
pub(super) fn controller_since(documents: &dyn BlobStore, roots: &BTreeMap<u64, RoleRow>) -> Result<u64, Refusal> {
    let mut since = (0, None);
    for (version, row) in roots.iter().rev() {
        let bytes = read_document(documents, &row.digest)?;
        let keys = statement::open_unverified::<Root>(&bytes)?.body.controller.keys;
        let newest = since.1.or_else(|| keys.last().copied());
        if !newest.is_some_and(|key| keys.contains(&key)) {
            break;
        }
        since = (*version, newest);
    }
    Ok(since.0)
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

    /// When the next role is due, seconds since the epoch.
    pub fn renew_at(&self) -> u64 {
        if self.machine.snapshot().is_none() || self.machine.timestamp().is_none() {
            return 0;
        }
        due(&self.snapshot).min(due(&self.timestamp))
    }
}

impl State {
    /// Digests of the roots that follow the one with this digest, oldest first; `None` = no root of this fleet has it.
    pub fn roots_after(&self, held: &Digest, most: usize) -> Option<Vec<Digest>> {
        let roots = &self.roles.roots;
        let (version, _) = roots.iter().find(|(_, row)| row.digest == *held)?;
        let after = roots.range(version.saturating_add(1)..).take(most);
        Some(after.map(|(_, row)| row.digest).collect())
    }

    /// Takes the next root, signed by thresholds of its own keys and of the one before, with the next targets where those in force are not
    /// valid under it. A root that this controller holds no keys for is refused: nobody could serve it.
    pub fn publish_root(&mut self, envelope: Vec<u8>, targets: Option<Vec<u8>>) -> Result<(), Refusal> {
        if self.roles.machine.root().bytes == envelope {
            return Ok(());
        }
        self.publish(&Draft {
            root: Some(envelope),
            targets,
            ..Draft::default()
        })
    }

    /// Takes the next targets, together with the next versions of release documents that would not be valid under them.
    pub fn publish_targets(&mut self, envelope: Vec<u8>, renewed: Vec<Vec<u8>>) -> Result<(), Refusal> {
        if self.roles.machine.targets().is_some_and(|held| held.bytes == envelope) {
            return Ok(());
        }
        let releases = renewed
            .into_iter()
            .map(|envelope| Ok((self.renewed_row(&envelope)?, envelope)))
            .collect::<Result<_, Refusal>>()?;
        self.publish(&Draft {
            targets: Some(envelope),
            releases,
            ..Draft::default()
        })
    }

    /// The row of the next version of a published document. Its signatures are counted with the others, under the new targets.
    fn renewed_row(&self, envelope: &[u8]) -> Result<ReleaseRow, Refusal> {
        let release = statement::open_unverified::<Release>(envelope)?.body;
        let known = self.release(&release.product, &release.release)?;
        if known.manifest != release.manifest.digest || known.counter != release.counter {
            return refuse!(
                AlreadyPublished,
                "{}@{} is published with manifest {}, not {}",
                release.product,
                release.release,
                known.manifest,
                release.manifest.digest
            );
        }
        Ok(ReleaseRow {
            document: release_document(&release, envelope),
            yanked: release.yanked,
            ..known.clone()
        })
    }

    /// Signs what is due. Returns when to come again.
    pub(super) fn renew(&mut self) -> Result<u64, Refusal> {
        let machine = &self.roles.machine;
        let lost = (machine.snapshot().is_none(), machine.timestamp().is_none());
        if lost.0 || self.now >= due(&self.roles.snapshot) {
            self.publish(&Draft::default())?;
        } else if lost.1 || self.now >= due(&self.roles.timestamp) {
            self.publish_timestamp()?;
        }
        Ok(self.roles.renew_at())
    }

    /// Tries the new documents on a copy of the clients' machine, then stores them and writes their rows.
    pub(super) fn publish(&mut self, draft: &Draft) -> Result<(), Refusal> {
        let parts = self.parts.clone();
        let at = At::client(self.now);
        let mut machine = self.roles.machine.clone();
        if let Some(root) = &draft.root {
            machine.update_root(root, &at)?;
            parts.keys.check(&machine.root().body)?;
        }
        // Where the keys of an online role changed, everybody forgets its versions (TUF 5.3.11): also one that a thief took to the end.
        let held = &self.roles.machine;
        let timestamp_before = after_rotation(
            held.timestamp().is_some(),
            machine.timestamp().is_some(),
            self.roles.timestamp.version,
        );
        let snapshot_before = after_rotation(
            held.snapshot().is_some(),
            machine.snapshot().is_some(),
            self.roles.snapshot.version,
        );
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
        // What people sign tells the time too.
        let signed = draft.releases.iter().map(|(row, _)| row.document.issued);
        let signed = signed.fold(listed_targets.issued.max(machine.root().body.issued), u64::max);
        if let Some(doubt) = self.clock_doubt(signed) {
            return Err(doubt);
        }
        let mut rows = self.releases.clone();
        for (row, _) in &draft.releases {
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
        let snapshot_version = online.next(snapshot_before)?;
        let snapshot = online.snapshot(snapshot_version, listed(targets, listed_targets.version), &rows)?;
        let timestamp_version = online.next(timestamp_before)?;
        let timestamp = online.timestamp(timestamp_version, listed(&snapshot, snapshot_version))?;
        machine.update_timestamp(&timestamp, &at)?;
        machine.update_snapshot(&snapshot, &at)?;
        machine.update_targets(targets, &at)?;
        self.check_releases(&mut machine, &rows, &draft.releases, &at)?;
        if draft.targets.is_some() {
            self.check_bounds(&machine, &rows)?;
        }

        if let Some(root) = &draft.root {
            let body = &machine.root().body;
            let row = self.role_row(root, body.version, body.issued, body.expires, None)?;
            self.put(key::root(row.version), &row)?;
            tracing::info!(version = row.version, "a new root is published");
            self.roles.roots.insert(row.version, row);
            self.roles.controller_since = controller_since(parts.documents.as_ref(), &self.roles.roots)?;
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
        for (row, envelope) in &draft.releases {
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
        self.keep_timestamp(&timestamp, timestamp_version)?;
        if draft.root.is_some() {
            parts.named.send_replace(self.roles.root().controller.clone());
        }
        Ok(())
    }

    /// A new timestamp over the same snapshot.
    fn publish_timestamp(&mut self) -> Result<(), Refusal> {
        if let Some(doubt) = self.clock_doubt(0) {
            return Err(doubt);
        }
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
        self.roles.machine.update_timestamp(&bytes, &At::client(self.now))?;
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
        // Everybody is told of what is current.
        self.sessions.touch_all();
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
        new: &[(ReleaseRow, Vec<u8>)],
        at: &At,
    ) -> Result<(), Refusal> {
        for row in rows.values() {
            let name = DocName::Release(ReleaseName {
                product: row.product.clone(),
                version: row.version.clone(),
            });
            if let Some((_, envelope)) = new.iter().find(|(r, _)| r.document.digest == row.document.digest) {
                machine.update_delegated(&name, envelope, at)?;
            } else if !machine.delegated().contains_key(&name) && row.document.expires > at.now {
                let bytes = match self.document(&row.document.digest) {
                    Ok(bytes) => bytes,
                    // Damaged on disk: nobody can get it, and the others are not kept from what is new.
                    Err(refusal) => {
                        tracing::error!(%name, code = %refusal.code, error = %refusal.text, "not checked");
                        continue;
                    }
                };
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

    /// No published release has a component, kind, handler or unit that the new targets do not let its product have.
    fn check_bounds(
        &self,
        machine: &Machine<Ensign, Strict>,
        rows: &BTreeMap<(ensign_bundle::ids::Ident, ensign_bundle::ids::Version), ReleaseRow>,
    ) -> Result<(), Refusal> {
        let (old, new) = (self.roles.machine.targets(), machine.targets());
        for row in rows.values() {
            let name = DocName::Release(ReleaseName {
                product: row.product.clone(),
                version: row.version.clone(),
            });
            let entry =
                |targets: Option<&'_ Held<Targets>>| targets.and_then(|t| t.body.product(&row.product).cloned());
            let (Some(bounds), Some(release)) = (entry(new), machine.delegated().get(&name)) else {
                continue;
            };
            let same = entry(old).is_some_and(|old| {
                (&old.components, &old.kinds, &old.handlers, &old.units)
                    == (&bounds.components, &bounds.kinds, &bounds.handlers, &bounds.units)
            });
            if same {
                continue;
            }
            let manifest = Manifest::parse(&read_document(self.parts.blobs.as_ref(), &row.manifest)?)?;
            check_manifest(&release.body, &bounds, &manifest).map_err(|refusal| {
                Refusal::new(
                    Code::Conflict,
                    format!("{name} would no longer be valid ({}): {}", refusal.code, refusal.text),
                )
            })?;
        }
        Ok(())
    }
}

/// The version that the next one follows: none where the new root made everybody forget what was held.
fn after_rotation(held: bool, holds: bool, version: u64) -> u64 {
    if held && !holds { 0 } else { version }
}
