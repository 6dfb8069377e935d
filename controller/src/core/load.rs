//! From the ledger's rows back to state: what a start does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::ensign::{DocName, Ensign, ReleaseName};
use ensign_bundle::trust::format::At;
use ensign_bundle::trust::machine::{Machine, Stored};
use ensign_bundle::trust::profile::Strict;
use ensign_rollout::DeviceState;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::metadata::{Roles, controller_since};
use super::rollouts::Rollouts;
use super::rows::{ApiTokenRow, DeviceRow, FleetRow, ReleaseRow, RoleRow, TokenRow, key};
use super::sessions::Sessions;
use super::state::{Parts, State, read_document};
use crate::clock;
use crate::config::Config;
use crate::keys::{self, Keys};
use crate::paths::Paths;
use crate::store::blobs::BlobStore;
use crate::store::ledger::{Change, Expect, Ledger, Typed as _};

/// State as the ledger has it. The start is counted in the ledger before anything is served.
pub fn load(
    ledger: &dyn Ledger,
    documents: Arc<dyn BlobStore>,
    blobs: Arc<dyn BlobStore>,
    paths: &Paths,
    config: Config,
) -> Result<State, Refusal> {
    let Some(fleet) = ledger.read_as::<FleetRow>(key::FLEET)? else {
        return refuse!(
            NotFound,
            "{} holds no fleet yet: start with --kit once",
            paths.data().display()
        );
    };
    let mut fleet = fleet.value;
    fleet.starts += 1;
    ledger.commit(vec![Change::put(key::FLEET, &fleet, Expect::Any)?])?;
    let now = clock::unix_now();
    let releases: BTreeMap<_, _> = rows::<ReleaseRow>(ledger, key::RELEASES)?
        .into_iter()
        .map(|(_, row)| ((row.product.clone(), row.version.clone()), row))
        .collect();
    let roles = roles(ledger, documents.as_ref(), &fleet, &releases, now)?;
    let devices: BTreeMap<_, _> = rows::<DeviceRow>(ledger, key::DEVICES)?
        .into_iter()
        .map(|(_, row)| (row.id, row))
        .collect();
    let living = devices.values().filter(|d| d.state != DeviceState::Revoked);
    let names = living.map(|d| (d.name.clone(), d.id)).collect();
    let later = |d: &DeviceRow| d.later_keys().map(|key| key.id()).collect::<Vec<_>>();
    let rotated = devices
        .values()
        .flat_map(|d| later(d).into_iter().map(|key| (key, d.id)))
        .collect();
    let next = devices.values().filter_map(|d| d.next.map(|next| next.key));
    let used_keys = devices
        .values()
        .flat_map(|d| [d.key, d.receipt_key])
        .chain(next)
        .collect();
    let tokens = rows::<TokenRow>(ledger, key::TOKENS)?;
    let mut api_tokens = BTreeMap::new();
    for (name, row) in rows::<ApiTokenRow>(ledger, key::API_TOKENS)? {
        let hash = name.trim_start_matches(key::API_TOKENS).parse::<Digest>();
        api_tokens.insert(hash.map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?, row);
    }
    keys::settle(paths, roles.root())?;
    let keys = Keys::open(paths)?;
    let rollouts = Rollouts::load(ledger, documents.as_ref(), &config, fleet.starts, &devices)?;
    let parts = Arc::new(Parts {
        config,
        keys,
        named: watch::Sender::new(roles.root().controller.clone()),
        documents,
        blobs,
        data: paths.data().to_owned(),
        bytes_sent: AtomicU64::new(0),
    });
    let mut state = State {
        parts,
        now,
        synchronised: clock::synchronised(),
        fleet,
        roles,
        releases,
        tokens: tokens.into_iter().map(|(_, row)| (row.key, row)).collect(),
        devices,
        names,
        used_keys,
        rotated,
        api_tokens,
        rollouts,
        sessions: Sessions::default(),
        commits: 0,
        changes: BTreeMap::new(),
        seen: BTreeSet::new(),
    };
    state.rollouts_started();
    Ok(state)
}

fn roles(
    ledger: &dyn Ledger,
    documents: &dyn BlobStore,
    fleet: &FleetRow,
    releases: &BTreeMap<(ensign_bundle::ids::Ident, ensign_bundle::ids::Version), ReleaseRow>,
    now: u64,
) -> Result<Roles, Refusal> {
    let mut roots = BTreeMap::new();
    for (_, row) in rows::<RoleRow>(ledger, key::ROOTS)? {
        roots.insert(row.version, row);
    }
    let role = |key: &str| match ledger.read_as::<RoleRow>(key)? {
        Some(stored) => Ok(stored.value),
        None => refuse!(Malformed, "the ledger has no row `{key}`"),
    };
    let (targets, snapshot, timestamp) = (role(key::TARGETS)?, role(key::SNAPSHOT)?, role(key::TIMESTAMP)?);
    let Some(newest) = roots.values().next_back() else {
        return refuse!(Malformed, "the ledger has no root");
    };
    let mut stored = Stored {
        root: read_document(documents, &newest.digest).map_err(|e| needed("the newest root", &e))?,
        timestamp: own(documents, "timestamp", &timestamp.digest),
        snapshot: own(documents, "snapshot", &snapshot.digest),
        targets: Some(read_document(documents, &targets.digest).map_err(|e| needed("targets", &e))?),
        delegated: BTreeMap::new(),
    };
    for row in releases.values() {
        let name = DocName::Release(ReleaseName {
            product: row.product.clone(),
            version: row.version.clone(),
        });
        match read_document(documents, &row.document.digest) {
            Ok(bytes) => {
                stored.delegated.insert(name, bytes);
            }
            // Nobody can install it until it is there again; everything else goes on.
            Err(refusal) => {
                tracing::error!(%name, code = %refusal.code, error = %refusal.text, "a release's document cannot be read: publish it again");
            }
        }
    }
    let machine = Machine::load(Ensign { fleet: fleet.fleet }, Strict, stored)?;
    // Expired roles are renewed or re-signed later; they must not keep the controller from starting.
    if let Err(refusal) = machine.check_fresh(&At::plain(now)) {
        tracing::warn!(code = %refusal.code, text = %refusal.text, "the fleet's metadata needs attention");
    }
    // For people alone: a root that cannot be read must not keep the controller from starting.
    let controller_since = controller_since(documents, &roots).unwrap_or_else(|refusal| {
        tracing::error!(code = %refusal.code, error = %refusal.text, "an earlier root cannot be read");
        1
    });
    Ok(Roles {
        machine,
        roots,
        controller_since,
        targets,
        snapshot,
        timestamp,
    })
}

/// A document that this controller signs by itself: without it a new one is signed.
fn own(documents: &dyn BlobStore, role: &str, digest: &Digest) -> Option<Vec<u8>> {
    read_document(documents, digest)
        .inspect_err(|refusal| {
            tracing::warn!(role, code = %refusal.code, error = %refusal.text, "cannot be read; a new one is signed");
        })
        .ok()
}

/// A document that people sign, and without which nothing can be served.
fn needed(what: &str, refusal: &Refusal) -> Refusal {
    // What the store advises for blobs helps here nothing.
    let cause = refusal.text.split(';').next().unwrap_or_default();
    let text = format!("{what} cannot be read ({cause}): put back metadata/ from a backup");
    Refusal::new(Code::ContentMismatch, text)
}

/// Every row under a prefix.
pub(super) fn rows<T: DeserializeOwned>(ledger: &dyn Ledger, prefix: &str) -> Result<Vec<(String, T)>, Refusal> {
    let rows = ledger.scan_as::<T>(prefix)?;
    Ok(rows.into_iter().map(|(key, stored)| (key, stored.value)).collect())
}
