//! Prepared reverts: their plan, their time and their failures.

use super::{Bench, bench};
use crate::fleet::*;
use ensign_bundle::accept::{Direction, Installed};
use ensign_bundle::digest::Digest;
use ensign_bundle::plan::evidence::{Gate, GateReceipt, ReceiptState};
use ensign_bundle::plan::statements::{Plan, Reverts};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::FORMAT;
use serde_bytes::ByteBuf;

/// The device runs 3.0.0 of a forward plan for all ten; 2.0.0 is what the revert goes back to.
fn reverting() -> Bench {
    let mut bench = bench();
    let forward_release = bench.fleet.release("app", "3.0.0", |_| {});
    bench.fleet.publish();
    bench.fleet.refresh(&mut bench.trusted).unwrap();
    let (mut forward, waves) = bench.fleet.plan(&forward_release, &bench.devices, "40%,100%");
    forward.seq = 5;
    let back = bench.plan.release.clone();
    bench.plan = Plan {
        seq: 6,
        reverts: Some(Reverts {
            plan: Digest(ensign_bundle::statement::seal(&forward).unwrap().payload_digest()),
            from: forward.release.manifest,
            to: back.manifest,
            revert_for_s: DAY,
            failures: 2,
        }),
        ..bench.plan.clone()
    };
    let forward_digest = bench.plan.reverts.as_ref().unwrap().plan;
    *bench.installed() = Installed {
        version: version("3.0.0"),
        counter: forward.release.counter,
        manifest: forward.release.manifest,
        plan: forward_digest,
        switched_for_s: 3600,
    };
    bench.trusted.started(&forward, forward_digest).unwrap();
    bench.forward = Some(sign(&forward, &[5]));
    let receipts = waves[0].members.iter().take(2).map(|member| {
        let owner = bench.devices.iter().find(|d| d.id() == member.device).unwrap();
        let state = ReceiptState::RolledBack { code: Code::Unhealthy };
        GateReceipt {
            receipt: ByteBuf::from(owner.receipt(forward_digest, forward.release.manifest, state, 60, 1)),
            device: member.device,
            member: waves[0].proof(&member.device).unwrap(),
        }
    });
    bench.gate = Some(Gate {
        format: FORMAT,
        plan: bench.digest(),
        wave: 1,
        receipts: receipts.collect(),
        promote: None,
    });
    bench
}

/// After a change of the plan: the gate names the plan's new digest.
fn regate(b: &mut Bench) {
    let digest = b.digest();
    b.gate.as_mut().unwrap().plan = digest;
}

#[test]
fn a_prepared_revert_needs_its_plan_its_time_and_failures() {
    let bench = reverting();
    assert_eq!(bench.answer().unwrap().direction, Direction::Revert);
    bench.refused(Code::PlanMismatch, |b| b.installed().plan = Digest([1; 32]));
    bench.refused(Code::PlanMismatch, |b| b.installed().manifest = Digest([1; 32]));
    bench.refused(Code::PlanMismatch, |b| b.facts.installed.clear());
    bench.refused(Code::PlanExpired, |b| b.installed().switched_for_s = DAY + 1);
    bench.refused(Code::PlanMismatch, |b| {
        b.plan.reverts.as_mut().unwrap().to = Digest([1; 32]);
        regate(b);
    });
    bench.refused(Code::MetadataMissing, |b| b.forward = None);
    bench.refused(Code::ContentMismatch, |b| b.forward = Some(b.plan_bytes()));
    bench.refused(Code::GateNotOpen, |b| b.gate = None);
    bench.refused(Code::GateNotOpen, |b| {
        b.gate.as_mut().unwrap().receipts.pop();
    });
    bench.refused(Code::GateNotOpen, |b| {
        let gate = b.gate.as_mut().unwrap();
        gate.receipts[1] = gate.receipts[0].clone();
    });
    // Devices that are well are no failures, and it ends with the plan that it undoes.
    bench.refused(Code::GateNotOpen, |b| {
        let reverts = b.plan.reverts.clone().unwrap();
        let devices = b.devices.clone();
        for shown in &mut b.gate.as_mut().unwrap().receipts {
            let owner = devices.iter().find(|d| d.id() == shown.device).unwrap();
            let well = owner.receipt(reverts.plan, reverts.from, ReceiptState::Confirmed, 600, 2);
            shown.receipt = ByteBuf::from(well);
        }
    });
    bench.refused(Code::PlanExpired, |b| b.clock = (START + 7 * DAY).into());
    // Never below a floor, whatever failed.
    bench.refused(Code::BelowFloor, |b| {
        let mut release = b.fleet.releases[&b.release].clone();
        release.security_floor = release.counter + 1;
        b.trusted.confirmed(&release);
    });
}
