//! A live view of one rollout: a bar per wave, redrawn in place on a terminal, one line per change elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::harness::{Fleet, PATIENCE, now, pause};

/// Width of a bar, characters.
const WIDTH: u64 = 36;
/// Colours of a terminal (ECMA-48).
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
/// States in which a rollout has ended or waits for a person.
const SETTLED: &[&str] = &[
    "done",
    "halted",
    "aborted",
    "reverted",
    "expired",
    "superseded",
    "paused",
];

/// Draws the newest rollout of the version until it settles, and returns its last status document.
pub(super) fn watch(fleet: &Fleet, version: &str) -> Result<Value> {
    let (live, end) = (std::io::stdout().is_terminal(), now() + PATIENCE);
    let mut last = String::new();
    loop {
        let status = newest(fleet, version)?;
        let drawn = draw(&status, live);
        if drawn != last {
            if live && !last.is_empty() {
                print!("\x1b[{}A\x1b[J", last.lines().count());
            }
            print!("{drawn}");
            std::io::stdout().flush()?;
            last = drawn;
        }
        if SETTLED.contains(&status["state"].as_str().unwrap_or_default()) {
            return Ok(status);
        }
        if now() > end {
            bail!(
                "the rollout of {version} did not settle in {PATIENCE:?}: {status}\n{}",
                fleet.logs()
            );
        }
        pause(Duration::from_millis(100));
    }
}

fn newest(fleet: &Fleet, version: &str) -> Result<Value> {
    let list = fleet.json(["rollout", "ls"])?;
    let found = list
        .as_array()
        .into_iter()
        .flatten()
        .find(|r| r["version"] == version)
        .cloned();
    found.ok_or_else(|| anyhow::anyhow!("no rollout of {version} in {list}"))
}

fn draw(status: &Value, live: bool) -> String {
    let waves = status["waves"].as_array().map_or(&[][..], Vec::as_slice);
    let bars: String = waves.iter().map(|wave| bar(wave, live)).collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reason = status["reason"]["text"]
        .as_str()
        .map_or(String::new(), |r| format!(": {r}"));
    format!(
        "{bars}  {} {}{reason}\n",
        text(&status["product"]),
        text(&status["state"])
    )
}

fn bar(wave: &Value, live: bool) -> String {
    let count = |key: &str| wave[key].as_u64().unwrap_or(0);
    let (target, ok, failed, active) = (
        count("target"),
        count("ok"),
        count("failed") + count("dark"),
        count("active"),
    );
    let part = |n: u64| usize::try_from((n * WIDTH).checked_div(target).unwrap_or(WIDTH)).unwrap_or(0);
    let (full, bad, busy) = (part(ok), part(failed), part(active));
    let rest = part(target).saturating_sub(full + bad + busy);
    let bar = format!(
        "{}{}{}{}",
        "█".repeat(full),
        "✗".repeat(bad),
        "▒".repeat(busy),
        "░".repeat(rest)
    );
    let colour = match (failed, ok == target) {
        (1.., _) => RED,
        (0, true) => GREEN,
        (0, false) => YELLOW,
    };
    let bar = if live {
        format!("\x1b[{colour}m{bar}\x1b[0m")
    } else {
        bar
    };
    let note = if failed > 0 {
        format!(", {failed} failed")
    } else {
        String::new()
    };
    let state = wave["state"].as_str().unwrap_or_default();
    format!("  wave {} {bar} {ok:>2}/{target:<2} {state}{note}\n", wave["index"])
}
