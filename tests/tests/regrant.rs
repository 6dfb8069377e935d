//! Grants after deploy keys changed, and labels that go back: what signers signed before is signed anew, word for word, and nobody makes
//! them resolve a selector with labels from before.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ensign_tests::harness::{Fleet, Profile, build, put, write_tree};
use serde_json::Value;

const NOTHING: [&str; 0] = [];
const ALL_AT_ONCE: &[&str] = &["--waves", "100%", "--soak", "0s"];

fn run(fleet: &Fleet, words: &str) -> Result<String> {
    let out = fleet.ensign(words.split(' '), NOTHING)?;
    Ok(String::from_utf8(out.stderr)?)
}

fn json(fleet: &Fleet, words: &str) -> Result<Value> {
    fleet.json(words.split(' '))
}

/// A new deploy key in root, and whatever else the words say.
fn rotate(fleet: &Fleet, words: &str) -> Result<()> {
    run(fleet, &format!("key root rotate --role deploy {words}"))?;
    run(fleet, "key root sign")?;
    run(fleet, "key root publish --yes")?;
    Ok(())
}

fn key(fleet: &Fleet, name: &str) -> Result<String> {
    run(fleet, &format!("key gen {name}"))?;
    let pem = fleet.ensign(["key", "export-pub"], [name])?.stdout;
    let file = fleet.path(format!("{name}.pub"));
    put(&file, pem, 0o644)?;
    Ok(file.display().to_string())
}

fn id(fleet: &Fleet, name: &str) -> Result<String> {
    let keys = json(fleet, "key ls")?;
    let found = keys.as_array().into_iter().flatten().find(|k| k["name"] == name);
    let id = found.and_then(|k| k["key"].as_str());
    Ok(id.with_context(|| name.to_owned())?.to_owned())
}

/// Texts of what `fleet status` finds.
fn findings(fleet: &Fleet) -> Result<String> {
    Ok(json(fleet, "fleet status")?["findings"].to_string())
}

fn release(fleet: &Fleet, version: &str) -> Result<()> {
    let tree = fleet.path("tree");
    write_tree(&tree, &[("v", version)])?;
    fleet.release(version, &[("web", &tree)], &[])?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(done.success(), "cp {}", from.display());
    Ok(())
}

#[test]
fn grants_of_a_dropped_key_count_again_once_they_are_signed_anew() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 2)?;
    run(&fleet, "device label dev1 --label pilot=yes")?;
    assert!(!findings(&fleet)?.contains("regrant"));
    let old = id(&fleet, "deploy")?;
    let next = key(&fleet, "deploy-2")?;
    rotate(&fleet, &format!("--add {next} --remove {}", &old[..12]))?;

    // Nobody is in a new plan; status says so, and what to type.
    release(&fleet, "1.0.0")?;
    assert_ne!(fleet.rollout("1.0.0", ALL_AT_ONCE)?, 0);
    let found = findings(&fleet)?;
    assert!(
        found.contains("2 devices in no new plan") && found.contains("device regrant --select all"),
        "{found}"
    );
    let (code, line) = fleet.exit("ensign", ["fleet", "status", "--check"])?;
    assert_eq!(code, 1, "{line}");

    let would = json(&fleet, "device regrant --select all --dry-run")?;
    let said = would["changes"].to_string();
    for words in [
        "labels of dev1",
        "pilot=yes",
        "join token of 2 devices",
        "counted until root 1",
        "0 of 1 needed",
        "1 of 1 needed",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(findings(&fleet)?.contains("regrant"), "a dry run signs nothing");
    // One device is meant, but the token's grant is that of both: dev1's own one stays as it is.
    let done = json(&fleet, "device regrant dev2")?;
    assert_eq!(
        (&done["signed"], &done["devices"]),
        (&1.into(), &serde_json::json!(["dev2"]))
    );
    assert!(findings(&fleet)?.contains("1 device in no new plan"));
    let done = json(&fleet, "device regrant --select pilot")?;
    assert_eq!(
        (&done["signed"], &done["devices"]),
        (&1.into(), &serde_json::json!(["dev1"]))
    );
    assert!(!findings(&fleet)?.contains("regrant"));
    assert_eq!(json(&fleet, "device regrant --select all")?["signed"], 0);
    assert_eq!(
        json(&fleet, "device show dev1")?["labels"],
        serde_json::json!({"pilot": "yes", "site": "lyon"})
    );
    assert_eq!(fleet.rollout("1.0.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());

    // More must sign: the signatures of several people add up, whoever comes first.
    let third = key(&fleet, "deploy-3")?;
    let bob = fleet.path("bob");
    copy(&fleet.path("home"), &bob)?;
    let (own, others) = (fleet.path("home/keys/acme"), bob.join("keys/acme"));
    rotate(&fleet, &format!("--add {third} --threshold 2"))?;
    fs::remove_file(own.join("deploy-3.pem"))?;
    fs::remove_file(others.join("deploy-2.pem"))?;
    assert!(findings(&fleet)?.contains("2 devices in no new plan"));
    let mine = json(&fleet, "device regrant --select all")?;
    assert_eq!(
        (&mine["signed"], &mine["scopes"][0]["signatures"]),
        (&0.into(), &1.into())
    );
    let out = fleet
        .command("ensign")
        .env("ENSIGN_HOME", &bob)
        .args(["device", "regrant", "--select", "all", "-o", "json"])
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    let theirs: Value = serde_json::from_slice(&out.stdout)?;
    assert_eq!(
        (&theirs["signed"], &theirs["scopes"][0]["signatures"]),
        (&2.into(), &2.into())
    );
    assert!(!findings(&fleet)?.contains("regrant"));
    Ok(())
}

#[test]
fn whom_this_machine_never_verified_is_signed_for_by_name_alone() -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 1)?;
    assert!(!findings(&fleet)?.contains("regrant"));
    // A second machine of the same operator that has seen nobody.
    let old = id(&fleet, "deploy")?;
    let next = key(&fleet, "deploy-2")?;
    rotate(&fleet, &format!("--add {next}"))?;
    fleet.join(1)?;
    let other = fleet.path("other");
    copy(&fleet.path("home"), &other)?;
    fs::remove_file(other.join("contexts/acme/seen.cbor"))?;
    rotate(&fleet, &format!("--remove {}", &old[..12]))?;
    let there = |words: &str| -> Result<(Value, String)> {
        let mut command = fleet.command("ensign");
        let out = command
            .env("ENSIGN_HOME", &other)
            .args(words.split(' '))
            .args(["-o", "json"])
            .output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.success(), "{words}: {said}");
        Ok((serde_json::from_slice(&out.stdout)?, said))
    };
    let (done, said) = there("device regrant --select all")?;
    assert_eq!(done["signed"], 0, "{done}");
    assert!(
        said.contains("never verified") && done["left_out"].to_string().contains("dev1"),
        "{said} {done}"
    );
    let (done, _) = there("device regrant dev1")?;
    assert_eq!(done["signed"], 1, "{done}");
    Ok(())
}

#[test]
fn labels_that_go_back_are_noticed_and_signed_anew_by_name() -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 1)?;
    run(&fleet, "device label dev1 --label site=lyon")?;
    release(&fleet, "1.0.0")?;
    fleet.controller()?.kill_all();
    let (data, backup) = (fleet.path("controller"), fleet.path("backup"));
    copy(&data, &backup)?;
    fleet.start_controller()?;
    run(&fleet, "device label dev1 --label site=paris")?;
    // What was acknowledged is gone, or hidden.
    fleet.controller()?.kill_all();
    fs::remove_dir_all(&data)?;
    copy(&backup, &data)?;
    fleet.start_controller()?;
    let (code, text) = fleet.exit(
        "ensign",
        [
            "rollout",
            "start",
            "--product",
            "app",
            "--version",
            "1.0.0",
            "--select",
            "site = lyon",
        ],
    )?;
    ensure!(code == 32, "{code}: {text}");
    let would = run(&fleet, "device label dev1 --label pilot=yes")?;
    assert!(would.contains("from before the newest"), "{would}");
    // Older labels are no base for new ones: the newest are, which this machine has seen.
    assert_eq!(
        json(&fleet, "device show dev1")?["labels"],
        serde_json::json!({"pilot": "yes", "site": "paris"})
    );
    fleet.wait_for("the device takes them", |fleet| {
        let file = fleet.root("dev1").join("var/lib/ensign/labels.json");
        Ok(fs::read_to_string(file).is_ok_and(|text| text.contains("pilot")))
    })?;
    assert_eq!(fleet.rollout("1.0.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    Ok(())
}
