//! Every key of a running fleet is changed while its devices go on updating: online keys, the controller's TLS key, root keys, signing keys.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use ensign_tests::harness::{Fleet, Process, Profile, build, write_tree};
use serde_json::Value;

const ALL_AT_ONCE: &[&str] = &["--waves", "100%", "--soak", "0s"];

/// Ids of the keys of a role in the root in force.
fn keys(fleet: &Fleet, role: &str) -> Result<Vec<String>> {
    let root = fleet.json(["key", "root", "show"])?;
    let found = root["roles"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|r| r["role"] == role);
    let ids = found.context(role.to_owned())?["keys"].as_array().into_iter().flatten();
    Ok(ids.filter_map(Value::as_str).map(str::to_owned).collect())
}

fn rotate(fleet: &Fleet, words: &[&str]) -> Result<()> {
    fleet.ensign(["key", "root", "rotate"], words)?;
    Ok(())
}

fn sign_and_publish(fleet: &Fleet) -> Result<()> {
    fleet.ensign(["key", "root"], ["sign"])?;
    fleet.ensign(["key", "root"], ["publish", "--yes"])?;
    Ok(())
}

fn all_follow(fleet: &Fleet, root: u64) -> Result<()> {
    for device in fleet.device_names() {
        let path = fleet.root(&device);
        fleet.wait_for(&format!("{device} at root {root}"), |fleet| {
            let out = fleet
                .command("ensign-agent")
                .args(["status", "-o", "json", "--root"])
                .arg(&path)
                .output()?;
            let status: Value = serde_json::from_slice(&out.stdout)?;
            Ok(status["trust"]["root"] == root && status["controller"]["connected"] == true)
        })?;
    }
    Ok(())
}

fn update(fleet: &Fleet, version: &str) -> Result<()> {
    let tree = fleet.path("tree");
    write_tree(&tree, &[("v", version)])?;
    fleet.release(version, &[("tree", &tree)], &[])?;
    assert_eq!(fleet.rollout(version, ALL_AT_ONCE)?, 0, "{version}\n{}", fleet.logs());
    Ok(())
}

#[test]
fn every_key_of_a_fleet_can_be_changed_while_it_updates() -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 2)?;
    update(&fleet, "1.0.0")?;

    // The controller makes its next keys while it runs; nothing changes by that.
    let out = fleet
        .command("ensign-controller")
        .args(["keys", "new", "--data", "controller", "--out", "."])
        .output()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for role in ["timestamp", "snapshot"] {
        let old = keys(&fleet, role)?.remove(0);
        let new = format!("{role}-next.pub");
        rotate(&fleet, &["--role", role, "--add", &new, "--remove", &old[..12]])?;
    }
    // Overlap: devices hear of the new TLS key by the old one.
    let old_tls = keys(&fleet, "controller")?.remove(0);
    rotate(&fleet, &["--role", "controller", "--add", "controller-next.pub"])?;
    let (exit, text) = fleet.exit("ensign", ["key", "root", "publish", "--yes"])?;
    assert_eq!(exit, 20, "unsigned: {text}");
    sign_and_publish(&fleet)?;
    all_follow(&fleet, 2)?;
    update(&fleet, "1.1.0")?;

    // The old one goes: from now on the new one is shown, to devices that start again as well.
    rotate(&fleet, &["--role", "controller", "--remove", &old_tls])?;
    sign_and_publish(&fleet)?;
    all_follow(&fleet, 3)?;
    fleet.device("dev1")?.kill_all();
    fleet.start_device("dev1")?;
    all_follow(&fleet, 3)?;
    // They have taken the places of the old ones by now: asked again, the controller makes the ones after them.
    for name in ["timestamp", "snapshot", "controller"] {
        let waiting = fleet.path(format!("controller/keys/{name}-next.pem"));
        assert!(!waiting.exists(), "{} has not taken its place", waiting.display());
    }
    let root = fleet.root("dev1");
    let check = fleet
        .command("ensign-agent")
        .args(["check", "--root"])
        .arg(&root)
        .output()?;
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(said.contains("answers with the pinned key"), "{said}");
    fleet.controller()?.kill_all();
    fleet.start_controller()?;
    all_follow(&fleet, 3)?;
    update(&fleet, "1.2.0")?;

    // A device's own key: killed right after it was asked for, and again once it is running.
    let key = |fleet: &Fleet| std::fs::read(fleet.root("dev2").join("var/lib/ensign/link/tls.pem"));
    let before = key(&fleet)?;
    let root = fleet.root("dev2");
    let out = fleet
        .command("ensign-agent")
        .args(["rotate-key", "--root"])
        .arg(&root)
        .output()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for _ in 0..2 {
        fleet.device("dev2")?.kill_all();
        fleet.start_device("dev2")?;
    }
    fleet.wait_for("the new key of dev2", |fleet| Ok(key(fleet)? != before))?;
    all_follow(&fleet, 3)?;

    // Root, targets and deploy keys, made here; the old ones of root and targets are named by nothing any more.
    let mut changes = Vec::new();
    for role in ["root", "targets", "deploy:all"] {
        let name = format!("{}-2", role.trim_end_matches(":all"));
        fleet.ensign(["key", "gen"], [&name])?;
        let public = fleet.ensign(["key", "export-pub"], [&name])?;
        let file = fleet.path(format!("{name}.pub"));
        std::fs::File::create(&file).and_then(|mut f| std::io::Write::write_all(&mut f, &public.stdout))?;
        let mut words = vec![
            "--role".to_owned(),
            role.to_owned(),
            "--add".to_owned(),
            file.display().to_string(),
        ];
        // The old deploy key stays: it has signed the grants by which the devices are in plans.
        if role != "deploy:all" {
            for old in keys(&fleet, role)? {
                words.extend(["--remove".to_owned(), old]);
            }
        }
        changes.push(words);
    }
    for words in &changes {
        rotate(&fleet, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    sign_and_publish(&fleet)?;
    all_follow(&fleet, 4)?;
    update(&fleet, "1.3.0")?;

    // A floor that falls is refused before anybody signs, and says how it may.
    rotate(&fleet, &["--floor", "app.counter=1000000000000"])?;
    sign_and_publish(&fleet)?;
    let (exit, text) = fleet.exit("ensign", ["key", "root", "rotate", "--floor", "app.counter=0"])?;
    assert_eq!(exit, 21, "{text}");
    assert!(text.contains("--reset"), "{text}");
    rotate(&fleet, &["--floor", "app.counter=0", "--reset"])?;
    sign_and_publish(&fleet)?;
    all_follow(&fleet, 6)?;
    update(&fleet, "1.4.0")
}

/// A copy of an operator's home as it is now.
fn copy_of(fleet: &Fleet, from: &str, to: &str) -> Result<PathBuf> {
    let to = fleet.path(to);
    let status = Command::new("cp").arg("-a").arg(fleet.path(from)).arg(&to).status()?;
    anyhow::ensure!(status.success(), "cp: {status}");
    Ok(to)
}

/// `device ls` with this home, of the controller at this address: its exit code and standard error.
fn list(fleet: &Fleet, home: &Path, address: &str) -> Result<(i32, String)> {
    let out = fleet
        .command("ensign")
        .args(["device", "ls"])
        .env("ENSIGN_HOME", home)
        .env("ENSIGN_CONTROLLER", address)
        .output()?;
    Ok((
        out.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    ))
}

#[test]
fn operators_who_were_away_while_the_https_key_changed_come_back_and_a_thief_of_the_old_one_gets_nobody() -> Result<()>
{
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let address = fleet.address().to_owned();
    let home = fleet.path("home");
    let away = copy_of(&fleet, "home", "away")?;
    let long_away = copy_of(&fleet, "home", "long-away")?;
    // The thief has the whole controller as it is now.
    fleet.controller()?.kill_all();
    copy_of(&fleet, "controller", "stolen")?;
    fleet.start_controller()?;

    let make_next = |fleet: &Fleet| -> Result<()> {
        let words = ["keys", "new", "--data", "controller", "--role", "https", "--out", "."];
        let (exit, text) = fleet.exit("ensign-controller", words)?;
        anyhow::ensure!(exit == 0, "{text}");
        Ok(())
    };
    // In one step, as after a theft.
    make_next(&fleet)?;
    let old = keys(&fleet, "https")?.remove(0);
    let both = ["--role", "https", "--add", "https-next.crt", "--remove", &old[..12]];
    rotate(&fleet, &both)?;
    sign_and_publish(&fleet)?;
    assert_ne!(keys(&fleet, "https")?, [old]);
    for (who, home) in [("the one who changed it", &home), ("one who was away", &away)] {
        let (exit, text) = list(&fleet, home, &address)?;
        assert_eq!(exit, 0, "{who}: {text}");
    }

    let mut thief = fleet.command("ensign-controller");
    thief.args(["serve", "--data", "stolen", "--listen", "127.0.0.1:0"]);
    let thief = Process::start(thief, &fleet.path("thief.ready"), &fleet.path("thief.log"))?;
    let ready: Value = serde_json::from_slice(&std::fs::read(fleet.path("thief.ready"))?)?;
    let stolen = ready["listen"].as_str().context("an address")?.to_owned();
    for home in [&home, &away] {
        let (exit, text) = list(&fleet, home, &stolen)?;
        assert_eq!(exit, 30, "{text}");
        assert!(
            text.contains("wrong-controller-key") || text.contains("another key"),
            "{text}"
        );
    }
    drop(thief);

    // With an overlap, and killed in between: nobody notices, and who was away for all of it follows every root.
    fleet.controller()?.kill_all();
    fleet.start_controller()?;
    make_next(&fleet)?;
    let old = keys(&fleet, "https")?.remove(0);
    rotate(&fleet, &["--role", "https", "--add", "https-next.crt"])?;
    sign_and_publish(&fleet)?;
    fleet.controller()?.kill_all();
    fleet.start_controller()?;
    rotate(&fleet, &["--role", "https", "--remove", &old])?;
    sign_and_publish(&fleet)?;
    fleet.controller()?.kill_all();
    fleet.start_controller()?;
    for home in [&long_away, &away, &home] {
        let (exit, text) = list(&fleet, home, &address)?;
        assert_eq!(exit, 0, "{}: {text}", home.display());
    }
    let root = fleet
        .command("ensign")
        .args(["key", "root", "show", "-o", "json"])
        .env("ENSIGN_HOME", &long_away)
        .output()?;
    let root: Value = serde_json::from_slice(&root.stdout)?;
    assert_eq!(root["version"], 4, "what was learnt is kept");
    Ok(())
}
