//! The fleet, the device and the thief, and the model that watches them.

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::accept::{HeldLease, Installed, Offer, Stage, accept};
use ensign_bundle::digest::Digest;
use ensign_bundle::plan::evidence::{Gate, GateReceipt, Lease, ReceiptState};
use ensign_bundle::plan::statements::{Cancel, Hold, Plan};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::{FORMAT, ProductFloor};
use ensign_bundle::trust::{Clock, ReleaseName, Source, Trusted};
use serde_bytes::ByteBuf;

use crate::bench::*;
use crate::fleet::*;

use super::{Move, Repository};

/// Who signs in the fleet's name and is nobody.
const THIEF: u8 = 99;
/// Receipts that the second wave of the bench's plans needs, and their soak.
const EVIDENCE: usize = 2;
pub(super) const SOAK_S: u64 = 600;

/// A plan, and who signed it.
#[derive(Clone, Debug)]
struct Planned {
    body: Plan,
    digest: Digest,
    bytes: Vec<u8>,
    quorum: bool,
    receipts: Vec<Received>,
}

/// A receipt, and whether it is one that counts.
#[derive(Clone, Debug)]
struct Received {
    shown: GateReceipt,
    counts: bool,
}

/// The fleet, the device, and the model.
pub(super) struct World {
    pub(super) bench: Bench,
    honest: Fleet,
    history: Vec<Fleet>,
    /// The thief's documents, by their name.
    forged: BTreeMap<ReleaseName, (ensign_bundle::trust::roles::Release, Vec<u8>)>,
    plans: Vec<Planned>,
    /// Versions of documents that withdraw their release.
    yanks: BTreeMap<ReleaseName, u64>,
    /// Withdrawals that the device has seen listed.
    seen: BTreeSet<ReleaseName>,
    cancelled: BTreeSet<Digest>,
    held: bool,
    hold_seq: u64,
    /// Highest number of a plan that ran since the last reset.
    ran: u64,
    /// The root that the model has followed the device to: epoch and online keys.
    followed: (u64, Vec<ensign_crypto::PublicKey>),
    pub(super) installs: usize,
}

impl World {
    pub(super) fn new() -> Self {
        let mut bench = bench().second_wave();
        bench.facts.installed.clear();
        Self {
            honest: bench.fleet.clone(),
            history: vec![bench.fleet.clone()],
            bench,
            forged: BTreeMap::new(),
            plans: Vec::new(),
            yanks: BTreeMap::new(),
            seen: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            held: false,
            hold_seq: 0,
            ran: 0,
            followed: (0, Vec::new()),
            installs: 0,
        }
    }

    /// What the device forgets with a root that says so: what ran with the epoch, which versions it saw with the online keys.
    fn follow(&mut self) {
        let root = self.bench.trusted.root();
        let keys = root.roles.snapshot.keys.iter().chain(&root.roles.timestamp.keys);
        let now = (root.floors.reset_epoch, keys.copied().collect::<Vec<_>>());
        if now.0 != self.followed.0 {
            self.ran = 0;
        }
        if now.1 != self.followed.1 {
            self.seen.clear();
        }
        self.followed = now;
    }

    fn publish(&mut self) {
        self.honest.now += 60;
        self.honest.publish();
        self.history.push(self.honest.clone());
    }

    pub(super) fn act(&mut self, step: Move) {
        let counter = |n: u8| version(&format!("{n}.0.0")).counter().unwrap();
        match step {
            Move::Release { n, thief: false } => {
                let text = format!("{n}.0.0");
                let kept = counter(n) >= self.honest.targets.products[0].lowest;
                if kept && !self.honest.releases.contains_key(&name("app", &text)) {
                    self.honest.release("app", &text, |_| {});
                    self.publish();
                }
            }
            Move::Release { n, thief: true } => {
                let mut fleet = self.honest.clone();
                fleet.seeds.release = vec![THIEF];
                let name = fleet.release("app", &format!("{n}.1.0"), |_| {});
                let made = (fleet.releases[&name].clone(), fleet.release_bytes[&name].clone());
                self.forged.insert(name, made);
            }
            Move::Renew { n, yank } => {
                let name = name("app", &format!("{n}.0.0"));
                if self.honest.releases.contains_key(&name) {
                    self.honest.release("app", &format!("{n}.0.0"), |release| {
                        if yank {
                            release.yanked = Some("eats files".into());
                        }
                    });
                    let version = self.honest.releases[&name].version;
                    if yank {
                        self.yanks.entry(name).or_insert(version);
                    }
                    self.publish();
                }
            }
            Move::Floor(n) => {
                let floor = ProductFloor {
                    security: counter(n),
                    ..ProductFloor::default()
                };
                let app = ident("app");
                if self.honest.root.floor(&app).security < floor.security {
                    self.honest
                        .next_root(|root| root.floors.products.extend([(app, floor)]), &[]);
                    self.publish();
                }
            }
            Move::Lowest(n) => {
                let lowest = counter(n);
                if self.honest.targets.products[0].lowest < lowest {
                    self.honest.next_targets(|targets| targets.products[0].lowest = lowest);
                    self.honest.releases.retain(|_, release| release.counter >= lowest);
                    self.publish();
                }
            }
            Move::Reset => {
                let reset = |root: &mut ensign_bundle::trust::roles::Root| {
                    root.floors.reset_epoch += 1;
                    root.floors.products.clear();
                };
                self.honest.next_root(reset, &[]);
                self.publish();
            }
            Move::Rotate => self.rotate(),
            Move::Plan {
                of,
                thief,
                downgrade,
                hours,
            } => self.plan(of, thief, downgrade, hours),
            Move::Cancel { plan, thief } => {
                let Some(planned) = self.pick(plan) else { return };
                let cancel = Cancel {
                    format: FORMAT,
                    issued: self.honest.now,
                    plan: planned.digest,
                    product: ident("app"),
                    reason: "wrong".into(),
                };
                let digest = planned.digest;
                let bytes = sign(&cancel, &[if thief { THIEF } else { 5 }]);
                let (id, device) = (self.bench.facts.id, self.bench.facts.name.clone());
                let taken = self.bench.trusted.take_cancel(&bytes, &id, &device);
                assert_eq!(taken.is_ok(), !thief, "{taken:?}");
                if !thief {
                    self.cancelled.insert(digest);
                }
            }
            Move::Hold { held, thief } => self.hold(held, thief),
            Move::Receipt {
                plan,
                canary,
                good,
                healthy_s,
                forged,
            } => self.receipt(plan, canary, good, healthy_s, forged),
            Move::Receipts(plan) => {
                for canary in 0..2 {
                    self.receipt(plan, canary, true, SOAK_S, false);
                }
            }
            Move::Wait(minutes) => {
                self.honest.now += u64::from(minutes) * 60;
                self.publish();
            }
            Move::WrongClock(which) => {
                let far = 4_102_444_800;
                let clock = [Clock::untrusted(0), Clock::untrusted(far), 0.into(), far.into()][usize::from(which)];
                let fleet = self.honest.clone();
                let _ = self
                    .bench
                    .trusted
                    .refresh(&mut |want| fleet.find(&want), clock, Source::Online);
            }
            Move::Refresh(repository) => {
                let served = self.served(repository);
                let _ = served.refresh(&mut self.bench.trusted);
            }
            Move::Offer {
                plan,
                repository,
                all_receipts,
            } => {
                let served = self.served(repository);
                self.offer(plan, &served, all_receipts);
            }
        }
    }

    /// The plan at this place from the newest.
    fn place(&self, plan: u8) -> Option<usize> {
        let back = usize::from(plan).checked_rem(self.plans.len())?;
        Some(self.plans.len() - 1 - back)
    }

    fn pick(&self, plan: u8) -> Option<&Planned> {
        self.plans.get(self.place(plan)?)
    }

    /// New online keys, which is how a thief of the old ones is undone.
    fn rotate(&mut self) {
        let seed = 100 + u8::try_from(self.honest.roots.len() % 60).unwrap();
        self.honest.next_root(
            |root| {
                root.roles.timestamp.keys = vec![public(seed)];
                root.roles.snapshot.keys = vec![public(seed + 70)];
            },
            &[],
        );
        (self.honest.seeds.timestamp, self.honest.seeds.snapshot) = (vec![seed], vec![seed + 70]);
        self.publish();
    }

    fn plan(&mut self, of: u8, thief: bool, downgrade: bool, hours: u8) {
        let own = name("app", &format!("{of}.0.0"));
        let forged = name("app", &format!("{of}.1.0"));
        let mut fleet = self.honest.clone();
        // Operators may be talked into a plan for a release that its signers did not make.
        let name = if fleet.releases.contains_key(&own) {
            own
        } else if let Some((release, _)) = self.forged.get(&forged) {
            fleet.releases.insert(forged.clone(), release.clone());
            forged
        } else if let Some(name) = fleet.releases.keys().next_back() {
            name.clone()
        } else {
            return;
        };
        let (mut body, _) = fleet.plan(&name, &self.bench.devices, "40%,100%");
        body.seq = self.plans.len() as u64 + 1;
        body.expires = body.issued + u64::from(hours) * 3600;
        body.downgrade = downgrade.then(|| "a reason".into());
        self.plans.push(Planned {
            digest: Digest(statement::seal(&body).unwrap().payload_digest()),
            bytes: sign(&body, &[if thief { THIEF } else { 5 }]),
            body,
            quorum: !thief,
            receipts: Vec::new(),
        });
    }

    fn hold(&mut self, held: bool, thief: bool) {
        self.hold_seq += 1;
        let hold = Hold {
            format: FORMAT,
            issued: self.honest.now,
            device: self.bench.facts.id,
            seq: self.hold_seq,
            held,
            reason: "repair".into(),
        };
        let bytes = sign(&hold, &[if thief { THIEF } else { 5 }]);
        let (id, name) = (self.bench.facts.id, self.bench.facts.name.clone());
        let taken = self.bench.trusted.take_hold(&bytes, &id, &name);
        assert_eq!(taken.is_ok(), !thief, "{taken:?}");
        if !thief {
            self.held = held;
        }
    }

    fn receipt(&mut self, plan: u8, canary: u8, good: bool, healthy_s: u64, forged: bool) {
        let Some(at) = self.place(plan) else { return };
        let member = self.bench.waves[0].members[usize::from(canary)];
        let mut owner = self
            .bench
            .devices
            .iter()
            .find(|d| d.id() == member.device)
            .unwrap()
            .clone();
        if forged {
            owner.receipt = key(THIEF);
        }
        let state = if good {
            ReceiptState::Confirmed
        } else {
            ReceiptState::RolledBack { code: Code::Unhealthy }
        };
        let planned = &mut self.plans[at];
        let seq = planned.receipts.len() as u64 + 1;
        let bytes = owner.receipt(planned.digest, planned.body.release.manifest, state, healthy_s, seq);
        planned.receipts.push(Received {
            shown: GateReceipt {
                receipt: ByteBuf::from(bytes),
                device: member.device,
                member: self.bench.waves[0].proof(&member.device).unwrap(),
            },
            counts: good && healthy_s >= SOAK_S && !forged,
        });
    }

    fn served(&mut self, repository: Repository) -> Fleet {
        let mut served = self.honest.clone();
        let old = |n: u8| self.history[usize::from(n) % self.history.len()].clone();
        match repository {
            Repository::Honest => {}
            Repository::Old(n) => {
                served = old(n);
                served.now = self.honest.now;
            }
            Repository::Mixed(a, b) => {
                let (a, b) = (old(a), old(b));
                served.timestamp_bytes = a.timestamp_bytes;
                (served.snapshot_bytes, served.targets_bytes) = (b.snapshot_bytes, b.targets_bytes);
            }
            Repository::Flipped(at) => {
                for bytes in [
                    &mut served.timestamp_bytes,
                    &mut served.snapshot_bytes,
                    &mut served.targets_bytes,
                ] {
                    let at = usize::from(at) % bytes.len();
                    bytes[at] ^= 4;
                }
            }
            Repository::Stolen | Repository::FastForward => {
                for (name, (release, bytes)) in &self.forged {
                    served.releases.insert(name.clone(), release.clone());
                    served.release_bytes.insert(name.clone(), bytes.clone());
                }
                if matches!(repository, Repository::FastForward) {
                    served.snapshot.as_mut().unwrap().version = u64::MAX / 2 + self.honest.now;
                    served.timestamp.as_mut().unwrap().version = u64::MAX / 2 + self.honest.now;
                }
                served.publish();
            }
        }
        served
    }

    /// The controller does its best: the right membership, a live lease, every receipt that helps it (or all there are).
    fn offer(&mut self, plan: u8, served: &Fleet, all_receipts: bool) -> Option<Code> {
        let planned = self.pick(plan)?.clone();
        let trusted = &mut self.bench.trusted;
        let _ = served.refresh(trusted);
        let release = name("app", planned.body.release.version.as_str());
        let _ = trusted.find_release(&release, &mut |want| served.find(&want), served.now, Source::Online);
        self.follow();
        self.look(&release);
        let shown = planned.receipts.iter().filter(|r| all_receipts || r.counts);
        let gate = Gate {
            format: FORMAT,
            plan: planned.digest,
            wave: 2,
            receipts: shown.map(|r| r.shown.clone()).take(64).collect(),
            promote: None,
        };
        let gate = gate.encode().unwrap();
        let lease = Lease {
            format: FORMAT,
            issued: served.now,
            plan: planned.digest,
            device: self.bench.facts.id,
            nonce: NONCE,
            ttl_s: 900,
        };
        let lease = sign(&lease, &self.honest.seeds.timestamp);
        let offer = Offer {
            plan: &planned.bytes,
            member: &self.bench.membership(),
            gate: Some(&gate),
            lease: Some(HeldLease {
                envelope: &lease,
                age_s: 1,
            }),
            forward: None,
            dwell_s: 0,
            source: Source::Online,
        };
        let trusted = &self.bench.trusted;
        match accept(trusted, &self.bench.facts, &offer, served.now, Stage::Switch) {
            Ok(accepted) => {
                self.judge(&planned, &release, &accepted.release);
                self.install(&planned, &accepted.release);
                None
            }
            Err(refusal) => Some(refusal.code),
        }
    }

    /// What the device was shown of withdrawals.
    fn look(&mut self, release: &ReleaseName) {
        let listed = self.bench.trusted.snapshot().and_then(|s| s.release(release));
        if let (Some(listed), Some(yank)) = (listed, self.yanks.get(release))
            && listed.document.version >= *yank
        {
            self.seen.insert(release.clone());
        }
    }

    /// The device is about to install: everything that must be true.
    fn judge(&self, planned: &Planned, name: &ReleaseName, release: &ensign_bundle::trust::roles::Release) {
        let trusted = &self.bench.trusted;
        let (now, app) = (self.honest.now, ident("app"));
        assert!(planned.quorum, "without the operators' quorum");
        assert!(!self.forged.contains_key(name), "without the signers' quorum");
        assert_eq!(release.manifest.digest, planned.body.release.manifest);
        let good: BTreeSet<_> = planned
            .receipts
            .iter()
            .filter(|r| r.counts)
            .map(|r| r.shown.device)
            .collect();
        assert!(good.len() >= EVIDENCE, "before its evidence: {}", good.len());
        assert!(
            planned.body.not_before <= now && now < planned.body.expires,
            "out of its time"
        );
        assert!(
            !self.cancelled.contains(&planned.digest) && !self.held,
            "against an operator"
        );
        assert!(!self.seen.contains(name), "a withdrawn release");
        assert!(
            planned.body.seq > self.ran,
            "plan {} after {}",
            planned.body.seq,
            self.ran
        );
        assert!(
            release.counter >= trusted.root().floor(&app).security,
            "below root's floor"
        );
        assert!(
            release.counter >= trusted.targets().unwrap().products[0].lowest,
            "below the lowest kept"
        );
        if let Some(installed) = self.bench.facts.installed.get(&app) {
            assert!(
                release.counter > installed.counter || planned.body.downgrade.is_some(),
                "older than what runs"
            );
        }
    }

    fn install(&mut self, planned: &Planned, release: &ensign_bundle::trust::roles::Release) {
        self.bench.trusted.started(&planned.body, planned.digest).unwrap();
        self.bench.trusted.confirmed(release);
        self.ran = planned.body.seq;
        self.installs += 1;
        let installed = Installed {
            version: release.release.clone(),
            counter: release.counter,
            manifest: release.manifest.digest,
            plan: planned.digest,
            switched_for_s: 1,
        };
        self.bench.facts.installed.insert(ident("app"), installed);
    }

    /// What never goes back, but by root; and a restart, which changes nothing.
    pub(super) fn check(&mut self, before: &Trusted) {
        let (was, is, app) = (before.root(), self.bench.trusted.root(), ident("app"));
        assert!(is.version >= was.version);
        let trusted = &self.bench.trusted;
        if is.floors.reset_epoch == was.floors.reset_epoch {
            assert!(trusted.security_floor(&app) >= before.security_floor(&app) || trusted.targets().is_none());
            assert!(trusted.plan_seq_floor(&app) >= before.plan_seq_floor(&app));
        }
        if is.roles.snapshot.keys == was.roles.snapshot.keys && is.roles.timestamp.keys == was.roles.timestamp.keys {
            let (was, is) = (before.held(), trusted.held());
            assert!(is.timestamp >= was.timestamp && is.snapshot >= was.snapshot);
            if let (Some(was), Some(is)) = (before.snapshot(), trusted.snapshot()) {
                assert!(is.targets.version >= was.targets.version);
            }
        }
        let stored = trusted.encode().unwrap();
        self.follow();
        self.bench.trusted = Trusted::decode(&stored).unwrap();
        assert_eq!(self.bench.trusted.encode().unwrap(), stored);
    }

    /// Whatever happened: an honest fleet that has evicted the thief updates the device.
    pub(super) fn ends_well(&mut self) {
        self.honest.now += 3600;
        self.rotate();
        if self.held {
            self.hold(false, false);
        }
        self.honest.release("app", "50.0.0", |_| {});
        self.publish();
        self.honest.now += 60;
        self.plan(50, false, false, 24);
        self.act(Move::Receipts(0));
        let served = self.honest.clone();
        let before = self.bench.trusted.clone();
        served.refresh(&mut self.bench.trusted).unwrap();
        self.check(&before);
        assert_eq!(
            self.offer(0, &served, true),
            None,
            "an honest fleet cannot update the device"
        );
    }
}
