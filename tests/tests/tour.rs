//! The tour, typed: every command of `docs/tour.md` runs in one shell, in order, and ends as the text says.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use ensign_tests::harness::{Profile, build};

/// Lines of the tour's shell blocks.
fn commands() -> Result<Vec<String>> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tour.md"))?;
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside && !line.is_empty() => lines.push(line.to_owned()),
            _ => {}
        }
    }
    Ok(lines)
}

/// A line as the script runs it: daemons go to the background until they are ready, everything else must end with 0, but the
/// rollout of the bad release with 10.
fn scripted(line: &str, number: usize) -> String {
    let daemon = line.starts_with("ensign-controller serve") || line.starts_with("ensign-agent run");
    let wanted = if line.contains("--version 1.2.0 --waves") {
        10
    } else {
        0
    };
    if daemon {
        format!("{line} --ready-file $READY/{number} 2>>$READY/log & await $READY/{number}")
    } else {
        format!("{line}\nended $? {wanted} {number}")
    }
}

const PRELUDE: &str = r#"
set -u
ended() { [ "$1" = "$2" ] || { echo "line $3 ended with $1, not $2" >&2; cat $READY/log >&2; finish 1; }; }
await() { for _ in $(seq 600); do [ -e "$1" ] && return; sleep 0.05; done; echo "not ready: $1" >&2; cat $READY/log >&2; finish 1; }
finish() { kill $(jobs -p) 2>/dev/null; wait; chmod -R u+w "$T"; rm -rf "$T"; exit "$1"; }
"#;

#[test]
fn every_command_of_the_tour_works_as_printed() -> Result<()> {
    let bin = build(Profile::Dev)?;
    let ready = tempfile::tempdir()?;
    let lines = commands()?;
    assert!(lines.len() > 20, "the tour was read");
    let body: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(number, line)| scripted(line, number))
        .collect();
    let script = format!("{PRELUDE}\n{}\nfinish 0\n", body.join("\n"));
    // The tour's port is the default one, which another process may hold: the test takes a free one.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let home = ready.path().join("tour");
    let script = script
        .replace("127.0.0.1:7443", &format!("127.0.0.1:{port}"))
        .replace("/tmp/ensign-tour", &home.display().to_string());
    let path = std::env::join_paths(
        std::iter::once(bin).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    let out = Command::new("bash")
        .arg("-c")
        .arg(&script)
        .env("PATH", path)
        .env("READY", ready.path())
        .env("NO_COLOR", "1")
        .output();
    let out = out.context("bash runs")?;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(out.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("hello"), "the device has the file: {stdout}");
    Ok(())
}
