//! What must hold whatever happens in whichever order.

use ensign_bundle::reason::Code;
use proptest::prelude::*;

use crate::device::Device;
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
