//! Joining: a device shows a token and a binding; one commit uses the token up and writes the device.

use std::collections::BTreeMap;

use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::limits;
use ensign_bundle::plan::evidence::Binding;
use ensign_bundle::plan::membership::{Invitation, Member};
use ensign_bundle::reason::Refusal;
use ensign_bundle::refuse;
use ensign_bundle::statement;
use ensign_bundle::text::printable;
use ensign_bundle::words::device_name;
use ensign_crypto::{KeyId, PublicKey};
use ensign_rollout::{DeviceState, Order};

use super::rows::{DeviceRow, NameRow, key};
use super::state::State;

/// Devices that wait for an operator at once: a stolen token must not fill the disk.
const PENDING: usize = 10_000;
/// A binding is made in the moment of joining: more ahead or behind than this it is someone else's, seconds.
const BINDING_AGE_S: u64 = 2 * 24 * 3600;

/// What a joining device needs to know before it can sign its binding: digests of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub roots: Vec<Digest>,
    pub grant: Digest,
}

/// What a joined device is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub name: String,
    pub approved: bool,
}

impl State {
    /// The chain of roots and the grant for the token. A device that joined before may ask again after the token was used up: its
    /// answer may have been lost.
    pub fn ask_token(&self, token: &PublicKey, device: &KeyId) -> Result<Asked, Refusal> {
        let again = self.device(&DeviceId::from(*device)).is_ok_and(|d| d.token == *token);
        let row = if again {
            self.token(token)?
        } else {
            self.usable_token(token)?
        };
        Ok(Asked {
            roots: self.roles.roots.values().map(|root| root.digest).collect(),
            grant: row.grant,
        })
    }

    /// Takes a binding that three keys signed: the token's, the connection's and the receipt key. `peer` is the key that the device
    /// proved to have in this connection.
    pub fn join(&mut self, envelope: &[u8], peer: &KeyId) -> Result<Joined, Refusal> {
        let body = statement::open_unverified::<Binding>(envelope)?.body;
        if body.key.id() != *peer {
            return refuse!(
                WrongDevice,
                "the binding is for key {}, the connection has {peer}",
                body.key.id()
            );
        }
        if let Some(known) = self.devices.get(&body.device) {
            // The connection proves the key of the device; nothing is written.
            return join_again(known, &body);
        }
        if let Err(why) = device_name(&body.name) {
            return refuse!(Usage, "{why}");
        }
        let token = self.usable_token(&body.token)?.clone();
        let authority = self.authority();
        let invitation = Invitation::verify(&authority, &self.document(&token.grant)?)?;
        // Three signatures, and the grant that the token was made with.
        Member::join(&authority, envelope, &invitation)?;
        if body.issued.abs_diff(self.now) > BINDING_AGE_S {
            tracing::warn!(device = %body.device, "the clock of a joining device is far off");
        }
        if body.claims.len() > limits::FACTS {
            return refuse!(
                LimitExceeded,
                "the binding has {} claims, at most {} are allowed",
                body.claims.len(),
                limits::FACTS
            );
        }
        self.check_keys_unused(&body)?;
        let waiting = self
            .devices
            .values()
            .filter(|d| d.state == DeviceState::Pending)
            .count();
        if !token.approve && waiting >= PENDING {
            return refuse!(RateLimited, "{waiting} devices wait for approval already");
        }
        let row = DeviceRow {
            id: body.device,
            name: self.free_name(&body.name, &body.device),
            state: if token.approve {
                DeviceState::Approved
            } else {
                DeviceState::Pending
            },
            key: body.key,
            receipt_key: body.receipt_key,
            token: body.token,
            binding: self.keep_document(envelope)?,
            token_grant: token.grant,
            grant: None,
            hold: None,
            labels: token.labels.clone(),
            claims: body.claims,
            held: false,
            ordered: Order::default(),
            held_by: Order::default(),
            joined: self.now,
            last_seen: None,
            session: 0,
            alarm: None,
            agent: String::new(),
            facts: BTreeMap::new(),
            status: None,
            next: None,
            rotations: Vec::new(),
            root: 0,
            report_seq: 0,
            receipt_seq: 0,
        };
        let joined = Joined {
            name: row.name.clone(),
            approved: token.approve,
        };
        let mut used = token;
        used.used += 1;
        self.put(key::token(&used.key), &used)?;
        self.put_new(key::device(&row.id), &row)?;
        self.put(key::name(&row.name), &NameRow { device: row.id })?;
        tracing::info!(device = %row.id, name = %printable(&row.name, 64), approved = joined.approved, "a device joined");
        self.tokens.insert(used.key, used);
        self.names.insert(row.name.clone(), row.id);
        self.used_keys.extend([row.key, row.receipt_key]);
        self.device_added(&row);
        self.devices.insert(row.id, row);
        Ok(joined)
    }

    /// Keys are for one purpose and one device.
    fn check_keys_unused(&self, binding: &Binding) -> Result<(), Refusal> {
        let taken = [binding.key, binding.receipt_key]
            .iter()
            .any(|key| self.used_keys.contains(key));
        if taken {
            return refuse!(KeysRefused, "a key of {} is in use elsewhere", binding.device);
        }
        Ok(())
    }

    /// The name, with the start of the id behind it where a living device has it already.
    fn free_name(&self, wanted: &str, id: &DeviceId) -> String {
        if !self.names.contains_key(wanted) {
            return wanted.to_owned();
        }
        let id = id.to_string();
        for digits in [4, 8, 16] {
            let tail = &id[..digits];
            let mut start = wanted;
            while start.len() + 1 + digits > limits::DEVICE_NAME_BYTES {
                let mut chars = start.chars();
                chars.next_back();
                start = chars.as_str();
            }
            let name = format!("{start}-{tail}");
            if !self.names.contains_key(&name) {
                return name;
            }
        }
        format!("device-{}", &id[..48])
    }
}

/// A device that is there already: its first answer was lost, nothing is used up.
fn join_again(known: &DeviceRow, binding: &Binding) -> Result<Joined, Refusal> {
    if known.state == DeviceState::Revoked {
        return refuse!(Revoked, "device {} was revoked", known.id);
    }
    if known.key != binding.key || known.receipt_key != binding.receipt_key {
        return refuse!(IdentityChanged, "device {} is here with another key", known.id);
    }
    Ok(Joined {
        name: known.name.clone(),
        approved: known.state == DeviceState::Approved,
    })
}
