//! The controller as far as rollouts need it: a ledger of events around the real planner, sessions, pushes, crashes.

use std::collections::BTreeMap;

use ensign_bundle::codec;
use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::plan::statements::{Bound, Evidence, GateKind, OnBreach, Pace, Stop};
use ensign_rollout::{
    Action, Counts, DeviceState, Event, Fleet, Policies, Rollout, RolloutSpec, Stage, WaveSpec, check, desired,
    observe, plan,
};

use super::device;
use super::network::{FromDevice, Offer, ToDevice};

/// Soak of each wave, seconds.
pub const SOAK_S: u64 = 120;
/// Devices that update at once.
pub const CAP: u32 = 25;
/// Receipts that open a gate.
const EVIDENCE: u32 = 3;
/// Silence after which a session is ended, seconds.
const IDLE_S: u64 = 120;
/// A lease is renewed once it is this old, seconds.
const RENEW_S: u64 = 300;

#[derive(Debug)]
pub struct Controller {
    pub fleet: Fleet,
    /// Committed, in order: all that a crash leaves.
    ledger: Vec<Event>,
    /// Starts so far: the upper half of every generation, so that those never go back.
    pub life: u64,
    pub crashes: u64,
    /// Commits until it dies.
    pub crash_after: Option<usize>,
    dead: bool,
    devices: Vec<DeviceId>,
    sessions: BTreeMap<DeviceId, Session>,
    outbox: Vec<(DeviceId, ToDevice)>,
    halted: bool,
    generation: u64,
    scheduled: Option<u64>,
}

#[derive(Debug)]
struct Session {
    number: u64,
    heard: u64,
    sent: Option<ToDevice>,
}

pub fn plan_digest() -> Digest {
    Digest::of(b"plan")
}

impl Controller {
    pub fn new(devices: Vec<DeviceId>) -> Self {
        Self {
            fleet: Fleet::new(Policies::default()),
            ledger: Vec::new(),
            life: 0,
            crashes: 0,
            crash_after: None,
            dead: false,
            devices,
            sessions: BTreeMap::new(),
            outbox: Vec::new(),
            halted: false,
            generation: 0,
            scheduled: None,
        }
    }

    pub fn start(&mut self, now: u64) {
        self.commit(Event::Started { at: now });
        for (n, device) in self.devices.clone().into_iter().enumerate() {
            self.commit(Event::DeviceAdded {
                device,
                name: format!("dev{n}"),
                state: DeviceState::Approved,
                at: now,
            });
        }
    }

    /// Waves of a fortieth, a fifth and all devices in the order of their ids.
    pub fn start_rollout(&mut self, now: u64) {
        let wave = |from: usize, to: usize| WaveSpec {
            members: self.devices.get(from..to).unwrap_or_default().to_vec(),
            min_soak_s: SOAK_S,
            gate: GateKind::Auto,
            evidence: Evidence::Receipts(if from == 0 { 0 } else { EVIDENCE }),
        };
        let (few, some, all) = (self.devices.len() / 40, self.devices.len() / 5, self.devices.len());
        let spec = RolloutSpec {
            product: device::product(),
            version: device::version(),
            counter: 11,
            manifest: device::manifest(),
            seq: 1,
            waves: vec![wave(0, few), wave(few, some), wave(some, all)],
            pace: Pace {
                max_parallel: Some(CAP),
                one_per: None,
                rate_per_h: None,
                prefetch: false,
                priority: 0,
                stop: Stop {
                    failed: Bound::BasisPoints(1000),
                    dark: Bound::Count(3),
                    min_sample: 20,
                    dark_after_s: Some(300),
                    quorum_bp: 8000,
                    reach_s: 900,
                    on_breach: OnBreach::Halt,
                },
            },
            not_before: now,
            expires: now + 7 * 24 * 3600,
            downgrade: false,
            reverts: None,
            select: String::new(),
            exclude: Vec::new(),
        };
        self.commit(Event::RolloutStarted {
            id: PlanId::of(&plan_digest()),
            plan: plan_digest(),
            spec: Box::new(spec),
            at: now,
        });
        self.reconcile(now);
    }

    pub fn rollout(&self) -> Option<&Rollout> {
        self.fleet.rollout(&PlanId::of(&plan_digest()))
    }

    pub fn counts(&self) -> Counts {
        self.rollout().map(Rollout::counts).unwrap_or_default()
    }

    /// Done, with nobody left to update.
    pub fn is_finished(&self) -> bool {
        let counts = self.counts();
        let left = counts.pending + counts.active + counts.dark + counts.unreached;
        !self.dead && left == 0 && self.rollout().is_some_and(|r| matches!(r.stage, Stage::Done { .. }))
    }

    /// For a run that does not come to rest.
    pub fn picture(&self, now: u64) -> String {
        let status = ensign_rollout::status(&self.fleet, &PlanId::of(&plan_digest()), now);
        format!("{status:?}")
    }

    pub fn is_dead(&self) -> bool {
        self.dead
    }

    pub fn ledger_digest(&self) -> String {
        let mut bytes = Vec::new();
        for event in &self.ledger {
            bytes.extend(codec::encode(event).unwrap_or_default());
        }
        Digest::of(&bytes).to_string()
    }

    /// The fleet that the ledger alone makes.
    pub fn replayed(&self) -> Fleet {
        let mut fleet = Fleet::new(Policies::default());
        self.ledger.iter().for_each(|event| observe(&mut fleet, event));
        fleet
    }

    /// An operator lets go on what a rule halted.
    pub fn resume(&mut self, now: u64) {
        self.commit(Event::Resumed {
            rollout: PlanId::of(&plan_digest()),
            at: now,
        });
        self.reconcile(now);
    }

    pub fn restart(&mut self, now: u64) {
        if !self.dead {
            // It did not get as far as its last commit: it dies here.
            self.die();
        }
        self.dead = false;
        self.crash_after = None;
        // Every second life begins from rows, the others from the events.
        self.fleet = if self.life.is_multiple_of(2) {
            reload(&self.fleet)
        } else {
            self.replayed()
        };
        // The operator is told again: the news may have died with it.
        self.halted = self.rollout().is_some_and(|r| matches!(r.stage, Stage::Halted { .. }));
        self.commit(Event::Started { at: now });
        self.reconcile(now);
    }

    pub fn heard(&mut self, device: DeviceId, message: FromDevice, now: u64) {
        if self.dead {
            return;
        }
        let session = self.sessions.get(&device).map(|s| s.number);
        if session.is_some_and(|number| message.session < number) {
            return;
        }
        if session != Some(message.session) {
            self.commit(Event::Connected { device, at: now });
            let session = Session {
                number: message.session,
                heard: now,
                sent: None,
            };
            self.sessions.insert(device, session);
        }
        if let Some(session) = self.sessions.get_mut(&device) {
            session.heard = now;
        }
        let mut acknowledged = 0;
        if let Some(report) = message.report {
            acknowledged = report.seq;
            for receipt in report.receipts {
                self.commit(Event::Receipt {
                    device,
                    at: now,
                    receipt,
                });
            }
            self.commit(Event::Reported {
                device,
                at: now,
                status: report.status,
            });
        }
        self.reconcile(now);
        self.tell(device, message.desired, acknowledged, now);
    }

    pub fn wake(&mut self, now: u64) {
        self.scheduled = None;
        if self.dead {
            return;
        }
        let silent: Vec<(DeviceId, u64)> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.heard + IDLE_S <= now)
            .map(|(id, s)| (*id, s.heard))
            .collect();
        for (device, at) in silent {
            self.sessions.remove(&device);
            self.commit(Event::Disconnected { device, at });
        }
        self.reconcile(now);
    }

    /// When it wants to be woken, if that is sooner than what it asked for before.
    pub fn wakeup(&mut self, now: u64) -> Option<u64> {
        if self.dead {
            return None;
        }
        let idle = self.sessions.values().map(|s| s.heard + IDLE_S).min();
        let next = [ensign_rollout::next_wakeup(&self.fleet, now), idle]
            .into_iter()
            .flatten()
            .min()?
            .max(now + 1);
        if self.scheduled.is_some_and(|at| at <= next && at > now) {
            return None;
        }
        self.scheduled = Some(next);
        Some(next)
    }

    pub fn take_messages(&mut self) -> Vec<(DeviceId, ToDevice)> {
        std::mem::take(&mut self.outbox)
    }

    pub fn take_halted(&mut self) -> bool {
        !self.dead && std::mem::take(&mut self.halted)
    }

    /// Plan, commit, until nothing is left; then tell whoever is concerned.
    fn reconcile(&mut self, now: u64) {
        let mut changed = false;
        while !self.dead {
            let planned = plan(&self.fleet, now);
            assert_eq!(check(&self.fleet, &planned), Vec::<String>::new());
            if planned.actions.is_empty() {
                break;
            }
            changed = true;
            for action in planned.actions {
                self.halted |= matches!(action, Action::Halt { .. });
                self.commit(action.event(now));
            }
        }
        if changed {
            let connected: Vec<DeviceId> = self.sessions.keys().copied().collect();
            for device in connected {
                self.tell(device, 0, 0, now);
            }
        }
    }

    /// Sends what is wanted of the device, if it may not know yet.
    fn tell(&mut self, device: DeviceId, has: u64, acknowledged: u64, now: u64) {
        if self.dead {
            return;
        }
        let wanted = desired(&self.fleet, &device, now);
        let Some(session) = self.sessions.get_mut(&device) else {
            return;
        };
        let offer = wanted.map(|d| Offer {
            plan: d.plan,
            wave: d.wave,
            evidence: d.evidence,
            lease: d.lease.then_some(now),
        });
        let same = session
            .sent
            .as_ref()
            .is_some_and(|sent| fresh(sent.offer.as_ref(), offer.as_ref(), now));
        let knows = session
            .sent
            .as_ref()
            .is_some_and(|sent| has == 0 || sent.generation == has);
        if same && knows && acknowledged == 0 {
            return;
        }
        let message = match &session.sent {
            Some(sent) if same => ToDevice {
                acknowledged,
                ..sent.clone()
            },
            _ => {
                self.generation += 1;
                ToDevice {
                    generation: (self.life << 32) + self.generation,
                    offer,
                    acknowledged,
                }
            }
        };
        session.sent = Some(message.clone());
        self.outbox.push((device, message));
    }

    /// Into the ledger, then into the fleet. Nothing is committed after its death.
    fn commit(&mut self, event: Event) {
        if self.dead {
            return;
        }
        observe(&mut self.fleet, &event);
        self.ledger.push(event);
        if let Some(left) = &mut self.crash_after {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => self.die(),
            }
        }
    }

    fn die(&mut self) {
        self.dead = true;
        self.crash_after = None;
        self.crashes += 1;
        self.life += 1;
        self.sessions.clear();
        self.outbox.clear();
        self.halted = false;
        self.scheduled = None;
    }
}

/// The same wish, with a lease that lasts for a while.
fn fresh(sent: Option<&Offer>, wanted: Option<&Offer>, now: u64) -> bool {
    match (sent, wanted) {
        (None, None) => true,
        (Some(sent), Some(wanted)) => {
            let lease = match (sent.lease, wanted.lease) {
                (None, None) => true,
                (Some(at), Some(_)) => now < at + RENEW_S,
                _ => false,
            };
            lease && (sent.plan, sent.wave, &sent.evidence) == (wanted.plan, wanted.wave, &wanted.evidence)
        }
        _ => false,
    }
}

/// Through the ledger's rows and back.
fn reload(fleet: &Fleet) -> Fleet {
    fn again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> Option<T> {
        let bytes = codec::encode(value).ok()?;
        codec::decode(&bytes, 1 << 20).ok()
    }
    let members = fleet
        .rollouts()
        .flat_map(|(id, r)| r.members().map(|(device, m)| (*id, *device, m)));
    Fleet::from_rows(
        *fleet.policies(),
        &fleet.row(),
        fleet.devices().filter_map(|(id, d)| Some((*id, again(d)?))),
        fleet.rollouts().filter_map(|(id, r)| Some((*id, again(&r.row())?))),
        members.filter_map(|(id, device, m)| Some((id, device, again(m)?))),
    )
}
