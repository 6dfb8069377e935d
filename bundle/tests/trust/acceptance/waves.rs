//! The place in a wave, and what opens its gate.

use super::{Bench, bench};
use crate::fleet::*;
use ensign_bundle::digest::Digest;
use ensign_bundle::plan::evidence::{Gate, Membership, Receipt, ReceiptState};
use ensign_bundle::plan::statements::{Cohort, Evidence, GateKind, Promote};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::FORMAT;
use serde_bytes::ByteBuf;

#[test]
fn the_place_in_a_wave() {
    let bench = bench();
    bench.refused(Code::IdentityChanged, |b| b.facts.receipt_key = public(90));
    bench.refused(Code::NotInPlan, |b| {
        let mut member = b.membership();
        member.index += 1;
        b.member = Some(member);
    });
    bench.refused(Code::NotInPlan, |b| {
        let mut member = b.membership();
        member.wave = 3;
        b.member = Some(member);
    });
    bench.refused(Code::NotInPlan, |b| {
        // The proof of a neighbour, who is in the plan.
        let neighbour = &b.waves[0].members[1];
        let mut member = b.waves[0].proof(&neighbour.device).unwrap();
        member.receipt_key = b.facts.receipt_key;
        b.member = Some(member);
    });
    bench.refused(Code::NotInPlan, |b| {
        // The same, with the neighbour's key: no word of the plan about this device.
        let neighbour = &b.waves[0].members[1];
        b.member = Some(b.waves[0].proof(&neighbour.device).unwrap());
    });
    bench.refused(Code::NotInPlan, |b| {
        // Listed for wave 2, claims wave 1.
        let other = b.waves[1].members[0].device;
        let mut member = b.waves[1].proof(&other).unwrap();
        b.become_device(other);
        member.wave = 1;
        b.member = Some(member);
    });
}

#[test]
fn a_selector_cohort_is_for_who_matches_and_falls_below_its_share() {
    let mut bench = bench();
    let id = bench.facts.id;
    bench
        .trusted
        .take_grant(
            &sign(&device_grant(id, 1, &[("site", "lyon")]), &[5]),
            &id,
            "dev1",
            START,
        )
        .unwrap();
    let bucket = ensign_bundle::plan::cohort::bucket(&bench.plan.cut_seed, &id);
    let with = |expr: &str, cumulative_bp: u32| {
        let expr = expr.to_owned();
        move |b: &mut Bench| {
            b.plan.waves[0].cohort = Cohort::Selector {
                expr: expr.clone(),
                cumulative_bp,
            };
            b.plan.waves[1].evidence = Evidence::Dwell;
            b.member = Some(Membership {
                wave: 1,
                index: 0,
                receipt_key: b.facts.receipt_key,
                path: Vec::new(),
            });
        }
    };
    assert_eq!(bench.both(with("site = lyon", bucket + 1)), (None, None));
    bench.refused(Code::NotInPlan, with("site = lyon", bucket));
    bench.refused(Code::NotInPlan, with("site = paris", 10_000));
}

#[test]
fn a_gate_opens_on_receipts() {
    let bench = bench().second_wave();
    bench.refused(Code::GateNotOpen, |_| {});
    let open = |b: &mut Bench| b.gate = Some(b.open_gate());
    assert_eq!(bench.both(open), (None, None));
    let spoiled = |wanted: Code, spoil: &dyn Fn(&Bench, &mut Gate)| {
        bench.refused(wanted, |b| {
            let mut gate = b.open_gate();
            spoil(b, &mut gate);
            b.gate = Some(gate);
        });
    };
    let devices: Vec<_> = bench.waves[0].members.iter().map(|m| m.device).collect();
    spoiled(Code::GateNotOpen, &|_, gate| gate.plan = Digest([1; 32]));
    spoiled(Code::GateNotOpen, &|_, gate| gate.wave = 1);
    spoiled(Code::GateNotOpen, &|_, gate| gate.receipts.truncate(1));
    spoiled(Code::GateNotOpen, &|_, gate| {
        gate.receipts[1] = gate.receipts[0].clone();
    });
    spoiled(Code::GateNotOpen, &|b, gate| {
        gate.receipts[1] = b.receipt(devices[1], ReceiptState::Confirmed, 599, 1);
    });
    let failed = || ReceiptState::RolledBack { code: Code::Unhealthy };
    spoiled(Code::GateNotOpen, &|b, gate| {
        gate.receipts[1] = b.receipt(devices[1], failed(), 600, 1);
    });
    // A later bad one cancels an earlier good one, in whatever order they are shown.
    spoiled(Code::GateNotOpen, &|b, gate| {
        gate.receipts.insert(0, b.receipt(devices[1], failed(), 700, 2));
    });
    // Receipts of the wave that is to be opened.
    let later = bench.waves[1].members[1].device;
    spoiled(Code::GateNotOpen, &|b, gate| {
        gate.receipts[1] = b.receipt(later, ReceiptState::Confirmed, 600, 1);
    });
    // Of another plan, with another key, or for another device.
    let other = |b: &Bench, change: &dyn Fn(&mut Bench)| {
        let mut other = b.clone();
        change(&mut other);
        other.receipt(devices[1], ReceiptState::Confirmed, 600, 1).receipt
    };
    spoiled(Code::ReceiptInvalid, &|b, gate| {
        gate.receipts[1].receipt = other(b, &|o| o.plan.seq += 1);
    });
    spoiled(Code::ReceiptInvalid, &|b, gate| {
        let at = b.devices.iter().position(|d| d.id() == devices[1]).unwrap();
        gate.receipts[1].receipt = other(b, &|o| o.devices[at].receipt = key(91));
    });
    spoiled(Code::ReceiptInvalid, &|b, gate| {
        gate.receipts[1].receipt = b.open_gate().receipts[0].receipt.clone();
    });
    spoiled(Code::ReceiptInvalid, &|_, gate| gate.receipts[1].member.index ^= 1);
    // Right in all but the device that it speaks of, or the release.
    let signed = |b: &Bench, change: &dyn Fn(&mut Receipt)| {
        let owner = b.devices.iter().find(|d| d.id() == devices[1]).unwrap();
        let whole = b.receipt(devices[1], ReceiptState::Confirmed, 600, 1).receipt;
        let mut body = statement::open_unverified::<Receipt>(&whole).unwrap().body;
        change(&mut body);
        ByteBuf::from(statement::sign(&body, &[&owner.receipt], &FLEET).unwrap())
    };
    spoiled(Code::ReceiptInvalid, &|b, gate| {
        gate.receipts[1].receipt = signed(b, &|r| r.device = devices[0]);
    });
    spoiled(Code::ReceiptInvalid, &|b, gate| {
        gate.receipts[1].receipt = signed(b, &|r| r.release = Digest([1; 32]));
    });
}

#[test]
fn a_manual_gate_waits_for_a_promotion() {
    let mut bench = bench().second_wave();
    bench.plan.waves[1].gate = GateKind::Manual;
    let issued = |issued: u64, plan: Option<Digest>, wave: u32, signers: &'static [u8]| {
        move |b: &mut Bench| {
            let promote = Promote {
                format: FORMAT,
                issued,
                plan: plan.unwrap_or_else(|| b.digest()),
                wave,
            };
            let mut gate = b.open_gate();
            gate.promote = Some(ByteBuf::from(sign(&promote, signers)));
            b.gate = Some(gate);
        }
    };
    let promoted = |plan, wave, signers| issued(START, plan, wave, signers);
    bench.refused(Code::GateNotOpen, |b| b.gate = Some(b.open_gate()));
    let future = bench.fleet.now + DAY + 1;
    bench.refused(Code::GateNotOpen, issued(future, None, 2, &[5]));
    bench.refused(Code::GateNotOpen, promoted(None, 1, &[5]));
    bench.refused(Code::GateNotOpen, promoted(None, 2, &[7]));
    // Of the same wave of a plan before.
    bench.refused(Code::GateNotOpen, promoted(Some(Digest([9; 32])), 2, &[5]));
    assert_eq!(bench.both(promoted(None, 2, &[5])), (None, None));
}

#[test]
fn a_dwell_gate_goes_by_the_devices_own_time() {
    let mut bench = bench().second_wave();
    bench.plan.waves[1].evidence = Evidence::Dwell;
    bench.refused(Code::GateNotOpen, |b| b.dwell_s = 599);
    assert_eq!(bench.both(|b| b.dwell_s = 600), (None, None));
}

#[test]
fn not_before_and_prefetch() {
    let bench = bench();
    let later = |b: &mut Bench| b.plan.not_before = b.fleet.now + 60;
    bench.refused(Code::NotYet, later);
    bench.refused_to_switch(Code::NotYet, |b| {
        later(b);
        b.plan.pace.prefetch = true;
    });
    bench
        .second_wave()
        .refused_to_switch(Code::GateNotOpen, |b| b.plan.pace.prefetch = true);
}
