//! Who may say what a device runs: root's deploy scopes, matched against the labels that operators granted.

use std::collections::BTreeSet;

use ensign_crypto::Envelope;

use super::statements::Hold;
use crate::digest::{DeviceId, FleetId};
use crate::ids::{Label, Labels};
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::selector::{Selector, Subject};
use crate::statement::{self, Document, Signed};
use crate::trust::Authority;
use crate::trust::roles::{Root, Scope};

/// Scopes whose thresholds must all be met. Never empty: a device that no scope covers takes nothing.
#[derive(Clone, Debug)]
pub struct Scopes<'a>(Vec<&'a Scope>);

impl<'a> Scopes<'a> {
    /// The scopes that cover a device. One without labels counts as protected, where root names protected labels: nobody may get
    /// at a device by keeping its labels from it.
    pub fn of_device(root: &'a Root, device: Subject<'_>) -> Result<Self, Refusal> {
        let bare = device.labels.is_empty() && !root.protected.is_empty();
        Self::collect(root, |selector| {
            selector.matches(device) || (bare && names(selector, &root.protected))
        })
    }

    /// The scopes that a change of labels needs: those that cover the device before or after it, and every scope that asks about a
    /// protected label that is added, changed or removed.
    pub fn of_change(root: &'a Root, device: Subject<'_>, new: &Labels) -> Result<Self, Refusal> {
        let touched: Vec<Label> = root
            .protected
            .iter()
            .filter(|key| device.labels.get(*key) != new.get(*key))
            .cloned()
            .collect();
        let after = Subject { labels: new, ..device };
        let bare = device.labels.is_empty() && new.is_empty() && !root.protected.is_empty();
        Self::collect(root, |selector| {
            selector.matches(device)
                || selector.matches(after)
                || names(selector, &touched)
                || (bare && names(selector, &root.protected))
        })
    }

    /// In the order of root.
    pub fn iter(&self) -> impl Iterator<Item = &'a Scope> + '_ {
        self.0.iter().copied()
    }

    /// Refuses unless the threshold of each scope is met.
    pub fn require(&self, envelope: &Envelope, fleet: &FleetId) -> Result<(), Refusal> {
        for scope in &self.0 {
            statement::count(envelope, &scope.role.keys, scope.role.threshold, fleet)
                .map_err(|refusal| in_scope(scope, &refusal))?;
        }
        Ok(())
    }

    /// Refuses unless the threshold of any one scope is met: enough for what only stops.
    pub fn require_any(&self, envelope: &Envelope, fleet: &FleetId) -> Result<(), Refusal> {
        let mut first = None;
        for scope in &self.0 {
            match statement::count(envelope, &scope.role.keys, scope.role.threshold, fleet) {
                Ok(_) => return Ok(()),
                Err(refusal) => first = first.or(Some(in_scope(scope, &refusal))),
            }
        }
        Err(first.unwrap_or_else(nobody))
    }

    /// Opens a hold of the device that is in these scopes: holding needs any one of them, letting go all.
    pub fn open_hold(&self, bytes: &[u8], device: &DeviceId, authority: &Authority<'_>) -> Result<Hold, Refusal> {
        let opened = statement::open_with::<Hold>(bytes, |envelope| self.require_any(envelope, authority.fleet))?;
        let hold = opened.body;
        if !hold.held {
            self.require(&opened.envelope, authority.fleet)?;
        }
        authority.check_issued(&hold)?;
        if hold.device != *device {
            return refuse!(WrongDevice, "a hold of device {}", hold.device);
        }
        Ok(hold)
    }

    fn collect(root: &'a Root, covers: impl Fn(&Selector) -> bool) -> Result<Self, Refusal> {
        let mut scopes = Vec::new();
        for scope in &root.scopes {
            if covers(&Selector::parse(&scope.select)?) {
                scopes.push(scope);
            }
        }
        if scopes.is_empty() {
            Err(nobody())
        } else {
            Ok(Self(scopes))
        }
    }
}

/// Opens a statement that needs the threshold of every scope. Signatures are counted before anything is decoded.
pub fn open<T: Document>(bytes: &[u8], scopes: &Scopes<'_>, fleet: &FleetId) -> Result<Signed<T>, Refusal> {
    statement::open_with(bytes, |envelope| scopes.require(envelope, fleet))
}

fn names(selector: &Selector, labels: &[Label]) -> bool {
    let keys: BTreeSet<&Label> = selector.keys();
    labels.iter().any(|label| keys.contains(label))
}

fn in_scope(scope: &Scope, refusal: &Refusal) -> Refusal {
    Refusal::new(refusal.code, format!("scope {}: {}", scope.name, refusal.text))
}

fn nobody() -> Refusal {
    Refusal::new(Code::RoleNotAuthorised, "no deploy scope covers the device")
}
