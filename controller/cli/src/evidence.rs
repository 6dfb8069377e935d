//! Who is in the fleet, from signed evidence alone: what a controller merely says about devices is never signed for.

use std::collections::BTreeMap;

use ensign_api::{DeviceEvidence, DeviceState};
use ensign_bundle::digest::Digest;
use ensign_bundle::plan::membership::{Invitation, Member};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::text::printable;
use ensign_bundle::trust::Authority;
use ensign_crypto::KeyId;

use crate::app::Session;
use crate::failure::{Result, fail};
use crate::output::Shell;
use crate::seen::{self, Changed, How, Seen};
use crate::units::show_count;

/// Devices that are left out of which a line is said.
const SAID: usize = 8;

/// A device whose evidence holds, with what the controller says of its state.
#[derive(Clone, Debug)]
pub struct Known {
    pub member: Member,
    pub state: DeviceState,
    /// The highest number of a hold that was verified, now or before; 0 = never held.
    pub hold_seq: u64,
}

/// Everybody, and those whose evidence does not hold, with the reason.
#[derive(Debug, Default)]
pub struct Inventory {
    pub known: Vec<Known>,
    /// Name and reason, foreign text.
    pub refused: Vec<(String, Refusal)>,
    /// Those of them that are shown with older labels than the newest, with the newest: new ones may be signed for them.
    pub stale: Vec<Known>,
    /// Since this machine last looked.
    pub changed: Changed,
}

/// What a key was seen for, by its id: none is for two purposes.
type Uses = BTreeMap<KeyId, String>;

impl Inventory {
    /// Asks the controller for all evidence and verifies it.
    pub async fn fetch(session: &Session) -> Result<Self> {
        let rows: Vec<DeviceEvidence> = session.client.get("/v1/evidence").await?;
        let mut inventory = Self::verify(session, &rows)?;
        inventory.known.sort_by(|a, b| a.member.name.cmp(&b.member.name));
        Ok(inventory)
    }

    /// Says who is left out, where no preview does.
    pub fn say_refused(&self) {
        for (name, refusal) in self.refused.iter().take(SAID) {
            Shell::warn(&format!("{} is left out: {refusal}", printable(name, 63)));
        }
        if let more @ 1.. = self.refused.len().saturating_sub(SAID) {
            Shell::warn(&format!("{more} more are left out"));
        }
    }

    /// The devices whose evidence holds, in the order of `rows`, and the others.
    pub fn verify(session: &Session, rows: &[DeviceEvidence]) -> Result<Self> {
        let mut inventory = Self::default();
        // A token's grant is verified once for all devices that joined with it.
        let mut invitations: BTreeMap<Digest, Result<Invitation, Refusal>> = BTreeMap::new();
        let mut bindings: BTreeMap<Digest, u32> = BTreeMap::new();
        let seen = Seen::load(session)?;
        let authority = session.trust.authority();
        let mut uses = Uses::new();
        for row in rows {
            let invitation = invitations
                .entry(Digest::of(&row.token_grant.0))
                .or_insert_with(|| Invitation::verify(&authority, &row.token_grant.0));
            let judged = member(&authority, row, invitation);
            match judged.and_then(|member| own_keys(&mut uses, member, invitation)) {
                Ok(member) => {
                    let uses = invitation.as_ref().map_or(0, |i| i.uses);
                    let joined = bindings.entry(member.grant).or_default();
                    *joined = joined.saturating_add(1);
                    // More devices than the operator invited: somebody minted bindings.
                    if *joined > uses {
                        return fail!(
                            KeysRefused,
                            "more than {} joined with one token of {}: the controller's registry is not to be trusted",
                            show_count(u64::from(uses), "device"),
                            show_count(u64::from(uses), "use")
                        );
                    }
                    // One that does not verify has no number: nobody is led to sign above it.
                    let hold = row.hold.as_ref().and_then(|h| member.hold(&authority, &h.0).ok());
                    let hold_seq = hold.map_or(0, |h| h.seq).max(seen.hold_seq(&member.device));
                    let known = |member| Known {
                        member,
                        state: row.state,
                        hold_seq,
                    };
                    match seen.check(&member) {
                        Ok(()) => inventory.known.push(known(member)),
                        Err(refusal) => {
                            if refusal.code == Code::RollbackRefused {
                                inventory.stale.push(known(seen.newest(&member)));
                            }
                            inventory.refused.push((member.name, refusal));
                        }
                    }
                }
                Err(refusal) => inventory.refused.push((row.name.clone(), refusal)),
            }
        }
        inventory.changed = seen.compare(&inventory.known);
        seen::remember(session, &inventory.known, How::Verified)?;
        Ok(inventory)
    }
}

fn member(
    authority: &Authority<'_>,
    row: &DeviceEvidence,
    invitation: &Result<Invitation, Refusal>,
) -> Result<Member, Refusal> {
    let invitation = invitation.as_ref().map_err(Clone::clone)?;
    let mut member = Member::join(authority, &row.binding.0, invitation)?;
    if let Some(grant) = &row.grant {
        member.relabel(authority, &grant.0)?;
    }
    if member.device != row.device {
        return ensign_bundle::refuse!(
            WrongDevice,
            "the evidence of {} is that of {}",
            row.device,
            member.device
        );
    }
    Ok(member)
}

/// Refuses a device whose keys are another's: one receipt key must not vouch for two.
fn own_keys(uses: &mut Uses, member: Member, invitation: &Result<Invitation, Refusal>) -> Result<Member, Refusal> {
    let token = invitation
        .as_ref()
        .map(|i| (i.key.id(), format!("the token {}", i.key)))
        .ok();
    let keys = [
        (
            KeyId(member.device.0),
            format!("the TLS key of device {}", member.device),
        ),
        (
            member.receipt_key.id(),
            format!("the receipt key of device {}", member.device),
        ),
    ];
    for (key, what) in keys.into_iter().chain(token) {
        match uses.get(&key) {
            Some(other) if *other != what => return refuse!(KeysRefused, "{what} is {other}, too"),
            Some(_) => {}
            None => drop(uses.insert(key, what)),
        }
    }
    Ok(member)
}
