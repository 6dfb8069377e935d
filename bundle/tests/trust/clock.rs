//! Clocks that are wrong: before everything, after everything, going back, going forward and back again.

use ensign_bundle::digest::Nonce;
use ensign_bundle::plan::evidence::TimeAttestation;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::trust::roles::{FORMAT, Role};
use ensign_bundle::trust::{Clock, Source, Step, Trusted};

use crate::bench::*;
use crate::fleet::*;

/// 2100-01-01.
const FAR: u64 = 4_102_444_800;

fn attest(bench: &mut Bench, time: u64, clock: Clock) -> Result<Option<u64>, Refusal> {
    let attestation = TimeAttestation {
        format: FORMAT,
        fleet: FLEET,
        device: bench.facts.id,
        nonce: NONCE,
        time,
    };
    let signed = sign(&attestation, &bench.fleet.seeds.timestamp);
    bench.trusted.attest_time(&signed, &bench.facts.id, &NONCE, clock)
}

fn at(bench: &Bench, clock: impl Into<Clock>) -> Option<Code> {
    let mut bench = bench.clone();
    bench.clock = clock.into();
    bench.answer().err().map(|r| r.code)
}

#[test]
fn a_clock_of_1970_installs_once_the_controller_vouches_for_a_time() {
    let mut bench = bench();
    assert_eq!(at(&bench, Clock::untrusted(0)), Some(Code::ClockSuspect));
    // Even one that says it is synchronised is behind what signed documents prove.
    assert_eq!(at(&bench, 0), Some(Code::ClockSuspect));
    let now = START + 60;
    assert_eq!(attest(&mut bench, now, Clock::untrusted(0)), Ok(Some(now)));
    assert_eq!(at(&bench, Clock::attested(0, now)), None);
    // The vouched time is one to be late by.
    assert_eq!(
        at(&bench, Clock::attested(0, START + 2 * DAY)),
        Some(Code::MetadataExpired)
    );
    // An attestation for another start of the applier says nothing.
    let other = bench
        .trusted
        .clone()
        .attest_time(&[], &bench.facts.id, &Nonce([1; 32]), Clock::untrusted(0));
    assert_eq!(code(other), Code::Malformed);
}

#[test]
fn a_clock_of_2100_refuses_everything_and_leaves_nothing_behind() {
    let mut bench = bench();
    for clock in [Clock::untrusted(FAR), FAR.into()] {
        let before = bench.trusted.encode().unwrap();
        let refused = bench
            .trusted
            .refresh(&mut |want| bench.fleet.find(&want), clock, Source::Online);
        assert_eq!(code(refused), Code::MetadataExpired);
        assert!(at(&bench, clock).is_some());
        assert_eq!(bench.trusted.encode().unwrap(), before);
    }
    // Right again: as if nothing had been.
    assert_eq!(bench.fleet.refresh(&mut bench.trusted), Ok(Step::Unchanged));
    assert_eq!(at(&bench, bench.fleet.now), None);
}

#[test]
fn a_clock_that_steps_back_is_suspect_and_one_that_comes_back_is_not() {
    let mut bench = bench();
    bench.fleet.now += DAY / 2;
    bench.fleet.publish();
    bench.fleet.refresh(&mut bench.trusted).unwrap();
    let now = bench.fleet.now;
    assert_eq!(at(&bench, now), None);
    assert_eq!(at(&bench, now - 600), None, "within the slack");
    assert_eq!(at(&bench, now - 601), Some(Code::ClockSuspect));
    // What is late is late, whatever the clock was set back to.
    let expires = bench.fleet.timestamp.as_ref().unwrap().expires;
    assert_eq!(bench.trusted.now(now - DAY), now, "the floor");
    assert_eq!(at(&bench, expires), Some(Code::MetadataExpired));
    // Forward, then back: only signed times are kept, so it recovers by itself.
    assert!(at(&bench, FAR).is_some());
    assert_eq!(at(&bench, now), None);
}

#[test]
fn roots_own_expiry_goes_by_no_clock_that_a_stolen_key_can_set() {
    let mut bench = bench();
    let fleet = &mut bench.fleet;
    let fleet_end = fleet.root.expires;
    let late = fleet_end + DAY;
    let stolen = fleet.clone();
    // The thief attests a time at which root has expired, and signs his own timestamps of that time.
    assert_eq!(
        code(attest(&mut bench, late, Clock::untrusted(START))),
        Code::LifetimeRefused
    );
    let last = fleet_end - 1;
    assert_eq!(attest(&mut bench, last, Clock::untrusted(START)), Ok(Some(last)));
    let mut thief = stolen;
    thief.now = late;
    thief.publish();
    let poisoned = Clock::attested(START, late);
    let mut docs = |want: ensign_bundle::trust::Want<'_>| thief.find(&want);
    let refused = bench.trusted.refresh(&mut docs, poisoned, Source::Online);
    assert!(
        refused.unwrap_err().text.contains("targets"),
        "root is not what has expired"
    );
    // The fleet evicts him: the new root is followed although the poisoned clock is beyond its end.
    let fleet = &mut bench.fleet;
    fleet.now += 60;
    fleet.next_root(
        |root| {
            let role = |seed| Role {
                keys: vec![public(seed)],
                threshold: 1,
            };
            (root.roles.timestamp, root.roles.snapshot) = (role(40), role(41));
            root.expires = root.issued + 30 * DAY;
        },
        &[],
    );
    (fleet.seeds.timestamp, fleet.seeds.snapshot) = (vec![40], vec![41]);
    fleet.publish();
    assert!(bench.trusted.vouches(&[public(7)]));
    let fleet = bench.fleet.clone();
    let mut docs = |want: ensign_bundle::trust::Want<'_>| fleet.find(&want);
    bench.trusted.refresh_root(&mut docs, poisoned).unwrap();
    assert_eq!(bench.trusted.root().version, 2);
    assert!(!bench.trusted.vouches(&[public(7)]), "his word went with his key");
    // What the shell does then: the attested time is forgotten, a new one asked for.
    let clock = Clock::untrusted(START);
    bench.trusted.refresh(&mut docs, clock, Source::Online).unwrap();
    assert_eq!(attest(&mut bench, fleet.now, clock), Ok(Some(fleet.now)));
    bench.lease_by = 40;
    assert_eq!(at(&bench, Clock::attested(START, fleet.now)), None);
}

#[test]
fn a_controller_of_2100_leaves_no_floor_and_a_late_device_follows_the_roots_first() {
    let mut bench = bench();
    let before = bench.trusted.encode().unwrap();
    for time in [FAR, bench.fleet.root.expires] {
        let refused = attest(&mut bench, time, Clock::untrusted(0));
        assert_eq!(code(refused), Code::LifetimeRefused);
        assert_eq!(bench.trusted.encode().unwrap(), before);
    }
    // Right again: it installs.
    let now = START + 60;
    assert_eq!(attest(&mut bench, now, Clock::untrusted(0)), Ok(Some(now)));
    assert_eq!(at(&bench, Clock::attested(0, now)), None);
    // In a drawer until its root had expired: with the next root the time is taken.
    bench.fleet.now = bench.fleet.root.expires + DAY;
    let now = bench.fleet.now;
    assert_eq!(
        code(attest(&mut bench, now, Clock::untrusted(0))),
        Code::LifetimeRefused
    );
    bench.fleet.next_root(|_| {}, &[]);
    let fleet = bench.fleet.clone();
    let mut docs = |want: ensign_bundle::trust::Want<'_>| fleet.find(&want);
    bench.trusted.refresh_root(&mut docs, Clock::untrusted(0)).unwrap();
    assert_eq!(attest(&mut bench, now, Clock::untrusted(0)), Ok(Some(now)));
}

#[test]
fn a_synchronised_clock_takes_no_attestation_and_no_document_of_tomorrow() {
    let mut bench = bench();
    let now = bench.fleet.now;
    assert_eq!(attest(&mut bench, FAR, now.into()), Ok(None));
    assert_eq!(bench.trusted.now(now), now);
    // Suspect since a floor is ahead of it: then within the bound of every document.
    bench.fleet.now += DAY / 2;
    bench.fleet.publish();
    bench.fleet.refresh(&mut bench.trusted).unwrap();
    assert!(bench.trusted.clock_is_suspect(now));
    assert_eq!(
        code(attest(&mut bench, now + DAY + 1, now.into())),
        Code::LifetimeRefused
    );
    assert_eq!(attest(&mut bench, now + DAY, now.into()), Ok(Some(now + DAY)));
    assert!(bench.trusted.clock_is_usable(Clock {
        attested: Some(now + DAY),
        ..now.into()
    }));
    for (hours, wanted) in [(24, None), (25, Some(Code::LifetimeRefused))] {
        let mut fleet = Fleet::new();
        fleet.now += hours * 3600;
        fleet.next_targets(|_| {});
        fleet.now = START;
        fleet.publish();
        let mut device = fleet.trust();
        let refused = fleet.refresh(&mut device).err().map(|r| r.code);
        assert_eq!(refused, wanted, "targets issued in {hours} h");
    }
}

#[test]
fn the_permanent_floor_is_that_of_offline_roles() {
    let fleet = Fleet::new();
    let mut device = fleet.fresh();
    let mut later = fleet.clone();
    later.now += 3600;
    later.publish();
    later.refresh(&mut device).unwrap();
    assert_eq!(device.now(0), START + 3600);
    // Its key goes, and what it claimed with it; offline documents count for ever.
    later.next_root(
        |root| {
            root.issued = START;
            root.roles.timestamp.keys = vec![public(40)];
        },
        &[],
    );
    device.update_root(&later.roots[1], later.now).unwrap();
    assert_eq!(device.now(0), START);
    let mut later = fleet.clone();
    later.now += 7200;
    later.release("app", "1.0.0", |_| {});
    later.publish();
    let mut device = later.fresh();
    let app = name("app", "1.0.0");
    device
        .find_release(&app, &mut |want| later.find(&want), later.now, Source::Online)
        .unwrap();
    later.next_root(|root| root.roles.timestamp.keys = vec![public(40)], &[]);
    device.update_root(&later.roots[1], later.now).unwrap();
    assert_eq!(Trusted::decode(&device.encode().unwrap()).unwrap().now(0), START + 7200);
}

#[test]
fn a_reset_on_the_way_counts_whatever_root_follows_it() {
    let mut fleet = Fleet::new();
    // Signed with a clock of 2100, taken by a device without a clock.
    fleet.now = FAR;
    fleet.next_root(|_| {}, &[]);
    let mut device = fleet.trust();
    device.update_root(&fleet.roots[1], Clock::untrusted(START)).unwrap();
    assert!(device.clock_is_suspect(START));
    fleet.now = START + 60;
    fleet.next_root(
        |root| {
            root.floors.reset_epoch += 1;
            root.time_reset = Some(START);
        },
        &[],
    );
    fleet.next_root(|root| root.time_reset = None, &[]);
    fleet.publish();
    // Both roots in one run.
    let mut docs = |want: ensign_bundle::trust::Want<'_>| fleet.find(&want);
    device.refresh(&mut docs, fleet.now, Source::Online).unwrap();
    assert!(!device.clock_is_suspect(fleet.now));
}

#[test]
fn offline_without_a_time_only_with_roots_leave() {
    for (leave, wanted) in [(false, Some(Code::ClockSuspect)), (true, None)] {
        let policy = |fleet: &mut Fleet| {
            fleet.next_root(
                |root| {
                    root.policy.offline = vec![ident("all")];
                    root.policy.offline_without_time = leave;
                },
                &[],
            );
        };
        let mut bench = bench_with(policy, "app", |_| {});
        bench.source = Source::Bundle;
        bench.plan.offline = Some(ensign_bundle::digest::Digest::of(&bench.fleet.snapshot_bytes));
        bench.plan.not_before = 0;
        assert_eq!(at(&bench, Clock::untrusted(0)), wanted);
        // Leave to do without a time is no leave to be late.
        let late = bench.plan.expires;
        assert!(at(&bench, Clock::untrusted(late)).is_some());
    }
}

#[test]
fn the_controllers_word_moves_no_good_clock_and_none_back() {
    let month = 30 * DAY;
    let synchronised = Clock {
        attested: Some(START + month),
        ..START.into()
    };
    assert_eq!(synchronised.wall(), START);
    assert_eq!(Clock::attested(START, START - month).wall(), START, "back");
    assert_eq!(Clock::attested(START, START + 1).wall(), START, "within the slack");
    assert_eq!(Clock::attested(0, START).wall(), START, "a clock of 1970");
    assert_eq!(Clock::attested(u64::MAX, u64::MAX).wall(), u64::MAX, "no overflow");
}
