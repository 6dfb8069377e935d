//! Who is in the fleet, from signed evidence alone: what a controller merely says about devices is never signed for.

use std::collections::BTreeMap;

use ensign_api::{DeviceEvidence, DeviceState};
use ensign_bundle::digest::Digest;
use ensign_bundle::plan::membership::{Invitation, Member};
use ensign_bundle::plan::statements::Hold;
use ensign_bundle::reason::Refusal;
use ensign_bundle::statement;

use crate::app::Session;
use crate::failure::{Result, fail};
use crate::seen::{self, Seen};
use crate::units::show_count;

/// A device whose evidence holds, with what the controller says of its state.
#[derive(Clone, Debug)]
pub struct Known {
    pub member: Member,
    pub state: DeviceState,
    /// Sequence number of its newest hold; 0 = never held.
    pub hold_seq: u64,
}

/// Everybody, and those whose evidence does not hold, with the reason.
#[derive(Debug, Default)]
pub struct Inventory {
    pub known: Vec<Known>,
    /// Shown with labels older than those that this machine has seen, and the number of those. Refused too.
    pub older: Vec<(Known, u64)>,
    /// Name and reason, foreign text.
    pub refused: Vec<(String, Refusal)>,
}

impl Inventory {
    /// Asks the controller for all evidence and verifies it.
    pub async fn fetch(session: &Session) -> Result<Self> {
        let rows: Vec<DeviceEvidence> = session.client.get("/v1/evidence").await?;
        let mut inventory = Self::verify(session, &rows)?;
        inventory.known.sort_by(|a, b| a.member.name.cmp(&b.member.name));
        Ok(inventory)
    }

    /// The devices whose evidence holds, in the order of `rows`, and the others.
    pub fn verify(session: &Session, rows: &[DeviceEvidence]) -> Result<Self> {
        let mut inventory = Self::default();
        // A token's grant is verified once for all devices that joined with it.
        let mut invitations: BTreeMap<Digest, Result<Invitation, Refusal>> = BTreeMap::new();
        let mut bindings: BTreeMap<Digest, u32> = BTreeMap::new();
        let (root, fleet) = (session.trust.root(), session.fleet());
        let seen = Seen::load(&session.context)?;
        for row in rows {
            let invitation = invitations
                .entry(Digest::of(&row.token_grant.0))
                .or_insert_with(|| Invitation::verify(root, &fleet, &row.token_grant.0));
            match member(session, row, invitation) {
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
                    let (device, seq) = (member.device, member.label_seq);
                    let known = Known {
                        member,
                        state: row.state,
                        hold_seq: hold_seq(row),
                    };
                    match seen.check(&device, seq) {
                        Ok(()) => inventory.known.push(known),
                        Err(refusal) => {
                            inventory.refused.push((row.name.clone(), refusal));
                            inventory.older.push((known, seen.labels(&device).unwrap_or(seq)));
                        }
                    }
                }
                Err(refusal) => inventory.refused.push((row.name.clone(), refusal)),
            }
        }
        let labels = inventory.known.iter().map(|k| (k.member.device, k.member.label_seq));
        seen::remember(&session.context, &labels.collect::<Vec<_>>())?;
        Ok(inventory)
    }
}

fn member(
    session: &Session,
    row: &DeviceEvidence,
    invitation: &Result<Invitation, Refusal>,
) -> Result<Member, Refusal> {
    let (root, fleet) = (session.trust.root(), session.fleet());
    let invitation = invitation.as_ref().map_err(Clone::clone)?;
    let mut member = Member::join(root, &fleet, &row.binding.0, invitation)?;
    if let Some(grant) = &row.grant {
        member.relabel(root, &fleet, &grant.0)?;
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

/// Only a lower bound for the next number: a hold that does not verify cannot do harm here.
fn hold_seq(row: &DeviceEvidence) -> u64 {
    let hold = row.hold.as_ref();
    hold.and_then(|h| statement::open_unverified::<Hold>(&h.0).ok())
        .map_or(0, |h| h.body.seq)
}
