//! What every verb prints, against a real controller: one document on standard output in each format, everything else on standard
//! error, flags anywhere, no colours where `NO_COLOR` is set. Verbs that change something are run with `--dry-run`, and change nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use ensign_tests::harness::{Fleet, Profile, build, write_tree};
use serde_json::Value;

/// Every verb that prints a document: its words, and whether it changes something.
const VERBS: &[(&str, bool)] = &[
    ("fleet init --name other --kit kit2 --no-passphrase", true),
    ("fleet show", false),
    ("fleet status", false),
    ("fleet set lab=false", true),
    ("fleet freeze", true),
    ("fleet unfreeze", true),
    ("key ls", false),
    ("key export-pub deploy", false),
    ("key gen next", true),
    ("key import home/keys/acme/deploy.pem --name other", true),
    ("key root show", false),
    ("product ls", false),
    ("product show app", false),
    ("product set app --select name=dev1", true),
    ("product sign targets.draft", true),
    ("product assemble targets.draft", true),
    ("product publish targets.draft", true),
    ("token create --uses 2 --ttl 1h", true),
    ("token sign two.grant", true),
    ("token publish signed.grant", true),
    ("token ls", false),
    ("token revoke TOKEN", true),
    ("device ls", false),
    ("device show dev1", false),
    ("device why dev1", false),
    ("device accept dev1", true),
    ("device reject dev1", true),
    ("device suspend dev1", true),
    ("device unsuspend dev1", true),
    ("device revoke dev1", true),
    ("device label dev1 --label a=b", true),
    ("device regrant dev1", true),
    ("device hold dev1", true),
    ("device unhold dev1", true),
    (
        "release build --product app --version 2.0.0 --tree app=tree --out two.bundle",
        true,
    ),
    ("release sign app-1.0.0.bundle", true),
    ("release sign half.bundle --detached --out no.sig", true),
    ("release sign app@1.0.0", true),
    ("release sign --live", true),
    ("release publish app-1.0.0.bundle", true),
    ("release yank app@1.0.0", true),
    ("release ls", false),
    ("release show app@1.0.0", false),
    ("release diff app-1.0.0.bundle app-1.0.0.bundle", false),
    ("release verify app-1.0.0.bundle", false),
    ("rollout plan --product app --version 1.0.0 --waves 100%", false),
    (
        "rollout plan --product app --version 1.0.0 --waves 100% --out no.plan",
        true,
    ),
    ("rollout sign one.plan", true),
    ("rollout start --product app --version 1.0.0 --waves 100%", true),
    ("rollout start signed.plan", true),
    ("rollout status", false),
    ("rollout ls", false),
    ("rollout pause", true),
    ("rollout resume", true),
    ("rollout promote --wave 2", true),
    ("rollout abort --keep", true),
    ("rollout release app dev1", true),
    ("rollout why dev1", false),
];

/// Those that print something else (scripts and pages), and what there is nothing to do for in a lab.
const OTHERS: [&str; 3] = ["completion", "key passwd", "man"];

fn run(fleet: &Fleet, words: &[&str]) -> Result<Output> {
    let out = fleet.command("ensign").args(words).output()?;
    ensure!(
        out.status.success(),
        "{words:?}: {}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    for (name, stream) in [("output", &out.stdout), ("error", &out.stderr)] {
        ensure!(!stream.contains(&0x1b), "{words:?}: colours on standard {name}");
    }
    Ok(out)
}

/// Everything that a dry run could have changed.
fn state(fleet: &Fleet) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for words in [["token", "ls"], ["release", "ls"], ["rollout", "ls"], ["key", "ls"]] {
        all.push(fleet.json(words)?);
    }
    let devices = fleet.json(["device", "ls"])?;
    let lasting = |d: &Value| serde_json::json!([d["id"], d["state"], d["labels"], d["products"]]);
    all.push(devices.as_array().context("a list")?.iter().map(lasting).collect());
    let shown = fleet.json(["fleet", "status"])?;
    all.push(serde_json::json!([shown["frozen"], shown["lab"], shown["root"]]));
    Ok(all)
}

#[test]
fn the_table_has_every_verb() {
    let mut known: BTreeSet<String> = OTHERS.iter().map(|v| (*v).to_owned()).collect();
    known.extend(
        VERBS
            .iter()
            .map(|(words, _)| words.split(' ').take(2).collect::<Vec<_>>().join(" ")),
    );
    let mut real = BTreeSet::new();
    for noun in ensign::command().get_subcommands() {
        if noun.has_subcommands() {
            real.extend(
                noun.get_subcommands()
                    .map(|verb| format!("{} {}", noun.get_name(), verb.get_name())),
            );
        } else {
            real.insert(noun.get_name().to_owned());
        }
    }
    assert_eq!(known, real);
}

#[test]
fn every_verb_prints_one_document_in_each_format() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 2)?;
    write_tree(&fleet.path("tree"), &[("file", "content")])?;
    fleet.release("1.0.0", &[("app", &fleet.path("tree"))], &[])?;
    // A rollout whose second wave a promotion opens, and that is over: nothing of it changes by itself.
    let gated = ["--waves", "1,100%", "--soak", "0s", "--gate", "manual", "--yes"];
    let start = ["rollout", "start", "--product", "app", "--version", "1.0.0"];
    fleet.ensign(start, gated)?;
    fleet.wait_for("the second wave waits for an operator", |f| {
        Ok(f.json(["rollout", "status"])?["waves"][0]["state"] == "done")
    })?;
    fleet.ensign(["rollout", "promote"], [""; 0])?;
    fleet.wait_for("the rollout is done", |f| {
        Ok(f.json(["rollout", "status"])?["state"] == "done")
    })?;
    let token = fleet.json(["token", "ls"])?[0]["key"]
        .as_str()
        .context("a key")?
        .to_owned();
    for words in [
        "release build --product app --version 1.5.0 --tree app=tree --out half.bundle",
        "product set app --select name=dev1 --out targets.draft",
        "token create --grant two.grant --out two.token",
        "token create --grant signed.grant --out signed.token",
        "token sign signed.grant",
        "rollout plan --product app --version 1.0.0 --waves 100% --out one.plan",
        "rollout plan --product app --version 1.0.0 --waves 100% --out signed.plan",
        "rollout sign signed.plan",
    ] {
        run(&fleet, &words.split(' ').collect::<Vec<_>>())?;
    }
    let before = state(&fleet)?;
    for (words, changes) in VERBS {
        let words = words.replace("TOKEN", &token);
        let mut words: Vec<&str> = words.split(' ').collect();
        let address = fleet.address().to_owned();
        if words[..2] == ["fleet", "init"] {
            words.extend(["--controller", &address]);
        }
        let flags = ["--dry-run", "--yes", "--reason", "to see"];
        let with = |more: &[&'static str], last: bool| {
            let mut all = words.clone();
            // Right behind the verb, or at the end.
            let at = if last { all.len() } else { 2 };
            let changing = flags.iter().filter(|_| *changes);
            all.splice(at..at, changing.chain(more).copied());
            all.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()
        };
        let ask = |more: &[&'static str], last: bool| {
            let all = with(more, last);
            run(&fleet, &all.iter().map(String::as_str).collect::<Vec<_>>())
        };
        for last in [true, false] {
            let json = ask(&["-o", "json"], last)?;
            let parsed: Value = serde_json::from_slice(&json.stdout).with_context(|| format!("{words:?} as JSON"))?;
            ensure!(parsed.is_object() || parsed.is_array(), "{words:?}: {parsed}");
            if *changes {
                ensure!(parsed["dry_run"] == true, "{words:?}: {parsed}");
            }
        }
        let yaml = ask(&["--format", "yaml"], true)?;
        let text = String::from_utf8(yaml.stdout)?;
        serde_yaml::from_str::<serde_yaml::Value>(&text).with_context(|| format!("{words:?} as YAML: {text}"))?;
        let table = ask(&["--quiet"], true)?;
        ensure!(!table.stdout.is_empty(), "{words:?} prints nothing");
        let noise = String::from_utf8_lossy(&table.stderr);
        ensure!(
            noise.lines().all(|l| l.starts_with("warning:")),
            "{words:?} is not quiet: {noise}"
        );
        ask(&["-v"], false)?;
    }
    assert_eq!(state(&fleet)?, before, "a dry run changed something");
    for file in ["kit2", "two.bundle", "no.plan", "no.sig"] {
        assert!(!fleet.path(file).exists(), "a dry run made {file}");
    }
    Ok(())
}

#[test]
fn monitoring_gets_one_line_and_an_exit_code() -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let check = |fleet: &Fleet| -> Result<(i32, String, String)> {
        let out = fleet.command("ensign").args(["fleet", "status", "--check"]).output()?;
        let code = out.status.code().context("it ended by itself")?;
        Ok((code, String::from_utf8(out.stdout)?, String::from_utf8(out.stderr)?))
    };
    let (code, line, noise) = check(&fleet)?;
    assert_eq!((code, line.lines().count(), noise.as_str()), (0, 1, ""), "{line}");
    assert!(line.starts_with("ENSIGN OK - acme: "), "{line}");
    fleet.ensign(["fleet", "freeze"], ["--reason", "a look"])?;
    let (code, line, noise) = check(&fleet)?;
    assert_eq!((code, line.lines().count(), noise.as_str()), (1, 1, ""), "{line}");
    assert!(line.contains("WARNING") && line.contains("a look"), "{line}");
    fleet.controller()?.terminate();
    let (code, line, noise) = check(&fleet)?;
    assert_eq!((code, line.lines().count(), noise.as_str()), (2, 1, ""), "{line}");
    assert!(
        line.contains("CRITICAL") && line.contains("controller-unreachable"),
        "{line}"
    );
    Ok(())
}

/// Gives an answer on a terminal; how it ended, and what stood there.
fn answered(fleet: &Fleet, words: &str, answer: &str) -> Result<(i32, String)> {
    let terminal = nix::pty::openpty(None, None)?;
    let mut person = File::from(terminal.master);
    let mut child = fleet
        .command("ensign")
        .args(words.split(' '))
        .stdin(terminal.slave.try_clone()?)
        .stderr(terminal.slave)
        .stdout(Stdio::null())
        .spawn()?;
    person.write_all(answer.as_bytes())?;
    let mut shown = Vec::new();
    // Once nobody else has the terminal open, reading it fails (EIO).
    let mut part = [0; 1024];
    while let Ok(length) = person.read(&mut part) {
        if length == 0 {
            break;
        }
        shown.extend_from_slice(&part[..length]);
    }
    let code = child.wait()?.code().context("it ended by itself")?;
    Ok((code, String::from_utf8_lossy(&shown).into_owned()))
}

#[test]
fn a_no_says_what_was_not_done_and_an_unhold_what_follows() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 1)?;
    for (words, left) in [
        ("device revoke dev1", "not confirmed: dev1 is not revoked"),
        (
            "fleet set lab=false",
            "not confirmed: the fleet's root and the keys of this machine are as they were",
        ),
    ] {
        let (code, text) = answered(&fleet, words, "n\n")?;
        assert_eq!(code, 1, "{words}: {text}");
        assert!(text.contains(left), "{words}: {text}");
    }
    assert_eq!(fleet.json(["device", "ls"])?[0]["state"], "approved");
    assert_eq!(fleet.json(["fleet", "show"])?["lab"], true);
    fleet.ensign(["device", "hold", "dev1"], [""; 0])?;
    let out = fleet.ensign(["device", "unhold", "dev1"], [""; 0])?;
    let text = String::from_utf8(out.stderr)?;
    assert!(
        text.contains("dev1 takes part again: ") && text.contains("next: "),
        "{text}"
    );
    Ok(())
}
