//! What a device accepts: a good offer, and one test for each code that refuses it.

mod device;
mod offline;
mod plan;
mod revert;
mod signed;
mod switch;
mod waves;

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::accept::{Accepted, DeviceFacts, Direction, HeldLease, Installed, Offer, Stage, Window, accept};
use ensign_bundle::digest::{DeviceId, Digest, Nonce};
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::evidence::{Gate, GateReceipt, Lease, Membership, ReceiptState};
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::trust::{Clock, ReleaseName, Source, Trusted};
use serde_bytes::ByteBuf;

use crate::fleet::*;

const NONCE: Nonce = Nonce([0x33; 32]);

/// One device (of wave 1 unless said otherwise), and an offer that it accepts until a test spoils it.
#[derive(Clone)]
struct Bench {
    fleet: Fleet,
    devices: Vec<Device>,
    me: usize,
    release: ReleaseName,
    plan: Plan,
    waves: Vec<CutWave>,
    facts: DeviceFacts,
    signers: Vec<u8>,
    trusted: Trusted,
    member: Option<Membership>,
    gate: Option<Gate>,
    lease: Option<Lease>,
    lease_by: u8,
    lease_age_s: u64,
    forward: Option<Vec<u8>>,
    dwell_s: u64,
    source: Source,
    clock: Clock,
    stage: Stage,
}

fn bench() -> Bench {
    bench_with(|_| {}, "app", |_| {})
}

fn bench_with(
    before: impl FnOnce(&mut Fleet),
    product: &str,
    change: impl FnOnce(&mut ensign_bundle::trust::roles::Release),
) -> Bench {
    let mut fleet = Fleet::new();
    before(&mut fleet);
    let release = fleet.release(product, "2.0.0", change);
    fleet.publish();
    let mut trusted = fleet.fresh();
    trusted
        .find_release(&release, &mut |want| fleet.find(&want), fleet.now, Source::Online)
        .unwrap();
    let devices: Vec<_> = (0..10).map(Device::new).collect();
    let (plan, waves) = fleet.plan(&release, &devices, "40%,100%");
    let first = waves[0].members[0].device;
    let me = devices.iter().position(|d| d.id() == first).unwrap();
    let installed = Installed {
        version: version("1.0.0"),
        counter: version("1.0.0").counter().unwrap(),
        manifest: Digest([0x10; 32]),
        plan: Digest([0x11; 32]),
        switched_for_s: 5000,
    };
    let facts = DeviceFacts {
        id: first,
        name: "dev1".into(),
        receipt_key: devices[me].receipt.public(),
        nonce: NONCE,
        arch: "x86_64".into(),
        hardware: "pos-3".into(),
        agent: version("1.2.0"),
        installed: BTreeMap::from([(release.product.clone(), installed)]),
        denied: BTreeSet::new(),
        attempt: None,
        trust_degraded: false,
        window: Window::Open,
        lock: None,
    };
    Bench {
        clock: fleet.now.into(),
        fleet,
        devices,
        me,
        release,
        plan,
        waves,
        facts,
        signers: vec![5],
        trusted,
        member: None,
        gate: None,
        lease: None,
        lease_by: 7,
        lease_age_s: 10,
        forward: None,
        dwell_s: 0,
        source: Source::Online,
        stage: Stage::Switch,
    }
}

impl Bench {
    fn plan_bytes(&self) -> Vec<u8> {
        sign(&self.plan, &self.signers)
    }

    fn digest(&self) -> Digest {
        Digest(ensign_bundle::statement::seal(&self.plan).unwrap().payload_digest())
    }

    fn membership(&self) -> Membership {
        let proof = self.waves.iter().find_map(|wave| wave.proof(&self.facts.id));
        self.member.clone().or(proof).unwrap()
    }

    fn default_lease(&self) -> Lease {
        Lease {
            format: FORMAT,
            issued: self.fleet.now,
            plan: self.digest(),
            device: self.facts.id,
            nonce: NONCE,
            ttl_s: 900,
        }
    }

    fn answer(&self) -> Result<Accepted, ensign_bundle::reason::Refusal> {
        let plan = self.plan_bytes();
        let gate = self.gate.as_ref().map(|gate| gate.encode().unwrap());
        let lease = sign(
            &self.lease.clone().unwrap_or_else(|| self.default_lease()),
            &[self.lease_by],
        );
        let offer = Offer {
            plan: &plan,
            member: &self.membership(),
            gate: gate.as_deref(),
            lease: Some(HeldLease {
                envelope: &lease,
                age_s: self.lease_age_s,
            }),
            forward: self.forward.as_deref(),
            dwell_s: self.dwell_s,
            source: self.source,
        };
        accept(&self.trusted, &self.facts, &offer, self.clock, self.stage)
    }

    /// The answer after `spoil`, to switch and to prepare.
    fn both(&self, spoil: impl Fn(&mut Self)) -> (Option<Code>, Option<Code>) {
        let mut spoiled = self.clone();
        spoil(&mut spoiled);
        spoiled.stage = Stage::Switch;
        let switch = spoiled.answer().err().map(|r| r.code);
        spoiled.stage = Stage::Prepare;
        (switch, spoiled.answer().err().map(|r| r.code))
    }

    #[track_caller]
    fn refused(&self, wanted: Code, spoil: impl Fn(&mut Self)) {
        assert_eq!(self.both(spoil), (Some(wanted), Some(wanted)));
    }

    #[track_caller]
    fn refused_to_switch(&self, wanted: Code, spoil: impl Fn(&mut Self)) {
        assert_eq!(self.both(spoil), (Some(wanted), None));
    }

    fn installed(&mut self) -> &mut Installed {
        self.facts.installed.get_mut(&self.release.product).unwrap()
    }

    fn become_device(&mut self, id: DeviceId) {
        self.me = self.devices.iter().position(|d| d.id() == id).unwrap();
        self.facts.id = id;
        self.facts.receipt_key = self.devices[self.me].receipt.public();
    }

    fn second_wave(mut self) -> Self {
        let other = self.waves[1].members[0].device;
        self.become_device(other);
        self
    }

    fn receipt(&self, device: DeviceId, state: ReceiptState, healthy_for_s: u64, seq: u64) -> GateReceipt {
        let owner = self.devices.iter().find(|d| d.id() == device).unwrap();
        let wave = self.waves.iter().find(|w| w.proof(&device).is_some()).unwrap();
        GateReceipt {
            receipt: ByteBuf::from(owner.receipt(self.digest(), self.plan.release.manifest, state, healthy_for_s, seq)),
            device,
            member: wave.proof(&device).unwrap(),
        }
    }

    fn open_gate(&self) -> Gate {
        let good = self.waves[0].members.iter().take(2);
        Gate {
            format: FORMAT,
            plan: self.digest(),
            wave: 2,
            receipts: good
                .map(|m| self.receipt(m.device, ReceiptState::Confirmed, 600, 1))
                .collect(),
            promote: None,
        }
    }
}

#[test]
fn a_good_offer_is_accepted() {
    let bench = bench();
    let accepted = bench.answer().unwrap();
    assert_eq!((accepted.wave, accepted.direction), (1, Direction::Upgrade));
    assert_eq!(accepted.digest, bench.digest());
    assert_eq!(accepted.id().0[..], accepted.digest.0[..16]);
    assert_eq!(accepted.release.release, version("2.0.0"));
    let mut first = bench.clone();
    first.facts.installed.clear();
    assert_eq!(first.answer().unwrap().direction, Direction::Upgrade);
}

#[test]
fn the_first_failing_group_is_the_answer() {
    // Everything wrong at once: signatures, device, counter, time, plan, lease.
    let mut bench = bench_with(
        |_| {},
        "app",
        |release| release.compatible.arch = vec!["riscv64".into()],
    );
    bench.signers = vec![4];
    bench.installed().counter = u64::MAX;
    bench.clock = (START + 100 * DAY).into();
    bench.facts.trust_degraded = true;
    bench.lease_age_s = 9999;
    let mut answers = Vec::new();
    let mends: [fn(&mut Bench); 6] = [
        |b| b.signers = vec![5],
        |b| b.facts.arch = "riscv64".into(),
        |b| b.installed().counter = 1,
        |b| b.clock = START.into(),
        |b| b.facts.trust_degraded = false,
        |b| b.lease_age_s = 0,
    ];
    for mend in mends {
        answers.push(bench.answer().unwrap_err().code);
        mend(&mut bench);
    }
    bench.answer().unwrap();
    assert_eq!(
        answers,
        [
            Code::RoleNotAuthorised,
            Code::HardwareMismatch,
            Code::NewerInstalled,
            Code::MetadataExpired,
            Code::TrustDegraded,
            Code::LeaseMissing
        ]
    );
}
