//! Which devices are connected, and what each of them is to be told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ensign_bundle::digest::{DeviceId, Nonce};
use ensign_bundle::limits;
use ensign_bundle::plan::evidence::{Receipt, TimeAttestation};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement;
use ensign_bundle::text::printable;
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::wire::{self, Held, Hello, Report, Welcome};
use ensign_crypto::KeyId;
use ensign_rollout::DeviceState;
use serde_bytes::ByteBuf;
use tokio::sync::watch;

use super::clones::Suspect;
use super::state::State;
use super::want::{Session, Want, Welcomed};

/// Bytes of the key of a fact.
const KEY_BYTES: usize = 32;
/// Bytes of a fact, an agent's version, and the like.
const FACT_BYTES: usize = 128;
/// Bytes of the text of a device's reason.
const REASON_BYTES: usize = 1024;

/// The connections, at most one per device.
#[derive(Debug, Default)]
pub struct Sessions {
    live: BTreeMap<DeviceId, Live>,
    /// Connections whose counter went back and who have not shown that they live; at most one per device.
    pub(super) suspects: BTreeMap<DeviceId, Suspect>,
    /// Times of automatic suspensions in the last hour.
    pub(super) suspensions: VecDeque<u64>,
    /// Lower half of the generations that devices see.
    generations: u64,
    /// Whose wishes may have changed since the last batch.
    touched: BTreeSet<DeviceId>,
    all: bool,
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) connection: u64,
    pub(super) held: Held,
    pub(super) wants: watch::Sender<Arc<Want>>,
}

impl Sessions {
    pub fn is_connected(&self, device: &DeviceId) -> bool {
        self.live.contains_key(device)
    }

    pub fn count(&self) -> usize {
        self.live.len()
    }

    /// The device's wish is looked at again after this batch.
    pub(super) fn touch(&mut self, device: DeviceId) {
        self.touched.insert(device);
    }

    /// Everybody's wish is looked at again after this batch.
    pub(super) fn touch_all(&mut self) {
        self.all = true;
    }
}

impl State {
    /// Takes a device's `hello`. Its answer is sent once the session counter is in the ledger.
    ///
    /// `connection` numbers the connections of this process.
    pub fn connect(&mut self, peer: &KeyId, connection: u64, hello: &Hello) -> Result<Welcomed, Refusal> {
        let id = self.device_of(peer);
        let Some(row) = self.devices.get(&id) else {
            return refuse!(NotAuthorised, "device {id} is not in this fleet: join it");
        };
        check_standing(row.state, &row.name)?;
        self.prove_key(&id, peer)?;
        let row = self.device(&id)?;
        let (low, high) = wire::PROTOCOL;
        if hello.protocol.0 > high || hello.protocol.1 < low {
            return refuse!(
                VersionUnknown,
                "the device speaks protocol {} to {}, this controller {low} to {high}",
                hello.protocol.0,
                hello.protocol.1
            );
        }
        if hello.session <= row.session {
            return self.suspect(&id, connection, hello);
        }
        let status = checked(hello.status.clone())?;
        let now = self.now;
        let row = self.device_mut(&id)?;
        row.session = hello.session;
        row.agent = cut(&hello.agent, FACT_BYTES);
        row.facts = hello
            .facts
            .iter()
            .take(limits::FACTS)
            .map(|(key, value)| (cut(key, KEY_BYTES), cut(value, FACT_BYTES)))
            .collect();
        row.last_seen = Some(now);
        row.root = hello.held.root;
        let name = row.name.clone();
        self.put_device(&id)?;
        self.device_connected(&id);
        self.device_reported(&id, status);
        let welcome = self.welcome(&id, hello)?;
        let mut first = self.want(&id, &hello.held);
        first.desired.generation = self.next_generation();
        let (wants, told) = watch::channel(Arc::new(first));
        self.takes_over(
            &id,
            Live {
                connection,
                held: hello.held,
                wants,
            },
        );
        tracing::info!(device = %id, name = %printable(&name, 64), "connected");
        Ok(Welcomed {
            session: Session {
                device: id,
                wants: told,
            },
            welcome,
        })
    }

    pub(super) fn welcome(&self, id: &DeviceId, hello: &Hello) -> Result<Welcome, Refusal> {
        let row = self.device(id)?;
        Ok(Welcome {
            protocol: wire::PROTOCOL.1.min(hello.protocol.1),
            device: *id,
            name: row.name.clone(),
            fleet: self.fleet.fleet,
            // Empty where there is none to attest: the device goes on without.
            time: ByteBuf::from(match self.attest_doubt() {
                None => self.attest(id, hello.nonce)?,
                Some(doubt) => {
                    tracing::warn!(device = %id, text = %doubt.text, "no time is attested");
                    Vec::new()
                }
            }),
            interval_s: self.parts.config.check_in_s,
            labels: row.labels.clone(),
        })
    }

    /// A device has one session: the newest.
    pub(super) fn takes_over(&mut self, id: &DeviceId, live: Live) {
        if let Some(older) = self.sessions.live.insert(*id, live) {
            tracing::debug!(device = %id, "a newer connection takes over");
            older.end(Refusal::new(
                Code::Conflict,
                "a newer connection of this device took over",
            ));
        }
        self.sessions.touch(*id);
    }

    /// Takes a report: receipts that verify, and what the device says of itself. Durable when its answer leaves.
    pub fn report(&mut self, id: &DeviceId, connection: u64, report: Report) -> Result<(), Refusal> {
        self.lives(id, connection)?;
        let row = self.device(id)?;
        check_standing(row.state, &row.name)?;
        let status = checked(report.status)?;
        let key = row.receipt_key;
        let now = self.now;
        let row = self.device_mut(id)?;
        let news = row.report_seq != report.seq || row.status.as_ref() != Some(&status);
        // Devices of earlier versions say it in `hello` alone.
        let has_followed = report.root != 0 && report.root != row.root;
        if has_followed {
            row.root = report.root;
        }
        let changed = news || has_followed;
        row.report_seq = row.report_seq.max(report.seq);
        row.last_seen = Some(now);
        // The device's own words first: a receipt has only the code, and `why` shows what the device said.
        if news {
            self.device_reported(id, status);
        }
        for envelope in &report.receipts {
            // One bad receipt must not keep the others, nor make the device send it for ever.
            match statement::open::<Receipt>(envelope, &[key], 1, &self.fleet.fleet) {
                Ok(signed) if signed.body.device == *id => self.take_receipt(id, signed.body, envelope)?,
                Ok(signed) => {
                    tracing::warn!(device = %id, of = %signed.body.device, "a receipt of another device is left out");
                }
                Err(refusal) => tracing::warn!(device = %id, %refusal, "a receipt is left out"),
            }
        }
        if changed {
            self.put_device(id)?;
        } else {
            self.seen.insert(*id);
        }
        Ok(())
    }

    /// The connection is over. Not written by itself: after a restart nobody is connected anyway.
    pub fn disconnect(&mut self, id: &DeviceId, connection: u64) {
        self.sessions
            .suspects
            .retain(|_, suspect| suspect.live.connection != connection);
        let current = self
            .sessions
            .live
            .get(id)
            .is_some_and(|live| live.connection == connection);
        if !current {
            return;
        }
        self.sessions.live.remove(id);
        if let Some(row) = self.devices.get_mut(id) {
            row.last_seen = Some(self.now);
            tracing::info!(device = %id, name = %printable(&row.name, 64), "disconnected");
        }
        self.seen.insert(*id);
        self.device_disconnected(id);
    }

    /// Ends the device's session, if there is one.
    pub(super) fn end_session(&mut self, id: &DeviceId, refusal: Refusal) {
        if let Some(suspect) = self.sessions.suspects.remove(id) {
            suspect.live.end(refusal.clone());
        }
        if let Some(live) = self.sessions.live.remove(id) {
            live.end(refusal);
            self.device_disconnected(id);
        }
    }

    /// Tells every session whose wish is not what it was. Called after the commit.
    pub(super) fn tell_sessions(&mut self) {
        let all = std::mem::take(&mut self.sessions.all);
        let touched = std::mem::take(&mut self.sessions.touched);
        let ids: Vec<DeviceId> = if all {
            self.sessions.live.keys().copied().collect()
        } else {
            touched
                .into_iter()
                .filter(|id| self.sessions.live.contains_key(id))
                .collect()
        };
        for id in ids {
            let Some(held) = self.sessions.live.get(&id).map(|live| live.held) else {
                continue;
            };
            let mut want = self.want(&id, &held);
            let Some(live) = self.sessions.live.get(&id) else {
                continue;
            };
            want.desired.generation = live.wants.borrow().desired.generation;
            if **live.wants.borrow() == want {
                continue;
            }
            let wants = live.wants.clone();
            want.desired.generation = self.next_generation();
            wants.send_replace(Arc::new(want));
        }
    }

    /// Never goes back within a ledger: starts are counted in it.
    pub(super) fn next_generation(&mut self) -> u64 {
        self.sessions.generations += 1;
        (self.fleet.starts << 32) | (self.sessions.generations & u64::from(u32::MAX))
    }

    fn attest(&self, device: &DeviceId, nonce: Nonce) -> Result<Vec<u8>, Refusal> {
        let body = TimeAttestation {
            format: FORMAT,
            fleet: self.fleet.fleet,
            device: *device,
            nonce,
            time: self.now,
        };
        let keys = self
            .parts
            .keys
            .of_role("timestamp", &self.roles.root().roles.timestamp)?;
        statement::sign(&body, &keys.iter().collect::<Vec<_>>(), &self.fleet.fleet)
    }
}

impl Live {
    fn end(&self, refusal: Refusal) {
        let mut want = Want::clone(&self.wants.borrow());
        want.refused = Some(refusal);
        self.wants.send_replace(Arc::new(want));
    }
}

/// Only approved devices are served.
fn check_standing(state: DeviceState, name: &str) -> Result<(), Refusal> {
    let name = printable(name, 64);
    match state {
        DeviceState::Approved => Ok(()),
        DeviceState::Pending => refuse!(Pending, "{name} waits for approval"),
        DeviceState::Suspended => refuse!(Suspended, "{name} is suspended"),
        DeviceState::Revoked => refuse!(Revoked, "{name} is revoked"),
    }
}

/// The status, as far as a row of the ledger can hold it.
fn checked(mut status: wire::Status) -> Result<wire::Status, Refusal> {
    const MOST: usize = 64;
    if status.installed.len() > MOST || status.denied.len() > MOST {
        return refuse!(
            LimitExceeded,
            "the status names {} releases and {} denied ones, at most {MOST} each",
            status.installed.len(),
            status.denied.len()
        );
    }
    if let Some(reason) = &mut status.reason {
        reason.text = cut(&reason.text, REASON_BYTES);
    }
    Ok(status)
}

/// The start of `text`, at most so many bytes.
fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}
