//! Who signs a product's releases, within which bounds, and what its signers take back: targets and release documents that change in a
//! running fleet, with real programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ensign_tests::harness::{Fleet, Profile, build, put, write_tree};
use serde_json::Value;

const NOTHING: [&str; 0] = [];

fn run(fleet: &Fleet, words: &str) -> Result<String> {
    let out = fleet.ensign(words.split(' '), NOTHING)?;
    Ok(String::from_utf8(out.stderr)?)
}

fn json(fleet: &Fleet, words: &str) -> Result<Value> {
    fleet.json(words.split(' '))
}

/// Ends with this exit code; what it said.
fn refused(fleet: &Fleet, words: &str, exit: i32) -> Result<String> {
    let (code, text) = fleet.exit("ensign", words.split(' '))?;
    ensure!(code == exit, "{words}: {code}, not {exit}\n{text}");
    Ok(text)
}

/// A key of this machine, and its public half in a file.
fn key(fleet: &Fleet, name: &str) -> Result<PathBuf> {
    run(fleet, &format!("key gen {name}"))?;
    public(fleet, name)
}

fn public(fleet: &Fleet, name: &str) -> Result<PathBuf> {
    let pem = fleet.ensign(["key", "export-pub"], [name])?.stdout;
    let file = fleet.path(format!("{name}.pub"));
    put(&file, pem, 0o644)?;
    Ok(file)
}

fn id(fleet: &Fleet, name: &str) -> Result<String> {
    let keys = json(fleet, "key ls")?;
    let found = keys.as_array().into_iter().flatten().find(|k| k["name"] == name);
    let id = found.and_then(|k| k["key"].as_str());
    Ok(id.with_context(|| name.to_owned())?.to_owned())
}

/// A key goes to another machine, or comes back.
fn moved(from: &Path, to: &Path) -> Result<()> {
    put(to, fs::read(from)?, 0o600)?;
    Ok(fs::remove_file(from)?)
}

fn release(fleet: &Fleet, version: &str) -> Result<PathBuf> {
    let tree = fleet.path("tree");
    write_tree(&tree, &[("v", version)])?;
    fleet.release(version, &[("web", &tree)], &[])
}

fn signers(fleet: &Fleet, version: &str) -> Result<Vec<String>> {
    let shown = json(fleet, &format!("release show app@{version}"))?;
    ensure!(shown["verdict"] == "ok", "{shown}");
    let rows = shown["signatures"].as_array().into_iter().flatten();
    Ok(rows.filter_map(|s| s["key"].as_str()).map(str::to_owned).collect())
}

#[test]
fn the_signers_and_bounds_of_a_product_change_while_it_is_in_use() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 2)?;
    release(&fleet, "1.0.0")?;
    release(&fleet, "1.1.0")?;
    let old = id(&fleet, "release")?;
    let next = key(&fleet, "release-2")?.display().to_string();
    let words = format!("product set app --key {next} --remove {}", &old[..12]);

    // What a draft would change is said against what is in force, and a dry run writes none.
    let would = json(&fleet, &format!("{words} --dry-run"))?;
    let changes = would["changes"].as_array().context("changes")?;
    let new = id(&fleet, "release-2")?;
    for (what, from, to) in [("app key", Some(&old), None), ("app key", None, Some(&new))] {
        let found = changes.iter().any(|c| {
            c["what"] == what && c["from"].as_str() == from.map(|s| &**s) && c["to"].as_str() == to.map(|s| &**s)
        });
        assert!(found, "{what} {from:?} {to:?}: {would}");
    }
    refused(&fleet, "product publish", 32)?;

    // Where the new key is not here, what is published would not be valid any more: nothing changes.
    run(&fleet, &words)?;
    let (key, away) = (fleet.path("home/keys/acme/release-2.pem"), fleet.path("release-2.pem"));
    moved(&key, &away)?;
    let text = refused(&fleet, "product publish", 33)?;
    assert!(
        text.contains("would no longer be valid") && text.contains("--live"),
        "{text}"
    );
    moved(&away, &key)?;
    assert_eq!(json(&fleet, "product show app")?["entry"], "*");
    // Where it is, they are signed anew in the same step.
    run(&fleet, "product publish")?;
    assert_eq!(json(&fleet, "product show app")?["entry"], "app");
    assert_eq!(signers(&fleet, "1.0.0")?, std::slice::from_ref(&new));
    refused(&fleet, "product publish", 32)?;

    // In two steps: both keys count, every live release is signed by the next one, the one before goes.
    run(
        &fleet,
        &format!("product set app --key {}", public(&fleet, "release")?.display()),
    )?;
    run(&fleet, "product publish")?;
    assert_eq!(
        signers(&fleet, "1.0.0")?,
        std::slice::from_ref(&new),
        "what is valid stays as it is"
    );
    let renewed = json(
        &fleet,
        &format!(
            "release sign --live --product app --key {}",
            fleet.path("home/keys/acme/release.pem").display()
        ),
    )?;
    assert_eq!(renewed.as_array().map(Vec::len), Some(2), "{renewed}");
    assert_eq!(signers(&fleet, "1.1.0")?, [old]);
    moved(&key, &away)?;
    run(&fleet, &format!("product set app --remove {}", &new[..12]))?;
    run(&fleet, "product publish")?;

    // Bounds hold for what is built next, and are refused where they would shut out what is published.
    run(
        &fleet,
        "product set app --components 'pos-*'".replace('\'', "").as_str(),
    )?;
    let text = refused(&fleet, "product publish", 33)?;
    assert!(text.contains("would no longer be valid"), "{text}");
    run(
        &fleet,
        "product set app --anew --units pos-*.service --select name=dev1",
    )?;
    run(&fleet, "product publish")?;
    let tree = fleet.path("tree");
    let bundle = fleet.bundle("app", "1.2.0", &[("web", &tree)], &["--unit", "web=ssh.service"])?;
    let text = refused(&fleet, &format!("release sign {}", bundle.display()), 20)?;
    assert!(text.contains("outside-delegation"), "{text}");

    // The product's own selector stands for `--select`.
    assert_eq!(
        fleet.rollout("1.1.0", &["--waves", "100%", "--soak", "0s"])?,
        0,
        "{}",
        fleet.logs()
    );
    let versions = fleet.versions()?;
    assert_eq!(versions["dev1"].as_deref(), Some("1.1.0"));
    assert_eq!(versions["dev2"], None, "{versions:?}");

    // Floors only rise; what is below the lowest leaves the list.
    let noise = run(&fleet, "product set app --security-floor 1.1.0 --lowest 1.1.0")?;
    assert!(noise.contains("app@1.0.0 leaves"), "{noise}");
    run(&fleet, "product publish")?;
    let listed = json(&fleet, "release ls")?;
    let listed: Vec<&str> = listed
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| r["version"].as_str())
        .collect();
    assert_eq!(listed, ["1.1.0"]);
    refused(&fleet, "product set app --lowest 1.0.0", 21)?;
    refused(&fleet, "product set app --kinds agent", 2)?;
    Ok(())
}

#[test]
fn targets_that_two_must_sign_travel_as_copies_of_one_draft() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let second = key(&fleet, "targets-2")?;
    let words = format!(
        "key root rotate --role targets --threshold 2 --add {}",
        second.display()
    );
    run(&fleet, &words)?;
    run(&fleet, "key root sign")?;
    run(&fleet, "key root publish --yes")?;
    // Bob has the second key, and knows the fleet as it was made.
    let bob = fleet.path("bob");
    for dir in ["keys/acme", "contexts/acme"] {
        fs::create_dir_all(bob.join(dir))?;
    }
    moved(
        &fleet.path("home/keys/acme/targets-2.pem"),
        &bob.join("keys/acme/targets-2.pem"),
    )?;
    for file in [
        "current",
        "contexts/acme/context.json",
        "contexts/acme/trust.cbor",
        "contexts/acme/targets.cbor",
        "contexts/acme/api-token",
    ] {
        fs::copy(fleet.path("home").join(file), bob.join(file))?;
    }

    let copy = fleet.path("targets.bob").display().to_string();
    run(&fleet, &format!("product set app --kinds tree,image --out {copy}"))?;
    fs::copy(&copy, fleet.path("targets.ada"))?;
    let mine = fleet.path("targets.ada").display().to_string();
    let text = refused(&fleet, &format!("product publish {mine}"), 20)?;
    assert!(text.contains("1 of 2") && text.contains("product assemble"), "{text}");
    let out = fleet
        .command("ensign")
        .env("ENSIGN_HOME", &bob)
        .args(["product", "sign", &copy])
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("image"), "{said}");
    run(&fleet, &format!("product assemble {copy} {mine}"))?;
    run(&fleet, "product publish")?;
    assert_eq!(
        json(&fleet, "product show app")?["kinds"],
        serde_json::json!(["tree", "image"])
    );
    Ok(())
}

#[test]
fn a_release_that_was_withdrawn_is_started_by_nobody_and_kept_by_whoever_runs_it() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 2)?;
    release(&fleet, "1.0.0")?;
    assert_eq!(
        fleet.rollout("1.0.0", &["--waves", "100%", "--soak", "0s"])?,
        0,
        "{}",
        fleet.logs()
    );
    release(&fleet, "1.1.0")?;
    let words = "rollout start --product app --version 1.1.0 --waves 1,100% --soak 0s --gate manual --yes";
    run(&fleet, words)?;
    fleet.wait_for("the canary confirmed, the other one waiting", |fleet| {
        let running = fleet
            .versions()?
            .values()
            .filter(|v| v.as_deref() == Some("1.1.0"))
            .count();
        Ok(running == 1 && json(fleet, "rollout status")?["waves"][0]["state"] == "done")
    })?;
    let versions = fleet.versions()?;
    let of = |version: &str| {
        let found = versions.iter().find(|(_, v)| v.as_deref() == Some(version));
        Ok::<_, anyhow::Error>(found.context("a device")?.0.clone())
    };
    let (canary, other) = (of("1.1.0")?, of("1.0.0")?);

    let text = refused(&fleet, "release yank app@1.1.0 --yes", 2)?;
    assert!(text.contains("--reason"), "{text}");
    refused(&fleet, "release yank app@1.1.0 --reason broken", 2)?;
    let would = json(&fleet, "release yank app@1.1.0 --reason broken --dry-run")?;
    let withdrawn = would["changes"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["what"] == "withdrawn");
    assert_eq!(withdrawn.context("withdrawn")?["to"], "broken");
    let shown = json(&fleet, "release yank app@1.1.0 --reason broken --yes")?;
    assert_eq!(
        (&shown["verdict"], &shown["yanked"]),
        (&"yanked".into(), &"broken".into())
    );
    assert_eq!(
        json(&fleet, "release yank app@1.1.0 --reason again --yes")?["yanked"],
        "broken"
    );

    // Nobody starts it: neither a new rollout, nor the device that waits in the one that is open.
    let text = refused(&fleet, words, 25)?;
    assert!(text.contains("broken"), "{text}");
    run(&fleet, "rollout promote")?;
    fleet.wait_for("the other one refuses it", |fleet| {
        Ok(json(fleet, &format!("device why {other}"))?["reason"]["code"] == "yanked")
    })?;
    let why = json(&fleet, &format!("device why {other}"))?;
    assert!(
        why["reason"]["text"].as_str().unwrap_or_default().contains("broken"),
        "{why}"
    );

    // Who runs it keeps it, through a renewal of its document too, and takes the next one.
    run(&fleet, "release sign app@1.1.0")?;
    let shown = json(&fleet, "release show app@1.1.0")?;
    assert_eq!(shown["yanked"], "broken", "renewed and still withdrawn: {shown}");
    let versions = fleet.versions()?;
    assert_eq!(versions[&canary].as_deref(), Some("1.1.0"));
    assert_eq!(versions[&other].as_deref(), Some("1.0.0"));
    release(&fleet, "1.2.0")?;
    assert_eq!(
        fleet.rollout("1.2.0", &["--waves", "100%", "--soak", "0s"])?,
        0,
        "{}",
        fleet.logs()
    );
    Ok(())
}
