//! What leads on from a failure: the same release again where it is not at fault, another one where it is.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "tests and their helpers")]

mod common;

use std::fmt::Write as _;

use common::*;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::{Code, Refusal};
use ensign_rollout::*;

/// A rollout of `sizes` of which the first `failed` devices fail with `code`, the others of its first wave succeed.
fn failed_with(code: Code, sizes: &[u32], failed: u32) -> World {
    let mut w = World::new(sizes.iter().sum());
    w.start(1, &spec(sizes));
    w.settle();
    (0..failed).for_each(|n| w.receipt(1, n, ReceiptState::Failed { code }, 0));
    (failed..sizes[0]).for_each(|n| w.confirm(1, n));
    w.settle();
    w
}

#[test]
fn a_device_and_its_rollout_say_what_leads_on() {
    let mut out = String::new();
    for code in [
        Code::NoSpace,
        Code::Io,
        Code::Denied,
        Code::OperatorRollback,
        Code::Unhealthy,
    ] {
        let w = failed_with(code, &[3], 2);
        let (why, status) = (w.why(1, 0), w.status(1));
        writeln!(out, "{code}\n    hint: {}\n    hint: {}", why.hint, status.hint).unwrap();
    }
    insta::assert_snapshot!(out);
}

/// What the texts say is what works: the same version by a new plan.
#[test]
fn the_same_version_again_leads_out_of_no_space() {
    let mut w = failed_with(Code::NoSpace, &[3], 3);
    assert_eq!(w.state(1), RolloutState::Halted);
    let status = w.status(1);
    assert!(!status.hint.contains("rollout resume"), "{}", status.hint);
    assert!(
        status.hint.contains("--product app --version 1.1.0 --select all`"),
        "{}",
        status.hint
    );
    let mut again = spec(&[3]);
    again.seq = 2;
    w.start(2, &again);
    let offered = World::offers(&w.settle());
    assert_eq!(offered.len(), 3);
    (0..3).for_each(|n| w.confirm(2, n));
    w.settle();
    assert_eq!((w.state(1), w.state(2)), (RolloutState::Superseded, RolloutState::Done));
}

#[test]
fn the_same_devices_are_selected_again() {
    let mut w = World::new(3);
    let mut plan = spec(&[3]);
    plan.select = "site = lyon".to_owned();
    plan.exclude = vec!["name = dev9".to_owned()];
    w.start(1, &plan);
    w.settle();
    w.wait(8 * DAY).settle();
    let hint = w.status(1).hint;
    assert!(
        hint.contains("--select '(site = lyon) and not (name = dev9)'`"),
        "{hint}"
    );
}

/// Who accepts the failures of a wave is not asked about them a second time.
#[test]
fn one_resume_is_enough() {
    let mut w = failed_with(Code::NoSpace, &[3, 3], 2);
    assert_eq!(w.reason(1), Some(Code::TooManyFailed));
    assert!(w.status(1).hint.contains("rollout resume"));
    w.event(Event::Resumed {
        rollout: rollout_id(1),
        at: w.now,
    });
    w.settle();
    assert_eq!(w.state(1), RolloutState::Running);
    assert_eq!(w.wave(1, 2).state, WaveState::Open);
}

#[test]
fn what_is_done_or_was_replaced_is_not_under_way() {
    let mut w = World::new(2);
    w.disconnect(1);
    w.start(1, &spec(&[2]));
    let under_way = |w: &World| w.fleet.rollout(&rollout_id(1)).unwrap().is_under_way();
    w.settle();
    assert!(under_way(&w));
    w.confirm(1, 0);
    w.wait(4000).settle();
    assert_eq!(w.state(1), RolloutState::Done);
    let r = w.fleet.rollout(&rollout_id(1)).unwrap();
    assert!(!r.ended(), "a straggler may still come");
    assert!(!under_way(&w));
}

/// Whatever stopped it before: without its plan it cannot go on, and says so.
#[test]
fn a_lost_plan_halts_what_runs_and_what_stands() {
    let lost = |w: &mut World| {
        w.event(Event::Halted {
            rollout: rollout_id(1),
            reason: Refusal::new(Code::PlanLost, "damaged"),
            at: w.now,
        });
    };
    for stopped in [false, true] {
        let mut w = World::new(2);
        w.start(1, &spec(&[2]));
        w.settle();
        if stopped {
            let order = w.order("lunch");
            w.event(Event::Paused {
                rollout: rollout_id(1),
                order,
            });
        }
        lost(&mut w);
        assert_eq!((w.state(1), w.reason(1)), (RolloutState::Halted, Some(Code::PlanLost)));
        let hint = w.status(1).hint;
        assert!(hint.contains("--version 1.1.0") && hint.contains("backup"), "{hint}");
        assert!(!w.desired(0).is_some_and(|d| d.lease));
    }
    let mut w = failed_with(Code::NoSpace, &[3], 2);
    lost(&mut w);
    assert_eq!(w.reason(1), Some(Code::PlanLost));
    let at = w.fleet.rollout(&rollout_id(1)).unwrap().stage.clone();
    lost(w.wait(60));
    assert_eq!(w.fleet.rollout(&rollout_id(1)).unwrap().stage, at, "known already");
}
