//! A power cut at any step of what a device lives through: docs/reliability.md says what is promised, and what is cut where.
//!
//! The applier's shell runs on a disk that records each change. From the record follows every disk that a cut can leave; the shell
//! starts on each, goes on, and is cut again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test: what cannot be set up fails it"
)]

mod checks;
mod device;
mod image;
mod mutants;
mod power;
mod scenario;
mod tape;
mod trace;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ensign_tests::harness::{Profile, build, now};

use crate::scenario::Scenario;
use crate::tape::Recording;

/// Different disks on which a device is started, for each scenario. `ENSIGN_CRASH_STATES` says otherwise.
const STATES: usize = 120;
/// Recoveries that are cut again, for each scenario.
const AGAIN: usize = 6;

/// Lines whose absence no cut can show: where, what, and why it is there all the same.
const EXCEPT: &[(&str, &str, &str)] = &[];

/// Also where the test succeeds.
fn say(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

fn seed() -> u64 {
    std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(11)
}

/// Every scenario, and what is recorded where nothing disturbs it.
fn recordings() -> &'static [(Scenario, Recording)] {
    static ALL: OnceLock<Vec<(Scenario, Recording)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let record = |scenario: Scenario| {
            let recording = power::record(&scenario).unwrap_or_else(|e| panic!("{}: {e:#}", scenario.name));
            (scenario, recording)
        };
        scenario::all().into_iter().map(record).collect()
    })
}

#[test]
fn every_cut_leaves_the_old_set_or_the_new_one() {
    let given = std::env::var("ENSIGN_CRASH_STATES").ok();
    let bound = given.and_then(|text| text.parse().ok()).unwrap_or(STATES);
    let (began, seed) = (now(), seed());
    let mut all = power::Counts::default();
    for (scenario, recording) in recordings() {
        let at = now();
        let counts = power::enumerate(scenario, recording, bound, AGAIN, seed).unwrap_or_else(|e| panic!("{e:#}"));
        all.looked += counts.looked;
        all.torn += counts.torn;
        all.driven += counts.driven;
        all.left += counts.left;
        println!(
            "{}: {} steps, {counts:?} in {:?}",
            scenario.name,
            recording.steps.len(),
            at.elapsed()
        );
    }
    say(&format!("power cuts, SEED={seed}: {all:?} in {:?}", began.elapsed()));
}

#[test]
fn a_program_without_a_sync_a_rename_or_a_marker_is_caught() {
    let (recordings, seed) = (recordings(), seed());
    let (mut missed, mut caught) = (Vec::new(), 0);
    for mistake in mutants::all(recordings) {
        let (site, kind) = &mistake;
        let except = EXCEPT.iter().find(|(at, what, _)| site.starts_with(at) && what == kind);
        match (mutants::shows(recordings, &mistake, seed), except) {
            (Some(how), None) => {
                caught += 1;
                println!("caught  {site} without its {kind}: {how}");
            }
            (None, Some((_, _, why))) => println!("equal   {site} without its {kind}: {why}"),
            (how, _) => missed.push(format!("{site} without its {kind}: {how:?}")),
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    say(&format!(
        "{caught} programs without a sync, a rename or a marker were caught"
    ));
}

#[test]
fn every_line_that_makes_something_last_is_in_a_scenario() {
    let recorded: Vec<&str> = recordings()
        .iter()
        .flat_map(|(_, r)| &r.steps)
        .map(|s| s.site.as_str())
        .collect();
    let lines = mutants::lines();
    assert!(lines.len() > 10, "they are found: {lines:?}");
    let missing: Vec<&String> = lines.iter().filter(|line| !recorded.contains(&line.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!(mutants::bypasses(), Vec::<String>::new());
}

#[test]
fn the_real_program_calls_in_the_recorded_order() {
    let strace = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    if !strace.is_ok_and(|status| status.success()) {
        say("SKIPPED: the order of the real program's calls was NOT compared: strace is not here");
        return;
    }
    let program = build(Profile::Dev).unwrap().join("ensign-applier");
    let scenario = scenario::plain_update();
    let asked = trace::asked(&power::record(&scenario).unwrap());
    let done = trace::done(&scenario, &program, None).unwrap();
    assert_eq!(
        done, asked,
        "the real program did what is left, the machine asked for what is right"
    );
    // A disk that leaves out what it is asked for.
    for call in ["fsync", "fdatasync", "syncfs"] {
        assert!(asked.iter().any(|line| line.starts_with(call)), "{call} is asked for");
        let done = trace::done(&scenario, &program, Some(call)).unwrap();
        assert_ne!(done, asked, "nobody notices that {call} is missing");
    }
}
