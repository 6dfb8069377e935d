//! What must hold, whatever happened.

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::plan::statements::{Evidence, GateKind};
use ensign_bundle::trust::roles::Release;
use ensign_bundle::trust::{ReleaseName, Trusted};

use crate::fleet::*;

use super::thief::Shown;
use super::world::{Opens, SOAK_S, World};
use super::{Leased, Move};

/// Receipts that the second wave of the bench's plans needs.
const EVIDENCE: usize = 2;

impl World {
    /// The device is about to install: everything that must be true.
    pub(super) fn judge(&self, shown: &Shown<'_>, release: &Release) {
        let planned = shown.planned;
        self.check_signers();
        let targets = self.bench.trusted.targets().unwrap();
        let (now, app) = (self.honest.now, ident("app"));
        assert!(!shown.drifting, "by a clock that nothing keeps right");
        assert!(self.suffice(&planned.signers), "without the operators' quorum");
        assert_eq!(release.manifest.digest, planned.body.release.manifest);
        self.judge_gate(shown);
        self.judge_lease(shown.lease);
        assert!(
            planned.body.not_before <= now && now < planned.body.expires,
            "out of its time"
        );
        assert!(
            !self.cancelled.contains(&planned.digest) && !self.held,
            "against an operator"
        );
        assert!(!self.seen.contains(shown.name), "a withdrawn release");
        assert!(
            planned.body.seq > self.ran,
            "plan {} after {}",
            planned.body.seq,
            self.ran
        );
        assert!(
            release.counter >= self.known().root.floor(&app).security,
            "below root's floor"
        );
        assert!(release.counter >= targets.products[0].lowest, "below the lowest kept");
        if let Some(installed) = self.bench.facts.installed.get(&app) {
            assert!(
                release.counter > installed.counter || planned.body.downgrade.is_some(),
                "older than what runs"
            );
        }
    }

    /// Devices of the wave before have proven it, or the time that the plan asks for has passed; and an operator has said so.
    fn judge_gate(&self, shown: &Shown<'_>) {
        let planned = shown.planned;
        let wave = &planned.body.waves[1];
        match wave.evidence {
            Evidence::Dwell => assert!(planned.dwell_s >= SOAK_S, "after {} s", planned.dwell_s),
            Evidence::Receipts(_) => {
                // Of each device the newest that it signed, of those that were shown.
                let mut newest = BTreeMap::new();
                for receipt in shown.receipts.iter().map(|at| &planned.receipts[*at]) {
                    let of = newest.entry(receipt.shown.device).or_insert(receipt);
                    if !receipt.forged && (of.forged || of.seq < receipt.seq) {
                        *of = receipt;
                    }
                }
                let good = newest.values().filter(|r| !r.forged && r.good && r.healthy_s >= SOAK_S);
                let good: BTreeSet<_> = good.map(|r| r.shown.device).collect();
                assert!(good.len() >= EVIDENCE, "before its evidence: {}", good.len());
            }
        }
        if wave.gate == GateKind::Manual {
            let promoted = shown
                .promotion
                .is_some_and(|at| self.suffice(&planned.promotions[at].1));
            assert!(promoted, "before the operators opened it");
        }
    }

    fn judge_lease(&self, lease: Leased) {
        match lease {
            Leased::Live => {}
            Leased::ByAKeyOfOld => {
                let keys = &self.bench.trusted.root().roles.timestamp.keys;
                let old = &self.history[0].root.roles.timestamp.keys;
                assert_eq!(keys, old, "by a lease of a key that root dropped");
            }
            other => panic!("by no lease: {other:?}"),
        }
    }

    /// All that the device holds was signed by whoever may: what is published by the fleet, and nothing else.
    fn check_signers(&self) {
        let trusted = &self.bench.trusted;
        self.known();
        if let Some(held) = trusted.targets_bytes() {
            let own = self.history.iter().any(|then| then.targets_bytes == held);
            assert!(own, "targets that their holders did not sign");
        }
        for release in trusted.releases() {
            let name = ReleaseName {
                product: release.product.clone(),
                version: release.release.clone(),
            };
            let own = self
                .history
                .iter()
                .any(|then| then.releases.get(&name) == Some(release));
            assert!(own, "{name} without the signers' quorum");
        }
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
        self.check_signers();
        let stored = self.bench.trusted.encode().unwrap();
        self.follow();
        self.bench.trusted = Trusted::decode(&stored).unwrap();
        assert_eq!(self.bench.trusted.encode().unwrap(), stored);
    }

    /// Whatever happened: an honest fleet updates the device, after it has evicted the thief where there was one.
    pub(super) fn ends_well(&mut self) {
        self.honest.now += 3600;
        if self.robbed {
            self.rotate();
        } else {
            self.publish();
        }
        let served = self.honest.clone();
        let before = self.bench.trusted.clone();
        served.refresh(&mut self.bench.trusted).unwrap();
        self.check(&before);
        if self.held {
            self.hold(false, false);
        }
        self.honest.release("app", "50.0.0", |_| {});
        self.publish();
        self.honest.now += 60;
        self.plan(50, false, false, 24, Opens::default());
        self.act(Move::Receipts(0));
        let served = self.honest.clone();
        assert_eq!(
            self.offer(0, &served, true, Leased::Live, false),
            None,
            "an honest fleet cannot update the device"
        );
    }
}
