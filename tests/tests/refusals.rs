//! What is refused, typed at real programs: exit code, reason code, both values and a hint, as text and as JSON.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ensign_tests::harness::{Fleet, PATIENCE, Profile, build, now, pause, write_tree};
use serde_json::Value;

/// A refusal: the words after the program's name (a word for each space, `'` keeps spaces), exit, code, and what the message says.
struct Case<'a> {
    program: &'a str,
    words: String,
    exit: i32,
    code: &'a str,
    says: &'a [&'a str],
    env: Option<(&'a str, &'a str)>,
}

fn case<'a>(words: impl Into<String>, exit: i32, code: &'a str, says: &'a [&'a str]) -> Case<'a> {
    Case {
        program: "ensign",
        words: words.into(),
        exit,
        code,
        says,
        env: None,
    }
}

impl Case<'_> {
    fn agent(self) -> Self {
        Self {
            program: "ensign-agent",
            ..self
        }
    }
}

fn command(fleet: &Fleet, case: &Case<'_>) -> Command {
    let mut command = fleet.command(case.program);
    for (number, part) in case.words.split('\'').enumerate() {
        if number % 2 == 1 {
            command.arg(part);
        } else {
            command.args(part.split_whitespace());
        }
    }
    if let Some((name, value)) = case.env {
        command.env(name, value);
    }
    command
}

fn check(fleet: &Fleet, case: &Case<'_>) -> Result<()> {
    let words = format!("{} {}", case.program, case.words);
    let out = command(fleet, case).output()?;
    let text = String::from_utf8(out.stderr)?;
    ensure!(
        out.status.code() == Some(case.exit),
        "{words}: {}, not {}\n{text}",
        out.status,
        case.exit
    );
    let error = text.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
    ensure!(
        error.ends_with(&format!("({})", case.code)),
        "{words}: no ({}) in: {text}",
        case.code
    );
    for value in case.says {
        ensure!(error.contains(value), "{words}: no `{value}` in: {error}");
    }
    let hint = text.lines().find_map(|l| l.strip_prefix("hint: ")).unwrap_or_default();
    ensure!(!hint.is_empty(), "{words} has no hint: {text}");
    let verb: Vec<&str> = case.words.split_whitespace().take(2).collect();
    ensure!(
        case.program != "ensign" || !hint.contains("--help") || hint.contains(&verb.join(" ")),
        "{words}: the hint names another verb: {hint}"
    );
    ensure!(!text.contains("Usage:"), "{words} prints the usage: {text}");

    let out = command(fleet, case).args(["-o", "json"]).output()?;
    let text = String::from_utf8(out.stderr)?;
    ensure!(
        out.status.code() == Some(case.exit),
        "{words} -o json: {}\n{text}",
        out.status
    );
    // Warnings and previews may stand before it.
    let start = text
        .find("{\n")
        .or_else(|| text.find("{\""))
        .with_context(|| format!("{words}: no JSON: {text}"))?;
    let document: Value = serde_json::from_str(&text[start..]).with_context(|| format!("{words}: {text}"))?;
    let body = &document["error"];
    ensure!(
        body["code"] == case.code && body["exit"] == case.exit,
        "{words}: {body}"
    );
    for value in case.says {
        ensure!(
            body["message"].as_str().is_some_and(|m| m.contains(value)),
            "{words}: {body}"
        );
    }
    ensure!(body["hint"].as_str().is_some_and(|h| !h.is_empty()), "{words}: {body}");
    Ok(())
}

fn check_all(fleet: &Fleet, cases: &[Case<'_>]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| check(fleet, case).err())
        .map(|e| format!("{e:#}"))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
}

#[test]
fn words_and_files_that_are_refused() -> Result<()> {
    let bin = build(Profile::Dev)?;
    let fleet = Fleet::start(&bin, 2)?;
    let other = Fleet::start(&bin, 0)?;
    write_tree(
        &fleet.path("tree"),
        &[("file", &"content ".repeat(1000)), ("plain", "no program")],
    )?;
    fleet.release("1.0.0", &[("app", &fleet.path("tree"))], &[])?;
    fleet.release("1.1.0", &[("app", &fleet.path("tree"))], &[])?;
    assert_eq!(fleet.rollout("1.1.0", &["--waves", "100%", "--soak", "0s"])?, 0);
    let unsigned = "release build --product app --version 3.0.0 --tree app=tree --out unsigned.bundle";
    fleet.ensign(unsigned.split(' '), [""; 0])?;
    let plan = "rollout plan --product app --version 1.1.0 --waves 100% --out unsigned.plan";
    fleet.ensign(plan.split(' '), [""; 0])?;
    let grant = "token create --grant unsigned.grant --out unsigned.token";
    fleet.ensign(grant.split(' '), [""; 0])?;
    fs::copy(fleet.path("app-1.0.0.bundle"), fleet.path("flipped.bundle"))?;
    let flipped = fs::File::options()
        .read(true)
        .write(true)
        .open(fleet.path("flipped.bundle"))?;
    let last = flipped.metadata()?.len() - 1;
    let mut byte = [0];
    flipped.read_exact_at(&mut byte, last)?;
    flipped.write_all_at(&[byte[0] ^ 1], last)?;
    let build = "release build --product app --version 4.0.0 --out no.bundle";
    let start = "rollout start --product app --version 1.1.0";
    let address = other.address();
    let wrong_key = [address, "another key"];
    let kept = fleet.path("kit").display().to_string();
    check_all(
        &fleet,
        &[
            case("rollout stop", 2, "usage", &["'stop'"]),
            case("rollout start app@1.1.0", 2, "usage", &["app@1.1.0"]),
            case("fleet init --name x --kit k", 2, "usage", &["--controller"]),
            case(
                format!("{build} --tree a=tree --tree a=tree"),
                2,
                "usage",
                &["two components", "a"],
            ),
            case(
                format!("{build} --tree a=tree --unit b=b.service"),
                2,
                "usage",
                &["b", "only a"],
            ),
            case(
                format!("{build} --tree a=tree --health exec:none"),
                2,
                "usage",
                &["none", "not there"],
            ),
            case(
                format!("{build} --tree a=tree --health exec:plain"),
                2,
                "usage",
                &["plain", "644"],
            ),
            case(format!("{start} --waves 5,100%"), 2, "usage", &["5 devices", "2 "]),
            case(format!("{start} --waves 50%"), 2, "usage", &["1 of 2", "100%"]),
            case(format!("{start} --soak 5x"), 2, "usage", &["5x"]),
            case("device revoke dev1", 2, "usage", &["no terminal", "dev1"]),
            case("fleet set colour=blue", 2, "usage", &["colour"]),
            case("release verify unsigned.bundle", 20, "unsigned", &["unsigned.bundle"]),
            case("release publish unsigned.bundle", 20, "unsigned", &["unsigned.bundle"]),
            case(
                "rollout start --product app --version 1.0.0 --waves 100%",
                21,
                "downgrade-refused",
                &["2 devices", "app@1.0.0"],
            ),
            case(
                "release verify flipped.bundle",
                23,
                "content-mismatch",
                &["flipped.bundle"],
            ),
            case("release verify tree/plain", 23, "malformed", &["tree/plain"]),
            case("release show tree/plain", 23, "malformed", &["tree/plain"]),
            case("release verify tree", 23, "malformed", &["tree", "folder"]),
            case(
                "--controller 127.0.0.1:1 rollout ls",
                30,
                "controller-unreachable",
                &["127.0.0.1:1", "refused"],
            ),
            case(
                format!("--controller {address} rollout ls"),
                30,
                "wrong-controller-key",
                &wrong_key,
            ),
            Case {
                env: Some(("ENSIGN_API_TOKEN", "wrong")),
                ..case("rollout ls", 31, "not-authorised", &[])
            },
            Case {
                env: Some(("ENSIGN_HOME", "/nonexistent")),
                ..case("rollout ls", 32, "not-found", &["/nonexistent"])
            },
            case("device show nobody", 32, "not-found", &["nobody"]),
            case("device why 00000000", 32, "not-found", &["00000000"]),
            case("rollout status nothing", 32, "not-found", &["nothing"]),
            case("release show app@9.9.9", 32, "not-found", &["app", "9.9.9"]),
            case(
                "rollout start --product app --version 9.9.9",
                32,
                "not-found",
                &["app@9.9.9"],
            ),
            case("release verify none.bundle", 32, "not-found", &["none.bundle"]),
            case("rollout sign none.plan", 32, "not-found", &["none.plan"]),
            case("rollout start none.plan", 32, "not-found", &["none.plan"]),
            case("rollout sign tree/plain", 23, "malformed", &["tree/plain", "plan file"]),
            case("rollout start unsigned.plan", 20, "unsigned", &["unsigned.plan"]),
            case("rollout start unsigned.plan --product app", 2, "usage", &["--product"]),
            case("rollout sign unsigned.plan --detached", 2, "usage", &["--out"]),
            case("token sign tree/plain", 23, "malformed", &["tree/plain"]),
            case("token publish unsigned.grant", 20, "unsigned", &["unsigned.grant"]),
            case(
                "release sign unsigned.bundle --add tree/plain",
                23,
                "malformed",
                &["tree/plain"],
            ),
            case(
                "device ls --select 'site = nowhere'",
                32,
                "nobody-matches",
                &["2 devices", "site = nowhere"],
            ),
            case(format!("{start} --on-breach revert"), 2, "usage", &["revert"]),
            case(
                format!("{start} --select 'site = nowhere'"),
                32,
                "nobody-matches",
                &["2 "],
            ),
            case("token revoke 00000000", 32, "not-found", &["00000000"]),
            case(
                format!("fleet init --name acme --controller {address} --kit kit9 --no-passphrase"),
                33,
                "conflict",
                &["acme"],
            ),
            case(
                format!("fleet init --name another --controller {address} --kit {kept} --no-passphrase"),
                33,
                "conflict",
                &["kit"],
            ),
            case("verify unsigned.bundle --root dev1", 20, "unsigned", &[]).agent(),
            case("verify flipped.bundle --root dev1", 23, "content-mismatch", &[]).agent(),
            case("apply app-1.0.0.bundle --root dev1", 21, "downgrade-refused", &[]).agent(),
        ],
    );
    Ok(())
}

#[test]
fn tokens_and_names_that_are_refused() -> Result<()> {
    let fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let token = |more: &[&str]| -> Result<Value> {
        let mut words = vec!["token", "create"];
        words.extend(more);
        fleet.json(words)
    };
    let text = |v: &Value| v["token"].as_str().map(str::to_owned).context("a token");
    let expired = token(&["--ttl", "1s"])?;
    let (once, revoked, many) = (token(&["--uses", "1"])?, token(&[])?, token(&["--uses", "9"])?);
    fleet.ensign(["token", "revoke"], [revoked["key"].as_str().context("a key")?])?;
    let enroll = |root: &str, token: &str, name: &str| {
        let words = format!("enroll --root {root} --token {token} --name {name}");
        fleet.exit("ensign-agent", words.split(' '))
    };
    assert_eq!(enroll("one", &text(&once)?, "one")?.0, 0);
    for root in ["twin1", "twin2"] {
        assert_eq!(enroll(root, &text(&many)?, "twin")?.0, 0);
        fleet.ensign(["device", "revoke", "twin"], ["--yes"])?;
    }
    let expires: jiff::Timestamp = expired["expires"].as_str().context("a time")?.parse()?;
    let end = now() + PATIENCE;
    while jiff::Timestamp::now() <= expires {
        ensure!(now() < end, "the clock stands still");
        pause(std::time::Duration::from_millis(50));
    }
    let (mut other, words) = (text(&many)?, "enroll --root new --name new --token");
    // The first letter belongs to the token's form, the last ones to its checksum.
    other.truncate(other.len() / 2);
    check_all(
        &fleet,
        &[
            case(format!("{words} nonsense"), 31, "token-malformed", &[]).agent(),
            case(format!("{words} {other}"), 31, "token-malformed", &[]).agent(),
            case(format!("{words} {}", text(&expired)?), 31, "token-expired", &[]).agent(),
            case(format!("{words} {}", text(&once)?), 31, "token-used-up", &["1"]).agent(),
            case(format!("{words} {}", text(&revoked)?), 31, "token-revoked", &[]).agent(),
            case("enroll --root new --name new", 2, "usage", &["--token-file"]).agent(),
            case("device show twin", 33, "conflict", &["2 devices", "twin"]),
        ],
    );
    Ok(())
}

#[test]
fn a_controller_that_is_refused_says_what_to_type() -> Result<()> {
    let bin = build(Profile::Dev)?;
    let (fleet, other) = (Fleet::start(&bin, 0)?, Fleet::empty(&bin)?);
    let serve = |data: &str, kit: Option<&std::path::Path>| -> Result<(i32, String)> {
        let mut command = fleet.command("ensign-controller");
        command.arg("serve").arg("--data").arg(fleet.path(data));
        if let Some(kit) = kit {
            command.arg("--kit").arg(kit);
        }
        let out = command.output()?;
        let text = String::from_utf8(out.stderr)?;
        Ok((out.status.code().context("it ended by itself")?, text))
    };
    let (exit, text) = serve("fresh", None)?;
    assert_eq!(exit, 32, "{text}");
    assert!(
        text.contains("(not-found)\nhint: ") && text.contains("`ensign-controller serve --data DIR --kit DIR`"),
        "{text}"
    );
    // A folder that another process serves is refused before its kit is looked at: this one was served before.
    drop(fleet.ensign(["fleet", "show"], [""; 0])?);
    let mut fleet = fleet;
    fleet.controller()?.terminate();
    let mut command = fleet.command("ensign-controller");
    command
        .arg("serve")
        .arg("--data")
        .arg(fleet.path("controller"))
        .arg("--kit")
        .arg(other.path("kit"));
    let out = command.output()?;
    let text = String::from_utf8(out.stderr)?;
    assert_eq!(out.status.code(), Some(33), "{text}");
    assert!(text.contains("(conflict)\nhint: ") && text.contains("--data"), "{text}");
    Ok(())
}
