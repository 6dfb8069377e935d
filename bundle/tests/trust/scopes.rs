//! Whose word counts for which device: scopes, protected labels, what only stops.

use ensign_bundle::digest::DeviceId;
use ensign_bundle::ids::Label;
use ensign_bundle::plan::statements::{Cancel, Hold};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::Trusted;
use ensign_bundle::trust::roles::{FORMAT, Role};

use crate::bench::*;
use crate::fleet::*;

/// Two scopes: everybody (key 5), and production (two of 50, 51, 52), whose label is protected.
fn two_scopes(fleet: &mut Fleet) {
    fleet.next_root(
        |root| {
            let mut production = root.scopes[0].clone();
            production.name = ident("production");
            production.select = "env = production".into();
            production.role = Role {
                keys: vec![public(50), public(51), public(52)],
                threshold: 2,
            };
            root.scopes.push(production);
            root.protected = vec![Label::parse("env").unwrap()];
        },
        &[],
    );
    fleet.publish();
}

fn labelled(of: &[(&str, &str)]) -> Bench {
    let mut bench = bench_with(two_scopes, "app", |_| {});
    let id = bench.facts.id;
    let grant = sign(&device_grant(id, 1, of), &[5, 50, 51]);
    bench.trusted.take_grant(&grant, &id, "dev1", START).unwrap();
    bench
}

#[test]
fn a_plan_needs_the_threshold_of_every_scope_of_the_device() {
    let inside = labelled(&[("env", "production")]);
    inside.refused(Code::RoleNotAuthorised, |_| {});
    inside.refused(Code::ThresholdNotMet, |b| b.signers = vec![5, 50]);
    inside.refused(Code::ThresholdNotMet, |b| b.signers = vec![5, 50, 50]);
    inside.refused(Code::RoleNotAuthorised, |b| b.signers = vec![50, 51]);
    inside.both_ok(|b| b.signers = vec![5, 50, 52]);
    labelled(&[("env", "lab")]).both_ok(|_| {});
    labelled(&[("site", "lyon")]).both_ok(|_| {});
}

#[test]
fn a_device_without_labels_counts_as_protected_where_any_label_is() {
    let bare = bench_with(two_scopes, "app", |_| {});
    bare.refused(Code::RoleNotAuthorised, |_| {});
    bare.both_ok(|b| b.signers = vec![5, 50, 51]);
    // Where root protects nothing, which is how fleets begin, it does not.
    bench().both_ok(|_| {});
    let empty = labelled(&[]);
    empty.refused(Code::RoleNotAuthorised, |_| {});
}

#[test]
fn protected_labels_change_by_the_threshold_of_old_and_new() {
    let id = Device::new(1).id();
    let take = |from: &[(&str, &str)], to: &[(&str, &str)], signers: &[u8]| {
        let mut fleet = Fleet::new();
        two_scopes(&mut fleet);
        let mut trusted = fleet.fresh();
        let before = sign(&device_grant(id, 1, from), &[5, 50, 51]);
        trusted.take_grant(&before, &id, "dev1", START).unwrap();
        let grant = sign(&device_grant(id, 2, to), signers);
        let stored = trusted.encode().unwrap();
        let result = trusted.take_grant(&grant, &id, "dev1", START).err().map(|r| r.code);
        if result.is_some() {
            assert_eq!(trusted.encode().unwrap(), stored, "a refusal changes nothing");
        }
        result
    };
    let (production, lab, plain) = (
        &[("env", "production")][..],
        &[("env", "lab")][..],
        &[("site", "x")][..],
    );
    for (from, to) in [
        (plain, production),
        (production, lab),
        (production, plain),
        (plain, lab),
        (lab, plain),
    ] {
        assert!(take(from, to, &[5]).is_some(), "{from:?} {to:?}");
        assert_eq!(take(from, to, &[5, 50]), Some(Code::ThresholdNotMet), "{from:?} {to:?}");
        assert_eq!(take(from, to, &[5, 50, 51]), None, "{from:?} {to:?}");
    }
    // Other labels of a device in production are production's business too; outside of it they are not.
    let moved = [("env", "production"), ("site", "y")];
    assert!(take(production, &moved, &[5]).is_some());
    assert_eq!(take(production, &moved, &[5, 51, 52]), None);
    assert_eq!(take(lab, &[("env", "lab"), ("site", "y")], &[5]), None);
}

#[test]
fn any_scope_stops_and_all_of_them_let_go() {
    let mut bench = labelled(&[("env", "production")]);
    let (id, name) = (bench.facts.id, bench.facts.name.clone());
    let hold = |seq: u64, held: bool, signers: &[u8]| {
        let hold = Hold {
            format: FORMAT,
            issued: START,
            device: id,
            seq,
            held,
            reason: "repair".into(),
        };
        sign(&hold, signers)
    };
    let take = |trusted: &mut Trusted, bytes: &[u8]| trusted.take_hold(bytes, &id, &name, START).err().map(|r| r.code);
    bench.signers = vec![5, 50, 51];
    assert_eq!(
        take(&mut bench.trusted, &hold(1, true, &[50])),
        Some(Code::RoleNotAuthorised)
    );
    assert_eq!(take(&mut bench.trusted, &hold(1, true, &[50, 52])), None);
    bench.refused(Code::Held, |_| {});
    assert!(take(&mut bench.trusted, &hold(2, false, &[5])).is_some());
    assert!(take(&mut bench.trusted, &hold(2, false, &[50, 51])).is_some());
    bench.refused(Code::Held, |_| {});
    assert_eq!(take(&mut bench.trusted, &hold(2, false, &[5, 50, 51])), None);
    bench.both_ok(|_| {});
    // Numbers never go back, and one number says one thing.
    assert_eq!(
        take(&mut bench.trusted, &hold(1, true, &[5])),
        Some(Code::RollbackRefused)
    );
    assert_eq!(
        take(&mut bench.trusted, &hold(2, true, &[5])),
        Some(Code::RollbackRefused)
    );
    let other = Hold {
        format: FORMAT,
        issued: START,
        device: DeviceId([9; 32]),
        seq: 9,
        held: true,
        reason: String::new(),
    };
    assert_eq!(take(&mut bench.trusted, &sign(&other, &[5])), Some(Code::WrongDevice));
    let cancel = Cancel {
        format: FORMAT,
        issued: START,
        plan: bench.digest(),
        product: ident("app"),
        reason: "wrong".into(),
    };
    let taken = bench.trusted.take_cancel(&sign(&cancel, &[5]), &id, &name, START);
    assert!(taken.is_ok());
    bench.refused(Code::PlanCancelled, |_| {});
}

#[test]
fn labels_change_by_the_scopes_of_the_device_before_and_after() {
    let mut fleet = Fleet::new();
    fleet.next_root(
        |root| {
            let mut lyon = root.scopes[0].clone();
            lyon.name = ident("lyon");
            lyon.select = "site = lyon".into();
            lyon.role.keys = vec![public(50)];
            root.scopes.push(lyon);
        },
        &[],
    );
    fleet.publish();
    let id = Device::new(1).id();
    let take = |from: &str, to: &str, signers: &[u8]| {
        let mut trusted = fleet.fresh();
        let before = sign(&device_grant(id, 1, &[("site", from)]), &[5, 50]);
        trusted.take_grant(&before, &id, "dev1", START).unwrap();
        let grant = sign(&device_grant(id, 2, &[("site", to)]), signers);
        trusted.take_grant(&grant, &id, "dev1", START).err().map(|r| r.code)
    };
    // No label is protected here: only who covers the device has a say, where it comes from and where it goes.
    assert_eq!(take("lyon", "paris", &[5]), Some(Code::RoleNotAuthorised));
    assert_eq!(take("paris", "lyon", &[5]), Some(Code::RoleNotAuthorised));
    assert_eq!(take("lyon", "paris", &[5, 50]), None);
    assert_eq!(take("paris", "lyon", &[5, 50]), None);
    assert_eq!(take("paris", "nice", &[5]), None);
}
