//! A device: the real apply machine with its journal, and a link that reports until it is acknowledged.

use ensign_apply::{Action, Component, Event, Now, Policy, Prepared, Reality, Record, Stage, Target};
use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::plan::evidence::Receipt;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::trust::roles::FileRef;
use ensign_bundle::wire::{Installed, Status, Transfer};

use super::network::{FromDevice, Offer, Report, ToDevice, Work};
use super::{START, controller};

/// The link shows that it lives at least this often.
const TIMER_MS: u64 = 45_000;
/// A lease, seconds of boot clock.
const LEASE_S: u64 = 900;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    Good,
    /// The release fails its probes here.
    Bad,
    /// Falls silent in its trial.
    Silent,
}

/// What a device wants done: work that ends after so many milliseconds, messages.
#[derive(Debug, Default)]
pub struct Todo {
    pub work: Vec<(u64, Work)>,
    pub send: Vec<FromDevice>,
}

#[derive(Debug)]
pub struct VirtualDevice {
    pub id: DeviceId,
    pub nature: Nature,
    pub on: bool,
    pub boot: u32,
    machine: ensign_apply::Device,
    /// Survives power cuts; the machine is what it folds to.
    journal: Vec<Record>,
    /// Where `current` points: survives too.
    current: u64,
    booted_ms: u64,
    session: u64,
    desired: u64,
    offer: Option<Offer>,
    /// When the lease in hand came.
    leased_ms: Option<u64>,
    acknowledged: u64,
    /// When the next tick of the applier is due, if one is.
    tick_ms: Option<u64>,
    /// Every receipt that its applier ever signed: what evidence is checked against.
    pub signed: Vec<Receipt>,
    /// Switches so far, each with the offer it was based on.
    pub switches: Vec<Offer>,
}

impl VirtualDevice {
    pub fn new(n: u32, nature: Nature) -> Self {
        let id = DeviceId(Digest::of(&n.to_be_bytes()).0);
        Self {
            id,
            nature,
            on: false,
            boot: 0,
            machine: ensign_apply::Device::default(),
            journal: Vec::new(),
            current: 0,
            booted_ms: 0,
            session: 0,
            desired: 0,
            offer: None,
            leased_ms: None,
            acknowledged: 0,
            tick_ms: None,
            signed: Vec::new(),
            switches: Vec::new(),
        }
    }

    pub fn machine(&self) -> &ensign_apply::Device {
        &self.machine
    }

    /// Nothing is going on and nothing is left to say.
    pub fn is_quiet(&self) -> bool {
        self.on && self.machine.duty().is_none() && self.machine.receipts.is_empty()
    }

    pub fn power_on(&mut self, now_ms: u64) -> Todo {
        if self.on {
            return Todo::default();
        }
        self.on = true;
        self.boot += 1;
        self.booted_ms = now_ms;
        self.session += 1;
        self.offer = None;
        self.leased_ms = None;
        self.acknowledged = 0;
        self.tick_ms = None;
        let mut machine = ensign_apply::Device::default();
        self.journal.iter().for_each(|record| machine.apply(record));
        let now = self.now(now_ms);
        let step = machine.resume(Reality { current: self.current }, &now);
        let mut todo = self.take(step, now_ms);
        // Right after its start it says who it is.
        todo.send.push(self.message(true));
        todo.work.push((TIMER_MS, Work::Timer));
        todo
    }

    pub fn power_off(&mut self) -> Todo {
        self.on = false;
        Todo::default()
    }

    /// A message of the controller. Older wishes than the one in hand are ignored.
    pub fn told(&mut self, message: &ToDevice, now_ms: u64) -> Todo {
        if !self.on {
            return Todo::default();
        }
        self.acknowledged = self.acknowledged.max(message.acknowledged);
        let event = Event::Acknowledged {
            report: message.acknowledged,
        };
        let mut todo = self.step(event, now_ms);
        if message.generation < self.desired {
            return todo;
        }
        self.desired = message.generation;
        self.offer.clone_from(&message.offer);
        self.leased_ms = message.offer.as_ref().and_then(|o| o.lease).map(|_| now_ms);
        let event = match &self.offer {
            Some(offer) if self.machine.denied.iter().any(|d| d.manifest == manifest()) => Event::Refused {
                target: Some(target(offer.plan)),
                reason: Refusal::new(Code::Denied, "it failed on this device before"),
            },
            Some(offer) => Event::Offered(target(offer.plan)),
            None => Event::Withdrawn,
        };
        let more = self.step(event, now_ms);
        todo.work.extend(more.work);
        todo.send.extend(more.send);
        if self.machine.duty() == Some(Action::AskAgain) {
            todo.work.push((0, Work::Duty(Action::AskAgain)));
        }
        todo
    }

    pub fn work(&mut self, boot: u32, work: &Work, now_ms: u64) -> Todo {
        if !self.on || boot != self.boot {
            return Todo::default();
        }
        match work {
            Work::Timer => {
                let mut todo = self.step(Event::Tick, now_ms);
                todo.send.push(self.message(self.machine.report > self.acknowledged));
                todo.work.push((TIMER_MS, Work::Timer));
                todo
            }
            Work::Tick => {
                self.tick_ms = None;
                self.step(Event::Tick, now_ms)
            }
            Work::Duty(action) if self.machine.duty().as_ref() == Some(action) => self.does(action, now_ms),
            Work::Duty(_) => Todo::default(),
        }
    }

    fn does(&mut self, action: &Action, now_ms: u64) -> Todo {
        let event = match action {
            Action::Fetch => Event::Staged {
                manifest: manifest(),
                prepared: prepared(),
            },
            Action::AskAgain => {
                let leased = self.leased_ms.is_some_and(|at| now_ms < at + LEASE_S * 1000);
                let stage = self.machine.stage.target().cloned();
                match (&self.offer, stage) {
                    (Some(offer), Some(target)) if leased && offer.plan == target.plan => {
                        self.switches.push(offer.clone());
                        Event::Cleared { contact: true }
                    }
                    (_, target) => Event::Refused {
                        target,
                        reason: Refusal::new(Code::LeaseMissing, "no lease"),
                    },
                }
            }
            Action::Switch { to, .. } => {
                self.current = *to;
                Event::Switched
            }
            Action::Watch => {
                if self.nature == Nature::Silent {
                    return self.power_off();
                }
                let bad = self.nature == Nature::Bad;
                let mut todo = self.step(
                    Event::Probed {
                        failure: bad.then(|| "exit 1".to_owned()),
                    },
                    now_ms,
                );
                if matches!(self.machine.stage, Stage::Trial(_)) {
                    todo.work.push((1000, Work::Duty(Action::Watch)));
                }
                return todo;
            }
            Action::SwitchBack { to, .. } => {
                self.current = *to;
                Event::SwitchedBack
            }
            Action::Repoint { .. } | Action::Report | Action::Collect => return Todo::default(),
        };
        self.step(event, now_ms)
    }

    fn step(&mut self, event: Event, now_ms: u64) -> Todo {
        let now = self.now(now_ms);
        let step = std::mem::take(&mut self.machine).step(event, &now);
        self.take(step, now_ms)
    }

    /// Journal first, then act, then tell.
    fn take(&mut self, step: ensign_apply::Step, now_ms: u64) -> Todo {
        self.machine = step.device;
        for record in &step.records {
            if let Record::Receipt { .. } = record
                && let Some(statement) = self.machine.receipts.last()
            {
                self.signed.push(receipt(self.id, statement));
            }
        }
        self.journal.extend(step.records);
        let mut todo = Todo::default();
        for action in step.actions {
            match action {
                Action::Report => {
                    let message = self.message(true);
                    todo.send.push(message);
                }
                Action::Repoint { to } => self.current = to,
                Action::Collect => {}
                duty => todo.work.push((duration_ms(&duty), Work::Duty(duty))),
            }
        }
        if let Some(wait) = self.machine.next_tick_ms(&self.now(now_ms)) {
            let at = now_ms + wait.max(1);
            if self.tick_ms.is_none_or(|earlier| at < earlier) {
                self.tick_ms = Some(at);
                todo.work.push((at - now_ms, Work::Tick));
            }
        }
        todo
    }

    fn message(&self, with_report: bool) -> FromDevice {
        FromDevice {
            session: self.session,
            desired: self.desired,
            report: with_report.then(|| Report {
                seq: self.machine.report,
                status: self.status(),
                receipts: self.machine.receipts.iter().map(|s| receipt(self.id, s)).collect(),
            }),
        }
    }

    fn status(&self) -> Status {
        let stage = &self.machine.stage;
        let products = self
            .machine
            .running()
            .map(|g| g.products.as_slice())
            .unwrap_or_default();
        Status {
            generation: self.machine.current,
            installed: products
                .iter()
                .map(|p| Installed {
                    product: p.product.clone(),
                    version: p.version.clone(),
                    counter: p.counter,
                    manifest: p.manifest,
                    confirmed: p.confirmed,
                    plan: p.plan,
                    since: p.since,
                })
                .collect(),
            phase: stage.phase(),
            plan: stage.target().map(|t| t.plan),
            reason: stage.reason().cloned(),
            denied: Vec::new(),
            transfer: Transfer::default(),
        }
    }

    fn now(&self, now_ms: u64) -> Now {
        Now {
            unix_s: START + now_ms / 1000,
            boot: format!("boot-{}", self.boot),
            boot_ms: now_ms - self.booted_ms,
        }
    }
}

/// How long each thing takes here, milliseconds.
fn duration_ms(action: &Action) -> u64 {
    match action {
        Action::Fetch => 20_000,
        Action::Switch { .. } | Action::SwitchBack { .. } => 3000,
        Action::Watch => 1000,
        _ => 10,
    }
}

fn receipt(device: DeviceId, statement: &ensign_apply::Statement) -> Receipt {
    Receipt {
        format: 1,
        issued: statement.issued,
        plan: statement.plan,
        release: statement.release,
        device,
        state: statement.state.clone(),
        healthy_for_s: statement.healthy_for_s,
        seq: statement.seq,
    }
}

/// Digest of the one release.
pub fn manifest() -> Digest {
    Digest::of(b"manifest")
}

fn target(plan: Digest) -> Target {
    Target {
        plan,
        product: product(),
        version: version(),
        counter: 11,
        manifest: FileRef {
            digest: manifest(),
            length: 1,
        },
        min_soak_s: controller::SOAK_S,
        health: None,
    }
}

#[expect(clippy::expect_used, reason = "a constant that fits the grammar")]
pub fn product() -> Ident {
    Ident::parse("app").expect("a name")
}

#[expect(clippy::expect_used, reason = "a constant that fits the grammar")]
pub fn version() -> Version {
    Version::parse("1.1.0").expect("a version")
}

fn prepared() -> Prepared {
    Prepared {
        components: vec![Component {
            product: product(),
            name: product(),
            tree: Digest::of(b"tree"),
            units: Vec::new(),
        }],
        policy: Policy {
            window_ms: 5000,
            deadline_ms: 60_000,
            probed: true,
        },
    }
}
