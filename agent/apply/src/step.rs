//! One event, its records and its actions.

use ensign_bundle::digest::Digest;
use ensign_bundle::effect::Effect;
use ensign_bundle::ids::Ident;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::{Code, Refusal};

use crate::device::{Device, Soak};
use crate::event::{Action, Event};
use crate::generation::Generation;
use crate::record::Record;
use crate::stage::{Stage, Switching, Target, Trial};
use crate::trial::Outlook;
use crate::uptime::Now;

/// Uptimes are recorded at least this often: in a trial, while a soak runs, and otherwise. A power cut loses no more.
const CLOCK_TRIAL_MS: u64 = 10_000;
const CLOCK_SOAK_MS: u64 = 60_000;
const CLOCK_IDLE_MS: u64 = 3_600_000;

/// A step's outcome: the records are already folded into `device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub device: Device,
    pub records: Vec<Record>,
    pub actions: Vec<Action>,
}

impl Device {
    /// What follows from `event`. The same event again gives nothing more.
    #[must_use]
    pub fn step(self, event: Event, now: &Now) -> Step {
        let mut step = Step::at(self);
        match event {
            Event::Met { plan } => {
                if !step.device.known.iter().any(|k| k.plan == plan) {
                    step.record(Record::Met { plan, now: now.clone() });
                }
            }
            Event::Offered(target) => step.offered(target, now),
            Event::Refused { target, reason } => step.refused(target, reason),
            Event::Withdrawn => {
                if matches!(
                    step.device.stage,
                    Stage::Fetching(_) | Stage::Staged(_) | Stage::Waiting(_)
                ) {
                    step.record(Record::Withdrawn);
                }
            }
            Event::Left => {
                if !step.device.stage.is_committed() && step.device.owes_a_fleet() {
                    step.record(Record::Left);
                }
            }
            Event::Staged { manifest, prepared } => {
                if matches!(&step.device.stage, Stage::Fetching(s) if s.target.manifest.digest == manifest) {
                    step.record(Record::Staged(prepared));
                }
            }
            Event::StagingFailed { manifest, reason } => step.staging_failed(manifest, reason, now),
            Event::Tampered { manifest } => {
                if let (Some(target), Some(_)) = (step.device.stage.target().cloned(), step.device.stage.prepared())
                    && target.manifest.digest == manifest
                {
                    step.record(Record::Offered(target));
                }
            }
            Event::WayBackBlocked { reason } => step.way_back_blocked(reason, now),
            Event::Cleared { contact } => step.cleared(contact, now),
            Event::Switched => step.switched(now),
            Event::SwitchFailed { reason } => {
                if let Stage::Switching(s) = &step.device.stage {
                    let (target, from, to) = (s.target.clone(), s.to, s.from);
                    step.record(Record::RollingBack {
                        target,
                        from,
                        to,
                        reason,
                    });
                }
            }
            Event::Probed { failure } => step.probed(failure.as_deref(), now),
            Event::Overdue { pending } => step.overdue(&pending, now),
            Event::UnitFailed { text } => {
                if let Stage::Trial(trial) = &step.device.stage {
                    let back = back(trial, Refusal::new(Code::UnitFailed, text));
                    step.record(back);
                }
            }
            Event::SwitchedBack => step.switched_back(now),
            Event::RollbackAsked { reason } => step.rollback_asked(&reason),
            Event::Acknowledged { report } => {
                // Of a report that was never made: whoever says so has none of them.
                if report <= step.device.report && step.device.receipts.iter().any(|r| r.report <= report) {
                    step.record(Record::Acknowledged { report });
                }
            }
            Event::DenialsCleared { manifest } => {
                if step
                    .device
                    .denied
                    .iter()
                    .any(|d| manifest.is_none_or(|m| m == d.manifest))
                {
                    step.record(Record::DenialsCleared { manifest });
                }
            }
            Event::Locked(lock) => {
                if step.device.lock.as_ref() != Some(&lock) {
                    step.record(Record::Locked(lock));
                }
            }
            Event::Unlocked => {
                if step.device.lock.is_some() {
                    step.record(Record::Unlocked);
                }
            }
            Event::Forgotten { mut generations } => {
                generations.retain(|number| step.device.generation(*number).is_some() && !step.device.needs(*number));
                if !generations.is_empty() {
                    step.record(Record::Forgotten { generations });
                }
            }
            Event::Tick => step.tick(now),
        }
        step.finish()
    }

    /// What is to be done now, whatever happened before: the same after a restart as without one.
    pub fn duty(&self) -> Option<Action> {
        match &self.stage {
            Stage::Fetching(_) => Some(Action::Fetch),
            Stage::Staged(_) => Some(Action::AskAgain),
            Stage::Waiting(s) => s.prepared.as_ref().map(|_| Action::AskAgain),
            Stage::Switching(s) => Some(Action::Switch { from: s.from, to: s.to }),
            Stage::Trial(_) => Some(Action::Watch),
            Stage::RollingBack(s) => Some(Action::SwitchBack { from: s.from, to: s.to }),
            Stage::Idle | Stage::Confirmed(_) | Stage::RolledBack(_) | Stage::Rejected(_) => None,
        }
    }

    /// Milliseconds until time alone changes something; None = never.
    pub fn next_tick_ms(&self, now: &Now) -> Option<u64> {
        let running = self.running()?;
        let recorded = running
            .products
            .iter()
            .map(|p| self.clock_interval_ms().saturating_sub(p.uptime.unrecorded_ms(now)))
            .min();
        let soaked = self.soak.as_ref().and_then(|soak| {
            let product = running.product(&soak.target.product)?;
            Some((soak.target.min_soak_s * 1000).saturating_sub(product.uptime.elapsed_ms(now)))
        });
        [recorded, soaked].into_iter().flatten().min()
    }

    /// Milliseconds until a trial is over, whether or not another round of probes ends: then [`Event::Overdue`] ends it. None = no trial.
    pub fn trial_left_ms(&self, now: &Now) -> Option<u64> {
        let Stage::Trial(trial) = &self.stage else {
            return None;
        };
        Some(trial.watch.over_at_ms(&trial.policy).saturating_sub(self.trial_ms(now)))
    }

    /// How long the trial has lasted, milliseconds.
    pub fn trial_ms(&self, now: &Now) -> u64 {
        let Stage::Trial(trial) = &self.stage else { return 0 };
        self.generation(trial.to)
            .and_then(|g| g.product(&trial.target.product))
            .map_or(0, |p| p.uptime.elapsed_ms(now))
    }

    fn clock_interval_ms(&self) -> u64 {
        match (&self.stage, &self.soak) {
            (Stage::Trial(_), _) => CLOCK_TRIAL_MS,
            (_, Some(_)) => CLOCK_SOAK_MS,
            (_, None) => CLOCK_IDLE_MS,
        }
    }

    /// Seconds since the running release of `product` was switched to.
    pub fn healthy_for_s(&self, product: &Ident, now: &Now) -> u64 {
        self.product(product).map_or(0, |p| p.uptime.elapsed_ms(now) / 1000)
    }
}

impl Step {
    pub(crate) fn at(device: Device) -> Self {
        Self {
            device,
            records: Vec::new(),
            actions: Vec::new(),
        }
    }

    pub(crate) fn record(&mut self, record: Record) {
        let report = self.device.report;
        self.device.apply(&record);
        if self.device.report != report && !self.actions.contains(&Action::Report) {
            self.actions.push(Action::Report);
        }
        self.records.push(record);
    }

    /// The duty of a new stage comes before telling about it.
    pub(crate) fn finish(mut self) -> Self {
        if self.records.iter().any(Record::moves)
            && let Some(duty) = self.device.duty()
        {
            self.actions.insert(0, duty);
        }
        self
    }

    fn offered(&mut self, target: Target, now: &Now) {
        if self.device.stage.is_committed() {
            return;
        }
        let manifest = target.manifest.digest;
        let runs = self
            .device
            .product(&target.product)
            .is_some_and(|p| p.confirmed && p.manifest == manifest);
        if runs {
            if !matches!(&self.device.stage, Stage::Confirmed(s) if s.target.same(&target)) {
                self.record(Record::Running(target.clone()));
                self.receipt(&target, ReceiptState::Confirmed, now);
                self.soak(now);
            }
            return;
        }
        let same = match &self.device.stage {
            Stage::Fetching(s) => s.target.same(&target),
            Stage::Staged(s) => s.target.same(&target),
            // Waiting for something that came before any fetching ends with the offer that passes.
            Stage::Waiting(s) => s.prepared.is_some() && s.target.same(&target),
            _ => false,
        };
        if !same {
            self.record(Record::Offered(target));
        }
    }

    fn refused(&mut self, target: Option<Target>, reason: Refusal) {
        if self.device.stage.is_committed() {
            return;
        }
        let same = |other: &Target| target.as_ref().is_some_and(|t| t.same(other));
        if let Stage::Waiting(s) = &mut self.device.stage
            && same(&s.target)
            && s.reason.code == reason.code
            && says_the_same(&s.reason.text, &reason.text)
        {
            // What counts up or down would fill the journal: it is not recorded, and is told with the next report.
            s.reason = reason;
            return;
        }
        let told = match &self.device.stage {
            // What became of it says more than why it could not be started now.
            Stage::Confirmed(s) => same(&s.target),
            Stage::RolledBack(s) => same(&s.target),
            Stage::Rejected(s) => s.target == target && s.reason == reason,
            _ => false,
        };
        if told {
            return;
        }
        match target {
            Some(target) if reason.code.effect() == Effect::Waits => self.record(Record::Waiting { target, reason }),
            target => self.record(Record::Rejected { target, reason }),
        }
    }

    fn staging_failed(&mut self, manifest: Digest, reason: Refusal, now: &Now) {
        let Stage::Fetching(fetching) = &self.device.stage else {
            return;
        };
        if fetching.target.manifest.digest != manifest {
            return;
        }
        let target = fetching.target.clone();
        self.fail(&target, reason, now);
    }

    /// Ends the attempt before anything was switched.
    fn fail(&mut self, target: &Target, reason: Refusal, now: &Now) {
        let code = reason.code;
        self.deny_if_at_fault(target, code);
        self.record(Record::Rejected {
            target: Some(target.clone()),
            reason,
        });
        self.receipt(target, ReceiptState::Failed { code }, now);
        self.actions.push(Action::Collect);
    }

    /// A release that failed for a reason of its own is not tried again; one that the device's surroundings stopped is.
    fn deny_if_at_fault(&mut self, target: &Target, code: Code) {
        if code.effect() == Effect::Release {
            self.record(Record::Denied {
                manifest: target.manifest.digest,
                code,
            });
        }
    }

    fn cleared(&mut self, contact: bool, now: &Now) {
        let Some(prepared) = self.device.stage.prepared().cloned() else {
            return;
        };
        let Some(target) = self.device.stage.target().cloned() else {
            return;
        };
        if let Some(reason) = self.device.in_circles() {
            self.fail(&target, reason, now);
            return;
        }
        let number = self.device.newest.max(self.device.current) + 1;
        let to = Generation::next(number, self.device.running(), &target, &prepared, now);
        self.record(Record::Switching {
            to: Box::new(to),
            policy: prepared.policy,
            contact,
        });
    }

    fn switched(&mut self, now: &Now) {
        if !matches!(self.device.stage, Stage::Switching(_)) {
            return;
        }
        self.record(Record::Switched(now.clone()));
        if let Stage::Trial(Trial { policy, .. }) = &self.device.stage
            && !policy.probed
        {
            self.confirm(now);
        }
    }

    fn probed(&mut self, failure: Option<&str>, now: &Now) {
        let elapsed_ms = self.device.trial_ms(now);
        let Stage::Trial(trial) = &mut self.device.stage else {
            return;
        };
        match trial.watch.round(&trial.policy, elapsed_ms, failure) {
            Outlook::Watching => self.tick(now),
            Outlook::Confirmed => self.confirm(now),
            Outlook::Failed(reason) => {
                let back = back(trial, reason);
                self.record(back);
            }
        }
    }

    fn overdue(&mut self, pending: &str, now: &Now) {
        let elapsed_ms = self.device.trial_ms(now);
        if let Stage::Trial(trial) = &self.device.stage
            && let Outlook::Failed(reason) = trial.watch.overdue(&trial.policy, elapsed_ms, pending)
        {
            let back = back(trial, reason);
            self.record(back);
        }
    }

    fn confirm(&mut self, now: &Now) {
        let Some(target) = self.device.stage.target().cloned() else {
            return;
        };
        self.record(Record::Confirmed(now.clone()));
        self.receipt(&target, ReceiptState::Confirmed, now);
        self.soak(now);
        self.actions.push(Action::Collect);
    }

    fn switched_back(&mut self, now: &Now) {
        let Stage::RollingBack(s) = &self.device.stage else {
            return;
        };
        let (target, code) = (s.target.clone(), s.reason.code);
        self.deny_if_at_fault(&target, code);
        self.record(Record::RolledBack(now.clone()));
        self.receipt(&target, ReceiptState::RolledBack { code }, now);
        self.actions.push(Action::Collect);
    }

    fn way_back_blocked(&mut self, reason: Refusal, now: &Now) {
        let Stage::RollingBack(s) = &self.device.stage else {
            return;
        };
        let (target, generation, code) = (s.target.clone(), s.from, reason.code);
        let first = s.reason.code;
        self.deny_if_at_fault(&target, first);
        self.record(Record::Stayed { generation, reason });
        self.receipt(&target, ReceiptState::Failed { code }, now);
    }

    fn rollback_asked(&mut self, reason: &str) {
        let reason = Refusal::new(Code::OperatorRollback, reason);
        match &self.device.stage {
            Stage::Switching(Switching { target, from, to, .. }) | Stage::Trial(Trial { target, from, to, .. }) => {
                let (target, from, to) = (target.clone(), *to, *from);
                self.record(Record::RollingBack {
                    target,
                    from,
                    to,
                    reason,
                });
            }
            Stage::RollingBack(_) => {}
            _ => {
                if let Some(target) = self.device.newest_target() {
                    let (from, to) = (self.device.current, self.device.previous());
                    if to != 0 {
                        self.record(Record::RollingBack {
                            target,
                            from,
                            to,
                            reason,
                        });
                    }
                }
            }
        }
    }

    fn tick(&mut self, now: &Now) {
        let interval = self.device.clock_interval_ms();
        let due = self
            .device
            .running()
            .into_iter()
            .flat_map(|g| &g.products)
            .any(|p| p.uptime.unrecorded_ms(now) >= interval);
        if due {
            self.record(Record::Clock(now.clone()));
        }
        self.soak(now);
        if self.device.lock.as_ref().is_some_and(|l| l.until <= now.unix_s) {
            self.record(Record::Unlocked);
        }
    }

    /// Signs again when the soak of the plan is reached.
    fn soak(&mut self, now: &Now) {
        let Some(Soak { target }) = self.device.soak.clone() else {
            return;
        };
        let healthy_for_s = self.device.healthy_for_s(&target.product, now);
        if healthy_for_s < target.min_soak_s {
            return;
        }
        self.record(Record::Soaked);
        let said = self.device.receipts.iter().any(|r| {
            r.plan == target.plan && r.state == ReceiptState::Confirmed && r.healthy_for_s >= target.min_soak_s
        });
        if !said && target.min_soak_s > 0 {
            self.receipt(&target, ReceiptState::Confirmed, now);
        }
    }

    fn receipt(&mut self, target: &Target, state: ReceiptState, now: &Now) {
        let runs = self
            .device
            .product(&target.product)
            .is_some_and(|p| p.manifest == target.manifest.digest);
        let healthy_for_s = if runs {
            self.device.healthy_for_s(&target.product, now)
        } else {
            0
        };
        self.record(Record::Receipt {
            plan: target.plan,
            release: target.manifest.digest,
            state,
            healthy_for_s,
            issued: now.unix_s,
        });
    }
}

impl Device {
    /// The release that the running generation brought.
    fn newest_target(&self) -> Option<Target> {
        let running = self.running()?;
        let parent = self.generation(running.parent);
        let product = running.products.iter().find(|p| {
            parent
                .and_then(|g| g.product(&p.product))
                .is_none_or(|o| o.manifest != p.manifest)
        })?;
        Some(Target {
            plan: product.plan,
            product: product.product.clone(),
            version: product.version.clone(),
            counter: product.counter,
            manifest: ensign_bundle::trust::roles::FileRef {
                digest: product.manifest,
                length: 0,
            },
            min_soak_s: 0,
            health: None,
        })
    }
}

impl Record {
    /// True where the stage may have changed.
    fn moves(&self) -> bool {
        self.is_edge() || matches!(self, Self::Offered(_) | Self::Waiting { .. })
    }
}

/// Whether two texts differ in numbers at most.
fn says_the_same(one: &str, other: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    words(one) == words(other)
}

/// The way back out of a trial.
fn back(trial: &Trial, reason: Refusal) -> Record {
    Record::RollingBack {
        target: trial.target.clone(),
        from: trial.to,
        to: trial.from,
        reason,
    }
}
