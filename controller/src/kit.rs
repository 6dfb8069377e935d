//! The kit that `ensign fleet init` makes: read once, written to the ledger, then stripped of its private keys.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::text::printable;
use ensign_bundle::trust::ensign::Ensign;
use ensign_bundle::trust::format::At;
use ensign_bundle::trust::machine::Machine;
use ensign_bundle::trust::profile::Strict;
use ensign_crypto::SecretKey;
use nix::fcntl::OFlag;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::core::rows::{ApiTokenRow, FleetRow, RoleRow, key};
use crate::core::{Online, listed};
use crate::durable;
use crate::keys::Keys;
use crate::paths::{KEYS, Paths};
use crate::roles::Role;
use crate::store::blobs::BlobStore;
use crate::store::ledger::{Change, Expect, Ledger, LedgerError, Typed as _};

/// Version of the kit's format.
const FORMAT: u16 = 1;
/// Names the data folder that took the keys of a kit.
const USED: &str = "used-by";
/// Largest file of a kit, bytes.
const FILE_BYTES: u64 = 2 << 20;

/// `kit.json`.
#[derive(Debug, Deserialize)]
struct Kit {
    format: u16,
    fleet: FleetId,
    name: String,
    /// `HOST:PORT`.
    address: String,
    /// Of the envelope of root 1.
    root_hash: Digest,
    api_tokens: Vec<KitToken>,
}

#[derive(Debug, Deserialize)]
struct KitToken {
    name: String,
    role: Role,
    sha256: Digest,
}

/// Imports the kit in `folder` unless this ledger has its fleet already; another fleet's is refused. The private keys in the kit are
/// removed once everything is durable, also those that an interrupted import left.
pub fn import(
    folder: &Path,
    paths: &Paths,
    ledger: &dyn Ledger,
    documents: &dyn BlobStore,
    config: &crate::config::Config,
    now: u64,
) -> Result<(), Refusal> {
    let kit: Kit = serde_json::from_slice(&read(&folder.join("kit.json"))?)
        .map_err(|e| Refusal::new(Code::Malformed, format!("{}/kit.json: {e}", folder.display())))?;
    if kit.format != FORMAT {
        return refuse!(
            VersionUnknown,
            "the kit has format {}, this program knows {FORMAT}",
            kit.format
        );
    }
    if let Some(known) = ledger.read_as::<FleetRow>(key::FLEET)? {
        if known.value.fleet != kit.fleet {
            return refuse!(
                Conflict,
                "{} belongs to fleet {} ({}), the kit to {} ({})",
                paths.data().display(),
                known.value.name,
                known.value.fleet,
                kit.name,
                kit.fleet
            );
        }
        return strip(folder, paths);
    }
    let changes = prepare(&kit, folder, paths, documents, config, now)?;
    ledger.commit(changes)?;
    tracing::info!(fleet = %kit.name, id = %kit.fleet, "the kit is imported");
    strip(folder, paths)
}

/// Where the keys of a kit that has served are, as far as it says.
fn used_by(folder: &Path) -> String {
    let Ok(data) = read(&folder.join(USED)) else {
        return String::new();
    };
    let data = printable(String::from_utf8_lossy(&data).trim(), 300);
    format!("; this kit was used by {data}: start with `--data {data}`")
}

/// Stores keys and documents, and returns the rows that make them count.
fn prepare(
    kit: &Kit,
    folder: &Path,
    paths: &Paths,
    documents: &dyn BlobStore,
    config: &crate::config::Config,
    now: u64,
) -> Result<Vec<Change>, Refusal> {
    let root = read(&folder.join("root.cbor"))?;
    let targets = read(&folder.join("targets.cbor"))?;
    if Digest::of(&root) != kit.root_hash {
        return refuse!(
            ContentMismatch,
            "root.cbor has digest {}, kit.json names {}",
            Digest::of(&root),
            kit.root_hash
        );
    }
    let mut machine = Machine::new(Ensign { fleet: kit.fleet }, Strict, &root)?;
    let keys = folder.join("keys");
    if !KEYS.iter().any(|name| keys.join(name).exists()) {
        return refuse!(
            KitUsed,
            "{} was imported before, its private keys are gone; {} holds no fleet{}",
            folder.display(),
            paths.data().display(),
            used_by(folder)
        );
    }
    let online = Keys::of(vec![
        secret(&keys.join("timestamp.pem"))?,
        secret(&keys.join("snapshot.pem"))?,
    ]);
    let controller = secret(&keys.join("controller.pem"))?;
    let body = machine.root().body.clone();
    if body.version != 1 {
        return refuse!(Malformed, "root.cbor has version {}, a kit begins with 1", body.version);
    }
    if !body.controller.keys.contains(&controller.public().id()) {
        return refuse!(
            KeysRefused,
            "root does not name the kit's controller key {}",
            controller.public().id()
        );
    }
    let signer = Online {
        keys: &online,
        config,
        root: &body,
        now,
    };
    let version = signer.next(0)?;
    let targets_body = ensign_bundle::statement::open::<ensign_bundle::trust::roles::Targets>(
        &targets,
        &body.roles.targets.keys,
        body.roles.targets.threshold,
        &kit.fleet,
    )?
    .body;
    let snapshot = signer.snapshot(
        version,
        listed(&targets, targets_body.version),
        &std::collections::BTreeMap::new(),
    )?;
    let timestamp = signer.timestamp(version, listed(&snapshot, version))?;
    // What devices would refuse must not become a fleet.
    let at = At::client(now);
    machine.update_timestamp(&timestamp, &at)?;
    machine.update_snapshot(&snapshot, &at)?;
    machine.update_targets(&targets, &at)?;
    machine.check_fresh(&at)?;

    for name in KEYS {
        let bytes = Zeroizing::new(read(&keys.join(name))?);
        durable::write_secret(&paths.key(name), &bytes).map_err(|e| failed(&paths.key(name), &e))?;
    }
    let bytes = read(&folder.join("https.crt"))?;
    durable::write(&paths.https_certificate(), &bytes).map_err(|e| failed(&paths.https_certificate(), &e))?;

    let row = |bytes: &[u8], version, issued, expires| -> Result<RoleRow, Refusal> {
        let digest = Digest::of(bytes);
        documents.put(digest, bytes)?;
        Ok(RoleRow {
            version,
            digest,
            length: bytes.len() as u64,
            issued,
            expires,
            previous: None,
        })
    };
    let snapshot_life = now + config.snapshot_life_s;
    let timestamp_life = now + crate::core::timestamp_life(config, &body);
    let fleet = FleetRow {
        format: FORMAT,
        fleet: kit.fleet,
        name: kit.name.clone(),
        address: kit.address.clone(),
        root_hash: kit.root_hash,
        starts: 0,
    };
    let mut changes = vec![
        Change::put(key::FLEET, &fleet, Expect::Absent)?,
        create(key::root(1), &row(&root, 1, body.issued, body.expires)?)?,
        create(
            key::TARGETS,
            &row(
                &targets,
                targets_body.version,
                targets_body.issued,
                targets_body.expires,
            )?,
        )?,
        create(key::SNAPSHOT, &row(&snapshot, version, now, snapshot_life)?)?,
        create(key::TIMESTAMP, &row(&timestamp, version, now, timestamp_life)?)?,
    ];
    for token in &kit.api_tokens {
        let login = ApiTokenRow {
            name: token.name.clone(),
            role: token.role,
            expires: None,
        };
        changes.push(Change::put(key::api_token(&token.sha256), &login, Expect::Absent)?);
    }
    Ok(changes)
}

fn create(key: impl Into<String>, row: &RoleRow) -> Result<Change, LedgerError> {
    Change::put(key, row, Expect::Absent)
}

/// Removes the private keys, and leaves a word of where they went; what else is in the kit stays.
fn strip(folder: &Path, paths: &Paths) -> Result<(), Refusal> {
    let data = std::path::absolute(paths.data()).unwrap_or_else(|_| paths.data().to_owned());
    let used = folder.join(USED);
    // A kit on a medium that takes nothing more has served all the same.
    if let Err(e) = durable::write(&used, format!("{}\n", data.display()).as_bytes()) {
        tracing::debug!(file = %used.display(), error = %e, "where the keys went is not noted");
    }
    for name in KEYS {
        let path = folder.join("keys").join(name);
        durable::remove_file(&path).map_err(|e| failed(&path, &e))?;
    }
    Ok(())
}

/// A file of the kit or of `keys/`. A pipe that stands there must not keep the start waiting for its other end.
pub fn read(path: &Path) -> Result<Vec<u8>, Refusal> {
    let mut file = fs::File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(|e| failed(path, &e))?;
    let found = file.metadata().map_err(|e| failed(path, &e))?;
    if !found.is_file() {
        return refuse!(Io, "{} is no file", path.display());
    }
    if found.len() > FILE_BYTES {
        return refuse!(
            LimitExceeded,
            "{} has {} bytes, at most {FILE_BYTES} are allowed",
            path.display(),
            found.len()
        );
    }
    // Room for all of it at once: growing would leave copies of a key behind.
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default());
    file.by_ref()
        .take(FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(path, &e))?;
    Ok(bytes)
}

/// A private key from a PEM file.
pub fn secret(path: &Path) -> Result<SecretKey, Refusal> {
    let bytes = Zeroizing::new(read(path)?);
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    SecretKey::from_pem(text).map_err(|e| Refusal::new(Code::KeysRefused, format!("{}: {e}", path.display())))
}

fn failed(path: &Path, error: &io::Error) -> Refusal {
    Refusal::new(Code::Io, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opened as a file it would wait for ever.
    #[test]
    fn a_pipe_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        durable::private_dir(&paths.keys()).unwrap();
        let path = paths.key("https.pem");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(secret(&path).unwrap_err().code, Code::Io);
        let refusal = crate::https::of_operators(&paths, &[]).unwrap_err();
        assert_eq!(refusal.code, Code::Io);
    }
}
