//! The directory with what a client trusts: each role under its plain name, byte for byte as it was served.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ensign_bundle::trust::format::Plain;
use ensign_bundle::trust::machine::{Machine, Stored};

use super::format::Json;
use super::http::{quote, unquote};

pub(super) struct Store(pub(super) PathBuf);

impl Store {
    /// Starts with a root that whoever calls trusts.
    pub(super) fn init(&self, root: &Path) -> Result<()> {
        let bytes = fs::read(root).with_context(|| format!("reading {}", root.display()))?;
        self.put("root", &bytes)
    }

    pub(super) fn load(&self) -> Result<Machine<Json, Plain>> {
        let mut stored = Stored {
            root: self.read("root")?.context("there is no root, see init")?,
            timestamp: self.read("timestamp")?,
            snapshot: self.read("snapshot")?,
            targets: self.read("targets")?,
            ..Stored::default()
        };
        for name in self.delegated()? {
            if let Some(bytes) = self.read(&name)? {
                stored.delegated.insert(name, bytes);
            }
        }
        Ok(Machine::load(Json, Plain, stored)?)
    }

    /// What the machine trusts now, and nothing else.
    pub(super) fn save(&self, machine: &Machine<Json, Plain>) -> Result<()> {
        self.put("root", &machine.root().bytes)?;
        let top = [
            ("timestamp", machine.timestamp().map(|held| &held.bytes)),
            ("snapshot", machine.snapshot().map(|held| &held.bytes)),
            ("targets", machine.targets().map(|held| &held.bytes)),
        ];
        for (name, bytes) in top {
            match bytes {
                Some(bytes) => self.put(name, bytes)?,
                None => self.remove(name)?,
            }
        }
        for (name, held) in machine.delegated() {
            self.put(name, &held.bytes)?;
        }
        for name in self.delegated()? {
            if !machine.delegated().contains_key(&name) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    fn path(&self, role: &str) -> PathBuf {
        self.0.join(format!("{}.json", quote(role)))
    }

    fn read(&self, role: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path(role)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("reading the stored {role}")),
        }
    }

    fn put(&self, role: &str, bytes: &[u8]) -> Result<()> {
        if self.read(role)?.is_some_and(|held| held == bytes) {
            return Ok(());
        }
        replace(&self.path(role), bytes)
    }

    fn remove(&self, role: &str) -> Result<()> {
        match fs::remove_file(self.path(role)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| format!("forgetting {role}")),
            _ => Ok(()),
        }
    }

    /// Stored roles beside the four.
    fn delegated(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.0).with_context(|| format!("reading {}", self.0.display()))? {
            let file = entry?.file_name();
            let name = file.to_str().and_then(|name| unquote(name.strip_suffix(".json")?));
            names.extend(name.filter(|name| !["root", "timestamp", "snapshot", "targets"].contains(&name.as_str())));
        }
        Ok(names)
    }
}

/// Puts a whole file in place of the one that may be there.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file in a directory")?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(())
}
