//! Units: through systemd on the machine's own root, through a hook elsewhere.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::child::{self, Bounds, Leftovers};
use super::exec::{judge, not_allowed};
use super::failed;
use crate::config::require_owned;
use crate::ipc::{FromRunner, UnitVerb};
use crate::paths::Paths;

/// Longest run of a hook.
const HOOK: Duration = Duration::from_secs(30);
/// Longest wait for a job of systemd: its own default is 90 s to start and 90 s to stop.
const JOB: Duration = Duration::from_secs(180);
/// By fixed path: no environment decides what runs here.
const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// Of hooks: what the system itself brings, whatever this process was started with.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest name of a unit (systemd.unit(5)).
const NAME_BYTES: usize = 255;

/// Starts, stops or asks for a unit.
pub(super) fn perform(
    paths: &Paths,
    allowed: &[String],
    verb: UnitVerb,
    name: &str,
    parent: Option<BorrowedFd<'_>>,
) -> FromRunner {
    if !well_formed(name) {
        return not_allowed(format!(
            "`{}` is no name of a unit",
            ensign_bundle::text::printable(name, 80)
        ));
    }
    if paths.is_system() {
        return systemd(allowed, verb, name);
    }
    let hook = paths.unit_hook();
    if !hook.exists() {
        return FromRunner::NotManaged;
    }
    match command(paths, &hook) {
        Ok(mut command) => run(command.arg(verb_name(verb)).arg(name), Bounds { time: HOOK, parent }),
        Err(refused) => refused,
    }
}

/// Runs the hook that tells applications about new labels, if there is one.
pub(super) fn labels_changed(paths: &Paths, parent: Option<BorrowedFd<'_>>) -> FromRunner {
    let hook = paths.labels_hook();
    if !hook.exists() {
        return FromRunner::Ok;
    }
    match command(paths, &hook) {
        Ok(mut command) => run(command.arg(paths.labels()), Bounds { time: HOOK, parent }),
        Err(refused) => refused,
    }
}

/// A hook that nobody else could have written, with an environment of its own: `PATH` and `ENSIGN_ROOT`.
fn command(paths: &Paths, hook: &Path) -> Result<Command, FromRunner> {
    require_owned(paths, hook).map_err(|why| {
        tracing::warn!(hook = %hook.display(), why, "a hook is not run");
        not_allowed(format!("the hook is not run: {why}"))
    })?;
    let mut command = Command::new(hook);
    command.env_clear().env("PATH", PATH).env("ENSIGN_ROOT", paths.root());
    Ok(command)
}

fn systemd(allowed: &[String], verb: UnitVerb, name: &str) -> FromRunner {
    if is_off_limits(name) {
        return not_allowed(format!("{name} is never touched"));
    }
    if !allowed.iter().any(|unit| unit == name) {
        return not_allowed(format!("{name} is not in runner.units of agent.toml"));
    }
    let mut command = Command::new(SYSTEMCTL);
    command
        .args(["--no-ask-password", "--no-pager", verb_name(verb), "--", name])
        .env_clear();
    let bounds = Bounds {
        time: JOB,
        parent: None,
    };
    of_unit(verb, run(&mut command, bounds))
}

/// What `systemctl is-active` prints of a unit whose state is `failed`.
fn of_unit(verb: UnitVerb, answer: FromRunner) -> FromRunner {
    match answer {
        FromRunner::Failed { text } if verb == UnitVerb::IsActive && text.trim_end().ends_with("failed") => {
            FromRunner::UnitFailed { text }
        }
        answer => answer,
    }
}

fn run(command: &mut Command, bounds: Bounds<'_>) -> FromRunner {
    match child::run(command, bounds, Leftovers::Keep) {
        Ok(outcome) => judge(&outcome, bounds.time),
        Err(error) => failed(format!(
            "{} cannot be started: {error}",
            Path::new(command.get_program()).display()
        )),
    }
}

fn verb_name(verb: UnitVerb) -> &'static str {
    match verb {
        UnitVerb::Start => "start",
        UnitVerb::Stop => "stop",
        UnitVerb::IsActive => "is-active",
    }
}

/// A name as systemd takes it, with its type: no path, no option, no pattern.
fn well_formed(name: &str) -> bool {
    let (stem, kind) = name.rsplit_once('.').unwrap_or(("", ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '@' | '\\');
    name.len() <= NAME_BYTES
        && !stem.is_empty()
        && !name.starts_with(['-', '.'])
        && name.chars().all(plain)
        && matches!(kind, "service" | "socket" | "timer" | "target" | "path" | "mount")
}

/// What no allow-list can open: Ensign itself, systemd itself, and the ways in for whoever must mend the device.
fn is_off_limits(name: &str) -> bool {
    const PREFIXES: [&str; 6] = ["ensign", "systemd-", "ssh", "dropbear", "getty", "init."];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || name.contains("getty")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(hook: Option<&str>) -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        if let Some(body) = hook {
            std::fs::create_dir_all(paths.unit_hook().parent().unwrap()).unwrap();
            let text = format!("#!/bin/sh\n{body}\n");
            crate::durable::write(&paths.unit_hook(), text.as_bytes(), 0o755).unwrap();
        }
        (dir, paths)
    }

    #[test]
    fn a_hook_decides_for_itself_and_gets_verb_and_name() {
        let (_dir, paths) = device(Some(
            "echo \"$1 $2\" >> \"$ENSIGN_ROOT/calls\"; test \"$1\" != stop || { echo no; exit 4; }",
        ));
        let ask = |verb| perform(&paths, &[], verb, "web.service", None);
        assert_eq!(ask(UnitVerb::Start), FromRunner::Ok);
        assert_eq!(ask(UnitVerb::IsActive), FromRunner::Ok);
        assert_eq!(ask(UnitVerb::Stop), failed("exit status: 4: no"));
        let calls = std::fs::read_to_string(paths.root().join("calls")).unwrap();
        assert_eq!(calls, "start web.service\nis-active web.service\nstop web.service\n");
    }

    #[test]
    fn a_hook_that_others_could_have_written_is_not_run() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_dir, paths) = device(Some("touch \"$ENSIGN_ROOT/ran\""));
        let labels = paths.labels_hook();
        std::fs::copy(paths.unit_hook(), &labels).unwrap();
        let hooks = labels.parent().unwrap().to_owned();
        for (place, mode) in [(paths.unit_hook(), 0o757), (labels, 0o775), (hooks, 0o777)] {
            let before = std::fs::metadata(&place).unwrap().permissions();
            std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).unwrap();
            let answers = [
                perform(&paths, &[], UnitVerb::Start, "web.service", None),
                labels_changed(&paths, None),
            ];
            let refused = answers.iter().filter(|a| matches!(a, FromRunner::Refused(_))).count();
            assert_eq!(refused, if place.is_dir() { 2 } else { 1 }, "{place:?}");
            let ran = std::fs::remove_file(paths.root().join("ran")).is_ok();
            assert_eq!(ran, !place.is_dir(), "{place:?}");
            std::fs::set_permissions(&place, before).unwrap();
        }
    }

    #[test]
    fn a_hook_sees_nothing_of_our_environment() {
        let body = "env | cut -d= -f1 | grep -v '^PWD$\\|^SHLVL$\\|^_$\\|^OLDPWD$' | sort > \"$ENSIGN_ROOT/names\"";
        let (_dir, paths) = device(Some(body));
        assert_eq!(
            perform(&paths, &[], UnitVerb::Start, "web.service", None),
            FromRunner::Ok
        );
        let names = std::fs::read_to_string(paths.root().join("names")).unwrap();
        assert_eq!(names, "ENSIGN_ROOT\nPATH\n");
    }

    #[test]
    fn what_a_hook_starts_keeps_running() {
        let (_dir, paths) = device(Some("sleep 1000 & echo $! > \"$ENSIGN_ROOT/pid\""));
        assert_eq!(
            perform(&paths, &[], UnitVerb::Start, "web.service", None),
            FromRunner::Ok
        );
        let pid = std::fs::read_to_string(paths.root().join("pid")).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    /// A unit that systemd has given up on is known by the answer of `is-active` alone.
    #[test]
    fn a_unit_is_gone_where_systemd_calls_it_failed() {
        let says = |state: &str| failed(format!("exit status: 3: {state}"));
        let gone = FromRunner::UnitFailed {
            text: "exit status: 3: failed".to_owned(),
        };
        assert_eq!(of_unit(UnitVerb::IsActive, says("failed")), gone);
        for state in ["activating", "inactive", "deactivating"] {
            assert_eq!(of_unit(UnitVerb::IsActive, says(state)), says(state));
        }
        assert_eq!(of_unit(UnitVerb::Start, says("failed")), says("failed"));
        assert_eq!(of_unit(UnitVerb::IsActive, FromRunner::Ok), FromRunner::Ok);
    }

    /// The limit of hooks is [`HOOK`]; here it is shorter, nothing else differs.
    #[test]
    fn a_hook_that_hangs_is_killed_with_its_children() {
        let (_dir, paths) = device(Some("sleep 1000 & echo $! > \"$ENSIGN_ROOT/pid\"; wait"));
        let mut hook = Command::new(paths.unit_hook());
        hook.env("ENSIGN_ROOT", paths.root());
        let started = crate::clock::boot();
        let bounds = Bounds {
            time: Duration::from_secs(1),
            parent: None,
        };
        assert_eq!(run(&mut hook, bounds), failed("killed after 1 s"));
        assert!(crate::clock::boot() < started + HOOK);
        let pid = std::fs::read_to_string(paths.root().join("pid")).unwrap();
        assert!(child::tests::gone(pid.trim()), "{pid}");
        assert_eq!(HOOK.as_secs(), 30);
    }

    #[test]
    fn without_a_hook_nothing_is_managed() {
        let (_dir, paths) = device(None);
        assert_eq!(
            perform(&paths, &[], UnitVerb::Start, "web.service", None),
            FromRunner::NotManaged
        );
    }

    #[test]
    fn names_that_are_no_units_are_refused_before_anything_runs() {
        let (_dir, paths) = device(Some("exit 0"));
        for name in [
            "",
            "web",
            "--force.service",
            "../x.service",
            "a b.service",
            "*.service",
            ".service",
            "x.slice",
        ] {
            let answer = perform(&paths, &[], UnitVerb::Start, name, None);
            assert!(matches!(answer, FromRunner::Refused(_)), "{name}: {answer:?}");
        }
    }

    #[test]
    fn systemd_units_need_the_allow_list_and_some_never_pass() {
        let allowed: Vec<String> = [
            "ssh.service",
            "ensign-agent.service",
            "systemd-networkd.service",
            "getty@tty1.service",
        ]
        .map(String::from)
        .to_vec();
        for name in [
            "ssh.service",
            "ensign-agent.service",
            "systemd-networkd.service",
            "getty@tty1.service",
            "web.service",
        ] {
            let answer = systemd(&allowed, UnitVerb::Stop, name);
            assert!(matches!(answer, FromRunner::Refused(_)), "{name}: {answer:?}");
        }
    }
}
