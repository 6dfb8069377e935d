//! Prepared reverts: signed together with the plan they undo, good for a while, and only on evidence that it failed.

use super::order::{Judge, read_gate};
use crate::digest::Digest;
use crate::plan::gate;
use crate::plan::statements::{Plan, Reverts};
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::statement;

impl Judge<'_> {
    /// Refuses unless what runs here came from the plan that is undone, recently enough, and enough devices failed on it.
    pub(super) fn check_revert(&self, reverts: &Reverts) -> Result<(), Refusal> {
        let Some(installed) = self.device.installed.get(&self.plan.product) else {
            return refuse!(
                PlanMismatch,
                "a revert of {}, which is not installed",
                self.plan.product
            );
        };
        if installed.plan != reverts.plan || installed.manifest != reverts.from {
            return refuse!(
                PlanMismatch,
                "the revert undoes plan {} and release {}, here runs {} of plan {}",
                reverts.plan,
                reverts.from,
                installed.manifest,
                installed.plan
            );
        }
        if self.plan.release.manifest != reverts.to {
            return refuse!(
                PlanMismatch,
                "the revert goes to release {}, its plan brings {}",
                reverts.to,
                self.plan.release.manifest
            );
        }
        if installed.switched_for_s > reverts.revert_for_s {
            return refuse!(
                PlanExpired,
                "the revert is good for {} s after the switch, {} s have passed",
                reverts.revert_for_s,
                installed.switched_for_s
            );
        }
        let forward = self.forward(&reverts.plan)?;
        let now = self.trusted.now(self.clock);
        if now >= forward.expires {
            return refuse!(
                PlanExpired,
                "the plan that is undone expired at {}, it is {now}",
                forward.expires
            );
        }
        let Some(gate) = self.offer.gate else {
            return refuse!(
                GateNotOpen,
                "the revert needs {} receipts of failure, none is there",
                reverts.failures
            );
        };
        let gate = read_gate(gate)?;
        gate::check_failures(reverts, &forward, &gate.receipts, self.trusted.fleet())
    }

    /// The plan that is undone. Its digest stands in the signed revert and in what this device installed: its own signatures were
    /// counted then.
    fn forward(&self, digest: &Digest) -> Result<Plan, Refusal> {
        let Some(bytes) = self.offer.forward else {
            return refuse!(MetadataMissing, "the plan {digest} that is undone is not there");
        };
        let forward = statement::open_unverified::<Plan>(bytes)
            .map_err(|refusal| Refusal::new(Code::ContentMismatch, format!("the plan that is undone: {refusal}")))?;
        if forward.digest() != *digest {
            return refuse!(
                ContentMismatch,
                "plan {} is shown, the revert undoes {digest}",
                forward.digest()
            );
        }
        Ok(forward.body)
    }
}
