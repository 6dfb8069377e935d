//! A small world around the planner: events are committed to a list and observed, plans are carried out until nothing is left.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::wildcard_imports,
    reason = "test support, of which each test file uses its part"
)]

use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::ids::{Ident, Label, Version};
use ensign_bundle::plan::evidence::{Receipt, ReceiptState};
use ensign_bundle::plan::statements::{Bound, Evidence, GateKind, OnBreach, Pace, Stop};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::{Installed, Phase, Status, Transfer};
use ensign_rollout::*;

/// When every test starts, unix seconds.
pub const T0: u64 = 1_800_000_000;
pub use ensign_testkit::DAY;

pub fn dev(n: u32) -> DeviceId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&n.to_be_bytes());
    DeviceId(id)
}

/// `n` devices from `first`.
pub fn devs(first: u32, n: u32) -> Vec<DeviceId> {
    (first..first + n).map(dev).collect()
}

pub fn plan_digest(n: u8) -> Digest {
    Digest::of(&[n])
}

pub fn rollout_id(n: u8) -> PlanId {
    PlanId::of(&plan_digest(n))
}

pub fn manifest(counter: u64) -> Digest {
    Digest::of(&counter.to_be_bytes())
}

/// A rollout of `app` in waves of these sizes from device 0 on; one receipt opens each gate, no soak, 2 % failed, 3 % dark.
pub fn spec(sizes: &[u32]) -> RolloutSpec {
    let mut next = 0;
    let mut waves: Vec<WaveSpec> = Vec::new();
    for size in sizes {
        waves.push(WaveSpec {
            members: devs(next, *size),
            min_soak_s: 0,
            gate: GateKind::Auto,
            evidence: Evidence::Receipts(u32::from(next > 0)),
        });
        next += size;
    }
    RolloutSpec {
        product: Ident::parse("app").unwrap(),
        version: Version::parse("1.1.0").unwrap(),
        counter: 11,
        manifest: manifest(11),
        seq: 1,
        waves,
        pace: ensign_testkit::pace(),
        not_before: T0,
        expires: T0 + 7 * DAY,
        downgrade: false,
        reverts: None,
        select: "all".to_owned(),
        exclude: Vec::new(),
    }
}

pub struct World {
    pub fleet: Fleet,
    pub now: u64,
    pub log: Vec<Event>,
    receipts: u64,
}

impl World {
    /// Devices `0..n`, approved and connected.
    pub fn new(n: u32) -> Self {
        let mut world = Self {
            fleet: Fleet::new(Policies::default()),
            now: T0,
            log: Vec::new(),
            receipts: 0,
        };
        world.event(Event::Started { at: T0 });
        for i in 0..n {
            world.event(Event::DeviceAdded {
                device: dev(i),
                name: format!("dev{i}"),
                state: DeviceState::Approved,
                at: T0,
            });
            world.connect(i);
        }
        world
    }

    /// An operator's order of now.
    pub fn order(&self, reason: &str) -> Order {
        Order {
            at: self.now,
            by: "ada".to_owned(),
            reason: reason.to_owned(),
        }
    }

    pub fn state_of(&mut self, n: u32, state: DeviceState, reason: &str) {
        self.event(Event::DeviceState {
            device: dev(n),
            state,
            order: self.order(reason),
        });
    }

    pub fn hold(&mut self, n: u32, held: bool, reason: &str) {
        self.event(Event::Held {
            device: dev(n),
            held,
            order: self.order(reason),
        });
    }

    pub fn freeze(&mut self, reason: &str) {
        self.event(Event::Frozen {
            order: self.order(reason),
        });
    }

    pub fn event(&mut self, event: Event) {
        observe(&mut self.fleet, &event);
        self.log.push(event);
    }

    pub fn start(&mut self, n: u8, spec: &RolloutSpec) -> PlanId {
        self.event(Event::RolloutStarted {
            id: rollout_id(n),
            plan: plan_digest(n),
            spec: Box::new(spec.clone()),
            at: self.now,
        });
        rollout_id(n)
    }

    /// Plans and carries out until nothing is left to do; what was done.
    pub fn settle(&mut self) -> Vec<Action> {
        let mut done = Vec::new();
        for _ in 0..10_000 {
            let planned = plan(&self.fleet, self.now);
            assert_eq!(check(&self.fleet, &planned), Vec::<String>::new());
            if planned.actions.is_empty() {
                return done;
            }
            for action in planned.actions {
                self.event(action.event(self.now));
                done.push(action);
            }
        }
        panic!("never settles: {:?}", done.last());
    }

    pub fn wait(&mut self, seconds: u64) -> &mut Self {
        self.now += seconds;
        self
    }

    pub fn connect(&mut self, n: u32) {
        self.event(Event::Connected {
            device: dev(n),
            at: self.now,
        });
    }

    pub fn disconnect(&mut self, n: u32) {
        self.event(Event::Disconnected {
            device: dev(n),
            at: self.now,
        });
    }

    pub fn receipt(&mut self, rollout: u8, n: u32, state: ReceiptState, healthy_for_s: u64) {
        self.receipts += 1;
        let release = self.fleet.rollout(&rollout_id(rollout)).unwrap().spec.manifest;
        self.event(Event::Receipt {
            device: dev(n),
            at: self.now,
            receipt: Receipt {
                format: 1,
                issued: self.now,
                plan: plan_digest(rollout),
                release,
                device: dev(n),
                state,
                healthy_for_s,
                seq: self.receipts,
            },
        });
    }

    pub fn confirm(&mut self, rollout: u8, n: u32) {
        self.receipt(rollout, n, ReceiptState::Confirmed, 5);
    }

    pub fn roll_back(&mut self, rollout: u8, n: u32) {
        let code = Code::Unhealthy;
        self.receipt(rollout, n, ReceiptState::RolledBack { code }, 5);
    }

    pub fn report(&mut self, rollout: u8, n: u32, phase: Phase, reason: Option<Refusal>) {
        let status = working(plan_digest(rollout), phase, reason);
        self.event(Event::Reported {
            device: dev(n),
            at: self.now,
            status,
        });
    }

    /// Devices that were offered something in `actions`.
    pub fn offers(actions: &[Action]) -> Vec<DeviceId> {
        actions
            .iter()
            .filter_map(|a| match a {
                Action::Offer { device, .. } => Some(*device),
                _ => None,
            })
            .collect()
    }

    pub fn status(&self, rollout: u8) -> RolloutStatus {
        status(&self.fleet, &rollout_id(rollout), self.now).unwrap()
    }

    pub fn state(&self, rollout: u8) -> RolloutState {
        self.status(rollout).state
    }

    pub fn reason(&self, rollout: u8) -> Option<Code> {
        self.status(rollout).reason.map(|r| r.code)
    }

    pub fn standing(&self, rollout: u8, n: u32) -> Standing {
        let rollout = self.fleet.rollout(&rollout_id(rollout)).unwrap();
        rollout.member(&dev(n)).unwrap().standing()
    }

    pub fn why(&self, rollout: u8, n: u32) -> Why {
        why(&self.fleet, Some(&rollout_id(rollout)), &dev(n), self.now)
    }

    pub fn desired(&self, n: u32) -> Option<Desired> {
        desired(&self.fleet, &dev(n), self.now)
    }

    pub fn wave(&self, rollout: u8, wave: usize) -> WaveStatus {
        self.status(rollout).waves[wave - 1]
    }
}

pub fn working(plan: Digest, phase: Phase, reason: Option<Refusal>) -> Status {
    Status {
        generation: 1,
        installed: Vec::new(),
        phase,
        plan: Some(plan),
        reason,
        denied: Vec::new(),
        transfer: Transfer::default(),
    }
}

pub fn runs(counter: u64, version: &str) -> Status {
    Status {
        generation: 2,
        installed: vec![Installed {
            product: Ident::parse("app").unwrap(),
            version: Version::parse(version).unwrap(),
            counter,
            manifest: manifest(counter),
            confirmed: true,
            plan: plan_digest(200),
            since: T0,
        }],
        phase: Phase::Confirmed,
        plan: None,
        reason: None,
        denied: Vec::new(),
        transfer: Transfer::default(),
    }
}

/// Every row of the fleet, read back.
pub fn reloaded(fleet: &Fleet) -> Fleet {
    Fleet::from_rows(
        *fleet.policies(),
        &fleet.row(),
        fleet.devices().map(|(id, d)| (*id, d.clone())),
        fleet.rollouts().map(|(id, r)| (*id, r.row())),
        fleet
            .rollouts()
            .flat_map(|(id, r)| r.members().map(|(d, m)| (*id, *d, m.clone()))),
    )
}

/// The rows through the ledger's encoding: what a restarted controller has.
pub fn through_the_ledger(fleet: &Fleet) -> Fleet {
    fn again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        let bytes = ensign_bundle::codec::encode(value).unwrap();
        ensign_bundle::codec::decode(&bytes, 1 << 20).unwrap()
    }
    Fleet::from_rows(
        *fleet.policies(),
        &again(&fleet.row()),
        fleet.devices().map(|(id, d)| (*id, again(d))),
        fleet.rollouts().map(|(id, r)| (*id, again(&r.row()))),
        fleet
            .rollouts()
            .flat_map(|(id, r)| r.members().map(|(d, m)| (*id, *d, again(m)))),
    )
}
