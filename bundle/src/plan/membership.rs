//! Who a device is, from signed evidence alone: the binding it joined with, and the grants of its labels.
//!
//! The operator's program resolves selectors with this, the controller admits devices with it, so a row that nobody signed for is
//! in no plan. Evidence does not expire: a token's `expires` and `uses` bind joining only.

use std::collections::BTreeMap;

use ensign_crypto::PublicKey;

use super::evidence::Binding;
use super::scope::{self, Scopes};
use super::statements::{Grant, Hold, Subject};
use crate::digest::{DeviceId, Digest};
use crate::ids::Labels;
use crate::reason::Refusal;
use crate::refuse;
use crate::selector::{self, Selector};
use crate::statement::{self, Signed};
use crate::trust::Authority;
use crate::trust::roles::Root;

/// Signatures of a binding: token, TLS key, receipt key.
const BINDING_KEYS: u32 = 3;

/// A device that proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub device: DeviceId,
    pub receipt_key: PublicKey,
    pub name: String,
    pub labels: Labels,
    /// Of the newest grant; 0 = that of the token.
    pub label_seq: u64,
    /// The token's grant it joined with.
    pub grant: Digest,
    /// What it says of itself; nothing is decided by it.
    pub claims: BTreeMap<String, String>,
}

/// A token's grant, verified.
#[derive(Clone, Debug)]
pub struct Invitation {
    pub signed: Signed<Grant>,
    pub key: PublicKey,
    /// Most devices that join with it.
    pub uses: u32,
    /// Nobody joins from then on, unix seconds.
    pub expires: u64,
    /// False: who joins waits for an operator.
    pub approve: bool,
}

impl Member {
    /// The evidence of one device: its binding, the grant of its token, and any later grants in any order (the newest counts).
    pub fn verify(
        authority: &Authority<'_>,
        binding: &[u8],
        token_grant: &[u8],
        grants: &[&[u8]],
    ) -> Result<Self, Refusal> {
        let invitation = Invitation::verify(authority, token_grant)?;
        let mut member = Self::join(authority, binding, &invitation)?;
        let mut opened = Vec::new();
        for bytes in grants {
            opened.push((statement::open_unverified::<Grant>(bytes)?.body.label_seq, *bytes));
        }
        opened.sort_unstable_by_key(|(seq, _)| *seq);
        for (_, bytes) in opened {
            member.relabel(authority, bytes)?;
        }
        Ok(member)
    }

    /// A device that joins now: its binding against the invitation it names.
    pub fn join(authority: &Authority<'_>, binding: &[u8], invitation: &Invitation) -> Result<Self, Refusal> {
        // The keys to verify with stand in the document itself; what ties them to the fleet is the grant that names the token.
        let opened = statement::open_unverified::<Binding>(binding)?;
        let body = &opened.body;
        let keys = [body.token, body.key, body.receipt_key];
        statement::count(&opened.envelope, &keys, BINDING_KEYS, authority.fleet)?;
        if body.token != invitation.key || body.grant != invitation.signed.digest() {
            return refuse!(
                NotAuthorised,
                "the binding of device {} is for another token than its grant",
                body.device
            );
        }
        for key in keys {
            if let Some(role) = authority.role_of(&key) {
                return refuse!(
                    KeysRefused,
                    "key {} of device {} stands in the role {role}",
                    key.id(),
                    body.device
                );
            }
        }
        let body = opened.body;
        Ok(Self {
            device: body.device,
            receipt_key: body.receipt_key,
            name: body.name,
            labels: invitation.signed.body.labels.clone(),
            label_seq: 0,
            grant: body.grant,
            claims: body.claims,
        })
    }

    /// Takes a newer grant of this device.
    pub fn relabel(&mut self, authority: &Authority<'_>, grant: &[u8]) -> Result<(), Refusal> {
        let claimed = statement::open_unverified::<Grant>(grant)?.body;
        let scopes = Scopes::of_change(authority.root, self.subject(), &claimed.labels)?;
        let grant = scope::open::<Grant>(grant, &scopes, authority.fleet)?.body;
        authority.check_issued(&grant)?;
        if grant.subject != Subject::Device(self.device) {
            return refuse!(WrongDevice, "the grant is not of device {}", self.device);
        }
        if grant.label_seq <= self.label_seq {
            return refuse!(
                RollbackRefused,
                "labels number {} offered, {} are known",
                grant.label_seq,
                self.label_seq
            );
        }
        self.labels = grant.labels;
        self.label_seq = grant.label_seq;
        Ok(())
    }

    /// The hold of this device in an envelope, verified.
    pub fn hold(&self, authority: &Authority<'_>, hold: &[u8]) -> Result<Hold, Refusal> {
        self.scopes(authority.root)?.open_hold(hold, &self.device, authority)
    }

    /// What selectors look at.
    pub fn subject(&self) -> selector::Subject<'_> {
        selector::Subject {
            id: &self.device,
            name: &self.name,
            labels: &self.labels,
        }
    }

    /// Whether the selector means this device, by its signed labels.
    pub fn matches(&self, selector: &Selector) -> bool {
        selector.matches(self.subject())
    }

    /// The scopes whose thresholds a plan for this device needs.
    pub fn scopes<'a>(&self, root: &'a Root) -> Result<Scopes<'a>, Refusal> {
        Scopes::of_device(root, self.subject())
    }
}

impl Invitation {
    /// A token's grant, signed for the labels it gives.
    pub fn verify(authority: &Authority<'_>, grant: &[u8]) -> Result<Self, Refusal> {
        let claimed = statement::open_unverified::<Grant>(grant)?.body;
        let Subject::Token {
            key,
            uses,
            expires,
            approve,
        } = claimed.subject
        else {
            return refuse!(Malformed, "the grant is not of a token");
        };
        let scopes = Self::scopes(authority.root, &claimed.labels)?;
        let signed = scope::open::<Grant>(grant, &scopes, authority.fleet)?;
        authority.check_issued(&signed.body)?;
        if let Some(role) = authority.role_of(&key) {
            return refuse!(KeysRefused, "the token's key {} stands in the role {role}", key.id());
        }
        Ok(Self {
            signed,
            key,
            uses,
            expires,
            approve,
        })
    }

    /// The scopes that a token's grant of these labels needs: the labels decide, before there is a device.
    pub fn scopes<'a>(root: &'a Root, labels: &Labels) -> Result<Scopes<'a>, Refusal> {
        // Nobody has this id.
        let nobody = selector::Subject {
            id: &DeviceId([0; 32]),
            name: "",
            labels: &Labels::new(),
        };
        Scopes::of_change(root, nobody, labels)
    }

    /// Refuses when nobody may join with the token any more: `used` bindings exist already.
    pub fn check_open(&self, used: u32, now: u64) -> Result<(), Refusal> {
        if now >= self.expires {
            return refuse!(TokenExpired, "the token expired at {}, it is {now}", self.expires);
        }
        if used >= self.uses {
            return refuse!(
                TokenUsedUp,
                "the token had {} uses, {used} devices joined with it",
                self.uses
            );
        }
        Ok(())
    }
}
