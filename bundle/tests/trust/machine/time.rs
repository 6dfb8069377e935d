//! Dates: how far ahead, how long, and how a poisoned clock is mended.

use super::role;
use crate::fleet::*;
use ensign_bundle::digest::Nonce;
use ensign_bundle::plan::evidence::TimeAttestation;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::Clock;
use ensign_bundle::trust::roles::FORMAT;

#[test]
fn lifetimes_and_dates_from_the_future_are_bounded() {
    let life = |change: &dyn Fn(&mut Fleet)| {
        let mut fleet = Fleet::new();
        let mut device = fleet.trust();
        change(&mut fleet);
        fleet.refresh(&mut device).err().map(|r| r.code)
    };
    let too_long = Some(Code::LifetimeRefused);
    assert_eq!(
        life(&|f| f.next_root(|r| r.expires = r.issued + 401 * DAY, &[])),
        too_long
    );
    let long_targets = |f: &mut Fleet| {
        f.next_targets(|t| t.expires = t.issued + 401 * DAY);
        f.publish();
    };
    assert_eq!(life(&long_targets), too_long);
    let long_snapshot = |f: &mut Fleet| {
        let mut snapshot = f.snapshot.clone().unwrap();
        snapshot.version += 1;
        snapshot.expires = snapshot.issued + 15 * DAY;
        f.publish_snapshot(snapshot);
    };
    assert_eq!(life(&long_snapshot), too_long);
    let long_timestamp = |f: &mut Fleet| {
        let mut timestamp = f.timestamp.clone().unwrap();
        timestamp.expires = timestamp.issued + 4 * DAY;
        f.timestamp_bytes = sign(&timestamp, &f.seeds.timestamp);
    };
    assert_eq!(life(&long_timestamp), too_long);
    let air_gapped = |f: &mut Fleet| {
        f.next_root(|r| r.policy.timestamp_life_s = Some(30 * DAY), &[]);
        long_timestamp(f);
    };
    assert_eq!(life(&air_gapped), None);
    let ahead = |f: &mut Fleet| {
        f.now += 25 * 3600;
        f.publish();
        f.now -= 25 * 3600;
    };
    assert_eq!(life(&ahead), too_long);
}

#[test]
fn a_poisoned_clock_floor_is_mended_by_root() {
    let mut fleet = Fleet::new();
    let far = START + 80 * 365 * DAY;
    fleet.next_root(
        |root| {
            root.issued = far;
            root.expires = far + DAY;
        },
        &[],
    );
    let mut device = fleet.trust();
    // A clock that nothing vouches for cannot object.
    device
        .update_root(&fleet.roots[1], Clock::untrusted(fleet.now))
        .unwrap();
    assert!(!device.clock_is_usable(fleet.now));
    assert_eq!(device.now(fleet.now), far);
    fleet.next_root(
        |root| {
            root.floors.reset_epoch += 1;
            root.time_reset = Some(START);
        },
        &[],
    );
    device.update_root(&fleet.roots[2], fleet.now).unwrap();
    assert!(device.clock_is_usable(fleet.now));
    fleet.publish();
    fleet.refresh(&mut device).unwrap();
}

#[test]
fn online_time_goes_with_the_timestamp_key() {
    let mut fleet = Fleet::new();
    let mut device = fleet.fresh();
    let (id, nonce) = (Device::new(1).id(), Nonce([5; 32]));
    let far = START + 300 * DAY;
    let attestation = TimeAttestation {
        format: FORMAT,
        fleet: FLEET,
        device: id,
        nonce,
        time: far,
    };
    let signed = sign(&attestation, &[7]);
    let bad = Clock::untrusted(START);
    assert_eq!(
        code(device.attest_time(&signed, &id, &Nonce([6; 32]), bad)),
        Code::WrongDevice
    );
    assert_eq!(
        code(device.attest_time(&sign(&attestation, &[6]), &id, &nonce, bad)),
        Code::RoleNotAuthorised
    );
    let never = TimeAttestation {
        time: u64::MAX,
        ..attestation.clone()
    };
    assert_eq!(
        code(device.attest_time(&sign(&never, &[7]), &id, &nonce, bad)),
        Code::LifetimeRefused
    );
    assert_eq!(device.attest_time(&signed, &id, &nonce, bad), Ok(Some(far)));
    assert!(!device.clock_is_usable(START));
    // Stolen online keys cannot make the root that evicts them look expired, and go with what they claimed.
    fleet.next_root(|root| root.roles.timestamp = role(&[40], 1), &[]);
    fleet.seeds.timestamp = vec![40];
    fleet.publish();
    fleet.refresh(&mut device).unwrap();
    assert!(device.clock_is_usable(START));
}
