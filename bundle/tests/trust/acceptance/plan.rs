//! The plan: its dates, its fields, and holds.

use super::{Bench, bench, bench_with};
use crate::fleet::*;
use ensign_bundle::accept::Denial;
use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::plan::statements::{Cancel, Hold};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::trust::{Clock, Trusted};

#[test]
fn time() {
    let bench = bench();
    let at = |now: u64| move |b: &mut Bench| b.clock = now.into();
    bench.refused(Code::MetadataExpired, at(START + DAY));
    bench.refused(Code::PlanExpired, |b| {
        b.plan.expires = b.plan.issued + 10;
        b.clock = (b.plan.issued + 10).into();
    });
    bench.refused(Code::ClockSuspect, |b| b.clock = Clock::untrusted(b.fleet.now));
    bench.refused(Code::ClockSuspect, |b| b.clock = (b.fleet.now - 601).into());
    assert_eq!(
        bench.both(|b| b.clock = (b.fleet.now - 600).into()).1,
        Some(Code::NotYet)
    );
    bench.refused(Code::LifetimeRefused, |b| {
        b.plan.issued += 25 * 3600;
    });
}

#[test]
fn the_plan() {
    let bench = bench();
    bench.refused(Code::PlanMismatch, |b| b.plan.release.manifest = Digest([1; 32]));
    bench.refused(Code::PlanMismatch, |b| b.plan.release.counter += 1);
    bench.refused(Code::PlanMismatch, |b| b.plan.release.length += 1);
    bench.refused(Code::Denied, |b| {
        let denial = Denial {
            code: Code::Unhealthy,
            count: 2,
        };
        b.facts.denied.insert(b.plan.release.manifest, denial);
    });
    bench.refused(Code::TrustDegraded, |b| b.facts.trust_degraded = true);
    bench_with(|_| {}, "app", |release| release.yanked = Some("eats files".into())).refused(Code::Yanked, |_| {});
    bench.refused(Code::PlanCancelled, |b| {
        let cancel = Cancel {
            format: FORMAT,
            issued: START,
            plan: b.digest(),
            product: b.plan.product.clone(),
            reason: "wrong".into(),
        };
        let (id, name) = (b.facts.id, b.facts.name.clone());
        assert_eq!(
            code(b.trusted.take_cancel(&sign(&cancel, &[7]), &id, &name, START)),
            Code::RoleNotAuthorised
        );
        b.trusted.take_cancel(&sign(&cancel, &[5]), &id, &name, START).unwrap();
        b.trusted = Trusted::decode(&b.trusted.encode().unwrap()).unwrap();
    });
    let small = |fleet: &mut Fleet| fleet.next_root(|root| root.policy.first_wave_max = Some(3), &[]);
    bench_with(small, "app", |_| {}).refused(Code::PolicyRefused, |_| {});
}

#[test]
fn a_held_device_takes_nothing_until_it_is_let_go() {
    let mut bench = bench();
    let hold = |seq: u64, held: bool| Hold {
        format: FORMAT,
        issued: START,
        device: bench.facts.id,
        seq,
        held,
        reason: "under repair".into(),
    };
    let (first, go, again) = (
        sign(&hold(1, true), &[5]),
        sign(&hold(2, false), &[5]),
        sign(&hold(2, true), &[5]),
    );
    let foreign = sign(
        &Hold {
            device: DeviceId([1; 32]),
            ..hold(3, true)
        },
        &[5],
    );
    let id = bench.facts.id;
    let mut take = |bytes: &[u8]| {
        bench
            .trusted
            .take_hold(bytes, &id, "dev1", START)
            .map(|_| ())
            .map_err(|r| r.code)
    };
    assert_eq!(take(&foreign), Err(Code::WrongDevice));
    assert_eq!(take(&first), Ok(()));
    assert_eq!(take(&first), Ok(()), "the same again");
    bench.refused(Code::Held, |_| {});
    let mut take = |bytes: &[u8]| {
        bench
            .trusted
            .take_hold(bytes, &id, "dev1", START)
            .map(|_| ())
            .map_err(|r| r.code)
    };
    assert_eq!(take(&go), Ok(()));
    assert_eq!(take(&first), Err(Code::RollbackRefused));
    assert_eq!(take(&again), Err(Code::RollbackRefused));
    assert_eq!(bench.both(|_| {}), (None, None));
}
