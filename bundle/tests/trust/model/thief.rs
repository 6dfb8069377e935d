//! What a controller in a thief's hands serves and offers.

use ensign_bundle::accept::{HeldLease, Installed, Offer, Stage, accept};
use ensign_bundle::digest::{DeviceId, Digest, Nonce};
use ensign_bundle::plan::evidence::{Gate, Lease};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::{FORMAT, Release};
use ensign_bundle::trust::{Clock, ReleaseName, Source};
use serde_bytes::ByteBuf;

use crate::bench::*;
use crate::fleet::*;

use super::world::{Planned, World, own_root, own_targets};
use super::{Leased, Repository};

/// What was put before the device, as the model sees it.
pub(super) struct Shown<'a> {
    pub(super) planned: &'a Planned,
    pub(super) name: &'a ReleaseName,
    /// Places of the receipts.
    pub(super) receipts: Vec<usize>,
    pub(super) promotion: Option<usize>,
    pub(super) lease: Leased,
    /// Nothing keeps the device's clock right.
    pub(super) drifting: bool,
}

impl World {
    pub(super) fn served(&mut self, repository: Repository) -> Fleet {
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
            Repository::Stolen | Repository::OwnRoot | Repository::OwnTargets | Repository::FastForward => {
                match repository {
                    Repository::OwnRoot => own_root(&mut served),
                    Repository::OwnTargets => own_targets(&mut served),
                    _ => {}
                }
                self.robbed = true;
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

    /// The right membership, and of everything else what helps most, or all there is.
    pub(super) fn offer(
        &mut self,
        plan: u8,
        served: &Fleet,
        all_receipts: bool,
        leased: Leased,
        drifting: bool,
    ) -> Option<Code> {
        let planned = self.pick(plan)?.clone();
        let trusted = &mut self.bench.trusted;
        let _ = served.refresh(trusted);
        let release = name("app", planned.body.release.version.as_str());
        let _ = trusted.find_release(&release, &mut |want| served.find(&want), served.now, Source::Online);
        self.follow();
        self.look(&release);
        let receipts = planned.receipts.iter().enumerate();
        let receipts =
            receipts.filter(|(_, r)| all_receipts || r.good && !r.forged && r.healthy_s >= super::world::SOAK_S);
        let shown = Shown {
            planned: &planned,
            name: &release,
            receipts: receipts.map(|(at, _)| at).take(64).collect(),
            promotion: self.best_promotion(&planned),
            lease: leased,
            drifting,
        };
        let gate = Gate {
            format: FORMAT,
            plan: planned.digest,
            wave: 2,
            receipts: shown
                .receipts
                .iter()
                .map(|at| planned.receipts[*at].shown.clone())
                .collect(),
            promote: shown
                .promotion
                .map(|at| ByteBuf::from(planned.promotions[at].0.clone())),
        };
        let gate = gate.encode().unwrap();
        let (lease, age_s) = self.lease(leased, &planned, served.now);
        let offer = Offer {
            plan: &planned.bytes,
            member: &self.bench.membership(),
            gate: Some(&gate),
            lease: lease.as_deref().map(|envelope| HeldLease { envelope, age_s }),
            forward: None,
            dwell_s: planned.dwell_s,
            source: Source::Online,
        };
        let clock = if drifting {
            Clock::untrusted(served.now)
        } else {
            served.now.into()
        };
        match accept(&self.bench.trusted, &self.bench.facts, &offer, clock, Stage::Switch) {
            Ok(accepted) => {
                self.judge(&shown, &accepted.release);
                self.install(&planned, &accepted.release);
                None
            }
            Err(refusal) => Some(refusal.code),
        }
    }

    /// One that opens the gate, else any.
    fn best_promotion(&self, planned: &Planned) -> Option<usize> {
        let good = |(_, signers): &(Vec<u8>, Vec<u8>)| self.suffice(signers);
        let any = planned.promotions.len().checked_sub(1);
        planned.promotions.iter().position(good).or(any)
    }

    /// A lease and its age.
    fn lease(&self, leased: Leased, planned: &Planned, now: u64) -> (Option<Vec<u8>>, u64) {
        let mut lease = Lease {
            format: FORMAT,
            issued: now,
            plan: planned.digest,
            device: self.bench.facts.id,
            nonce: NONCE,
            ttl_s: 900,
        };
        let (mut by, mut age_s) = (self.honest.seeds.timestamp.clone(), 1);
        match leased {
            Leased::Live => {}
            Leased::None => return (None, 0),
            Leased::OfAnotherPlan => lease.plan = Digest([7; 32]),
            Leased::OfAnotherDevice => lease.device = DeviceId([7; 32]),
            Leased::OfAnotherStart => lease.nonce = Nonce([7; 32]),
            Leased::RunOut => age_s = 900,
            Leased::LongerThanAny => (lease.ttl_s, age_s) = (u64::MAX, 901),
            Leased::ByAKeyOfOld => by = self.history[0].seeds.timestamp.clone(),
        }
        (Some(sign(&lease, &by)), age_s)
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

    fn install(&mut self, planned: &Planned, release: &Release) {
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
}
