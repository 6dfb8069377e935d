//! The journal's bytes of version 1, kept: every later version reads them, and this one writes them.
//!
//! `ENSIGN_BLESS=1 cargo test -p ensign-apply golden` writes the file where it is missing.

use std::collections::BTreeSet;
use std::path::Path;

use ensign_bundle::digest::Digest;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::Code;

use crate::device::{Device, Lock};
use crate::generation::Generation;
use crate::journal;
use crate::record::Record;
use crate::testkit::{now, prepared, refusal, target};

/// Every type of record once, one to a frame, and a frame of two.
fn steps() -> Vec<Vec<Record>> {
    let second = Generation::next(2, None, &target(2), &prepared(2, true), &now(20));
    let records = [
        Record::Started(now(0)),
        Record::Met {
            plan: target(1).plan,
            now: now(1),
        },
        Record::Offered(target(1)),
        Record::Waiting {
            target: target(1),
            reason: refusal(Code::OutsideWindow),
        },
        Record::Withdrawn,
        Record::Rejected {
            target: Some(target(1)),
            reason: refusal(Code::NoSpace),
        },
        Record::Receipt {
            plan: target(1).plan,
            release: target(1).manifest.digest,
            state: ReceiptState::Failed { code: Code::NoSpace },
            healthy_for_s: 0,
            issued: 1_800_000_002,
        },
        Record::Acknowledged { report: 7 },
        Record::Staged(prepared(2, true)),
        Record::Switching {
            to: Box::new(second),
            policy: prepared(2, true).policy,
            contact: true,
        },
        Record::Switched(now(21)),
        Record::Confirmed(now(24)),
        Record::Soaked,
        Record::RollingBack {
            target: target(2),
            from: 2,
            to: 0,
            reason: refusal(Code::Unhealthy),
        },
        Record::RolledBack(now(25)),
        Record::Stayed {
            generation: 2,
            reason: refusal(Code::GenerationTampered),
        },
        Record::Denied {
            manifest: target(2).manifest.digest,
            code: Code::Unhealthy,
        },
        Record::DenialsCleared {
            manifest: Some(target(2).manifest.digest),
        },
        Record::Running(target(2)),
        Record::Clock(now(26)),
        Record::Locked(Lock {
            reason: "at work".to_owned(),
            until: 1_800_000_100,
        }),
        Record::Unlocked,
        Record::Forgotten { generations: vec![1] },
        Record::Snapshot(Box::default()),
    ];
    let mut steps: Vec<_> = records.into_iter().map(|record| vec![record]).collect();
    steps.push(vec![
        Record::Met {
            plan: Digest([9; 32]),
            now: now(30),
        },
        Record::DenialsCleared { manifest: None },
    ]);
    steps.push(vec![Record::Left]);
    steps
}

#[test]
fn golden_bytes_are_written_and_read() {
    let steps = steps();
    let there: BTreeSet<_> = steps.iter().flatten().map(Record::number).collect();
    assert!(there.into_iter().eq(1..=Record::LAST), "every type of record is there");
    let mut bytes = Vec::new();
    let mut device = Device::default();
    for (sequence, records) in (1..).zip(&steps) {
        bytes.extend(journal::frame(sequence, 3, records).unwrap());
        for record in records {
            device.apply(record);
        }
    }
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/journal-v1.bin"));
    if std::env::var_os("ENSIGN_BLESS").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &bytes))
            .unwrap();
    }
    let kept = std::fs::read(path).unwrap();
    assert!(kept == bytes, "the journal is not what this version writes");
    let replay = journal::replay(&kept).unwrap();
    assert_eq!((replay.device, replay.frames), (device, steps.len()));
}
