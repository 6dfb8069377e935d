//! What stops a rollout: failures, silence, operators, brakes, a newer one.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "tests and their helpers")]

mod common;

use common::*;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::plan::statements::Bound;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::Phase;
use ensign_rollout::*;

/// One wave of `n`, then one of 5; the first `failed` of the wave fail, then `ok` are confirmed. What the rollout says.
fn after_failures(n: u32, bound: Bound, failed: u32, ok: u32) -> Option<Code> {
    let mut w = World::new(n + 5);
    let mut spec = spec(&[n, 5]);
    spec.pace.stop.failed = bound;
    spec.pace.stop.quorum_bp = 0;
    w.start(1, &spec);
    w.settle();
    for i in 0..ok {
        w.confirm(1, failed + i);
    }
    for i in 0..failed {
        w.roll_back(1, i);
    }
    w.settle();
    w.reason(1)
}

#[test]
fn how_many_failures_stop() {
    let (halts, runs) = (Some(Code::TooManyFailed), None);
    let percent = Bound::BasisPoints;
    for (n, bound, failed, ok, expected, says) in [
        (1, percent(200), 1, 0, halts, "the only device of a wave"),
        (10, percent(200), 1, 0, runs, "the first one before the sample"),
        (10, percent(200), 2, 0, halts, "the second one before the sample"),
        (10, percent(200), 1, 9, runs, "the first one, wave done"),
        (100, percent(500), 1, 19, halts, "5 % of 20"),
        (100, percent(500), 1, 20, runs, "less than 5 % of 21"),
        (100, percent(500), 3, 97, runs, "3 % of 100"),
        (100, percent(500), 5, 95, halts, "5 % of 100"),
        (10, Bound::Count(1), 1, 0, halts, "the first"),
        (100, Bound::Count(3), 2, 98, runs, "two of three"),
        (100, Bound::Count(3), 3, 0, halts, "three of three"),
        (10, Bound::Count(0), 0, 10, runs, "none"),
        (10, Bound::Count(0), 1, 0, halts, "zero tolerates none"),
    ] {
        assert_eq!(after_failures(n, bound, failed, ok), expected, "{says}");
    }
}

#[test]
fn a_failure_is_counted_without_a_receipt_a_success_is_not() {
    let mut w = World::new(1);
    w.start(1, &spec(&[1]));
    w.settle();
    w.report(1, 0, Phase::Confirmed, None);
    w.settle();
    assert_eq!(w.standing(1, 0), Standing::Active);
    w.report(1, 0, Phase::RolledBack, None);
    w.settle();
    assert_eq!(
        (w.standing(1, 0), w.reason(1)),
        (Standing::Failed, Some(Code::TooManyFailed))
    );
}

#[test]
fn a_plan_that_the_device_cannot_read_counts_as_refused() {
    let mut w = World::new(2);
    let refused = |text: &str| {
        let mut status = working(
            plan_digest(1),
            Phase::Rejected,
            Some(Refusal::new(Code::ThresholdNotMet, text)),
        );
        status.plan = None;
        status
    };
    let say = |w: &mut World, text: &str| {
        let (device, at, status) = (dev(0), w.now, refused(text));
        w.event(Event::Reported { device, at, status });
    };
    say(&mut w, "another plan");
    w.start(1, &spec(&[1, 1]));
    w.settle();
    say(&mut w, "another plan");
    assert_eq!(
        w.standing(1, 0),
        Standing::Active,
        "it said so before it was offered this one"
    );
    say(&mut w, "plan: 1 of 2 signatures");
    w.settle();
    assert_eq!((w.standing(1, 0), w.state(1)), (Standing::Failed, RolloutState::Halted));
}

#[test]
fn a_halt_withdraws_leases_and_offers_and_a_resume_acknowledges() {
    let mut w = World::new(10);
    let mut spec = spec(&[10]);
    spec.pace.max_parallel = Some(4);
    w.start(1, &spec);
    w.settle();
    w.roll_back(1, 0);
    assert_eq!(World::offers(&w.settle()), [dev(4)]);
    w.roll_back(1, 1);
    assert_eq!(World::offers(&w.settle()), []);
    assert_eq!(w.state(1), RolloutState::Halted);
    assert!(!w.desired(2).unwrap().lease, "who was offered loses its lease");
    w.confirm(1, 2);
    assert_eq!(w.standing(1, 2), Standing::Ok, "running trials finish");
    w.event(Event::Resumed {
        rollout: rollout_id(1),
        at: w.now,
    });
    assert_eq!(World::offers(&w.settle()).len(), 2, "two slots are free");
    assert!(w.desired(3).unwrap().lease);
    w.roll_back(1, 3);
    w.settle();
    assert_eq!(
        w.state(1),
        RolloutState::Running,
        "the two old failures are acknowledged"
    );
    w.roll_back(1, 4);
    w.settle();
    assert_eq!(w.state(1), RolloutState::Halted);
}

#[test]
fn the_first_silent_device_of_a_wave_of_one_stops_it() {
    let mut w = World::new(3);
    w.start(1, &spec(&[1, 2]));
    w.settle();
    w.report(1, 0, Phase::Trial, None);
    w.wait(10).disconnect(0);
    assert_eq!(
        next_wakeup(&w.fleet, w.now),
        Some(T0 + 10 + 1800),
        "three intervals, at least 30 min"
    );
    w.wait(1799);
    assert_eq!(w.settle(), []);
    w.wait(1);
    w.settle();
    assert_eq!(
        (w.standing(1, 0), w.reason(1)),
        (Standing::Dark, Some(Code::TooManyDark))
    );
    assert!(is_dark(&w.fleet, &dev(0)));
    w.connect(0);
    assert_eq!(
        (w.standing(1, 0), is_dark(&w.fleet, &dev(0))),
        (Standing::Active, false)
    );
}

#[test]
fn silence_counts_after_the_confirmation_too() {
    let mut w = World::new(6);
    let mut spec = spec(&[2, 4]);
    spec.waves[0].min_soak_s = 600;
    spec.pace.stop.dark = Bound::Count(1);
    spec.pace.stop.dark_after_s = Some(20);
    w.start(1, &spec);
    w.settle();
    w.confirm(1, 0);
    w.confirm(1, 1);
    w.settle();
    w.disconnect(0);
    w.wait(20).settle();
    assert_eq!(
        (w.standing(1, 0), w.reason(1)),
        (Standing::Dark, Some(Code::TooManyDark))
    );
    assert_eq!(w.wave(1, 2).pending, 4);
}

#[test]
fn a_town_without_power_is_no_failure() {
    // 100 updated, then 100 more, of which 5 are silent before they are offered anything.
    let mut w = World::new(200);
    let mut two = spec(&[100, 100]);
    two.pace.stop.quorum_bp = 0;
    let silent = |w: &mut World, two: &RolloutSpec, n: u32| {
        w.start(1, two);
        for i in 0..5 {
            w.disconnect(150 + i);
        }
        w.wait(1800).settle();
        for i in 0..100 {
            w.confirm(1, i);
        }
        w.settle();
        for i in 0..n {
            w.disconnect(i);
        }
        w.wait(1800).settle();
        w.reason(1)
    };
    let says = "7 % dark, of all others 5 % silent: less than 3 % more";
    assert_eq!(silent(&mut w, &two, 7), None, "{says}");
    let mut w = World::new(200);
    assert_eq!(silent(&mut w, &two, 8), Some(Code::TooManyDark), "8 % dark");
}

#[test]
fn a_restart_of_the_controller_makes_nobody_dark() {
    let mut w = World::new(1);
    w.start(1, &spec(&[1]));
    w.settle();
    w.report(1, 0, Phase::Trial, None);
    w.wait(3 * 3600);
    w.event(Event::Started { at: w.now });
    assert_eq!(
        w.settle(),
        [],
        "three hours without a controller are not the device's silence"
    );
    w.wait(1800).settle();
    assert_eq!(w.standing(1, 0), Standing::Dark);
}

#[test]
fn a_dark_device_keeps_its_slot_until_an_operator_gives_it_back() {
    let mut w = World::new(3);
    let mut spec = spec(&[3]);
    spec.pace.max_parallel = Some(1);
    w.start(1, &spec);
    w.settle();
    w.report(1, 0, Phase::Trial, None);
    w.disconnect(0);
    assert_eq!(
        w.wait(1800).settle(),
        [Action::MarkDark {
            rollout: rollout_id(1),
            device: dev(0)
        }]
    );
    w.event(Event::Released {
        rollout: rollout_id(1),
        device: dev(0),
        at: w.now,
    });
    assert_eq!(World::offers(&w.settle()), [dev(1)]);
    assert_eq!(w.standing(1, 0), Standing::Dark);
    // It comes back, and its trial did not hold: it has no slot, so it waits for one.
    w.connect(0);
    w.report(1, 0, Phase::Idle, None);
    assert_eq!((w.standing(1, 0), w.settle()), (Standing::Pending, vec![]));
    w.confirm(1, 1);
    assert_eq!(World::offers(&w.settle()), [dev(0)]);
}

#[test]
fn only_a_dark_slot_can_be_given_back() {
    let mut w = World::new(2);
    let mut spec = spec(&[2]);
    spec.pace.max_parallel = Some(1);
    w.start(1, &spec);
    w.settle();
    w.event(Event::Released {
        rollout: rollout_id(1),
        device: dev(0),
        at: w.now,
    });
    assert_eq!(World::offers(&w.settle()), []);
}

#[test]
fn a_pause_changes_nothing_and_a_resume_goes_on() {
    let mut w = World::new(4);
    let mut spec = spec(&[2, 2]);
    spec.pace.max_parallel = Some(1);
    w.start(1, &spec);
    w.settle();
    w.event(Event::Paused {
        rollout: rollout_id(1),
        order: w.order("lunch"),
    });
    w.confirm(1, 0);
    assert_eq!(w.settle(), []);
    let status = w.status(1);
    assert_eq!(status.state, RolloutState::Paused);
    assert_eq!(
        status.reason.unwrap().text,
        "paused since 2027-01-15T08:00:00Z by ada: lunch"
    );
    w.event(Event::Resumed {
        rollout: rollout_id(1),
        at: w.now,
    });
    assert_eq!(World::offers(&w.settle()), [dev(1)]);
}

#[test]
fn an_abort_ends_it_for_ever() {
    let mut w = World::new(2);
    w.start(1, &spec(&[2]));
    w.settle();
    w.event(Event::Aborted {
        rollout: rollout_id(1),
        by: "ada".to_owned(),
        reason: String::new(),
        at: w.now,
    });
    assert_eq!(
        (w.state(1), w.desired(0), w.settle()),
        (RolloutState::Aborted, None, vec![])
    );
    w.event(Event::Resumed {
        rollout: rollout_id(1),
        at: w.now,
    });
    assert_eq!((w.state(1), w.settle()), (RolloutState::Aborted, vec![]));
    w.confirm(1, 0);
    assert_eq!(w.wave(1, 1).ok, 1, "what still happens is counted");
}

#[test]
fn a_frozen_fleet_starts_nothing_and_finishes_what_runs() {
    let mut w = World::new(3);
    w.start(1, &spec(&[1, 2]));
    w.settle();
    w.freeze("storm");
    assert!(!w.desired(0).unwrap().lease);
    w.confirm(1, 0);
    assert_eq!(w.settle(), []);
    assert_eq!((w.state(1), w.reason(1)), (RolloutState::Running, Some(Code::Frozen)));
    w.event(Event::Unfrozen { at: w.now });
    assert_eq!(World::offers(&w.settle()), devs(1, 2));
}

#[test]
fn a_newer_rollout_of_the_same_devices_supersedes() {
    let mut w = World::new(3);
    w.start(1, &spec(&[1, 2]));
    w.settle();
    w.roll_back(1, 0);
    w.settle();
    assert_eq!(w.state(1), RolloutState::Halted);
    let mut newer = spec(&[1, 2]);
    (newer.counter, newer.manifest, newer.seq) = (12, manifest(12), 2);
    w.start(2, &newer);
    assert_eq!(World::offers(&w.settle()), [dev(0)]);
    assert_eq!(
        (w.state(1), w.reason(1)),
        (RolloutState::Superseded, Some(Code::Superseded))
    );
    assert_eq!(w.state(2), RolloutState::Running, "it does not inherit the halt");
}

#[test]
fn a_rollout_of_some_of_the_devices_takes_only_these() {
    let mut w = World::new(4);
    let mut first = spec(&[4]);
    first.pace.max_parallel = Some(1);
    w.start(1, &first);
    w.settle();
    let mut some = spec(&[0]);
    some.waves[0].members = vec![dev(2), dev(3)];
    w.start(2, &some);
    assert_eq!(World::offers(&w.settle()), devs(2, 2));
    assert_eq!((w.state(1), w.standing(1, 2)), (RolloutState::Running, Standing::Held));
    w.confirm(1, 0);
    assert_eq!(World::offers(&w.settle()), [dev(1)]);
    w.confirm(1, 1);
    w.settle();
    assert_eq!(w.state(1), RolloutState::Done);
}

#[test]
fn a_device_in_the_middle_of_a_switch_is_not_disturbed() {
    let mut w = World::new(1);
    w.start(1, &spec(&[1]));
    w.settle();
    w.report(1, 0, Phase::Trial, None);
    w.start(2, &spec(&[1]));
    assert_eq!(World::offers(&w.settle()), [], "its trial ends first");
    w.report(1, 0, Phase::RolledBack, None);
    assert_eq!(World::offers(&w.settle()), [dev(0)]);
}

#[test]
fn a_plan_that_takes_another_one_back_ends_it() {
    let mut w = World::new(2);
    w.start(1, &spec(&[2]));
    w.settle();
    w.confirm(1, 0);
    let mut back = spec(&[1]);
    (back.reverts, back.downgrade, back.counter, back.manifest) = (Some(rollout_id(1)), true, 10, manifest(10));
    w.start(2, &back);
    assert_eq!(w.state(1), RolloutState::Reverting);
    assert_eq!(World::offers(&w.settle()), [dev(0)]);
    w.confirm(2, 0);
    w.settle();
    assert_eq!((w.state(2), w.state(1)), (RolloutState::Done, RolloutState::Reverted));
}

#[test]
fn a_revoked_or_suspended_device_leaves_the_count() {
    for state in [DeviceState::Suspended, DeviceState::Revoked] {
        let mut w = World::new(3);
        w.start(1, &spec(&[3]));
        w.state_of(0, state, "");
        assert_eq!(World::offers(&w.settle()), devs(1, 2));
        // One more while it is under way.
        w.state_of(1, state, "");
        assert_eq!(w.desired(1), None);
        w.confirm(1, 2);
        w.settle();
        assert_eq!((w.state(1), w.wave(1, 1).held), (RolloutState::Done, 2), "{state:?}");
    }
}

#[test]
fn a_bad_release_that_shows_late_is_counted() {
    let mut w = World::new(3);
    w.start(1, &spec(&[3]));
    w.settle();
    for n in 0..3 {
        w.confirm(1, n);
    }
    w.receipt(1, 0, ReceiptState::RolledBack { code: Code::CrashLoop }, 40);
    assert_eq!((w.wave(1, 1).ok, w.wave(1, 1).failed), (2, 1));
}
