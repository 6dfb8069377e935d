//! Probes: a program inside the live component, argv without a shell, a clean environment, and no way to outlive its time.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ensign_bundle::ids::Ident;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;

use super::child::{self, Bounds, Ended, Leftovers};
use super::{failed, refused};
use crate::ipc::FromRunner;
use crate::paths::Paths;

/// Longest time of one probe, seconds, whatever is asked for.
const MAX_TIMEOUT_S: u64 = 10;
/// Words of a probe's command line.
const MAX_ARGS: usize = 256;

/// See [`crate::ipc::ToRunner::Exec`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe<'a> {
    pub component: &'a str,
    pub args: &'a [String],
    pub product: &'a str,
    pub version: &'a str,
    pub timeout_s: u64,
}

pub(super) fn perform(paths: &Paths, probe: &Probe<'_>, parent: Option<BorrowedFd<'_>>) -> FromRunner {
    let mut command = match command(paths, probe) {
        Ok(command) => command,
        Err(refusal) => return FromRunner::Refused(refusal),
    };
    let time = limit(probe.timeout_s);
    match child::run(&mut command, Bounds { time, parent }, Leftovers::Kill) {
        Err(error) => failed(format!("{} cannot be started: {error}", probe.args.join(" "))),
        Ok(outcome) => judge(&outcome, time),
    }
}

fn limit(timeout_s: u64) -> Duration {
    Duration::from_secs(timeout_s.clamp(1, MAX_TIMEOUT_S))
}

/// Success, or how it failed with the last line it printed.
pub(super) fn judge(outcome: &child::Outcome, timeout: Duration) -> FromRunner {
    let how = match outcome.ended {
        Ended::Exited(status) if status.success() => return FromRunner::Ok,
        Ended::Exited(status) => status.to_string(),
        Ended::TimedOut => format!("killed after {} s", timeout.as_secs()),
        Ended::Stopped => "stopped: the device's processes are ending".to_owned(),
    };
    if outcome.last_line.is_empty() {
        failed(how)
    } else {
        failed(format!("{how}: {}", outcome.last_line))
    }
}

fn command(paths: &Paths, probe: &Probe<'_>) -> Result<Command, Refusal> {
    let component = Ident::parse(probe.component).map_err(|e| Refusal::new(Code::PathRefused, e.to_string()))?;
    let Some((program, arguments)) = probe.args.split_first() else {
        return refuse!(Malformed, "the probe of {component} has no program");
    };
    if probe.args.len() > MAX_ARGS {
        return refuse!(
            LimitExceeded,
            "the probe has {} words, at most {MAX_ARGS} are allowed",
            probe.args.len()
        );
    }
    let live = fs::canonicalize(paths.live(component.as_str()))
        .map_err(|e| Refusal::new(Code::NotFound, format!("component {component}: {e}")))?;
    let program = inside(&live, program)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(&live)
        .env_clear()
        .env("ENSIGN_PRODUCT", probe.product)
        .env("ENSIGN_VERSION", probe.version)
        .env("ENSIGN_COMPONENT", component.as_str())
        .env("ENSIGN_ROOT", paths.root())
        .env("ENSIGN_DATA", paths.data().join(component.as_str()));
    Ok(command)
}

/// The program's real path, refused where it or a link on the way leads out of the component.
fn inside(live: &Path, program: &str) -> Result<PathBuf, Refusal> {
    let named = Path::new(program);
    let plain = named
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !plain || program.is_empty() {
        return refuse!(PathRefused, "`{program}` is not a path inside the component");
    }
    let real =
        fs::canonicalize(live.join(named)).map_err(|e| Refusal::new(Code::NotFound, format!("`{program}`: {e}")))?;
    if !real.starts_with(live) {
        return refuse!(PathRefused, "`{program}` leads out of the component");
    }
    Ok(real)
}

/// For verbs of other modules that were refused before anything ran.
pub(super) fn not_allowed(text: String) -> FromRunner {
    refused(Code::NotAuthorised, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Device {
        _dir: tempfile::TempDir,
        paths: Paths,
    }

    /// A device whose component `app` has these scripts.
    fn device(scripts: &[(&str, &str)]) -> Device {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let tree = paths.trees().join("aa");
        fs::create_dir_all(&tree).unwrap();
        fs::create_dir_all(paths.generations().join("1")).unwrap();
        for (name, body) in scripts {
            let path = tree.join(name);
            crate::durable::write(&path, format!("#!/bin/sh\n{body}\n").as_bytes(), 0o755).unwrap();
        }
        symlink(&tree, paths.generations().join("1/app")).unwrap();
        symlink("generations/1", paths.current()).unwrap();
        Device { _dir: dir, paths }
    }

    fn probe(device: &Device, args: &[&str], timeout_s: u64) -> FromRunner {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        perform(
            &device.paths,
            &Probe {
                component: "app",
                args: &args,
                product: "shop",
                version: "1.2.3",
                timeout_s,
            },
            None,
        )
    }

    #[test]
    fn exit_codes_decide_and_the_last_line_is_told() {
        let device = device(&[
            ("good", "echo fine"),
            ("bad", "echo one; echo 'disk \u{1b}[2J full' >&2; exit 3"),
            ("dead", "kill -SEGV $$"),
        ]);
        assert_eq!(probe(&device, &["good"], 5), FromRunner::Ok);
        assert_eq!(
            probe(&device, &["bad"], 5),
            failed("exit status: 3: disk \\u{1b}[2J full")
        );
        assert!(matches!(probe(&device, &["dead"], 5), FromRunner::Failed { text } if text.contains("signal: 11")));
    }

    #[test]
    fn sees_its_arguments_as_they_are_and_nothing_of_our_environment() {
        let body = "test \"$#\" = 2 && test \"$1\" = 'a b' && test \"$2\" = '$HOME' || { echo \"args $@\"; exit 1; }
            test \"$(pwd -P)\" = \"$(cd -P \"$ENSIGN_ROOT/var/lib/ensign/deploy/current/app\" && pwd -P)\" || { pwd; exit 2; }
            test \"$ENSIGN_PRODUCT/$ENSIGN_VERSION/$ENSIGN_COMPONENT\" = shop/1.2.3/app || exit 3
            test \"$ENSIGN_DATA\" = \"$ENSIGN_ROOT/var/lib/ensign/data/app\" || exit 4
            test -z \"$HOME$CARGO_PKG_NAME$USER\" || exit 5";
        let device = device(&[("check", body)]);
        assert_eq!(probe(&device, &["./check", "a b", "$HOME"], 5), FromRunner::Ok);
    }

    #[test]
    fn a_probe_that_hangs_is_killed_with_its_children() {
        let device = device(&[("hang", "sleep 1000 & echo $! > \"$ENSIGN_ROOT/pid\"; wait")]);
        let started = crate::clock::boot();
        assert_eq!(probe(&device, &["hang"], 1), failed("killed after 1 s"));
        assert!(crate::clock::boot() < started + Duration::from_secs(60));
        let pid = fs::read_to_string(device.paths.root().join("pid")).unwrap();
        assert!(child::tests::gone(pid.trim()), "{pid}");
    }

    #[test]
    fn a_greedy_probe_goes_before_the_runner() {
        let device = device(&[("dear", "until grep -qx 500 /proc/$$/oom_score_adj; do :; done")]);
        assert_eq!(probe(&device, &["dear"], 10), FromRunner::Ok);
    }

    #[test]
    fn a_probe_that_forks_and_ends_leaves_nothing_and_does_not_hang_us() {
        let device = device(&[("fork", "sleep 1000 & echo $! > \"$ENSIGN_ROOT/pid\"; echo left")]);
        let started = crate::clock::boot();
        assert_eq!(probe(&device, &["fork"], 10), FromRunner::Ok);
        assert!(crate::clock::boot() < started + Duration::from_secs(60));
        let pid = fs::read_to_string(device.paths.root().join("pid")).unwrap();
        assert!(child::tests::gone(pid.trim()), "{pid}");
    }

    /// A session of its own is a process group of its own: the kill of the probe's group does not reach it.
    #[test]
    fn a_probe_leaves_nothing_behind_in_another_session() {
        let escape = "setsid sh -c 'echo $$ > \"$ENSIGN_ROOT/pid\"; setsid sleep 1000 & echo $! > \"$ENSIGN_ROOT/second\"; wait' &
            while ! [ -s \"$ENSIGN_ROOT/second\" ]; do :; done";
        let left_nothing = |device: &Device| {
            for file in ["pid", "second"] {
                let pid = fs::read_to_string(device.paths.root().join(file)).unwrap();
                assert!(child::tests::gone(pid.trim()), "{file}: {pid}");
            }
        };
        let ends = device(&[("escape", &format!("{escape}\nexit 0"))]);
        assert_eq!(probe(&ends, &["escape"], 10), FromRunner::Ok);
        left_nothing(&ends);
        let hangs = device(&[(
            "escape",
            &format!("{escape}\n: > \"$ENSIGN_ROOT/hangs\"; exec sleep 1000"),
        )]);
        assert_eq!(
            stopped(&hangs, "escape", "hangs"),
            FromRunner::Failed {
                text: STOPPED.to_owned()
            }
        );
        left_nothing(&hangs);
    }

    #[test]
    fn a_probe_ends_with_the_device() {
        let device = device(&[("hang", ": > \"$ENSIGN_ROOT/hangs\"; exec sleep 1000")]);
        let answer = stopped(&device, "hang", "hangs");
        assert_eq!(
            answer,
            FromRunner::Failed {
                text: STOPPED.to_owned()
            }
        );
    }

    const STOPPED: &str = "stopped: the device's processes are ending";

    /// Runs a probe whose parent goes as soon as this file is there.
    fn stopped(device: &Device, script: &str, sign: &str) -> FromRunner {
        let (parent, other_end) = std::io::pipe().unwrap();
        let sign = device.paths.root().join(sign);
        let goes = std::thread::spawn(move || {
            while !sign.exists() {
                std::thread::yield_now();
            }
            drop(other_end);
        });
        let args = [script.to_owned()];
        let probe = Probe {
            component: "app",
            args: &args,
            product: "shop",
            version: "1.2.3",
            timeout_s: 10,
        };
        let answer = perform(&device.paths, &probe, Some(std::os::fd::AsFd::as_fd(&parent)));
        goes.join().unwrap();
        answer
    }

    #[test]
    fn no_probe_gets_more_than_ten_seconds() {
        assert_eq!(
            [0, 1, 7, 10, 11, u64::MAX].map(|s| limit(s).as_secs()),
            [1, 1, 7, 10, 10, 10]
        );
    }

    #[test]
    fn a_flood_of_output_is_bounded_in_time_and_memory() {
        let device = device(&[(
            "flood",
            "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done",
        )]);
        let FromRunner::Failed { text } = probe(&device, &["flood"], 1) else {
            panic!("a flood is no success");
        };
        assert!(text.starts_with("killed after 1 s: aaa"), "{text}");
        assert!(text.len() < 400);
    }

    #[test]
    fn never_leaves_the_component() {
        let device = device(&[("good", "true")]);
        let tree = fs::canonicalize(device.paths.live("app")).unwrap();
        symlink("/bin/true", tree.join("escape")).unwrap();
        symlink("good", tree.join("alias")).unwrap();
        assert_eq!(probe(&device, &["alias"], 5), FromRunner::Ok);
        for path in ["/bin/true", "../aa/good", "x/../good", "escape", ""] {
            let answer = probe(&device, &[path], 5);
            assert!(
                matches!(&answer, FromRunner::Refused(r) if r.code == Code::PathRefused),
                "{path}: {answer:?}"
            );
        }
        assert!(matches!(probe(&device, &["none"], 5), FromRunner::Refused(r) if r.code == Code::NotFound));
        assert!(matches!(probe(&device, &[], 5), FromRunner::Refused(_)));
    }
}
