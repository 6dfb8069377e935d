//! The device that is meant: its hardware, its counters, what it runs and ran.

use super::{Bench, bench, bench_with};
use crate::fleet::*;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::Trusted;
use ensign_bundle::trust::roles::ProductFloor;

#[test]
fn the_device_itself() {
    let with = |change: fn(&mut ensign_bundle::trust::roles::Compatible)| {
        bench_with(|_| {}, "app", |release| change(&mut release.compatible))
    };
    with(|c| c.arch = vec!["aarch64".into()]).refused(Code::HardwareMismatch, |_| {});
    with(|c| c.hardware = vec!["pos-4".into()]).refused(Code::HardwareMismatch, |_| {});
    with(|c| c.min_agent = Some(version("1.10.0"))).refused(Code::AgentTooOld, |_| {});
    with(|c| c.min_from = Some(version("1.0.1").counter().unwrap())).refused(Code::StepMissing, |_| {});
    let fits = with(|c| {
        c.arch = vec!["aarch64".into(), "x86_64".into()];
        c.hardware = vec!["pos-3".into()];
        c.min_agent = Some(version("1.2.0"));
        c.min_from = version("1.0.0").counter();
    });
    assert_eq!(fits.both(|_| {}), (None, None));
    assert_eq!(fits.both(|b| b.facts.agent = version("1.3.0-rc1")), (None, None));
}

#[test]
fn counters_never_go_back_by_themselves() {
    let bench = bench();
    let newer = |b: &mut Bench| b.installed().counter = version("3.0.0").counter().unwrap();
    bench.refused(Code::NewerInstalled, newer);
    let same_counter = |b: &mut Bench| b.installed().counter = b.plan.release.counter;
    bench.refused(Code::DowngradeRefused, same_counter);
    assert_eq!(
        bench.both(|b| {
            newer(b);
            b.plan.downgrade = Some("broken printer driver".into());
        }),
        (None, None)
    );
    let below = |floor: ProductFloor| {
        let change = move |fleet: &mut Fleet| {
            fleet.next_root(|root| root.floors.products.extend([(ident("app"), floor)]), &[]);
        };
        bench_with(change, "app", |_| {})
    };
    let floor = ProductFloor {
        security: version("2.0.1").counter().unwrap(),
        ..ProductFloor::default()
    };
    below(floor).refused(Code::BelowFloor, |b| b.plan.downgrade = Some("whatever".into()));
    let floor = ProductFloor {
        plan_seq: 2,
        ..ProductFloor::default()
    };
    below(floor).refused(Code::PlanReplayed, |_| {});
    // A release that proved itself here forbids what is below its floor, for ever.
    bench.refused(Code::BelowFloor, |b| {
        let mut release = b.fleet.releases[&b.release].clone();
        release.security_floor = version("2.0.1").counter().unwrap();
        b.trusted.confirmed(&release);
        b.trusted = Trusted::decode(&b.trusted.encode().unwrap()).unwrap();
    });
}

#[test]
fn a_plan_runs_once() {
    let bench = bench();
    let started = |b: &mut Bench| {
        let (plan, digest) = (b.plan.clone(), b.digest());
        b.trusted.started(&plan, digest).unwrap();
        b.trusted = Trusted::decode(&b.trusted.encode().unwrap()).unwrap();
    };
    bench.refused(Code::PlanReplayed, started);
    // It is the one under way.
    assert_eq!(
        bench.both(|b| {
            started(b);
            b.facts.attempt = Some(b.digest());
        }),
        (None, None)
    );
    // An older one, or another with the same number, is never taken.
    bench.refused(Code::PlanReplayed, |b| {
        started(b);
        b.plan.reason = "another".into();
        b.facts.attempt = Some(b.digest());
    });
    assert_eq!(
        bench.both(|b| {
            started(b);
            b.plan.seq += 1;
        }),
        (None, None)
    );
}

#[test]
fn what_runs_already_is_up_to_date() {
    let bench = bench();
    bench.refused(Code::UpToDate, |b| {
        b.installed().manifest = b.plan.release.manifest;
        b.installed().counter = b.plan.release.counter;
        let (plan, digest) = (b.plan.clone(), b.digest());
        b.trusted.started(&plan, digest).unwrap();
        b.lease_age_s = 9999;
    });
}
