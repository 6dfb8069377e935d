//! What operators ask of one device and what a device remembers of it: cancels, holds, grants.

use serde_bytes::ByteBuf;

use super::memory::{ENTRIES, Granted, Standing};
use super::time::Clock;
use super::trusted::Trusted;
use crate::digest::DeviceId;
use crate::ids::Labels;
use crate::plan::scope::{self, Scopes};
use crate::plan::statements::{Cancel, Grant, Hold, Subject};
use crate::reason::Refusal;
use crate::refuse;
use crate::selector;
use crate::statement::{self, Signed};

impl Trusted {
    /// The newest labels that operators granted to the device; empty before any grant.
    pub fn labels(&self, device: &DeviceId) -> Labels {
        let grant = self.memory.grants.get(device);
        grant
            .and_then(|granted| statement::open_unverified::<Grant>(&granted.envelope).ok())
            .map(|grant| grant.body.labels)
            .unwrap_or_default()
    }

    /// The number of the newest grant; `None` before any.
    pub fn label_seq(&self, device: &DeviceId) -> Option<u64> {
        self.memory.grants.get(device).map(|granted| granted.label_seq)
    }

    /// The scopes that cover the device by its newest labels.
    pub fn scopes<'a>(&'a self, device: &DeviceId, name: &str) -> Result<Scopes<'a>, Refusal> {
        let labels = self.labels(device);
        let subject = selector::Subject {
            id: device,
            name,
            labels: &labels,
        };
        Scopes::of_device(self.root(), subject)
    }

    /// Ends a plan for ever. Any one scope of the device is enough: it only stops. It does not expire.
    pub fn take_cancel(
        &mut self,
        bytes: &[u8],
        device: &DeviceId,
        name: &str,
        clock: impl Into<Clock>,
    ) -> Result<Cancel, Refusal> {
        let scopes = self.scopes(device, name)?;
        let authority = self.authority(clock);
        let opened = statement::open_with::<Cancel>(bytes, |e| scopes.require_any(e, authority.fleet))?;
        authority.check_issued(&opened.body)?;
        let cancel = opened.body;
        self.memory.cancel(cancel.plan, cancel.issued);
        Ok(cancel)
    }

    /// Holds the device, or lets it go. The same one again changes nothing.
    pub fn take_hold(
        &mut self,
        bytes: &[u8],
        device: &DeviceId,
        name: &str,
        clock: impl Into<Clock>,
    ) -> Result<Hold, Refusal> {
        let scopes = self.scopes(device, name)?;
        let hold = scopes.open_hold(bytes, device, &self.authority(clock))?;
        let entry = Standing {
            seq: hold.seq,
            held: hold.held,
            reason: hold.reason.clone(),
        };
        match self.memory.holds.get(device) {
            Some(held) if *held == entry => return Ok(hold),
            Some(held) if held.seq >= hold.seq => {
                return refuse!(
                    RollbackRefused,
                    "hold number {} offered, {} is known",
                    hold.seq,
                    held.seq
                );
            }
            _ => {}
        }
        check_room(self.memory.holds.len(), "holds")?;
        self.memory.holds.insert(*device, entry);
        Ok(hold)
    }

    /// Takes newer labels of the device. The first grant is that of the token it joined with; what changes a protected label needs
    /// the scopes of old and new labels. The same one again changes nothing, also where others have signed it.
    pub fn take_grant(
        &mut self,
        bytes: &[u8],
        device: &DeviceId,
        name: &str,
        clock: impl Into<Clock>,
    ) -> Result<Labels, Refusal> {
        if self
            .memory
            .grants
            .get(device)
            .is_some_and(|held| held.envelope == bytes)
        {
            return Ok(self.labels(device));
        }
        let signed = self.open_grant(bytes, device, name)?;
        let again = signed.digest();
        self.authority(clock).check_issued(&signed.body)?;
        let grant = signed.body;
        let seq = match grant.subject {
            Subject::Device(named) if named != *device => return refuse!(WrongDevice, "a grant of device {named}"),
            Subject::Device(_) => grant.label_seq,
            Subject::Token { .. } => 0,
        };
        if let Some(held) = self.memory.grants.get_mut(device)
            && statement::open_unverified::<Grant>(&held.envelope).is_ok_and(|held| held.digest() == again)
        {
            held.envelope = ByteBuf::from(bytes);
            return Ok(grant.labels);
        }
        if let Some(held) = self.label_seq(device)
            && held >= seq
        {
            return refuse!(RollbackRefused, "labels number {seq} offered, {held} are known");
        }
        check_room(self.memory.grants.len(), "grants")?;
        let granted = Granted {
            label_seq: seq,
            envelope: ByteBuf::from(bytes),
        };
        self.memory.grants.insert(*device, granted);
        Ok(grant.labels)
    }

    fn open_grant(&self, bytes: &[u8], device: &DeviceId, name: &str) -> Result<Signed<Grant>, Refusal> {
        // Which scopes must have signed depends on the labels inside, so these are read before the signatures are counted; nothing
        // else is done with them.
        let claimed = statement::open_unverified::<Grant>(bytes)?.body.labels;
        let labels = self.labels(device);
        let before = selector::Subject {
            id: device,
            name,
            labels: &labels,
        };
        let scopes = Scopes::of_change(self.root(), before, &claimed)?;
        scope::open::<Grant>(bytes, &scopes, self.fleet())
    }
}

fn check_room(entries: usize, what: &str) -> Result<(), Refusal> {
    if entries >= ENTRIES {
        return refuse!(LimitExceeded, "{entries} {what} are remembered");
    }
    Ok(())
}
