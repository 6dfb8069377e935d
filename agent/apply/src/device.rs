//! The device as its journal has it.

use ensign_bundle::digest::Digest;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::{Code, Refusal};
use serde::{Deserialize, Serialize};

use crate::generation::{Generation, Product};
use crate::record::Record;
use crate::stage::{
    Confirmed, Fetching, Rejected, RolledBack, RollingBack, Stage, Staged, Switching, Target, Trial, Waiting,
};
use crate::trial::Watch;
use crate::uptime::{Now, Uptime};

/// Journal edges of one attempt. A normal one has five; an attempt that needs more goes in circles.
pub(crate) const EDGES: u32 = 64;
/// Receipts of one report, the oldest: 64 KiB is one frame, a receipt at most 4 KiB. The others wait until these are acknowledged.
pub const REPORT_RECEIPTS: usize = 12;
/// Receipts kept for a controller that does not answer; the oldest go first.
const RECEIPTS: usize = 64;

/// Plans whose dwell is kept: one runs at a time, one may be prepared.
const KNOWN: usize = 8;

/// Everything that the journal says. [`Device::apply`] is the only thing that changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub stage: Stage,
    /// The boot in which the processes last started.
    pub boot: String,
    /// Number of the attempt that the stage belongs to.
    pub attempt: u64,
    /// Edges of this attempt so far.
    pub edges: u32,
    /// Generation that `current` should point at; 0 = none.
    pub current: u64,
    /// Highest generation number ever used.
    pub newest: u64,
    /// The ones that still stand on the disk.
    pub generations: Vec<Generation>,
    pub denied: Vec<Denied>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
    /// Not acknowledged yet, oldest first.
    pub receipts: Vec<Statement>,
    pub receipt_seq: u64,
    /// The plan whose soak is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Soak>,
    /// The newest plans, oldest first.
    pub known: Vec<Known>,
    /// Grows with everything that the controller should hear of.
    pub report: u64,
}

/// A release that failed here and is not tried again until someone says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    pub manifest: Digest,
    pub code: Code,
    pub count: u32,
}

/// The device's own say: nothing switches before `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    pub reason: String,
    /// Wall clock, seconds since 1970.
    pub until: u64,
}

/// A receipt before it is signed: with the device's id it is the whole body. Signatures are deterministic, so it is signed
/// whenever it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    pub plan: Digest,
    pub release: Digest,
    pub state: ReceiptState,
    pub healthy_for_s: u64,
    pub issued: u64,
    pub seq: u64,
    /// The first report that carries it; [`u64::MAX`] while none does, for want of room.
    pub report: u64,
}

/// A plan and how long this device has known it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub plan: Digest,
    pub dwell: Uptime,
}

/// A confirmed release whose plan asks for more time before its receipt counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Soak {
    pub target: Target,
}

impl Device {
    /// The generation that runs.
    pub fn running(&self) -> Option<&Generation> {
        self.generation(self.current)
    }

    /// One that still stands on the disk.
    pub fn generation(&self, number: u64) -> Option<&Generation> {
        self.generations.iter().find(|g| g.number == number)
    }

    /// The running release of a product.
    pub fn product(&self, product: &ensign_bundle::ids::Ident) -> Option<&Product> {
        self.running().and_then(|g| g.product(product))
    }

    /// Where a rollback would go; 0 = nowhere.
    pub fn previous(&self) -> u64 {
        self.running()
            .map(|running| running.parent)
            .filter(|parent| self.generation(*parent).is_some())
            .unwrap_or(0)
    }

    /// Seconds since this device first verified the plan.
    pub fn dwell_s(&self, plan: &Digest, now: &Now) -> u64 {
        let known = self.known.iter().find(|k| k.plan == *plan);
        known.map_or(0, |k| k.dwell.elapsed_ms(now) / 1000)
    }

    /// True for generations that run, that a rollback would go to, or that the attempt moves between.
    pub fn needs(&self, number: u64) -> bool {
        let moves = match &self.stage {
            Stage::Switching(Switching { from, to, .. })
            | Stage::Trial(Trial { from, to, .. })
            | Stage::RollingBack(RollingBack { from, to, .. }) => number == *from || number == *to,
            _ => false,
        };
        moves || number == self.current || self.running().is_some_and(|g| g.parent == number)
    }

    /// Folds one fact in. Total: a record that does not fit the stage changes what it can and never panics.
    pub fn apply(&mut self, record: &Record) {
        if record.is_edge() {
            self.edges = self.edges.saturating_add(1);
        }
        if record.is_news() {
            self.report += 1;
        }
        match record {
            Record::Snapshot(device) => *self = (**device).clone(),
            Record::Started(now) => {
                if self.boot != now.boot
                    && let Stage::Switching(Switching { boots, .. }) | Stage::Trial(Trial { boots, .. }) =
                        &mut self.stage
                {
                    *boots = boots.saturating_add(1);
                }
                self.boot.clone_from(&now.boot);
                self.carry(now);
            }
            Record::Clock(now) => self.carry(now),
            Record::Offered(target) => {
                self.attempt += 1;
                self.edges = 0;
                self.stage = Stage::Fetching(Fetching { target: target.clone() });
            }
            Record::Running(target) => self.confirm(target.clone()),
            Record::Withdrawn => self.stage = Stage::Idle,
            Record::Rejected { target, reason } => {
                self.stage = Stage::Rejected(Rejected {
                    target: target.clone(),
                    reason: reason.clone(),
                });
            }
            Record::Staged(prepared) => {
                if let Some(target) = self.stage.target().cloned() {
                    self.stage = Stage::Staged(Staged {
                        target,
                        prepared: prepared.clone(),
                    });
                }
            }
            Record::Waiting { target, reason } => {
                let prepared = self
                    .stage
                    .prepared()
                    .filter(|_| self.stage.target().is_some_and(|t| t.same(target)))
                    .cloned();
                self.stage = Stage::Waiting(Waiting {
                    target: target.clone(),
                    prepared,
                    reason: reason.clone(),
                });
            }
            Record::Switching { to, policy, contact } => {
                if let Some(target) = self.stage.target().cloned() {
                    self.newest = self.newest.max(to.number);
                    self.generations.retain(|g| g.number != to.number);
                    self.generations.push((**to).clone());
                    self.stage = Stage::Switching(Switching {
                        target,
                        policy: *policy,
                        from: self.current,
                        to: to.number,
                        boots: 0,
                        contact: *contact,
                    });
                }
            }
            Record::Switched(now) => {
                if let Stage::Switching(s) = std::mem::take(&mut self.stage) {
                    self.current = s.to;
                    self.carry(now);
                    self.stage = Stage::Trial(Trial {
                        target: s.target,
                        policy: s.policy,
                        from: s.from,
                        to: s.to,
                        boots: s.boots,
                        contact: s.contact,
                        watch: Watch::default(),
                    });
                }
            }
            Record::Confirmed(now) => {
                self.carry(now);
                if let Some(target) = self.stage.target().cloned() {
                    if let Some(product) = self.running_mut().and_then(|g| g.product_mut(&target.product)) {
                        product.confirmed = true;
                    }
                    self.confirm(target);
                }
            }
            Record::RollingBack {
                target,
                from,
                to,
                reason,
            } => {
                self.soak = None;
                self.stage = Stage::RollingBack(RollingBack {
                    target: target.clone(),
                    from: *from,
                    to: *to,
                    reason: reason.clone(),
                });
            }
            Record::RolledBack(now) => {
                if let Stage::RollingBack(s) = std::mem::take(&mut self.stage) {
                    self.current = s.to;
                    self.generations.retain(|g| g.number != s.from);
                    // What stood still since the switch goes on from here.
                    for product in self.running_mut().into_iter().flat_map(|g| &mut g.products) {
                        product.uptime = product.uptime.resumed(now);
                    }
                    self.stage = Stage::RolledBack(RolledBack {
                        target: s.target,
                        reason: s.reason,
                    });
                }
            }
            Record::Stayed { generation, reason } => {
                self.current = *generation;
                self.stage = Stage::Rejected(Rejected {
                    target: self.stage.target().cloned(),
                    reason: reason.clone(),
                });
            }
            Record::Receipt {
                plan,
                release,
                state,
                healthy_for_s,
                issued,
            } => {
                self.receipt_seq += 1;
                self.receipts.push(Statement {
                    plan: *plan,
                    release: *release,
                    state: state.clone(),
                    healthy_for_s: *healthy_for_s,
                    issued: *issued,
                    seq: self.receipt_seq,
                    report: u64::MAX,
                });
                if self.receipts.len() > RECEIPTS {
                    self.receipts.remove(0);
                }
                self.carry_receipts();
            }
            Record::Soaked => self.soak = None,
            Record::Acknowledged { report } => {
                self.receipts.retain(|r| r.report > *report);
                if self.receipts.iter().take(REPORT_RECEIPTS).any(|r| r.report == u64::MAX) {
                    // Another report than the one that was acknowledged.
                    self.report += 1;
                    self.carry_receipts();
                }
            }
            Record::Denied { manifest, code } => match self.denied.iter_mut().find(|d| d.manifest == *manifest) {
                Some(denied) => {
                    denied.code = *code;
                    denied.count = denied.count.saturating_add(1);
                }
                None => self.denied.push(Denied {
                    manifest: *manifest,
                    code: *code,
                    count: 1,
                }),
            },
            Record::DenialsCleared { manifest } => {
                self.denied.retain(|d| manifest.is_some_and(|m| m != d.manifest));
            }
            Record::Locked(lock) => self.lock = Some(lock.clone()),
            Record::Unlocked => self.lock = None,
            Record::Met { plan, now } => {
                self.known.push(Known {
                    plan: *plan,
                    dwell: Uptime::start(now),
                });
                if self.known.len() > KNOWN {
                    self.known.remove(0);
                }
            }
            Record::Left => {
                if !self.stage.is_committed() {
                    self.stage = Stage::Idle;
                }
                self.receipts.clear();
                self.known.clear();
                self.denied.clear();
                self.soak = None;
            }
            Record::Forgotten { generations } => self.generations.retain(|g| !generations.contains(&g.number)),
        }
    }

    /// True while there is anything that a fleet wanted or is to be told: none of it is another fleet's business.
    pub(crate) fn owes_a_fleet(&self) -> bool {
        let nothing = matches!(self.stage, Stage::Idle)
            && self.receipts.is_empty()
            && self.known.is_empty()
            && self.denied.is_empty()
            && self.soak.is_none();
        !nothing
    }

    /// Why the attempt goes in circles, if it does.
    pub(crate) fn in_circles(&self) -> Option<Refusal> {
        let edges = self.edges;
        (edges >= EDGES).then(|| {
            Refusal::new(
                Code::CrashLoop,
                format!("the attempt took {edges} steps without an end, at most {EDGES} are allowed"),
            )
        })
    }

    fn confirm(&mut self, target: Target) {
        self.soak = Some(Soak { target: target.clone() });
        self.stage = Stage::Confirmed(Confirmed { target });
    }

    /// The report at hand carries what it has room for.
    fn carry_receipts(&mut self) {
        let report = self.report;
        let fitting = self.receipts.iter_mut().take(REPORT_RECEIPTS);
        for receipt in fitting.filter(|r| r.report == u64::MAX) {
            receipt.report = report;
        }
    }

    fn running_mut(&mut self) -> Option<&mut Generation> {
        let current = self.current;
        self.generations.iter_mut().find(|g| g.number == current)
    }

    /// Notes the time so far of everything that runs.
    fn carry(&mut self, now: &Now) {
        for product in self.running_mut().into_iter().flat_map(|g| &mut g.products) {
            product.uptime = product.uptime.carried(now);
        }
        for known in &mut self.known {
            known.dwell = known.dwell.carried(now);
        }
    }
}
