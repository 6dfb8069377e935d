//! Stolen online keys, and the way out: a root that names others. What a thief made every device believe in goes with the keys; what people
//! signed stays.

use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::issue;
use ensign_bundle::trust::roles::{Listed, ListedRelease, ProductFloor, Role, Root, Snapshot, Targets};
use ensign_bundle::trust::{Source, Step, Trusted};

use crate::fleet::*;

fn one(seed: u8) -> Role {
    Role {
        keys: vec![public(seed)],
        threshold: 1,
    }
}

/// A document that nobody signed, as a thief of the snapshot key lists it.
fn made_up(version: u64) -> Listed {
    Listed {
        version,
        length: 1000,
        digest: Digest([0xee; 32]),
    }
}

/// What devices have taken that a thief with timestamp and snapshot keys published, in the fleet as it was.
fn robbed(fleet: &Fleet, change: impl FnOnce(&mut Snapshot)) -> Trusted {
    let mut thief = fleet.clone();
    let mut snapshot = fleet.snapshot.clone().unwrap();
    snapshot.version += 1;
    change(&mut snapshot);
    thief.publish_snapshot(snapshot);
    let mut trusted = fleet.fresh();
    // The snapshot is taken; a document that is not there is only missed when it is asked for.
    let _ = thief.refresh(&mut trusted);
    assert_eq!(trusted.timestamp_bytes(), Some(thief.timestamp_bytes.as_slice()));
    trusted
}

/// Through the file, as a crash at any point would bring it.
fn restarted(trusted: &Trusted) -> Trusted {
    Trusted::decode(&trusted.encode().unwrap()).unwrap()
}

fn rotate_online(fleet: &mut Fleet) {
    fleet.next_root(
        |root| {
            root.roles.snapshot = one(16);
            root.roles.timestamp = one(17);
        },
        &[],
    );
    (fleet.seeds.snapshot, fleet.seeds.timestamp) = (vec![16], vec![17]);
}

#[test]
fn a_made_up_release_or_version_blocks_devices_until_the_keys_are_rotated() {
    type Crime = fn(&mut Snapshot);
    let crimes: [(&str, Crime); 4] = [
        ("a release that nobody signed", |s| {
            s.releases.push(ListedRelease {
                product: ident("zzz"),
                release: version("9.9.9"),
                counter: u64::MAX,
                document: made_up(1),
            });
        }),
        ("a version of a release that nobody signed", |s| {
            s.releases[0].document = made_up(u64::MAX);
        }),
        ("targets of the far future", |s| s.targets = made_up(u64::MAX)),
        ("the last version there is", |s| s.version = u64::MAX),
    ];
    for (what, crime) in crimes {
        let mut fleet = Fleet::new();
        let release = fleet.release("app", "1.0.0", |_| {});
        fleet.publish();
        let mut trusted = robbed(&fleet, crime);
        // Honest again, with the same keys: devices keep to what they saw.
        fleet.now += 10;
        fleet.publish();
        let refused = fleet.refresh(&mut restarted(&trusted)).unwrap_err();
        assert_eq!(refused.code, Code::RollbackRefused, "{what}");
        // Neither does a new root help that leaves the keys as they are.
        let mut same_keys = fleet.clone();
        same_keys.next_root(|root| root.name = "acme two".into(), &[]);
        let mut still = restarted(&trusted);
        assert_eq!(
            same_keys.refresh(&mut still).unwrap_err().code,
            Code::RollbackRefused,
            "{what}"
        );

        rotate_online(&mut fleet);
        fleet.publish();
        let step = trusted.refresh(&mut |want| fleet.find(&want), fleet.now, Source::Online);
        assert_eq!(step, Ok(Step::Updated), "{what}");
        trusted
            .find_release(&release, &mut |want| fleet.find(&want), fleet.now, Source::Online)
            .unwrap();
        let trusted = restarted(&trusted);
        assert_eq!(
            trusted.snapshot_bytes(),
            Some(fleet.snapshot_bytes.as_slice()),
            "{what}"
        );
        trusted.fresh_release(&release, fleet.now, Source::Online).unwrap();
    }
}

/// The device is stopped, or loses the power, after each single document; whatever is stored by then leads on to the end.
#[test]
fn a_rotation_converges_wherever_it_is_cut() {
    let mut fleet = Fleet::new();
    fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let before = robbed(&fleet, |s| s.targets = made_up(u64::MAX));
    fleet.now += 10;
    rotate_online(&mut fleet);
    fleet.next_root(|root| root.roles.targets = one(13), &[]);
    fleet.seeds.targets = vec![13];
    fleet.next_targets(|_| {});
    fleet.next_root(|root| root.roles.root.keys = vec![public(11), public(12)], &[11]);
    fleet.seeds.root = vec![11];
    fleet.publish();
    for cut in 0..8 {
        let mut trusted = restarted(&before);
        let mut left = cut;
        let mut docs = |want: ensign_bundle::trust::Want<'_>| {
            if left == 0 {
                return None;
            }
            left -= 1;
            fleet.find(&want)
        };
        let _ = trusted.refresh(&mut docs, fleet.now, Source::Online);
        let mut trusted = restarted(&trusted);
        fleet
            .refresh(&mut trusted)
            .unwrap_or_else(|e| panic!("cut after {cut}: {e}"));
        assert_eq!(trusted.root().version, 4);
        assert_eq!(
            trusted.targets_bytes(),
            Some(fleet.targets_bytes.as_slice()),
            "cut after {cut}"
        );
    }
}

#[test]
fn the_old_keys_are_worth_nothing_after_the_rotation() {
    let mut fleet = Fleet::new();
    fleet.publish();
    let mut trusted = fleet.fresh();
    let mut thief = fleet.clone();
    rotate_online(&mut fleet);
    fleet.publish();
    fleet.refresh(&mut trusted).unwrap();
    thief.now += 100;
    thief.publish();
    let refused = trusted.update_timestamp(&thief.timestamp_bytes, thief.now, Source::Online);
    assert_eq!(code(refused), Code::RoleNotAuthorised);
    // A root that only the replaced root key signed follows nothing.
    fleet.next_root(|root| root.roles.root.keys = vec![public(11)], &[11]);
    trusted.update_root(fleet.roots.last().unwrap(), fleet.now).unwrap();
    let mut stolen = fleet.root.clone();
    stolen.version += 1;
    let refused = trusted.update_root(&sign(&stolen, &[1, 2]), fleet.now);
    assert_eq!(code(refused), Code::RoleNotAuthorised);
}

#[test]
fn floors_fall_by_a_reset_alone_and_targets_with_them() {
    let mut fleet = Fleet::new();
    let raised = ProductFloor {
        plan_seq: 900,
        counter: 0,
        security: 50,
    };
    fleet.next_root(
        |root| {
            root.floors.products.insert(ident("app"), raised);
        },
        &[],
    );
    fleet.next_targets(|targets| targets.products[0].lowest = 70);
    fleet.publish();
    let mut trusted = fleet.fresh();
    let app = ident("app");
    assert_eq!((trusted.plan_seq_floor(&app), trusted.security_floor(&app)), (900, 50));

    let lower = |root: &mut Root| root.floors.products.clear();
    let mut next = fleet.root.clone();
    next.version += 1;
    lower(&mut next);
    let refused = trusted.check_next_root(&next, fleet.now);
    assert_eq!(code(refused), Code::RollbackRefused, "said before anybody signs");
    let mut refused = fleet.clone();
    refused.next_root(lower, &[]);
    assert_eq!(refused.refresh(&mut trusted).unwrap_err().code, Code::RollbackRefused);

    // The floor of targets in the same root: nobody can show the old ones in between.
    let old_targets = fleet.targets_bytes.clone();
    fleet.next_targets(|targets| targets.products[0].lowest = 0);
    let version = fleet.targets.version;
    fleet.next_root(
        |root| {
            lower(root);
            root.floors.reset_epoch = 1;
            root.floors.targets_version = version;
        },
        &[],
    );
    fleet.now += 10;
    fleet.publish();
    let mut thief = fleet.clone();
    thief.targets_bytes = old_targets;
    thief.targets.version = version - 1;
    let listed = Listed::of(version - 1, &thief.targets_bytes);
    let snapshot = issue::snapshot(fleet.snapshot.as_ref(), listed, Vec::new(), fleet.now).unwrap();
    thief.publish_snapshot(snapshot);
    let mut shown = restarted(&trusted);
    assert_eq!(thief.refresh(&mut shown).unwrap_err().code, Code::RollbackRefused);
    fleet.refresh(&mut trusted).unwrap();
    let trusted = restarted(&trusted);
    assert_eq!(
        (
            trusted.plan_seq_floor(&app),
            trusted.security_floor(&app),
            trusted.lowest(&app)
        ),
        (0, 0, 0)
    );
}

#[test]
fn what_no_signature_can_mend_is_refused_before_anybody_signs() {
    let fleet = Fleet::new();
    let trusted = fleet.fresh();
    let refused = |change: fn(&mut Root)| {
        let mut next = fleet.root.clone();
        next.version += 1;
        change(&mut next);
        trusted.check_next_root(&next, fleet.now).err().map(|r| r.code)
    };
    assert_eq!(refused(|_| ()), None);
    for (change, code) in [
        ((|root| root.version += 1) as fn(&mut Root), Code::RollbackRefused),
        (|root| root.version -= 1, Code::RollbackRefused),
        (|root| root.fleet = FleetId([9; 32]), Code::RollbackRefused),
        (|root| root.roles.targets.threshold = 0, Code::KeysRefused),
        (|root| root.expires = root.issued + 4000 * DAY, Code::LifetimeRefused),
        (
            |root| root.policy.timestamp_life_s = Some(4000 * DAY),
            Code::LifetimeRefused,
        ),
    ] {
        assert_eq!(refused(change), Some(code));
    }
}

#[test]
fn what_no_signature_of_the_next_targets_can_mend_is_refused_before_anybody_signs() {
    let fleet = Fleet::new();
    let trusted = fleet.fresh();
    let refused = |change: fn(&mut Targets)| {
        let mut next = fleet.targets.clone();
        next.version += 1;
        change(&mut next);
        trusted.check_next_targets(&next, fleet.now).err().map(|r| r.code)
    };
    assert_eq!(refused(|_| ()), None);
    for (change, code) in [
        (
            (|targets| targets.version -= 1) as fn(&mut Targets),
            Code::RollbackRefused,
        ),
        (|targets| targets.products[0].role.threshold = 0, Code::KeysRefused),
        (
            |targets| targets.products.push(targets.products[0].clone()),
            Code::Malformed,
        ),
        (|targets| targets.expires = targets.issued, Code::LifetimeRefused),
        (
            |targets| targets.expires = targets.issued + 4000 * DAY,
            Code::LifetimeRefused,
        ),
    ] {
        assert_eq!(refused(change), Some(code));
    }
}
