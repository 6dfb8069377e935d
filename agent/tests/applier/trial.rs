//! What a trial holds on to when the disk, the controller or the applier itself fails in the middle of it.

use std::sync::mpsc;

use ensign_agent::ipc::{FromApplier, FromRunner, Need, ToApplier, ToRunner, UnitVerb};
use ensign_apply::{Record, Stage, journal};
use ensign_bundle::digest::Nonce;
use ensign_bundle::manifest::Probe;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::Code;
use ensign_bundle::wire::Phase;

use crate::kit::device::{Device, Link, receipts};
use crate::kit::{Fleet, Recipe, Release, files, probed};

/// A release that asks for the controller.
fn asks_for_the_controller(version: &'static str) -> Release {
    let mut recipe = Recipe::new(version, files(&[("page", version.as_bytes())])).unit("web.service");
    recipe.probes = vec![Probe::Controller { within_s: 2 }];
    recipe.build()
}

/// Brings `release` as far as its trial; the nonce is the one its lease answered.
fn on_trial(device: &Device, fleet: &mut Fleet, release: &Release) -> (Link, Nonce) {
    fleet.publish(release);
    let rollout = device.rollout(fleet, release);
    let mut link = device.link();
    let nonce = link.state.nonce;
    link.offer(device, fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    link.until_phase(Phase::Trial);
    (link, nonce)
}

#[test]
fn a_trial_whose_manifest_is_lost_is_not_confirmed() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &probed("1.0.0", "one"));
    let second = probed("2.0.0", "two");
    fleet.publish(&second);
    let manifest = device.paths.manifests().join(second.manifest.to_string());
    let (go_on, wait) = mpsc::channel::<()>();
    let mut wait = Some(wait);
    device.runner.answer(move |question| {
        if let ToRunner::Unit {
            verb: UnitVerb::Start, ..
        } = question
            && let Some(wait) = wait.take()
        {
            std::fs::remove_file(&manifest).unwrap();
            wait.recv().unwrap();
        }
        FromRunner::Ok
    });
    let rollout = device.rollout(&mut fleet, &second);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&second.blobs);
    link.until_phase(Phase::Switching);
    // The controller is there all the time.
    link.ask(&ToApplier::Acknowledged { seq: 0 }, &[]);
    device.tell_time(&mut link);
    go_on.send(()).unwrap();
    let status = link.until_settled().report.status;
    assert_eq!(status.phase, Phase::RolledBack);
    let reason = status.reason.unwrap();
    assert!(reason.text.contains("manifest"), "{}", reason.text);
    assert_eq!(device.live("web"), files(&[("*check", b"one")]));
}

#[test]
fn a_controller_that_was_there_before_the_switch_is_missed_across_a_restart() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    let (link, _) = on_trial(&device, &mut fleet, &asks_for_the_controller("1.0.0"));
    drop(link);
    device.restart();
    let mut link = device.link_without_time();
    let status = link.until_settled().report.status;
    assert_eq!(status.phase, Phase::RolledBack);
    assert!(status.reason.unwrap().text.contains("controller"));
}

/// A site that was offline before the switch keeps a good update, whatever its probe of the controller says.
#[test]
fn a_controller_that_was_not_there_before_the_switch_is_not_missed() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    let (link, _) = on_trial(&device, &mut fleet, &asks_for_the_controller("1.0.0"));
    drop(link);
    device.kill();
    let mut known = journal::replay(&std::fs::read(device.paths.journal()).unwrap()).unwrap();
    let Stage::Trial(trial) = &mut known.device.stage else {
        panic!("{:?}", known.device.stage);
    };
    assert!(trial.contact, "the lease was contact");
    trial.contact = false;
    let snapshot = [Record::Snapshot(Box::new(known.device.clone()))];
    let frame = journal::frame(known.sequence + 1, known.device.attempt, &snapshot).unwrap();
    ensign_agent::durable::write(&device.paths.journal(), &frame, 0o600).unwrap();
    device.start();
    let status = device.link_without_time().until_settled().report.status;
    assert_eq!(status.phase, Phase::Confirmed, "{:?}", status.reason);
}

#[test]
fn only_what_the_controller_signed_since_the_switch_is_contact() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let (mut link, nonce) = on_trial(&device, &mut fleet, &asks_for_the_controller("1.0.0"));
    // What anybody who holds the link half can say, and what was signed before.
    link.ask(&ToApplier::Acknowledged { seq: 0 }, &[]);
    let old = serde_bytes::ByteBuf::from(Fleet::time(device.id, nonce));
    link.ask(&ToApplier::Time { attestation: old }, &[]);
    assert_eq!(link.until_settled().report.status.phase, Phase::RolledBack);

    let (mut link, nonce) = on_trial(&device, &mut fleet, &asks_for_the_controller("2.0.0"));
    // The link half opens a session that answers the trial's own nonce.
    link.until(|state| state.nonce != nonce);
    device.tell_time(&mut link);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

/// Its release asks for nothing at all.
#[test]
fn a_product_that_the_network_depends_on_asks_for_the_controller() {
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    let mut plain = Fleet::new();
    let device = Device::enrolled(&plain);
    assert_eq!(
        device.update(&mut plain, &release).report.status.phase,
        Phase::Confirmed
    );

    let mut fleet = Fleet::with(|product| product.network = true);
    let device = Device::enrolled(&fleet);
    let (mut link, nonce) = on_trial(&device, &mut fleet, &release);
    link.until(|state| state.nonce != nonce);
    device.tell_time(&mut link);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

#[test]
fn a_switch_that_the_disk_refuses_denies_no_release() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &probed("1.0.0", "one"));
    // Answered only when what the update left behind is collected: the obstacle is not.
    drop(device.link());
    let obstacle = device.paths.generations().join("2");
    ensign_agent::durable::write(&obstacle, b"no directory", 0o600).unwrap();
    let second = probed("2.0.0", "two");
    let state = device.update(&mut fleet, &second);
    assert_eq!(state.report.status.phase, Phase::RolledBack);
    assert_eq!(state.report.status.reason.clone().unwrap().code, Code::Io);
    assert_eq!(state.report.status.denied, []);
    let last = receipts(&device, &state).pop().unwrap();
    assert_eq!(last.state, ReceiptState::RolledBack { code: Code::Io });
    // Nothing is in the way of the next generation: the same release is taken.
    let rollout = device.rollout(&mut fleet, &second);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&second.blobs);
    let state = link.until_settled();
    assert_eq!(
        state.report.status.phase,
        Phase::Confirmed,
        "{:?}",
        state.report.status.reason
    );
}

/// Whoever waits for the plan's end hears why there is none; the journal has room set aside.
#[test]
fn a_trust_state_that_cannot_be_stored_ends_the_attempt_with_its_reason() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let before = device.update(&mut fleet, &probed("1.0.0", "one")).report.status.plan;
    let obstacles = ["a", "b"].map(|copy| device.paths.trust().join(format!(".{copy}.cbor.new")));
    for obstacle in &obstacles {
        std::fs::create_dir(obstacle).unwrap();
    }
    let second = probed("2.0.0", "two");
    fleet.publish(&second);
    let rollout = device.rollout(&mut fleet, &second);
    let mut link = device.link();
    let answer = link.offer(&device, &fleet, Some(&rollout));
    assert!(matches!(answer, FromApplier::Need(Need::Nothing)), "{answer:?}");
    let status = link.until_phase(Phase::Rejected).report.status;
    assert!(status.plan.is_some_and(|plan| before != Some(plan)));
    assert_eq!((status.reason.unwrap().code, status.denied), (Code::Io, vec![]));
    assert_eq!(device.live("web"), files(&[("*check", b"one")]));
    for obstacle in &obstacles {
        std::fs::remove_dir(obstacle).unwrap();
    }
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&second.blobs);
    link.until_phase(Phase::Confirmed);
}

#[test]
fn a_pointer_that_cannot_be_moved_is_no_failed_unit() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &probed("1.0.0", "one"));
    let obstacle = device.paths.deploy().join(".current.new");
    let (removed, second) = (obstacle.clone(), probed("2.0.0", "two"));
    device.runner.answer(move |question| {
        // In the way forward, out of it for the way back.
        if let ToRunner::Unit {
            verb: UnitVerb::Stop, ..
        } = question
            && std::fs::remove_dir(&removed).is_err()
        {
            std::fs::create_dir(&removed).unwrap();
        }
        FromRunner::Ok
    });
    let state = device.update(&mut fleet, &second);
    assert_eq!(state.report.status.phase, Phase::RolledBack);
    assert_eq!(state.report.status.reason.unwrap().code, Code::Io);
    assert_eq!(state.report.status.denied, []);
    assert!(!obstacle.exists());
}
