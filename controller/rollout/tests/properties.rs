//! Whatever happens, in whatever order: what must hold of the planner.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "tests and their helpers")]

mod common;

use common::*;
use ensign_bundle::ids::{Ident, Label};
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::plan::statements::{Bound, Evidence, GateKind};
use ensign_bundle::reason::Code;
use ensign_bundle::wire::Phase;
use ensign_rollout::*;
use proptest::prelude::*;

const DEVICES: u32 = 12;

/// Something that happens between two plans.
#[derive(Clone, Debug)]
enum Happens {
    Wait(u64),
    Connect(u32),
    Disconnect(u32),
    Report(u8, u32, Phase),
    Confirm(u8, u32, u64),
    RollBack(u8, u32),
    Hold(u32, bool),
    Clone(u32, bool),
    State(u32, DeviceState),
    Freeze(bool),
    Pause(u8),
    Resume(u8),
    Abort(u8),
    Release(u8, u32),
    Promote(u8, u32),
    Start(u8),
    Restart,
}

fn happens() -> impl Strategy<Value = Happens> {
    let (device, rollout) = (0..DEVICES, 1u8..4);
    let dr = (rollout.clone(), device.clone());
    prop_oneof![
        3 => prop_oneof![1u64..60, 60u64..4000, Just(DAY)].prop_map(Happens::Wait),
        4 => device.clone().prop_map(Happens::Connect),
        3 => device.clone().prop_map(Happens::Disconnect),
        3 => (dr.clone(), prop_oneof![
            Just(Phase::Idle), Just(Phase::Fetching), Just(Phase::Switching), Just(Phase::Trial), Just(Phase::Confirmed),
            Just(Phase::RolledBack), Just(Phase::Rejected),
        ]).prop_map(|((r, d), phase)| Happens::Report(r, d, phase)),
        12 => (dr.clone(), prop_oneof![Just(5u64), Just(60)]).prop_map(|((r, d), s)| Happens::Confirm(r, d, s)),
        2 => dr.clone().prop_map(|(r, d)| Happens::RollBack(r, d)),
        1 => (device.clone(), any::<bool>()).prop_map(|(d, held)| Happens::Hold(d, held)),
        1 => (device.clone(), any::<bool>()).prop_map(|(d, cloned)| Happens::Clone(d, cloned)),
        1 => (device.clone(), prop_oneof![
            Just(DeviceState::Approved), Just(DeviceState::Suspended), Just(DeviceState::Revoked)
        ]).prop_map(|(d, state)| Happens::State(d, state)),
        1 => any::<bool>().prop_map(Happens::Freeze),
        1 => rollout.clone().prop_map(Happens::Pause),
        3 => rollout.clone().prop_map(Happens::Resume),
        1 => rollout.clone().prop_map(Happens::Abort),
        1 => dr.clone().prop_map(|(r, d)| Happens::Release(r, d)),
        1 => (rollout.clone(), 1u32..4).prop_map(|(r, wave)| Happens::Promote(r, wave)),
        2 => rollout.prop_map(Happens::Start),
        1 => Just(Happens::Restart),
    ]
}

/// A plan over some of the devices, with every brake set somehow.
fn specs() -> impl Strategy<Value = RolloutSpec> {
    let sizes = (1u32..4, 0u32..4, 0u32..5);
    let pace = (
        prop::option::of(1u32..4),
        any::<bool>(),
        prop::option::of(prop_oneof![Just(10u32), Just(3600)]),
        prop_oneof![Just(Bound::Count(2)), Just(Bound::BasisPoints(200))],
        prop_oneof![Just(0u64), Just(60)],
        any::<bool>(),
    );
    (sizes, pace, any::<bool>(), 0u32..3).prop_map(
        |((a, b, c), (cap, one_per, rate, bound, soak, manual), other, m)| {
            let mut spec = spec(&[a, b, c]);
            spec.pace.max_parallel = cap;
            spec.pace.one_per = one_per.then(|| Label::parse("store").unwrap());
            spec.pace.rate_per_h = rate;
            (spec.pace.stop.failed, spec.pace.stop.dark) = (bound, bound);
            for wave in &mut spec.waves {
                wave.min_soak_s = soak;
            }
            spec.waves[1].evidence = Evidence::Receipts(m.clamp(1, a));
            spec.waves[2].evidence = if m == 0 { Evidence::Dwell } else { Evidence::Receipts(1) };
            spec.waves[2].gate = if manual { GateKind::Manual } else { GateKind::Auto };
            if other {
                spec.product = Ident::parse("other").unwrap();
            }
            spec
        },
    )
}

fn apply(w: &mut World, what: &Happens, specs: &[RolloutSpec]) {
    let at = w.now;
    let event = match what.clone() {
        Happens::Wait(seconds) => {
            w.now += seconds;
            return;
        }
        Happens::Start(n) => {
            let mut spec = specs[usize::from(n) - 1].clone();
            (spec.not_before, spec.expires) = (at, at + 3 * DAY);
            w.start(n, &spec);
            return;
        }
        Happens::Report(r, d, phase) => {
            w.report(r, d, phase, None);
            return;
        }
        Happens::Confirm(r, d, healthy) => {
            if w.fleet.rollout(&rollout_id(r)).is_some() {
                w.receipt(r, d, ReceiptState::Confirmed, healthy);
            }
            return;
        }
        Happens::RollBack(r, d) => {
            if w.fleet.rollout(&rollout_id(r)).is_some() {
                w.receipt(r, d, ReceiptState::RolledBack { code: Code::Unhealthy }, 5);
            }
            return;
        }
        Happens::Connect(d) => Event::Connected { device: dev(d), at },
        Happens::Disconnect(d) => Event::Disconnected { device: dev(d), at },
        Happens::Hold(d, held) => Event::Held {
            device: dev(d),
            held,
            order: w.order("test"),
        },
        Happens::Clone(d, cloned) => Event::Cloned { device: dev(d), cloned },
        Happens::State(d, state) => Event::DeviceState {
            device: dev(d),
            state,
            order: w.order("test"),
        },
        Happens::Freeze(true) => Event::Frozen { order: w.order("test") },
        Happens::Freeze(false) => Event::Unfrozen { at },
        Happens::Pause(r) => Event::Paused {
            rollout: rollout_id(r),
            order: w.order(""),
        },
        Happens::Resume(r) => Event::Resumed {
            rollout: rollout_id(r),
            at,
        },
        Happens::Abort(r) => Event::Aborted {
            rollout: rollout_id(r),
            by: "ada".to_owned(),
            reason: String::new(),
            at,
        },
        Happens::Release(r, d) => Event::Released {
            rollout: rollout_id(r),
            device: dev(d),
            at,
        },
        Happens::Promote(r, wave) => Event::Promoted {
            rollout: rollout_id(r),
            wave,
            at,
        },
        Happens::Restart => Event::Started { at },
    };
    w.event(event);
}

fn world() -> World {
    let mut w = World::new(DEVICES);
    for n in 0..DEVICES {
        let store = (
            Label::parse("store").unwrap(),
            Label::parse(&format!("s{}", n / 3)).unwrap(),
        );
        w.event(Event::Labelled {
            device: dev(n),
            labels: [store].into(),
        });
    }
    w
}

/// Carries one action out after looking at whether it may be.
fn carry_out(w: &mut World, action: &Action) -> Result<(), TestCaseError> {
    let rollout = w.fleet.rollout(&action.rollout()).unwrap();
    match action {
        Action::Offer { device, .. } => {
            prop_assert!(rollout.serves(), "an offer of a rollout that does not run");
            let elsewhere = w
                .fleet
                .rollouts()
                .any(|(_, r)| r.member(device).is_some_and(Member::in_flight));
            prop_assert!(!elsewhere, "two rollouts on one device");
        }
        Action::OpenWave { wave, evidence, .. } => {
            let index = *wave as usize - 1;
            for earlier in &rollout.waves()[..index] {
                prop_assert!(
                    earlier.done_at.is_some(),
                    "wave {wave} before the one before it was done"
                );
            }
            let any_earlier = (1..*wave).any(|w| rollout.counts_of(w).total() > 0);
            if let (Evidence::Receipts(m), true) = (rollout.spec.waves[index].evidence, any_earlier) {
                prop_assert_eq!(evidence.len(), m as usize);
            }
            for device in evidence {
                let member = rollout.member(device).unwrap();
                let soak = rollout.spec.waves[member.wave as usize - 1].min_soak_s;
                let good =
                    matches!(member.outcome, Some(Outcome::Confirmed { healthy_for_s, .. }) if healthy_for_s >= soak);
                prop_assert!(good && member.wave < *wave, "evidence that is none: {member:?}");
            }
            let manual = rollout.spec.waves[index].gate == GateKind::Manual;
            prop_assert!(!manual || rollout.waves()[index].promoted_at.is_some());
        }
        _ => {}
    }
    let event = action.event(w.now);
    w.event(event);
    Ok(())
}

fn settle(w: &mut World) -> Result<(), TestCaseError> {
    for _ in 0..200 {
        let planned = plan(&w.fleet, w.now);
        prop_assert_eq!(check(&w.fleet, &planned), Vec::<String>::new());
        prop_assert_eq!(&plan(&w.fleet, w.now), &planned, "the same question, the same answer");
        if planned.actions.is_empty() {
            return Ok(());
        }
        for action in &planned.actions {
            carry_out(w, action)?;
        }
    }
    Err(TestCaseError::fail("actions without end"))
}

fn invariants(w: &World) -> Result<(), TestCaseError> {
    for (id, r) in w.fleet.rollouts() {
        let holds = r.members().filter(|(_, m)| m.in_flight()).count();
        prop_assert_eq!(holds, r.in_flight() as usize);
        prop_assert!(r.in_flight() <= r.cap(), "{} in flight, cap {}", r.in_flight(), r.cap());
        let leases = (0..DEVICES)
            .filter_map(|n| desired(&w.fleet, &dev(n), w.now))
            .filter(|d| d.rollout == *id && d.lease)
            .count();
        prop_assert!(leases <= holds);
        if r.ended() || r.is_stopped() || w.fleet.freeze().is_some() {
            prop_assert_eq!(leases, 0, "a lease in a rollout that does not run");
        }
        let status = status(&w.fleet, id, w.now).unwrap();
        for wave in status.waves {
            let sum = wave.pending + wave.active + wave.ok + wave.failed + wave.dark + wave.unreached + wave.held;
            prop_assert_eq!(sum, wave.target);
        }
        for (device, _) in r.members() {
            let why = why(&w.fleet, Some(id), device, w.now);
            prop_assert!(!why.reason.text.is_empty() && why.next_eligible.is_none_or(|at| at >= w.now));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(specs in prop::collection::vec(specs(), 3), story in prop::collection::vec(happens(), 1..60)) {
        let mut w = world();
        apply(&mut w, &Happens::Start(1), &specs);
        settle(&mut w)?;
        for what in &story {
            apply(&mut w, what, &specs);
            // An event that arrives twice changes nothing the second time.
            let mut twice = w.fleet.clone();
            observe(&mut twice, w.log.last().unwrap());
            prop_assert!(twice == w.fleet, "{:?}", w.log.last());
            settle(&mut w)?;
            invariants(&w)?;
            // Every counter and queue is what a recount gives, and so is the plan.
            prop_assert!(reloaded(&w.fleet) == w.fleet, "after {what:?}");
            // A controller that died here and came back knows the same, and that nobody is connected.
            let mut alone = w.fleet.clone();
            observe(&mut alone, &Event::Started { at: 0 });
            let back = through_the_ledger(&w.fleet);
            prop_assert!(back == alone, "after {what:?}");
            prop_assert_eq!(plan(&back, w.now), plan(&alone, w.now));
        }
        // The events alone make the same fleet.
        let mut again = Fleet::new(Policies::default());
        w.log.iter().for_each(|event| observe(&mut again, event));
        prop_assert!(again == w.fleet);
    }

    #[test]
    fn the_controller_sleeps_through_nothing(specs in prop::collection::vec(specs(), 3), story in prop::collection::vec(happens(), 1..30)) {
        let mut w = world();
        apply(&mut w, &Happens::Start(1), &specs);
        settle(&mut w)?;
        for what in &story {
            apply(&mut w, what, &specs);
            settle(&mut w)?;
            let last = match next_wakeup(&w.fleet, w.now) {
                Some(at) => {
                    prop_assert!(at > w.now);
                    at - 1
                }
                None => w.now + 30 * DAY,
            };
            prop_assert_eq!(plan(&w.fleet, last).actions, [], "missed before {}", last);
        }
    }
}
