//! What a device installs, and what it says about it.

use std::os::unix::fs::PermissionsExt as _;

use ensign_agent::applier;
use ensign_agent::ipc::{FromApplier, ToAdmin, ToApplier};
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::Code;
use ensign_bundle::wire::Phase;
use ensign_testkit::DAY;

use crate::kit::bed::Bed;
use crate::kit::device::{Device, receipts};
use crate::kit::{Files, Fleet, Recipe, files, noise, scratch, web};

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

/// One frame has room for twelve of them: the others follow once these are acknowledged, none is lost and none is sent twice.
#[test]
fn many_receipts_are_told_twelve_at_a_time() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    device.update(&mut fleet, &release);
    // What runs already is signed for at once, for each plan that asks.
    let mut link = device.link();
    for _ in 0..29 {
        let rollout = device.rollout(&mut fleet, &release);
        link.offer(&device, &fleet, Some(&rollout));
    }
    let mut told = Vec::new();
    loop {
        let FromApplier::State(state) = link.ask(&ToApplier::Hello, &[]) else {
            panic!("no state");
        };
        let said: Vec<u64> = receipts(&device, &state).iter().map(|r| r.seq).collect();
        if said.is_empty() {
            break;
        }
        assert!(said.len() <= 12, "{said:?}");
        told.extend(said);
        let seq = state.report.seq;
        link.ask(&ToApplier::Acknowledged { seq }, &[]);
    }
    assert_eq!(told, (1..=30).collect::<Vec<u64>>());
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
    assert!(reason.text.contains("are missing"), "{}", reason.text);
    assert!(state.report.status.denied.is_empty(), "room can be made");
    assert_eq!(std::fs::read_dir(device.paths.staging()).unwrap().count(), 0);
}

/// Where the administrator insists on a sandbox that is not there, nothing is unpacked, and the release is not to blame.
#[test]
fn a_required_sandbox_that_is_not_there_unpacks_nothing() {
    const LANDLOCK: [i64; 3] = [444, 445, 446];
    let calls = [
        (&LANDLOCK[..], "seccomp and no Landlock: it is not in this kernel"),
        (&[nix::libc::SYS_seccomp], "Landlock (version"),
    ];
    for (lacking, said) in calls {
        let mut fleet = Fleet::new();
        let mut device = Device::new();
        device.config("applier.sandbox = \"required\"");
        device.start_lacking(lacking);
        device.enroll(&fleet);
        let state = device.update(&mut fleet, &Recipe::new("1.0.0", web("one")).build());
        let reason = state.report.status.reason.unwrap();
        assert_eq!(reason.code, Code::SandboxUnavailable, "{}", reason.text);
        assert!(
            reason.text.contains("`required`") && reason.text.contains(said),
            "{}",
            reason.text
        );
        assert!(state.report.status.denied.is_empty());
        assert_eq!(std::fs::read_dir(device.paths.staging()).unwrap().count(), 0);

        device.config("applier.sandbox = \"best-available\"");
        device.end_input();
        device.start_lacking(lacking);
        let state = device.update(&mut fleet, &Recipe::new("1.1.0", web("one")).build());
        assert_eq!(
            state.report.status.phase,
            Phase::Confirmed,
            "{:?}",
            state.report.status.reason
        );
    }
}

/// As shipped: on a kernel that has both.
#[test]
fn a_required_sandbox_that_is_there_is_no_hindrance() {
    let mut fleet = Fleet::new();
    let mut device = Device::new();
    device.config("applier.sandbox = \"required\"");
    device.start();
    device.enroll(&fleet);
    let state = device.update(&mut fleet, &Recipe::new("1.0.0", web("one")).build());
    let reason = state.report.status.reason;
    if reason.as_ref().is_some_and(|r| r.code == Code::SandboxUnavailable) {
        println!("SKIPPED: a whole sandbox: {}", reason.unwrap().text);
        return;
    }
    assert_eq!(state.report.status.phase, Phase::Confirmed, "{reason:?}");
}

/// The kernel's word for a call that is not on the worker's list. Another worker with the same bytes would only do the same.
#[test]
fn a_worker_that_breaks_out_ends_the_attempt_with_a_reason_of_its_own() {
    let Bed {
        fleet,
        device,
        release,
        rollout,
        ..
    } = Bed::of(web("one"));
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_some(&release.blobs, 2);
    let worker = device.worker();
    nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGSYS).unwrap();
    link.provide_all(&release.blobs);
    let state = link.until_settled();
    let reason = state.report.status.reason.unwrap();
    assert_eq!(reason.code, Code::SandboxViolation, "{}", reason.text);
    assert!(state.report.status.denied.is_empty());
    assert!(!device.paths.current().exists());
}

/// The room of an unchanged file is taken once, also where the worker may not link; so is that of a second copy in one release.
#[test]
fn unchanged_files_are_shared_between_releases() {
    use std::os::unix::fs::MetadataExt as _;
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let same = noise(7, 300_000);
    let first = Recipe::new("1.0.0", files(&[("a/data", &same), ("page", b"one")])).build();
    device.update(&mut fleet, &first);
    let before = device.paths.live("web").join("a/data").canonicalize().unwrap();
    let second = files(&[
        ("a/data", &same),
        ("b/again", &same),
        ("page", b"two"),
        ("then", b"two"),
    ]);
    let state = device.update(&mut fleet, &Recipe::new("1.1.0", second.clone()).build());
    assert_eq!(state.report.status.phase, Phase::Confirmed);
    assert_eq!(device.live("web"), second);
    let live = device.paths.live("web");
    let inode = |path: &std::path::Path| std::fs::metadata(path).unwrap().ino();
    let shared = [
        inode(&before),
        inode(&live.join("a/data")),
        inode(&live.join("b/again")),
    ];
    let pages = [inode(&live.join("page")), inode(&live.join("then"))];
    if reflinks(&device.paths.trees()) {
        println!("SKIPPED: hard links: this file system has reflinks, which go first");
    } else {
        assert_eq!((shared[0], shared[0]), (shared[1], shared[2]));
        assert_eq!(pages[0], pages[1]);
    }
    let mode = std::fs::metadata(&live).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o755);
}

fn reflinks(place: &std::path::Path) -> bool {
    let cloned = || -> std::io::Result<()> {
        let (a, b) = (tempfile::tempfile_in(place)?, tempfile::tempfile_in(place)?);
        a.set_len(4096)?;
        Ok(rustix::fs::ioctl_ficlone(&b, &a)?)
    };
    cloned().is_ok()
}

#[test]
fn a_withdrawn_rollout_keeps_what_was_staged() {
    let Bed {
        fleet,
        device,
        release,
        rollout,
        ..
    } = Bed::of(web("one"));
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
fn a_file_is_verified_and_applied_in_the_documented_order() {
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

/// Content, signatures, device, counter, expiry, then that no plan comes with it: of several faults the first of these is told.
#[test]
fn the_first_failing_check_of_a_file_decides() {
    type Fault = (Code, fn(&mut Recipe));
    let faults: [Fault; 4] = [
        (Code::RoleNotAuthorised, |r| r.signer = 30),
        (Code::HardwareMismatch, |r| r.hardware = vec!["till".to_owned()]),
        (Code::DowngradeRefused, |r| r.version = "1.0.0"),
        (Code::MetadataExpired, |r| r.age_s = 400 * DAY),
    ];
    let recipe = |version| Recipe::new(version, files(&[("page", b"one")]));
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &recipe("2.0.0").build());
    let apply = |bytes: &[u8]| device.refusal(&ToAdmin::Apply, Some(&scratch(bytes)));
    for first in 0..=faults.len() {
        let mut faulty = recipe("3.0.0");
        faults[first..].iter().for_each(|(_, spoil)| spoil(&mut faulty));
        let mut bundle = faulty.build().bundle;
        let expected = faults.get(first).map_or(Code::NoOfflinePlan, |(code, _)| *code);
        let refusal = apply(&bundle);
        assert_eq!(refusal.code, expected, "{}", refusal.text);
        // Neither what runs nor the time is asked by whoever only looks.
        let judged = applier::verify_file(&device.paths, &scratch(&bundle)).unwrap();
        let asked = Some(expected).filter(|_| first < 2);
        assert_eq!(judged.refusal.map(|r| r.code), asked);
        assert_eq!(judged.releases[0].verdict, asked.map_or("ok", Code::name));
        *bundle.last_mut().unwrap() ^= 1;
        let refusal = apply(&bundle);
        assert_eq!(refusal.code.exit(), 23, "{}", refusal.text);
    }
    let mut elsewhere = recipe("3.0.0");
    elsewhere.arch = vec!["pdp11".to_owned()];
    assert_eq!(apply(&elsewhere.build().bundle).code, Code::HardwareMismatch);
    let mut floor = recipe("4.0.0");
    floor.security_floor = 4_000_000_000_000;
    device.update(&mut fleet, &floor.build());
    device.link().offer(&device, &fleet, None);
    assert_eq!(apply(&recipe("3.0.0").build().bundle).code, Code::BelowFloor);
}

#[test]
fn a_file_with_more_than_its_product_may_carry_is_refused() {
    let fleet = Fleet::with(|product| product.units = vec!["pos-*.service".to_owned()]);
    let device = Device::enrolled(&fleet);
    device.link().offer(&device, &fleet, None);
    let bundle = Recipe::new("1.0.0", files(&[("page", b"one")]))
        .unit("sshd.service")
        .build()
        .bundle;
    let refusal = applier::verify_file(&device.paths, &scratch(&bundle))
        .unwrap()
        .refusal
        .unwrap();
    assert_eq!(refusal.code, Code::OutsideDelegation);
    assert_eq!(device.refusal(&ToAdmin::Apply, Some(&scratch(&bundle))), refusal);
}
