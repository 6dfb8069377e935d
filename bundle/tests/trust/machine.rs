//! The client workflow of TUF 1.0.34 §5 with Ensign's codec and profile: what goes forward, and what never goes back.

use crate::fleet::*;
use ensign_bundle::digest::{Digest, FleetId, Nonce};
use ensign_bundle::ids::Ident;
use ensign_bundle::limits;
use ensign_bundle::plan::evidence::TimeAttestation;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::{FORMAT, ProductFloor, Role, Root};
use ensign_bundle::trust::{Clock, Source, Step, TrustState, Trusted};
use proptest::prelude::*;

fn role(seeds: &[u8], threshold: u32) -> Role {
    Role {
        keys: seeds.iter().map(|seed| public(*seed)).collect(),
        threshold,
    }
}

/// What must be unchanged after a refusal.
fn bytes(trusted: &Trusted) -> Vec<u8> {
    trusted.encode().unwrap()
}

#[test]
fn a_whole_run_and_the_same_again() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let mut device = fleet.trust();
    assert_eq!(fleet.refresh(&mut device), Ok(Step::Updated));
    assert_eq!(fleet.refresh(&mut device), Ok(Step::Unchanged));
    device.check_fresh(fleet.now).unwrap();
    let release = device
        .find_release(&app, &mut |want| fleet.find(&want), fleet.now, Source::Online)
        .unwrap();
    assert_eq!(release, &fleet.releases[&app]);
    let unknown = device.find_release(&name("app", "9.0.0"), &mut |_| None, fleet.now, Source::Online);
    assert_eq!(code(unknown.cloned()), Code::NotFound);

    let again = Trusted::decode(&device.encode().unwrap()).unwrap();
    assert_eq!(again.state(), device.state());
    assert_eq!(again.release(&app), device.release(&app));
    again.check_fresh(fleet.now).unwrap();
}

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
fn old_timestamps_and_snapshots_are_refused_even_when_what_is_held_has_expired() {
    let mut fleet = Fleet::new();
    let old = fleet.clone();
    fleet.now += DAY / 2;
    fleet.publish();
    let mut device = fleet.fresh();
    for later in [fleet.now, START + 3 * DAY] {
        let before = bytes(&device);
        let refused = device.update_timestamp(&old.timestamp_bytes, later, Source::Online);
        assert_eq!(code(refused), Code::RollbackRefused);
        assert_eq!(bytes(&device), before);
    }
    // A newer timestamp that names the old snapshot.
    let mut mixed = fleet.clone();
    mixed.snapshot = old.snapshot.clone();
    mixed.snapshot_bytes.clone_from(&old.snapshot_bytes);
    mixed.publish_timestamp();
    assert_eq!(code(mixed.refresh(&mut device)), Code::RollbackRefused);
    assert_eq!(device.timestamp().unwrap().version, fleet.timestamp.unwrap().version);
}

#[test]
fn the_same_timestamp_again_extends_nothing() {
    let mut fleet = Fleet::new();
    let mut device = fleet.fresh();
    let end = fleet.timestamp.as_ref().unwrap().expires;
    let mut longer = fleet.timestamp.clone().unwrap();
    longer.expires += DAY;
    let longer = sign(&longer, &fleet.seeds.timestamp);
    assert_eq!(
        device.update_timestamp(&longer, fleet.now, Source::Online),
        Ok(Step::Unchanged)
    );
    assert_eq!(device.timestamp().unwrap().expires, end);
    // Frozen: the last second is good, the next is not.
    fleet.now = end - 1;
    fleet.refresh(&mut device).unwrap();
    fleet.now = end;
    assert_eq!(code(fleet.refresh(&mut device)), Code::MetadataExpired);
    assert_eq!(code(device.check_fresh(end)), Code::MetadataExpired);
    // A bundle's metadata may be that old; its plan proves that it is fresh.
    device.check_consistent(end).unwrap();
}

#[test]
fn each_role_is_refused_once_it_has_expired() {
    let fleet = Fleet::new();
    let device = fleet.fresh();
    for (what, late) in [
        ("timestamp", fleet.timestamp.as_ref().unwrap().expires),
        ("snapshot", fleet.snapshot.as_ref().unwrap().expires),
        ("root", fleet.root.expires),
    ] {
        let refused = device.check_fresh(late).unwrap_err();
        assert_eq!(refused.code, Code::MetadataExpired, "{what}");
    }
    // Offered when it has expired already, each is refused and nothing changes.
    let mut device = fleet.trust();
    let before = bytes(&device);
    let late = fleet.timestamp.as_ref().unwrap().expires;
    let refused = device.update_timestamp(&fleet.timestamp_bytes, late, Source::Online);
    assert_eq!((code(refused), bytes(&device)), (Code::MetadataExpired, before));
    let mut short = Fleet::new();
    short.next_targets(|targets| targets.expires = START + 10);
    short.publish();
    short.now += 10;
    let mut device = short.trust();
    let refused = short.refresh(&mut device).unwrap_err();
    assert_eq!(refused.code, Code::MetadataExpired);
    assert!(refused.text.contains("targets"), "{refused}");
}

#[test]
fn a_snapshot_must_be_the_one_that_the_timestamp_names() {
    let mut fleet = Fleet::new();
    let mut device = fleet.trust();
    device
        .update_timestamp(&fleet.timestamp_bytes, fleet.now, Source::Online)
        .unwrap();
    let other = {
        let mut other = fleet.clone();
        other.release("app", "1.0.0", |_| {});
        other.publish();
        other
    };
    let before = bytes(&device);
    for offered in [&other.snapshot_bytes, &fleet.targets_bytes] {
        let refused = device.update_snapshot(offered, fleet.now, Source::Online);
        assert_eq!((code(refused), bytes(&device)), (Code::ContentMismatch, before.clone()));
    }
    // Pinned by its bytes, but with another version than the timestamp says.
    let mut lying = fleet.timestamp.clone().unwrap();
    lying.version += 1;
    lying.snapshot.version += 1;
    fleet.timestamp_bytes = sign(&lying, &fleet.seeds.timestamp);
    device
        .update_timestamp(&fleet.timestamp_bytes, fleet.now, Source::Online)
        .unwrap();
    let refused = device.update_snapshot(&fleet.snapshot_bytes, fleet.now, Source::Online);
    assert_eq!(code(refused), Code::RollbackRefused);
}

#[test]
fn no_listed_document_goes_back() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.release("app", "1.0.0", |_| {});
    fleet.next_targets(|_| {});
    fleet.publish();
    let device = fleet.fresh();
    let mut old_release = fleet.clone();
    let first = Fleet::new().release("app", "1.0.0", |_| {});
    assert_eq!(first, app);
    old_release.releases.remove(&app);
    old_release.release("app", "1.0.0", |_| {});
    old_release.publish();
    let mut old_targets = fleet.clone();
    old_targets.targets = Fleet::new().targets;
    old_targets.targets_bytes = Fleet::new().targets_bytes;
    old_targets.publish();
    for mixed in [old_release, old_targets] {
        let mut device = device.clone();
        let held = device.snapshot().cloned();
        assert_eq!(code(mixed.refresh(&mut device)), Code::RollbackRefused);
        assert_eq!(device.snapshot().cloned(), held);
    }
}

#[test]
fn a_release_leaves_the_snapshot_only_below_its_products_lowest() {
    let mut fleet = Fleet::new();
    let (one, two) = (
        fleet.release("app", "1.0.0", |_| {}),
        fleet.release("app", "2.0.0", |_| {}),
    );
    fleet.publish();
    let device = fleet.fresh();
    let gone = |fleet: &Fleet, lowest: u64, names: &[&ensign_bundle::trust::ReleaseName]| {
        let mut fleet = fleet.clone();
        fleet.next_targets(|targets| targets.products[0].lowest = lowest);
        for name in names {
            fleet.releases.remove(*name);
        }
        fleet.publish();
        let mut device = device.clone();
        let result = fleet.refresh(&mut device);
        (result.map_err(|r| r.code), device)
    };
    let counter = fleet.releases[&two].counter;
    let (result, device_after) = gone(&fleet, counter, &[&one]);
    assert_eq!(result, Ok(Step::Updated));
    assert!(device_after.snapshot().unwrap().release(&one).is_none());
    // The old snapshot is kept until then, so the same document still cannot vanish later.
    for (lowest, names) in [(counter, &[&two][..]), (0, &[&one]), (counter, &[&one, &two])] {
        let (result, device_after) = gone(&fleet, lowest, names);
        assert_eq!(result, Err(Code::RollbackRefused));
        assert_eq!(device_after.snapshot(), device.snapshot());
        assert_eq!(device_after.targets(), device.targets());
    }
    // Without new targets, the held ones decide at once.
    let mut same = fleet.clone();
    same.releases.remove(&one);
    same.publish();
    assert_eq!(code(same.refresh(&mut device.clone())), Code::RollbackRefused);
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
    let far = START + 1000 * DAY;
    let attestation = TimeAttestation {
        format: FORMAT,
        fleet: FLEET,
        device: id,
        nonce,
        time: far,
    };
    let signed = sign(&attestation, &[7]);
    assert_eq!(
        code(device.attest_time(&signed, &id, &Nonce([6; 32]))),
        Code::WrongDevice
    );
    assert_eq!(
        code(device.attest_time(&sign(&attestation, &[6]), &id, &nonce)),
        Code::RoleNotAuthorised
    );
    let never = TimeAttestation {
        time: u64::MAX,
        ..attestation.clone()
    };
    assert_eq!(
        code(device.attest_time(&sign(&never, &[7]), &id, &nonce)),
        Code::LifetimeRefused
    );
    assert_eq!(device.attest_time(&signed, &id, &nonce), Ok(far));
    assert!(!device.clock_is_usable(START));
    // Stolen online keys cannot make the root that evicts them look expired, and go with what they claimed.
    fleet.next_root(|root| root.roles.timestamp = role(&[40], 1), &[]);
    fleet.seeds.timestamp = vec![40];
    fleet.publish();
    fleet.refresh(&mut device).unwrap();
    assert!(device.clock_is_usable(START));
}

#[test]
fn a_bundles_old_metadata_is_taken_but_never_goes_back() {
    let mut fleet = Fleet::new();
    let old = fleet.clone();
    fleet.now += 60;
    fleet.publish();
    let late = START + 10 * DAY;
    let mut device = fleet.trust();
    let mut docs = |want: ensign_bundle::trust::Want<'_>| fleet.find(&want);
    device.refresh(&mut docs, late, Source::Bundle).unwrap();
    assert_eq!(code(device.check_fresh(late)), Code::MetadataExpired);
    let refused = device.refresh(&mut |want| old.find(&want), late, Source::Bundle);
    assert_eq!(code(refused), Code::RollbackRefused);
}

#[test]
fn a_stored_state_with_foreign_bytes_is_refused_or_fetched_anew() {
    let device = Fleet::new().fresh();
    let good = device.encode().unwrap();
    assert_eq!(code(Trusted::decode(&good[..good.len() - 1])), Code::Malformed);
    let mut extra = good.clone();
    extra.push(0);
    assert_eq!(code(Trusted::decode(&extra)), Code::Malformed);
    let timestamp = device.timestamp_bytes().unwrap();
    let at = good.windows(timestamp.len()).position(|w| w == timestamp).unwrap();
    let mut flipped = good;
    flipped[at + timestamp.len() - 1] ^= 1;
    let loaded = Trusted::decode(&flipped).unwrap();
    assert!(loaded.timestamp().is_none() && loaded.snapshot().is_some());
}

/// What a repository, honest or not, may do next.
#[derive(Clone, Debug)]
enum Move {
    Publish,
    Release(u8),
    Renew(u8),
    Drop(u8),
    NextTargets(u8),
    NextRoot,
    /// Serve what was published so many moves ago.
    Replay(u8),
    /// Serve the timestamp of one time with the snapshot and targets of another.
    Mix(u8, u8),
    Flip(u16),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => Just(Move::Publish),
        2 => (0u8..4).prop_map(Move::Release),
        1 => (0u8..4).prop_map(Move::Renew),
        1 => (0u8..4).prop_map(Move::Drop),
        1 => (0u8..4).prop_map(Move::NextTargets),
        1 => Just(Move::NextRoot),
        2 => any::<u8>().prop_map(Move::Replay),
        2 => any::<(u8, u8)>().prop_map(|(a, b)| Move::Mix(a, b)),
        1 => any::<u16>().prop_map(Move::Flip),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_version_ever_goes_back_and_an_honest_repository_always_wins(moves in proptest::collection::vec(moves(), 1..25)) {
        let mut honest = Fleet::new();
        let mut history = vec![honest.clone()];
        let mut device = honest.trust();
        let release = |n: u8| format!("{n}.0.0");
        for step in moves {
            honest.now += 60;
            let mut served = honest.clone();
            match step {
                Move::Publish => {}
                Move::Release(n) => {
                    let dropped = honest.targets.products[0].lowest > u64::from(n) * 1_000_000_000_000;
                    if !dropped && !honest.releases.contains_key(&name("app", &release(n))) {
                        honest.release("app", &release(n), |_| {});
                    }
                }
                Move::Renew(n) => {
                    if honest.releases.contains_key(&name("app", &release(n))) {
                        honest.release("app", &release(n), |_| {});
                    }
                }
                Move::Drop(n) => {
                    served.releases.remove(&name("app", &release(n)));
                    served.publish();
                }
                Move::NextTargets(lowest) => {
                    let lowest = u64::from(lowest) * 1_000_000_000_000;
                    let lowest = lowest.max(honest.targets.products[0].lowest);
                    honest.next_targets(|targets| targets.products[0].lowest = lowest);
                    honest.releases.retain(|_, release| release.counter >= lowest);
                }
                Move::NextRoot => honest.next_root(|_| {}, &[]),
                Move::Replay(n) => {
                    served = history[usize::from(n) % history.len()].clone();
                    served.now = honest.now;
                }
                Move::Mix(a, b) => {
                    let (a, b) = (&history[usize::from(a) % history.len()], &history[usize::from(b) % history.len()]);
                    served.timestamp_bytes.clone_from(&a.timestamp_bytes);
                    served.snapshot_bytes.clone_from(&b.snapshot_bytes);
                    served.targets_bytes.clone_from(&b.targets_bytes);
                }
                Move::Flip(at) => {
                    for bytes in [&mut served.timestamp_bytes, &mut served.snapshot_bytes, &mut served.targets_bytes] {
                        let at = usize::from(at) % bytes.len();
                        bytes[at] ^= 4;
                    }
                }
            }
            if matches!(step, Move::Publish | Move::Release(_) | Move::Renew(_) | Move::NextTargets(_) | Move::NextRoot) {
                honest.publish();
                history.push(honest.clone());
                served = honest.clone();
            }
            let before = device.clone();
            let _ = served.refresh(&mut device);
            let (was, is) = (before.held(), device.held());
            prop_assert!(is.root >= was.root && is.timestamp >= was.timestamp);
            prop_assert!(is.snapshot >= was.snapshot && is.targets >= was.targets);
            if let (Some(was), Some(is)) = (before.snapshot(), device.snapshot()) {
                for entry in &was.releases {
                    let listed = is.releases.iter().find(|e| (&e.product, &e.release) == (&entry.product, &entry.release));
                    match listed {
                        Some(listed) => prop_assert!(listed.document.version >= entry.document.version),
                        None => prop_assert!(entry.counter < device.targets().unwrap().products[0].lowest),
                    }
                }
            }
            // A crash between any two moves: what was stored is what goes on.
            device = Trusted::decode(&device.encode().unwrap()).unwrap();
        }
        // Whatever was served in between: the honest repository is followed in the end.
        honest.now += 60;
        honest.publish();
        let followed = honest.refresh(&mut device);
        prop_assert!(followed.is_ok(), "{followed:?}");
        prop_assert_eq!(device.held().timestamp, honest.timestamp.unwrap().version);
    }
}
