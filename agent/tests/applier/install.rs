//! The real applier process, driven as the link half, the runner and root drive it.

mod cases;
mod kit;

use std::fs::File;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};

use ensign_agent::applier;
use ensign_agent::ipc::{FromAdmin, FromApplier, FromRunner, Need, ToAdmin, ToApplier, ToRunner, UnitVerb};
use ensign_bundle::digest::Digest;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::Code;
use ensign_bundle::wire::{DocKind, Phase};
use kit::device::{Device, receipts};
use kit::{Files, Fleet, Recipe, files, noise, scratch};

/// A tree with everything that a tree can have.
fn web(text: &str) -> Files {
    let mut web = files(&[
        ("index.html", text.as_bytes()),
        ("copy.html", text.as_bytes()),
        ("empty", b""),
        ("lib/deep/er/link", b"-> ../../../index.html"),
        ("*bin/run", b"#!/bin/sh\nexit 0\n"),
        ("dangling", b"-> nowhere"),
    ]);
    web.insert("large".to_owned(), (false, noise(1, 3_500_000)));
    web.insert("zero".to_owned(), (false, vec![0; 2_000_000]));
    web
}

#[test]
fn installs_updates_and_fetches_only_what_changed() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let first = Recipe::new("1.0.0", web("one")).build();
    let state = device.update(&mut fleet, &first);
    assert_eq!(
        state.report.status.phase,
        Phase::Confirmed,
        "{:?}",
        state.report.status.reason
    );
    assert_eq!(device.live("web"), web("one"));
    let said = receipts(&device, &state);
    assert_eq!(said.len(), 1);
    assert_eq!(
        (said[0].release, &said[0].state),
        (first.manifest, &ReceiptState::Confirmed)
    );

    let second = Recipe::new("1.1.0", web("two")).build();
    fleet.publish(&second);
    let rollout = device.rollout(&mut fleet, &second);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    let sent = link.provide_all(&second.blobs);
    assert!(sent < 10_000, "{sent} bytes for a changed line");
    let state = link.until_settled();
    assert_eq!(state.report.status.phase, Phase::Confirmed);
    assert_eq!(state.report.status.generation, 2);
    assert_eq!(device.live("web"), web("two"));
    assert_eq!(state.report.status.installed[0].version.as_str(), "1.1.0");
}

/// 56 MB in 3,000 files: the applier and its worker together stay small, and the applier gives back what it used.
#[test]
fn a_large_tree_needs_little_memory() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let idle = device.memory_kib();
    let mut tree = Files::new();
    for n in 0..3000 {
        tree.insert(format!("d{}/file-{n}", n % 50), (false, noise(n, 12_000)));
    }
    tree.insert("large".to_owned(), (false, noise(9999, 20_000_000)));
    let release = Recipe::new("1.0.0", tree.clone()).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    let mut peak = 0;
    while link.provide_some(&release.blobs, 7) > 0 {
        peak = peak.max(device.memory_kib());
    }
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    let after = device.memory_kib();
    assert!(device.live("web") == tree);
    println!("idle {idle} KiB, peak {peak} KiB, after {after} KiB");
    assert!(peak < 32 << 10, "{peak} KiB while staging");
    assert!(after < idle + (4 << 10), "{after} KiB afterwards, {idle} KiB before");
}

#[test]
fn labels_and_status_are_in_files() {
    let fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    let labels = std::fs::read_to_string(device.paths.labels()).unwrap();
    let labels: serde_json::Value = serde_json::from_str(&labels).unwrap();
    assert_eq!(labels["name"], "dev1");
    assert_eq!(labels["labels"]["site"], "lyon");
    let mode = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(device.paths.receipt_key()), 0o600);
    assert!(device.end_input().success(), "the applier ends with its parent");
    let state = applier::state_from_files(&device.paths).unwrap().unwrap();
    assert_eq!(state.device, Some(device.id));
    assert_eq!(state.held.root, 1);
}

#[test]
fn only_units_of_changed_components_restart_in_order() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let page = |text: &str| files(&[("page", text.as_bytes())]);
    let first = Recipe::new("1.0.0", page("web 1"))
        .unit("web.service")
        .component("api", page("api 1"), "api.service")
        .component("ui", page("ui 1"), "ui.service")
        .build();
    let state = device.update(&mut fleet, &first);
    assert_eq!(
        state.report.status.phase,
        Phase::Confirmed,
        "{:?}",
        state.report.status.reason
    );
    assert_eq!(
        device.runner.units(),
        ["Start web.service", "Start api.service", "Start ui.service"]
    );
    let tree = std::fs::read_link(device.paths.live("web")).unwrap();

    let second = Recipe::new("1.1.0", page("web 1"))
        .unit("web.service")
        .component("api", page("api 2"), "api.service")
        .component("ui", page("ui 2"), "ui.service")
        .build();
    device.update(&mut fleet, &second);
    assert_eq!(
        device.runner.units(),
        [
            "Stop ui.service",
            "Stop api.service",
            "Start api.service",
            "Start ui.service"
        ]
    );
    assert_eq!(std::fs::read_link(device.paths.live("web")).unwrap(), tree);
    assert_eq!(device.live("ui"), page("ui 2"));
}

fn probed(version: &'static str, text: &str) -> kit::Release {
    let mut recipe = Recipe::new(version, files(&[("*check", text.as_bytes())])).unit("web.service");
    recipe.probes = vec![kit::exec("check")];
    recipe.build()
}

#[test]
fn a_failing_probe_goes_back_and_the_release_is_denied() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &probed("1.0.0", "one"));
    device.runner.units();
    device.runner.answer(|question| match question {
        ToRunner::Exec { version, .. } if version == "2.0.0" => FromRunner::Failed {
            text: "exit 7: no database".to_owned(),
        },
        _ => FromRunner::Ok,
    });
    let bad = probed("2.0.0", "two");
    let state = device.update(&mut fleet, &bad);
    assert_eq!(state.report.status.phase, Phase::RolledBack);
    let reason = state.report.status.reason.clone().unwrap();
    assert_eq!(reason.code, Code::Unhealthy);
    assert!(reason.text.contains("no database"), "{}", reason.text);
    assert_eq!(state.report.status.generation, 1);
    assert_eq!(state.report.status.denied, [bad.manifest]);
    assert_eq!(device.live("web"), files(&[("*check", b"one")]));
    assert_eq!(
        device.runner.units(),
        [
            "Stop web.service",
            "Start web.service",
            "Stop web.service",
            "Start web.service"
        ]
    );
    let last = receipts(&device, &state).pop().unwrap();
    assert_eq!(last.state, ReceiptState::RolledBack { code: Code::Unhealthy });

    // The same release by another plan: not again, until somebody says so.
    let rollout = device.rollout(&mut fleet, &bad);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    assert_eq!(
        link.until_phase(Phase::Rejected).report.status.reason.unwrap().code,
        Code::Denied
    );
    device.runner.answer(|_| FromRunner::Ok);
    let cleared = device.admin(&ToAdmin::ClearDenied { manifest: None }, None);
    assert!(matches!(cleared, FromAdmin::Done { .. }));
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&bad.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

#[test]
fn a_unit_that_does_not_start_goes_back() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = |version, text: &str| {
        Recipe::new(version, files(&[("page", text.as_bytes())]))
            .unit("web.service")
            .build()
    };
    device.update(&mut fleet, &release("1.0.0", "one"));
    let mut starts = 0;
    device.runner.answer(move |question| match question {
        ToRunner::Unit {
            verb: UnitVerb::Start, ..
        } => {
            starts += 1;
            if starts == 1 {
                FromRunner::Failed {
                    text: "exit 1".to_owned(),
                }
            } else {
                FromRunner::Ok
            }
        }
        _ => FromRunner::Ok,
    });
    let state = device.update(&mut fleet, &release("2.0.0", "two"));
    assert_eq!(state.report.status.reason.unwrap().code, Code::UnitFailed);
    assert_eq!(device.live("web"), files(&[("page", b"one")]));
}

#[test]
fn no_space_is_said_with_numbers_before_anything_is_fetched() {
    let mut fleet = Fleet::new();
    let mut device = Device::new();
    device.config("applier.reserve_bytes = 9000000000000000");
    device.start();
    device.enroll(&fleet);
    let release = Recipe::new("1.0.0", web("one")).build();
    let state = device.update(&mut fleet, &release);
    let reason = state.report.status.reason.unwrap();
    assert_eq!(reason.code, Code::NoSpace);
    assert!(reason.text.contains("bytes are missing"), "{}", reason.text);
    assert!(state.report.status.denied.is_empty(), "room can be made");
    assert_eq!(std::fs::read_dir(device.paths.staging()).unwrap().count(), 0);
}

/// Where the administrator insists on a sandbox that is not there, nothing is unpacked, and the release is not to blame.
#[test]
fn a_required_sandbox_that_is_not_there_unpacks_nothing() {
    let mut fleet = Fleet::new();
    let mut device = Device::new();
    device.config("applier.sandbox = \"required\"");
    device.start();
    device.enroll(&fleet);
    let state = device.update(&mut fleet, &Recipe::new("1.0.0", web("one")).build());
    assert_eq!(state.report.status.reason.unwrap().code, Code::ConfigRefused);
    assert!(state.report.status.denied.is_empty());
}

#[test]
fn nothing_switches_without_a_live_lease() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    fleet.publish(&release);
    let mut rollout = device.rollout(&mut fleet, &release);
    rollout.lease_s = None;
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    let state = link.until_phase(Phase::Waiting);
    assert_eq!(state.report.status.reason.unwrap().code, Code::LeaseMissing);
    assert!(!device.paths.current().exists());
    rollout.lease_s = Some(900);
    link.offer(&device, &fleet, Some(&rollout));
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

/// A controller whose clock was wrong, and is right again: the device asks it anew instead of waiting for that year to come.
#[test]
fn a_lease_from_the_far_future_blocks_no_honest_one() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    fleet.publish(&release);
    let mut rollout = device.rollout(&mut fleet, &release);
    // Long ago and far ahead: it has run out, and yet it was seen.
    (rollout.lease_s, rollout.lease_ahead_s) = (Some(0), 365 * 24 * 3600);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    link.until_phase(Phase::Waiting);
    let nonce = link.state.nonce;
    (rollout.lease_s, rollout.lease_ahead_s) = (Some(900), 0);
    link.offer(&device, &fleet, Some(&rollout));
    link.until(|state| state.nonce != nonce);
    link.offer(&device, &fleet, Some(&rollout));
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

#[test]
fn a_lock_defers_and_unlocking_goes_on() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.admin(
        &ToAdmin::Lock {
            reason: "surgery".to_owned(),
            ttl_s: 600,
        },
        None,
    );
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    let reason = link.until_phase(Phase::Waiting).report.status.reason.unwrap();
    assert_eq!(reason.code, Code::Locked);
    assert!(reason.text.contains("surgery"));
    device.admin(&ToAdmin::Unlock, None);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

#[test]
fn a_withdrawn_rollout_keeps_what_was_staged() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", web("one")).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_some(&release.blobs, 4);
    link.offer(&device, &fleet, None);
    assert_eq!(link.until_phase(Phase::Idle).report.status.plan, None);
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), web("one"));
}

#[test]
fn damaged_blobs_are_asked_for_again() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", web("one")).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
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
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    let fifo = device.paths.root().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
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
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", web("one")).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
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

#[test]
fn a_killed_worker_is_replaced() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", web("one")).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    for _ in 0..3 {
        link.provide_some(&release.blobs, 3);
        let worker = device.children().remove(0).parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    link.provide_all(&release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), web("one"));
}

#[test]
fn kill_nine_anywhere_in_the_download_is_resumed() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", web("one")).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    for blobs in [1, 2, 3, 4, 5, 6] {
        let mut link = device.link();
        link.offer(&device, &fleet, Some(&rollout));
        link.provide_some(&release.blobs, blobs);
        device.restart();
    }
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), web("one"));
    assert_eq!(std::fs::read_dir(device.paths.staging()).unwrap().count(), 0);
}

/// Killed while units are switched and while the trial runs: the pointer is always old or new, the end always the new release.
#[test]
fn e62_kill_nine_in_the_switch_and_in_the_trial_goes_on() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    device.update(&mut fleet, &probed("1.0.0", "one"));
    let release = probed("2.0.0", "two");
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    device.kill();
    for killed_at in [
        "Stop web.service",
        "Start web.service",
        "Stop web.service",
        "exec check",
        "exec check",
    ] {
        let (say, hear) = std::sync::mpsc::channel();
        let (killed, wait) = std::sync::mpsc::channel::<()>();
        device.runner.answer(move |question| {
            let name = kit::runner::name(question);
            if name == killed_at {
                // The test kills now; the answer goes nowhere.
                let _ = say.send(());
                let _ = wait.recv();
            }
            FromRunner::Ok
        });
        // Started only now: it must not get past the point before the runner knows.
        device.start();
        let mut link = device.link();
        if !matches!(link.state.report.status.phase, Phase::Switching | Phase::Trial) {
            link.offer(&device, &fleet, Some(&rollout));
            link.provide_all(&release.blobs);
        }
        hear.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        device.kill();
        drop(killed);
        let live = device.live("web");
        assert!(live == files(&[("*check", b"one")]) || live == files(&[("*check", b"two")]));
    }
    device.runner.answer(|_| FromRunner::Ok);
    device.start();
    let mut link = device.link();
    let state = link.until_settled();
    assert_eq!(
        state.report.status.phase,
        Phase::Confirmed,
        "{:?}",
        state.report.status.reason
    );
    assert_eq!(device.live("web"), files(&[("*check", b"two")]));
}

#[test]
fn a_moved_pointer_is_mended_at_start() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    device.update(&mut fleet, &Recipe::new("1.0.0", files(&[("page", b"one")])).build());
    device.kill();
    std::fs::remove_file(device.paths.current()).unwrap();
    symlink("generations/9", device.paths.current()).unwrap();
    device.start();
    device.link();
    assert_eq!(device.live("web"), files(&[("page", b"one")]));
}

#[test]
fn rollback_by_hand_goes_to_the_previous_generation_unless_it_was_tampered_with() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    assert_eq!(
        device.refusal(&ToAdmin::Rollback { reason: String::new() }, None).code,
        Code::NotFound
    );
    device.update(&mut fleet, &Recipe::new("1.0.0", files(&[("page", b"one")])).build());
    let old = std::fs::canonicalize(device.paths.live("web")).unwrap();
    device.update(&mut fleet, &Recipe::new("2.0.0", files(&[("page", b"two")])).build());
    let rollback = ToAdmin::Rollback {
        reason: "it is slow".to_owned(),
    };

    let page = old.join("page");
    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o644)).unwrap();
    let write = |bytes: &[u8]| {
        File::options()
            .write(true)
            .open(&page)
            .unwrap()
            .write_all_at(bytes, 0)
            .unwrap();
    };
    write(b"0ne");
    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(device.refusal(&rollback, None).code, Code::GenerationTampered);
    assert_eq!(device.live("web"), files(&[("page", b"two")]));

    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o644)).unwrap();
    write(b"one");
    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o444)).unwrap();
    let mut link = device.link();
    assert!(matches!(device.admin(&rollback, None), FromAdmin::Done { .. }));
    let state = link.until_phase(Phase::RolledBack);
    assert_eq!(state.report.status.reason.unwrap().code, Code::OperatorRollback);
    assert_eq!(device.live("web"), files(&[("page", b"one")]));
}

/// A tree that stood there already is compared with what was signed before it runs, and made anew where it differs.
#[test]
fn e43_a_tampered_tree_is_made_anew() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    fleet.publish(&release);
    let mut rollout = device.rollout(&mut fleet, &release);
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
fn a_file_is_verified_and_applied_in_the_order_of_the_contract() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let old = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    let new = Recipe::new("2.0.0", files(&[("page", b"two")])).build();
    device.update(&mut fleet, &new);
    let verify = |bytes: &[u8]| applier::verify_file(&device.paths, &scratch(bytes));
    let verdict = verify(&old.bundle).unwrap();
    assert!(
        verdict.refusal.is_none(),
        "an unpublished signed file is fine: {:?}",
        verdict.refusal
    );
    assert!(verdict.releases[0].signatures[0].valid);

    let apply = |bytes: &[u8]| device.refusal(&ToAdmin::Apply, Some(&scratch(bytes))).code;
    assert_eq!(apply(&old.bundle), Code::DowngradeRefused);
    assert_eq!(apply(&new.bundle), Code::NoOfflinePlan);
    let mut flipped = old.bundle.clone();
    let at = flipped.len() - 1;
    flipped[at] ^= 1;
    assert_eq!(apply(&flipped).exit(), 23, "content comes before everything else");
    assert_eq!(verify(&flipped).unwrap_err().code.exit(), 23);
}

#[test]
fn offers_that_lie_are_refused() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    fleet.publish(&release);
    let mut rollout = device.rollout(&mut fleet, &release);
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
    };
    let answer = link.ask(&ToApplier::Offer(offer), &[&scratch(&bytes)]);
    assert!(matches!(answer, FromApplier::Refused(r) if r.code == Code::Malformed));
    assert!(!device.paths.current().exists());
}

#[test]
fn e63_a_lost_trust_state_installs_nothing() {
    let fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    device.kill();
    for slot in ["a.cbor", "b.cbor"] {
        let path = device.paths.trust().join(slot);
        if path.exists() {
            ensign_agent::durable::write(&path, b"damaged by the disk", 0o600).unwrap();
        }
    }
    device.start();
    let mut link = device.link();
    let answer = link.offer(&device, &fleet, None);
    assert!(matches!(answer, FromApplier::Refused(r) if r.code == Code::NeedsReprovision));
}
