//! `ensign-agent check`: is this machine fit to be a device? A line per question, with the remedy; before enrolment too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ensign_bundle::wire;
use ensign_crypto::{KeyId, SecretKey};
use nix::sys::statvfs::statvfs;
use serde::Serialize;

use crate::applier::{self, questions};
use crate::chain::chain;
use crate::clock;
use crate::config::{Config, Reader, Sandbox};
use crate::link::identity::Device;
use crate::link::session::{self, ConnectError, Target};
use crate::paths::Paths;

/// First kernel with openat2 and pidfd_getfd, without which nothing works.
const KERNEL_NEEDED: (u32, u32) = (5, 6);
/// First kernel with Landlock.
const KERNEL_WANTED: (u32, u32) = (5, 13);
/// Below this an ordinary release hardly fits, bytes.
const ROOMY_BYTES: u64 = 256 << 20;
/// Files of an ordinary release.
const ROOMY_INODES: u64 = 10_000;
/// A clock before this (2026-01-01) was never set.
const CLOCK_SANE: u64 = 1_767_225_600;
/// Longest wait for the controller.
const UDP: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    Warn,
    Fail,
}

/// One answered question.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub name: &'static str,
    pub state: State,
    pub text: String,
    pub remedy: Option<&'static str>,
}

impl Line {
    fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            text: text.into(),
            remedy: None,
        }
    }

    fn warn(name: &'static str, text: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            name,
            state: State::Warn,
            text: text.into(),
            remedy: Some(remedy),
        }
    }

    fn fail(name: &'static str, text: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            state: State::Fail,
            ..Self::warn(name, text, remedy)
        }
    }
}

/// Asks everything. `controller` goes before the addresses known here.
pub(super) fn lines(paths: &Paths, controller: &[String]) -> Vec<Line> {
    let config = Config::load(paths, Reader::Link);
    let reserve = config.as_ref().map_or(0, |c| c.applier.reserve_bytes);
    let mut lines = vec![
        match &config {
            Ok(_) => Line::ok("config", "readable"),
            Err(error) => Line::fail("config", chain(error), "mend the named file"),
        },
        kernel(),
        sandbox(
            paths,
            config
                .as_ref()
                .map_or_else(|_| Sandbox::default(), |c| c.applier.sandbox),
        ),
        systemd(paths),
        mount(paths),
        sharing(paths),
    ];
    lines.extend(room(paths, reserve));
    lines.push(time());
    lines.push(udp(paths, config.ok(), controller));
    lines
}

fn kernel() -> Line {
    let release = nix::sys::utsname::uname()
        .map(|u| u.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < KERNEL_NEEDED {
        Line::fail("kernel", release, "Linux 5.6 or newer is needed")
    } else if version < KERNEL_WANTED {
        Line::warn("kernel", release, "Linux 5.13 or newer confines what unpacks releases")
    } else {
        Line::ok("kernel", release)
    }
}

/// What confines the process that unpacks releases, tried by a process that confines itself so.
fn sandbox(paths: &Paths, wanted: Sandbox) -> Line {
    const REMEDY: &str = "a kernel from 5.13 with Landlock in `lsm=`, and seccomp filters";
    const OR: &str =
        "a kernel from 5.13 with Landlock in `lsm=`, and seccomp filters; or `applier.sandbox = \"best-available\"`";
    let required = wanted == Sandbox::Required;
    match questions::sandbox(paths) {
        Ok(level) if level.is_whole() => Line::ok("sandbox", level.to_string()),
        Ok(level) if required => Line::fail("sandbox", format!("{level}; applier.sandbox is `required`"), OR),
        Ok(level) => Line::warn("sandbox", level.to_string(), REMEDY),
        Err(refusal) => Line::warn(
            "sandbox",
            format!("not known: {}", refusal.text),
            "ensign-applier beside ensign-agent, or in PATH",
        ),
    }
}

fn systemd(paths: &Paths) -> Line {
    if !paths.is_system() {
        Line::ok("systemd", "not used under --root: units are managed by hooks/unit")
    } else if Path::new("/run/systemd/system").is_dir() {
        Line::ok("systemd", "runs")
    } else {
        Line::fail(
            "systemd",
            "does not run",
            "use --root DIR with a hook in etc/ensign/hooks/unit",
        )
    }
}

/// Trees become live by a rename, so staging must lie on their file system.
fn mount(paths: &Paths) -> Line {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(existing(path)).map(|m| m.dev());
    match (
        device(&paths.staging()),
        device(&paths.trees()),
        device(&paths.deploy()),
    ) {
        (Ok(a), Ok(b), Ok(c)) if a == b && b == c => Line::ok("mount", "staging and trees share a file system"),
        (Ok(_), Ok(_), Ok(_)) => Line::fail(
            "mount",
            "staging, trees and generations lie on several file systems",
            "one mount for all of var/lib/ensign/deploy",
        ),
        _ => Line::fail(
            "mount",
            "var/lib/ensign/deploy cannot be read",
            "run as root, or check --root",
        ),
    }
}

/// Whether unchanged files can be shared between releases.
fn sharing(paths: &Paths) -> Line {
    let place = existing(&paths.staging());
    match try_sharing(&place) {
        Ok(Sharing::Reflink) => Line::ok("sharing", "reflinks: unchanged files take no room"),
        Ok(Sharing::Hardlink) => Line::ok("sharing", "hard links: unchanged files take no room"),
        Ok(Sharing::Copy) => Line::warn(
            "sharing",
            "neither reflinks nor hard links: unchanged files are copied",
            "a file system such as ext4, xfs or btrfs",
        ),
        Err(error) => Line::warn(
            "sharing",
            format!("{} cannot be written: {error}", place.display()),
            "run as root to see it",
        ),
    }
}

enum Sharing {
    Reflink,
    Hardlink,
    Copy,
}

fn try_sharing(place: &Path) -> std::io::Result<Sharing> {
    let dir = tempfile::Builder::new().prefix(".ensign-check").tempdir_in(place)?;
    let source = dir.path().join("a");
    crate::durable::write_lossy(&source, &[1; 8192], 0o600)?;
    let cloned = File::create(dir.path().join("b"))?;
    if rustix::fs::ioctl_ficlone(&cloned, File::open(&source)?).is_ok() {
        return Ok(Sharing::Reflink);
    }
    Ok(match fs::hard_link(&source, dir.path().join("c")) {
        Ok(()) => Sharing::Hardlink,
        Err(_) => Sharing::Copy,
    })
}

fn room(paths: &Paths, reserve: u64) -> [Line; 2] {
    const REMEDY: &str = "free space where var/lib/ensign/deploy lies";
    let place = existing(&paths.deploy());
    let vfs = match statvfs(&place) {
        Ok(vfs) => vfs,
        Err(error) => {
            let text = format!("{}: {error}", place.display());
            return [
                Line::fail("space", text.clone(), REMEDY),
                Line::fail("inodes", text, REMEDY),
            ];
        }
    };
    let bytes = vfs.blocks_available().saturating_mul(vfs.fragment_size());
    let text = format!("{} MiB free", bytes >> 20);
    let space = if bytes <= reserve {
        Line::fail("space", text, REMEDY)
    } else if bytes - reserve < ROOMY_BYTES {
        Line::warn("space", text, REMEDY)
    } else {
        Line::ok("space", text)
    };
    let (free, all) = (vfs.files_available(), vfs.files());
    let inodes = if all == 0 {
        Line::ok("inodes", "made as needed")
    } else if free < ROOMY_INODES {
        Line::warn("inodes", format!("{free} free"), REMEDY)
    } else {
        Line::ok("inodes", format!("{free} free"))
    };
    [space, inodes]
}

fn time() -> Line {
    let now = clock::unix();
    let shown = super::output::time(now);
    if now < CLOCK_SANE {
        Line::fail("clock", shown, "set the clock: timedatectl set-ntp true")
    } else if clock::synchronised() {
        Line::ok("clock", format!("{shown}, synchronised"))
    } else {
        Line::warn(
            "clock",
            format!("{shown}, nothing says that it is synchronised"),
            "timedatectl set-ntp true",
        )
    }
}

/// A handshake over UDP. Who is not enrolled knows no key to expect: any key that answers shows that packets pass.
fn udp(paths: &Paths, config: Option<Config>, controller: &[String]) -> Line {
    const REMEDY: &str = "open UDP to the controller's port; check the address and that the controller runs";
    let device = Device::load(paths).ok().flatten();
    let config = config.unwrap_or_default();
    // What root says by now counts, as it does for the link; what the token said is from the day that the device joined.
    let state = applier::state_from_files(paths).ok().flatten();
    let root = state.and_then(|state| state.controller);
    let given = [
        controller.to_vec(),
        config.controller.addresses.clone(),
        root.as_ref().map(|c| c.addresses.clone()).unwrap_or_default(),
        device.as_ref().map(|d| d.addresses.clone()).unwrap_or_default(),
    ];
    let addresses = given.into_iter().find(|a| !a.is_empty());
    let Some(addresses) = addresses else {
        return Line::warn(
            "udp",
            "no controller is known yet",
            "`ensign-agent check --controller HOST:PORT`",
        );
    };
    let target = Target {
        addresses,
        pins: root
            .map(|c| c.keys)
            .filter(|keys| !keys.is_empty())
            .unwrap_or_else(|| device.iter().map(|d| d.pin).collect()),
        keep_alive: config.link.keep_alive,
        idle_timeout: config.link.idle_timeout,
    };
    let shown = target.addresses.join(", ");
    match handshake(&target) {
        Ok(()) => Line::ok("udp", format!("{shown} answers with the pinned key")),
        Err(Some(ConnectError::WrongKey { shown: key, .. })) if device.is_none() => {
            Line::ok("udp", format!("{shown} answers with key {}", short(&key)))
        }
        Err(Some(error @ ConnectError::WrongKey { .. })) => {
            Line::fail("udp", error.to_string(), "check who answers there")
        }
        Err(Some(error)) => Line::fail("udp", chain(&error), REMEDY),
        Err(None) => Line::fail(
            "udp",
            format!("{shown} does not answer within {} s", UDP.as_secs()),
            REMEDY,
        ),
    }
}

fn handshake(target: &Target) -> Result<(), Option<ConnectError>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Some(ConnectError::Socket(e)))?;
    // A key of no one: the handshake is broken off before anything is asked.
    let mut seed = [0; ensign_crypto::KEY_BYTES];
    getrandom::fill(&mut seed).map_err(|e| Some(ConnectError::Socket(e.into())))?;
    let key = SecretKey::from_seed(seed);
    let done = runtime.block_on(async {
        let connected = tokio::time::timeout(UDP, session::connect(target, &key, wire::ALPN_ENROLL)).await;
        match connected {
            Ok(Ok(connected)) => {
                connected.close().await;
                Ok(())
            }
            Ok(Err(error)) => Err(Some(error)),
            Err(_) => Err(None),
        }
    });
    runtime.shutdown_background();
    done
}

fn short(key: &KeyId) -> String {
    key.to_string().chars().take(16).collect()
}

/// The path or the nearest directory above it that exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors()
        .find(|p| p.exists())
        .map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_enrolment_every_question_has_an_answer_and_only_warnings_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let lines = lines(&Paths::new(dir.path()), &[]);
        let names: Vec<_> = lines.iter().map(|l| l.name).collect();
        assert_eq!(
            names,
            [
                "config", "kernel", "sandbox", "systemd", "mount", "sharing", "space", "inodes", "clock", "udp"
            ]
        );
        for line in &lines {
            assert_eq!(line.state == State::Ok, line.remedy.is_none(), "{line:?}");
        }
    }

    #[test]
    fn a_silent_controller_and_a_bad_config_fail() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        fs::create_dir_all(paths.etc()).unwrap();
        crate::durable::write(&paths.etc().join("agent.toml"), b"nonsense = 1", 0o644).unwrap();
        // Bound and never read: nobody answers.
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let lines = lines(&paths, &[silent.local_addr().unwrap().to_string()]);
        for name in ["config", "udp"] {
            let line = lines.iter().find(|l| l.name == name).unwrap();
            assert_eq!(line.state, State::Fail, "{line:?}");
        }
    }
}
