//! The everyday flow, and what goes wrong in it, with real processes on loopback.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use ensign_tests::harness::{Fleet, Profile, build, difference, nasty_tree, write_tree};

const ALL_AT_ONCE: &[&str] = &["--waves", "100%", "--soak", "0s"];

fn same(fleet: &Fleet, component: &str, source: &std::path::Path) -> Result<()> {
    for device in fleet.device_names() {
        let found = difference(source, &fleet.live(&device, component))?;
        assert_eq!(found, None, "{device}\n{}", fleet.logs());
    }
    Ok(())
}

#[test]
fn two_releases_reach_every_device_exactly() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 3)?;
    let (small, nasty) = (fleet.path("small"), fleet.path("nasty"));
    write_tree(&small, &[("a", "one"), ("bin/run!", "#!/bin/sh\n")])?;
    nasty_tree(&nasty, 3, 20 << 20)?;
    fleet.release("1.0.0", &[("small", &small)], &[])?;
    assert_eq!(
        fleet.rollout("1.0.0", &["--waves", "10%,50%,100%", "--soak", "0s"])?,
        0,
        "{}",
        fleet.logs()
    );
    same(&fleet, "small", &small)?;

    fs::remove_file(small.join("a"))?;
    write_tree(&small, &[("b", "two")])?;
    fleet.release("1.1.0", &[("small", &small), ("nasty", &nasty)], &[])?;
    assert_eq!(
        fleet.rollout("1.1.0", &["--waves", "10%,50%,100%", "--soak", "0s"])?,
        0,
        "{}",
        fleet.logs()
    );
    same(&fleet, "small", &small)?;
    same(&fleet, "nasty", &nasty)?;
    assert!(
        fleet.versions()?.values().all(|v| v.as_deref() == Some("1.1.0")),
        "{:?}",
        fleet.versions()?
    );
    Ok(())
}

#[test]
fn an_unhealthy_release_stops_on_its_canary_and_comes_back() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 4)?;
    let probe = [
        "--health",
        "exec:check",
        "--health-window",
        "1s",
        "--health-deadline",
        "20s",
    ];
    let tree = fleet.path("tree");
    write_tree(&tree, &[("check!", "#!/bin/sh\nexit 0\n"), ("v", "good")])?;
    fleet.release("1.0.0", &[("web", &tree)], &probe)?;
    assert_eq!(fleet.rollout("1.0.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());

    let good = fleet.path("good");
    write_tree(&good, &[("check!", "#!/bin/sh\nexit 0\n"), ("v", "good")])?;
    write_tree(&tree, &[("check!", "#!/bin/sh\nexit 1\n"), ("v", "bad")])?;
    fleet.release("1.1.0", &[("web", &tree)], &probe)?;
    let exit = fleet.rollout("1.1.0", &["--waves", "1,100%", "--soak", "0s", "--stop-failed", "1"])?;
    assert_eq!(exit, 10, "{}", fleet.logs());
    same(&fleet, "web", &good)?;
    let list = fleet.json(["rollout", "ls"])?;
    let bad = list
        .as_array()
        .into_iter()
        .flatten()
        .find(|r| r["version"] == "1.1.0")
        .cloned()
        .unwrap_or_default();
    assert_eq!(bad["state"], "halted", "{bad}");
    assert_eq!(bad["reason"]["code"], "too-many-failed", "{bad}");
    let sum = |key: &str| {
        bad["waves"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|w| w[key].as_u64())
            .sum::<u64>()
    };
    assert_eq!((sum("failed"), sum("ok"), sum("active")), (1, 0, 0), "{bad}");
    Ok(())
}

#[test]
fn an_update_goes_on_after_the_controller_was_away() -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 2)?;
    let tree = fleet.path("tree");
    write_tree(&tree, &[("v", "1")])?;
    fleet.release("1.0.0", &[("web", &tree)], &[])?;
    fleet.device("dev2")?.stop();
    let rollout = [
        "rollout",
        "start",
        "--product",
        "app",
        "--version",
        "1.0.0",
        "--waves",
        "100%",
        "--soak",
        "0s",
        "--yes",
    ];
    fleet.ensign(rollout, [""; 0])?;
    fleet.wait_for("the first device is there", |f| Ok(f.versions()?["dev1"].is_some()))?;
    fleet.controller()?.kill_all();
    fleet.start_controller()?;
    fleet.start_device("dev2")?;
    fleet.wait_for("the second device is there", |f| {
        Ok(f.versions()?["dev2"].as_deref() == Some("1.0.0"))
    })?;
    same(&fleet, "web", &tree)
}

#[test]
fn refusals_have_their_exit_codes() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 1)?;
    let tree = fleet.path("tree");
    write_tree(&tree, &[("a", "one")])?;
    let root = fleet.root("dev1").display().to_string();
    let old = fleet.release("1.0.0", &[("web", &tree)], &[])?;
    assert_eq!(fleet.rollout("1.0.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());

    let expect = |program: &str, args: &[&str], code: i32| -> Result<()> {
        let (exit, errors) = fleet.exit(program, args)?;
        assert_eq!(exit, code, "{program} {args:?}: {errors}");
        assert!(
            code == 0 || !errors.trim().is_empty(),
            "{program} {args:?} says nothing"
        );
        Ok(())
    };
    let tree_arg = format!("web={}", tree.display());
    let file = fleet.path("x.bundle").display().to_string();
    let built = [
        "release",
        "build",
        "--product",
        "app",
        "--version",
        "2.0.0",
        "--tree",
        &tree_arg,
        "--out",
        &file,
    ];
    expect("ensign", &built, 0)?;
    expect("ensign", &["release", "verify", &file], 20)?;
    expect("ensign", &["release", "publish", &file], 20)?;
    expect("ensign-agent", &["verify", "--root", &root, &file], 20)?;
    expect("ensign", &["release", "sign", &file], 0)?;
    expect("ensign", &["release", "verify", &file], 0)?;
    expect("ensign-agent", &["verify", "--root", &root, &file], 0)?;
    expect("ensign-agent", &["apply", "--root", &root, &file], 25)?;
    expect("ensign", &["release", "publish", &file], 0)?;
    expect("ensign", &["release", "publish", &file], 0)?;
    assert_eq!(fleet.rollout("2.0.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    let old = old.display().to_string();
    expect("ensign-agent", &["apply", "--root", &root, &old], 21)?;
    expect(
        "ensign",
        &["rollout", "start", "--product", "app", "--version", "9.9.9", "--yes"],
        32,
    )?;
    expect(
        "ensign",
        &[
            "rollout",
            "start",
            "--product",
            "app",
            "--version",
            "2.0.0",
            "--waves",
            "7",
            "--yes",
        ],
        2,
    )?;
    expect("ensign", &["device", "why", "nobody"], 32)?;
    expect("ensign", &["device", "why", "dev1", "--product", "nothing"], 32)?;
    let other = fleet.path("other").display().to_string();
    expect(
        "ensign-agent",
        &["enroll", "--root", &other, "--token", "rubbish", "--name", "x"],
        31,
    )?;
    expect("ensign", &["device", "ls", "--controller", "127.0.0.1:1"], 30)?;
    let kit = fleet.path("kit2").display().to_string();
    let again = [
        "fleet",
        "init",
        "--name",
        "acme",
        "--controller",
        fleet.address(),
        "--kit",
        &kit,
        "--no-passphrase",
    ];
    expect("ensign", &again, 33)
}

#[test]
fn a_used_up_token_lets_nobody_else_in() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let token = fleet.json(["token", "create", "--uses", "1", "--ttl", "1h"])?["token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let join = |name: &str| {
        let root = fleet.root(name).display().to_string();
        fleet.exit(
            "ensign-agent",
            ["enroll", "--root", &root, "--token", &token, "--name", name],
        )
    };
    assert_eq!(join("one")?.0, 0);
    assert_eq!(join("one")?.0, 0, "joining again is done already");
    let (exit, errors) = join("two")?;
    assert_eq!(exit, 31, "{errors}");
    let mode = fs::metadata(fleet.root("one").join("var/lib/ensign/applier/receipt.pem"))?
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    Ok(())
}

#[test]
fn a_manual_gate_opens_by_a_signed_promotion() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 2)?;
    let tree = fleet.path("tree");
    write_tree(&tree, &[("v", "1")])?;
    fleet.release("1.0.0", &[("web", &tree)], &[])?;
    let start = "rollout start --product app --version 1.0.0 --waves 1,100% --soak 0s --gate manual --yes";
    fleet.ensign(start.split(' '), [""; 0])?;
    let code = |f: &Fleet| -> Result<String> {
        let status = f.json(["rollout", "status"])?;
        Ok(status["reason"]["code"].as_str().unwrap_or_default().to_owned())
    };
    fleet.wait_for("the second wave waits for an operator", |f| {
        Ok(code(f)? == "gate-not-open")
    })?;
    let updated = fleet.versions()?.values().flatten().count();
    assert_eq!(updated, 1, "nobody goes ahead of the operator\n{}", fleet.logs());
    let exit = |words: &str| fleet.exit("ensign", words.split(' '));
    assert_eq!(
        exit("rollout promote app --wave 1")?.0,
        33,
        "the plan itself opens the first wave"
    );
    assert_eq!(exit("rollout promote app")?.0, 0);
    fleet.wait_for("both devices are there", |f| {
        Ok(f.versions()?.values().all(|v| v.as_deref() == Some("1.0.0")))
    })?;
    fleet.wait_for("the rollout is done", |f| {
        Ok(f.json(["rollout", "status"])?["state"] == "done")
    })?;
    same(&fleet, "web", &tree)?;
    for words in [
        "rollout promote app --wave 2",
        "rollout pause",
        "rollout resume",
        "rollout abort --keep --yes",
    ] {
        let (code, errors) = exit(words)?;
        assert_eq!(code, 33, "{words}: {errors}");
        assert!(errors.contains("is done"), "{words}: {errors}");
    }
    // A device that nothing reaches any more is not up to date.
    fleet.ensign(["device", "suspend", "dev1", "--reason", "stolen"], [""; 0])?;
    let why = fleet.json(["device", "why", "dev1"])?;
    assert_eq!(why["reason"]["code"], "suspended", "{why}");
    assert_eq!(why["hint"], "`ensign device unsuspend dev1`", "{why}");
    Ok(())
}
