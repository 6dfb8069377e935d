//! A link half in a thief's hands, against the real applier: each lie has its answer, the applier goes on, and the next honest link half
//! brings the release.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use ensign_agent::ipc::socket::{MESSAGE_BYTES, SocketError};
use ensign_agent::ipc::{FromApplier, Need, Offer, Piece, State, ToAdmin, ToApplier};
use ensign_bundle::codec;
use ensign_bundle::digest::{DeviceId, Digest, Nonce};
use ensign_bundle::reason::Code;
use ensign_bundle::wire::{DocKind, Phase};
use ensign_testkit::DAY;
use serde_bytes::ByteBuf;

use crate::kit::bed::{Bed, bare_offer, joined, no_files, pieces};
use crate::kit::device::{Device, receipts};
use crate::kit::{Fleet, Recipe, files, scratch};

#[test]
fn a_message_that_is_too_long_is_limit_exceeded_and_ends_the_connection() {
    let bed = Bed::new();
    let link = bed.device.link();
    let long = vec![0; MESSAGE_BYTES + 1];
    nix::sys::socket::send(
        link.socket().as_raw_fd(),
        &long,
        nix::sys::socket::MsgFlags::MSG_NOSIGNAL,
    )
    .unwrap();
    assert_eq!(link.ended().unwrap().code, Code::LimitExceeded);
    bed.goes_on();
}

#[test]
fn a_message_cut_anywhere_is_malformed_and_ends_the_connection() {
    let bed = Bed::new();
    let documents = bed.documents();
    let whole = codec::encode(&ToApplier::Offer(Offer {
        documents: pieces(&documents),
        rollout: Some(bed.offered(Nonce([0; 32]))),
        cache: None,
    }))
    .unwrap();
    for length in (1..whole.len()).step_by(7) {
        let link = bed.device.link_without_time();
        link.say(&whole[..length], &[]).unwrap();
        let refusal = link.ended().unwrap_or_else(|| panic!("no answer to {length} bytes"));
        assert_eq!(refusal.code, Code::Malformed, "{length} bytes: {}", refusal.text);
    }
    bed.goes_on();
}

#[test]
fn bytes_that_are_no_message_are_malformed_and_end_the_connection() {
    let bed = Bed::new();
    // Deep, long, endless, of another kind, and root's own commands at the wrong door.
    let mut wrong = vec![
        vec![0x81; 60_000],
        vec![0xff; 8],
        b"\x7f\xff\xff\xff\xff".to_vec(),
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"hello".to_vec(),
    ];
    for command in [
        ToAdmin::Leave,
        ToAdmin::Rollback { reason: String::new() },
        ToAdmin::ClearDenied { manifest: None },
    ] {
        wrong.push(codec::encode(&command).unwrap());
    }
    for bytes in wrong {
        let link = bed.device.link_without_time();
        link.say(&bytes, &[]).unwrap();
        let shown = &bytes[..bytes.len().min(12)];
        let refusal = link.ended().unwrap_or_else(|| panic!("no answer to {shown:?}"));
        assert_eq!(refusal.code, Code::Malformed, "{shown:?}");
    }
    bed.goes_on();
}

#[test]
fn documents_in_none_or_in_several_descriptors_are_malformed() {
    let bed = Bed::new();
    let documents = bed.documents();
    let (file, offer) = (scratch(&joined(&documents)), bare_offer(pieces(&documents)));
    let before = bed.device.open_files();
    let mut link = bed.device.link();
    for files in [vec![], vec![&file; 2], vec![&file; 32]] {
        assert_eq!(link.refused(&offer, &files).code, Code::Malformed, "{}", files.len());
    }
    // Beside what needs none they are closed.
    link.ask(&ToApplier::Hello, &vec![&file; 32]);
    link.ask(&ToApplier::Acknowledged { seq: 0 }, &vec![&file; 32]);
    drop(link);
    let link = bed.device.link_without_time();
    assert!(bed.device.open_files() <= before + 1, "descriptors are kept");
    drop(link);
    bed.goes_on();
}

#[test]
fn documents_in_what_is_no_file_are_malformed() {
    let bed = Bed::new();
    let documents = bed.documents();
    let mut link = bed.device.link();
    for (what, file) in no_files(&bed) {
        let refusal = link.refused(&bare_offer(pieces(&documents)), &[&file]);
        assert_eq!(refusal.code, Code::Malformed, "{what}: {}", refusal.text);
        // Nothing is read from what is no file, for it might never answer.
        let is_file = ["a name alone", "a file for writing"].contains(&what);
        let unread = refusal.text == "documents are handed over in a file";
        assert_eq!(unread, !is_file, "{what}: {}", refusal.text);
    }
    bed.goes_on();
}

#[test]
fn lengths_that_lie_are_limit_exceeded_or_malformed() {
    let bed = Bed::new();
    let mut link = bed.device.link();
    let file = scratch(&[0; 1000]);
    let one = |kind, length| vec![Piece { kind, length }];
    let cases = [
        (one(DocKind::Plan, u64::MAX), Code::LimitExceeded),
        (
            [one(DocKind::Plan, u64::MAX), one(DocKind::Plan, 2)].concat(),
            Code::LimitExceeded,
        ),
        (one(DocKind::Root, 64 * 1024 + 1), Code::LimitExceeded),
        (one(DocKind::Grant, 4 * 1024 + 1), Code::LimitExceeded),
        (
            vec![
                Piece {
                    kind: DocKind::Snapshot,
                    length: 1 << 20
                };
                17
            ],
            Code::LimitExceeded,
        ),
        (one(DocKind::Plan, 1001), Code::Malformed),
        (
            vec![
                Piece {
                    kind: DocKind::Grant,
                    length: 1000
                };
                2
            ],
            Code::Malformed,
        ),
    ];
    for (pieces, code) in cases {
        let what = format!("{:?}", pieces[0]);
        assert_eq!(link.refused(&bare_offer(pieces), &[&file]).code, code, "{what}");
    }
    // As many pieces as a message holds, with nothing in them.
    let mut none = vec![
        Piece {
            kind: DocKind::Root,
            length: 0
        };
        2000
    ];
    none.push(Piece {
        kind: DocKind::Timestamp,
        length: 0,
    });
    let refusal = link.refused(&bare_offer(none), &[&file]);
    assert_eq!(refusal.code.exit(), 23, "{refusal:?}");
    bed.goes_on();
}

#[test]
fn a_rollout_without_its_plan_is_metadata_missing() {
    let bed = Bed::new();
    let mut link = bed.device.link();
    let offered = bed.offered(link.state.nonce);
    let answer = link.offer_documents(&bed.fleet.roles(), Some(offered));
    assert!(matches!(answer, FromApplier::Refused(r) if r.code == Code::MetadataMissing));
    bed.goes_on();
}

#[test]
fn documents_that_are_changed_after_they_were_judged_change_nothing() {
    let bed = Bed::new();
    let documents = bed.documents();
    let mut file = scratch(&joined(&documents));
    let mut link = bed.device.link();
    let offer = ToApplier::Offer(Offer {
        documents: pieces(&documents),
        rollout: Some(bed.offered(link.state.nonce)),
        cache: None,
    });
    assert!(matches!(
        link.ask(&offer, &[&file]),
        FromApplier::Need(Need::Blobs { .. })
    ));
    // Everything is asked again right before the switch: from memory, not from here.
    let length = file.metadata().unwrap().len();
    file.write_all_at(&vec![0xaa; usize::try_from(length).unwrap()], 0)
        .unwrap();
    file.set_len(3).unwrap();
    file.flush().unwrap();
    link.provide_all(&bed.release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

/// While they are read they are honest and garbage in turns: taken as a whole, or refused, and the last honest word counts.
#[test]
fn documents_that_are_changed_while_they_are_read_are_refused_or_honest() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let bed = Bed::new();
    let mut link = bed.device.link();
    for _ in 0..50 {
        let documents = bed.documents();
        let good = joined(&documents);
        let file = scratch(&good);
        let offer = ToApplier::Offer(Offer {
            documents: pieces(&documents),
            rollout: Some(bed.offered(link.state.nonce)),
            cache: None,
        });
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    file.write_all_at(b"evil", good.len() as u64 / 2).unwrap();
                    file.set_len(good.len() as u64 / 2).unwrap();
                    file.write_all_at(&good, 0).unwrap();
                }
            });
            let answer = link.ask(&offer, &[&file]);
            stop.store(true, Ordering::Relaxed);
            assert!(
                matches!(answer, FromApplier::Need(_) | FromApplier::Refused(_)),
                "{answer:?}"
            );
        });
    }
    bed.goes_on();
}

#[test]
fn blobs_in_what_is_no_file_are_asked_for_again() {
    let bed = Bed::new();
    let mut link = bed.device.link();
    link.offer(&bed.device, &bed.fleet, Some(&bed.rollout));
    let bad = no_files(&bed);
    // The manifest is read by the applier itself, table and blocks by its worker.
    for round in 0..3 {
        let Need::Blobs { blobs, .. } = link.need() else {
            panic!("nothing is needed in round {round}")
        };
        let first = blobs[0].digest;
        for (what, file) in &bad {
            let answer = link.ask(&ToApplier::Provide { blobs: vec![first] }, &[file]);
            let again =
                matches!(&answer, FromApplier::Need(Need::Blobs { blobs: again, .. }) if again[0].digest == first);
            assert!(again, "{what} in round {round}: {answer:?}");
        }
        link.provide(&[(first, bed.release.blobs[&first].clone())]);
    }
    bed.installs(&mut link);
}

#[test]
fn a_nameless_file_in_memory_is_a_file() {
    let bed = Bed::new();
    let mut link = bed.device.link();
    link.offer(&bed.device, &bed.fleet, Some(&bed.rollout));
    while let Need::Blobs { blobs, .. } = link.need() {
        let first = blobs[0].digest;
        let name = nix::sys::memfd::memfd_create("blob", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let mut file = File::from(name);
        file.write_all(&bed.release.blobs[&first]).unwrap();
        link.ask(&ToApplier::Provide { blobs: vec![first] }, &[&file]);
    }
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

#[test]
fn blobs_that_nobody_asked_for_change_nothing() {
    let bed = Bed::new();
    let mut link = bed.device.link();
    let file = scratch(b"evil");
    let foreign = ToApplier::Provide {
        blobs: vec![Digest::of(b"evil"); 32],
    };
    // Before anything is wanted, in the middle of it, and in another number than descriptors.
    let nothing = link.ask(&foreign, &vec![&file; 32]);
    assert!(matches!(nothing, FromApplier::Need(Need::Nothing)), "{nothing:?}");
    link.offer(&bed.device, &bed.fleet, Some(&bed.rollout));
    for _ in 0..3 {
        let before = link.need();
        let FromApplier::Need(after) = link.ask(&foreign, &vec![&file; 32]) else {
            panic!("no need");
        };
        assert_eq!(after, before);
        assert_eq!(link.refused(&foreign, &[&file]).code, Code::Malformed);
        link.provide_some(&bed.release.blobs, 1);
    }
    bed.installs(&mut link);
}

#[test]
fn an_older_timestamp_is_rollback_refused() {
    let bed = Bed::new();
    let mut link = bed.device.link();
    let old = bed.fleet.roles();
    link.offer_documents(&bed.fleet.roles(), None);
    let held = link.ask(&ToApplier::Hello, &[]);
    let answer = link.offer_documents(&old, None);
    assert!(
        matches!(&answer, FromApplier::Refused(r) if r.code == Code::RollbackRefused),
        "{answer:?}"
    );
    let (FromApplier::State(before), FromApplier::State(after)) = (held, link.ask(&ToApplier::Hello, &[])) else {
        panic!("no state");
    };
    assert_eq!(before.held, after.held);
    bed.goes_on();
}

#[test]
fn the_place_of_another_device_is_not_in_plan() {
    let bed = Bed::new();
    let mut link = bed.device.link();
    let mut offered = bed.offered(link.state.nonce);
    offered.member.index += 1;
    link.offer_documents(&bed.documents(), Some(offered));
    link.until(|state| {
        state
            .report
            .status
            .reason
            .as_ref()
            .is_some_and(|r| r.code == Code::NotInPlan)
    });
    bed.goes_on();
}

/// Of another nonce, another device, run out, cut, and signed by nobody.
#[test]
fn forged_and_replayed_leases_are_lease_missing() {
    let mut bed = Bed::new();
    let first = bed.device.link();
    let old = Fleet::lease(&bed.rollout.plan, bed.device.id, first.state.nonce, 900, 0);
    drop(first);
    bed.device.restart();
    bed.pid = bed.device.pid();
    let mut link = bed.device.link();
    let nonce = link.state.nonce;
    let plan = bed.rollout.plan.clone();
    // Of tomorrow: taken for one, every honest one of today would be a step back.
    let mut damaged = Fleet::lease(&plan, bed.device.id, nonce, 900, DAY);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let leases = [
        ("of the nonce before the restart", old),
        (
            "of another device",
            Fleet::lease(&plan, DeviceId([9; 32]), nonce, 900, 0),
        ),
        ("run out", Fleet::lease(&plan, bed.device.id, nonce, 0, 0)),
        ("with a signature that is none", damaged),
        ("no statement at all", b"lease".to_vec()),
    ];
    let mut staged = false;
    for (what, lease) in leases {
        let mut offered = bed.offered(nonce);
        offered.lease = Some(ByteBuf::from(lease));
        link.offer_documents(&bed.documents(), Some(offered));
        if !staged {
            staged = true;
            link.provide_all(&bed.release.blobs);
            link.until_phase(Phase::Waiting);
        }
        let FromApplier::State(state) = link.ask(&ToApplier::Hello, &[]) else {
            panic!("no state");
        };
        let status = state.report.status;
        assert_eq!(
            (status.phase, status.reason.unwrap().code),
            (Phase::Waiting, Code::LeaseMissing),
            "{what}"
        );
        assert_eq!(state.nonce, nonce, "{what}");
    }
    bed.goes_on();
    assert_eq!(bed.device.link().state.nonce, nonce, "the honest lease was the first");
}

/// The session is the controller's: its word on the time counts under its key, for this device and this start of the applier alone.
#[test]
fn the_time_of_a_forged_session_is_refused() {
    let bed = Bed::new();
    let mut link = bed.device.link_without_time();
    let nonce = link.state.nonce;
    let mut damaged = Fleet::time(bed.device.id, nonce);
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let cases = [
        (Fleet::time(DeviceId([9; 32]), nonce), Code::WrongDevice),
        (Fleet::time(bed.device.id, Nonce([9; 32])), Code::WrongDevice),
        (damaged, Code::ThresholdNotMet),
        (b"now".to_vec(), Code::Malformed),
        (bed.rollout.plan.clone(), Code::Malformed),
    ];
    for (attestation, code) in cases {
        let attestation = ByteBuf::from(attestation);
        let refusal = link.refused(&ToApplier::Time { attestation }, &[]);
        assert_eq!(refusal.code, code, "{}", refusal.text);
    }
    drop(link);
    bed.goes_on();
}

#[test]
fn an_acknowledgement_of_what_was_never_reported_drops_no_receipt() {
    let bed = Bed::new();
    bed.goes_on();
    let mut link = bed.device.link();
    let said = receipts(&bed.device, &link.state);
    assert_eq!(said.len(), 1);
    let report = link.state.report.seq;
    for seq in [0, report + 1, u64::MAX] {
        link.ask(&ToApplier::Acknowledged { seq }, &[]);
        assert_eq!(receipts(&bed.device, &link.state), said, "{seq}");
    }
    link.ask(&ToApplier::Acknowledged { seq: report }, &[]);
    assert!(link.state.report.receipts.is_empty());
}

/// Nobody else waits meanwhile, a trial least of all: what cannot be said at once to the link half is not said.
#[test]
fn a_link_half_that_stops_reading_is_let_go_and_keeps_nobody_waiting() {
    let bed = Bed::new();
    let before = bed.device.sockets_that_never_wait();
    let deaf = bed.device.link();
    assert_eq!(bed.device.sockets_that_never_wait(), before + 1);
    let hello = codec::encode(&ToApplier::Hello).unwrap();
    let end = loop {
        match deaf.say(&hello, &[]) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    let gone = [std::io::ErrorKind::BrokenPipe, std::io::ErrorKind::ConnectionReset];
    assert!(matches!(&end, SocketError::Io(e) if gone.contains(&e.kind())), "{end}");
    bed.goes_on();
}

#[test]
fn a_flood_of_messages_is_answered_one_by_one_in_bounded_memory() {
    let bed = Bed::new();
    let idle = bed.device.memory_kib();
    let mut link = bed.device.link();
    let offer = bare_offer(pieces(&bed.documents()));
    let file = scratch(&[0; 16]);
    for turn in 0..240_u64 {
        match turn % 4 {
            0 => assert_eq!(link.refused(&offer, &[&file]).code, Code::Malformed),
            1 => drop(link.ask(&ToApplier::Acknowledged { seq: turn }, &[])),
            2 => drop(link.ask(&ToApplier::Hello, &[])),
            _ => drop(link.need()),
        }
    }
    let after = bed.device.memory_kib();
    assert!(after < idle + (8 << 10), "{idle} KiB before, {after} KiB after");
    drop(link);
    bed.goes_on();
}

/// Each of them is another reason that would be written down: what they cost the disk has a limit in time, whoever sends them.
#[test]
fn a_flood_of_offers_is_taken_at_a_pace_that_the_disk_bears() {
    let bed = Bed::new();
    let began = ensign_agent::clock::boot();
    let offers = 130;
    for turn in 0..offers {
        // A connection for each: a new one does not begin anew.
        let mut link = bed.device.link_without_time();
        let plan = vec![(DocKind::Plan, format!("plan {turn}").into_bytes())];
        let offered = bed.offered(link.state.nonce);
        let answer = link.offer_documents(&plan, Some(offered));
        assert!(matches!(answer, FromApplier::Refused(_)), "{answer:?}");
    }
    let took = ensign_agent::clock::boot().checked_sub(began).unwrap();
    // Fifty at once, and twenty in a second after that.
    assert!(took.as_millis() > 3000, "{offers} offers in {took:?}");
    bed.goes_on();
}

#[test]
fn connections_without_end_leave_one() {
    let bed = Bed::new();
    let before = bed.device.open_files();
    for turn in 0..300 {
        let link = bed.device.link_without_time();
        // Some go in the middle of a request.
        if turn % 3 == 0 {
            let _ = link.say(&codec::encode(&ToApplier::Provide { blobs: Vec::new() }).unwrap(), &[]);
        }
    }
    let last = bed.device.link_without_time();
    assert!(bed.device.open_files() <= before + 1, "connections are kept");
    drop(last);
    bed.goes_on();
}

/// Another plan, a withdrawal, garbage: while units are switched and watched only recovery rules apply.
#[test]
fn nothing_that_is_offered_in_a_trial_changes_it() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = crate::kit::probed("1.0.0", "one");
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    link.until_phase(Phase::Trial);
    let other = Recipe::new("2.0.0", files(&[("page", b"two")])).build();
    fleet.publish(&other);
    let next = device.rollout(&mut fleet, &other);
    link.offer(&device, &fleet, None);
    link.offer(&device, &fleet, Some(&next));
    let empty = link.offer_documents(&[(DocKind::Plan, b"plan".to_vec())], None);
    assert!(matches!(empty, FromApplier::Need(Need::Nothing)), "{empty:?}");
    let state = link.until_settled();
    assert_eq!(state.report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), files(&[("*check", b"one")]));
}

/// The link half keeps whatever it handed over: what was followed is not begun again by showing it again.
#[test]
fn an_offer_that_was_followed_is_not_followed_again() {
    let bed = Bed::new();
    bed.installs(&mut bed.device.link());
    let Bed {
        mut fleet,
        device,
        rollout,
        ..
    } = bed;
    let newer = files(&[("page", b"two")]);
    device.update(&mut fleet, &Recipe::new("2.0.0", newer.clone()).build());
    let mut link = device.link();
    let generation = link.state.report.status.generation;
    // With the lease of a controller that helps.
    link.offer(&device, &fleet, Some(&rollout));
    let replayed = |state: &State| {
        let reason = state.report.status.reason.as_ref();
        reason.is_some_and(|r| r.code == Code::PlanReplayed)
    };
    let status = link.until(replayed).report.status;
    assert_eq!((status.phase, status.generation), (Phase::Rejected, generation));
    assert_eq!(device.live("web"), newer);
}
