//! One device on paper and an offer that it accepts until a test spoils it.

use std::collections::BTreeMap;

use ensign_bundle::accept::{Accepted, DeviceFacts, HeldLease, Installed, Offer, Stage, Window, accept};
use ensign_bundle::digest::{DeviceId, Digest, Nonce};
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::evidence::{Gate, GateReceipt, Lease, Membership, ReceiptState};
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::trust::{Clock, ReleaseName, Source, Trusted};
use serde_bytes::ByteBuf;

use crate::fleet::*;

pub(crate) const NONCE: Nonce = Nonce([0x33; 32]);

/// One device (of wave 1 unless said otherwise), and an offer that it accepts until a test spoils it.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) fleet: Fleet,
    pub(crate) devices: Vec<Device>,
    pub(crate) me: usize,
    pub(crate) release: ReleaseName,
    pub(crate) plan: Plan,
    pub(crate) waves: Vec<CutWave>,
    pub(crate) facts: DeviceFacts,
    pub(crate) signers: Vec<u8>,
    pub(crate) trusted: Trusted,
    pub(crate) member: Option<Membership>,
    pub(crate) gate: Option<Gate>,
    pub(crate) lease: Option<Lease>,
    pub(crate) lease_by: u8,
    pub(crate) lease_age_s: u64,
    pub(crate) forward: Option<Vec<u8>>,
    pub(crate) dwell_s: u64,
    pub(crate) source: Source,
    pub(crate) clock: Clock,
    pub(crate) stage: Stage,
}

pub(crate) fn bench() -> Bench {
    bench_with(|_| {}, "app", |_| {})
}

pub(crate) fn bench_with(
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
        denied: BTreeMap::new(),
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
    pub(crate) fn plan_bytes(&self) -> Vec<u8> {
        sign(&self.plan, &self.signers)
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest(ensign_bundle::statement::seal(&self.plan).unwrap().payload_digest())
    }

    pub(crate) fn membership(&self) -> Membership {
        let proof = self.waves.iter().find_map(|wave| wave.proof(&self.facts.id));
        self.member.clone().or(proof).unwrap()
    }

    pub(crate) fn default_lease(&self) -> Lease {
        Lease {
            format: FORMAT,
            issued: self.fleet.now,
            plan: self.digest(),
            device: self.facts.id,
            nonce: NONCE,
            ttl_s: 900,
        }
    }

    pub(crate) fn answer(&self) -> Result<Accepted, ensign_bundle::reason::Refusal> {
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
    pub(crate) fn both(&self, spoil: impl Fn(&mut Self)) -> (Option<Code>, Option<Code>) {
        let mut spoiled = self.clone();
        spoil(&mut spoiled);
        spoiled.stage = Stage::Switch;
        let switch = spoiled.answer().err().map(|r| r.code);
        spoiled.stage = Stage::Prepare;
        (switch, spoiled.answer().err().map(|r| r.code))
    }

    #[track_caller]
    pub(crate) fn refused(&self, wanted: Code, spoil: impl Fn(&mut Self)) {
        assert_eq!(self.both(spoil), (Some(wanted), Some(wanted)));
    }

    #[track_caller]
    pub(crate) fn both_ok(&self, change: impl Fn(&mut Self)) {
        assert_eq!(self.both(change), (None, None));
    }

    #[track_caller]
    pub(crate) fn refused_to_switch(&self, wanted: Code, spoil: impl Fn(&mut Self)) {
        assert_eq!(self.both(spoil), (Some(wanted), None));
    }

    pub(crate) fn installed(&mut self) -> &mut Installed {
        self.facts.installed.get_mut(&self.release.product).unwrap()
    }

    pub(crate) fn become_device(&mut self, id: DeviceId) {
        self.me = self.devices.iter().position(|d| d.id() == id).unwrap();
        self.facts.id = id;
        self.facts.receipt_key = self.devices[self.me].receipt.public();
    }

    pub(crate) fn second_wave(mut self) -> Self {
        let other = self.waves[1].members[0].device;
        self.become_device(other);
        self
    }

    pub(crate) fn receipt(&self, device: DeviceId, state: ReceiptState, healthy_for_s: u64, seq: u64) -> GateReceipt {
        let owner = self.devices.iter().find(|d| d.id() == device).unwrap();
        let wave = self.waves.iter().find(|w| w.proof(&device).is_some()).unwrap();
        GateReceipt {
            receipt: ByteBuf::from(owner.receipt(self.digest(), self.plan.release.manifest, state, healthy_for_s, seq)),
            device,
            member: wave.proof(&device).unwrap(),
        }
    }

    pub(crate) fn open_gate(&self) -> Gate {
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
