//! What a look at the whole fleet finds: halted rollouts and devices in trouble.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "tests and their helpers")]

mod common;

use std::collections::BTreeMap;

use common::*;
use ensign_bundle::digest::PlanId;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::Phase;
use ensign_rollout::*;

fn found(w: &World) -> (Vec<(PlanId, Code)>, BTreeMap<Code, u64>) {
    let halted = halted(&w.fleet).iter().map(|(r, why)| (r.id, why.code)).collect();
    (halted, unwell(&w.fleet))
}

#[test]
fn a_halted_rollout_and_its_rolled_back_canary_are_found() {
    let mut w = World::new(5);
    w.start(1, &spec(&[1, 4]));
    w.settle();
    assert_eq!(found(&w), (Vec::new(), BTreeMap::new()));
    let unhealthy = Refusal::new(Code::Unhealthy, "3 probes failed in a row");
    w.report(1, 0, Phase::RolledBack, Some(unhealthy));
    w.roll_back(1, 0);
    w.settle();
    let rolled_back = BTreeMap::from([(Code::Unhealthy, 1)]);
    assert_eq!(
        found(&w),
        (vec![(rollout_id(1), Code::TooManyFailed)], rolled_back.clone())
    );
    w.event(Event::Aborted {
        rollout: rollout_id(1),
        by: "ada".to_owned(),
        reason: String::new(),
        at: w.now,
    });
    assert_eq!(found(&w), (Vec::new(), rolled_back), "an operator has answered");
}

#[test]
fn devices_in_trouble_are_counted_by_reason_and_waiting_ones_are_not() {
    let mut w = World::new(7);
    w.start(1, &spec(&[7]));
    w.settle();
    let mut says = |n, phase, code| w.report(1, n, phase, Some(Refusal::new(code, "")));
    says(0, Phase::Rejected, Code::NoSpace);
    says(1, Phase::Fetching, Code::NoSpace);
    says(2, Phase::Waiting, Code::Locked);
    says(3, Phase::Rejected, Code::NewerInstalled);
    says(4, Phase::Confirmed, Code::Unhealthy);
    says(5, Phase::RolledBack, Code::OperatorRollback);
    w.event(Event::Cloned {
        device: dev(6),
        cloned: true,
    });
    let expected = [
        (Code::NoSpace, 2),
        (Code::OperatorRollback, 1),
        (Code::CloneDetected, 1),
    ];
    assert_eq!(found(&w).1, BTreeMap::from(expected));
    w.state_of(6, DeviceState::Revoked, "");
    assert_eq!(found(&w).1.get(&Code::CloneDetected), None, "nobody waits for it");
}
