//! How fast: caps, one at a time per site, rates, priorities, bounded steps.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "tests and their helpers")]

mod common;

use common::*;
use ensign_bundle::ids::{Ident, Label};
use ensign_bundle::reason::Code;
use ensign_bundle::wire::{Phase, Transfer};
use ensign_rollout::*;

#[test]
fn the_cap_counts_from_the_first_offer_to_the_terminal_report() {
    let mut w = World::new(10);
    let mut spec = spec(&[10]);
    spec.pace.max_parallel = Some(3);
    w.start(1, &spec);
    assert_eq!(World::offers(&w.settle()), devs(0, 3));
    w.report(1, 0, Phase::Trial, None);
    w.report(1, 1, Phase::Confirmed, None);
    w.disconnect(2);
    assert_eq!(
        w.settle(),
        [],
        "neither a phase nor a lost connection gives a slot back"
    );
    w.confirm(1, 1);
    assert_eq!(World::offers(&w.settle()), [dev(3)]);
    w.roll_back(1, 0);
    assert_eq!(World::offers(&w.settle()), [dev(4)]);
    assert_eq!(w.fleet.rollout(&rollout_id(1)).unwrap().in_flight(), 3);
}

#[test]
fn one_device_of_a_site_at_a_time_across_rollouts() {
    let mut w = World::new(6);
    let store = Label::parse("store").unwrap();
    for n in 0..6 {
        let value = Label::parse(&format!("s{}", n / 2)).unwrap();
        w.event(Event::Labelled {
            device: dev(n),
            labels: [(store.clone(), value)].into(),
        });
    }
    let mut first = spec(&[0]);
    first.waves[0].members = vec![dev(0), dev(1), dev(2)];
    first.pace.one_per = Some(store.clone());
    let mut second = first.clone();
    second.product = Ident::parse("other").unwrap();
    second.waves[0].members = vec![dev(3), dev(4), dev(5)];
    w.start(1, &first);
    w.settle();
    w.start(2, &second);
    w.settle();
    let updating = |w: &World| {
        (0..6)
            .filter(|n| w.desired(*n).is_some_and(|d| d.lease))
            .collect::<Vec<_>>()
    };
    assert_eq!(updating(&w), [0, 2, 4]);
    assert!(
        w.why(2, 3).reason.text.contains("dev2 of store s1"),
        "{:?}",
        w.why(2, 3)
    );
    w.confirm(1, 2);
    w.settle();
    assert_eq!(updating(&w), [0, 3, 4]);
}

#[test]
fn offers_keep_to_the_rate_with_at_most_a_minutes_burst() {
    let mut w = World::new(300);
    let mut spec = spec(&[300]);
    spec.pace.rate_per_h = Some(3600);
    w.start(1, &spec);
    let mut offers = World::offers(&w.settle()).len();
    assert!((60..=61).contains(&offers), "{offers} at once");
    for _ in 0..100 {
        w.wait(1);
        offers += World::offers(&w.settle()).len();
    }
    assert!((160..=161).contains(&offers), "{offers} after 100 s");
    assert_eq!(w.why(1, 299).next_eligible, Some(w.now + 1));
    assert_eq!(next_wakeup(&w.fleet, w.now), Some(w.now + 1));
}

#[test]
fn a_slow_rate_offers_one_by_one() {
    let mut w = World::new(3);
    let mut spec = spec(&[3]);
    spec.pace.rate_per_h = Some(4);
    w.start(1, &spec);
    assert_eq!(World::offers(&w.settle()), [dev(0)]);
    w.wait(899);
    assert_eq!(World::offers(&w.settle()), []);
    w.wait(1);
    assert_eq!(World::offers(&w.settle()), [dev(1)]);
}

#[test]
fn a_device_does_one_thing_at_a_time_the_more_urgent_first() {
    let mut w = World::new(1);
    let mut urgent = spec(&[1]);
    urgent.product = Ident::parse("fix").unwrap();
    urgent.pace.priority = 9;
    w.start(1, &spec(&[1]));
    w.start(2, &urgent);
    w.settle();
    assert_eq!(w.desired(0).unwrap().rollout, rollout_id(2));
    assert_eq!(
        (w.standing(1, 0), w.why(1, 0).reason.code),
        (Standing::Pending, Code::AtCapacity)
    );
    w.confirm(2, 0);
    w.settle();
    assert_eq!(w.desired(0).unwrap().rollout, rollout_id(1));
}

#[test]
fn one_plan_is_bounded_and_the_next_goes_on() {
    let n = u32::try_from(ACTIONS_AT_ONCE).unwrap() * 2 + 1;
    let mut w = World::new(n);
    w.start(1, &spec(&[n]));
    let open = plan(&w.fleet, w.now).actions;
    w.event(open[0].event(w.now));
    assert_eq!(plan(&w.fleet, w.now).actions.len(), ACTIONS_AT_ONCE);
    assert_eq!(World::offers(&w.settle()).len(), n as usize);
}

#[test]
fn who_has_the_whole_release_is_counted_once() {
    let mut w = World::new(3);
    w.start(1, &spec(&[3]));
    w.settle();
    let mut says = |n, phase, plain| {
        let mut status = working(plan_digest(1), phase, None);
        status.transfer = Transfer { received: 10, plain };
        w.event(Event::Reported {
            device: dev(n),
            at: w.now,
            status,
        });
        w.status(1).fetched
    };
    assert_eq!(says(0, Phase::Fetching, 90), 0, "under way");
    assert_eq!(says(0, Phase::Staged, 90), 1);
    assert_eq!(says(0, Phase::Confirmed, 90), 1);
    assert_eq!(says(1, Phase::Rejected, 90), 1, "refused before it fetched anything");
    assert_eq!(says(2, Phase::Confirmed, 0), 1, "it ran the release before");
}

#[test]
fn a_plan_at_a_hundred_thousand_devices_does_not_look_at_each() {
    let n = 100_000;
    let mut w = World::new(n);
    let mut spec = spec(&[n]);
    spec.pace.max_parallel = Some(100);
    w.start(1, &spec);
    w.settle();
    // 20,000 ticks with a change each: were every device looked at, this would take hours.
    for i in 0..10_000 {
        w.confirm(1, i);
        let planned = plan(&w.fleet, w.now);
        assert_eq!(planned.actions.len(), 1);
        w.event(planned.actions[0].event(w.now));
        assert_eq!(plan(&w.fleet, w.now).actions, []);
    }
    assert_eq!(w.wave(1, 1).ok, 10_000);
}
