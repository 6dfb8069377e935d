//! What the applier keeps, found damaged, lost, or used twice.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use ensign_agent::applier::state_from_files;
use ensign_agent::ipc::{FromAdmin, FromApplier, Need, ToAdmin};
use ensign_agent::link::run;
use ensign_bundle::ids::Version;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::Trusted;
use ensign_bundle::wire::Phase;

use crate::kit::bed::Bed;
use crate::kit::device::Device;
use crate::kit::{Fleet, Recipe, files, web};

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

/// Nothing is installed on what a restart would forget.
#[test]
fn a_trust_state_that_cannot_be_stored_installs_nothing_until_it_can() {
    let Bed {
        fleet,
        device,
        release,
        rollout,
        ..
    } = Bed::of(web("one"));
    let mut link = device.link();
    // The next copy goes into a slot whose temporary name is taken by a folder with something in it.
    for slot in [".a.cbor.new", ".b.cbor.new"] {
        std::fs::create_dir_all(device.paths.trust().join(slot).join("in-the-way")).unwrap();
    }
    let answer = link.offer(&device, &fleet, Some(&rollout));
    assert!(matches!(&answer, FromApplier::Need(Need::Nothing)), "{answer:?}");
    let reason = link.until_phase(Phase::Rejected).report.status.reason;
    assert_eq!(reason.unwrap().code, Code::Io);
    assert!(!device.paths.current().exists());
    for slot in [".a.cbor.new", ".b.cbor.new"] {
        std::fs::remove_dir_all(device.paths.trust().join(slot)).unwrap();
    }
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

fn installed(device: &Device, fleet: &mut Fleet) {
    let state = device.update(fleet, &Recipe::new("1.0.0", web("one")).build());
    assert_eq!(state.report.status.phase, Phase::Confirmed);
}

/// Whatever became of one copy, the other is taken, and nothing is installed on it before the roles are fresh again.
#[test]
fn one_copy_of_the_trust_state_is_enough_once_it_is_fresh() {
    for damage in [&b""[..], b"damaged", b"removed"] {
        let mut fleet = Fleet::new();
        let mut device = Device::enrolled(&fleet);
        installed(&device, &mut fleet);
        for version in ["1.1.0", "1.2.0"] {
            let release = Recipe::new(version, files(&[("page", version.as_bytes())])).build();
            fleet.publish(&release);
            device.link().offer(&device, &fleet, None);
            device.kill();
            // The older one of both: what is offered is known to the other.
            let copies = ["a.cbor", "b.cbor"].map(|name| device.paths.trust().join(name));
            let path = copies
                .into_iter()
                .min_by_key(|path| std::fs::read(path).unwrap()[..8].to_vec())
                .unwrap();
            if damage == b"removed" {
                std::fs::remove_file(&path).unwrap();
            } else {
                ensign_agent::durable::write(&path, damage, 0o600).unwrap();
            }
            device.start();
            let rollout = device.rollout(&mut fleet, &release);
            let mut link = device.link();
            link.offer_with(Vec::new(), &device, Some(&rollout));
            let reason = link
                .until(|state| state.report.status.reason.is_some())
                .report
                .status
                .reason;
            assert_eq!(reason.unwrap().code, Code::TrustDegraded, "{version} {damage:?}");
            link.offer(&device, &fleet, Some(&rollout));
            link.provide_all(&release.blobs);
            assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
        }
    }
}

/// A journal that lost steps, some or all: what runs goes on running, nothing is removed, and the operator hears of it. Acting on what is
/// left would take it down, or go back to an older release.
#[test]
fn a_journal_that_lost_steps_takes_nothing_down() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    installed(&device, &mut fleet);
    let older = std::fs::read(device.paths.journal()).unwrap();
    let state = device.update(&mut fleet, &Recipe::new("1.1.0", web("two")).build());
    assert_eq!(state.report.status.phase, Phase::Confirmed);
    device.kill();
    let whole = std::fs::read(device.paths.journal()).unwrap();
    let folder = device.paths.generations();
    let generations = || {
        let entries = std::fs::read_dir(&folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    let before = generations();
    // Damage between whole steps is no torn tail.
    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    // Removed, empty, cut in its first steps, put back from a copy of before the second release, and damaged in the middle.
    let found = [None, Some(&b""[..]), Some(&whole[..700]), Some(&older), Some(&damaged)];
    for left in found {
        match left {
            None => std::fs::remove_file(device.paths.journal()).unwrap(),
            Some(left) => ensign_agent::durable::write(&device.paths.journal(), left, 0o600).unwrap(),
        }
        let offline = state_from_files(&device.paths).unwrap().unwrap();
        device.start();
        let mut link = device.link_without_time();
        let refused = link.offer(&device, &fleet, None);
        assert!(matches!(refused, FromApplier::Refused(r) if r.code == Code::JournalLost));
        let FromAdmin::State(state) = device.admin(&ToAdmin::Status, None) else {
            panic!("no state");
        };
        for status in [state.report.status, offline.report.status] {
            assert_eq!(status.reason.unwrap().code, Code::JournalLost);
            assert_eq!((status.generation, status.installed.len()), (2, 0));
        }
        let unlock = device.refusal(&ToAdmin::Unlock, None);
        assert_eq!(unlock.code, Code::JournalLost);
        assert_eq!(device.live("web"), web("two"));
        device.kill();
        let kept = std::fs::read(device.paths.journal()).ok();
        assert_eq!(kept.as_deref(), left, "it is kept as it was found");
        assert_eq!(generations(), before);
    }
    // The whole one put back: as if nothing had been.
    ensign_agent::durable::write(&device.paths.journal(), &whole, 0o600).unwrap();
    device.start();
    assert_eq!(device.link().until_settled().report.status.reason, None);
    assert_eq!(device.live("web"), web("two"));
}

/// Whatever became of the file that says who this device is, or of the key that goes with it: nothing is done as somebody else, the link
/// half can say why, and joining again mends it.
#[test]
fn a_damaged_identity_needs_to_join_again() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    installed(&device, &mut fleet);
    let binding = std::fs::read(device.paths.binding()).unwrap();
    let name = binding.windows(4).position(|w| w == b"dev1").unwrap();
    let mut cases = Vec::new();
    for at in [1, 40, name, binding.len() / 2, binding.len() - 1] {
        let mut damaged = binding.clone();
        damaged[at] ^= 1;
        cases.push((device.paths.binding(), Some(damaged)));
    }
    cases.push((device.paths.binding(), Some(Vec::new())));
    let key = std::fs::read(device.paths.receipt_key()).unwrap();
    cases.push((device.paths.receipt_key(), Some(key[..key.len() / 2].to_vec())));
    cases.push((device.paths.receipt_key(), None));
    for (path, damaged) in cases {
        let kept = std::fs::read(&path).unwrap();
        device.kill();
        match damaged {
            Some(damaged) => ensign_agent::durable::write(&path, &damaged, 0o600).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        device.start();
        let mut link = device.link_without_time();
        let status = &link.state.report.status;
        assert_eq!(status.reason.clone().unwrap().code, Code::NeedsReprovision);
        assert_eq!((link.state.device, link.state.has_fleet()), (None, true));
        assert_eq!(status.generation, 1, "what runs goes on");
        let answer = link.offer(&device, &fleet, None);
        assert!(matches!(answer, FromApplier::Refused(r) if r.code == Code::NeedsReprovision));
        device.kill();
        ensign_agent::durable::write(&path, &kept, 0o600).unwrap();
        device.start();
        assert_eq!(device.link().state.report.status.reason, None);
    }
    device.kill();
    ensign_agent::durable::write(&device.paths.receipt_key(), b"no key", 0o600).unwrap();
    device.start();
    device.enroll(&fleet);
    let release = Recipe::new("2.0.0", web("two")).build();
    assert_eq!(
        device.update(&mut fleet, &release).report.status.phase,
        Phase::Confirmed
    );
}

#[test]
fn a_second_applier_on_one_root_ends_and_the_first_goes_on() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let mut link = device.link();
    assert!(!device.another().success());
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    // The connection of before: the second one has not taken its place.
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

#[test]
fn a_second_link_half_on_one_root_is_refused() {
    let device = Device::new();
    ensign_agent::durable::create_dir(&device.paths.link(), 0o711).unwrap();
    let first = run::lock(&device.paths).unwrap();
    assert_eq!(run::lock(&device.paths).unwrap_err().code, Code::InUse);
    drop(first);
    run::lock(&device.paths).unwrap();
}

/// A tree is moved into place whole or not at all: that needs one file system.
#[test]
fn staging_on_another_file_system_is_refused() {
    use std::os::unix::fs::MetadataExt as _;
    let mut device = Device::new();
    ensign_agent::durable::create_dir(&device.paths.trees(), 0o755).unwrap();
    let own = std::fs::metadata(device.paths.trees()).unwrap().dev();
    let other = Path::new("/dev/shm");
    if other.metadata().map_or(own, |m| m.dev()) == own {
        println!("skipped: no second file system here");
        return;
    }
    let elsewhere = tempfile::tempdir_in(other).unwrap();
    symlink(elsewhere.path(), device.paths.staging()).unwrap();
    device.start();
    assert!(!device.ended().success());
}

#[test]
fn any_umask_leaves_the_same_modes() {
    for umask in ["000", "777"] {
        let mut fleet = Fleet::new();
        let mut device = Device::new();
        device.start_with_umask(umask);
        device.enroll(&fleet);
        installed(&device, &mut fleet);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let paths = &device.paths;
        for secret in [
            paths.receipt_key(),
            paths.journal(),
            paths.trust().join("a.cbor"),
            paths.applier_lock(),
        ] {
            assert_eq!(mode(&secret), 0o600, "umask {umask}: {}", secret.display());
        }
        for secret in [paths.trust(), paths.manifests(), paths.applier(), paths.staging()] {
            assert_eq!(mode(&secret), 0o700, "umask {umask}: {}", secret.display());
        }
        // What the mask keeps from others may stay kept; the owner reads, and nobody else writes.
        for open in [
            paths.trees(),
            paths.generations().join("1"),
            paths.live("web").join("lib/deep"),
        ] {
            assert_eq!(mode(&open) & 0o722, 0o700, "umask {umask}: {}", open.display());
        }
        assert_eq!(mode(&paths.live("web").join("bin/run")), 0o555);
        assert_eq!(mode(&paths.live("web").join("index.html")), 0o444);
    }
}

/// What was signed for one fleet, and what failed in it, is no business of the next one, whichever way the device came there.
#[test]
fn nothing_that_one_fleet_was_to_be_told_is_told_to_the_next() {
    for leaves in [true, false] {
        let mut fleet = Fleet::new();
        let mut device = Device::enrolled(&fleet);
        installed(&device, &mut fleet);
        let first = device.receipt_key;
        assert_eq!(device.link().state.report.receipts.len(), 1, "not acknowledged");
        if leaves {
            assert!(matches!(device.admin(&ToAdmin::Leave, None), FromAdmin::Done { .. }));
            assert!(device.link_without_time().state.report.receipts.is_empty());
            let kept = [device.paths.binding(), device.paths.receipt_key()];
            let slots = ["a.cbor", "b.cbor"].map(|name| device.paths.trust().join(name));
            for path in kept.iter().chain(&slots) {
                assert!(!path.exists(), "{} is left", path.display());
            }
        }
        device.enroll(&fleet);
        assert_ne!(device.receipt_key, first);
        for _ in 0..2 {
            let report = device.link().state.report;
            assert!(report.receipts.is_empty(), "left first: {leaves}");
            assert_eq!((report.status.phase, report.status.plan), (Phase::Idle, None));
            assert_eq!(report.status.generation, 1, "what runs goes on");
            device.restart();
        }
    }
}

#[test]
fn nobody_joins_or_leaves_in_the_middle_of_a_trial() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    let release = crate::kit::probed("1.0.0", "one");
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    link.until_phase(Phase::Trial);
    assert_eq!(device.try_enroll(&fleet).unwrap_err().code, Code::Conflict);
    assert_eq!(device.refusal(&ToAdmin::Leave, None).code, Code::Conflict);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
    device.try_enroll(&fleet).unwrap();
}

/// Made by somebody else, or by an earlier build: whoever may open them can hold their locks.
#[test]
fn private_folders_that_were_open_are_closed() {
    let fleet = Fleet::new();
    let mut device = Device::new();
    let private = [
        device.paths.applier(),
        device.paths.trust(),
        device.paths.manifests(),
        device.paths.staging(),
    ];
    for folder in &private {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    std::fs::set_permissions(device.paths.trees(), std::fs::Permissions::from_mode(0o777)).unwrap();
    device.start();
    device.enroll(&fleet);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for folder in &private {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    assert_eq!(mode(&device.paths.trees()), 0o755);
}

/// What one fleet wanted, and why it was not done, is not shown to the next one.
#[test]
fn nothing_of_an_update_is_left_after_leaving() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    installed(&device, &mut fleet);
    let release = Recipe::new("2.0.0", web("two")).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.until_phase(Phase::Fetching);
    assert!(matches!(device.admin(&ToAdmin::Leave, None), FromAdmin::Done { .. }));
    device.enroll(&fleet);
    device.restart();
    let status = device.link().state.report.status;
    assert_eq!((status.phase, status.reason, status.plan), (Phase::Idle, None, None));
    assert_eq!(status.denied, []);
    assert_eq!(status.generation, 1, "what runs goes on");
}

/// The stored trust state with the higher sequence number.
fn stored_trust(device: &Device) -> Option<Trusted> {
    let newest = ["a.cbor", "b.cbor"]
        .into_iter()
        .filter_map(|name| std::fs::read(device.paths.trust().join(name)).ok())
        .max_by_key(|bytes| bytes[..8].to_vec())?;
    Trusted::decode(&newest[40..]).ok()
}

#[test]
fn the_trust_state_keeps_what_runs_and_what_ran_before_and_no_more() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    for (n, version) in ["1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0"].into_iter().enumerate() {
        let release = Recipe::new(version, files(&[("index.html", version.as_bytes())])).build();
        let state = device.update(&mut fleet, &release);
        assert_eq!(state.report.status.phase, Phase::Confirmed);
        let trusted = stored_trust(&device).unwrap();
        let held: Vec<&str> = trusted.releases().map(|r| r.release.as_str()).collect();
        assert!(held.len() <= 3, "{held:?}");
        assert!(n == 0 || held.contains(&version), "{held:?}");
    }
    // What was dropped is fetched again where a plan names it: the chain of trust is what it was.
    let trusted = stored_trust(&device).unwrap();
    assert_eq!(trusted.snapshot().unwrap().releases.len(), 5);
}

#[test]
fn a_release_that_proved_itself_raises_the_floor_for_good() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    let mut recipe = Recipe::new("2.0.0", files(&[("index.html", b"two")]));
    recipe.security_floor = Version::parse("2.0.0").unwrap().counter().unwrap();
    let floor = recipe.security_floor;
    assert_eq!(
        device.update(&mut fleet, &recipe.build()).report.status.phase,
        Phase::Confirmed
    );
    // A crash right after the confirmation: the floor is found again from what runs.
    device.restart();
    let mut link = device.link();
    link.offer(&device, &fleet, None);
    let product = ensign_testkit::ident("app");
    assert_eq!(stored_trust(&device).unwrap().security_floor(&product), floor);
}
