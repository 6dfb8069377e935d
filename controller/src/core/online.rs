//! The roles that the controller signs by itself: snapshot and timestamp.

use std::collections::BTreeMap;

use ensign_bundle::codec::Ext;
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::limits;
use ensign_bundle::reason::Refusal;
use ensign_bundle::refuse;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::{FORMAT, Listed, ListedRelease, Release, Root, Snapshot, Timestamp};

use super::rows::{ReleaseRow, RoleRow};
use crate::config::Config;
use crate::keys::Keys;

/// Part of its life after which a role is renewed: two renewals may fail before anything expires.
const RENEW_AT: u64 = 3;

/// Everything needed to sign as the online roles.
#[derive(Debug)]
pub struct Online<'a> {
    pub keys: &'a Keys,
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
        releases: &BTreeMap<(Ident, Version), ReleaseRow>,
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
        let keys = self.keys.of_role("snapshot", &self.root.roles.snapshot)?;
        statement::sign(&body, &keys.iter().collect::<Vec<_>>(), &self.root.fleet)
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
        let keys = self.keys.of_role("timestamp", &self.root.roles.timestamp)?;
        statement::sign(&body, &keys.iter().collect::<Vec<_>>(), &self.root.fleet)
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

/// When the role is to be renewed, seconds since the epoch.
pub(super) fn due(row: &RoleRow) -> u64 {
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
