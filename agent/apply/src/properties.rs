//! What must hold whatever happens in whichever order.

use ensign_bundle::effect::Effect;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::Phase;
use proptest::prelude::*;

use crate::device::{Device, EDGES};
use crate::event::{Action, Event};
use crate::journal::{self, JournalError};
use crate::record::Record;
use crate::resume::Reality;
use crate::stage::Stage;
use crate::testkit::{Bed, durable, events, now, refusal, staged, target};

/// Finer than any disk or page cache tears, bytes.
const TORN: usize = 16;

/// Any event, at most 30 s after the one before, biased towards the way forward so that deep states are reached.
fn history() -> impl Strategy<Value = Vec<(Event, u64)>> {
    let forward = prop_oneof![
        Just(Event::Offered(target(1))),
        Just(Event::Offered(target(2))),
        Just(staged(1, true)),
        Just(staged(2, false)),
        Just(Event::Cleared { contact: true }),
        Just(Event::Switched),
        Just(Event::SwitchedBack),
        Just(Event::Probed { failure: None }),
    ];
    let any = prop::sample::select(events());
    prop::collection::vec((prop_oneof![2 => forward, 1 => any], 0..30u64), 0..60)
}

fn live(history: Vec<(Event, u64)>) -> Bed {
    let mut bed = Bed::default();
    let mut second = 0;
    for (event, after) in history {
        second += after;
        bed.step(event, second);
    }
    bed
}

/// What a shell without trouble does, until nothing is left to do.
fn settle(device: Device, reality: Reality) -> Device {
    let mut moment = now(100_000);
    moment.boot = "boot-2".to_owned();
    let mut step = device.resume(reality, &moment);
    let mut pointer = reality.current;
    for _ in 0..100 {
        for action in &step.actions {
            if let Action::Repoint { to } = action {
                pointer = *to;
            }
        }
        moment.boot_ms += 1000;
        let event = match step.device.duty() {
            None => {
                assert_eq!(pointer, step.device.current);
                return step.device;
            }
            Some(Action::Switch { to, .. }) => {
                pointer = to;
                Event::Switched
            }
            Some(Action::SwitchBack { to, .. }) => {
                pointer = to;
                Event::SwitchedBack
            }
            Some(Action::Watch) => Event::Probed { failure: None },
            Some(_) => Event::Withdrawn,
        };
        step = step.device.step(event, &moment);
    }
    panic!("not settled: {:?}", step.device.stage);
}

proptest! {
    #[test]
    fn replay_equals_live(history in history()) {
        let bed = live(history);
        let replay = journal::replay(&bed.journal).unwrap();
        prop_assert_eq!(replay.device, durable(bed.device));
        prop_assert_eq!(replay.end, bed.journal.len());
        prop_assert!(!replay.torn);
    }

    #[test]
    fn the_same_event_again_changes_nothing(history in history(), event in prop::sample::select(events())) {
        // Rounds of probes are counted by design.
        prop_assume!(!matches!(event, Event::Probed { .. }));
        let bed = live(history);
        let moment = now(10_000);
        let once = bed.device.step(event.clone(), &moment);
        // A failed or finished attempt may be started again by an offer: that is a new event, not the same.
        let starts = matches!(event, Event::Offered(_));
        let twice = once.device.clone().step(event, &moment);
        if !starts {
            prop_assert_eq!(&twice.records, &Vec::<Record>::new());
        }
        prop_assert_eq!(durable(twice.device), durable(once.device));
    }

    /// Any journal that a power cut can leave, with the pointer on either side of the switch.
    #[test]
    fn e62_every_prefix_recovers(history in history(), cut in any::<prop::sample::Index>(), flipped in any::<bool>()) {
        let bed = live(history);
        let bytes = &bed.journal[..cut.index(bed.journal.len() + 1)];
        let replay = journal::replay(bytes).unwrap();
        prop_assert!(replay.end <= bytes.len());
        let device = replay.device;
        let current = match &device.stage {
            Stage::Switching(s) if flipped => s.to,
            Stage::RollingBack(s) if flipped => s.to,
            Stage::RollingBack(s) => s.from,
            _ => device.current,
        };
        let before = device.clone();
        let settled = settle(device, Reality { current });
        prop_assert!(!settled.stage.is_committed());
        // What is settled is a generation that the journal knows, or nothing where nothing ran.
        prop_assert!(settled.current == 0 || settled.running().is_some());
        // One final statement per attempt that was under way.
        let under_way = before.stage.is_committed();
        prop_assert_eq!(settled.receipt_seq > before.receipt_seq, under_way);
    }

    /// Of the last append a power cut leaves any of its blocks, in any order: the step happened as a whole or not at all.
    #[test]
    fn a_torn_append_is_cut_as_a_whole(history in history(), written in prop::collection::vec(any::<bool>(), 1..64)) {
        let bed = live(history);
        prop_assume!(!bed.appends.is_empty());
        let last = bed.appends[bed.appends.len() - 1];
        let whole = journal::replay(&bed.journal[..last]).unwrap();
        let mut bytes = bed.journal.clone();
        for (block, kept) in bytes[last..].chunks_mut(TORN).zip(written.iter().cycle()) {
            if !kept {
                block.fill(0);
            }
        }
        // The file is preallocated with zeros.
        bytes.resize(bytes.len() + 4096, 0);
        let intact = bytes.starts_with(&bed.journal);
        let replay = journal::replay(&bytes).unwrap();
        if intact {
            prop_assert_eq!(replay.device, durable(bed.device));
        } else {
            prop_assert_eq!(replay.device, whole.device);
            prop_assert_eq!((replay.end, replay.sequence), (last, whole.sequence));
        }
    }

    #[test]
    fn a_damaged_byte_is_never_taken_for_a_record(history in history(), at in any::<prop::sample::Index>()) {
        let bed = live(history);
        prop_assume!(!bed.journal.is_empty());
        let mut bytes = bed.journal.clone();
        let at = at.index(bed.journal.len());
        bytes[at] ^= 0x10;
        let last = bed.appends[bed.appends.len() - 1];
        match journal::replay(&bytes) {
            // Nothing whole behind the damage: as a torn tail.
            Ok(replay) => prop_assert!(at >= last && replay.torn && replay.end == last),
            Err(e) => prop_assert!(at < last && matches!(e, JournalError::Damaged { .. }), "{}", e),
        }
    }
}

/// Cut anywhere, a journal is what its whole appends amount to.
#[test]
fn every_length_of_a_journal_recovers() {
    let mut bed = Bed::default();
    bed.install(1, 0);
    bed.step(Event::Offered(target(2)), 60);
    bed.step(staged(2, false), 61);
    bed.step(Event::Cleared { contact: true }, 62);
    bed.step(
        Event::SwitchFailed {
            reason: refusal(Code::UnitFailed),
        },
        63,
    );
    bed.step(Event::SwitchedBack, 64);
    for length in 0..=bed.journal.len() {
        let replay = journal::replay(&bed.journal[..length]).unwrap();
        let end = bed
            .appends
            .iter()
            .copied()
            .chain([bed.journal.len()])
            .rfind(|end| *end <= length);
        assert_eq!(Some(replay.end), end, "{length}");
        assert_eq!(replay.torn, bed.journal[replay.end..length].iter().any(|b| *b != 0));
    }
}

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

/// Length 17, sequence 1, highest type 21, attempt 2, the array of two records, checksum.
#[test]
fn the_bytes_of_a_frame() {
    let frame = journal::frame(1, 2, &[Record::Soaked, Record::Unlocked]).unwrap();
    let golden = [
        &b"\0\0\0\x11"[..],
        b"\0\0\0\0\0\0\0\x01",
        b"\0\x15",
        b"\0\0\0\0\0\0\0\x02",
        b"\x82\x66soaked\x68unlocked",
        b"\x2d\xe9\x64\x3c",
    ];
    assert_eq!(frame, golden.concat());
}

#[test]
fn an_unknown_record_stops_the_device() {
    let mut frame = journal::frame(1, 0, &[Record::Unlocked]).unwrap();
    frame[13] = u8::try_from(Record::LAST + 1).unwrap();
    let end = frame.len() - 4;
    let crc = crc32c::crc32c(&frame[..end]);
    frame[end..].copy_from_slice(&crc.to_be_bytes());
    assert!(matches!(journal::replay(&frame), Err(JournalError::Unknown { kind, .. }) if kind == Record::LAST + 1));
}

#[test]
fn a_compacted_journal_goes_on_where_the_old_one_ended() {
    let mut bed = Bed::default();
    bed.install(1, 0);
    let sequence = bed.appends.len() as u64 + 1;
    let mut journal = journal::frame(sequence, 1, &[Record::Snapshot(Box::new(bed.device.clone()))]).unwrap();
    journal.extend(journal::frame(sequence + 1, 1, &[Record::Unlocked]).unwrap());
    journal.extend([0; 4096]);
    let replay = journal::replay(&journal).unwrap();
    assert_eq!(
        (replay.device, replay.sequence, replay.torn),
        (bed.device, sequence + 1, false)
    );
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
