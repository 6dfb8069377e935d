//! Waves, gates, soaks and what ends a rollout.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "tests and their helpers")]

mod common;

use common::*;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::plan::statements::{Evidence, GateKind};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::Phase;
use ensign_rollout::*;

#[test]
fn waves_open_one_after_the_other_and_the_rollout_ends() {
    let mut w = World::new(6);
    w.start(1, &spec(&[1, 2, 3]));
    assert_eq!(World::offers(&w.settle()), devs(0, 1));
    assert_eq!(w.wave(1, 2).state, WaveState::Waiting);
    assert_eq!(w.desired(1), None, "a device of a waiting wave is told nothing");
    w.confirm(1, 0);
    assert_eq!(World::offers(&w.settle()), devs(1, 2));
    assert_eq!(w.desired(1).unwrap().evidence, devs(0, 1));
    w.confirm(1, 1);
    assert_eq!(World::offers(&w.settle()), [], "wave 2 is not done");
    w.confirm(1, 2);
    assert_eq!(World::offers(&w.settle()), devs(3, 3));
    for n in 3..6 {
        w.confirm(1, n);
    }
    assert_eq!(w.settle().last(), Some(&Action::Finish { rollout: rollout_id(1) }));
    assert_eq!(w.state(1), RolloutState::Done);
    assert!(w.status(1).waves.iter().all(|wave| wave.state == WaveState::Done));
}

#[test]
fn a_wave_that_adds_nobody_is_done_at_once() {
    let mut w = World::new(3);
    w.start(1, &spec(&[1, 0, 2]));
    w.settle();
    w.confirm(1, 0);
    assert_eq!(World::offers(&w.settle()), devs(1, 2));
    assert_eq!(
        w.desired(1).unwrap().evidence,
        devs(0, 1),
        "of the nearest wave that has any"
    );
    assert_eq!(w.wave(1, 2).state, WaveState::Done);
}

#[test]
fn a_soak_goes_by_receipts_and_never_by_the_clock() {
    let mut w = World::new(3);
    let mut spec = spec(&[2, 1]);
    spec.waves[0].min_soak_s = 600;
    spec.waves[1].evidence = Evidence::Receipts(2);
    w.start(1, &spec);
    w.settle();
    w.confirm(1, 0);
    w.confirm(1, 1);
    assert_eq!(w.settle(), []);
    assert_eq!(
        (w.wave(1, 1).state, w.wave(1, 1).soak_left_s),
        (WaveState::Soaking, 595)
    );
    w.wait(400);
    assert_eq!(w.wave(1, 1).soak_left_s, 195);
    w.wait(4000);
    assert_eq!(w.settle(), [], "no receipt, no gate");
    w.receipt(1, 0, ReceiptState::Confirmed, 600);
    assert_eq!(w.settle(), [], "one of two");
    w.receipt(1, 1, ReceiptState::Confirmed, 599);
    assert_eq!(w.settle(), [], "a second short");
    w.receipt(1, 1, ReceiptState::Confirmed, 600);
    assert_eq!(World::offers(&w.settle()), devs(2, 1));
    assert_eq!(w.desired(2).unwrap().evidence, devs(0, 2));
}

#[test]
fn dwell_goes_by_the_controllers_clock_and_wakes_it() {
    let mut w = World::new(2);
    let mut spec = spec(&[1, 1]);
    spec.waves[0].min_soak_s = 600;
    spec.waves[1].evidence = Evidence::Dwell;
    w.start(1, &spec);
    w.settle();
    w.confirm(1, 0);
    assert_eq!(w.settle(), []);
    assert_eq!(next_wakeup(&w.fleet, w.now), Some(T0 + 600));
    w.now = T0 + 599;
    assert_eq!(w.settle(), []);
    w.wait(1);
    assert_eq!(World::offers(&w.settle()), devs(1, 1));
}

#[test]
fn a_manual_gate_waits_for_the_promote_statement() {
    let mut w = World::new(2);
    let mut spec = spec(&[1, 1]);
    spec.waves[1].gate = GateKind::Manual;
    w.start(1, &spec);
    w.settle();
    w.confirm(1, 0);
    w.settle();
    assert_eq!(
        (w.state(1), w.reason(1)),
        (RolloutState::Running, Some(Code::GateNotOpen))
    );
    w.event(Event::Promoted {
        rollout: rollout_id(1),
        wave: 2,
        at: w.now,
    });
    assert_eq!(World::offers(&w.settle()), devs(1, 1));
    assert!(w.desired(1).unwrap().promote);
}

#[test]
fn evidence_that_can_no_longer_come_halts_with_both_numbers() {
    let mut w = World::new(12);
    let mut spec = spec(&[10, 2]);
    spec.waves[1].evidence = Evidence::Receipts(10);
    w.start(1, &spec);
    w.settle();
    for n in 0..9 {
        w.confirm(1, n);
    }
    w.roll_back(1, 9);
    w.settle();
    assert_eq!(
        (w.state(1), w.reason(1)),
        (RolloutState::Halted, Some(Code::EvidenceMissing))
    );
    let text = w.status(1).reason.unwrap().text;
    assert!(text.contains("9 devices") && text.contains("needs 10"), "{text}");
    // A resume cannot make receipts: it halts again, and says the same.
    w.event(Event::Resumed {
        rollout: rollout_id(1),
        at: w.now,
    });
    w.settle();
    assert_eq!(w.reason(1), Some(Code::EvidenceMissing));
}

#[test]
fn a_later_bad_receipt_cancels_an_earlier_good_one() {
    let mut w = World::new(12);
    let mut spec = spec(&[10, 2]);
    spec.waves[0].min_soak_s = 60;
    spec.waves[1].evidence = Evidence::Receipts(3);
    w.start(1, &spec);
    w.settle();
    for n in 0..10 {
        w.receipt(1, n, ReceiptState::Confirmed, if n < 3 { 60 } else { 5 });
    }
    w.roll_back(1, 0);
    assert_eq!(
        World::offers(&w.settle()),
        devs(10, 2).split_off(2),
        "two receipts are left"
    );
    w.receipt(1, 4, ReceiptState::Confirmed, 60);
    assert_eq!(World::offers(&w.settle()), devs(10, 2));
    assert_eq!(w.desired(10).unwrap().evidence, [dev(1), dev(2), dev(4)]);
}

#[test]
fn e59_an_old_or_foreign_receipt_counts_for_nothing() {
    let mut w = World::new(2);
    w.start(1, &spec(&[1, 1]));
    w.settle();
    w.roll_back(1, 0);
    let Some(Event::Receipt { receipt, .. }) = w.log.last().cloned() else {
        unreachable!()
    };
    for (what, forged) in [
        (
            "older",
            ensign_bundle::plan::evidence::Receipt {
                seq: 0,
                ..receipt.clone()
            },
        ),
        ("repeated", receipt.clone()),
        (
            "of another device",
            ensign_bundle::plan::evidence::Receipt {
                device: dev(1),
                seq: 9,
                ..receipt.clone()
            },
        ),
        (
            "of another release",
            ensign_bundle::plan::evidence::Receipt {
                release: manifest(1),
                seq: 9,
                ..receipt.clone()
            },
        ),
        (
            "of another plan",
            ensign_bundle::plan::evidence::Receipt {
                plan: plan_digest(9),
                seq: 9,
                ..receipt
            },
        ),
    ] {
        let receipt = ensign_bundle::plan::evidence::Receipt {
            state: ReceiptState::Confirmed,
            ..forged
        };
        w.event(Event::Receipt {
            device: dev(0),
            at: w.now,
            receipt,
        });
        assert_eq!(w.standing(1, 0), Standing::Failed, "{what}");
    }
}

#[test]
fn below_the_quorum_a_wave_halts_and_a_resume_lets_it_pass() {
    let mut w = World::new(30);
    let mut spec = spec(&[10, 20]);
    spec.pace.stop.failed = ensign_bundle::plan::statements::Bound::Count(5);
    w.start(1, &spec);
    w.settle();
    for n in 0..8 {
        w.confirm(1, n);
    }
    w.roll_back(1, 8);
    w.roll_back(1, 9);
    w.settle();
    assert_eq!(
        (w.state(1), w.reason(1)),
        (RolloutState::Halted, Some(Code::QuorumNotReached))
    );
    assert_eq!(w.wave(1, 1).state, WaveState::Halted);
    w.event(Event::Resumed {
        rollout: rollout_id(1),
        at: w.now,
    });
    assert_eq!(World::offers(&w.settle()), devs(10, 20));
}

#[test]
fn quorum_leaves_out_who_was_held_or_not_reached() {
    let mut w = World::new(10);
    w.start(1, &spec(&[8, 2]));
    for n in 0..4 {
        w.disconnect(n);
    }
    w.hold(4, true, "shop closed");
    assert_eq!(World::offers(&w.settle()), devs(5, 3));
    for n in 5..8 {
        w.confirm(1, n);
    }
    assert_eq!(w.settle(), [], "four may still connect");
    w.wait(3600);
    assert_eq!(World::offers(&w.settle()), devs(8, 2));
    assert_eq!((w.wave(1, 1).unreached, w.wave(1, 1).held, w.wave(1, 1).ok), (4, 1, 3));
}

#[test]
fn who_was_not_reached_updates_when_it_returns_even_after_the_end() {
    let mut w = World::new(4);
    w.start(1, &spec(&[4]));
    w.disconnect(3);
    w.settle();
    assert_eq!(next_wakeup(&w.fleet, w.now), Some(T0 + 3600));
    for n in 0..3 {
        w.confirm(1, n);
    }
    w.wait(3600);
    w.settle();
    assert_eq!(
        (w.state(1), w.standing(1, 3)),
        (RolloutState::Done, Standing::Unreached)
    );
    w.wait(DAY).connect(3);
    assert_eq!(World::offers(&w.settle()), [dev(3)]);
    assert!(w.desired(3).unwrap().lease);
    w.confirm(1, 3);
    w.settle();
    assert_eq!((w.state(1), w.wave(1, 1).ok), (RolloutState::Done, 4));
}

#[test]
fn after_the_plan_expired_nobody_is_offered_anything() {
    let mut w = World::new(2);
    w.start(1, &spec(&[1, 1]));
    w.settle();
    w.wait(7 * DAY);
    assert_eq!(w.desired(0), None, "even before the expiry is recorded");
    assert_eq!(w.settle(), [Action::Expire { rollout: rollout_id(1) }]);
    assert_eq!(
        (w.state(1), w.reason(1)),
        (RolloutState::Expired, Some(Code::PlanExpired))
    );
    assert_eq!(next_wakeup(&w.fleet, w.now), None);
}

#[test]
fn nothing_starts_before_its_time() {
    let mut w = World::new(1);
    let mut spec = spec(&[1]);
    spec.not_before = T0 + 500;
    w.start(1, &spec);
    assert_eq!(w.settle(), []);
    assert_eq!((w.state(1), w.reason(1)), (RolloutState::Scheduled, Some(Code::NotYet)));
    assert_eq!(next_wakeup(&w.fleet, w.now), Some(T0 + 500));
    w.wait(500);
    assert_eq!(World::offers(&w.settle()), devs(0, 1));
}

#[test]
fn a_device_that_runs_it_already_is_ok_with_its_receipt() {
    let mut w = World::new(2);
    w.start(1, &spec(&[2]));
    // It comes from a stick: no offer was ever made.
    w.confirm(1, 0);
    assert_eq!(World::offers(&w.settle()), [dev(1)]);
    assert_eq!(w.standing(1, 0), Standing::Ok);
}

#[test]
fn a_device_that_runs_something_newer_is_held() {
    let mut w = World::new(3);
    w.event(Event::Reported {
        device: dev(0),
        at: T0,
        status: runs(12, "1.2.0"),
    });
    w.start(1, &spec(&[3]));
    assert_eq!(World::offers(&w.settle()), devs(1, 2));
    assert_eq!(w.why(1, 0).reason.code, Code::NewerInstalled);
    // One that only says so after the offer.
    w.report(
        1,
        1,
        Phase::Rejected,
        Some(Refusal::new(Code::NewerInstalled, "runs app 1.3.0")),
    );
    w.confirm(1, 2);
    w.settle();
    assert_eq!(
        (w.wave(1, 1).held, w.wave(1, 1).failed, w.state(1)),
        (2, 0, RolloutState::Done)
    );
}

#[test]
fn a_downgrade_offers_where_something_newer_runs() {
    let mut w = World::new(1);
    w.event(Event::Reported {
        device: dev(0),
        at: T0,
        status: runs(12, "1.2.0"),
    });
    let mut spec = spec(&[1]);
    spec.downgrade = true;
    w.start(1, &spec);
    assert_eq!(World::offers(&w.settle()), devs(0, 1));
}
