//! Who signed: thresholds, scopes, and the metadata behind a release.

use super::{bench, bench_with};
use crate::fleet::*;
use ensign_bundle::accept::{Offer, Stage, accept};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::Source;

#[test]
fn signatures() {
    let bench = bench();
    bench.refused(Code::Unsigned, |b| b.signers = vec![]);
    bench.refused(Code::RoleNotAuthorised, |b| b.signers = vec![4]);
    // By the right key, for another fleet: that signature says nothing here.
    let plan = sign_for(&bench.plan, &[5], &ensign_bundle::digest::FleetId([1; 32]));
    let offer = Offer {
        plan: &plan,
        member: &bench.membership(),
        gate: None,
        lease: None,
        forward: None,
        dwell_s: 0,
        source: Source::Online,
    };
    let answer = |offer: &Offer<'_>| accept(&bench.trusted, &bench.facts, offer, bench.clock, Stage::Prepare);
    assert_eq!(code(answer(&offer)), Code::ThresholdNotMet);
    assert_eq!(
        code(answer(&Offer {
            plan: &plan[1..],
            ..offer
        })),
        Code::Malformed
    );
    let long = vec![0; ensign_bundle::limits::PLAN_BYTES + 1];
    assert_eq!(code(answer(&Offer { plan: &long, ..offer })), Code::LimitExceeded);
}

#[test]
fn every_scope_that_covers_the_device_must_sign() {
    let two = |fleet: &mut Fleet| {
        fleet.next_root(
            |root| {
                let mut lyon = root.scopes[0].clone();
                lyon.name = ident("lyon");
                lyon.select = "site = lyon".into();
                lyon.role.keys = vec![public(50)];
                root.scopes.push(lyon);
                root.protected = vec![ensign_bundle::ids::Label::parse("site").unwrap()];
            },
            &[],
        );
        fleet.publish();
    };
    let mut bench = bench_with(two, "app", |_| {});
    // No labels yet, and `site` is protected: counts as protected.
    bench.refused(Code::RoleNotAuthorised, |_| {});
    assert_eq!(bench.both(|b| b.signers = vec![5, 50]), (None, None));
    // Labelled for another site, by all who must agree.
    let id = bench.facts.id;
    let paris = device_grant(id, 1, &[("site", "paris")]);
    let by_one = sign(&paris, &[5]);
    assert_eq!(
        code(bench.trusted.take_grant(&by_one, &id, "dev1", START)),
        Code::RoleNotAuthorised
    );
    bench
        .trusted
        .take_grant(&sign(&paris, &[5, 50]), &id, "dev1", START)
        .unwrap();
    assert_eq!(bench.both(|_| {}), (None, None));
    let none = bench_with(
        |f| f.next_root(|root| root.scopes[0].select = "x = y".into(), &[]),
        "app",
        |_| {},
    );
    none.refused(Code::RoleNotAuthorised, |_| {});
}

#[test]
fn metadata_and_delegation() {
    let bench = bench();
    bench.refused(Code::MetadataMissing, |b| b.trusted = b.fleet.trust());
    bench.refused(Code::MetadataMissing, |b| b.trusted.retain_releases(|_| false));
    bench.refused(Code::NotFound, |b| b.plan.release.version = version("2.0.1"));
    // The snapshot lists another counter than the document has.
    bench.refused(Code::ContentMismatch, |b| {
        let mut snapshot = b.fleet.snapshot.clone().unwrap();
        snapshot.version += 1;
        snapshot.releases[0].counter += 1;
        b.fleet.publish_snapshot(snapshot);
        b.fleet.refresh(&mut b.trusted).unwrap();
    });
    // Targets no longer cover the product.
    bench.refused(Code::MetadataMissing, |b| {
        b.fleet
            .next_targets(|targets| targets.products[0].name = "other".into());
        b.fleet.publish();
        b.fleet.refresh(&mut b.trusted).unwrap();
    });
}
