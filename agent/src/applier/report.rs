//! What the applier says of itself.

use ensign_apply::{Device, REPORT_RECEIPTS, Statement};
use ensign_bundle::plan::evidence::Receipt;
use ensign_bundle::reason::Refusal;
use ensign_bundle::statement;
use ensign_bundle::trust::Trusted;
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::wire::{Held, Installed, Phase, Report, Status, Transfer};
use serde_bytes::ByteBuf;

use super::generations;
use super::identity::Identity;
use super::shell::Shell;
use crate::ipc::State;
use crate::paths::Paths;

/// Denied manifests that a report names; the newest count.
const DENIED: usize = 64;

pub(super) fn state(shell: &Shell) -> State {
    let mut state = of(
        &shell.device,
        shell.identity.as_ref(),
        shell.trusted.as_ref(),
        shell.leases.nonce(),
    );
    let at_work = shell.staging.as_ref().map_or(0, |staging| staging.received);
    state.report.status.transfer = Transfer {
        received: shell.transfer.1.received + at_work,
        plain: shell.transfer.1.plain,
    };
    if let Some(lost) = &shell.lost {
        state.report.status.reason = Some(lost.clone());
    }
    if let Err(loss) = &shell.journal {
        disbelieve(&mut state, &shell.paths, loss);
    }
    state
}

/// Says what is known where the journal lost steps: which generation runs, and why that is all. What is left of the journal would tell
/// the operator of releases that are long gone.
pub(super) fn disbelieve(state: &mut State, paths: &Paths, loss: &Refusal) {
    state.report.receipts.clear();
    state.report.status = Status {
        generation: generations::current(paths),
        installed: Vec::new(),
        phase: Phase::Idle,
        plan: None,
        reason: Some(loss.clone()),
        denied: Vec::new(),
        transfer: Transfer::default(),
    };
}

/// The state as far as files tell it.
pub(super) fn of(
    device: &Device,
    identity: Option<&Identity>,
    trusted: Option<&Trusted>,
    nonce: ensign_bundle::digest::Nonce,
) -> State {
    let receipts = match (identity, trusted) {
        (Some(identity), Some(trusted)) => device
            .receipts
            .iter()
            .take(REPORT_RECEIPTS)
            .filter_map(|statement| sign(statement, identity, trusted))
            .collect(),
        _ => Vec::new(),
    };
    State {
        device: identity.map(|i| i.id),
        held: trusted.map_or_else(Held::default, Trusted::held),
        nonce,
        report: Report {
            seq: device.report,
            status: status(device),
            receipts,
            root: trusted.map_or(0, |trusted| trusted.root().version),
        },
        controller: trusted.map(|t| t.root().controller.clone()),
    }
}

fn status(device: &Device) -> Status {
    let installed = device
        .running()
        .into_iter()
        .flat_map(|g| &g.products)
        .map(|p| Installed {
            product: p.product.clone(),
            version: p.version.clone(),
            counter: p.counter,
            manifest: p.manifest,
            confirmed: p.confirmed,
            plan: p.plan,
            since: p.since,
        });
    Status {
        generation: device.current,
        installed: installed.collect(),
        phase: device.stage.phase(),
        plan: device.stage.target().map(|t| t.plan),
        reason: device.stage.reason().cloned(),
        denied: device.denied.iter().rev().take(DENIED).map(|d| d.manifest).collect(),
        transfer: Transfer::default(),
    }
}

/// Signatures are deterministic, so the same statement gives the same receipt each time.
fn sign(said: &Statement, identity: &Identity, trusted: &Trusted) -> Option<ByteBuf> {
    let receipt = Receipt {
        format: FORMAT,
        issued: said.issued,
        plan: said.plan,
        release: said.release,
        device: identity.id,
        state: said.state.clone(),
        healthy_for_s: said.healthy_for_s,
        seq: said.seq,
    };
    match statement::sign(&receipt, &[&identity.receipt_key], trusted.fleet()) {
        Ok(bytes) => Some(ByteBuf::from(bytes)),
        Err(refusal) => {
            tracing::error!(code = %refusal.code, error = %refusal.text, "a receipt cannot be signed");
            None
        }
    }
}
