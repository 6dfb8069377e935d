//! The private keys of this controller. Which of them are used follows from the root in force and from nothing else, so a crash anywhere
//! in a change of keys leaves nothing half done:
//!
//! ```text
//! keys new  ─▶  NAME-next.pem beside NAME.pem
//! root names the new key   ─▶  it signs (or is shown, once root does not name the old one any more)
//! that root is committed   ─▶  NAME-next.pem takes the place of the NAME.pem that root no longer names
//! ```

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::roles::{Role, Root};
use ensign_crypto::{KeyId, PublicKey, SecretKey};

use crate::kit::secret;
use crate::paths::Paths;
use crate::{durable, https};

/// Keys of the devices' side, which change with the root.
pub const NAMES: [&str; 3] = ["timestamp", "snapshot", "controller"];
/// Every key that changes with the root.
pub const ROLES: [&str; 4] = ["timestamp", "snapshot", "controller", https::NAME];

/// Every private key that this controller holds for devices.
#[derive(Debug)]
pub struct Keys {
    /// None: what was given is all there is.
    paths: Option<Paths>,
    held: RwLock<Vec<SecretKey>>,
}

impl Keys {
    pub fn of(held: Vec<SecretKey>) -> Self {
        Self {
            paths: None,
            held: RwLock::new(held),
        }
    }

    pub fn open(paths: &Paths) -> Result<Self, Refusal> {
        Ok(Self {
            held: RwLock::new(read(paths)?),
            paths: Some(paths.clone()),
        })
    }

    /// The keys that sign as a role: those that root names, as many as its threshold asks for.
    pub fn of_role(&self, name: &str, role: &Role) -> Result<Vec<SecretKey>, Refusal> {
        let threshold = usize::try_from(role.threshold).unwrap_or(usize::MAX);
        let held = self.find(|held| {
            let mut mine: Vec<SecretKey> = held
                .iter()
                .filter(|k| role.keys.contains(&k.public()))
                .cloned()
                .collect();
            mine.truncate(threshold);
            (mine.len() == threshold).then_some(mine)
        })?;
        held.ok_or_else(|| self.lacks(name, role.keys.iter().map(PublicKey::id)))
    }

    /// The TLS key that is shown to devices: the first one in root that is here. So a new key is shown when the old one leaves root.
    pub fn of_controller(&self, named: &[KeyId]) -> Result<SecretKey, Refusal> {
        let held = self.find(|held| {
            named
                .iter()
                .find_map(|id| held.iter().find(|key| key.public().id() == *id))
                .cloned()
        })?;
        held.ok_or_else(|| self.lacks("controller", named.iter().copied()))
    }

    /// Refuses a root under which this controller could not go on.
    pub fn check(&self, root: &Root) -> Result<(), Refusal> {
        self.of_role("timestamp", &root.roles.timestamp)?;
        self.of_role("snapshot", &root.roles.snapshot)?;
        self.of_controller(&root.controller.keys)?;
        match &self.paths {
            Some(paths) => https::check(paths, &root.controller.api),
            None => Ok(()),
        }
    }

    /// What `wanted` finds; the folder is read again before it is given up.
    fn find<T>(&self, wanted: impl Fn(&[SecretKey]) -> Option<T>) -> Result<Option<T>, Refusal> {
        let known = wanted(&self.held.read().unwrap_or_else(PoisonError::into_inner));
        let (None, Some(paths)) = (&known, &self.paths) else {
            return Ok(known);
        };
        let anew = read(paths)?;
        let found = wanted(&anew);
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = anew;
        Ok(found)
    }

    fn lacks(&self, name: &str, named: impl Iterator<Item = KeyId>) -> Refusal {
        let list = |ids: Vec<KeyId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let held = held.iter().map(|key| key.public().id()).collect();
        Refusal::new(
            Code::KeysRefused,
            format!(
                "root names the {name} keys {}; this controller holds {}: `ensign-controller keys new --data DIR` makes keys for the next root",
                list(named.collect()),
                list(held)
            ),
        )
    }
}

/// One key of the folder, without its private half.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    pub name: String,
    pub key: KeyId,
    /// PEM: the key, or the certificate that shows it.
    pub public: String,
}

/// The keys in the folder, by the names of their files.
pub fn list(paths: &Paths) -> Result<Vec<Listed>, Refusal> {
    let mut listed = Vec::new();
    for path in files(paths) {
        let public = secret(&path)?.public();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        listed.push(Listed {
            name,
            key: public.id(),
            public: public.to_pem(),
        });
    }
    listed.extend(https::list(paths)?);
    Ok(listed)
}

/// Makes the next key of each name that has none waiting. Called again it changes nothing.
pub fn make_next(paths: &Paths, names: &[&str]) -> Result<(), Refusal> {
    for name in names {
        if *name == https::NAME {
            https::make_next(paths)?;
            continue;
        }
        let path = next_path(paths, name);
        if path.exists() {
            continue;
        }
        if !paths.key(&format!("{name}.pem")).exists() {
            return refuse!(
                NotFound,
                "{} holds no fleet: there is no {name} key",
                paths.data().display()
            );
        }
        let mut seed = [0; ensign_crypto::KEY_BYTES];
        getrandom::fill(&mut seed).map_err(|e| Refusal::new(Code::Failed, format!("no randomness: {e}")))?;
        let key = SecretKey::from_seed(seed);
        durable::write_secret(&path, key.to_pem().as_bytes()).map_err(|e| io(&path, &e))?;
    }
    Ok(())
}

/// Lets each waiting key that root names take the place of the one that it no longer names: the old one is gone then. One rename each, so
/// whenever it ends, every key that root names is there.
pub fn settle(paths: &Paths, root: &Root) -> Result<(), Refusal> {
    for name in NAMES {
        let (old, next) = (paths.key(&format!("{name}.pem")), next_path(paths, name));
        if !next.exists() {
            continue;
        }
        let named = |path: &Path| -> Result<bool, Refusal> {
            let key = secret(path)?.public();
            Ok(match name {
                "timestamp" => root.roles.timestamp.keys.contains(&key),
                "snapshot" => root.roles.snapshot.keys.contains(&key),
                _ => root.controller.keys.contains(&key.id()),
            })
        };
        if named(&next)? && !(old.exists() && named(&old)?) {
            durable::rename(&next, &old).map_err(|e| io(&next, &e))?;
            tracing::info!(name, "the new key has taken the place of the old one");
        }
    }
    https::settle(paths, &root.controller.api)
}

fn read(paths: &Paths) -> Result<Vec<SecretKey>, Refusal> {
    files(paths).map(|path| secret(&path)).collect()
}

fn files(paths: &Paths) -> impl Iterator<Item = PathBuf> {
    let both = |name: &str| [paths.key(&format!("{name}.pem")), next_path(paths, name)];
    let all: Vec<PathBuf> = NAMES.iter().flat_map(|name| both(name)).collect();
    all.into_iter().filter(|path| path.exists())
}

fn next_path(paths: &Paths, name: &str) -> PathBuf {
    paths.key(&format!("{name}-next.pem"))
}

fn io(path: &Path, error: &std::io::Error) -> Refusal {
    Refusal::new(Code::Io, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        durable::private_dir(&paths.keys()).unwrap();
        for (seed, name) in (1..).zip(NAMES) {
            let pem = SecretKey::from_seed([seed; 32]).to_pem();
            durable::write_secret(&paths.key(&format!("{name}.pem")), pem.as_bytes()).unwrap();
        }
        (dir, paths)
    }

    fn one(key: PublicKey) -> Role {
        Role {
            keys: vec![key],
            threshold: 1,
        }
    }

    #[test]
    fn new_keys_wait_beside_the_old_ones_and_making_them_again_changes_nothing() {
        let (_dir, paths) = folder();
        let keys = Keys::open(&paths).unwrap();
        make_next(&paths, &NAMES).unwrap();
        let listed = list(&paths).unwrap();
        assert_eq!(listed.len(), 6);
        make_next(&paths, &NAMES).unwrap();
        assert_eq!(list(&paths).unwrap(), listed);
        // Made while the controller runs: found when root names it.
        let next = listed.iter().find(|k| k.name == "timestamp-next").unwrap();
        let role = one(PublicKey::from_pem(&next.public).unwrap());
        assert_eq!(keys.of_role("timestamp", &role).unwrap()[0].public().id(), next.key);
        let foreign = one(SecretKey::from_seed([99; 32]).public());
        let refusal = keys.of_role("timestamp", &foreign).unwrap_err();
        assert_eq!(refusal.code, Code::KeysRefused);
        assert!(refusal.text.contains("keys new"), "{refusal}");
    }

    #[test]
    fn the_old_tls_key_is_shown_until_root_drops_it() {
        let ids = [1, 2].map(|seed| SecretKey::from_seed([seed; 32]).public().id());
        let keys = Keys::of(vec![SecretKey::from_seed([2; 32]), SecretKey::from_seed([1; 32])]);
        assert_eq!(keys.of_controller(&ids).unwrap().public().id(), ids[0]);
        assert_eq!(keys.of_controller(&ids[1..]).unwrap().public().id(), ids[1]);
        assert_eq!(keys.of_controller(&[]).unwrap_err().code, Code::KeysRefused);
    }
}
