//! Checks that no other test would miss.

use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::limits;
use ensign_bundle::plan::evidence::{Gate, ReceiptState};
use ensign_bundle::plan::membership::Invitation;
use ensign_bundle::plan::merkle;
use ensign_bundle::plan::statements::{Bound, Cohort, Evidence, Grant, Hold, Plan, Reverts};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::Trusted;
use ensign_bundle::trust::roles::FORMAT;

use crate::bench::*;
use crate::fleet::*;

/// The decoder takes a byte string for the name of a field; nobody writes one. What is kept or shown has one encoding, as what is signed.
#[test]
fn a_gate_and_a_trust_state_have_one_spelling() {
    let bench = bench().second_wave();
    let respelled = |mut bytes: Vec<u8>| {
        assert_eq!(bytes[1] & 0xe0, 0x60, "the first key is a text");
        bytes[1] ^= 0x20;
        bytes
    };
    let gate = bench.open_gate().encode().unwrap();
    assert!(Gate::decode(&gate).is_ok());
    let state = bench.trusted.encode().unwrap();
    assert_eq!(Trusted::decode(&state).unwrap().encode().unwrap(), state);
    for refusal in [
        Gate::decode(&respelled(gate)).unwrap_err(),
        Trusted::decode(&respelled(state)).unwrap_err(),
    ] {
        assert_eq!(refusal.code, Code::Malformed);
        assert!(refusal.text.contains("another spelling"), "{refusal}");
    }
}

#[test]
fn a_gate_has_a_format_and_an_end() {
    let bench = bench().second_wave();
    let decode = |gate: &Gate| Gate::decode(&gate.encode().unwrap()).err().map(|r| r.code);
    let gate = bench.open_gate();
    assert_eq!(decode(&gate), None);
    let future = Gate {
        format: 2,
        ..gate.clone()
    };
    assert_eq!(decode(&future), Some(Code::VersionUnknown));
    let mut small = gate.clone();
    small.receipts = vec![gate.receipts[0].clone(); limits::GATE_RECEIPTS];
    for receipt in &mut small.receipts {
        receipt.receipt.truncate(10);
    }
    assert_eq!(decode(&small), None);
    small.receipts.push(small.receipts[0].clone());
    assert_eq!(decode(&small), Some(Code::LimitExceeded));
    let mut long = gate.clone();
    long.promote = Some(vec![0; limits::GATE_BYTES].into());
    assert_eq!(decode(&long), Some(Code::LimitExceeded));
}

#[test]
fn a_later_bad_receipt_counts_wherever_it_stands() {
    let bench = bench().second_wave();
    let second = bench.waves[0].members[1].device;
    let bad = |b: &Bench| b.receipt(second, ReceiptState::RolledBack { code: Code::Unhealthy }, 700, 2);
    for at in [0, 2] {
        bench.refused(Code::GateNotOpen, |b| {
            let mut gate = b.open_gate();
            gate.receipts.insert(at, bad(b));
            b.gate = Some(gate);
        });
    }
}

#[test]
fn a_key_of_a_role_invites_nobody() {
    let fleet = Fleet::new();
    for seed in [1, 3, 5, 6, 7, 8] {
        let grant = sign(&token_grant(seed, &[("site", "lyon")]), &[5]);
        assert_eq!(
            code(Invitation::verify(&fleet.authority(), &grant)),
            Code::KeysRefused,
            "{seed}"
        );
    }
}

#[test]
fn a_place_beyond_the_cohort_is_none() {
    let leaf = merkle::leaf(1, &DeviceId([1; 32]), &public(60));
    merkle::verify(&leaf, leaf, 0, 1, &[]).unwrap();
    for (index, count) in [(1, 1), (5, 1), (u32::MAX, 1), (0, 0)] {
        assert_eq!(code(merkle::verify(&leaf, leaf, index, count, &[])), Code::NotInPlan);
    }
    let long = vec![Digest([0; 32]); limits::PROOF_STEPS + 1];
    assert_eq!(
        code(merkle::verify(&leaf, leaf, 0, u32::MAX, &long)),
        Code::LimitExceeded
    );
}

#[test]
fn a_plan_asks_for_nothing_impossible() {
    let bench = bench();
    let seal = |change: &dyn Fn(&mut Plan)| {
        let mut plan = bench.plan.clone();
        change(&mut plan);
        statement::seal(&plan).err().map(|r| r.code)
    };
    let reverts = |failures: u32| {
        move |p: &mut Plan| {
            p.reverts = Some(Reverts {
                plan: Digest([1; 32]),
                from: Digest([2; 32]),
                to: p.release.manifest,
                revert_for_s: DAY,
                failures,
            });
        }
    };
    let most = u32::try_from(limits::GATE_RECEIPTS).unwrap();
    assert_eq!(seal(&reverts(1)), None);
    assert_eq!(seal(&reverts(most)), None);
    assert_eq!(seal(&reverts(0)), Some(Code::Malformed));
    assert_eq!(seal(&reverts(most + 1)), Some(Code::Malformed));
    assert_eq!(seal(&|p| p.pace.stop.failed = Bound::BasisPoints(10_000)), None);
    assert_eq!(
        seal(&|p| p.pace.stop.failed = Bound::BasisPoints(10_001)),
        Some(Code::Malformed)
    );
    assert_eq!(seal(&|p| p.pace.stop.dark = Bound::BasisPoints(10_000)), None);
    assert_eq!(
        seal(&|p| p.pace.stop.dark = Bound::BasisPoints(10_001)),
        Some(Code::Malformed)
    );
    assert_eq!(seal(&|p| p.pace.stop.quorum_bp = 10_001), Some(Code::Malformed));
    let reach = |cumulative_bp: u32| {
        move |p: &mut Plan| {
            p.waves.truncate(1);
            p.waves[0].evidence = Evidence::Receipts(0);
            p.waves[0].cohort = Cohort::Selector {
                expr: "all".into(),
                cumulative_bp,
            };
        }
    };
    assert_eq!(seal(&reach(10_000)), None);
    assert_eq!(seal(&reach(10_001)), Some(Code::Malformed));
}

#[test]
fn a_grant_has_a_format_and_so_many_labels() {
    let seal = |change: &dyn Fn(&mut Grant)| {
        let mut grant = device_grant(DeviceId([1; 32]), 1, &[("site", "lyon")]);
        change(&mut grant);
        statement::seal(&grant).err().map(|r| r.code)
    };
    let many = |count: usize| {
        move |grant: &mut Grant| {
            let names: Vec<String> = (0..count).map(|n| format!("k{n}")).collect();
            let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
            grant.labels = labels(&pairs);
        }
    };
    assert_eq!(seal(&|_| {}), None);
    assert_eq!(seal(&|grant| grant.format = 2), Some(Code::VersionUnknown));
    assert_eq!(seal(&many(limits::LABELS)), None);
    assert_eq!(seal(&many(limits::LABELS + 1)), Some(Code::LimitExceeded));
}

#[test]
fn what_is_remembered_of_devices_has_an_end() {
    let mut trusted = Fleet::new().fresh();
    let mut take = |n: u32| {
        let hold = Hold {
            format: FORMAT,
            issued: START,
            device: DeviceId(Digest::of(&n.to_be_bytes()).0),
            seq: 1,
            held: true,
            reason: String::new(),
        };
        trusted.take_hold(&sign(&hold, &[5]), &hold.device, "dev", START)
    };
    for n in 0..4096 {
        take(n).unwrap();
    }
    assert_eq!(code(take(4096)), Code::LimitExceeded);
    let mut take = |n: u32| {
        let device = DeviceId(Digest::of(&n.to_be_bytes()).0);
        let grant = sign(&device_grant(device, 1, &[("site", "lyon")]), &[5]);
        trusted.take_grant(&grant, &device, "dev", START)
    };
    for n in 0..4096 {
        take(n).unwrap();
    }
    assert_eq!(code(take(4096)), Code::LimitExceeded);
}

#[test]
fn each_role_may_be_the_first_to_expire() {
    let expires = |change: &dyn Fn(&mut Fleet)| {
        let mut fleet = Fleet::new();
        change(&mut fleet);
        let device = fleet.fresh();
        device.check_fresh(START + 3599).unwrap();
        device.check_fresh(START + 3600).unwrap_err().text
    };
    let root = expires(&|f| {
        f.next_root(|root| root.expires = START + 3600, &[]);
        f.publish();
    });
    assert!(root.starts_with("root"), "{root}");
    let targets = expires(&|f| {
        f.next_targets(|targets| targets.expires = START + 3600);
        f.publish();
    });
    assert!(targets.starts_with("targets"), "{targets}");
    let snapshot = expires(&|f| {
        let mut snapshot = f.snapshot.clone().unwrap();
        snapshot.version += 1;
        snapshot.expires = START + 3600;
        f.publish_snapshot(snapshot);
    });
    assert!(snapshot.starts_with("snapshot"), "{snapshot}");
}

#[test]
fn what_is_held_has_the_version_that_is_listed() {
    let mut fleet = Fleet::new();
    let mut device = fleet.fresh();
    fleet.now += 60;
    let mut snapshot = fleet.snapshot.clone().unwrap();
    snapshot.version += 60;
    snapshot.targets.version += 1;
    fleet.publish_snapshot(snapshot);
    let online = ensign_bundle::trust::Source::Online;
    device
        .update_timestamp(&fleet.timestamp_bytes, fleet.now, online)
        .unwrap();
    device
        .update_snapshot(&fleet.snapshot_bytes, fleet.now, online)
        .unwrap();
    assert_eq!(code(device.check_fresh(fleet.now)), Code::RollbackRefused);
    let refused = device.update_targets(&fleet.targets_bytes, fleet.now, online);
    assert_eq!(code(refused), Code::RollbackRefused);
}

#[test]
fn a_timestamp_goes_back_by_no_version_even_over_the_same_snapshot() {
    let mut fleet = Fleet::new();
    fleet.now += 60;
    fleet.publish_timestamp();
    let mut device = fleet.fresh();
    let mut older = fleet.timestamp.clone().unwrap();
    older.version -= 1;
    let older = sign(&older, &fleet.seeds.timestamp);
    let refused = device.update_timestamp(&older, fleet.now, ensign_bundle::trust::Source::Online);
    assert_eq!(code(refused), Code::RollbackRefused);
}

#[test]
fn a_root_keeps_its_own_rules() {
    let mut root = Fleet::new().root;
    root.policy.timestamp_life_s = Some(31 * DAY);
    assert_eq!(code(statement::seal(&root)), Code::LifetimeRefused);
    root.policy.timestamp_life_s = Some(30 * DAY);
    statement::seal(&root).unwrap();
    let mut twice = root.clone();
    twice.scopes.push(twice.scopes[0].clone());
    assert_eq!(code(statement::seal(&twice)), Code::Malformed, "a scope stands twice");
    let mut targets = Fleet::new().targets;
    targets.products[0].name = "../etc".into();
    assert_eq!(code(statement::seal(&targets)), Code::Malformed, "no name of a product");
    targets = Fleet::new().targets;
    targets.products[0].role.threshold = 2;
    assert_eq!(
        code(statement::seal(&targets)),
        Code::KeysRefused,
        "one key cannot sign twice"
    );
    root.controller.keys.push(public(7).id());
    assert_eq!(
        code(statement::seal(&root)),
        Code::KeysRefused,
        "the controller's key signs timestamps"
    );
}

#[test]
fn a_key_that_goes_takes_versions_with_it_even_where_another_had_signed() {
    for role in ["timestamp", "snapshot"] {
        let mut fleet = Fleet::new();
        let keys = |root: &mut ensign_bundle::trust::roles::Root, second: bool| {
            let (role, first) = match role {
                "timestamp" => (&mut root.roles.timestamp, 7),
                _ => (&mut root.roles.snapshot, 6),
            };
            role.keys = vec![public(first)];
            role.keys.extend(second.then(|| public(40)));
        };
        fleet.next_root(|root| keys(root, true), &[]);
        fleet.publish();
        let mut device = fleet.fresh();
        fleet.next_root(|root| keys(root, true), &[]);
        device.update_root(&fleet.roots[2], fleet.now).unwrap();
        assert!(device.timestamp().is_some() && device.snapshot().is_some());
        fleet.next_root(|root| keys(root, false), &[]);
        device.update_root(&fleet.roots[3], fleet.now).unwrap();
        assert!(device.timestamp().is_none() && device.snapshot().is_none(), "{role}");
    }
}

/// What a role that is offered must be, judged at its own step: a refusal there keeps the role before.
#[test]
fn each_step_refuses_by_itself() {
    let online = ensign_bundle::trust::Source::Online;
    let (expired, too_long) = (Code::MetadataExpired, Code::LifetimeRefused);
    for (life, wanted) in [(600, expired), (15 * DAY, too_long)] {
        let mut fleet = Fleet::new();
        let mut device = fleet.fresh();
        fleet.now += 60;
        let mut snapshot = fleet.snapshot.clone().unwrap();
        snapshot.version += 60;
        snapshot.expires = snapshot.issued + life;
        fleet.publish_snapshot(snapshot);
        let now = START + 600;
        device.update_timestamp(&fleet.timestamp_bytes, now, online).unwrap();
        let before = device.encode().unwrap();
        let refused = device.update_snapshot(&fleet.snapshot_bytes, now, online);
        assert_eq!((code(refused), device.encode().unwrap()), (wanted, before));
    }
    for (life, wanted) in [(600, expired), (401 * DAY, too_long)] {
        let mut fleet = Fleet::new();
        let mut device = fleet.fresh();
        fleet.next_targets(|targets| targets.expires = targets.issued + life);
        fleet.now += 60;
        fleet.publish();
        let now = START + 600;
        device.update_timestamp(&fleet.timestamp_bytes, now, online).unwrap();
        device.update_snapshot(&fleet.snapshot_bytes, now, online).unwrap();
        let before = device.encode().unwrap();
        let refused = device.update_targets(&fleet.targets_bytes, now, online);
        assert_eq!((code(refused), device.encode().unwrap()), (wanted, before));
    }
    for (life, wanted) in [(600, expired), (4 * DAY, too_long)] {
        let mut fleet = Fleet::new();
        let mut device = fleet.fresh();
        let mut timestamp = fleet.timestamp.clone().unwrap();
        timestamp.version += 60;
        timestamp.expires = timestamp.issued + life;
        let bytes = sign(&timestamp, &fleet.seeds.timestamp);
        let before = device.encode().unwrap();
        let refused = device.update_timestamp(&bytes, START + 600, online);
        assert_eq!((code(refused), device.encode().unwrap()), (wanted, before));
        fleet.now += 60;
        fleet.publish();
        fleet.refresh(&mut device).unwrap();
    }
}

#[test]
fn no_step_goes_on_from_an_expired_one() {
    let online = ensign_bundle::trust::Source::Online;
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let end = fleet.timestamp.as_ref().unwrap().expires;
    let mut device = fleet.trust();
    device
        .update_timestamp(&fleet.timestamp_bytes, fleet.now, online)
        .unwrap();
    assert_eq!(
        code(device.clone().update_snapshot(&fleet.snapshot_bytes, end, online)),
        Code::MetadataExpired
    );
    device
        .update_snapshot(&fleet.snapshot_bytes, fleet.now, online)
        .unwrap();
    assert_eq!(
        code(device.clone().update_snapshot(&fleet.snapshot_bytes, end, online)),
        Code::MetadataExpired
    );
    assert_eq!(
        code(device.clone().update_targets(&fleet.targets_bytes, end, online)),
        Code::MetadataExpired
    );
    device.update_targets(&fleet.targets_bytes, fleet.now, online).unwrap();
    let release = &fleet.release_bytes[&app];
    assert_eq!(
        code(device.clone().update_release(&app, release, end, online)),
        Code::MetadataExpired
    );
    // Nor from an expired root, whatever else is good.
    let mut short = Fleet::new();
    short.next_root(|root| root.expires = START + 600, &[]);
    short.publish();
    let mut device = short.fresh();
    let now = START + 600;
    let refused = device.update_timestamp(&short.timestamp_bytes, now, online);
    assert!(refused.unwrap_err().text.starts_with("root"));
    let refused = device.update_snapshot(&short.snapshot_bytes, now, online);
    assert!(refused.unwrap_err().text.starts_with("root"));
    let refused = device.update_targets(&short.targets_bytes, now, online);
    assert!(refused.unwrap_err().text.starts_with("root"));
}

#[test]
fn a_held_snapshot_is_judged_like_an_offered_one() {
    let online = ensign_bundle::trust::Source::Online;
    let mut fleet = Fleet::new();
    let mut snapshot = fleet.snapshot.clone().unwrap();
    snapshot.version += 1;
    snapshot.expires = START + 600;
    fleet.now += 60;
    fleet.publish_snapshot(snapshot);
    let mut device = fleet.fresh();
    let held = fleet.snapshot_bytes.clone();
    assert_eq!(
        code(device.update_snapshot(&held, START + 600, online)),
        Code::MetadataExpired
    );
    let refused = device.update_targets(&fleet.targets_bytes, START + 600, online);
    assert_eq!(code(refused), Code::MetadataExpired);
    fleet.now += 60;
    fleet.publish();
    device
        .update_timestamp(&fleet.timestamp_bytes, fleet.now, online)
        .unwrap();
    assert_eq!(
        code(device.update_snapshot(&held, fleet.now, online)),
        Code::ContentMismatch
    );
    // Targets wait for the snapshot that the timestamp names.
    assert_eq!(
        code(device.update_targets(&fleet.targets_bytes, fleet.now, online)),
        Code::MetadataMissing
    );
}

#[test]
fn a_trust_state_begins_with_root_1_and_has_a_format() {
    let mut fleet = Fleet::new();
    fleet.next_root(|_| {}, &[]);
    let second = &fleet.roots[1];
    let refused = ensign_bundle::trust::TrustState::new(second, &Digest::of(second), &FLEET);
    assert_eq!(code(refused), Code::Malformed);
    let stored = fleet.trust().encode().unwrap();
    let format = [&[0x66][..], b"format", &[1]].concat();
    // The state's own number stands outside of every envelope in it; each place is tried.
    let places = stored.windows(format.len()).enumerate().filter(|(_, w)| *w == format);
    let mut codes = Vec::new();
    for (at, _) in places {
        let mut future = stored.clone();
        future[at + format.len() - 1] = 2;
        codes.push(code(Trusted::decode(&future)));
    }
    assert!(codes.contains(&Code::VersionUnknown), "{codes:?}");
}

#[test]
fn a_time_of_another_fleet_is_no_time() {
    let mut bench = bench();
    let time = ensign_bundle::plan::evidence::TimeAttestation {
        format: FORMAT,
        fleet: ensign_bundle::digest::FleetId([2; 32]),
        device: bench.facts.id,
        nonce: NONCE,
        time: START + 60,
    };
    let clock = ensign_bundle::trust::Clock::untrusted(0);
    let refused = bench
        .trusted
        .attest_time(&sign(&time, &[7]), &bench.facts.id, &NONCE, clock);
    assert_eq!(code(refused), Code::WrongFleet);
}

#[test]
fn plans_of_so_many_products_are_remembered() {
    let bench = bench();
    let (mut trusted, mut plan) = (bench.trusted.clone(), bench.plan.clone());
    for n in 0..4096 {
        plan.product = ident(&format!("p{n}"));
        trusted.started(&plan, bench.digest()).unwrap();
    }
    trusted.started(&plan, bench.digest()).unwrap();
    plan.product = ident("one-more");
    assert_eq!(code(trusted.started(&plan, bench.digest())), Code::LimitExceeded);
}
