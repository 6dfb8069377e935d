//! E1 to E19 and E64: the state machine.

use std::cell::Cell;

use ensign_bundle::limits;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::ensign::{DocName, Ensign};
use ensign_bundle::trust::format::{Delegator, Format as _};
use ensign_bundle::trust::roles::{Listed, ListedRelease, Role, Root};
use ensign_bundle::trust::{Source, Step, Trusted, Want};

use crate::fleet::*;

const ONLINE: Source = Source::Online;

fn stored(device: &Trusted) -> Vec<u8> {
    device.encode().unwrap()
}

/// Refused with this code, and nothing changed.
#[track_caller]
fn refused<T>(
    device: &mut Trusted,
    wanted: Code,
    step: impl FnOnce(&mut Trusted) -> Result<T, ensign_bundle::reason::Refusal>,
) {
    let before = stored(device);
    assert_eq!(step(device).err().map(|r| r.code), Some(wanted));
    assert_eq!(stored(device), before, "a refusal changes nothing");
}

#[test]
fn e01_the_order_of_roles_is_enforced() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let mut device = fleet.trust();
    let now = fleet.now;
    let release = fleet.release_bytes[&app].clone();
    refused(&mut device, Code::MetadataMissing, |d| {
        d.update_snapshot(&fleet.snapshot_bytes, now, ONLINE)
    });
    refused(&mut device, Code::MetadataMissing, |d| {
        d.update_targets(&fleet.targets_bytes, now, ONLINE)
    });
    refused(&mut device, Code::MetadataMissing, |d| {
        d.update_release(&app, &release, now, ONLINE)
    });
    device.update_timestamp(&fleet.timestamp_bytes, now, ONLINE).unwrap();
    refused(&mut device, Code::MetadataMissing, |d| {
        d.update_targets(&fleet.targets_bytes, now, ONLINE)
    });
    device.update_snapshot(&fleet.snapshot_bytes, now, ONLINE).unwrap();
    refused(&mut device, Code::MetadataMissing, |d| {
        d.update_release(&app, &release, now, ONLINE)
    });
    device.update_targets(&fleet.targets_bytes, now, ONLINE).unwrap();
    device.update_release(&app, &release, now, ONLINE).unwrap();
    // A root after them is no error here: everything held is judged under it at once.
    fleet.next_root(|root| root.roles.timestamp.keys = vec![public(40)], &[]);
    device.update_root(&fleet.roots[1], now).unwrap();
    assert!(device.timestamp().is_none());
    assert_eq!(code(device.check_fresh(now)), Code::MetadataMissing);
}

#[test]
fn e02_a_trust_state_without_a_good_root_is_no_trust() {
    let fleet = Fleet::new();
    let good = stored(&fleet.fresh());
    let root = &fleet.roots[0];
    let at = good.windows(root.len()).position(|w| w == root.as_slice()).unwrap();
    for place in [0, root.len() / 2, root.len() - 1] {
        let mut bad = good.clone();
        bad[at + place] ^= 1;
        assert!(Trusted::decode(&bad).is_err(), "byte {place} of root");
    }
    for garbage in [&b""[..], b"garbage", &[0xf6], &good[..good.len() / 2]] {
        assert!(Trusted::decode(garbage).is_err());
    }
}

#[test]
fn e03_a_run_follows_so_many_roots_and_uses_the_last() {
    let mut fleet = Fleet::new();
    for _ in 0..=limits::ROOT_STEPS {
        fleet.next_root(|_| {}, &[]);
    }
    let mut device = fleet.trust();
    let asked = Cell::new(0);
    let mut docs = |want: Want<'_>| {
        asked.set(asked.get() + usize::from(matches!(want, Want::Root(_))));
        fleet.find(&want)
    };
    device.refresh(&mut docs, fleet.now, ONLINE).unwrap();
    assert_eq!(asked.get(), limits::ROOT_STEPS);
    assert_eq!(device.root().version, limits::ROOT_STEPS as u64 + 1);
    device.check_fresh(fleet.now).unwrap();
}

#[test]
fn e04_a_badly_signed_root_ends_the_chain_whatever_follows() {
    let mut fleet = Fleet::new();
    let mut device = fleet.trust();
    fleet.next_root(|_| {}, &[]);
    let good = fleet.roots[1].clone();
    fleet.next_root(|_| {}, &[]);
    fleet.roots[1] = sign(&fleet.root, &[99]);
    assert_eq!(code(fleet.refresh(&mut device)), Code::RoleNotAuthorised);
    assert_eq!(device.root().version, 1);
    assert!(device.timestamp().is_none(), "nothing after it was looked at");
    fleet.roots[1] = good;
    fleet.refresh(&mut device).unwrap();
    assert_eq!(device.root().version, 3);
}

#[test]
fn e05_an_expired_root_on_the_way_is_fine() {
    let mut fleet = Fleet::new();
    let mut device = fleet.trust();
    fleet.next_root(|root| root.expires = START + 1, &[]);
    fleet.now += DAY;
    fleet.next_root(|_| {}, &[]);
    fleet.publish();
    fleet.refresh(&mut device).unwrap();
    assert_eq!(device.root().version, 3);
}

#[test]
fn e06_only_the_next_root_version_is_taken() {
    let mut fleet = Fleet::new();
    let mut device = fleet.trust();
    let now = fleet.now;
    fleet.next_root(|_| {}, &[]);
    for version in [0, 1, 3, u64::MAX] {
        let root = Root {
            version,
            ..fleet.root.clone()
        };
        let wanted = if version == 0 {
            Code::Malformed
        } else {
            Code::RollbackRefused
        };
        let bytes = match ensign_bundle::statement::seal(&root) {
            Ok(_) => sign(&root, &[1]),
            Err(_) => super::raw("root", ensign_bundle::codec::encode(&root).unwrap(), &[1]),
        };
        refused(&mut device, wanted, |d| d.update_root(&bytes, now));
    }
    device.update_root(&fleet.roots[1], now).unwrap();
    refused(&mut device, Code::RollbackRefused, |d| {
        d.update_root(&fleet.roots[1], now)
    });
}

#[test]
fn e07_a_bad_root_is_never_stored_and_trusted_next_time() {
    let mut fleet = Fleet::new();
    let mut device = fleet.trust();
    fleet.next_root(|root| root.roles.targets.keys = vec![public(90)], &[]);
    let evil = sign(&fleet.root, &[90]);
    refused(&mut device, Code::RoleNotAuthorised, |d| {
        d.update_root(&evil, fleet.now)
    });
    let mut again = Trusted::decode(&stored(&device)).unwrap();
    assert_eq!(again.root().version, 1);
    assert_eq!(again.root().roles.targets.keys, [public(3)]);
    refused(&mut again, Code::RoleNotAuthorised, |d| d.update_root(&evil, fleet.now));
}

#[test]
fn e08_what_has_expired_still_says_what_is_older() {
    let mut fleet = Fleet::new();
    let old = fleet.clone();
    fleet.now += 3600;
    fleet.publish();
    let mut device = fleet.fresh();
    let late = fleet.snapshot.as_ref().unwrap().expires + DAY;
    assert_eq!(code(device.check_fresh(late)), Code::MetadataExpired);
    refused(&mut device, Code::RollbackRefused, |d| {
        d.update_timestamp(&old.timestamp_bytes, late, ONLINE)
    });
    let mut mixed = fleet.clone();
    mixed.now = late;
    (mixed.snapshot, mixed.snapshot_bytes) = (old.snapshot.clone(), old.snapshot_bytes.clone());
    mixed.publish_timestamp();
    refused(&mut device, Code::RollbackRefused, |d| {
        d.update_timestamp(&mixed.timestamp_bytes, late, ONLINE)
    });
}

#[test]
fn e09_a_snapshot_that_is_not_the_current_one_still_says_what_is_older() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let mut device = fleet.fresh();
    // The new timestamp names a snapshot that the device has not seen, and that one takes the document back to version 1.
    let mut evil = fleet.clone();
    evil.now += 60;
    evil.releases.remove(&app);
    evil.release("app", "1.0.0", |_| {});
    evil.publish();
    device
        .update_timestamp(&evil.timestamp_bytes, evil.now, ONLINE)
        .unwrap();
    refused(&mut device, Code::RollbackRefused, |d| {
        d.update_snapshot(&evil.snapshot_bytes, evil.now, ONLINE)
    });
}

#[test]
fn e10_a_timestamp_that_takes_the_snapshot_back_is_not_kept() {
    let mut fleet = Fleet::new();
    fleet.now += 60;
    fleet.publish();
    let mut device = fleet.fresh();
    let mut evil = fleet.clone();
    evil.snapshot.as_mut().unwrap().version -= 1;
    evil.now += 60;
    evil.publish_timestamp();
    refused(&mut device, Code::RollbackRefused, |d| {
        d.update_timestamp(&evil.timestamp_bytes, evil.now, ONLINE)
    });
    assert!(super::holds(&device, &fleet.timestamp_bytes));
    fleet.now += 120;
    fleet.publish();
    fleet.refresh(&mut device).unwrap();
}

#[test]
fn e11_the_same_timestamp_version_again_lives_no_longer() {
    let fleet = Fleet::new();
    let mut device = fleet.fresh();
    let mut longer = fleet.timestamp.clone().unwrap();
    let expires = longer.expires;
    longer.expires += DAY;
    let longer = sign(&longer, &fleet.seeds.timestamp);
    assert_eq!(device.update_timestamp(&longer, fleet.now, ONLINE), Ok(Step::Unchanged));
    assert_eq!(code(device.check_fresh(expires)), Code::MetadataExpired);
}

#[test]
fn e14_what_is_held_is_not_fetched_again_and_is_verified_again_from_root() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let mut device = fleet.fresh();
    let mut docs = |want: Want<'_>| fleet.find(&want);
    device.find_release(&app, &mut docs, fleet.now, ONLINE).unwrap();
    let mut device = Trusted::decode(&stored(&device)).unwrap();
    let mut only_timestamp = |want: Want<'_>| match want {
        Want::Timestamp => fleet.find(&want),
        Want::Root(_) => None,
        _ => panic!("{want:?} is held"),
    };
    assert_eq!(
        device.refresh(&mut only_timestamp, fleet.now, ONLINE),
        Ok(Step::Unchanged)
    );
    device
        .find_release(&app, &mut only_timestamp, fleet.now, ONLINE)
        .unwrap();
    // Tampered with in the store: each role's signatures are counted again when it is loaded.
    let good = stored(&device);
    for role in [
        &fleet.timestamp_bytes,
        &fleet.snapshot_bytes,
        &fleet.targets_bytes,
        &fleet.release_bytes[&app],
    ] {
        let at = good.windows(role.len()).position(|w| w == role.as_slice()).unwrap();
        let mut bad = good.clone();
        bad[at + role.len() - 1] ^= 1;
        let mut loaded = Trusted::decode(&bad).unwrap();
        assert!(loaded.fresh_release(&app, fleet.now, ONLINE).is_err());
        fleet.refresh(&mut loaded).unwrap();
        loaded
            .find_release(&app, &mut |want| fleet.find(&want), fleet.now, ONLINE)
            .unwrap();
        loaded.fresh_release(&app, fleet.now, ONLINE).unwrap();
    }
}

#[test]
fn e16_a_release_document_never_goes_back() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    let (old, old_bytes) = (fleet.releases[&app].clone(), fleet.release_bytes[&app].clone());
    fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let mut device = fleet.fresh();
    let mut docs = |want: Want<'_>| fleet.find(&want);
    device.find_release(&app, &mut docs, fleet.now, ONLINE).unwrap();
    refused(&mut device, Code::ContentMismatch, |d| {
        d.update_release(&app, &old_bytes, fleet.now, ONLINE)
    });
    // Nor by a snapshot that lists the old bytes as the newer version.
    let mut evil = fleet.clone();
    evil.now += 60;
    let mut listed = ListedRelease::of(&old, &old_bytes);
    listed.document.version = 3;
    let mut snapshot = evil.snapshot.clone().unwrap();
    snapshot.version += 60;
    snapshot.releases = vec![listed];
    evil.publish_snapshot(snapshot);
    evil.refresh(&mut device).unwrap();
    refused(&mut device, Code::RollbackRefused, |d| {
        d.update_release(&app, &old_bytes, evil.now, ONLINE)
    });
}

#[test]
fn e17_a_release_document_is_checked_exactly_as_targets_are() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |release| release.expires = START + 3600);
    fleet.publish();
    let mut device = fleet.fresh();
    let bytes = fleet.release_bytes[&app].clone();
    let take = |bytes: Vec<u8>, now: u64| {
        let app = app.clone();
        move |d: &mut Trusted| d.update_release(&app, &bytes, now, ONLINE)
    };
    refused(&mut device, Code::MetadataExpired, take(bytes.clone(), START + 3600));
    refused(
        &mut device,
        Code::ContentMismatch,
        take(bytes[..bytes.len() - 1].to_vec(), START),
    );
    let mut flipped = bytes.clone();
    flipped[20] ^= 1;
    refused(&mut device, Code::ContentMismatch, take(flipped, START));
    // Listed with its right hash, signed by somebody else, or another document under its name.
    let listed = |bytes: &[u8], wanted: Code| {
        let mut evil = fleet.clone();
        evil.now += 60;
        let mut snapshot = evil.snapshot.clone().unwrap();
        snapshot.version += 60;
        snapshot.releases[0].document = Listed::of(1, bytes);
        evil.publish_snapshot(snapshot);
        let mut device = device.clone();
        evil.refresh(&mut device).unwrap();
        refused(&mut device, wanted, take(bytes.to_vec(), START));
    };
    let body = fleet.releases[&app].clone();
    listed(&sign(&body, &[98]), Code::RoleNotAuthorised);
    listed(&sign(&body, &[]), Code::Unsigned);
    let mut other = body.clone();
    other.release = version("9.0.0");
    listed(&sign(&other, &[4]), Code::ContentMismatch);
    let mut long = body;
    long.expires = START + 401 * DAY;
    listed(&sign(&long, &[4]), Code::LifetimeRefused);
    device.update_release(&app, &bytes, START, ONLINE).unwrap();
    assert_eq!(
        code(device.fresh_release(&app, START + 3600, ONLINE)),
        Code::MetadataExpired
    );
}

#[test]
fn e18_a_release_document_delegates_nothing_so_there_are_no_cycles() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    let format = Ensign { fleet: FLEET };
    let release = &fleet.releases[&app];
    assert!(format.delegations_for(Delegator::Delegated(release), &app).is_empty());
    let bytes = &fleet.release_bytes[&app];
    let by_itself = format.open_delegated(bytes, &DocName::Release(app), Delegator::Delegated(release));
    assert_eq!(code(by_itself), Code::OutsideDelegation);
}

#[test]
fn e19_one_terminating_delegation_and_no_search() {
    let mut fleet = Fleet::new();
    let own = |name: &str, seed: u8, like: &ensign_bundle::trust::roles::Product| {
        let mut product = like.clone();
        product.name = name.into();
        product.role = Role {
            keys: vec![public(seed)],
            threshold: 1,
        };
        product
    };
    fleet.next_targets(|targets| {
        let own = own("app", 44, &targets.products[0]);
        targets.products.push(own);
    });
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let found = Ensign { fleet: FLEET }.delegations_for(Delegator::Targets(&fleet.targets), &app);
    assert_eq!(found.len(), 1);
    assert!(found[0].terminating && found[0].name == DocName::Release(app.clone()));
    // Signed by the key of `*`: the entry of `app` is the only one that is asked.
    let mut device = fleet.fresh();
    let mut docs = |want: Want<'_>| fleet.find(&want);
    let refused = device.find_release(&app, &mut docs, fleet.now, ONLINE);
    assert_eq!(code(refused.cloned()), Code::RoleNotAuthorised);
}

#[test]
fn e64_a_device_that_missed_a_thousand_roots_catches_up_over_several_runs() {
    let mut fleet = Fleet::new();
    let mut device = fleet.trust();
    for _ in 0..1000 {
        fleet.next_root(|_| {}, &[]);
    }
    let mut runs = 0;
    while device.root().version < 1001 {
        fleet.refresh(&mut device).unwrap();
        // Each run may be the last before the power goes.
        device = Trusted::decode(&stored(&device)).unwrap();
        runs += 1;
    }
    assert_eq!(runs, 4);
    device.check_fresh(fleet.now).unwrap();
}
