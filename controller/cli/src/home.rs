//! The operator's home: signing keys, contexts, and the trust state that goes with them.
//!
//! ```text
//! ENSIGN_HOME/                       default ~/.config/ensign
//!   current                          name of the fleet that commands are for
//!   keys/FLEET/{root,recovery,targets,release,deploy}.pem        0600
//!   contexts/FLEET/{context.json, api-token (0600), trust.cbor, targets.cbor}
//! ```

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_crypto::PublicKey;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::failure::{Failure, Result, fail};
use crate::keyring::{Keyring, Stored};

/// The format number of `context.json`.
pub const FORMAT: u16 = 1;
/// Largest key, token or context file, bytes.
const FILE_BYTES: u64 = 64 << 10;

/// What an operator signs with. Each role has a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyRole {
    Root,
    Recovery,
    Targets,
    Release,
    Deploy,
}

#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
    keyring: Keyring,
}

/// `context.json`: which fleet, where, and what pins it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextFile {
    pub format: u16,
    pub fleet: FleetId,
    pub name: Ident,
    /// `HOST:PORT`.
    pub address: String,
    /// SHA-256 of root version 1, the envelope.
    pub root_hash: Digest,
}

/// One fleet as this operator knows it.
#[derive(Clone, Debug)]
pub struct Context {
    pub file: ContextFile,
    dir: PathBuf,
    keys: PathBuf,
    keyring: Keyring,
}

impl Home {
    /// `ENSIGN_HOME`, else `~/.config/ensign`. Nothing is made yet.
    pub fn find() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        match (set("ENSIGN_HOME"), set("HOME")) {
            (Some(dir), _) => Ok(Self::in_dir(dir)),
            (None, Some(home)) => Ok(Self::in_dir(home.join(".config/ensign"))),
            (None, None) => Err(Failure::usage("neither ENSIGN_HOME nor HOME is set")),
        }
    }

    fn in_dir(dir: PathBuf) -> Self {
        Self {
            dir,
            keyring: Keyring::default(),
        }
    }

    #[cfg(test)]
    pub fn at(dir: &Path) -> Self {
        Self::in_dir(dir.to_owned())
    }

    pub fn keys_dir(&self, fleet: &Ident) -> PathBuf {
        self.dir.join("keys").join(fleet.as_str())
    }

    pub fn context_dir(&self, fleet: &Ident) -> PathBuf {
        self.dir.join("contexts").join(fleet.as_str())
    }

    /// Lies there while `fleet init` makes the fleet.
    pub fn note_path(&self, fleet: &Ident) -> PathBuf {
        self.dir.join(format!(".init-{fleet}"))
    }

    /// Makes this fleet the one that commands are for.
    pub fn select(&self, fleet: &Ident) -> Result<()> {
        let path = self.dir.join("current");
        durable::write(&path, format!("{fleet}\n").as_bytes(), durable::PUBLIC)
            .map_err(|e| Failure::io("write", &path, &e))
    }

    /// Removes what a killed [`Self::select`] left beside the file.
    pub fn forget_half_selected(&self) -> Result<()> {
        let failed = |e| Failure::io("clean", &self.dir, &e);
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if name.starts_with(b".current.") && name.ends_with(b".tmp") {
                durable::remove_file(&entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The context that commands are for.
    pub fn current(&self) -> Result<Context> {
        let path = self.dir.join("current");
        let name = match read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.code == Code::NotFound => {
                return Err(
                    Failure::new(Code::NotFound, format!("there is no fleet in {}", self.dir.display()))
                        .hint("`ensign fleet init --name NAME --controller HOST:PORT --kit DIR`, or set ENSIGN_HOME to where the fleet is"),
                );
            }
            Err(e) => return Err(e),
        };
        let name = String::from_utf8_lossy(&name);
        let name = Ident::parse(name.trim())
            .map_err(|e| Failure::new(Code::ConfigRefused, format!("{}: {e}", path.display())))?;
        let dir = self.context_dir(&name);
        let file = dir.join("context.json");
        let parsed: ContextFile = serde_json::from_slice(&read(&file)?)
            .map_err(|e| Failure::new(Code::ConfigRefused, format!("{}: {e}", file.display())))?;
        if parsed.format != FORMAT {
            return fail!(
                VersionUnknown,
                "{} has format {}, this program knows {FORMAT}",
                file.display(),
                parsed.format
            );
        }
        Ok(Context {
            file: parsed,
            dir,
            keys: self.keys_dir(&name),
            keyring: self.keyring.clone(),
        })
    }
}

impl Context {
    /// What the controller's API knows this operator by.
    pub fn api_token(&self) -> Result<String> {
        if let Some(token) = std::env::var("ENSIGN_API_TOKEN").ok().filter(|t| !t.is_empty()) {
            return Ok(token);
        }
        let token = String::from_utf8_lossy(&read(&self.dir.join("api-token"))?)
            .trim()
            .to_owned();
        Ok(token)
    }

    pub fn trust_path(&self) -> PathBuf {
        self.dir.join("trust.cbor")
    }

    /// The targets that `fleet init` signed.
    pub fn targets_path(&self) -> PathBuf {
        self.dir.join("targets.cbor")
    }

    /// Where `key root rotate` keeps the draft of the next root.
    pub fn root_draft_path(&self) -> PathBuf {
        self.dir.join("root.draft")
    }

    /// Where `product set` keeps the draft of the next targets.
    pub fn targets_draft_path(&self) -> PathBuf {
        self.dir.join("targets.draft")
    }

    /// What this machine has seen of the devices' labels.
    pub fn seen_path(&self) -> PathBuf {
        self.dir.join("seen.cbor")
    }

    pub fn key_path(&self, role: KeyRole) -> PathBuf {
        key_path(&self.keys, role)
    }

    pub fn keys_dir(&self) -> &Path {
        &self.keys
    }

    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The key of a role as it lies in its file. Refused when other users could read it.
    pub fn stored(&self, role: KeyRole) -> Result<Stored> {
        let path = self.key_path(role);
        self.keyring.stored(&path).map_err(|e| match e.code {
            Code::NotFound => Failure::new(
                Code::NotFound,
                format!("the {} key is not here: {}", role.name(), path.display()),
            )
            .hint("sign where that key is"),
            _ => e,
        })
    }

    /// The key of a role by what root or targets name: the file of the role where its key is among `keys`, else any other that is.
    /// Where none is, the file of the role all the same, so that its refusal names it.
    pub fn signer(&self, role: KeyRole, keys: &[PublicKey]) -> Result<Stored> {
        let own = self.stored(role);
        if own.as_ref().is_ok_and(|key| keys.contains(&key.public())) {
            return own;
        }
        let other = self
            .all_keys()?
            .into_iter()
            .find(|(_, key)| keys.contains(&key.public()));
        other.map_or(own, |(_, key)| Ok(key))
    }

    /// The key with this name.
    pub fn named(&self, name: &str) -> Result<Stored> {
        let found = self.all_keys()?.into_iter().find(|(known, _)| known == name);
        found
            .map(|(_, key)| key)
            .ok_or_else(|| Failure::new(Code::NotFound, format!("there is no key `{name}`")).hint("`ensign key ls`"))
    }

    /// Every key in the fleet's folder of keys, by the name of its file, sorted.
    pub fn all_keys(&self) -> Result<Vec<(String, Stored)>> {
        key_files(&self.keys)?
            .into_iter()
            .map(|path| {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                Ok((name, self.keyring.stored(&path)?))
            })
            .collect()
    }
}

impl KeyRole {
    pub const ALL: [Self; 5] = [Self::Root, Self::Recovery, Self::Targets, Self::Release, Self::Deploy];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Recovery => "recovery",
            Self::Targets => "targets",
            Self::Release => "release",
            Self::Deploy => "deploy",
        }
    }
}

/// Where the key of a role lies in a folder.
pub fn key_path(dir: &Path, role: KeyRole) -> PathBuf {
    dir.join(format!("{}.pem", role.name()))
}

/// The private keys in a folder, sorted by name; none where it is not there.
pub fn key_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Failure::io("read", dir, &e);
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut found = Vec::new();
    for entry in listed {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A small file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    read_up_to(path, FILE_BYTES)
}

/// A file of at most `limit` bytes.
pub fn read_up_to(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let failed = |e| Failure::io("read", path, &e);
    let mut bytes = Vec::new();
    // What is no file has no length that could be looked at first.
    let file = fs::File::open(path).map_err(failed)?;
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > limit {
        return fail!(
            LimitExceeded,
            "{} has more than {limit} bytes, at most that many are allowed",
            path.display()
        );
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_read_up_to_the_limit() {
        let failure = read_up_to(Path::new("/dev/zero"), 1000).unwrap_err();
        assert_eq!(failure.code, Code::LimitExceeded);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        durable::write(&path, &[1; 1000], durable::PUBLIC).unwrap();
        assert_eq!(read_up_to(&path, 1000).unwrap().len(), 1000);
        assert_eq!(read_up_to(&path, 999).unwrap_err().code, Code::LimitExceeded);
    }

    #[test]
    fn an_empty_home_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Home::at(dir.path()).current().unwrap_err();
        assert_eq!(failure.exit(), 32);
        assert!(failure.hint_text().contains("fleet init"), "{failure:?}");
    }
}
