//! What is asked once more right before the switch: lease, windows, locks, the clock.

use super::{Bench, bench};
use crate::fleet::*;
use ensign_bundle::accept::{Offer, Stage, Window, accept};
use ensign_bundle::digest::{DeviceId, Digest, Nonce};
use ensign_bundle::plan::evidence::Lease;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::Source;

#[test]
fn only_to_switch() {
    let bench = bench();
    let lease = |change: fn(&mut Lease)| {
        move |b: &mut Bench| {
            let mut lease = b.default_lease();
            change(&mut lease);
            b.lease = Some(lease);
        }
    };
    bench.refused_to_switch(Code::LeaseMissing, lease(|l| l.nonce = Nonce([1; 32])));
    bench.refused_to_switch(Code::LeaseMissing, lease(|l| l.device = DeviceId([1; 32])));
    bench.refused_to_switch(Code::LeaseMissing, lease(|l| l.plan = Digest([1; 32])));
    bench.refused_to_switch(Code::LeaseMissing, |b| b.lease_by = 6);
    bench.refused_to_switch(Code::LeaseMissing, |b| b.lease_age_s = 900);
    bench.refused_to_switch(Code::LeaseMissing, |b| {
        lease(|l| l.ttl_s = u64::MAX)(b);
        b.lease_age_s = 901;
    });
    let closed = |b: &mut Bench| b.facts.window = Window::Closed { opens: Some(START + 9) };
    bench.refused_to_switch(Code::OutsideWindow, closed);
    bench.refused_to_switch(Code::OutsideWindow, |b| {
        b.facts.window = Window::Unknown("Feb 30".into());
    });
    let locked = |b: &mut Bench| b.facts.lock = Some("until 2026-12-01T18:54:00Z: till is open".into());
    bench.refused_to_switch(Code::Locked, locked);
    let emergency = |b: &mut Bench| {
        closed(b);
        locked(b);
        b.plan.emergency = true;
    };
    assert_eq!(bench.both(emergency), (None, None));
    bench.refused_to_switch(Code::LeaseMissing, |b| {
        emergency(b);
        b.lease_age_s = 900;
    });
    let no_lease = bench.clone();
    let plan = no_lease.plan_bytes();
    let offer = Offer {
        plan: &plan,
        member: &no_lease.membership(),
        gate: None,
        lease: None,
        forward: None,
        dwell_s: 0,
        source: Source::Online,
    };
    let answer = accept(
        &no_lease.trusted,
        &no_lease.facts,
        &offer,
        no_lease.clock,
        Stage::Switch,
    );
    assert_eq!(code(answer), Code::LeaseMissing);
}
