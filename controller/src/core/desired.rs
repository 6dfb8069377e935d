//! What a device is wanted to do and which documents say so: follows from state, the same after any restart.

use ensign_bundle::digest::DeviceId;
use ensign_bundle::wire::{Desired, DesiredRollout, DocKind, DocRef, Held};
use ensign_rollout::DeviceState;

use super::plans::doc;
use super::rows::RoleRow;
use super::state::State;
use super::want::Want;

impl State {
    /// The wish for a device that holds these roles.
    pub(super) fn want(&self, id: &DeviceId, held: &Held) -> Want {
        let mut want = self.documents_only(held);
        let Some(row) = self.devices.get(id).filter(|row| row.state == DeviceState::Approved) else {
            return want;
        };
        if let Some(status) = &row.status {
            want.installed = status.installed.iter().map(|i| i.manifest).collect();
        }
        let documents = &mut want.desired.documents;
        documents.extend(row.grant.as_ref().map(|grant| doc(DocKind::Grant, grant)));
        documents.extend(row.hold.as_ref().map(|hold| doc(DocKind::Hold, hold)));
        // A plan that was cancelled stays cancelled; past its expiry nobody takes it anyway.
        for (plan, entry) in &self.rollouts.plans {
            let rollout = || self.rollouts.model.rollout(plan);
            if let Some(cancel) = &entry.row.cancel
                && rollout().is_some_and(|r| !r.expired(self.now) && r.member(id).is_some())
            {
                documents.push(doc(DocKind::Cancel, cancel));
            }
        }
        self.want_rollout(id, &mut want);
        want
    }

    /// The roles, and nothing that is for one device.
    pub(super) fn documents_only(&self, held: &Held) -> Want {
        Want {
            fleet: self.fleet.fleet,
            timestamp: self.roles.root().roles.timestamp.clone(),
            desired: Desired {
                generation: 0,
                documents: self.role_documents(held),
                rollout: None,
            },
            lease: None,
            refused: None,
            plan: None,
            installed: Vec::new(),
        }
    }

    fn want_rollout(&self, id: &DeviceId, want: &mut Want) {
        let Some(desired) = ensign_rollout::desired(&self.rollouts.model, id, self.now) else {
            return;
        };
        let Some(entry) = self.rollouts.plans.get(&desired.rollout) else {
            return;
        };
        let Ok(signed) = entry.signed() else { return };
        let release = self.release(&signed.body.product, &signed.body.release.version);
        let (Ok(release), Some(member)) = (release, signed.membership(id)) else {
            return;
        };
        want.plan = Some((signed.body.release.manifest, desired.rollout));
        want.lease = desired.lease.then_some(desired.plan);
        want.desired.rollout = Some(DesiredRollout {
            plan: doc(DocKind::Plan, &entry.row.document),
            release: role_doc(DocKind::Release, &release.document),
            gate: entry.row.gates.get(&desired.wave).map(|gate| doc(DocKind::Gate, gate)),
            member,
            lease: None,
        });
    }

    /// Every root above the held one, then the current roles.
    fn role_documents(&self, held: &Held) -> Vec<DocRef> {
        let roles = &self.roles;
        let roots = roles.roots.range(held.root.saturating_add(1)..);
        let mut documents: Vec<DocRef> = roots.map(|(_, row)| role_doc(DocKind::Root, row)).collect();
        documents.push(role_doc(DocKind::Timestamp, &roles.timestamp));
        documents.push(role_doc(DocKind::Snapshot, &roles.snapshot));
        documents.push(role_doc(DocKind::Targets, &roles.targets));
        documents
    }
}

fn role_doc(kind: DocKind, row: &RoleRow) -> DocRef {
    DocRef {
        kind,
        digest: row.digest,
        length: row.length,
    }
}
