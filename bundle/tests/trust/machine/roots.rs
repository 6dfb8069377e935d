//! The chain of roots: signed by both, up by one, and what a new one does to what the old one covered.

use super::{bytes, role};
use crate::fleet::*;
use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::ids::Ident;
use ensign_bundle::limits;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::{ProductFloor, Root};
use ensign_bundle::trust::{Source, TrustState, Trusted};

#[test]
fn the_first_root_is_pinned() {
    let fleet = Fleet::new();
    let first = &fleet.roots[0];
    assert_eq!(code(TrustState::new(first, &Digest([0; 32]), &FLEET)), Code::WrongFleet);
    let digest = Digest::of(first);
    // Every signature covers the fleet's id, so another one makes them all invalid.
    assert_eq!(
        code(TrustState::new(first, &digest, &FleetId([1; 32]))),
        Code::ThresholdNotMet
    );
    let other = Root {
        fleet: FleetId([1; 32]),
        ..fleet.root.clone()
    };
    let other = sign(&other, &[1]);
    assert_eq!(
        code(TrustState::new(&other, &Digest::of(&other), &FLEET)),
        Code::WrongFleet
    );
}

#[test]
fn the_root_chain_is_signed_by_both_and_goes_up_by_one() {
    let mut fleet = Fleet::new();
    let mut device = fleet.fresh();
    // Keys 20 and 21 take over, both needed.
    fleet.next_root(|root| root.roles.root = role(&[20, 21], 2), &[20, 21]);
    let good = fleet.roots[1].clone();
    let by_new_only = sign(&fleet.root, &[20, 21]);
    let by_old_only = sign(&fleet.root, &[1]);
    let one_of_two = sign(&fleet.root, &[1, 20]);
    let skipped = sign(
        &Root {
            version: 3,
            ..fleet.root.clone()
        },
        &[1, 20, 21],
    );
    let same = sign(
        &Root {
            version: 1,
            ..fleet.root.clone()
        },
        &[1, 20, 21],
    );
    let before = bytes(&device);
    for (offered, wanted) in [
        (&by_new_only, Code::RoleNotAuthorised),
        (&by_old_only, Code::RoleNotAuthorised),
        (&one_of_two, Code::ThresholdNotMet),
        (&skipped, Code::RollbackRefused),
        (&same, Code::RollbackRefused),
        (&good[..9].to_vec(), Code::Malformed),
    ] {
        assert_eq!(code(device.update_root(offered, fleet.now)), wanted);
        assert_eq!(bytes(&device), before);
    }
    device.update_root(&good, fleet.now).unwrap();
    assert_eq!(device.root().version, 2);
    // The old key signs nothing any more.
    fleet.seeds.root = vec![1];
    fleet.next_root(|_| {}, &[]);
    assert_eq!(
        code(device.update_root(&fleet.roots[2], fleet.now)),
        Code::RoleNotAuthorised
    );
}

#[test]
fn expired_roots_on_the_way_do_not_matter_the_last_one_does() {
    let mut fleet = Fleet::new();
    let mut device = fleet.trust();
    fleet.next_root(|root| root.expires = START + DAY, &[]);
    fleet.now = START + 2 * DAY;
    let refused = fleet.refresh(&mut device).unwrap_err();
    assert_eq!(
        (refused.code, device.root().version),
        (Code::MetadataExpired, 2),
        "{refused}"
    );
    fleet.next_root(|_| {}, &[]);
    fleet.publish();
    fleet.refresh(&mut device).unwrap();
    assert_eq!(device.root().version, 3);
    // Stored trust with an expired root still leads to the next.
    fleet.now = fleet.root.expires + 1;
    let mut device = Trusted::decode(&bytes(&device)).unwrap();
    assert_eq!(code(device.check_fresh(fleet.now)), Code::MetadataExpired);
    fleet.next_root(|_| {}, &[]);
    fleet.next_targets(|_| {});
    fleet.publish();
    fleet.refresh(&mut device).unwrap();
}

#[test]
fn a_long_chain_takes_several_runs() {
    let mut fleet = Fleet::new();
    let mut device = fleet.trust();
    for _ in 0..limits::ROOT_STEPS + 10 {
        fleet.next_root(|_| {}, &[]);
    }
    fleet.refresh(&mut device).unwrap();
    assert_eq!(device.root().version, limits::ROOT_STEPS as u64 + 1);
    fleet.refresh(&mut device).unwrap();
    assert_eq!(device.root().version, limits::ROOT_STEPS as u64 + 11);
}

#[test]
fn thresholds_count_distinct_keys() {
    let mut fleet = Fleet::new();
    fleet.next_root(|root| root.roles.targets = role(&[3, 30, 31], 2), &[]);
    let mut device = fleet.trust();
    device.update_root(&fleet.roots[1], fleet.now).unwrap();
    for (signers, wanted) in [
        (&[3][..], Some(Code::ThresholdNotMet)),
        (&[3, 99], Some(Code::ThresholdNotMet)),
        (&[98, 99], Some(Code::RoleNotAuthorised)),
        (&[], Some(Code::Unsigned)),
        (&[3, 31], None),
        (&[3, 30, 31, 99], None),
    ] {
        fleet.seeds.targets = signers.to_vec();
        fleet.next_targets(|_| {});
        fleet.publish();
        let result = fleet.refresh(&mut device);
        assert_eq!(result.err().map(|r| r.code), wanted, "{signers:?}");
    }
}

#[test]
fn a_fast_forward_is_undone_by_new_keys_and_only_by_them() {
    let mut fleet = Fleet::new();
    fleet.publish();
    let mut stolen = fleet.clone();
    stolen.timestamp.as_mut().unwrap().version = u64::MAX - 2;
    stolen.snapshot.as_mut().unwrap().version = u64::MAX - 2;
    stolen.publish();
    let mut device = stolen.fresh();
    fleet.now += 60;
    fleet.publish();
    assert_eq!(code(fleet.refresh(&mut device)), Code::RollbackRefused);
    // A new root with the same online keys changes nothing.
    fleet.next_root(|_| {}, &[]);
    assert_eq!(code(fleet.refresh(&mut device)), Code::RollbackRefused);
    fleet.next_root(
        |root| {
            root.roles.timestamp = role(&[40], 1);
            root.roles.snapshot = role(&[41], 1);
        },
        &[],
    );
    (fleet.seeds.timestamp, fleet.seeds.snapshot) = (vec![40], vec![41]);
    fleet.publish();
    fleet.refresh(&mut device).unwrap();
    assert_eq!(device.held().timestamp, fleet.timestamp.unwrap().version);
}

#[test]
fn what_the_new_root_does_not_cover_is_dropped() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let mut device = fleet.fresh();
    device
        .find_release(&app, &mut |want| fleet.find(&want), fleet.now, Source::Online)
        .unwrap();
    fleet.next_root(|root| root.roles.targets = role(&[33], 1), &[]);
    device.update_root(&fleet.roots[1], fleet.now).unwrap();
    assert!(device.targets().is_none() && device.release(&app).is_none());
    assert!(device.timestamp().is_some(), "its key stayed");
    // The product's key goes: its documents go with it.
    let mut device = Fleet::fresh(&{
        let mut other = fleet.clone();
        other.seeds.targets = vec![33];
        other.next_targets(|_| {});
        other.publish();
        fleet = other;
        fleet.clone()
    });
    device
        .find_release(&app, &mut |want| fleet.find(&want), fleet.now, Source::Online)
        .unwrap();
    fleet.next_targets(|targets| targets.products[0].role = role(&[44], 1));
    fleet.publish();
    fleet.refresh(&mut device).unwrap();
    assert!(device.release(&app).is_none());
    let refused = device.find_release(&app, &mut |want| fleet.find(&want), fleet.now, Source::Online);
    assert_eq!(code(refused.cloned()), Code::RoleNotAuthorised);
}

#[test]
fn one_key_has_one_role() {
    let mut fleet = Fleet::new();
    let mut device = fleet.fresh();
    fleet.next_targets(|targets| targets.products[0].role = role(&[6], 1));
    fleet.publish();
    assert_eq!(code(fleet.refresh(&mut device)), Code::KeysRefused);
    let mut root = fleet.root.clone();
    root.roles.timestamp = role(&[3], 1);
    assert_eq!(code(ensign_bundle::statement::seal(&root)), Code::KeysRefused);
    root.roles.timestamp = role(&[7], 2);
    assert_eq!(code(ensign_bundle::statement::seal(&root)), Code::KeysRefused);
    root.roles.timestamp = role(&[7, 7], 1);
    assert_eq!(code(ensign_bundle::statement::seal(&root)), Code::KeysRefused);
}

#[test]
fn floors_only_rise_unless_the_epoch_does() {
    let mut fleet = Fleet::new();
    let app = Ident::parse("app").unwrap();
    let floor = ProductFloor {
        plan_seq: 5,
        counter: 7,
        security: 9,
    };
    fleet.next_root(
        |root| {
            root.floors.products.insert(app.clone(), floor);
            root.floors.targets_version = 2;
        },
        &[],
    );
    let mut device = fleet.trust();
    device.update_root(&fleet.roots[1], fleet.now).unwrap();
    assert_eq!((device.plan_seq_floor(&app), device.security_floor(&app)), (5, 9));
    let lower = |change: fn(&mut Root, &Ident)| {
        let mut fleet = fleet.clone();
        fleet.next_root(|root| change(root, &app), &[]);
        device
            .clone()
            .update_root(&fleet.roots[2], fleet.now)
            .err()
            .map(|r| r.code)
    };
    assert_eq!(lower(|_, _| {}), None);
    assert_eq!(
        lower(|root, _| root.floors.targets_version = 1),
        Some(Code::RollbackRefused)
    );
    assert_eq!(
        lower(|root, _| root.floors.products.clear()),
        Some(Code::RollbackRefused)
    );
    assert_eq!(
        lower(|root, app| root.floors.products.get_mut(app).unwrap().plan_seq = 4),
        Some(Code::RollbackRefused)
    );
    assert_eq!(
        lower(|root, _| root.floors.reset_epoch = 2),
        Some(Code::RollbackRefused)
    );
    assert_eq!(
        lower(|root, _| {
            root.floors.reset_epoch = 1;
            root.floors.products.clear();
        }),
        None
    );
    // Targets below the floor are refused although everybody signed them.
    assert_eq!(code(fleet.refresh(&mut device)), Code::RollbackRefused);
    fleet.next_targets(|_| {});
    fleet.publish();
    fleet.refresh(&mut device).unwrap();
}
