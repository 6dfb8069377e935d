//! A link half, a worker or a user of the device that lies: nothing of it gets in, nothing hangs.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use ensign_agent::ipc::{FromApplier, Need, ToApplier};
use ensign_bundle::digest::Digest;
use ensign_bundle::reason::Code;
use ensign_bundle::wire::{DocKind, Phase};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::kit::bed::Bed;
use crate::kit::{files, scratch, web};

#[test]
fn damaged_blobs_are_asked_for_again() {
    let Bed {
        fleet,
        device,
        release,
        rollout,
        ..
    } = Bed::of(web("one"));
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    // The manifest, then a table, then each block: first with a flipped byte.
    let mut rounds = 0;
    let mut need = link.need();
    while let Need::Blobs { blobs, .. } = &need {
        let wanted: Vec<Digest> = blobs.iter().take(3).map(|b| b.digest).collect();
        let batch = |damage: bool| -> Vec<_> {
            wanted
                .iter()
                .map(|digest| {
                    let mut bytes = release.blobs[digest].clone();
                    if damage {
                        let at = bytes.len() / 2;
                        bytes[at] ^= 1;
                    }
                    (*digest, bytes)
                })
                .collect()
        };
        let Need::Blobs { blobs: again, .. } = link.provide(&batch(true)) else {
            panic!("damaged bytes were taken");
        };
        assert!(wanted.iter().all(|d| again.iter().any(|b| b.digest == *d)), "taken");
        need = link.provide(&batch(false));
        rounds += 1;
    }
    assert!(rounds >= 3, "{rounds}");
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), web("one"));
}

#[test]
fn a_fifo_or_a_short_file_is_no_blob() {
    let Bed {
        fleet,
        device,
        release,
        rollout,
        ..
    } = Bed::new();
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    let fifo = device.paths.root().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    // Read and write: a fifo that does not wait to be opened.
    let fifo = File::options().read(true).write(true).open(fifo).unwrap();
    for round in 0..3 {
        let Need::Blobs { blobs, .. } = link.need() else {
            panic!("nothing is needed in round {round}")
        };
        let lacking =
            |need: FromApplier| matches!(need, FromApplier::Need(Need::Blobs { blobs: again, .. }) if again == blobs);
        let first = blobs[0].digest;
        let message = ToApplier::Provide { blobs: vec![first] };
        assert!(lacking(link.ask(&message, &[&fifo])));
        let bytes = &release.blobs[&first];
        assert!(lacking(link.ask(&message, &[&scratch(&bytes[..bytes.len() - 1])])));
        // Longer is fine: only the named bytes are read.
        let longer = scratch(&[bytes.as_slice(), b"more"].concat());
        link.ask(&message, &[&longer]);
    }
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

#[test]
fn e39_links_planted_in_staging_lead_nowhere() {
    let Bed {
        fleet,
        mut device,
        release,
        rollout,
        ..
    } = Bed::of(web("one"));
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_some(&release.blobs, 4);
    device.kill();
    let outside = tempfile::tempdir().unwrap();
    let staged = std::fs::read_dir(device.paths.staging())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::remove_dir_all(staged.join("lib")).unwrap();
    symlink(outside.path(), staged.join("lib")).unwrap();
    let _ = std::fs::remove_file(staged.join("index.html"));
    symlink(outside.path().join("index.html"), staged.join("index.html")).unwrap();
    device.start();
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), web("one"));
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// A tree that stood there already is compared with what was signed before it runs, and made anew where it differs.
#[test]
fn a_tampered_tree_is_made_anew() {
    let Bed {
        fleet,
        mut device,
        release,
        mut rollout,
        ..
    } = Bed::new();
    rollout.lease_s = None;
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    link.until_phase(Phase::Waiting);
    device.kill();
    let tree = std::fs::read_dir(device.paths.trees())
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.is_dir() && !p.ends_with(".staging"))
        .unwrap();
    ensign_agent::durable::write(&tree.join("extra"), b"evil", 0o444).unwrap();
    device.start();
    rollout.lease_s = Some(900);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    assert!(link.provide_all(&release.blobs) > 0, "nothing had to be fetched");
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), files(&[("page", b"one")]));
}

#[test]
fn offers_that_lie_are_refused() {
    let Bed {
        fleet,
        device,
        mut rollout,
        ..
    } = Bed::new();
    let mut link = device.link();
    // A plan that nobody of this fleet signed.
    let good = rollout.plan.clone();
    let last = rollout.plan.len() - 1;
    rollout.plan[last] ^= 1;
    link.offer(&device, &fleet, Some(&rollout));
    let state = link.until_phase(Phase::Rejected);
    assert_eq!(state.report.status.reason.unwrap().code.exit(), 20);
    // A length that the file does not have.
    let mut documents = fleet.roles();
    documents.push((DocKind::Plan, good));
    let bytes: Vec<u8> = documents.iter().flat_map(|(_, b)| b.clone()).collect();
    let offer = ensign_agent::ipc::Offer {
        documents: documents
            .iter()
            .map(|(kind, bytes)| ensign_agent::ipc::Piece {
                kind: *kind,
                length: bytes.len() as u64 + 1,
            })
            .collect(),
        rollout: None,
        cache: None,
    };
    let answer = link.ask(&ToApplier::Offer(offer), &[&scratch(&bytes)]);
    assert!(matches!(answer, FromApplier::Refused(r) if r.code == Code::Malformed));
    assert!(!device.paths.current().exists());
}

/// The link half keeps a descriptor to what it handed over, and changes the bytes behind it all the time.
#[test]
fn e43_what_is_swapped_behind_a_descriptor_is_never_installed() {
    let Bed {
        fleet,
        device,
        release,
        rollout,
        ..
    } = Bed::of(web("one"));
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    let mut hostile = 0;
    while let Need::Blobs { blobs, .. } = link.need() {
        let first = blobs[0].digest;
        let good = release.blobs[&first].clone();
        let file = scratch(&good);
        if hostile < 40 {
            hostile += 1;
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        file.write_all_at(b"evil", good.len() as u64 / 2).unwrap();
                        file.write_all_at(&good, 0).unwrap();
                        file.set_len(good.len() as u64 / 2).unwrap();
                        file.write_all_at(&good, 0).unwrap();
                    }
                });
                // Taken or asked for again; both are fine, waiting for ever and dying are not.
                let answer = link.ask(&ToApplier::Provide { blobs: vec![first] }, &[&file]);
                stop.store(true, Ordering::Relaxed);
                assert!(matches!(answer, FromApplier::Need(_)), "{answer:?}");
            });
        } else {
            link.provide(&[(first, good)]);
        }
    }
    assert!(hostile > 0);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), web("one"));
}

/// A worker that was taken over has descriptors of both directories: pipes, links and folders where files belong.
#[test]
fn pipes_and_folders_planted_in_staging_and_trees_stop_nothing() {
    let Bed {
        fleet,
        mut device,
        release,
        rollout,
        ..
    } = Bed::of(web("one"));
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_some(&release.blobs, 4);
    device.kill();
    let staged = std::fs::read_dir(device.paths.staging())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    for name in ["index.html", "copy.html", "empty", "large", "bin", "lib"] {
        let path = staged.path().join(name);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        } else if path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        mkfifo(&path, Mode::S_IRWXU).unwrap();
    }
    let _ = std::fs::remove_file(staged.path().join("zero"));
    std::fs::create_dir_all(staged.path().join("zero/deep")).unwrap();
    // Where the tree and its marker go.
    let tree = device.paths.trees().join(staged.file_name());
    mkfifo(&tree, Mode::S_IRWXU).unwrap();
    mkfifo(&tree.with_extension("complete"), Mode::S_IRWXU).unwrap();
    mkfifo(&device.paths.staging().join("stray"), Mode::S_IRWXU).unwrap();
    device.start();
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    let state = link.until_settled();
    assert_eq!(
        state.report.status.phase,
        Phase::Confirmed,
        "{:?}",
        state.report.status.reason
    );
    assert_eq!(device.live("web"), web("one"));
}

/// A marker alone, or a link to a tree elsewhere, is no tree.
#[test]
fn a_tree_that_is_a_link_elsewhere_is_not_run() {
    let Bed {
        fleet,
        mut device,
        release,
        rollout,
        ..
    } = Bed::new();
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_some(&release.blobs, 2);
    device.kill();
    let name = std::fs::read_dir(device.paths.staging())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    let elsewhere = tempfile::tempdir().unwrap();
    ensign_agent::durable::write(&elsewhere.path().join("page"), b"evil", 0o444).unwrap();
    let tree = device.paths.trees().join(&name);
    symlink(elsewhere.path(), &tree).unwrap();
    ensign_agent::durable::write(&tree.with_extension("complete"), b"", 0o644).unwrap();
    device.start();
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), files(&[("page", b"one")]));
    assert!(!tree.is_symlink());
    assert_eq!(
        std::fs::read(elsewhere.path().join("page")).unwrap(),
        b"evil",
        "what it led to is not ours"
    );
}
