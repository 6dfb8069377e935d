//! The three commands: `init`, `refresh`, `download`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use ensign_bundle::trust::format::{At, Plain};
use ensign_bundle::trust::machine::{Machine, Want};

use super::format::Json;
use super::http;
use super::metadata::Target;
use super::store::{Store, replace};

/// Largest files taken where no length is listed, bytes: as the reference client.
const ROOT_BYTES: u64 = 512_000;
const TIMESTAMP_BYTES: u64 = 16_384;
const SNAPSHOT_BYTES: u64 = 2_000_000;
const TARGETS_BYTES: u64 = 5_000_000;

/// Starts trusting the root in a file. Nothing is asked of any server.
pub fn init(metadata: &Path, root: &Path) -> Result<()> {
    Store(metadata.to_owned()).init(root)
}

/// A client with its stored trust and the server it asks.
pub struct Client {
    store: Store,
    machine: Machine<Json, Plain>,
    url: String,
    at: At,
}

/// Where targets come from and go to.
pub struct Download {
    pub url: String,
    pub folder: PathBuf,
}

impl Client {
    /// `now`: seconds since the epoch, for the whole run (TUF 5.1).
    pub fn open(metadata: &Path, url: &str, now: u64) -> Result<Self> {
        let store = Store(metadata.to_owned());
        let machine = store.load()?;
        Ok(Self {
            store,
            machine,
            url: url.trim_end_matches('/').to_owned(),
            at: At::plain(now),
        })
    }

    /// Roots, timestamp, snapshot and targets. What was verified before a failure is stored all the same.
    pub fn refresh(&mut self) -> Result<()> {
        let result = self.refresh_all();
        self.store.save(&self.machine)?;
        result
    }

    /// Fetches a target unless it is in the folder already.
    pub fn download(&mut self, name: &str, to: &Download) -> Result<()> {
        let consistent = self.machine.root().body.consistent_snapshot;
        let found = self.asking(consistent, |machine, docs, at| machine.find(&name.to_owned(), docs, at));
        self.store.save(&self.machine)?;
        let target = self.target(found?.as_ref(), name)?;
        let path = file_of(name, &to.folder)?;
        if std::fs::read(&path).is_ok_and(|bytes| target.check(name, &bytes).is_ok()) {
            return Ok(());
        }
        let url = url_of(&to.url, name, target, consistent)?;
        let bytes = http::get(&url, target.length)?.with_context(|| format!("{url} is not there"))?;
        target.check(name, &bytes)?;
        replace(&path, &bytes)
    }

    fn refresh_all(&mut self) -> Result<()> {
        self.asking(false, |machine, docs, at| machine.refresh_root(docs, at))?;
        // The newest root says how files are named.
        let consistent = self.machine.root().body.consistent_snapshot;
        self.asking(consistent, |machine, docs, at| machine.refresh_roles(docs, at))?;
        Ok(())
    }

    /// Runs a step of the machine with documents from the server. That a server cannot be asked is not that it has no document.
    fn asking<T>(
        &mut self,
        consistent: bool,
        step: impl FnOnce(
            &mut Machine<Json, Plain>,
            &mut dyn FnMut(Want<'_, Json>) -> Option<Vec<u8>>,
            &At,
        ) -> Result<T, ensign_bundle::reason::Refusal>,
    ) -> Result<T> {
        let mut failed = None;
        let url = &self.url;
        let mut docs = |want: Want<'_, Json>| {
            if failed.is_some() {
                return None;
            }
            let (file, limit) = file_and_limit(&want, consistent);
            let answer = http::get(&format!("{url}/{file}"), limit);
            answer.unwrap_or_else(|e| {
                failed = Some(e);
                None
            })
        };
        let result = step(&mut self.machine, &mut docs, &self.at);
        if let Some(failed) = failed {
            return Err(failed);
        }
        Ok(result?)
    }

    fn target(&self, role: Option<&String>, name: &str) -> Result<&Target> {
        let held = match role {
            None => self.machine.targets(),
            Some(role) => self.machine.delegated().get(role),
        };
        let target = held.and_then(|held| held.body.files.get(name));
        target.with_context(|| format!("{name} is not described"))
    }
}

/// The file's name on the server (TUF §6.2), and how much of it is taken.
fn file_and_limit(want: &Want<'_, Json>, consistent: bool) -> (String, u64) {
    let versioned = |version: u64, name: &str| {
        let prefix = if consistent {
            format!("{version}.")
        } else {
            String::new()
        };
        format!("{prefix}{}.json", http::quote(name))
    };
    match want {
        Want::Root(version) => (format!("{version}.root.json"), ROOT_BYTES),
        Want::Timestamp => ("timestamp.json".to_owned(), TIMESTAMP_BYTES),
        Want::Snapshot(pin) => (
            versioned(pin.version, "snapshot"),
            pin.length.unwrap_or(SNAPSHOT_BYTES).min(SNAPSHOT_BYTES),
        ),
        Want::Targets(name, pin) => (
            versioned(pin.version, name),
            pin.length.unwrap_or(TARGETS_BYTES).min(TARGETS_BYTES),
        ),
    }
}

fn url_of(base: &str, name: &str, target: &Target, consistent: bool) -> Result<String> {
    let hash = target
        .hashes
        .known()
        .with_context(|| format!("{name} has no known hash"))?;
    let mut parts: Vec<String> = name.split('/').map(http::quote).collect();
    if consistent && let Some(last) = parts.last_mut() {
        ensure!(
            hash.bytes().all(|b| b.is_ascii_hexdigit()),
            "{name} has a hash that is no hexadecimal"
        );
        last.insert_str(0, &format!("{hash}."));
    }
    Ok(format!("{}/{}", base.trim_end_matches('/'), parts.join("/")))
}

/// Where a target is kept: one file in the folder, whatever its name is.
fn file_of(name: &str, folder: &Path) -> Result<PathBuf> {
    if matches!(name, "" | "." | "..") {
        bail!("`{name}` is no name for a file");
    }
    Ok(folder.join(http::quote(name)))
}
