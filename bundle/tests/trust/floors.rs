//! What never goes back, except where root says so, and what a product's signers are bound to.

use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::{Product, ProductFloor, Release, Root, Targets};
use ensign_bundle::trust::{Source, Step, Trusted};

use crate::bench::*;
use crate::fleet::*;

fn floor(plan_seq: u64, counter: &str, security: &str) -> ProductFloor {
    let counter_of = |text: &str| version(text).counter().unwrap();
    ProductFloor {
        plan_seq,
        counter: counter_of(counter),
        security: counter_of(security),
    }
}

/// A bench whose fleet then signs a root with this floor of `app`, which the device follows.
fn raised(floor: ProductFloor) -> Bench {
    let mut bench = bench();
    bench
        .fleet
        .next_root(|root| root.floors.products.extend([(ident("app"), floor)]), &[]);
    bench.fleet.publish();
    bench.fleet.refresh(&mut bench.trusted).unwrap();
    bench
}

#[test]
fn each_floor_of_a_product_is_raised_at_any_time_and_holds_at_once() {
    raised(floor(0, "2.0.0", "2.0.0")).both_ok(|_| {});
    raised(floor(0, "2.0.1", "0.0.0")).refused(Code::BelowFloor, |_| {});
    raised(floor(0, "0.0.0", "2.0.1")).refused(Code::BelowFloor, |_| {});
    // Numbers of plans up to the floor are retired, those above go on.
    raised(floor(1, "0.0.0", "0.0.0")).refused(Code::PlanReplayed, |_| {});
    raised(floor(1, "0.0.0", "0.0.0")).both_ok(|b| b.plan.seq = 2);
    // A downgrade that the plan allows stops at the floor too.
    raised(floor(0, "0.0.0", "2.0.1")).refused(Code::BelowFloor, |b| {
        b.plan.downgrade = Some("no way".into());
        b.installed().counter = u64::MAX;
    });
}

#[test]
fn the_floor_of_targets_holds_for_targets_that_are_held_already() {
    let mut bench = bench();
    bench.fleet.next_root(|root| root.floors.targets_version = 2, &[]);
    bench
        .trusted
        .update_root(&bench.fleet.roots[1], bench.fleet.now)
        .unwrap();
    bench.refused(Code::RollbackRefused, |_| {});
    bench.fleet.next_targets(|_| {});
    bench.fleet.publish();
    bench.fleet.refresh(&mut bench.trusted).unwrap();
    let fleet = bench.fleet.clone();
    bench
        .trusted
        .find_release(&bench.release, &mut |want| fleet.find(&want), fleet.now, Source::Online)
        .unwrap();
    bench.both_ok(|_| {});
}

#[test]
fn a_key_that_a_new_root_takes_for_itself_signs_no_releases_any_more() {
    let mut bench = bench();
    bench.fleet.next_root(
        |root| {
            root.roles.timestamp.keys.push(public(4));
        },
        &[],
    );
    bench
        .trusted
        .update_root(&bench.fleet.roots[1], bench.fleet.now)
        .unwrap();
    bench.refused(Code::KeysRefused, |_| {});
}

#[test]
fn new_online_keys_forget_versions_and_no_floor() {
    let mut bench = raised(floor(1, "0.0.0", "2.0.0"));
    let mut proven = bench.fleet.releases[&bench.release].clone();
    proven.security_floor = proven.counter;
    bench.trusted.confirmed(&proven);
    let (plan, digest) = (bench.plan.clone(), bench.digest());
    bench.trusted.started(&plan, digest).unwrap();
    let fleet = &mut bench.fleet;
    fleet.next_root(
        |root| {
            root.roles.timestamp.keys = vec![public(40)];
            root.roles.snapshot.keys = vec![public(41)];
        },
        &[],
    );
    (fleet.seeds.timestamp, fleet.seeds.snapshot) = (vec![40], vec![41]);
    bench.trusted.update_root(&fleet.roots[2], fleet.now).unwrap();
    assert!(bench.trusted.timestamp().is_none() && bench.trusted.snapshot().is_none());
    let app = ident("app");
    let trusted = Trusted::decode(&bench.trusted.encode().unwrap()).unwrap();
    assert_eq!(trusted.security_floor(&app), version("2.0.0").counter().unwrap());
    assert_eq!(trusted.plan_seq_floor(&app), 1);
    assert_eq!(trusted.last_started(&app).map(|s| s.plan), Some(digest));
}

#[test]
fn only_a_new_epoch_of_root_forgets_what_was_started_and_proven() {
    let mut bench = bench();
    let mut proven = bench.fleet.releases[&bench.release].clone();
    proven.security_floor = proven.counter;
    bench.trusted.confirmed(&proven);
    let mut plan = bench.plan.clone();
    plan.seq = u64::MAX;
    let digest = bench.digest();
    bench.trusted.started(&plan, digest).unwrap();
    bench.refused(Code::PlanReplayed, |_| {});
    bench.fleet.next_root(|_| {}, &[]);
    bench
        .trusted
        .update_root(&bench.fleet.roots[1], bench.fleet.now)
        .unwrap();
    bench.refused(Code::PlanReplayed, |_| {});
    bench.fleet.next_root(|root| root.floors.reset_epoch += 1, &[]);
    bench.fleet.publish();
    bench.fleet.refresh(&mut bench.trusted).unwrap();
    let app = ident("app");
    assert_eq!(
        (bench.trusted.plan_seq_floor(&app), bench.trusted.security_floor(&app)),
        (0, 0)
    );
    let fleet = bench.fleet.clone();
    bench
        .trusted
        .find_release(&bench.release, &mut |want| fleet.find(&want), fleet.now, Source::Online)
        .unwrap();
    bench.both_ok(|_| {});
    // The same epoch again is no reset.
    bench.trusted.started(&plan, digest).unwrap();
    bench.fleet.next_root(|_| {}, &[]);
    bench
        .trusted
        .update_root(&bench.fleet.roots[3], bench.fleet.now)
        .unwrap();
    assert_eq!(bench.trusted.plan_seq_floor(&app), u64::MAX);
}

fn targets(fleet: &mut Fleet, device: &mut Trusted, change: impl FnOnce(&mut Vec<Product>)) -> Option<Code> {
    // What was refused has been seen all the same: versions go on.
    fleet.now += 60;
    let mut next = fleet.clone();
    next.next_targets(|targets| change(&mut targets.products));
    next.publish();
    match next.refresh(device) {
        Ok(_) => {
            *fleet = next;
            None
        }
        Err(refusal) => Some(refusal.code),
    }
}

#[test]
fn a_products_own_floors_rise_and_only_root_starts_them_anew() {
    let mut fleet = Fleet::new();
    let mut device = fleet.fresh();
    let refused = Some(Code::RollbackRefused);
    let own = |name: &str, security: u64, lowest: u64, like: &Product| Product {
        name: name.into(),
        security_floor: security,
        lowest,
        ..like.clone()
    };
    let mut set = |f: &dyn Fn(&mut Vec<Product>)| targets(&mut fleet, &mut device, |p| f(p));
    assert_eq!(set(&|p| (p[0].security_floor, p[0].lowest) = (5, 5)), None);
    assert_eq!(set(&|p| p[0].security_floor = 4), refused);
    assert_eq!(set(&|p| p[0].lowest = 4), refused);
    // An entry of its own must not be a way around.
    assert_eq!(set(&|p| p.push(own("app", 4, 5, &p[0]))), refused);
    assert_eq!(set(&|p| p.push(own("app", 9, 9, &p[0]))), None);
    assert_eq!(set(&|p| p.truncate(1)), refused, "falls back to the lower entry");
    assert_eq!(set(&|p| p[1].lowest = 10), None);
    fleet.now += 60;
    fleet.next_root(|root| root.floors.reset_epoch += 1, &[]);
    fleet.publish();
    assert_eq!(fleet.refresh(&mut device), Ok(Step::Updated));
    fleet.next_root(|root| root.floors.reset_epoch += 1, &[]);
    let mut set = |f: &dyn Fn(&mut Vec<Product>)| targets(&mut fleet, &mut device, |p| f(p));
    assert_eq!(set(&|p| p.truncate(1)), None);
    assert_eq!(device.security_floor(&ident("app")), 5);
}

#[test]
fn a_reset_is_one_step_and_never_taken_back() {
    let mut fleet = Fleet::new();
    fleet.next_root(|root| root.floors.reset_epoch = 1, &[]);
    let trusted = fleet.fresh();
    let next = |epoch: u64| {
        let mut next = fleet.root.clone();
        next.version += 1;
        next.floors.reset_epoch = epoch;
        trusted.check_next_root(&next, fleet.now).err().map(|r| r.code)
    };
    let refused = Some(Code::RollbackRefused);
    assert_eq!([0, 1, 2, 3].map(next), [refused, None, None, refused]);
}

#[test]
fn what_signers_no_longer_keep_is_not_installed_even_where_it_is_listed() {
    let mut bench = bench();
    let two = version("2.0.0").counter().unwrap();
    let next = |bench: &mut Bench, lowest: u64| {
        bench.fleet.next_targets(|targets| targets.products[0].lowest = lowest);
        bench.fleet.publish();
        bench.fleet.refresh(&mut bench.trusted).unwrap();
    };
    next(&mut bench, two);
    bench.both_ok(|_| {});
    next(&mut bench, two + 1);
    bench.refused(Code::BelowFloor, |_| {});
    bench.refused(Code::BelowFloor, |b| b.plan.downgrade = Some("whatever".into()));
    // Going back by hand is bounded by the security floor alone.
    assert_eq!(bench.trusted.security_floor(&ident("app")), 0);
}

#[test]
fn a_document_is_renewed_and_withdrawn_by_its_next_version() {
    let mut bench = bench();
    let fetch = |bench: &mut Bench| {
        let fleet = bench.fleet.clone();
        fleet.refresh(&mut bench.trusted).unwrap();
        bench
            .trusted
            .find_release(&bench.release, &mut |want| fleet.find(&want), fleet.now, Source::Online)
            .map(|release| release.version)
            .map_err(|r| r.code)
    };
    let (old_bytes, old) = (
        bench.fleet.release_bytes[&bench.release].clone(),
        bench.fleet.releases[&bench.release].clone(),
    );
    bench.fleet.now += 3600;
    bench.fleet.release("app", "2.0.0", |_| {});
    bench.fleet.publish();
    // Until the new version is there, there is none: the old one is not what the snapshot lists.
    bench.fleet.refresh(&mut bench.trusted).unwrap();
    bench.clock = bench.fleet.now.into();
    bench.refused(Code::MetadataMissing, |_| {});
    assert_eq!(fetch(&mut bench), Ok(2));
    bench.both_ok(|_| {});
    assert!(bench.trusted.release(&bench.release).unwrap().expires > old.expires);
    bench
        .fleet
        .release("app", "2.0.0", |release| release.yanked = Some("eats files".into()));
    bench.fleet.publish();
    assert_eq!(fetch(&mut bench), Ok(3));
    bench.refused(Code::Yanked, |_| {});
    // The version from before it was withdrawn is never taken again.
    let mut thief = bench.fleet.clone();
    thief.releases.insert(bench.release.clone(), old);
    thief.release_bytes.insert(bench.release.clone(), old_bytes);
    thief.publish();
    assert_eq!(code(thief.refresh(&mut bench.trusted)), Code::RollbackRefused);
}

#[test]
fn what_no_signer_may_say() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "2.0.0", |_| {});
    let release = Release {
        security_floor: fleet.releases[&app].counter + 1,
        ..fleet.releases[&app].clone()
    };
    assert_eq!(code(statement::seal(&release)), Code::Malformed);
    let mut root: Root = fleet.root.clone();
    root.scopes[0].select = "site =".into();
    assert_eq!(code(statement::seal(&root)), Code::Usage);
    let mut unsorted: Targets = fleet.targets.clone();
    unsorted.products.push(unsorted.products[0].clone());
    assert_eq!(code(statement::seal(&unsorted)), Code::Malformed);
}
