//! Every reason text that an operator reads of a device, as a snapshot: numbers, names and hints included.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "tests and their helpers")]

mod common;

use std::fmt::Write as _;

use common::*;
use ensign_bundle::ids::{Ident, Label};
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::plan::statements::{Evidence, GateKind};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::Phase;
use ensign_rollout::*;

/// One line of the snapshot.
fn line(out: &mut String, says: &str, w: &World, rollout: u8, n: u32) {
    let why = w.why(rollout, n);
    let next = why.next_eligible.map_or("-".to_owned(), |at| format!("T+{}", at - T0));
    let standing = why.standing.map_or("-", Standing::name);
    writeln!(
        out,
        "{says}\n    {standing} {} next {next}: {}\n    hint: {}",
        why.reason.code, why.reason.text, why.hint
    )
    .unwrap();
}

fn capped(sizes: &[u32], cap: u32) -> RolloutSpec {
    let mut spec = spec(sizes);
    spec.pace.max_parallel = Some(cap);
    spec
}

/// A device that cannot even store the offer has no attempt of this plan to say it of.
#[test]
fn a_device_without_room_for_the_offer_says_so() {
    let mut w = World::new(1);
    w.start(1, &capped(&[1], 1));
    w.settle();
    let mut status = runs(10, "1.0.0");
    status.reason = Some(Refusal::new(Code::NoSpace, "cache: no space left on device"));
    w.event(Event::Reported {
        device: dev(0),
        at: w.now,
        status,
    });
    assert_eq!(w.why(1, 0).reason.code, Code::NoSpace);
}

#[test]
fn why_a_device_waits() {
    let mut out = String::new();
    let mut w = World::new(8);
    w.event(Event::DeviceAdded {
        device: dev(7),
        name: "new".into(),
        state: DeviceState::Pending,
        at: T0,
    });
    let plan = capped(&[2, 6], 1);
    w.start(1, &plan);
    w.settle();
    w.wait(30);
    line(&mut out, "offered, has not answered", &w, 1, 0);
    w.report(1, 0, Phase::Fetching, None);
    line(&mut out, "fetching", &w, 1, 0);
    w.report(
        1,
        0,
        Phase::Waiting,
        Some(Refusal::new(
            Code::OutsideWindow,
            "outside Mon-Fri 01:00-05:00 local, opens in 3 h",
        )),
    );
    line(&mut out, "waits for its own window", &w, 1, 0);
    line(&mut out, "no free slot", &w, 1, 1);
    line(&mut out, "in a later wave", &w, 1, 2);
    line(&mut out, "waits for approval", &w, 1, 7);
    w.hold(3, true, "demo till");
    line(&mut out, "held", &w, 1, 3);
    w.state_of(4, DeviceState::Suspended, "stolen");
    line(&mut out, "suspended", &w, 1, 4);
    w.event(Event::Cloned {
        device: dev(6),
        cloned: true,
    });
    line(&mut out, "copied", &w, 1, 6);
    w.event(Event::Reported {
        device: dev(5),
        at: w.now,
        status: runs(12, "1.2.0"),
    });
    line(&mut out, "runs something newer", &w, 1, 5);
    w.freeze("storm");
    line(&mut out, "frozen fleet", &w, 1, 1);
    w.event(Event::Unfrozen { at: w.now });
    w.event(Event::Paused {
        rollout: rollout_id(1),
        order: w.order("lunch"),
    });
    line(&mut out, "paused", &w, 1, 1);
    line(&mut out, "paused, offered before", &w, 1, 0);
    w.event(Event::Resumed {
        rollout: rollout_id(1),
        at: w.now,
    });
    w.event(Event::Aborted {
        rollout: rollout_id(1),
        by: "ada".to_owned(),
        reason: "wrong tree".into(),
        at: w.now,
    });
    line(&mut out, "aborted", &w, 1, 1);
    let outside = Event::DeviceAdded {
        device: dev(8),
        name: "spare".into(),
        state: DeviceState::Approved,
        at: T0,
    };
    w.event(outside);
    line(&mut out, "a device outside of the plan", &w, 1, 8);
    let none = why(&w.fleet, None, &dev(99), w.now);
    writeln!(out, "unknown device\n    {} {}", none.reason.code, none.reason.text).unwrap();
    let mut fresh = World::new(1);
    let none = why(&fresh.fleet, None, &dev(0), fresh.now);
    writeln!(out, "no rollout\n    {} {}", none.reason.code, none.reason.text).unwrap();
    fresh.start(1, &spec(&[1]));
    fresh.settle();
    fresh.confirm(1, 0);
    line(&mut out, "up to date", &fresh, 1, 0);
    insta::assert_snapshot!(out);
}

#[test]
fn why_time_has_to_pass() {
    let mut out = String::new();
    let mut w = World::new(4);
    let mut plan = spec(&[2, 2]);
    plan.not_before = T0 + 500;
    plan.waves[0].min_soak_s = 600;
    plan.waves[1].evidence = Evidence::Receipts(2);
    w.start(1, &plan);
    line(&mut out, "before its start", &w, 1, 0);
    w.wait(500).settle();
    w.disconnect(1);
    line(&mut out, "wave before is open", &w, 1, 2);
    w.confirm(1, 0);
    w.connect(1);
    w.confirm(1, 1);
    w.wait(60).settle();
    line(&mut out, "wave before soaks", &w, 1, 2);
    let mut dwell = plan.clone();
    dwell.waves[1].evidence = Evidence::Dwell;
    dwell.product = Ident::parse("other").unwrap();
    w.start(2, &dwell);
    w.settle();
    w.confirm(2, 0);
    w.confirm(2, 1);
    line(&mut out, "wave before dwells", &w, 2, 2);

    let mut w = World::new(3);
    let mut plan = spec(&[3]);
    plan.pace.rate_per_h = Some(4);
    w.start(1, &plan);
    w.settle();
    line(&mut out, "rate", &w, 1, 1);
    w.disconnect(2);
    w.wait(100);
    line(&mut out, "offline", &w, 1, 2);
    w.wait(3600).settle();
    line(&mut out, "not reached", &w, 1, 2);
    w.report(1, 0, Phase::Trial, None);
    w.disconnect(0);
    w.wait(1900).settle();
    line(&mut out, "dark", &w, 1, 0);
    w.wait(7 * DAY).settle();
    line(&mut out, "expired", &w, 1, 2);

    let mut w = World::new(2);
    let mut plan = spec(&[1, 1]);
    plan.waves[1].gate = GateKind::Manual;
    w.start(1, &plan);
    w.settle();
    w.confirm(1, 0);
    w.settle();
    line(&mut out, "manual gate", &w, 1, 1);
    insta::assert_snapshot!(out);
}

#[test]
fn why_another_device_goes_first() {
    let mut out = String::new();
    let mut w = World::new(3);
    let store = Label::parse("store").unwrap();
    for n in 0..2 {
        let labels = [(store.clone(), Label::parse("s12").unwrap())].into();
        w.event(Event::Labelled { device: dev(n), labels });
    }
    let mut plan = spec(&[3]);
    plan.pace.one_per = Some(store);
    w.start(1, &plan);
    w.settle();
    line(&mut out, "one per store", &w, 1, 1);
    let mut other = spec(&[3]);
    other.product = Ident::parse("other").unwrap();
    w.start(2, &other);
    w.settle();
    line(&mut out, "busy with another product", &w, 2, 0);
    w.start(3, &spec(&[3]));
    line(&mut out, "a newer rollout", &w, 1, 1);
    insta::assert_snapshot!(out);
}

/// What `device why` says: the device is asked about, not a rollout.
fn of_device(out: &mut String, says: &str, w: &World, n: u32) {
    let why = why(&w.fleet, None, &dev(n), w.now);
    let rollout = (1..9).find(|r| why.rollout == Some(rollout_id(*r)));
    let rollout = rollout.map_or("-".to_owned(), |r| r.to_string());
    writeln!(
        out,
        "{says}\n    rollout {rollout} {}: {}\n    hint: {}",
        why.reason.code, why.reason.text, why.hint
    )
    .unwrap();
}

#[test]
fn why_of_a_device_names_the_rule_that_decides_about_it_now() {
    let mut out = String::new();
    let mut w = World::new(6);
    w.start(1, &spec(&[4]));
    w.settle();
    (0..4).for_each(|n| {
        w.confirm(1, n);
        let mut status = runs(11, "1.1.0");
        status.plan = Some(plan_digest(1));
        w.event(Event::Reported {
            device: dev(n),
            at: w.now,
            status,
        });
    });
    w.settle();
    w.wait(60);
    of_device(&mut out, "up to date", &w, 0);
    w.state_of(0, DeviceState::Suspended, "stolen");
    of_device(&mut out, "suspended although up to date", &w, 0);
    line(&mut out, "the same in the rollout", &w, 1, 0);
    w.hold(1, true, "demo till");
    of_device(&mut out, "held although up to date", &w, 1);
    w.event(Event::Cloned {
        device: dev(2),
        cloned: true,
    });
    of_device(&mut out, "cloned", &w, 2);
    w.state_of(3, DeviceState::Revoked, "scrapped");
    of_device(&mut out, "revoked", &w, 3);
    w.state_of(4, DeviceState::Pending, "");
    of_device(&mut out, "pending", &w, 4);
    of_device(&mut out, "never selected", &w, 5);

    w.state_of(0, DeviceState::Approved, "");
    w.hold(1, false, "");
    let paris = [(Label::parse("site").unwrap(), Label::parse("paris").unwrap())];
    w.event(Event::Labelled {
        device: dev(1),
        labels: paris.into(),
    });
    let mut newer = spec(&[0]);
    newer.waves[0].members = vec![dev(5)];
    (newer.version, newer.counter, newer.seq) = ("1.2.0".parse().unwrap(), 12, 2);
    newer.select = "site = paris or name = dev5".to_owned();
    newer.exclude = vec!["site = paris".to_owned()];
    w.start(2, &newer);
    w.settle();
    of_device(&mut out, "not selected by the newest", &w, 0);
    of_device(&mut out, "excluded from the newest", &w, 1);
    w.event(Event::DeviceAdded {
        device: dev(6),
        name: "spare till".into(),
        state: DeviceState::Approved,
        at: w.now + 5,
    });
    of_device(&mut out, "joined later", &w, 6);
    let mut other = spec(&[0]);
    other.product = Ident::parse("os").unwrap();
    other.waves[0].members = vec![dev(2)];
    w.start(3, &other);
    of_device(&mut out, "another product does not matter", &w, 0);
    w.wait(60);
    w.state_of(4, DeviceState::Approved, "");
    w.event(Event::Labelled {
        device: dev(4),
        labels: [(Label::parse("site").unwrap(), Label::parse("paris").unwrap())].into(),
    });
    of_device(&mut out, "let in later", &w, 4);
    w.state_of(0, DeviceState::Suspended, "stolen");
    w.wait(60);
    let mut after = spec(&[0]);
    after.waves[0].members = vec![dev(5)];
    (after.version, after.counter, after.seq) = ("1.3.0".parse().unwrap(), 13, 4);
    w.start(4, &after);
    line(&mut out, "suspended when it started", &w, 4, 0);
    of_device(&mut out, "nobody knows it", &w, 99);
    insta::assert_snapshot!(out);
}

/// Two products: what is past, or concerns others, does not stand before what is now.
#[test]
fn why_of_a_device_with_two_products_speaks_of_now() {
    let mut out = String::new();
    let mut w = World::new(3);
    let mut shop = spec(&[0]);
    shop.product = Ident::parse("shop").unwrap();
    shop.waves[0].members = vec![dev(0), dev(1)];
    // app 1.1.0 fails on device 0 and is ended, then shop is confirmed there.
    w.start(1, &spec(&[1, 1]));
    w.settle();
    let unhealthy = Refusal::new(Code::Unhealthy, "3 probes failed in a row");
    w.report(1, 0, Phase::RolledBack, Some(unhealthy));
    w.settle();
    w.event(Event::Aborted {
        rollout: rollout_id(1),
        by: "ada".to_owned(),
        reason: String::new(),
        at: w.now,
    });
    of_device(&mut out, "failed, and nothing since", &w, 0);
    w.wait(60);
    w.start(2, &shop);
    w.settle();
    of_device(&mut out, "another product is under way", &w, 0);
    for n in [0, 1] {
        w.confirm(2, n);
    }
    w.settle();
    of_device(&mut out, "another product is confirmed since", &w, 0);
    line(&mut out, "the same of the one that failed", &w, 1, 0);
    // A newer app for device 2 alone, while device 1 runs app and shop.
    let mut newer = spec(&[0]);
    newer.waves[0].members = vec![dev(2)];
    (newer.version, newer.counter, newer.seq) = ("1.2.0".parse().unwrap(), 12, 2);
    newer.select = "name = dev2".to_owned();
    w.wait(60);
    w.start(3, &newer);
    w.settle();
    w.confirm(3, 2);
    w.settle();
    w.event(Event::Reported {
        device: dev(1),
        at: w.now,
        status: runs(10, "1.0.0"),
    });
    of_device(
        &mut out,
        "well, and not selected by the newest of another product",
        &w,
        1,
    );
    w.wait(60);
    w.start(4, &RolloutSpec { seq: 4, ..shop });
    w.settle();
    w.report(4, 0, Phase::RolledBack, Some(Refusal::new(Code::OperatorRollback, " ")));
    w.report(
        4,
        1,
        Phase::Waiting,
        Some(Refusal::new(Code::Locked, "the device is locked: ")),
    );
    of_device(&mut out, "went back without a word", &w, 0);
    of_device(&mut out, "locked without a word", &w, 1);
    insta::assert_snapshot!(out);
}

#[test]
fn why_a_device_that_died_under_way_is_silent() {
    let mut out = String::new();
    let mut w = World::new(4);
    w.start(1, &capped(&[3, 1], 2));
    w.settle();
    w.report(1, 0, Phase::Trial, None);
    w.wait(30);
    (0..3).for_each(|n| w.disconnect(n));
    w.wait(120).settle();
    line(&mut out, "died on its trial", &w, 1, 0);
    line(&mut out, "died before it answered", &w, 1, 1);
    line(&mut out, "was not there when its wave opened", &w, 1, 2);
    w.freeze("storm");
    line(&mut out, "died on its trial, the fleet is frozen", &w, 1, 0);
    line(&mut out, "offered, the fleet is frozen", &w, 1, 1);
    w.event(Event::Unfrozen { at: w.now });
    let status = w.status(1);
    assert_eq!((status.waves[0].active, status.waves[0].away), (2, 3));
    for away in &status.away {
        writeln!(
            out,
            "{} in wave {} since T+{}, {} at T+{}",
            away.name,
            away.wave,
            away.since - T0,
            away.counts_as.name(),
            away.at - T0
        )
        .unwrap();
    }
    w.connect(0);
    assert_eq!(w.status(1).away.len(), 2, "it is back");
    w.confirm(1, 0);
    w.disconnect(0);
    w.wait(60);
    line(&mut out, "up to date and gone", &w, 1, 0);
    w.wait(1800).settle();
    line(&mut out, "up to date and gone for too long", &w, 1, 0);
    insta::assert_snapshot!(out);
}

/// A restart of the controller moves the deadline of a silent device, not the time of its last word.
#[test]
fn a_restart_does_not_make_the_last_word_newer() {
    let mut w = World::new(2);
    w.start(1, &spec(&[2]));
    w.settle();
    w.disconnect(0);
    w.wait(600);
    w.event(Event::Started { at: w.now });
    w.wait(60);
    let away = w.status(1).away;
    let silent = away.iter().find(|a| a.device == dev(0)).unwrap();
    assert_eq!(silent.since, T0);
    assert!(
        silent.at >= T0 + 600,
        "nothing was heard while the controller was away: {}",
        silent.at - T0
    );
    let why = w.why(1, 0).reason.text;
    assert!(why.contains("not connected for 11m"), "{why}");
}

#[test]
fn a_failed_device_says_its_own_reason() {
    let mut w = World::new(2);
    w.start(1, &spec(&[2]));
    w.settle();
    let words = "3 probes failed in a row, 8 s after the switch: GET /healthz 500";
    w.report(1, 0, Phase::RolledBack, Some(Refusal::new(Code::Unhealthy, words)));
    w.receipt(1, 0, ReceiptState::RolledBack { code: Code::Unhealthy }, 8);
    w.receipt(1, 1, ReceiptState::Failed { code: Code::NoSpace }, 0);
    let mut out = String::new();
    line(&mut out, "with words", &w, 1, 0);
    line(&mut out, "by its receipt alone", &w, 1, 1);
    insta::assert_snapshot!(out);
}
