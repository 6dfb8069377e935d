//! What the link half owns: its TLS key, the session counter, and what joining left behind.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ensign_bundle::digest::{DeviceId, FleetId};
use ensign_crypto::{KeyId, SecretKey};
use serde::{Deserialize, Serialize};

use super::counter::{self, CounterError};
use crate::durable;
use crate::paths::Paths;

/// Format of `device.json`.
const FORMAT: u16 = 1;
/// Of the link half's directory: what is secret in it has its own mode, names are none.
pub const DIRECTORY_MODE: u32 = 0o711;
/// Largest of these files, bytes.
const FILE_BYTES: usize = 64 << 10;

/// `link/device.json`: where and as whom to connect until root says more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub format: u16,
    pub id: DeviceId,
    pub name: String,
    pub fleet: FleetId,
    /// From the token; the addresses and keys in the applier's root come first.
    pub addresses: Vec<String>,
    pub pin: KeyId,
}

/// `link/joining.json`: the keys that the controller may know already, until the whole answer is stored. The same pair again is the same
/// device: it costs no use of the token and leaves no second row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    pub format: u16,
    pub fleet: FleetId,
    pub key: KeyId,
    pub receipt_key: KeyId,
}

impl Pair {
    pub fn new(fleet: FleetId, key: KeyId, receipt_key: KeyId) -> Self {
        Self {
            format: FORMAT,
            fleet,
            key,
            receipt_key,
        }
    }

    /// What `enroll` was joining with when it ended; `None` where it was done, or the file says nothing that helps.
    pub fn load(paths: &Paths) -> Result<Option<Self>, IdentityError> {
        let bytes = read(paths.link_joining())?;
        let pair = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(pair.filter(|pair: &Self| pair.format == FORMAT))
    }

    /// Before the controller hears of the keys.
    pub fn store(&self, paths: &Paths) -> Result<(), IdentityError> {
        let path = paths.link_joining();
        let text = serde_json::to_vec_pretty(self).map_err(|e| IdentityError::Malformed {
            path: path.clone(),
            text: e.to_string(),
        })?;
        write(path, &text, 0o600)
    }

    /// Once it is done.
    pub fn forget(paths: &Paths) -> Result<(), IdentityError> {
        let path = paths.link_joining();
        durable::remove(&path).map_err(|source| IdentityError::Io { path, source })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{} cannot be read or written", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is not what this program wrote: {text}", path.display())]
    Malformed { path: PathBuf, text: String },
    #[error("no randomness")]
    Random(#[from] getrandom::Error),
}

impl Device {
    pub fn new(id: DeviceId, name: String, fleet: FleetId, addresses: Vec<String>, pin: KeyId) -> Self {
        Self {
            format: FORMAT,
            id,
            name,
            fleet,
            addresses,
            pin,
        }
    }

    /// `None` before enrolment.
    pub fn load(paths: &Paths) -> Result<Option<Self>, IdentityError> {
        let path = paths.link_device();
        let Some(bytes) = read(path.clone())? else {
            return Ok(None);
        };
        let malformed = |text: String| IdentityError::Malformed {
            path: path.clone(),
            text,
        };
        let device: Self = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        if device.format != FORMAT {
            return Err(malformed(format!(
                "format {}, this program knows {FORMAT}",
                device.format
            )));
        }
        Ok(Some(device))
    }

    /// Written last when joining: from here on the device is enrolled.
    pub fn store(&self, paths: &Paths) -> Result<(), IdentityError> {
        let path = paths.link_device();
        let text = serde_json::to_vec_pretty(self).map_err(|e| IdentityError::Malformed {
            path: path.clone(),
            text: e.to_string(),
        })?;
        // Names and pins are no secrets: `status` of anybody may read them.
        write(path, &text, 0o644)
    }
}

/// The TLS key, `None` before enrolment.
pub fn key(paths: &Paths) -> Result<Option<SecretKey>, IdentityError> {
    key_in(paths.link_key())
}

pub(super) fn key_in(path: PathBuf) -> Result<Option<SecretKey>, IdentityError> {
    let Some(bytes) = read(path.clone())? else {
        return Ok(None);
    };
    let pem = zeroize(bytes, &path)?;
    SecretKey::from_pem(&pem)
        .map(Some)
        .map_err(|e| IdentityError::Malformed {
            path,
            text: e.to_string(),
        })
}

/// Makes a new TLS key and keeps it (0600).
pub fn create_key(paths: &Paths) -> Result<SecretKey, IdentityError> {
    let mut seed = [0; ensign_crypto::KEY_BYTES];
    getrandom::fill(&mut seed)?;
    let key = SecretKey::from_seed(seed);
    durable::closed_dir(&paths.link(), DIRECTORY_MODE).map_err(|source| IdentityError::Io {
        path: paths.link(),
        source,
    })?;
    // Room for the counter is taken now: later the disk may be full.
    let session = paths.link_session();
    counter::create(&session, 0o600)
        .and_then(|()| give_to_owner(&session))
        .map_err(|source| IdentityError::Io { path: session, source })?;
    write(paths.link_key(), key.to_pem().as_bytes(), 0o600)?;
    Ok(key)
}

/// The next session number, on disk before it is used: it never repeats, whatever happens.
pub fn next_session(paths: &Paths) -> Result<u64, IdentityError> {
    let path = paths.link_session();
    counter::next(&path, 0o600).map_err(|error| match error {
        CounterError::Io(source) => IdentityError::Io { path, source },
        CounterError::Damaged => IdentityError::Malformed {
            path,
            text: error.to_string(),
        },
    })
}

/// Notes whether the controller says that this device is revoked: it is for good, and joining again then needs new keys.
pub fn note_revoked(paths: &Paths, revoked: bool) -> Result<(), IdentityError> {
    let path = revoked_mark(paths);
    match (revoked, path.exists()) {
        (true, false) => write(path, b"", 0o644),
        (false, true) => durable::remove(&path).map_err(|source| IdentityError::Io { path, source }),
        _ => Ok(()),
    }
}

/// Whether the controller said last that this device is revoked.
pub fn is_revoked(paths: &Paths) -> bool {
    revoked_mark(paths).exists()
}

fn revoked_mark(paths: &Paths) -> PathBuf {
    paths.link().join("revoked")
}

/// Forgets key, counter and enrolment. What runs stays.
pub fn forget(paths: &Paths) -> Result<(), IdentityError> {
    for path in [
        paths.link_device(),
        paths.link_rotation(),
        paths.link_next_key(),
        paths.link_key(),
        paths.link_session(),
        paths.link_joining(),
        revoked_mark(paths),
    ] {
        durable::remove(&path).map_err(|source| IdentityError::Io { path, source })?;
    }
    Ok(())
}

pub(super) fn read(path: PathBuf) -> Result<Option<Vec<u8>>, IdentityError> {
    durable::read(&path, FILE_BYTES).map_err(|source| IdentityError::Io { path, source })
}

pub(super) fn write(path: PathBuf, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    durable::write(&path, bytes, mode)
        .and_then(|()| give_to_owner(&path))
        .map_err(|source| IdentityError::Io { path, source })
}

/// Root joins, the link half's own user runs: what root makes in that user's directory belongs to that user.
pub fn give_to_owner(path: &Path) -> std::io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let owner = std::fs::metadata(path.parent().unwrap_or(path))?;
    std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid()))
}

/// The PEM text, wiped when dropped.
fn zeroize(bytes: Vec<u8>, path: &Path) -> Result<zeroize::Zeroizing<String>, IdentityError> {
    String::from_utf8(bytes)
        .map(zeroize::Zeroizing::new)
        .map_err(|e| IdentityError::Malformed {
            path: path.to_owned(),
            text: e.utf8_error().to_string(),
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_session_counter_only_goes_up_and_is_never_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        create_key(&paths).unwrap();
        assert_eq!([next_session(&paths).unwrap(), next_session(&paths).unwrap()], [1, 2]);
        durable::write(&paths.link_session(), b"garbage", 0o600).unwrap();
        assert!(matches!(next_session(&paths), Err(IdentityError::Malformed { .. })));
    }

    #[test]
    fn a_revocation_is_kept_until_it_is_taken_back_or_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        create_key(&paths).unwrap();
        for end in [
            |paths: &Paths| note_revoked(paths, false),
            |paths: &Paths| forget(paths),
        ] {
            assert!(!is_revoked(&paths));
            note_revoked(&paths, true).unwrap();
            note_revoked(&paths, true).unwrap();
            assert!(is_revoked(&paths));
            end(&paths).unwrap();
        }
        assert!(!is_revoked(&paths));
    }

    #[test]
    fn the_key_is_private_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        assert!(key(&paths).unwrap().is_none());
        let made = create_key(&paths).unwrap();
        assert_eq!(key(&paths).unwrap().unwrap().public(), made.public());
        let mode = std::fs::metadata(paths.link_key()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        forget(&paths).unwrap();
        assert!(key(&paths).unwrap().is_none());
    }
}
