//! Processes that die, hosts that are away, a port that is taken, and a device that exists twice.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ensign_bundle::reason::Code;
use ensign_tests::harness::relay::{Line, Relay};
use ensign_tests::harness::{ALL_AT_ONCE, Fleet, Profile, build, now, put, tree_of, write_tree};
use ensign_tests::random::Random;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const CLEAN: Line = Line {
    loss: 0,
    twice: 0,
    delay: Duration::ZERO,
};

/// A tree with one file of noise.
fn big_tree(root: &Path, version: &str, bytes: usize) -> Result<()> {
    let seed = version.bytes().map(u64::from).sum();
    eprintln!("seed {seed}");
    put(&root.join("version"), version, 0o644)?;
    put(&root.join("noise"), Random::new(seed).bytes(bytes), 0o644)
}

/// Bytes of all files below a folder.
fn size(root: &Path) -> u64 {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The process below a device with this name, e.g. `ensign-applier`.
fn process(fleet: &mut Fleet, device: &str, program: &str) -> Result<u32> {
    let tree = fleet.device(device)?.tree();
    let named = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
        let first = words.next().unwrap_or_default();
        match program {
            "worker" => first.ends_with("ensign-applier") && words.next().as_deref() == Some("unpack"),
            _ => first.ends_with(program) && words.next().as_deref() != Some("unpack"),
        }
    };
    tree.into_iter()
        .find(named)
        .with_context(|| format!("{device} has a process {program}"))
}

/// Kills one process of a device and starts the device again where that was its first one.
fn kill_program(fleet: &mut Fleet, device: &str, program: &str) -> Result<()> {
    let id = process(fleet, device, program)?;
    if fleet.device(device)?.kill_one(id) {
        fleet.start_device(device)?;
    }
    Ok(())
}

fn start(fleet: &Fleet, version: &str, more: &[&str]) -> Result<()> {
    let args = ["rollout", "start", "--product", "app", "--version", version, "--yes"];
    fleet.ensign(args.iter().chain(more), [""; 0])?;
    Ok(())
}

fn all_run(fleet: &Fleet, version: &str, tree: &Path) -> Result<()> {
    fleet.wait_for(&format!("every device runs {version}"), |f| {
        Ok(f.versions()?.values().all(|v| v.as_deref() == Some(version)))
    })?;
    for device in fleet.device_names() {
        fleet.runs(&device, tree)?;
    }
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_said_with_its_number() -> Result<()> {
    let bin = build(Profile::Dev)?;
    let (fleet, first) = Fleet::with_first_release(&bin, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let other = Fleet::empty(&bin)?;
    let (data, kit) = (
        other.path("controller").display().to_string(),
        other.path("kit").display().to_string(),
    );
    let args = ["serve", "--data", &data, "--kit", &kit, "--listen", fleet.address()];
    let (exit, errors) = other.exit("ensign-controller", args)?;
    assert_eq!(exit, i32::from(Code::PortInUse.exit()), "{errors}");
    for part in [fleet.address(), "port-in-use", "hint: stop the other process"] {
        assert!(errors.contains(part), "`{part}` is not in {errors}");
    }
    fleet.unmoved(&standing)?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

#[test]
fn a_controller_killed_in_the_middle_of_an_upload_shows_nothing_of_it() -> Result<()> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let tree = fleet.path("second");
    big_tree(&tree, "1.1.0", 64 << 20)?;
    let file = fleet.bundle("app", "1.1.0", &[("web", &tree)], &["--level", "1"])?;
    fleet.ensign(["release", "sign"], [&file])?;
    let blobs = fleet.path("controller/blobs");
    let before = size(&blobs);
    let mut publish = fleet
        .command("ensign")
        .args(["release", "publish", "-o", "json"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // The program is stopped as soon as something has arrived, so that the upload is not over before the controller is.
    fleet.wait_for("some of the upload has arrived", |_| Ok(size(&blobs) > before))?;
    let program = Pid::from_raw(i32::try_from(publish.id())?);
    kill(program, Signal::SIGSTOP)?;
    ensure!(
        publish.try_wait()?.is_none(),
        "the upload was over before it could be stopped"
    );
    fleet.controller()?.kill_all();
    kill(program, Signal::SIGCONT)?;
    let out = publish.wait_with_output()?;
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(30), "{errors}");
    assert!(
        errors.contains("controller-unreachable") && errors.contains(fleet.address()),
        "{errors}"
    );

    fleet.start_controller()?;
    let listed = fleet.json(["release", "ls"])?.to_string();
    assert!(!listed.contains("1.1.0"), "{listed}");
    fleet.unmoved(&standing)?;
    fleet.ensign(["release", "publish"], [&file])?;
    assert_eq!(fleet.rollout("1.1.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    fleet.runs("dev1", &tree)?;
    fleet.goes_on("1.2.0")?;
    Ok(())
}

#[test]
fn a_controller_killed_in_the_middle_of_a_rollout_goes_on_with_it() -> Result<()> {
    let (mut fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 3)?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "1.1.0")])?;
    fleet.release("1.1.0", &[("web", &tree)], &[])?;
    // The last device is away, so the rollout cannot be over before its controller is.
    fleet.device("dev3")?.stop();
    start(&fleet, "1.1.0", &["--waves", "100%", "--soak", "0s"])?;
    fleet.wait_for("some devices are done", |f| {
        Ok(f.versions()?.values().any(|v| v.as_deref() == Some("1.1.0")))
    })?;
    fleet.controller()?.kill_all();
    fleet.start_controller()?;
    fleet.start_device("dev3")?;
    all_run(&fleet, "1.1.0", &tree)?;
    fleet.wait_for("the rollout is done", |f| {
        Ok(f.json(["rollout", "status"])?["state"] == "done")
    })?;
    let wave = fleet.json(["rollout", "status"])?["waves"][0].clone();
    assert_eq!(
        (&wave["ok"], &wave["failed"], &wave["dark"]),
        (&3.into(), &0.into(), &0.into()),
        "{wave}"
    );
    fleet.goes_on("1.2.0")?;
    Ok(())
}

#[test]
fn any_process_of_a_device_may_die_in_the_middle_of_a_download() -> Result<()> {
    let victims = [
        ("dev1", "ensign-agent"),
        ("dev2", "ensign-applier"),
        ("dev3", "ensign-runner"),
        ("dev4", "worker"),
    ];
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, victims.len())?;
    let controller: SocketAddr = fleet.address().parse()?;
    let mut relays = Vec::new();
    for (device, _) in victims {
        let relay = Relay::start(controller, CLEAN, 1)?;
        fleet.device(device)?.stop();
        let config = format!("[controller]\naddresses = [\"{}\"]\n", relay.address());
        put(&fleet.root(device).join("etc/ensign/agent.toml"), config, 0o644)?;
        fleet.start_device(device)?;
        relays.push(relay);
    }
    let tree = fleet.path("second");
    big_tree(&tree, "1.1.0", 12 << 20)?;
    fleet.release("1.1.0", &[("web", &tree)], &["--level", "1"])?;
    // Half of it passes, some blocks whole on each of four streams; then the lines are dead and everybody hangs between two blocks.
    for relay in &relays {
        relay.cut_after(6 << 20);
    }
    start(&fleet, "1.1.0", ALL_AT_ONCE)?;
    for ((device, program), relay) in victims.iter().zip(&relays) {
        let staging = fleet.root(device).join("var/lib/ensign/deploy/trees/.staging");
        fleet.wait_for(&format!("{device} is in the middle of it"), |_| {
            Ok(relay.is_cut() && size(&staging) > 0)
        })?;
        let standing = fleet.standing(device, &first)?;
        kill_program(&mut fleet, device, program)?;
        fleet.unmoved(&standing)?;
        relay.cut(false);
    }
    all_run(&fleet, "1.1.0", &tree)?;
    for ((device, _), relay) in victims.iter().zip(&relays) {
        assert_eq!(relay.trouble(), None, "{device}");
        let left = size(&fleet.root(device).join("var/lib/ensign/deploy/trees/.staging"));
        assert_eq!(left, 0, "{device} left {left} bytes in its staging folder");
    }
    fleet.goes_on("1.2.0")?;
    Ok(())
}

/// Stops in the verb that the file `block` names, until that file is gone.
const HOOK: &str = "#!/bin/sh
if [ \"$(cat \"$ENSIGN_ROOT/block\" 2>/dev/null)\" = \"$1\" ]; then
  : > \"$ENSIGN_ROOT/blocked\"
  while [ -e \"$ENSIGN_ROOT/block\" ]; do sleep 0.02; done
fi
exit 0
";

#[test]
fn any_process_of_a_device_may_die_in_the_middle_of_the_switch() -> Result<()> {
    let victims = [
        ("dev1", "ensign-agent"),
        ("dev2", "ensign-applier"),
        ("dev3", "ensign-runner"),
    ];
    let mut fleet = Fleet::start(&build(Profile::Dev)?, victims.len())?;
    for (device, _) in victims {
        put(&fleet.root(device).join("etc/ensign/hooks/unit"), HOOK, 0o755)?;
    }
    let unit = ["--unit", "web=web.service"];
    let first = fleet.path("first");
    write_tree(&first, &[("version", "1.0.0")])?;
    fleet.release("1.0.0", &[("web", &first)], &unit)?;
    assert_eq!(fleet.rollout("1.0.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    // Before the pointer moves the old unit is stopped; after it the new one is started.
    for (version, verb) in [("1.1.0", "stop"), ("1.2.0", "start")] {
        let tree = fleet.path(format!("tree-{version}"));
        write_tree(&tree, &[("version", version)])?;
        fleet.release(version, &[("web", &tree)], &unit)?;
        for (device, _) in victims {
            put(&fleet.root(device).join("block"), verb, 0o644)?;
        }
        start(&fleet, version, ALL_AT_ONCE)?;
        for (device, program) in victims {
            let root = fleet.root(device);
            fleet.wait_for(&format!("{device} hangs in {verb}"), |_| {
                Ok(root.join("blocked").exists())
            })?;
            kill_program(&mut fleet, device, program)?;
            fs::remove_file(root.join("blocked"))?;
            fs::remove_file(root.join("block"))?;
        }
        all_run(&fleet, version, &tree)?;
        fleet.wait_for("the rollout is done", |f| {
            Ok(f.json(["rollout", "status"])?["state"] == "done")
        })?;
    }
    fleet.goes_on("1.3.0")?;
    Ok(())
}

#[test]
fn a_device_that_is_away_for_a_wave_catches_up() -> Result<()> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 2)?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "1.1.0")])?;
    fleet.release("1.1.0", &[("web", &tree)], &[])?;
    fleet.device("dev2")?.stop();
    let standing = fleet.standing("dev2", &first)?;
    let exit = fleet.rollout("1.1.0", &["--waves", "100%", "--soak", "0s", "--reach", "2s"])?;
    assert_eq!(exit, 0, "{}", fleet.logs());
    let wave = fleet.json(["rollout", "status"])?["waves"][0].clone();
    assert_eq!(
        (&wave["ok"], &wave["unreached"], &wave["failed"]),
        (&1.into(), &1.into(), &0.into()),
        "{wave}"
    );
    let why = fleet.json(["device", "why", "dev2"])?;
    assert_eq!(why["reason"]["code"], Code::Offline.name(), "{why}");
    fleet.unmoved(&standing)?;
    fleet.start_device("dev2")?;
    all_run(&fleet, "1.1.0", &tree)?;
    fleet.goes_on("1.2.0")?;
    Ok(())
}

#[test]
fn two_devices_with_one_identity_are_both_stopped_until_one_is_enrolled_again() -> Result<()> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    fleet.device("dev1")?.stop();
    // The copy has no runtime files: sockets do not copy.
    let copied = Command::new("cp")
        .args(["-a", "--"])
        .arg(fleet.root("dev1"))
        .arg(fleet.root("copy"))
        .status()?;
    ensure!(copied.success(), "cp: {copied}");
    fleet.start_device("dev1")?;
    fleet.wait_for("the device is back", |f| {
        Ok(f.status("dev1")?["controller"]["connected"] == true)
    })?;
    let standing = fleet.standing("dev1", &first)?;
    fleet.start_device("copy")?;
    fleet.wait_for("the copy is noticed", |f| {
        Ok(f.json(["device", "ls"])?[0]["reason"]["code"] == Code::CloneDetected.name())
    })?;

    // Neither is updated.
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "1.1.0")])?;
    fleet.release("1.1.0", &[("web", &tree)], &[])?;
    let words = ["rollout", "start", "--product", "app", "--version", "1.1.0", "--yes"];
    let (exit, errors) = fleet.exit("ensign", words.iter().chain(ALL_AT_ONCE))?;
    // Once both have come twice the identity is suspended: then no plan lists it.
    ensure!(
        exit == 0 || (exit == 32 && errors.contains("1 suspended")),
        "{exit}: {errors}"
    );
    let why = fleet.json(["device", "why", "dev1"])?;
    assert!(why["hint"].as_str().is_some_and(|h| !h.is_empty()), "{why}");
    fleet.unmoved(&standing)?;
    fleet.runs("copy", &first)?;

    // The copy becomes a device of its own; the alarm of the other ends.
    fleet.device("copy")?.stop();
    let root = fleet.root("copy").display().to_string();
    let (exit, errors) = fleet.exit("ensign-agent", ["leave", "--root", &root])?;
    assert_eq!(exit, 0, "{errors}");
    let token = fleet.json(["token", "create"])?["token"]
        .as_str()
        .context("a token")?
        .to_owned();
    let (exit, errors) = fleet.exit(
        "ensign-agent",
        ["enroll", "--root", &root, "--name", "copy", "--token", &token],
    )?;
    assert_eq!(exit, 0, "{errors}");
    fleet.ensign(["device", "unsuspend", "dev1", "--yes"], [""; 0])?;
    fleet.start_device("copy")?;
    fleet.goes_on("1.2.0")?;
    Ok(())
}

#[test]
fn nothing_is_left_running_when_a_device_is_stopped() -> Result<()> {
    let (mut fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let id = fleet.device("dev1")?.id();
    let all = tree_of(id);
    assert!(all.len() >= 3, "link, applier and runner: {all:?}");
    fleet.device("dev1")?.stop();
    fleet.wait_for("every process is gone", |_| {
        Ok(all.iter().all(|id| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            !String::from_utf8_lossy(&line).contains("ensign")
        }))
    })?;
    let mode = fs::metadata(fleet.root("dev1").join("var/lib/ensign/applier"))?
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    Ok(())
}

/// The link half lives while its applier starts and falls, again and again.
#[test]
fn an_applier_that_cannot_run_is_said_with_its_cause() -> Result<()> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let config = fleet.root("dev1").join("etc/ensign/agent.toml");
    put(&config, "[applier]\nreserve_bytes = \"much\"\n", 0o644)?;
    let id = process(&mut fleet, "dev1", "ensign-applier")?;
    fleet.device("dev1")?.kill_one(id);
    fleet.wait_for_refusal(
        "dev1",
        Code::AgentNotRunning,
        &["the applier does not answer", "agent.toml"],
    )?;
    let status = fleet.status("dev1")?;
    assert_eq!(status["running"], false, "{status}");
    assert_eq!(status["generation"], 1, "{status}");
    assert_eq!(status["products"]["app"]["version"], "1.0.0", "{status}");
    let root = fleet.root("dev1").display().to_string();
    let (exit, _) = fleet.exit("ensign-agent", ["status", "--root", &root])?;
    assert_eq!(exit, 0, "what the files tell is an answer");
    fs::remove_file(&config)?;
    fleet.wait_for(
        "the applier answers again",
        |f| Ok(f.status("dev1")?["running"] == true),
    )?;
    fleet.unmoved(&standing)?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

/// Whenever it is asked from the first moment on, a device that runs something says so.
#[test]
fn a_device_whose_applier_takes_its_time_shows_what_it_runs() -> Result<()> {
    let (mut fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    fleet.device("dev1")?.stop();
    let root = fleet.root("dev1");
    // An applier waits a while for one that is just dying.
    let lock = fs::File::open(root.join("var/lib/ensign/applier/lock"))?;
    lock.lock()?;
    let mut run = fleet.command("ensign-agent");
    run.arg("run").arg("--root").arg(&root);
    let mut device = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let shown = |fleet: &Fleet| -> Result<bool> {
        let listens = root.join("run/ensign/agent.sock").exists();
        let status = fleet.status("dev1")?;
        ensure!(status["products"]["app"]["version"] == "1.0.0", "{status}");
        Ok(listens)
    };
    let asked = fleet.wait_for("the link half listens", shown).and_then(|()| {
        drop(lock);
        fleet.wait_for("the applier answers", |f| {
            Ok(shown(f)? && f.status("dev1")?["running"] == true)
        })
    });
    kill(Pid::from_raw(i32::try_from(device.id())?), Signal::SIGTERM)?;
    device.wait()?;
    asked
}

#[test]
fn a_command_to_a_stopped_applier_ends_with_a_code() -> Result<()> {
    let (mut fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let id = Pid::from_raw(i32::try_from(process(&mut fleet, "dev1", "ensign-applier")?)?);
    let root = fleet.root("dev1").display().to_string();
    kill(id, Signal::SIGSTOP)?;
    let begun = now();
    let (exit, errors) = fleet.exit("ensign-agent", ["lock", "--root", &root, "--ttl", "1h"])?;
    let took = begun.elapsed();
    kill(id, Signal::SIGCONT)?;
    assert_eq!(exit, i32::from(Code::TimedOut.exit()), "{errors}");
    assert!(took < Duration::from_secs(40), "{took:?}");
    fleet.wait_for("it answers again", |f| {
        Ok(f.exit("ensign-agent", ["unlock", "--root", &root])?.0 == 0)
    })
}
