//! E45 to E61: what is asked of devices, and when.

use ensign_bundle::digest::{CutSeed, DeviceId, Digest, Nonce};
use ensign_bundle::plan::cohort::{self, Waves};
use ensign_bundle::plan::evidence::{Membership, ReceiptState, TimeAttestation};
use ensign_bundle::plan::statements::{Cancel, Cohort, Evidence, Plan};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::trust::{Clock, Source};

use super::{payload, raw, swap, text};
use crate::bench::*;
use crate::fleet::*;

#[test]
fn e45_a_plan_cannot_delegate() {
    let bench = bench();
    let plan = payload(&bench.plan);
    let delegating = swap(&plan, &text("format"), &text("delega"));
    let refused = statement::open_unverified::<Plan>(&raw("plan", delegating, &[5]));
    assert_eq!(refused.err().map(|r| r.code), Some(Code::Malformed));
    // No more by being signed as targets.
    let targets = statement::open_unverified::<Plan>(&raw("targets", plan, &[5]));
    assert_eq!(targets.err().map(|r| r.code), Some(Code::Malformed));
}

#[test]
fn e46_a_device_is_in_a_plan_once() {
    let twice = [
        Device::new(1).candidate(),
        Device::new(2).candidate(),
        Device::new(1).candidate(),
    ];
    let waves = Waves::parse("1,100%").unwrap();
    assert_eq!(code(cohort::cut(&twice, &waves, &CutSeed([1; 16]))), Code::Conflict);
}

#[test]
fn e48_a_plan_and_its_release_name_the_same_bytes() {
    let bench = bench();
    bench.refused(Code::PlanMismatch, |b| b.plan.release.manifest = Digest([1; 32]));
    bench.refused(Code::PlanMismatch, |b| b.plan.release.length -= 1);
    bench.refused(Code::PlanMismatch, |b| b.plan.release.counter -= 1);
}

#[test]
fn e49_a_release_for_other_hardware_is_refused() {
    let for_other = |change: fn(&mut ensign_bundle::trust::roles::Compatible)| {
        bench_with(|_| {}, "app", |release| change(&mut release.compatible))
    };
    for_other(|c| c.hardware = vec!["pos-4".into()]).refused(Code::HardwareMismatch, |_| {});
    for_other(|c| c.arch = vec!["riscv64".into()]).refused(Code::HardwareMismatch, |_| {});
    let fits = for_other(|c| c.hardware = vec!["pos-4".into(), "pos-3".into()]);
    fits.both_ok(|_| {});
    // A device that does not say what it is fits nothing that asks.
    fits.refused(Code::HardwareMismatch, |b| b.facts.hardware.clear());
}

#[test]
fn e50_a_lower_counter_needs_a_plan_that_allows_it_and_none_allows_the_floor() {
    let bench = bench();
    let newer = |b: &mut Bench| b.installed().counter = b.plan.release.counter + 1;
    bench.refused(Code::NewerInstalled, newer);
    let allowed = |b: &mut Bench| {
        newer(b);
        b.plan.downgrade = Some("printer".into());
    };
    bench.both_ok(allowed);
    bench.refused(Code::BelowFloor, |b| {
        allowed(b);
        let mut release = b.fleet.releases[&b.release].clone();
        release.security_floor = release.counter + 1;
        b.trusted.confirmed(&release);
    });
    let floored = bench_with(
        |fleet| fleet.next_targets(|t| t.products[0].security_floor = u64::MAX),
        "app",
        |_| {},
    );
    floored.refused(Code::BelowFloor, |b| b.plan.downgrade = Some("printer".into()));
}

#[test]
fn e51_an_answer_is_for_one_device_and_one_question() {
    let mut bench = bench();
    let lease = |device: DeviceId, nonce: Nonce| {
        move |b: &mut Bench| {
            let mut lease = b.default_lease();
            (lease.device, lease.nonce) = (device, nonce);
            b.lease = Some(lease);
        }
    };
    let id = bench.facts.id;
    bench.both_ok(lease(id, NONCE));
    bench.refused_to_switch(Code::LeaseMissing, lease(DeviceId([1; 32]), NONCE));
    bench.refused_to_switch(Code::LeaseMissing, lease(id, Nonce([1; 32])));
    let time = |device: DeviceId, nonce: Nonce| {
        let time = TimeAttestation {
            format: FORMAT,
            fleet: FLEET,
            device,
            nonce,
            time: START + 60,
        };
        sign(&time, &[7])
    };
    let clock = Clock::untrusted(0);
    let mut attest = |bytes: &[u8]| bench.trusted.attest_time(bytes, &id, &NONCE, clock).map_err(|r| r.code);
    assert_eq!(attest(&time(DeviceId([1; 32]), NONCE)), Err(Code::WrongDevice));
    assert_eq!(attest(&time(id, Nonce([1; 32]))), Err(Code::WrongDevice));
    assert_eq!(attest(&time(id, NONCE)), Ok(Some(START + 60)));
}

#[test]
fn e52_a_plan_that_ran_or_was_cancelled_never_runs_again() {
    let bench = bench();
    bench.refused(Code::PlanReplayed, |b| {
        let (plan, digest) = (b.plan.clone(), b.digest());
        b.trusted.started(&plan, digest).unwrap();
        // It ran, and the device was taken elsewhere since.
        b.installed().counter = 1;
    });
    bench.refused(Code::PlanCancelled, |b| {
        let cancel = Cancel {
            format: FORMAT,
            issued: START,
            plan: b.digest(),
            product: ident("app"),
            reason: "wrong".into(),
        };
        let (id, name) = (b.facts.id, b.facts.name.clone());
        b.trusted.take_cancel(&sign(&cancel, &[5]), &id, &name, START).unwrap();
    });
}

#[test]
fn e53_a_plan_ends() {
    let bench = bench();
    let end = bench.plan.issued + 3600;
    let ends = |at: u64| {
        move |b: &mut Bench| {
            b.plan.expires = end;
            b.clock = at.into();
        }
    };
    bench.both_ok(ends(end - 1));
    bench.refused(Code::PlanExpired, ends(end));
    // A clock set back does not bring it back: documents of later prove the time.
    bench.refused(Code::PlanExpired, |b| {
        ends(end - 60)(b);
        b.fleet.now = end + 60;
        b.fleet.publish();
        b.fleet.refresh(&mut b.trusted).unwrap();
    });
    assert_eq!(
        code(statement::seal(&Plan {
            expires: bench.plan.issued + 31 * DAY,
            ..bench.plan.clone()
        })),
        Code::LifetimeRefused
    );
}

#[test]
fn e54_a_gate_of_another_plan_or_with_receipts_of_others_opens_nothing() {
    let bench = bench().second_wave();
    bench.both_ok(|b| b.gate = Some(b.open_gate()));
    bench.refused(Code::GateNotOpen, |b| {
        let mut gate = b.open_gate();
        gate.plan = Digest([9; 32]);
        b.gate = Some(gate);
    });
    // Receipts of the same devices for another plan, under this plan's name.
    bench.refused(Code::ReceiptInvalid, |b| {
        let mut other = b.clone();
        other.plan.seq += 1;
        let mut gate = other.open_gate();
        gate.plan = b.digest();
        b.gate = Some(gate);
    });
    // A receipt of one device shown as another's.
    bench.refused(Code::ReceiptInvalid, |b| {
        let mut gate = b.open_gate();
        let (first, second) = (gate.receipts[0].clone(), &mut gate.receipts[1]);
        second.receipt = first.receipt;
        b.gate = Some(gate);
    });
}

#[test]
fn e55_a_gate_opens_after_the_signed_soak_and_not_before() {
    let bench = bench().second_wave();
    let soaked = |seconds: u64| {
        move |b: &mut Bench| {
            let mut gate = b.open_gate();
            for at in 0..2 {
                let device = gate.receipts[at].device;
                gate.receipts[at] = b.receipt(device, ReceiptState::Confirmed, seconds, 1);
            }
            b.gate = Some(gate);
        }
    };
    bench.refused(Code::GateNotOpen, soaked(599));
    bench.both_ok(soaked(600));
    // No clock opens it: however late it is.
    bench.refused(Code::GateNotOpen, |b| {
        soaked(599)(b);
        b.clock = (START + DAY - 60).into();
    });
}

#[test]
fn e56_a_device_whose_bucket_is_not_reached_waits() {
    let bench = bench();
    let bucket = cohort::bucket(&bench.plan.cut_seed, &bench.facts.id);
    let reach = |bp: u32| {
        move |b: &mut Bench| {
            b.plan.waves.truncate(1);
            b.plan.waves[0].cohort = Cohort::Selector {
                expr: "all".into(),
                cumulative_bp: bp,
            };
            b.plan.waves[0].evidence = Evidence::Receipts(0);
            b.member = Some(Membership {
                wave: 1,
                index: 0,
                receipt_key: b.facts.receipt_key,
                path: Vec::new(),
            });
        }
    };
    bench.both_ok(reach(bucket + 1));
    bench.refused(Code::NotInPlan, reach(bucket));
    // In a listed cohort nobody is moved to an earlier wave.
    bench.clone().second_wave().refused(Code::NotInPlan, |b| {
        let mut member = b.membership();
        member.wave = 1;
        b.member = Some(member);
    });
}

#[test]
fn a_release_that_needs_another_in_between_is_not_reached_from_before_it() {
    let from = version("1.5.0").counter();
    let bench = bench_with(|_| {}, "app", |release| release.compatible.min_from = from);
    bench.refused(Code::StepMissing, |_| {});
    bench.both_ok(|b| b.installed().counter = from.unwrap());
    bench.both_ok(|b| b.facts.installed.clear());
}

#[test]
fn e61_a_clock_that_was_wrong_in_any_way_recovers() {
    let far = 4_102_444_800;
    for wrong in [
        vec![0],
        vec![far],
        vec![far, 0],
        vec![START - DAY, START],
        vec![START + 3600, START - DAY],
    ] {
        let mut bench = bench();
        for now in wrong {
            for clock in [Clock::untrusted(now), now.into()] {
                let fleet = bench.fleet.clone();
                let _ = bench
                    .trusted
                    .refresh(&mut |want| fleet.find(&want), clock, Source::Online);
                bench.clock = clock;
                let _ = bench.answer();
            }
        }
        bench.fleet.now += 7200;
        bench.fleet.publish();
        bench.fleet.refresh(&mut bench.trusted).unwrap();
        bench.clock = bench.fleet.now.into();
        bench.answer().unwrap();
    }
}
