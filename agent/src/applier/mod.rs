//! The applier: owns trust state, receipt key, journal and deployments, and believes nobody. A shell around `ensign-apply`.
//!
//! One thread, one loop, no network. What it must not do itself it has done by others: decoding by the unpack worker, which holds
//! nothing but a staging directory, and everything privileged by the runner.

mod admin;
mod checks;
mod collect;
mod course;
mod duties;
mod generations;
mod identity;
mod intake;
mod journal;
mod labels;
mod links;
mod offer;
mod pace;
pub mod questions;
mod report;
mod runner_client;
mod shell;
mod sockets;
mod staging;
#[cfg(test)]
mod testkit;
mod tree;
mod trust_store;
pub mod unpack;
mod verify;
mod wall;
mod watch;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;
use std::time::Duration;

use ensign_bundle::digest::Nonce;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::Trusted;

pub use shell::{Shell, ShellError, Surroundings, Turn};
pub use staging::Unpacking;
pub use verify::{Judged, SignatureRow, Verified, verify_file};

use crate::chain::chain;
use crate::clock;
use crate::config::{Config, Reader};
use crate::disk::File;
use crate::durable;
use crate::ipc::State;
use crate::paths::Paths;
use crate::sandbox;

/// How long an applier waits for one that is just dying.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// `ensign-applier`: until its parent's end of standard input closes.
pub fn main(paths: &Paths) -> ExitCode {
    let run = || -> Result<(), ShellError> {
        let config = Config::load(paths, Reader::Applier).map_err(|e| Refusal::new(Code::ConfigRefused, chain(&e)))?;
        let _lock = lock(paths)?;
        // Landlock gives rights to places that are there.
        directories(paths)?;
        sandbox::applier(paths).map_err(|e| Refusal::new(Code::Io, format!("limits of this process: {e}")))?;
        Shell::start(paths.clone(), config.applier)?.run()
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(&error), "the applier ends");
            ExitCode::FAILURE
        }
    }
}

/// The applier's state from its files alone; `None` where there is none. For `status` when nothing runs: writes nothing.
pub fn state_from_files(paths: &Paths) -> Result<Option<State>, Refusal> {
    if !paths.applier().exists() {
        return Ok(None);
    }
    let (device, loss) = journal::judge(paths)?;
    let trusted = trust_store::TrustStore::open(paths.disk(), &paths.trust())?.1.trusted;
    // What runs can be told without knowing who this is.
    let (identity, unknown) = match identity::load(paths, trusted.as_ref().map(Trusted::fleet)) {
        Ok(identity) => (identity, None),
        Err(refusal) => (None, Some(refusal)),
    };
    let mut state = report::of(&device, identity.as_ref(), trusted.as_ref(), Nonce([0; Nonce::BYTES]));
    if let Some(unknown) = unknown {
        let text = format!("who this device is cannot be read: {}", unknown.text);
        let lost = || Refusal::new(Code::NeedsReprovision, text);
        state.report.status.reason.get_or_insert_with(lost);
    }
    if let Some(loss) = loss {
        report::disbelieve(&mut state, paths, &loss);
    }
    Ok(Some(state))
}

/// One applier per root.
fn lock(paths: &Paths) -> Result<File, Refusal> {
    let io = |e: io::Error| durable::refusal(paths.applier_lock().display(), &e);
    let disk = paths.disk();
    disk.closed_dir(&paths.applier(), 0o700).map_err(io)?;
    let file = disk.open(&paths.applier_lock(), 0o600).map_err(io)?;
    let deadline = clock::boot() + LOCK_PATIENCE;
    loop {
        match file.plain().try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::Error(e)) => return Err(io(e)),
            Err(std::fs::TryLockError::WouldBlock) if clock::boot() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(std::fs::TryLockError::WouldBlock) => {
                return refuse!(InUse, "another applier uses {}", paths.applier().display());
            }
        }
    }
}

/// Every directory the applier needs. Staging must be on the file system of the trees: a tree moves there whole or not at all.
fn directories(paths: &Paths) -> Result<(), Refusal> {
    for (path, mode) in [
        (paths.run(), 0o755),
        (paths.trust(), 0o700),
        (paths.manifests(), 0o700),
        (paths.trees(), 0o755),
        (paths.staging(), 0o700),
        (paths.generations(), 0o755),
    ] {
        let made = paths.disk().closed_dir(&path, mode);
        made.map_err(|e| durable::refusal(path.display(), &e))?;
    }
    let device = |path: std::path::PathBuf| {
        std::fs::metadata(&path)
            .map(|m| m.dev())
            .map_err(|e| durable::refusal(path.display(), &e))
    };
    if device(paths.staging())? != device(paths.trees())? {
        return refuse!(
            ConfigRefused,
            "{} is on another file system than {}",
            paths.staging().display(),
            paths.trees().display()
        );
    }
    Ok(())
}
