//! Cases of `docs/conformance.md` that need a whole applier.

use std::io::Write as _;

use ensign_agent::clock;
use ensign_agent::ipc::{FromApplier, FromRunner, ToApplier, ToRunner, UnitVerb};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::Root;
use ensign_bundle::wire::{DocKind, Phase};
use serde_bytes::ByteBuf;

use crate::kit::device::Device;
use crate::kit::{FLEET, Fleet, Recipe, Release, files, key, unix};

fn two_components(version: &'static str, text: &str) -> Release {
    Recipe::new(version, files(&[("page", text.as_bytes())]))
        .unit("web.service")
        .component("api", files(&[("handler", text.as_bytes())]), "api.service")
        .build()
}

#[test]
fn e57_a_release_of_several_components_is_there_whole_or_not_at_all() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &two_components("1.0.0", "one"));
    let mut failed = false;
    device.runner.answer(move |question| match question {
        // The second component of the new release does not start; the way back does.
        ToRunner::Unit {
            verb: UnitVerb::Start,
            name,
        } if name == "api.service" && !failed => {
            failed = true;
            FromRunner::Failed {
                text: "exit 1".to_owned(),
            }
        }
        _ => FromRunner::Ok,
    });
    let state = device.update(&mut fleet, &two_components("2.0.0", "two"));
    assert_eq!(state.report.status.reason.unwrap().code, Code::UnitFailed);
    assert_eq!(device.live("web"), files(&[("page", b"one")]));
    assert_eq!(device.live("api"), files(&[("handler", b"one")]));
}

#[test]
fn a_clock_that_nothing_vouches_for_installs_nothing_until_the_controller_says_the_time() {
    if clock::synchronised() {
        let why = "SKIPPED: a clock that nothing keeps right: this machine's is synchronised\n";
        std::io::stderr().write_all(why.as_bytes()).unwrap();
        return;
    }
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    let mut link = device.link_without_time();
    link.offer(&device, &fleet, Some(&rollout));
    let state = link.until_phase(Phase::Waiting);
    assert_eq!(state.report.status.reason.unwrap().code, Code::ClockSuspect);
    // Not by a time for another start of the applier, nor by anybody's word.
    let other = ByteBuf::from(Fleet::time(device.id, ensign_bundle::digest::Nonce([0; 32])));
    for attestation in [other, ByteBuf::from(b"now")] {
        let answer = link.ask(&ToApplier::Time { attestation }, &[]);
        assert!(matches!(answer, FromApplier::Refused(_)), "{answer:?}");
    }
    device.tell_time(&mut link);
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&release.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

/// Whoever held the old timestamp key vouched for the time: its word goes with the key, and whoever holds the new one is asked.
#[test]
fn a_new_timestamp_key_takes_back_the_time_and_asks_anew() {
    if clock::synchronised() {
        println!("SKIPPED: a clock that nothing keeps right: this machine's is synchronised");
        return;
    }
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = Recipe::new("1.0.0", files(&[("page", b"one")])).build();
    fleet.publish(&release);
    let rollout = device.rollout(&mut fleet, &release);
    let mut link = device.link();
    let nonce = link.state.nonce;
    let mut root = statement::open_unverified::<Root>(&fleet.root)
        .unwrap()
        .body
        .next(unix())
        .unwrap();
    root.roles.timestamp.keys = vec![key(30).public()];
    let root = statement::sign(&root, &[&key(10)], &FLEET).unwrap();
    link.offer_documents(&[(DocKind::Root, root)], None);
    link.until(|state| state.nonce != nonce);
    // What the old key says now, for the new nonce, counts no more.
    let answer = device.tell_time(&mut link);
    assert!(matches!(answer, FromApplier::Refused(_)), "{answer:?}");
    link.offer_with(Vec::new(), &device, Some(&rollout));
    let reason = link
        .until(|state| state.report.status.reason.is_some())
        .report
        .status
        .reason;
    assert_ne!(reason.map(|r| r.code), None);
    assert!(!device.paths.current().exists());
}
