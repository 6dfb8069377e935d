//! What must be there before anything switches: leases and locks.

use ensign_agent::ipc::ToAdmin;
use ensign_bundle::reason::Code;
use ensign_bundle::wire::Phase;

use crate::kit::bed::Bed;
use crate::kit::device::Device;
use crate::kit::{Fleet, Recipe, files};

#[test]
fn nothing_switches_without_a_live_lease() {
    let Bed {
        fleet,
        device,
        release,
        mut rollout,
        ..
    } = Bed::new();
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
    let Bed {
        fleet,
        device,
        release,
        mut rollout,
        ..
    } = Bed::new();
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
    // Until when, to the second, as everywhere else.
    let until = |text: &str| {
        let rest = text.strip_prefix("the device is locked until 20").unwrap_or_default();
        rest.get("26-12-01T18:54:00".len()..).unwrap_or_default().to_owned()
    };
    assert_eq!(until(&reason.text), "Z: surgery", "{}", reason.text);
    // Why it waits is said as it is now.
    for (reason, says) in [("inventory", "Z: inventory"), (" ", "Z, no reason given")] {
        let lock = ToAdmin::Lock {
            reason: reason.to_owned(),
            ttl_s: 600,
        };
        device.admin(&lock, None);
        link.offer(&device, &fleet, Some(&rollout));
        link.until(|state| {
            let reason = state.report.status.reason.as_ref();
            reason.is_some_and(|r| r.code == Code::Locked && until(&r.text) == says)
        });
    }
    device.admin(&ToAdmin::Unlock, None);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}
