//! Attempts told step by step: what each event leads to, and what is said of it.

use ensign_bundle::effect::Effect;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::Phase;

use crate::device::EDGES;
use crate::event::{Action, Event};
use crate::journal;
use crate::record::Record;
use crate::resume::Reality;
use crate::stage::Stage;
use crate::testkit::{Bed, durable, now, refusal, staged, target};

#[test]
fn an_update_confirms_with_two_receipts() {
    let mut bed = Bed::default();
    bed.step(Event::Offered(target(1)), 0);
    assert_eq!(bed.device.duty(), Some(Action::Fetch));
    bed.step(staged(1, true), 1);
    let step = bed.step(Event::Cleared { contact: true }, 2);
    assert_eq!(step.actions[0], Action::Switch { from: 0, to: 1 });
    bed.step(Event::Switched, 3);
    for second in 4..7 {
        bed.step(Event::Probed { failure: None }, second);
        assert!(matches!(bed.device.stage, Stage::Trial(_)));
    }
    bed.step(Event::Probed { failure: None }, 7);
    assert!(matches!(bed.device.stage, Stage::Confirmed(_)));
    let due = bed.device.next_tick_ms(&now(7)).unwrap();
    assert_eq!(due, 25_000);
    bed.step(Event::Tick, 7 + due / 1000);
    let said: Vec<_> = bed
        .device
        .receipts
        .iter()
        .map(|r| (r.state.clone(), r.healthy_for_s))
        .collect();
    assert_eq!(said, [(ReceiptState::Confirmed, 5), (ReceiptState::Confirmed, 30)]);
    assert_eq!(bed.device.product(&target(1).product).map(|p| p.confirmed), Some(true));
}

#[test]
fn a_failing_release_goes_back_and_is_not_tried_again() {
    let mut bed = Bed::default();
    bed.install(2, 0);
    bed.step(Event::Offered(target(1)), 10);
    bed.step(staged(1, true), 11);
    bed.step(Event::Cleared { contact: true }, 12);
    bed.step(Event::Switched, 13);
    for second in 14..=18 {
        bed.step(
            Event::Probed {
                failure: Some("exit 1".to_owned()),
            },
            second,
        );
    }
    assert_eq!(bed.device.duty(), Some(Action::SwitchBack { from: 2, to: 1 }));
    bed.step(Event::SwitchedBack, 20);
    assert_eq!(bed.device.current, 1);
    let last = bed.device.receipts.last().unwrap();
    assert_eq!(last.state, ReceiptState::RolledBack { code: Code::Unhealthy });
    // That is what the acceptance function is told; the machine itself judges no offer.
    let denied: Vec<_> = bed
        .device
        .denied
        .iter()
        .map(|d| (d.manifest, d.code, d.count))
        .collect();
    assert_eq!(denied, [(target(1).manifest.digest, Code::Unhealthy, 1)]);
    let again = Event::Refused {
        target: Some(target(1)),
        reason: refusal(Code::Denied),
    };
    assert_eq!(bed.step(again, 30).records, [], "what became of this plan is told");
    let mut other = target(1);
    other.plan = target(9).plan;
    let again = Event::Refused {
        target: Some(other),
        reason: refusal(Code::Denied),
    };
    bed.step(again.clone(), 31);
    assert_eq!(bed.device.stage.phase(), Phase::Rejected);
    assert_eq!(bed.step(again, 32).records, []);
    bed.step(Event::DenialsCleared { manifest: None }, 33);
    assert_eq!(bed.device.denied, []);
}

/// What counts against a release is why it failed, not why there was no way back from it.
#[test]
fn a_blocked_way_back_denies_for_the_first_reason() {
    for (code, denied) in [(Code::UnitFailed, Some(Code::UnitFailed)), (Code::Io, None)] {
        let mut bed = Bed::default();
        bed.install(2, 0);
        bed.step(Event::Offered(target(1)), 10);
        bed.step(staged(1, true), 11);
        bed.step(Event::Cleared { contact: true }, 12);
        bed.step(Event::SwitchFailed { reason: refusal(code) }, 13);
        let reason = refusal(Code::GenerationTampered);
        bed.step(Event::WayBackBlocked { reason }, 14);
        assert_eq!(bed.device.denied.first().map(|d| d.code), denied);
        let said = bed.device.receipts.last().unwrap().state.clone();
        let code = Code::GenerationTampered;
        assert_eq!(said, ReceiptState::Failed { code });
        assert_eq!(bed.device.stage.reason().map(|r| r.code), Some(code));
    }
}

/// Whatever keeps the probes from answering: nothing stays on trial for ever.
#[test]
fn a_trial_that_nobody_judges_ends_at_its_deadline() {
    let mut bed = Bed::default();
    bed.install(2, 0);
    bed.step(Event::Offered(target(1)), 10);
    bed.step(staged(1, true), 11);
    bed.step(Event::Cleared { contact: true }, 12);
    assert_eq!(bed.device.trial_left_ms(&now(12)), None);
    bed.step(Event::Switched, 13);
    let overdue = || Event::Overdue {
        pending: "web/check has not answered".to_owned(),
    };
    let left = bed.device.trial_left_ms(&now(14)).unwrap();
    assert_eq!(left, 18_000, "counted from the switch");
    assert_eq!(bed.step(overdue(), 14).records, [], "too early");
    bed.step(overdue(), 14 + left / 1000);
    assert_eq!(bed.device.duty(), Some(Action::SwitchBack { from: 2, to: 1 }));
    let reason = bed.device.stage.reason().unwrap();
    assert_eq!(reason.code, Code::TrialDeadline);
    assert!(reason.text.contains("web/check"), "{}", reason.text);
}

#[test]
fn what_runs_already_is_confirmed_for_a_new_plan_at_once() {
    let mut bed = Bed::default();
    bed.install(1, 0);
    let mut plan = target(1);
    plan.plan = target(7).plan;
    bed.step(Event::Offered(plan.clone()), 100);
    let last = bed.device.receipts.last().unwrap();
    assert_eq!((last.plan, last.healthy_for_s), (plan.plan, 100));
    assert_eq!(bed.step(Event::Offered(plan), 101).records, []);
}

#[test]
fn a_refusal_later_takes_nothing_back() {
    let mut bed = Bed::default();
    bed.install(1, 0);
    for code in [Code::ClockSuspect, Code::PlanExpired, Code::MetadataExpired] {
        let event = Event::Refused {
            target: Some(target(1)),
            reason: refusal(code),
        };
        assert_eq!(bed.step(event, 10).records, [], "{code}");
    }
    // Of another release: a clock that is not yet right passes, an expired plan does not.
    let refused = |bed: &mut Bed, code| {
        let event = Event::Refused {
            target: Some(target(2)),
            reason: refusal(code),
        };
        bed.step(event, 10);
        bed.device.stage.phase()
    };
    assert_eq!(refused(&mut bed, Code::ClockSuspect), Phase::Waiting);
    assert_eq!(refused(&mut bed, Code::PlanExpired), Phase::Rejected);
}

/// Whoever holds the controller can bring these about. An honest one after it finds the plan alive: nothing is rejected, nothing is
/// denied, nothing that was staged is lost.
#[test]
fn what_a_thief_brings_about_ends_no_plan() {
    let thiefs = [
        Code::MetadataExpired,
        Code::MetadataMissing,
        Code::ContentMismatch,
        Code::NotFound,
        Code::RollbackRefused,
        Code::LifetimeRefused,
        Code::ReceiptInvalid,
        Code::NotInPlan,
        Code::GateNotOpen,
        Code::LeaseMissing,
    ];
    for code in thiefs {
        let refused = Event::Refused {
            target: Some(target(1)),
            reason: refusal(code),
        };
        let mut bed = Bed::default();
        bed.step(refused.clone(), 0);
        assert_eq!(
            bed.device.stage.phase(),
            Phase::Waiting,
            "{code} before anything was fetched"
        );
        bed.step(Event::Offered(target(1)), 1);
        assert_eq!(bed.device.stage.phase(), Phase::Fetching, "{code}");
        bed.step(staged(1, false), 2);
        bed.step(refused, 3);
        assert_eq!(bed.device.stage.phase(), Phase::Waiting, "{code} before the switch");
        assert!(bed.device.receipts.is_empty() && bed.device.denied.is_empty(), "{code}");
        bed.step(Event::Cleared { contact: true }, 4);
        assert_eq!(bed.device.stage.phase(), Phase::Switching, "{code}");
    }
    // What lies in the plan or the device itself ends it.
    for code in [
        Code::PlanExpired,
        Code::PlanCancelled,
        Code::PlanMismatch,
        Code::IdentityChanged,
        Code::BelowFloor,
        Code::Yanked,
        Code::HardwareMismatch,
    ] {
        let mut bed = Bed::default();
        bed.step(
            Event::Refused {
                target: Some(target(1)),
                reason: refusal(code),
            },
            0,
        );
        assert_eq!(bed.device.stage.phase(), Phase::Rejected, "{code}");
    }
}

#[test]
fn what_follows_from_a_code_stands_in_one_table() {
    for code in Code::ALL {
        let mut bed = Bed::default();
        let event = Event::Refused {
            target: Some(target(1)),
            reason: refusal(*code),
        };
        bed.step(event, 0);
        let waits = code.effect() == Effect::Waits;
        assert_eq!(bed.device.stage.phase() == Phase::Waiting, waits, "{code}");

        let mut bed = Bed::default();
        bed.step(Event::Offered(target(1)), 0);
        let event = Event::StagingFailed {
            manifest: target(1).manifest.digest,
            reason: refusal(*code),
        };
        bed.step(event, 1);
        let at_fault = code.effect() == Effect::Release;
        assert_eq!(!bed.device.denied.is_empty(), at_fault, "{code}");
    }
    for (code, effect) in [
        (Code::Unhealthy, Effect::Release),
        (Code::AgentTooOld, Effect::Surroundings),
        (Code::NoSpace, Effect::Surroundings),
        (Code::OutsideWindow, Effect::Waits),
    ] {
        assert_eq!(code.effect(), effect, "{code}");
    }
}

#[test]
fn no_space_does_not_deny_and_may_be_tried_again() {
    let mut bed = Bed::default();
    bed.step(Event::Offered(target(1)), 0);
    let manifest = target(1).manifest.digest;
    bed.step(
        Event::StagingFailed {
            manifest,
            reason: refusal(Code::NoSpace),
        },
        1,
    );
    assert_eq!(bed.device.stage.phase(), Phase::Rejected);
    assert!(bed.device.denied.is_empty());
    bed.step(Event::Offered(target(1)), 2);
    assert_eq!(bed.device.stage.phase(), Phase::Fetching);
}

#[test]
fn a_reboot_loop_in_the_trial_goes_back() {
    let mut bed = Bed::default();
    bed.step(Event::Offered(target(1)), 0);
    bed.step(staged(1, true), 1);
    bed.step(Event::Cleared { contact: true }, 2);
    bed.step(Event::Switched, 3);
    for boot in 1..=3 {
        // The first start of the processes is in the boot of the switch: a restart of ours does not count.
        assert!(matches!(bed.device.stage, Stage::Trial(_)), "boot {boot}");
        for _ in 0..2 {
            let mut moment = now(10);
            moment.boot = format!("boot-{}", boot + 1);
            let step = bed.device.clone().resume(Reality { current: 1 }, &moment);
            bed.take(step);
        }
    }
    assert!(matches!(&bed.device.stage, Stage::RollingBack(s) if s.reason.code == Code::CrashLoop));
}

#[test]
fn restarts_without_end_in_one_attempt_go_back() {
    let mut bed = Bed::default();
    bed.step(Event::Offered(target(1)), 0);
    bed.step(staged(1, true), 1);
    bed.step(Event::Cleared { contact: true }, 2);
    for _ in 0..EDGES {
        let step = bed.device.clone().resume(Reality { current: 0 }, &now(3));
        bed.take(step);
    }
    assert!(matches!(&bed.device.stage, Stage::RollingBack(s) if s.reason.code == Code::CrashLoop));
}

#[test]
fn a_moved_pointer_is_mended() {
    let mut bed = Bed::default();
    bed.install(1, 0);
    let step = bed.device.clone().resume(Reality { current: 7 }, &now(10));
    assert!(step.actions.contains(&Action::Repoint { to: 1 }));
}

#[test]
fn acknowledged_receipts_leave_and_the_answer_is_no_news() {
    let mut bed = Bed::default();
    bed.install(1, 0);
    let report = bed.device.report;
    for never_made in [report + 1, u64::MAX] {
        assert_eq!(bed.step(Event::Acknowledged { report: never_made }, 1).records, []);
    }
    let step = bed.step(Event::Acknowledged { report }, 1);
    assert!(bed.device.receipts.is_empty());
    assert_eq!(bed.device.report, report);
    assert!(!step.actions.contains(&Action::Report));
}

/// Why it waits is said as it is now; what only counts on is not written down each time.
#[test]
fn the_reason_for_waiting_is_the_newest_one() {
    let mut bed = Bed::default();
    let mut refused = |code: Code, text: &str| {
        let reason = Refusal::new(code, text);
        let step = bed.step(
            Event::Refused {
                target: Some(target(1)),
                reason: reason.clone(),
            },
            1,
        );
        assert_eq!(step.device.stage.reason(), Some(&reason));
        (step.records.len(), step.actions.contains(&Action::Report))
    };
    assert_eq!(refused(Code::Locked, "locked: surgery"), (1, true));
    assert_eq!(refused(Code::Locked, "locked: surgery"), (0, false));
    assert_eq!(refused(Code::Locked, "locked: inventory"), (1, true));
    assert_eq!(refused(Code::GateNotOpen, "1 of 3 receipts"), (1, true));
    assert_eq!(refused(Code::GateNotOpen, "2 of 3 receipts"), (0, false));
}

#[test]
fn leaving_drops_what_a_fleet_is_owed_and_keeps_what_runs() {
    let mut bed = Bed::default();
    bed.install(1, 0);
    bed.step(Event::Met { plan: target(1).plan }, 1);
    bed.step(Event::Offered(target(2)), 2);
    let manifest = target(2).manifest.digest;
    let reason = refusal(Code::Malformed);
    bed.step(Event::StagingFailed { manifest, reason }, 3);
    let before = bed.device.clone();
    assert!(before.soak.is_some() && before.receipts.len() == 2 && before.denied.len() == 1);
    let step = bed.step(Event::Left, 4);
    assert_eq!(step.records, [Record::Left]);
    let after = &bed.device;
    assert_eq!((after.stage.phase(), after.current, after.newest), (Phase::Idle, 1, 1));
    assert_eq!(after.generations, before.generations);
    assert!(after.soak.is_none() && after.receipts.is_empty() && after.denied.is_empty() && after.known.is_empty());
    assert!(after.receipt_seq == before.receipt_seq && after.report > before.report);
    assert_eq!(bed.step(Event::Left, 5).records, []);
    // No soak of the old fleet's plan signs anything later.
    bed.step(Event::Tick, 100);
    assert!(bed.device.receipts.is_empty());
}

/// A report has room for twelve receipts: an acknowledgement says nothing of those that were not in it, however often it comes.
#[test]
fn an_acknowledgement_covers_what_was_sent_alone() {
    let mut bed = Bed::default();
    for n in 0..30 {
        let mut other = target(1);
        other.plan = ensign_bundle::digest::Digest([50 + n; 32]);
        let manifest = other.manifest.digest;
        bed.step(Event::Offered(other), 0);
        let reason = refusal(Code::NoSpace);
        bed.step(Event::StagingFailed { manifest, reason }, 1);
    }
    let left = |bed: &Bed| bed.device.receipts.iter().map(|r| r.seq).collect::<Vec<_>>();
    assert_eq!(left(&bed), (1..=30).collect::<Vec<u64>>());
    let first = bed.device.report;
    for _ in 0..2 {
        bed.step(Event::Acknowledged { report: first }, 3);
        assert_eq!(left(&bed), (13..=30).collect::<Vec<u64>>());
    }
    let second = bed.device.report;
    assert!(second > first, "the next report carries others");
    bed.step(Event::Acknowledged { report: second }, 4);
    assert_eq!(left(&bed), (25..=30).collect::<Vec<u64>>());
    bed.step(
        Event::Acknowledged {
            report: bed.device.report,
        },
        5,
    );
    assert_eq!(left(&bed), Vec::<u64>::new());
    assert_eq!(journal::replay(&bed.journal).unwrap().device, durable(bed.device));
}
