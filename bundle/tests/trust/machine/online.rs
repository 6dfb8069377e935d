//! Timestamp and snapshot: never older, never past their expiry, never fewer releases.

use super::bytes;
use crate::fleet::*;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::{Source, Step};

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
