//! What each process gives up for good before it does its work: files by Landlock, calls by seccomp, sizes by limits.
//!
//! None of it comes back, and children inherit it. So whoever starts programs of others is left out, with the reason in its log line: the
//! runner, and under `--root` the link half, which starts the runner. docs/decisions/0011-what-confines-whom.md says why each is as it is.

#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")),
    path = "no_calls.rs"
)]
mod calls;
mod files;
mod limits;
mod program;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use serde::{Deserialize, Serialize};

use crate::paths::Paths;
use files::{Files, Others, Rights};

/// What confines a process, beside its limits and whatever its unit adds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// Version of Landlock's interface that is in force; 0 = no Landlock.
    pub landlock: u32,
    pub seccomp: bool,
    /// Why there is no more than that; empty where both are there.
    pub lacking: String,
}

impl Level {
    /// Landlock and seccomp are both in force.
    pub fn is_whole(&self) -> bool {
        self.landlock > 0 && self.seccomp
    }

    /// Refuses where `applier.sandbox = "required"` asks for more.
    pub fn require(&self) -> Result<(), Refusal> {
        if self.is_whole() {
            return Ok(());
        }
        refuse!(
            SandboxUnavailable,
            "applier.sandbox is `required`: unpacking needs Landlock and seccomp, here there is {self}"
        )
    }

    fn none(why: &str) -> Self {
        Self::of(Err(why.to_owned()), Err(String::new()))
    }

    fn of(landlock: Result<u32, String>, seccomp: Result<(), String>) -> Self {
        let (landlock, no_landlock) = match landlock {
            Ok(version) => (version, None),
            Err(why) => (0, Some(why)),
        };
        let no_seccomp = seccomp.err();
        let seccomp = no_seccomp.is_none();
        let whys = [no_landlock, no_seccomp].into_iter().flatten();
        Self {
            landlock,
            seccomp,
            lacking: whys.filter(|why| !why.is_empty()).collect::<Vec<_>>().join("; "),
        }
    }

    fn log(self, process: &'static str) -> Self {
        tracing::info!(process, level = %self, "confined by");
        self
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.landlock, self.seccomp) {
            (0, false) => f.write_str("neither Landlock nor seccomp")?,
            (0, true) => f.write_str("seccomp and no Landlock")?,
            (abi, false) => write!(f, "Landlock (version {abi}) and no seccomp")?,
            (abi, true) => write!(f, "Landlock (version {abi}) and seccomp")?,
        }
        if self.lacking.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.lacking)
        }
    }
}

/// The unpack worker: writes in `staging`, reads in `trees`, opens nothing else, starts nothing, talks to nobody but through what it holds.
/// A call that is not on its list ends it at once.
pub fn unpack(staging: BorrowedFd<'_>, trees: BorrowedFd<'_>) -> io::Result<Level> {
    limits::worker()?;
    let mut files = Files::new(&[], Others::Nobody);
    files.under_fd(trees, Rights::READ);
    files.under_fd(staging, Rights::FILL);
    Ok(Level::of(files.enforce(), calls::only_unpacking()))
}

/// As [`unpack`], with no place at all: what this machine can do, for `ensign-agent check`.
pub fn offered() -> io::Result<Level> {
    limits::worker()?;
    Ok(Level::of(
        Files::new(&[], Others::Nobody).enforce(),
        calls::only_unpacking(),
    ))
}

/// The applier: writes its own folders, starts its own program alone, reaches nobody but through local sockets.
pub fn applier(paths: &Paths) -> io::Result<Level> {
    limits::no_core(limits::Reach::ForGood)?;
    let mut files = Files::new(&[Path::new("/")], Others::Nobody);
    for place in [
        // With `labels.json`, whose next version is made beside it.
        paths.var(),
        paths.applier(),
        paths.trust(),
        paths.manifests(),
        paths.deploy(),
        paths.trees(),
        paths.staging(),
        paths.generations(),
    ] {
        files.under(&place, Rights::KEEP);
    }
    files.under(&paths.run(), Rights::LISTEN);
    files.under(Path::new("/dev/null"), Rights::WRITE_FILE);
    for program in program::own() {
        files.under(&program, Rights::EXECUTE);
    }
    let calls = calls::refuse(&calls::LOCAL, calls::Programs::Own);
    Ok(Level::of(files.enforce(), calls).log("applier"))
}

/// The link half: writes its own folder, starts nothing. `ready_file` is where the administrator wants to hear that it is ready.
pub fn link(paths: &Paths, ready_file: Option<&Path>) -> io::Result<Level> {
    if !paths.is_system() {
        limits::no_core(limits::Reach::Default)?;
        let why = "under --root it starts the runner, and hooks would inherit it";
        return Ok(Level::none(why).log("link"));
    }
    link_without_children(paths, ready_file)
}

/// As [`link`] where systemd starts the others.
pub fn link_without_children(paths: &Paths, ready_file: Option<&Path>) -> io::Result<Level> {
    limits::no_core(limits::Reach::ForGood)?;
    let mut files = Files::new(&[Path::new("/")], Others::Anybody);
    files.under(&paths.link(), Rights::FILL);
    files.under(&paths.run(), Rights::LISTEN);
    if let Some(parent) = ready_file.and_then(Path::parent) {
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        files.under(parent, Rights::FILL);
    }
    let calls = calls::refuse(&calls::INTERNET, calls::Programs::None);
    Ok(Level::of(files.enforce(), calls).log("link"))
}

/// Whoever only answers a question about files (`ensign-applier state|verify`): changes nothing, starts nothing, reaches nobody.
pub fn reader() -> io::Result<Level> {
    limits::no_core(limits::Reach::ForGood)?;
    let files = Files::new(&[Path::new("/")], Others::Nobody);
    let calls = calls::refuse(&calls::LOCAL, calls::Programs::None);
    Ok(Level::of(files.enforce(), calls))
}

/// The runner, which is left as it is.
pub fn runner() {
    Level::none("hooks and probes would inherit it; its unit confines it").log("runner");
}

/// The reason for a worker that the kernel ended for a call that is not on its list.
pub fn violation() -> Refusal {
    Refusal::new(
        Code::SandboxViolation,
        "the unpack worker made a call that it may not make, and was ended (SIGSYS): nothing of what it wrote is used",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_says_what_is_there_and_why_not_more() {
        let why = "the kernel has none".to_owned();
        let whole = Level::of(Ok(3), Ok(()));
        assert_eq!(whole.to_string(), "Landlock (version 3) and seccomp");
        assert!(whole.require().is_ok());
        let half = Level::of(Err(why.clone()), Ok(()));
        let refusal = half.require().unwrap_err();
        assert_eq!(refusal.code, Code::SandboxUnavailable);
        assert!(
            refusal.text.ends_with("seccomp and no Landlock: the kernel has none"),
            "{refusal}"
        );
        assert!(Level::of(Ok(1), Err(why)).require().is_err());
        assert_eq!(Level::none("so").to_string(), "neither Landlock nor seccomp: so");
    }
}
