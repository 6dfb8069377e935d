//! Where the time between `publish` and the last confirmed device goes: from the stamps in the logs of one real run.

use std::fmt::Write as _;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use crate::harness::Fleet;

/// Seconds of a day.
const DAY: f64 = 86_400.0;

/// What only who gives the commands can see, seconds of the day in UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    began: f64,
    published: f64,
    ended: f64,
}

impl Clock {
    pub(super) fn start() -> Self {
        let began = time_of_day();
        Self {
            began,
            published: began,
            ended: began,
        }
    }

    pub(super) fn published(&mut self) {
        self.published = time_of_day();
    }

    pub(super) fn ended(&mut self) {
        self.ended = time_of_day();
    }
}

/// The stages of one device; each ends where the next begins.
#[derive(Clone, Copy, Debug)]
struct Device {
    told: f64,
    fetched: f64,
    written: f64,
    synced: f64,
    staged: f64,
    switching: f64,
    confirmed: f64,
    receipt: f64,
}

/// A table of all stages of the rollout of `version`, seconds.
pub(super) fn table(fleet: &Fleet, version: &str, clock: Clock) -> Result<String> {
    let log = fs::read_to_string(fleet.path("controller.log"))?;
    let started = stamps(&log, &["a rollout starts", version]);
    let started = *started.last().context("the controller says when a rollout starts")?;
    let receipts = stamps(&log, &["receipt device="])
        .into_iter()
        .filter(|at| since(started, *at) < DAY / 2.0);
    let receipts: Vec<f64> = receipts.collect();
    let mut devices = Vec::new();
    for name in fleet.device_names() {
        let status = fleet.status(&name)?;
        let id = status["id"].as_str().context("an id")?;
        devices.push(device(fleet, &name, id, version, &log)?);
    }
    let last = receipts.iter().copied().max_by(f64::total_cmp).context("receipts")?;
    let done = stamps(&log, &[" done rollout="])
        .into_iter()
        .max_by(f64::total_cmp)
        .unwrap_or(last);
    let mut out =
        String::from("stage                                   seconds: mean of the devices, slowest device\n");
    let mut once = |name: &str, seconds: f64| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:38}  {seconds:6.3}");
    };
    once("publish", since(clock.began, clock.published));
    once("resolve, sign the plan, send it", since(clock.published, started));
    let mut each = |name: &str, of: &dyn Fn(&Device) -> f64| {
        let times: Vec<f64> = devices.iter().map(of).collect();
        let count = f64::from(u32::try_from(times.len()).unwrap_or(1));
        let mean = times.iter().sum::<f64>() / count;
        let most = times.iter().copied().fold(0.0, f64::max);
        let _ = writeln!(out, "{name:38}  {mean:6.3}  {most:6.3}");
    };
    each("push: plan there, documents fetched", &|d| since(started, d.told));
    each("download (writing runs along)", &|d| since(d.told, d.fetched));
    each("write what is left", &|d| since(d.fetched, d.written));
    each("syncfs", &|d| since(d.written, d.synced));
    each("marker and rename", &|d| since(d.synced, d.staged));
    each("judge again, start", &|d| since(d.staged, d.switching));
    each("switch and trial", &|d| since(d.switching, d.confirmed));
    each("receipt signed, sent, in the ledger", &|d| {
        since(d.confirmed, d.receipt)
    });
    let mut once = |name: &str, seconds: f64| {
        let _ = writeln!(out, "{name:38}  {seconds:6.3}");
    };
    once("rollout done", since(last, done));
    once("report to the operator", since(done, clock.ended));
    once("all of it", since(clock.began, clock.ended));
    Ok(out)
}

fn device(fleet: &Fleet, name: &str, id: &str, version: &str, controller: &str) -> Result<Device> {
    let log = fs::read_to_string(fleet.path(format!("{name}.log")))?;
    let state = |state: &str| -> Result<f64> {
        let all = stamps(&log, &[&format!("state={state} "), &format!("version={version} ")]);
        all.last()
            .copied()
            .with_context(|| format!("{name} says when it is {state}"))
    };
    let (told, staged) = (state("fetching")?, state("staged")?);
    // Of what was logged between the two states the last counts.
    let within = |word: &str, from: f64| {
        let times = stamps(&log, &[word]).into_iter();
        let times = times.filter(|at| since(told, *at) <= since(told, staged));
        times.max_by(f64::total_cmp).unwrap_or(from)
    };
    let fetched = within(" fetched received=", told);
    let written = within(" written trees=", fetched);
    let receipt = stamps(controller, &["receipt device=", id]).last().copied();
    Ok(Device {
        told,
        // A worker may report before the link half notes the end of its stream.
        fetched: if since(fetched, written) < DAY / 2.0 {
            fetched
        } else {
            written
        },
        written,
        synced: within(" synced ok=", written),
        staged,
        switching: state("switching")?,
        confirmed: state("confirmed")?,
        receipt: receipt.context("the controller says when a receipt came")?,
    })
}

/// The times of all lines that hold every one of these words, in order.
fn stamps(log: &str, words: &[&str]) -> Vec<f64> {
    let lines = log.lines().filter(|line| words.iter().all(|word| line.contains(word)));
    lines.filter_map(stamp).collect()
}

/// Seconds of the day of `2026-01-02T03:04:05.678901Z ...`.
fn stamp(line: &str) -> Option<f64> {
    let time = line.split_whitespace().next()?.split_once('T')?.1.strip_suffix('Z')?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some((hours * 60.0 + minutes) * 60.0 + seconds)
}

/// From one time of day to a later one, over midnight too.
fn since(from: f64, to: f64) -> f64 {
    (to - from).rem_euclid(DAY)
}

#[expect(
    clippy::disallowed_methods,
    reason = "compared with the stamps in logs of real processes"
)]
fn time_of_day() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_secs_f64().rem_euclid(DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_and_midnight_is_no_trouble() {
        let log = "2026-11-21T23:59:59.500000Z  INFO state state=fetching\nrubbish\n2026-11-22T00:00:00.250000Z  INFO state state=staged\n";
        let (from, to) = (stamps(log, &["fetching"]), stamps(log, &["staged"]));
        assert!((since(from[0], to[0]) - 0.75).abs() < 1e-6);
        assert!(stamps(log, &["rubbish"]).is_empty());
    }
}
