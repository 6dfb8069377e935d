//! What happens in the demo, and the checks that it did.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ensign_bundle::words::show_bytes;
use serde_json::Value;

use super::say;
use super::view::watch;
use crate::harness::{Fleet, difference, now, write_tree};

const PROBE: [&str; 6] = [
    "--health",
    "app=exec:bin/check",
    "--health-window",
    "1s",
    "--health-deadline",
    "20s",
];
const GOOD: &str =
    "#!/bin/sh\n# The release proves itself: it must find its own files.\ntest -s version && test -d assets\n";
const BAD: &str = "#!/bin/sh\necho 'cannot open the till' >&2\nexit 1\n";

/// One rollout, for the summary.
pub(super) struct Told {
    version: &'static str,
    status: Value,
    took: Duration,
}

/// Rolls out two good releases and a bad one. Every step is checked.
pub(super) fn tell(fleet: &Fleet) -> Result<Vec<Told>> {
    let (app, docs) = (
        fleet.path("app"),
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")),
    );
    let mut told = Vec::new();

    say("1.0.0: the first release, in three waves: 1 device, a third, all");
    write_tree(
        &app,
        &[
            ("version", "1.0.0\n"),
            ("bin/check!", GOOD),
            ("assets/logo.svg", &"<svg/>".repeat(30_000)),
        ],
    )?;
    told.push(roll_out(fleet, "1.0.0", &app, docs, "done")?);

    say("1.1.0: two files changed; what is already on the devices is not sent again");
    write_tree(&app, &[("version", "1.1.0\n"), ("news.txt", "faster tills\n")])?;
    told.push(roll_out(fleet, "1.1.0", &app, docs, "done")?);
    let good = fleet.path("good");
    copy(&app, &good)?;

    say("1.2.0: a release whose health check fails");
    write_tree(&app, &[("version", "1.2.0\n"), ("bin/check!", BAD)])?;
    told.push(roll_out(fleet, "1.2.0", &app, docs, "halted")?);

    for device in fleet.device_names() {
        for (component, source) in [("app", good.as_path()), ("docs", docs)] {
            let found = difference(source, &fleet.live(&device, component))?;
            ensure!(
                found.is_none(),
                "{device}/{component} is not 1.1.0: {}",
                found.unwrap_or_default()
            );
        }
    }
    say("every device runs exactly 1.1.0 again, file by file; 11 of 12 never saw 1.2.0");
    why(fleet)?;
    Ok(told)
}

/// Publishes and rolls out one version and demands that it ends in `state`.
fn roll_out(fleet: &Fleet, version: &'static str, app: &Path, docs: &Path, state: &str) -> Result<Told> {
    let began = now();
    fleet.release(version, &[("app", app), ("docs", docs)], &PROBE)?;
    let waves = ["--waves", "1,33%,100%", "--soak", "0s", "--stop-failed", "1", "--yes"];
    fleet.ensign(["rollout", "start", "--product", "app", "--version", version], waves)?;
    let status = watch(fleet, version)?;
    let took = began.elapsed();
    ensure!(
        status["state"] == state,
        "the rollout of {version} is {}, not {state}: {status}\n{}",
        status["state"],
        fleet.logs()
    );
    say(&format!(
        "  built, signed, published and {state} in {:.1} s\n",
        took.as_secs_f64()
    ));
    Ok(Told { version, status, took })
}

/// Shows what an operator would ask next.
fn why(fleet: &Fleet) -> Result<()> {
    let list = fleet.json(["device", "ls"])?;
    let canary = list
        .as_array()
        .into_iter()
        .flatten()
        .find(|d| d["status"] == "rolled-back");
    let name = canary
        .and_then(|d| d["name"].as_str())
        .context("one canary was rolled back")?;
    say(&format!("\n$ ensign device why {name}"));
    let out = fleet.ensign(["device", "why", name], [""; 0])?;
    say(String::from_utf8_lossy(&out.stdout).trim_end());
    Ok(())
}

/// Devices per version, bytes sent and saved, times.
pub(super) fn summary(fleet: &Fleet, told: &[Told], took: Duration) -> Result<()> {
    let mut versions: BTreeMap<String, usize> = BTreeMap::new();
    for version in fleet.versions()?.into_values() {
        *versions
            .entry(version.unwrap_or_else(|| "nothing".to_owned()))
            .or_default() += 1;
    }
    ensure!(
        versions == BTreeMap::from([("1.1.0".to_owned(), super::DEVICES)]),
        "the devices run {versions:?}"
    );
    say("\nrelease  rollout   seconds      sent      saved");
    for part in told {
        let bytes = |key: &str| part.status["bytes"][key].as_u64().unwrap_or(0);
        let state = part.status["state"].as_str().unwrap_or_default();
        let row = format!(
            "{:<8} {state:<8} {:>8.1} {:>9} {:>10}",
            part.version,
            part.took.as_secs_f64(),
            show_bytes(bytes("sent")),
            show_bytes(bytes("saved"))
        );
        say(&row);
    }
    for (version, count) in &versions {
        say(&format!(
            "\n{count} of {} devices run {version}; whole demo {:.1} s",
            super::DEVICES,
            took.as_secs_f64()
        ));
    }
    Ok(())
}

/// What to type next, for `--keep`.
pub(super) fn how_to_play(fleet: &Fleet) {
    say(&format!(
        "\nthe fleet is still running. To play with it:\n  export PATH={}:$PATH ENSIGN_HOME={}\n  ensign device ls\n  ensign rollout status\n  \
         ensign rollout why\nand to end it: pkill -f {}",
        fleet.bin().display(),
        fleet.path("home").display(),
        fleet.path("").display()
    ));
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp -a {} {}: {status}", from.display(), to.display());
    Ok(())
}
