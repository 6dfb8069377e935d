//! The fleet, its operators and the thief: what each of them has said so far, and what happens at each move.

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::digest::Digest;
use ensign_bundle::plan::evidence::{GateReceipt, ReceiptState, TimeAttestation};
use ensign_bundle::plan::statements::{Cancel, Evidence, GateKind, Hold, Plan, Promote};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::{FORMAT, ProductFloor, Release, Role, Root};
use ensign_bundle::trust::{Clock, ReleaseName, Source};
use serde_bytes::ByteBuf;

use crate::bench::*;
use crate::fleet::*;

use super::Move;

/// Who signs in the fleet's name and is nobody.
const THIEF: u8 = 99;
/// Soak of the first wave of the bench's plans.
pub(super) const SOAK_S: u64 = 600;
/// Signatures that everything signed offline needs, of three keys each. The thief has the first of each three.
const QUORUM: usize = 2;
const ROOT: [u8; 3] = [1, 2, 43];
const TARGETS: [u8; 3] = [3, 44, 45];
const RELEASE: [u8; 3] = [4, 41, 42];
/// A time far from now, 2100.
const FAR: u64 = 4_102_444_800;

/// Deploy keys, anew each time that they are replaced; the eleventh time the first ones are back.
fn deploy(times: usize) -> [u8; 3] {
    let first = 10 + 3 * u8::try_from(times % 10).unwrap();
    [first, first + 1, first + 2]
}

/// A plan, and who signed it.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) body: Plan,
    pub(super) digest: Digest,
    pub(super) bytes: Vec<u8>,
    pub(super) signers: Vec<u8>,
    pub(super) receipts: Vec<Received>,
    /// Promotions of the second wave and who signed them.
    pub(super) promotions: Vec<(Vec<u8>, Vec<u8>)>,
    /// How long the device has known it.
    pub(super) dwell_s: u64,
}

/// A receipt, and what the model knows of it.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) shown: GateReceipt,
    pub(super) seq: u64,
    pub(super) forged: bool,
    pub(super) good: bool,
    pub(super) healthy_s: u64,
}

/// The fleet, the device, and the model.
pub(super) struct World {
    pub(super) bench: Bench,
    pub(super) honest: Fleet,
    pub(super) history: Vec<Fleet>,
    /// How often the deploy keys had been replaced in each root, from version 1 on.
    replaced: Vec<usize>,
    /// The thief's documents, by their name.
    pub(super) forged: BTreeMap<ReleaseName, (Release, Vec<u8>)>,
    pub(super) plans: Vec<Planned>,
    /// Versions of documents that withdraw their release.
    pub(super) yanks: BTreeMap<ReleaseName, u64>,
    /// Withdrawals that the device has seen listed.
    pub(super) seen: BTreeSet<ReleaseName>,
    pub(super) cancelled: BTreeSet<Digest>,
    pub(super) held: bool,
    hold_seq: u64,
    /// Highest number of a plan that ran since the last reset.
    pub(super) ran: u64,
    /// The root that the model has followed the device to: epoch and online keys.
    pub(super) followed: (u64, Vec<ensign_crypto::PublicKey>),
    /// The device has been shown what only the online keys of the day can sign, and the honest fleet has not.
    pub(super) robbed: bool,
    pub(super) installs: usize,
}

impl World {
    pub(super) fn new() -> Self {
        let start = |fleet: &mut Fleet| {
            let seeds = &mut fleet.seeds;
            seeds.root = ROOT[..QUORUM].to_vec();
            (seeds.targets, seeds.release) = (TARGETS[..QUORUM].to_vec(), RELEASE[..QUORUM].to_vec());
            let first = |root: &mut Root| {
                (root.roles.root, root.roles.targets) = (quorum_of(ROOT), quorum_of(TARGETS));
                root.scopes[0].role = quorum_of(deploy(0));
            };
            fleet.next_root(first, &[]);
            fleet.next_targets(|targets| targets.products[0].role = quorum_of(RELEASE));
            fleet.publish();
        };
        let mut bench = bench_with(start, "app", |_| {}).second_wave();
        bench.facts.installed.clear();
        Self {
            honest: bench.fleet.clone(),
            history: vec![bench.fleet.clone()],
            replaced: vec![0; bench.fleet.roots.len()],
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
            robbed: false,
            installs: 0,
        }
    }

    /// What the device forgets with a root that says so: what ran with the epoch, which versions it saw with the online keys.
    pub(super) fn follow(&mut self) {
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

    /// The deploy keys of today.
    fn deploy(&self) -> [u8; 3] {
        deploy(*self.replaced.last().unwrap())
    }

    /// Who signs for the operators, or for the thief, who has one of their keys and one of his own.
    fn signers(&self, thief: bool) -> Vec<u8> {
        let [first, second, _] = self.deploy();
        vec![first, if thief { THIEF } else { second }]
    }

    /// What the fleet's own root holders signed that the device knows; it may know nothing else.
    pub(super) fn known(&self) -> &Fleet {
        let root = self.bench.trusted.root_bytes();
        let found = self
            .history
            .iter()
            .rev()
            .find(|then| then.roots.last().is_some_and(|last| last == root));
        found.expect("a root that its holders did not sign")
    }

    /// Whether these are enough for a device that knows the root that this one knows.
    pub(super) fn suffice(&self, signers: &[u8]) -> bool {
        let keys = deploy(self.replaced[self.known().roots.len() - 1]);
        let distinct: BTreeSet<_> = signers.iter().filter(|seed| keys.contains(seed)).collect();
        distinct.len() >= QUORUM
    }

    fn next_root(&mut self, change: impl FnOnce(&mut Root)) {
        self.honest.next_root(change, &[]);
        self.replaced.push(*self.replaced.last().unwrap());
    }

    pub(super) fn publish(&mut self) {
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
                fleet.seeds.release = vec![RELEASE[0], THIEF];
                let name = fleet.release("app", &format!("{n}.1.0"), |_| {});
                let made = (fleet.releases[&name].clone(), fleet.release_bytes[&name].clone());
                self.forged.insert(name, made);
            }
            Move::Forge(n) => {
                let mut fleet = self.honest.clone();
                fleet.seeds.release = vec![RELEASE[0], THIEF];
                let other = |release: &mut Release| release.manifest.digest = Digest([0x66; 32]);
                let name = fleet.release("app", &format!("{n}.0.0"), other);
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
                    self.next_root(|root| root.floors.products.extend([(app, floor)]));
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
                let reset = |root: &mut Root| {
                    root.floors.reset_epoch += 1;
                    root.floors.products.clear();
                };
                self.next_root(reset);
                self.publish();
            }
            Move::Rotate => self.rotate(),
            Move::Replace => {
                let times = self.replaced.last().unwrap() + 1;
                self.next_root(|root| root.scopes[0].role = quorum_of(deploy(times)));
                *self.replaced.last_mut().unwrap() = times;
                self.publish();
            }
            Move::Plan {
                of,
                thief,
                downgrade,
                hours,
                opens,
            } => self.plan(of, thief, downgrade, hours, opens),
            Move::Promote { plan, thief } => {
                let signers = self.signers(thief);
                let (Some(at), issued) = (self.place(plan), self.honest.now) else {
                    return;
                };
                let promote = Promote {
                    format: FORMAT,
                    issued,
                    plan: self.plans[at].digest,
                    wave: 2,
                };
                self.plans[at].promotions.push((sign(&promote, &signers), signers));
            }
            Move::Dwell { plan, seconds } => {
                if let Some(at) = self.place(plan) {
                    self.plans[at].dwell_s += seconds;
                }
            }
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
                let signers = self.signers(thief);
                let bytes = sign(&cancel, &signers);
                let (id, device) = (self.bench.facts.id, self.bench.facts.name.clone());
                let counts = self.suffice(&signers);
                let taken = self.bench.trusted.take_cancel(&bytes, &id, &device, self.honest.now);
                assert_eq!(taken.is_ok(), counts, "{taken:?}");
                if counts {
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
                let clock = [Clock::untrusted(0), Clock::untrusted(FAR), 0.into(), FAR.into()][usize::from(which)];
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
            Move::Attest { far, key } => {
                let role = &self.honest.seeds.timestamp;
                let time = TimeAttestation {
                    format: FORMAT,
                    fleet: FLEET,
                    device: self.bench.facts.id,
                    nonce: NONCE,
                    time: if far {
                        self.honest.root.expires - 1
                    } else {
                        self.honest.now
                    },
                };
                let bytes = sign(&time, &if key { role.clone() } else { vec![THIEF] });
                let clock = Clock::untrusted(0);
                let (id, trusted) = (self.bench.facts.id, &mut self.bench.trusted);
                let taken = trusted.attest_time(&bytes, &id, &NONCE, clock);
                assert!(key || taken.is_err(), "{taken:?}");
                // Whoever holds the timestamp key alone can tell a device that knows no better any time.
                self.robbed |= far && taken.is_ok();
            }
            Move::Offer {
                plan,
                repository,
                all_receipts,
                lease,
                clock,
            } => {
                let served = self.served(repository);
                self.offer(plan, &served, all_receipts, lease, clock);
            }
        }
    }

    /// The plan at this place from the newest.
    pub(super) fn place(&self, plan: u8) -> Option<usize> {
        let back = usize::from(plan).checked_rem(self.plans.len())?;
        Some(self.plans.len() - 1 - back)
    }

    pub(super) fn pick(&self, plan: u8) -> Option<&Planned> {
        self.plans.get(self.place(plan)?)
    }

    /// New online keys, which is how a thief of the old ones is undone.
    pub(super) fn rotate(&mut self) {
        let seed = 100 + u8::try_from(self.honest.roots.len() % 60).unwrap();
        self.next_root(|root| {
            root.roles.timestamp.keys = vec![public(seed)];
            root.roles.snapshot.keys = vec![public(seed + 70)];
        });
        (self.honest.seeds.timestamp, self.honest.seeds.snapshot) = (vec![seed], vec![seed + 70]);
        self.publish();
    }

    pub(super) fn plan(&mut self, of: u8, thief: bool, downgrade: bool, hours: u8, opens: Opens) {
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
        if opens.by_hand {
            body.waves[1].gate = GateKind::Manual;
        }
        if opens.by_dwell {
            body.waves[1].evidence = Evidence::Dwell;
        }
        let signers = self.signers(thief);
        self.plans.push(Planned {
            digest: Digest(statement::seal(&body).unwrap().payload_digest()),
            bytes: sign(&body, &signers),
            body,
            signers,
            receipts: Vec::new(),
            promotions: Vec::new(),
            dwell_s: 0,
        });
    }

    pub(super) fn hold(&mut self, held: bool, thief: bool) {
        self.hold_seq += 1;
        let hold = Hold {
            format: FORMAT,
            issued: self.honest.now,
            device: self.bench.facts.id,
            seq: self.hold_seq,
            held,
            reason: "repair".into(),
        };
        let signers = self.signers(thief);
        let bytes = sign(&hold, &signers);
        let (id, name) = (self.bench.facts.id, self.bench.facts.name.clone());
        let counts = self.suffice(&signers);
        let taken = self.bench.trusted.take_hold(&bytes, &id, &name, self.honest.now);
        assert_eq!(taken.is_ok(), counts, "{taken:?}");
        if counts {
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
            seq,
            forged,
            good,
            healthy_s,
        });
    }
}

/// Documents of the thief's own, by one key of the quorum and one of his.
pub(super) fn own_root(fleet: &mut Fleet) {
    fleet.seeds.root = vec![ROOT[0], THIEF];
    let own = |root: &mut Root| root.scopes[0].role = quorum_of([THIEF, 98, 97]);
    fleet.next_root(own, &[]);
}

pub(super) fn own_targets(fleet: &mut Fleet) {
    fleet.seeds.targets = vec![TARGETS[0], THIEF];
    fleet.next_targets(|targets| targets.products[0].role = quorum_of([RELEASE[0], THIEF, 98]));
}

/// How the second wave of a plan opens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opens {
    /// Also needs an operator's word.
    pub(super) by_hand: bool,
    /// By the device's own clock in place of receipts.
    pub(super) by_dwell: bool,
}

fn quorum_of(seeds: [u8; 3]) -> Role {
    Role {
        keys: seeds.map(public).to_vec(),
        threshold: u32::try_from(QUORUM).unwrap(),
    }
}
