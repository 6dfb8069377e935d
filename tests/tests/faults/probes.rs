//! Releases that do not get healthy: a probe that hangs, a unit that keeps falling over, a unit that cannot be started.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use ensign_bundle::reason::Code;
use ensign_tests::harness::{ALL_AT_ONCE, Fleet, Profile, build, put, write_tree};

/// A device on 1.0.0, and 1.1.0 whose probe is this script.
fn with_probe(script: &str, deadline: &str) -> Result<(Fleet, PathBuf)> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("check!", script), ("version", "1.1.0")])?;
    let health = [
        "--health",
        "exec:check",
        "--health-window",
        "1s",
        "--health-deadline",
        deadline,
    ];
    fleet.release("1.1.0", &[("web", &tree)], &health)?;
    Ok((fleet, first))
}

/// 1.1.0 halts its rollout, the device goes back by itself and says why with one of these codes.
fn comes_back(fleet: &Fleet, codes: &[Code], values: &[&str]) -> Result<()> {
    let exit = fleet.rollout("1.1.0", &["--waves", "100%", "--soak", "0s", "--stop-failed", "1"])?;
    assert_eq!(exit, 10, "{}", fleet.logs());
    let why = fleet.json(["device", "why", "dev1"])?;
    let (code, text) = (
        why["reason"]["code"].clone(),
        why["reason"]["text"].as_str().unwrap_or_default().to_owned(),
    );
    assert!(codes.iter().any(|c| code == c.name()), "{codes:?} were expected: {why}");
    for value in values {
        assert!(text.contains(value), "`{value}` is not named: {why}");
    }
    assert!(why["hint"].as_str().is_some_and(|h| !h.is_empty()), "{why}");
    let status = fleet.status("dev1")?;
    assert_eq!(status["status"], "rolled-back", "{status}");
    // What failed here is not tried again by the next plan for it.
    let again = fleet.rollout("1.1.0", &["--waves", "100%", "--soak", "0s", "--stop-failed", "1"])?;
    assert_eq!(again, 10, "{}", fleet.logs());
    fleet.wait_for_refusal("dev1", Code::Denied, &["app/1.1.0"])
}

#[test]
fn a_probe_that_hangs_does_not_hold_the_device() -> Result<()> {
    // Found again by its number, which is this run's own.
    let sleep = format!("86400.{}", std::process::id());
    let (fleet, first) = with_probe(&format!("#!/bin/sh\nsleep {sleep} &\nexec sleep {sleep}\n"), "3s")?;
    comes_back(&fleet, &[Code::TrialDeadline, Code::Unhealthy], &[])?;
    fleet.runs("dev1", &first)?;
    fleet.wait_for("nothing of the probe is left", |_| {
        let command = format!("sleep\0{sleep}\0");
        let processes = fs::read_dir("/proc")?.flatten();
        let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        Ok(lines.filter(|line| line == command.as_bytes()).count() == 0)
    })?;
    fleet.goes_on("1.2.0")?;
    Ok(())
}

/// The runner is the parent of its probes, and of the same user.
#[test]
fn a_probe_that_kills_the_runner_does_not_stay() -> Result<()> {
    let (fleet, first) = with_probe("#!/bin/sh\nkill -9 $PPID\nsleep 5\n", "20s")?;
    comes_back(
        &fleet,
        &[Code::Unhealthy, Code::TrialDeadline],
        &["web/check", "runner was lost"],
    )?;
    fleet.runs("dev1", &first)?;
    fleet.goes_on("1.2.0")?;
    Ok(())
}

/// A stopped process keeps its connections: nothing tells the applier that no answer will come.
#[test]
fn a_runner_that_hangs_does_not_hold_the_device_past_the_deadline() -> Result<()> {
    // So that the runner goes on at last, whatever becomes of the test.
    let script = "#!/bin/sh\nkill -STOP $PPID\nsleep 60\nkill -CONT $PPID\n";
    let (fleet, first) = with_probe(script, "5s")?;
    comes_back(&fleet, &[Code::TrialDeadline], &["web/check", "has not answered"])?;
    fleet.runs("dev1", &first)
}

/// A unit is active unless its component holds a file `broken`; it cannot be restarted where that says so.
const HOOK: &str = "#!/bin/sh
broken=\"$ENSIGN_ROOT/var/lib/ensign/deploy/current/web/broken\"
case \"$1\" in
  restart|start) [ \"$(cat \"$broken\" 2>/dev/null)\" != restart ] || { echo 'main process exited' >&2; exit 1; } ;;
  is-active) [ ! -e \"$broken\" ] || { echo failed; exit 3; } ;;
esac
exit 0
";

fn with_unit(how: &str, codes: &[Code], values: &[&str]) -> Result<()> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    put(&fleet.root("dev1").join("etc/ensign/hooks/unit"), HOOK, 0o755)?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("broken", how), ("version", "1.1.0")])?;
    let unit = [
        "--unit",
        "web=web.service",
        "--health",
        "unit:web.service",
        "--health-window",
        "1s",
        "--health-deadline",
        "20s",
    ];
    fleet.release("1.1.0", &[("web", &tree)], &unit)?;
    comes_back(&fleet, codes, values)?;
    fleet.runs("dev1", &first)?;
    fleet.goes_on("1.2.0")?;
    assert_eq!(fleet.rollout("1.2.0", ALL_AT_ONCE)?, 0);
    Ok(())
}

#[test]
fn a_unit_that_keeps_falling_over_is_taken_back() -> Result<()> {
    with_unit("crash", &[Code::UnitFailed, Code::Unhealthy], &["web.service"])
}

#[test]
fn a_unit_that_cannot_be_restarted_is_taken_back() -> Result<()> {
    with_unit("restart", &[Code::UnitFailed], &["web.service"])
}
