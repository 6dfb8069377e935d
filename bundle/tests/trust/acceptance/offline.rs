//! Bundles from a stick: a plan for offline use and nothing fresher.

use super::bench_with;
use crate::fleet::*;
use ensign_bundle::digest::Digest;
use ensign_bundle::plan::statements::{Cohort, Evidence};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::{Clock, Source};

#[test]
fn offline() {
    let allowed = |fleet: &mut Fleet| fleet.next_root(|root| root.policy.offline = vec![ident("all")], &[]);
    let mut bench = bench_with(allowed, "app", |_| {});
    bench.source = Source::Bundle;
    bench.lease_age_s = 9999;
    bench.refused(Code::NoOfflinePlan, |_| {});
    bench.plan.offline = Some(Digest::of(&bench.fleet.snapshot_bytes));
    assert_eq!(bench.both(|_| {}), (None, None), "no lease is needed");
    // Timestamp and snapshot have expired: the plan is the proof of freshness.
    assert_eq!(bench.both(|b| b.clock = (START + 5 * DAY).into()), (None, None));
    assert_eq!(
        bench.both(|b| {
            b.source = Source::Online;
            b.clock = (START + 5 * DAY).into();
        }),
        (Some(Code::MetadataExpired), Some(Code::MetadataExpired))
    );
    bench.refused(Code::PlanExpired, |b| b.clock = (START + 7 * DAY).into());
    bench.refused(Code::NoOfflinePlan, |b| b.plan.offline = Some(Digest([1; 32])));
    bench.refused(Code::NoOfflinePlan, |b| b.plan.expires = b.plan.issued + 15 * DAY);
    bench.refused(Code::NoOfflinePlan, |b| {
        b.plan.waves[0].cohort = Cohort::Selector {
            expr: "all".into(),
            cumulative_bp: 10_000,
        };
        b.plan.waves[1].evidence = Evidence::Dwell;
    });
    bench.refused(Code::ClockSuspect, |b| b.clock = Clock::untrusted(START));
    bench.refused(Code::DowngradeRefused, |b| b.installed().counter = u64::MAX);
    let mut elsewhere = bench_with(|_| {}, "app", |_| {});
    elsewhere.source = Source::Bundle;
    elsewhere.plan.offline = Some(Digest::of(&elsewhere.fleet.snapshot_bytes));
    elsewhere.refused(Code::NoOfflinePlan, |_| {});
    let without_time = |fleet: &mut Fleet| {
        fleet.next_root(
            |root| {
                root.policy.offline = vec![ident("all")];
                root.policy.offline_without_time = true;
            },
            &[],
        );
    };
    let mut bench = bench_with(without_time, "app", |_| {});
    bench.source = Source::Bundle;
    bench.plan.offline = Some(Digest::of(&bench.fleet.snapshot_bytes));
    assert_eq!(bench.both(|b| b.clock = Clock::untrusted(START)), (None, None));
}
