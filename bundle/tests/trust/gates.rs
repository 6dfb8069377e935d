//! The controller's side of a gate: what it builds from the receipts it has is what devices accept.

use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::evidence::{Gate, Membership, ReceiptState};
use ensign_bundle::plan::gate::{self, Needed};
use ensign_bundle::plan::statements::{Cohort, Evidence, GateKind, Plan, Reverts};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use serde_bytes::ByteBuf;

use crate::fleet::*;

fn plan(waves: &str) -> (Plan, Digest, Vec<CutWave>, Vec<Device>) {
    let mut fleet = Fleet::new();
    let release = fleet.release("app", "2.0.0", |_| {});
    let devices: Vec<_> = (0..10).map(Device::new).collect();
    let (plan, waves) = fleet.plan(&release, &devices, waves);
    let digest = Digest(statement::seal(&plan).unwrap().payload_digest());
    (plan, digest, waves, devices)
}

#[test]
fn it_opens_as_soon_as_there_is_enough_and_not_before() {
    let (plan, digest, waves, devices) = plan("40%,40%,100%");
    // Wave 2 adds nobody, so wave 3 looks at wave 1.
    let needed = Needed::Receipts {
        wave: 1,
        receipts: 2,
        min_soak_s: 600,
    };
    assert_eq!(gate::needed(&plan, 3), Ok(needed));
    assert_eq!(gate::needed(&plan, 1), Ok(Needed::Nothing));
    assert_eq!(gate::needed(&plan, 4).unwrap_err().code, Code::NotInPlan);
    let receipt = |wave: usize, at: usize, state: ReceiptState, healthy: u64, seq: u64| {
        let member = waves[wave].members[at];
        let owner = devices.iter().find(|d| d.id() == member.device).unwrap();
        let bytes = owner.receipt(digest, plan.release.manifest, state, healthy, seq);
        (
            ByteBuf::from(bytes),
            member.device,
            waves[wave].proof(&member.device).unwrap(),
        )
    };
    let build =
        |receipts: &[(ByteBuf, DeviceId, Membership)]| gate::build(&plan, &digest, 3, receipts, None, &FLEET).unwrap();
    let good = |at| receipt(0, at, ReceiptState::Confirmed, 600, 1);
    let bad = |at| receipt(0, at, ReceiptState::RolledBack { code: Code::Unhealthy }, 700, 2);
    assert_eq!(build(&[]), None);
    assert_eq!(build(&[good(0)]), None);
    assert_eq!(build(&[good(0), receipt(0, 1, ReceiptState::Confirmed, 599, 1)]), None);
    assert_eq!(build(&[good(0), receipt(2, 1, ReceiptState::Confirmed, 600, 1)]), None);
    assert_eq!(build(&[good(0), good(1), bad(1)]), None);
    let open = build(&[good(0), good(1), bad(1), good(2)]).unwrap();
    assert_eq!(open.receipts.len(), 2);
    assert_eq!(Gate::decode(&open.encode().unwrap()), Ok(open));
}

#[test]
fn a_manual_gate_is_not_built_without_its_promotion() {
    let (mut plan, _, _, _) = plan("100%");
    plan.waves.push(plan.waves[0].clone());
    plan.waves[1].gate = GateKind::Manual;
    plan.waves[1].evidence = Evidence::Dwell;
    let digest = Digest([1; 32]);
    assert_eq!(gate::build(&plan, &digest, 2, &[], None, &FLEET), Ok(None));
    let promoted = gate::build(&plan, &digest, 2, &[], Some(ByteBuf::from(b"signed")), &FLEET).unwrap();
    assert!(promoted.is_some());
    assert!(!gate::needs_promotion(&plan, 1) && gate::needs_promotion(&plan, 2));
}

#[test]
fn a_plan_asks_for_evidence_that_can_be_given() {
    let (plan, _, _, _) = plan("40%,100%");
    let seal = |change: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        change(&mut plan);
        statement::seal(&plan).err().map(|r| r.code)
    };
    assert_eq!(seal(&|_| {}), None);
    assert_eq!(
        seal(&|p| p.waves[0].evidence = Evidence::Receipts(1)),
        Some(Code::Malformed)
    );
    assert_eq!(
        seal(&|p| p.waves[1].evidence = Evidence::Receipts(0)),
        Some(Code::Malformed)
    );
    assert_eq!(seal(&|p| p.waves[1].evidence = Evidence::Receipts(4)), None);
    assert_eq!(
        seal(&|p| p.waves[1].evidence = Evidence::Receipts(5)),
        Some(Code::Malformed)
    );
    assert_eq!(seal(&|p| p.waves.clear()), Some(Code::LimitExceeded));
    for life in [0, 31 * DAY] {
        assert_eq!(seal(&|p| p.expires = p.issued + life), Some(Code::LifetimeRefused));
    }
    assert_eq!(seal(&|p| p.expires = p.issued - 1), Some(Code::LifetimeRefused));
    let reverts = |failures: u32| Reverts {
        plan: Digest([1; 32]),
        from: Digest([2; 32]),
        to: Digest([3; 32]),
        revert_for_s: DAY,
        failures,
    };
    assert_eq!(seal(&|p| p.reverts = Some(reverts(1))), None);
    assert_eq!(seal(&|p| p.reverts = Some(reverts(0))), Some(Code::Malformed));
    let selector = |p: &mut Plan, expr: &str| {
        p.waves[0].cohort = Cohort::Selector {
            expr: expr.into(),
            cumulative_bp: 10_000,
        };
    };
    assert_eq!(seal(&|p| selector(p, "all")), Some(Code::Malformed));
    assert_eq!(seal(&|p| selector(p, "((")), Some(Code::Usage));
    assert_eq!(
        seal(&|p| {
            selector(p, "all");
            p.waves[1].evidence = Evidence::Dwell;
        }),
        None
    );
}
