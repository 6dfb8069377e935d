//! What happens to a device itself, seen from the controller: files that are lost or changed under it, a fleet that it leaves or is thrown
//! out of, and its end at any moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ensign_bundle::reason::Code;
use ensign_tests::harness::relay::{Line, Relay};
use ensign_tests::harness::{ALL_AT_ONCE, Fleet, Profile, build, put, write_tree};
use nix::sys::stat::Mode;

/// Stops in the verb that the file `block` names, until that file is gone.
const HOOK: &str = "#!/bin/sh
if [ \"$(cat \"$ENSIGN_ROOT/block\" 2>/dev/null)\" = \"$1\" ]; then
  : > \"$ENSIGN_ROOT/blocked\"
  while [ -e \"$ENSIGN_ROOT/block\" ]; do sleep 0.02; done
fi
exit 0
";

/// A release with one component and these words.
fn published(fleet: &Fleet, version: &str, more: &[&str]) -> Result<PathBuf> {
    let tree = fleet.path(format!("tree-{version}"));
    write_tree(&tree, &[("version", version), ("check!", "#!/bin/sh\nexit 0\n")])?;
    fleet.release(version, &[("web", &tree)], more)?;
    Ok(tree)
}

fn start(fleet: &Fleet, version: &str) -> Result<()> {
    let args = ["rollout", "start", "--product", "app", "--version", version, "--yes"];
    fleet.ensign(args.iter().chain(ALL_AT_ONCE), [""; 0])?;
    Ok(())
}

/// What the operator is told of a device.
fn wait_for_why(fleet: &Fleet, code: Code) -> Result<String> {
    let mut seen = String::new();
    let found = fleet.wait_for(&format!("the operator hears {code}"), |fleet| {
        let list = fleet.json(["device", "ls"])?;
        seen = list[0]["reason"].to_string();
        Ok(list[0]["reason"]["code"] == code.name())
    });
    found.with_context(|| seen.clone())?;
    Ok(seen)
}

fn enroll(fleet: &Fleet, device: &str) -> Result<String> {
    let token = fleet.json(["token", "create"])?["token"]
        .as_str()
        .context("a token")?
        .to_owned();
    let root = fleet.root(device).display().to_string();
    let args = ["enroll", "--root", &root, "--name", device, "--token", &token];
    let (exit, errors) = fleet.exit("ensign-agent", args)?;
    ensure!(exit == 0, "{errors}");
    Ok(fleet.status(device)?["id"].as_str().context("an id")?.to_owned())
}

#[test]
fn before_it_joins_a_device_says_what_to_do_and_where() -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let root = fleet.root("dev1").display().to_string();
    let status = fleet.status("dev1")?;
    assert_eq!(status["joined"], false, "{status}");
    let hint = status["hint"].as_str().unwrap_or_default();
    assert!(
        hint.contains(&format!("ensign-agent enroll --token-file FILE --root {root}")),
        "{hint}"
    );
    let (exit, errors) = fleet.exit("ensign-agent", ["run", "--root", &root])?;
    assert_eq!(exit, i32::from(Code::NotFound.exit()), "{errors}");
    assert!(errors.contains(&format!("FILE --root {root}`")), "{errors}");
    let out = fleet
        .command("ensign-agent")
        .args(["check", "--root", &root])
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        said.contains(&format!("--controller HOST:PORT --root {root}`")),
        "{said}"
    );
    fleet.join(1)?;
    let status = fleet.status("dev1")?;
    assert_eq!(
        (&status["joined"], &status["hint"]),
        (&true.into(), &serde_json::Value::Null),
        "{status}"
    );
    fleet.goes_on("1.0.0")?;
    Ok(())
}

#[test]
fn a_revoked_device_joins_anew_as_another() -> Result<()> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let id = fleet.status("dev1")?["id"].as_str().context("an id")?.to_owned();
    fleet.ensign(["device", "revoke", "dev1", "--yes"], [""; 0])?;
    fleet.wait_for_refusal("dev1", Code::Revoked, &["revoked"])?;
    fleet.device("dev1")?.stop();
    let anew = enroll(&fleet, "dev1")?;
    assert_ne!(anew, id);
    // Once more takes nothing.
    assert_eq!(enroll(&fleet, "dev1")?, anew);
    fleet.start_device("dev1")?;
    fleet.runs("dev1", &first)?;
    let tree = published(&fleet, "1.1.0", &[])?;
    assert_eq!(fleet.rollout("1.1.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    fleet.runs("dev1", &tree)
}

/// Removed, damaged in the middle, of before the last release: what runs goes on, and the operator hears of it.
#[test]
fn a_journal_that_cannot_be_gone_by_is_told_to_the_operator() -> Result<()> {
    let (mut fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let journal = fleet.root("dev1").join("var/lib/ensign/applier/journal");
    fleet.device("dev1")?.stop();
    let older = fs::read(&journal)?;
    fleet.start_device("dev1")?;
    let second = fleet.goes_on("1.1.0")?;
    let standing = fleet.standing("dev1", &second)?;
    fleet.device("dev1")?.stop();
    let whole = fs::read(&journal)?;
    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    for left in [None, Some(damaged), Some(older)] {
        match &left {
            None => fs::remove_file(&journal)?,
            Some(left) => put(&journal, left, 0o600)?,
        }
        fleet.start_device("dev1")?;
        fleet.wait_for_refusal("dev1", Code::JournalLost, &["Put the whole journal back"])?;
        wait_for_why(&fleet, Code::JournalLost)?;
        fleet.unmoved(&standing)?;
        fleet.device("dev1")?.stop();
        put(&journal, &whole, 0o600)?;
        fleet.start_device("dev1")?;
        fleet.wait_for("it is over", |f| Ok(f.json(["device", "ls"])?[0]["reason"].is_null()))?;
        fleet.device("dev1")?.stop();
    }
    fleet.start_device("dev1")?;
    fleet.goes_on("1.2.0")?;
    Ok(())
}

#[test]
fn a_damaged_identity_is_told_to_the_operator() -> Result<()> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let binding = fleet.root("dev1").join("var/lib/ensign/applier/binding.cbor");
    let whole = fs::read(&binding)?;
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fleet.device("dev1")?.stop();
    put(&binding, &damaged, 0o600)?;
    fleet.start_device("dev1")?;
    fleet.wait_for_refusal("dev1", Code::NeedsReprovision, &["who this device is"])?;
    wait_for_why(&fleet, Code::NeedsReprovision)?;
    fleet.unmoved(&standing)?;
    fleet.device("dev1")?.stop();
    put(&binding, &whole, 0o600)?;
    fleet.start_device("dev1")?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

/// Lost, or given up because somebody may have copied it: there is one way, a new device in the place of the old one.
#[test]
fn a_device_without_its_receipt_key_joins_anew_and_a_plan_for_the_old_one_is_not_its_own() -> Result<()> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let old = fleet.status("dev1")?["id"].as_str().context("an id")?.to_owned();
    let key = fleet.root("dev1").join("var/lib/ensign/applier/receipt.pem");
    let old_key = fs::read(&key)?;
    fleet.device("dev1")?.stop();
    fs::remove_file(&key)?;
    fleet.start_device("dev1")?;
    fleet.wait_for_refusal("dev1", Code::NeedsReprovision, &["receipt key", "is gone"])?;
    wait_for_why(&fleet, Code::NeedsReprovision)?;
    published(&fleet, "1.1.0", &[])?;
    start(&fleet, "1.1.0")?;
    fleet.unmoved(&standing)?;

    fleet.device("dev1")?.stop();
    let anew = enroll(&fleet, "dev1")?;
    assert_ne!(anew, old);
    assert_ne!(fs::read(&key)?, old_key);
    fleet.start_device("dev1")?;
    let row = |fleet: &Fleet, id: &str| fleet.json(["device", "show", id]);
    fleet.wait_for("the new device is connected", |f| {
        Ok(row(f, &anew)?["connected"] == true)
    })?;
    assert_eq!(row(&fleet, &old)?["state"], "approved", "until an operator revokes it");
    // The plan binds the old identity: it reaches neither.
    let why = fleet.json(["device", "why", &anew])?;
    assert_eq!(why["reason"]["code"], Code::NotInPlan.name(), "{why}");
    fleet.unmoved(&standing)?;
    fleet.ensign(["device", "revoke", &old, "--yes"], [""; 0])?;
    let tree = published(&fleet, "1.2.0", &[])?;
    assert_eq!(fleet.rollout("1.2.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    fleet.runs("dev1", &tree)?;

    // Given up on purpose.
    fleet.device("dev1")?.stop();
    let root = fleet.root("dev1").display().to_string();
    let (exit, errors) = fleet.exit("ensign-agent", ["leave", "--root", &root])?;
    ensure!(exit == 0, "{errors}");
    let second_key = fs::read(&key).ok();
    let third = enroll(&fleet, "dev1")?;
    assert_ne!(third, anew);
    assert_ne!(Some(fs::read(&key)?), second_key);
    fleet.ensign(["device", "revoke", &anew, "--yes"], [""; 0])?;
    fleet.start_device("dev1")?;
    let tree = published(&fleet, "1.3.0", &[])?;
    assert_eq!(fleet.rollout("1.3.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    fleet.runs("dev1", &tree)
}

/// What was to be asked is not known any more: nothing is confirmed.
#[test]
fn a_trial_without_its_manifest_is_taken_back() -> Result<()> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let root = fleet.root("dev1");
    put(&root.join("etc/ensign/hooks/unit"), HOOK, 0o755)?;
    let words = [
        "--unit",
        "web=web.service",
        "--health-window",
        "1s",
        "--health-deadline",
        "10s",
    ];
    published(&fleet, "1.1.0", &words)?;
    let manifests = || -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(root.join("var/lib/ensign/applier/manifests"))?;
        Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
    };
    let kept = manifests()?;
    put(&root.join("block"), "start", 0o644)?;
    start(&fleet, "1.1.0")?;
    fleet.wait_for("the device is in the switch", |_| Ok(root.join("blocked").exists()))?;
    for path in manifests()?.iter().filter(|path| !kept.contains(path)) {
        fs::remove_file(path)?;
    }
    fs::remove_file(root.join("block"))?;
    let why = wait_for_why(&fleet, Code::Unhealthy)?;
    assert!(why.contains("manifest"), "{why}");
    fleet.runs("dev1", &first)?;
    fleet.goes_on("1.2.0")?;
    Ok(())
}

#[test]
fn a_switch_that_the_disk_refuses_is_no_fault_of_the_release() -> Result<()> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let obstacle = fleet.root("dev1").join("var/lib/ensign/deploy/generations/2");
    put(&obstacle, "no folder", 0o600)?;
    let tree = published(&fleet, "1.1.0", &[])?;
    assert_eq!(fleet.rollout("1.1.0", ALL_AT_ONCE)?, 10, "{}", fleet.logs());
    wait_for_why(&fleet, Code::Io)?;
    fleet.unmoved(&standing)?;
    // The next generation has another number: the very same release is taken.
    assert_eq!(fleet.rollout("1.1.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    fleet.runs("dev1", &tree)
}

#[test]
fn a_hook_that_others_could_have_written_stops_the_release() -> Result<()> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let hook = fleet.root("dev1").join("etc/ensign/hooks/unit");
    put(&hook, "#!/bin/sh\nenv > \"$ENSIGN_ROOT/environment\"\n", 0o757)?;
    let unit = ["--unit", "web=web.service"];
    published(&fleet, "1.1.0", &unit)?;
    assert_eq!(fleet.rollout("1.1.0", ALL_AT_ONCE)?, 10, "{}", fleet.logs());
    assert!(wait_for_why(&fleet, Code::UnitFailed)?.contains("can be written by others"));
    fleet.runs("dev1", &first)?;
    let environment = fleet.root("dev1").join("environment");
    ensure!(!environment.exists(), "the hook ran");
    put(&hook, fs::read(&hook)?, 0o755)?;
    let tree = published(&fleet, "1.2.0", &unit)?;
    assert_eq!(fleet.rollout("1.2.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    fleet.runs("dev1", &tree)?;
    let environment = fs::read_to_string(environment)?;
    ensure!(
        !environment.contains("CARGO") && environment.contains("ENSIGN_ROOT="),
        "{environment}"
    );
    Ok(())
}

/// Pipes under the very names of what is fetched next: nobody waits for their other end.
#[test]
fn pipes_in_the_download_cache_hold_nobody_up() -> Result<()> {
    let (fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let tree = published(&fleet, "1.1.0", &[])?;
    let cache = fleet.root("dev1").join("var/lib/ensign/link/cache");
    let mut planted = 0;
    for first in fs::read_dir(fleet.path("controller/blobs"))? {
        let first = first?;
        let begin = first.file_name().to_string_lossy().into_owned();
        if begin.len() != 2 {
            continue;
        }
        for rest in fs::read_dir(first.path())? {
            let digest = format!("{begin}{}", rest?.file_name().to_string_lossy());
            for name in [digest.clone(), format!("{digest}.part")] {
                planted += usize::from(nix::unistd::mkfifo(&cache.join(name), Mode::S_IRWXU).is_ok());
            }
        }
    }
    ensure!(
        planted >= 6,
        "manifest, table and block each under two names: {planted}"
    );
    assert_eq!(fleet.rollout("1.1.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    fleet.runs("dev1", &tree)?;
    fleet.goes_on("1.2.0")?;
    Ok(())
}

/// In the middle of a download, of a hook that hangs, of a probe that hangs, and with nobody at the other end: gone in order, with
/// everything that was started.
#[test]
fn a_device_ends_in_order_whatever_it_is_doing() -> Result<()> {
    let (mut fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let root = fleet.root("dev1");
    let controller = fleet.address().parse()?;
    let clean = Line {
        loss: 0,
        twice: 0,
        delay: Duration::ZERO,
    };
    let relay = Relay::start(controller, clean, 1)?;
    fleet.device("dev1")?.stop();
    let config = root.join("etc/ensign/agent.toml");
    put(
        &config,
        format!("[controller]\naddresses = [\"{}\"]\n", relay.address()),
        0o644,
    )?;
    fleet.start_device("dev1")?;

    // Between two blocks.
    let tree = fleet.path("big");
    put(
        &tree.join("noise"),
        ensign_tests::random::Random::new(3).bytes(6 << 20),
        0o644,
    )?;
    fleet.release("1.1.0", &[("web", &tree)], &["--level", "1"])?;
    relay.cut_after(2 << 20);
    start(&fleet, "1.1.0")?;
    let staging = root.join("var/lib/ensign/deploy/trees/.staging");
    fleet.wait_for("it is in the middle of it", |_| {
        Ok(relay.is_cut() && fs::read_dir(&staging)?.next().is_some())
    })?;
    ends_in_order(&mut fleet, "a download")?;
    relay.cut(false);
    fs::remove_file(&config)?;
    fleet.start_device("dev1")?;
    fleet.wait_for("it goes on", |f| {
        Ok(f.versions()?.values().all(|v| v.as_deref() == Some("1.1.0")))
    })?;

    // A hook, and a probe, each with a child that is found again by its number, which is this run's own.
    let sleep = format!("86401.{}", std::process::id());
    let hang =
        format!("#!/bin/sh\n[ ! -e \"$ENSIGN_ROOT/hang\" ] || {{ : > \"$ENSIGN_ROOT/hangs\"; sleep {sleep}; }}\n");
    for (version, probe) in [("1.2.0", false), ("1.3.0", true)] {
        let tree = fleet.path(format!("tree-{version}"));
        write_tree(&tree, &[("version", version), ("check!", &hang)])?;
        let hook = root.join("etc/ensign/hooks/unit");
        put(&hook, if probe { "#!/bin/sh\n" } else { &hang }, 0o755)?;
        let words: &[&str] = if probe {
            &["--health", "exec:check", "--health-window", "1s"]
        } else {
            &["--unit", "web=web.service", "--health-window", "1s"]
        };
        fleet.release(version, &[("web", &tree)], words)?;
        put(&root.join("hang"), "", 0o644)?;
        start(&fleet, version)?;
        fleet.wait_for("it hangs", |_| Ok(root.join("hangs").exists()))?;
        ends_in_order(&mut fleet, if probe { "a probe" } else { "a hook" })?;
        fleet.wait_for("nothing of it is left", |_| {
            Ok(running(&format!("sleep\0{sleep}\0"))? == 0)
        })?;
        fs::remove_file(root.join("hang"))?;
        fs::remove_file(root.join("hangs"))?;
        fleet.start_device("dev1")?;
        // It was stopped, not unhealthy: the release is not to blame.
        fleet.wait_for("it goes on", |f| {
            Ok(f.versions()?.values().all(|v| v.as_deref() == Some(version)))
        })?;
        fleet.runs("dev1", &tree)?;
    }

    fleet.controller()?.kill_all();
    fleet.wait_for_refusal("dev1", Code::ControllerUnreachable, &[])?;
    ends_in_order(&mut fleet, "nobody there")?;
    fleet.start_controller()?;
    fleet.start_device("dev1")?;
    fleet.goes_on("1.4.0")?;
    Ok(())
}

/// SIGTERM: exit 0, and nothing that it started is there any more.
fn ends_in_order(fleet: &mut Fleet, doing: &str) -> Result<()> {
    let device = fleet.device("dev1")?;
    let all = device.tree();
    let exit = device.stop();
    ensure!(
        exit == Some(0),
        "in the middle of {doing} it ended with {exit:?}\n{}",
        fleet.logs()
    );
    fleet.wait_for(&format!("every process is gone after {doing}"), |_| {
        Ok(all.iter().all(|id| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            !String::from_utf8_lossy(&line).contains("ensign")
        }))
    })
}

/// How many processes have this command line.
fn running(command: &str) -> Result<usize> {
    let lines = fs::read_dir("/proc")?.flatten();
    let lines = lines.filter_map(|process| fs::read(Path::new(&process.path()).join("cmdline")).ok());
    Ok(lines.filter(|line| line == command.as_bytes()).count())
}
