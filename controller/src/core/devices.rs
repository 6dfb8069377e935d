//! What operators do to devices: pending → approved ↔ suspended → revoked, labels, holds.

use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::plan::scope::Scopes;
use ensign_bundle::plan::statements::{Grant, Subject as GrantSubject};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::selector::Subject;
use ensign_bundle::statement::{self, Document as _};
use ensign_bundle::text::printable;
use ensign_rollout::{DeviceState, Event};

use super::resign::Anew;
use super::rows::{DeviceRow, StatementRow, key};
use super::state::State;

/// A change of standing that needs no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Takes a waiting device, and ends the alarm of a cloned one.
    Accept,
    /// Turns a waiting device away, for ever.
    Reject,
    Suspend,
    Unsuspend,
    Revoke,
}

impl State {
    /// Performs the verb. One that changes nothing is no error; one that does not fit the device's standing is.
    pub fn set_standing(&mut self, id: &DeviceId, verb: Verb, reason: &str, by: &str) -> Result<(), Refusal> {
        let row = self.device(id)?;
        let name = printable(&row.name, 64);
        let new = match (verb, row.state) {
            (Verb::Accept, DeviceState::Pending | DeviceState::Approved)
            | (Verb::Unsuspend, DeviceState::Suspended | DeviceState::Approved) => DeviceState::Approved,
            (Verb::Reject, DeviceState::Pending) | (Verb::Revoke, _) => DeviceState::Revoked,
            (Verb::Suspend, DeviceState::Approved | DeviceState::Suspended) => DeviceState::Suspended,
            (_, DeviceState::Revoked) => return refuse!(Revoked, "{name} is revoked, for ever"),
            (Verb::Accept, DeviceState::Suspended) => return refuse!(Suspended, "{name} is suspended, not waiting"),
            (Verb::Reject, _) => return refuse!(Conflict, "{name} does not wait for approval: revoke it"),
            (Verb::Suspend | Verb::Unsuspend, DeviceState::Pending) => {
                return refuse!(Pending, "{name} waits for approval: accept or reject it");
            }
        };
        let clears_alarm = row.is_cloned() && matches!(verb, Verb::Accept | Verb::Unsuspend);
        if new == row.state && !clears_alarm {
            return Ok(());
        }
        let order = self.order(reason, by).kept();
        let row = self.device_mut(id)?;
        row.state = new;
        row.ordered = order.clone();
        if clears_alarm {
            // The counter starts again from whichever of the two comes next.
            row.alarm = None;
            row.session = 0;
        }
        self.put_device(id)?;
        tracing::info!(device = %id, %name, ?verb, state = ?new, by, reason = %printable(reason, 200), "a device's standing changed");
        self.happened(&Event::DeviceState {
            device: *id,
            state: new,
            order,
        });
        self.alarm_changed(id);
        let row = self.device(id)?;
        match new {
            DeviceState::Revoked => {
                let text = format!("{name} is revoked");
                if self.names.get(&row.name) == Some(id) {
                    let taken = row.name.clone();
                    self.names.remove(&taken);
                    self.delete(key::name(&taken));
                }
                self.end_session(id, Refusal::new(Code::Revoked, text));
            }
            DeviceState::Suspended => {
                self.end_session(id, Refusal::new(Code::Suspended, format!("{name} is suspended")));
            }
            DeviceState::Approved | DeviceState::Pending => {}
        }
        Ok(())
    }

    /// Takes a signed grant of labels for one device.
    pub fn grant(&mut self, id: &DeviceId, envelope: &[u8]) -> Result<(), Refusal> {
        let grant = statement::open_unverified::<Grant>(envelope)?;
        let row = self.device(id)?;
        let GrantSubject::Device(subject) = grant.body.subject else {
            return refuse!(WrongDevice, "the grant is for a token, not for {}", row.id);
        };
        if subject != *id {
            return refuse!(WrongDevice, "the grant is for {subject}, not for {id}");
        }
        if let Some(held) = row.grant {
            match self.signed_anew(&held.digest, envelope)? {
                Anew::Other => {}
                Anew::Same => return Ok(()),
                Anew::Signed(joined) => {
                    let statement = self.keep_statement(&joined, held.seq)?;
                    self.device_mut(id)?.grant = Some(statement);
                    tracing::info!(device = %id, "the grant of a device was signed anew");
                    return self.put_device(id);
                }
            }
        }
        let scopes = Scopes::of_change(self.roles.root(), subject_of(row), &grant.body.labels)?;
        scopes.require(&grant.envelope, &self.fleet.fleet)?;
        grant.body.check_lifetime()?;
        self.authority().check_issued(&grant.body)?;
        if is_repeated(row.grant.as_ref(), envelope, grant.body.label_seq, "label")? {
            return Ok(());
        }
        let statement = self.keep_statement(envelope, grant.body.label_seq)?;
        let labels = grant.body.labels;
        let row = self.device_mut(id)?;
        row.grant = Some(statement);
        row.labels.clone_from(&labels);
        self.put_device(id)?;
        self.happened(&Event::Labelled { device: *id, labels });
        Ok(())
    }

    /// Takes a signed hold, or its end.
    pub fn hold(&mut self, id: &DeviceId, envelope: &[u8], by: &str) -> Result<(), Refusal> {
        let row = self.device(id)?;
        let scopes = Scopes::of_device(self.roles.root(), subject_of(row))?;
        // As devices have it: any one scope stops, all of them let go.
        let hold = scopes.open_hold(envelope, id, &self.authority())?;
        if is_repeated(row.hold.as_ref(), envelope, hold.seq, "hold")? {
            return Ok(());
        }
        let statement = self.keep_statement(envelope, hold.seq)?;
        let order = self.order(&hold.reason, by).kept();
        let row = self.device_mut(id)?;
        row.hold = Some(statement);
        row.held = hold.held;
        row.held_by = order.clone();
        self.put_device(id)?;
        self.happened(&Event::Held {
            device: *id,
            held: hold.held,
            order,
        });
        Ok(())
    }

    /// Tells the planner of the alarm of a clone, or of its end.
    pub(super) fn alarm_changed(&mut self, id: &DeviceId) {
        let Ok(row) = self.device(id) else { return };
        self.happened(&Event::Cloned {
            device: *id,
            cloned: row.is_cloned(),
        });
    }

    pub(super) fn device_added(&mut self, row: &DeviceRow) {
        for event in row.events() {
            self.happened(&event);
        }
    }

    pub(super) fn keep_statement(&self, envelope: &[u8], seq: u64) -> Result<StatementRow, Refusal> {
        Ok(StatementRow {
            seq,
            digest: self.keep_document(envelope)?,
            length: envelope.len() as u64,
        })
    }
}

/// True when this very statement is there already; an older one, or another with its number, is refused.
fn is_repeated(known: Option<&StatementRow>, envelope: &[u8], seq: u64, what: &str) -> Result<bool, Refusal> {
    match known {
        Some(known) if known.digest == Digest::of(envelope) => Ok(true),
        Some(known) if seq <= known.seq => refuse!(
            Conflict,
            "the {what} has number {seq}, the newest is {}: look at what is there and sign again",
            known.seq
        ),
        _ => Ok(false),
    }
}

/// The device as selectors see it.
pub(super) fn subject_of(row: &DeviceRow) -> Subject<'_> {
    Subject {
        id: &row.id,
        name: &row.name,
        labels: &row.labels,
    }
}
