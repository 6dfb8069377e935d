//! What a rollout says of itself: why it does not run, and what leads on.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "tests and their helpers")]

mod common;

use std::fmt::Write as _;

use common::*;
use ensign_bundle::plan::statements::{Bound, Evidence, GateKind};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::Phase;
use ensign_rollout::*;

/// The reason of `rollout status`, once the story was told.
fn halted(out: &mut String, says: &str, sizes: &[u32], change: impl Fn(&mut RolloutSpec), story: impl Fn(&mut World)) {
    let mut w = World::new(sizes.iter().sum());
    let mut plan = spec(sizes);
    change(&mut plan);
    w.start(1, &plan);
    w.settle();
    story(&mut w);
    w.settle();
    let status = w.status(1);
    let reason = status.reason.unwrap();
    writeln!(
        out,
        "{says}\n    {} {}: {}\n    hint: {}",
        status.state.name(),
        reason.code,
        reason.text,
        status.hint
    )
    .unwrap();
}

/// The canary kept what an aborted rollout gave it: only going back on purpose, or leaving it out, leads on.
#[test]
fn a_canary_that_runs_something_newer_is_led_back_or_left_out() {
    let mut w = World::new(4);
    w.event(Event::Reported {
        device: dev(0),
        at: w.now,
        status: runs(12, "1.2.0"),
    });
    w.start(1, &spec(&[1, 3]));
    w.settle();
    assert_eq!(w.reason(1), Some(Code::EvidenceMissing));
    let hint = w.status(1).hint;
    let start = "`ensign rollout start --product app --version 1.1.0";
    for step in [
        format!("to go back on purpose: {start} --select all --allow-downgrade --reason TEXT`"),
        format!("or without those that run something newer: {start} --select 'not name in (dev0)'`"),
    ] {
        assert!(hint.contains(&step), "{hint}");
    }
}

#[test]
fn why_a_rollout_does_not_run() {
    let mut out = String::new();
    let all = |n: u32| move |w: &mut World| (0..n).for_each(|i| w.roll_back(1, i));
    let silent = |n: u32| {
        move |w: &mut World| {
            (0..n).for_each(|i| {
                w.report(1, i, Phase::Trial, None);
                w.disconnect(i);
            });
            w.wait(1800);
        }
    };
    halted(&mut out, "the canary failed", &[1, 3], |_| {}, all(1));
    halted(&mut out, "two failed", &[5, 3], |_| {}, all(2));
    halted(
        &mut out,
        "a count failed",
        &[5],
        |s| s.pace.stop.failed = Bound::Count(3),
        all(3),
    );
    halted(
        &mut out,
        "a share failed",
        &[100],
        |s| s.pace.stop.failed = Bound::BasisPoints(250),
        |w| {
            (0..39).for_each(|i| w.confirm(1, 50 + i));
            w.roll_back(1, 0);
        },
    );
    halted(&mut out, "the canary is silent", &[1, 3], |_| {}, silent(1));
    halted(&mut out, "two are silent", &[5, 3], |_| {}, silent(2));
    halted(
        &mut out,
        "a count is silent",
        &[5],
        |s| s.pace.stop.dark = Bound::Count(1),
        silent(1),
    );
    halted(
        &mut out,
        "more are silent than usual",
        &[30, 30],
        |_| {},
        |w| {
            (0..30).for_each(|i| w.confirm(1, i));
            w.settle();
            silent(1)(w);
        },
    );
    halted(
        &mut out,
        "quorum",
        &[10, 1],
        |s| s.pace.stop.failed = Bound::Count(9),
        |w| {
            (0..8).for_each(|i| w.confirm(1, i));
            w.roll_back(1, 8);
            w.roll_back(1, 9);
        },
    );
    halted(
        &mut out,
        "evidence",
        &[2, 1],
        |s| s.waves[1].evidence = Evidence::Receipts(2),
        |w| {
            w.confirm(1, 0);
            let reason = Refusal::new(Code::NewerInstalled, "runs app 2.0.0");
            w.report(1, 1, Phase::Rejected, Some(reason));
        },
    );
    halted(
        &mut out,
        "expired",
        &[2, 1],
        |_| {},
        |w| {
            w.wait(7 * DAY);
        },
    );
    halted(
        &mut out,
        "superseded",
        &[2, 1],
        |_| {},
        |w| {
            w.start(2, &spec(&[2, 1]));
        },
    );
    halted(
        &mut out,
        "paused",
        &[2, 1],
        |_| {},
        |w| {
            w.event(Event::Paused {
                rollout: rollout_id(1),
                order: w.order("lunch"),
            });
        },
    );
    halted(&mut out, "frozen", &[2, 1], |_| {}, |w| w.freeze("storm"));
    halted(
        &mut out,
        "a manual gate",
        &[1, 1],
        |s| s.waves[1].gate = GateKind::Manual,
        |w| w.confirm(1, 0),
    );
    halted(&mut out, "not yet", &[1, 1], |s| s.not_before = T0 + 600, |_| {});
    halted(
        &mut out,
        "aborted",
        &[2, 1],
        |_| {},
        |w| {
            w.event(Event::Aborted {
                rollout: rollout_id(1),
                by: "ada".to_owned(),
                reason: "wrong prices".to_owned(),
                at: w.now,
            });
        },
    );
    insta::assert_snapshot!(out);
}

/// Where a resume only halts again, it is not proposed; where it leads on, it is.
#[test]
fn a_resume_is_proposed_where_it_helps() {
    for (sizes, failed, helps) in [
        (&[1, 3][..], 1, false),
        (&[3, 3], 2, true),
        (&[2], 2, false),
        (&[2, 1], 2, false),
    ] {
        let mut w = World::new(sizes.iter().sum());
        w.start(1, &spec(sizes));
        w.settle();
        (0..failed).for_each(|n| w.roll_back(1, n));
        (failed..sizes[0]).for_each(|n| w.confirm(1, n));
        w.settle();
        assert_eq!(w.state(1), RolloutState::Halted);
        assert_eq!(w.status(1).hint.contains("rollout resume"), helps, "{sizes:?} {failed}");
        w.event(Event::Resumed {
            rollout: rollout_id(1),
            at: w.now,
        });
        w.settle();
        let went_on = matches!(w.state(1), RolloutState::Running);
        assert_eq!(went_on, helps, "{sizes:?} {failed}: {:?}", w.status(1).reason);
    }
}

#[test]
fn waves_of_what_was_ended_are_halted_and_nothing_soaks() {
    let mut w = World::new(4);
    w.start(1, &spec(&[2, 2]));
    w.settle();
    w.event(Event::Aborted {
        rollout: rollout_id(1),
        by: "ada".to_owned(),
        reason: String::new(),
        at: w.now,
    });
    assert_eq!(w.wave(1, 1).state, WaveState::Halted);
    assert_eq!(w.wave(1, 2).state, WaveState::Halted, "it never opens");
    assert!(w.fleet.rollout(&rollout_id(1)).unwrap().is_over());
}

/// What an operator ends on purpose has nothing to be mended, and says who ended it.
#[test]
fn an_end_on_purpose_is_nobodys_fault() {
    let mut w = World::new(2);
    w.start(1, &spec(&[2]));
    w.settle();
    w.event(Event::Aborted {
        rollout: rollout_id(1),
        by: "ada".to_owned(),
        reason: "not today".to_owned(),
        at: w.now,
    });
    let status = w.status(1);
    assert_eq!(
        status.reason.unwrap().text,
        "aborted at 2027-01-15T08:00:00Z by ada: not today"
    );
    assert_eq!(
        status.hint,
        "to bring it after all: `ensign rollout start --product app --version 1.1.0 --select all`"
    );
}

#[test]
fn devices_that_wait_for_something_of_their_own_are_listed() {
    let mut w = World::new(3);
    w.start(1, &spec(&[3]));
    w.settle();
    assert_eq!(w.status(1).waiting, []);
    let locked = Refusal::new(
        Code::Locked,
        "the device is locked until 2027-01-15T09:00:00Z, no reason given",
    );
    w.report(1, 1, Phase::Waiting, Some(locked.clone()));
    let waiting = w.status(1).waiting;
    assert_eq!(
        waiting.iter().map(|w| (&*w.name, &w.reason)).collect::<Vec<_>>(),
        [("dev1", &locked)]
    );
    w.disconnect(1);
    assert_eq!(w.status(1).waiting, [], "it is away, which says more");
}
