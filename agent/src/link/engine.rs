//! What to do next, from what is: asked anew after every event, so that lost, repeated or reordered ones do no harm.
//!
//! Four things are derived, each from two levels: documents (what the controller wants − the cache), the offer (what is wanted −
//! what this applier was offered), blobs (what the applier needs − the cache) and the report (what the applier says − what the
//! controller acknowledged). A restart of either side only means that the second level is empty again.

mod reports;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ensign_bundle::digest::Digest;
use ensign_bundle::limits;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::trust::roles::FileRef;
use ensign_bundle::wire::{Desired, DocRef, Phase, Report, ToDevice};
use serde_bytes::ByteBuf;
use tokio::sync::{mpsc, watch};

use super::applier::Outgoing;
use super::cache::{Cache, CacheError};
use super::controller::Up;
use super::fetch::{FetchError, Outcome};
use super::status::LinkStatus;
use crate::chain::chain;
use crate::clock;
use crate::config;
use crate::ipc::{DESCRIPTORS, FromApplier, Need, Offer, OfferedRollout, Piece, State, ToApplier};

/// Before something is asked for again that was absent, damaged or cut off for another reason than a lost connection.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// Blobs handed over before the cache is cut to its size again: at most that many megabytes too much.
const PRUNE_EVERY: usize = 64;

/// What can happen to the link half.
#[derive(Debug)]
pub enum Event {
    ApplierUp(mpsc::Sender<Outgoing>),
    ApplierDown,
    Applier(FromApplier),
    ControllerUp(Box<Up>),
    /// The reason, unless the link itself ended the session.
    ControllerDown(Option<Refusal>),
    Controller(ToDevice),
    Fetch(Outcome),
    /// A stream ended; these files were asked for on it and not decided.
    StreamEnded {
        /// Of the connection that it belonged to: [`quinn::Connection::stable_id`].
        connection: usize,
        left: Vec<Digest>,
        received: u64,
        error: Option<FetchError>,
    },
}

/// The link half's state.
#[derive(Debug)]
pub struct Engine {
    config: config::Link,
    cache: Cache,
    events: mpsc::UnboundedSender<Event>,
    applier: Option<mpsc::Sender<Outgoing>>,
    /// A request to the applier has no answer yet.
    asked: Option<Asked>,
    state: watch::Sender<Option<State>>,
    session: Option<Session>,
    wanted: Option<Desired>,
    /// What this applier was offered last.
    offered: Option<Desired>,
    /// Blobs the applier lacks, in its order.
    need: Option<Wanted>,
    /// Of the needed blobs and wanted documents: what the cache has.
    have: HashSet<Digest>,
    in_flight: HashSet<Digest>,
    /// Not to be asked for before this boot-clock time.
    delayed: HashMap<Digest, Duration>,
    /// Acknowledged by the controller, not yet told to the applier.
    acknowledged: Option<u64>,
    /// The controller's clock, signed for this applier in the session at hand.
    time: Option<ByteBuf>,
    /// It is to be shown: with every offer, for the applier may have had no use for it, or no room, before.
    time_due: bool,
    /// It was refused last time. What an offer brings may mend that, and another offer is needed then.
    time_refused: bool,
    /// Why nothing can be stored, here or by the applier: reported where the applier has no reason of its own.
    unstored: Option<Refusal>,
    /// Blobs handed over since the cache was last cut to its size.
    taken: usize,
    status: watch::Sender<LinkStatus>,
}

#[derive(Debug)]
struct Session {
    up: Box<Up>,
    /// Streams in use.
    streams: usize,
    interval: Duration,
    /// The report sent last, and when.
    sent: Option<(Report, Duration)>,
    acknowledged: u64,
}

/// What the applier needs to go on.
#[derive(Debug)]
struct Wanted {
    manifest: Digest,
    blobs: Vec<FileRef>,
    /// Room that the cache may take without being in the way of what is staged, bytes.
    spare: u64,
    /// Bytes of records received for this release, retries and framing included.
    received: u64,
}

/// The request that the applier is working on.
#[derive(Debug)]
enum Asked {
    State,
    Time,
    Offer,
    Provide(Vec<Digest>),
}

impl Engine {
    pub fn new(
        config: config::Link,
        cache: Cache,
        events: mpsc::UnboundedSender<Event>,
        state: watch::Sender<Option<State>>,
        status: watch::Sender<LinkStatus>,
    ) -> Self {
        Self {
            config,
            cache,
            events,
            applier: None,
            asked: None,
            state,
            session: None,
            wanted: None,
            offered: None,
            need: None,
            have: HashSet::new(),
            in_flight: HashSet::new(),
            delayed: HashMap::new(),
            acknowledged: None,
            time: None,
            time_due: false,
            time_refused: false,
            unstored: None,
            taken: 0,
            status,
        }
    }

    /// Runs until the senders of events are gone.
    pub async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        loop {
            let next = tokio::time::timeout(self.pause(), events.recv()).await;
            match next {
                Ok(Some(event)) => self.take(event),
                Ok(None) => return,
                Err(_) => {}
            }
            while let Ok(event) = events.try_recv() {
                self.take(event);
            }
            self.drive();
        }
    }

    /// What an event says, noted. Nothing is done here.
    fn take(&mut self, event: Event) {
        match event {
            Event::ApplierUp(to) => {
                self.applier = Some(to);
                (self.asked, self.offered, self.need) = (None, None, None);
                (self.time_due, self.time_refused) = (true, false);
                self.ask(ToApplier::Hello, Vec::new(), Asked::State);
            }
            Event::ApplierDown => {
                self.applier = None;
                (self.asked, self.offered, self.need) = (None, None, None);
                self.status.send_modify(|s| s.applier = false);
            }
            Event::Applier(message) => self.take_answer(message),
            Event::ControllerUp(up) => {
                let interval = interval(up.welcome.interval_s);
                self.status.send_modify(|s| s.connected(&up));
                // What an earlier session wanted carries leases for an applier that may be gone.
                (self.wanted, self.offered) = (None, None);
                self.delayed.clear();
                self.time = Some(up.welcome.time.clone()).filter(|time| !time.is_empty());
                (self.time_due, self.time_refused) = (true, false);
                self.session = Some(Session {
                    up,
                    streams: 0,
                    interval,
                    sent: None,
                    acknowledged: 0,
                });
            }
            Event::ControllerDown(refusal) => {
                self.session = None;
                self.status.send_modify(|s| s.disconnected(refusal));
            }
            Event::Controller(ToDevice::Desired(desired)) => {
                tracing::debug!(
                    generation = desired.generation,
                    rollout = desired.rollout.is_some(),
                    "wanted"
                );
                // Leases and the time in `welcome` answer one applier's nonce: what an old session wants is not for a new one.
                let applier = self.state.borrow().as_ref().map(|s| s.nonce);
                if self.session.as_ref().is_some_and(|s| Some(s.up.nonce) == applier) {
                    self.wanted = Some(desired);
                    self.time_due = true;
                }
            }
            Event::Controller(ToDevice::Ack { seq }) => {
                if let Some(session) = &mut self.session {
                    session.acknowledged = session.acknowledged.max(seq);
                }
                self.acknowledged = self.acknowledged.max(Some(seq));
            }
            // The session itself handles these; they never come here.
            Event::Controller(ToDevice::Welcome(_) | ToDevice::Refused(_) | ToDevice::Rotated { .. }) => {}
            Event::Fetch(Outcome::Fetched(digest)) => {
                self.in_flight.remove(&digest);
                self.have.insert(digest);
                self.unstored = None;
            }
            Event::Fetch(Outcome::Absent(digest)) => {
                self.in_flight.remove(&digest);
                tracing::info!(%digest, "the controller gives no such bytes");
                self.delay(digest);
            }
            Event::StreamEnded {
                connection,
                left,
                received,
                error,
            } => self.take_stream_end(connection, left, received, error),
        }
    }

    fn take_answer(&mut self, message: FromApplier) {
        if let FromApplier::Changed(state) = message {
            self.take_state(*state);
            return;
        }
        let asked = self.asked.take();
        self.take_word_on_time(asked.as_ref(), matches!(message, FromApplier::Refused(_)));
        match message {
            FromApplier::State(state) | FromApplier::Changed(state) => self.take_state(*state),
            FromApplier::Need(need) => {
                self.unstored = None;
                // What was just handed over and is needed again was damaged: the cache must not hand it over for ever.
                if let (Some(Asked::Provide(given)), Need::Blobs { blobs, .. }) = (&asked, &need) {
                    for file in blobs.iter().filter(|file| given.contains(&file.digest)) {
                        tracing::warn!(digest = %file.digest, "the applier refused cached bytes");
                        self.cache.remove(&file.digest);
                        self.have.remove(&file.digest);
                        self.delayed.insert(file.digest, clock::boot() + ASK_AGAIN);
                    }
                }
                self.take_need(need, asked);
            }
            FromApplier::Refused(refusal) => {
                tracing::warn!(code = %refusal.code, error = %refusal.text, "the applier refused");
                self.need = None;
                self.fail(refusal);
            }
        }
    }

    /// What an answer means for the time: refused before an offer and taken after it, it makes that offer another one.
    fn take_word_on_time(&mut self, asked: Option<&Asked>, refused: bool) {
        match asked {
            Some(Asked::Time) => {
                if self.time_refused && !refused {
                    self.offered = None;
                }
                self.time_refused = refused;
            }
            Some(Asked::Offer) => self.time_due = self.time_refused,
            _ => {}
        }
    }

    fn take_state(&mut self, state: State) {
        self.status.send_modify(|s| s.told(&state));
        if self.session.as_ref().is_some_and(|s| s.up.nonce != state.nonce) {
            self.wanted = None;
        }
        let phase = state.report.status.phase;
        let before = self.state.send_replace(Some(state)).map(|s| s.report.status.phase);
        if before != Some(phase) && self.need.is_none() {
            self.prune();
        }
    }

    fn take_need(&mut self, need: Need, asked: Option<Asked>) {
        match need {
            Need::Nothing => {
                self.need = None;
                self.prune();
            }
            Need::Blobs { manifest, blobs, spare } => {
                let received = self
                    .need
                    .take()
                    .filter(|n| n.manifest == manifest)
                    .map_or(0, |n| n.received);
                for file in &blobs {
                    if !self.in_flight.contains(&file.digest)
                        && !self.have.contains(&file.digest)
                        && self.cache.has(file)
                    {
                        self.have.insert(file.digest);
                    }
                }
                self.need = Some(Wanted {
                    manifest,
                    blobs,
                    spare: spare.unwrap_or(u64::MAX),
                    received,
                });
                if let Some(Asked::Provide(given)) = asked {
                    self.taken += given.len();
                }
                if self.taken >= PRUNE_EVERY || self.is_short_of_room() {
                    self.prune();
                }
            }
        }
    }

    fn take_stream_end(&mut self, connection: usize, left: Vec<Digest>, received: u64, error: Option<FetchError>) {
        if let Some(need) = &mut self.need {
            need.received += received;
        }
        for digest in &left {
            self.in_flight.remove(digest);
        }
        let session = self.session.as_mut();
        let Some(session) = session.filter(|s| s.up.connection.stable_id() == connection) else {
            // Its connection is gone, which is no trouble of the next one: what is left is asked for there at once.
            return;
        };
        session.streams = session.streams.saturating_sub(1);
        if error.is_none() {
            tracing::debug!(received, "fetched");
        }
        if let Some(error) = error {
            tracing::debug!(%error, left = left.len(), "a stream ended early");
            if !matches!(error, FetchError::Frame(_)) {
                self.fail(Refusal::new(error.code(), chain(&error)));
            }
            for digest in left {
                self.delay(digest);
            }
        }
    }

    /// Does whatever is to be done now.
    fn drive(&mut self) {
        self.delayed.retain(|_, until| *until > clock::boot());
        if self.asked.is_none() && self.applier.is_some() {
            self.ask_applier();
        }
        self.fetch();
        self.report();
    }

    /// The most urgent thing to say to the applier, one at a time.
    fn ask_applier(&mut self) {
        if !self.session_is_of_this_applier() {
            // Its time and leases answer the nonce of an applier that is gone; the next session is being opened.
            return;
        }
        if let Some(attestation) = self.time.clone().filter(|_| self.time_due) {
            self.time_due = false;
            self.ask(ToApplier::Time { attestation }, Vec::new(), Asked::Time);
        } else if let Some(seq) = self.acknowledged.take() {
            self.ask(ToApplier::Acknowledged { seq }, Vec::new(), Asked::State);
        } else if let Some(offer) = self.next_offer() {
            match offer {
                Ok((message, file)) => self.ask(message, vec![file.into()], Asked::Offer),
                Err(error) => self.trouble(&error),
            }
        } else {
            self.provide();
        }
    }

    fn session_is_of_this_applier(&self) -> bool {
        match (&self.session, self.state.borrow().as_ref()) {
            (Some(session), Some(state)) => session.up.nonce == state.nonce,
            _ => true,
        }
    }

    /// The offer of what is wanted, once all its documents are here, unless this applier has it.
    fn next_offer(&mut self) -> Option<Result<(ToApplier, File), CacheError>> {
        let wanted = self.wanted.as_ref()?;
        if self.offered.as_ref() == Some(wanted) {
            return None;
        }
        let documents = documents(wanted);
        let mut bytes = Vec::new();
        for document in &documents {
            let Some(found) = self.cache.bytes(&reference(document)) else {
                self.have.remove(&document.digest);
                return None;
            };
            bytes.push(found);
        }
        let offer = Offer {
            documents: documents
                .iter()
                .map(|d| Piece {
                    kind: d.kind,
                    length: d.length,
                })
                .collect(),
            rollout: wanted.rollout.as_ref().map(|r| OfferedRollout {
                member: r.member.clone(),
                lease: r.lease.clone(),
            }),
            cache: self.cache.size(),
        };
        self.status.send_modify(|s| s.offered(&documents, &bytes));
        let file = match self.cache.scratch(&bytes) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        self.offered = Some(wanted.clone());
        Some(Ok((ToApplier::Offer(offer), file)))
    }

    /// Hands over what the applier needs and the cache has, in the applier's order.
    fn provide(&mut self) {
        let Some(need) = &self.need else { return };
        let (mut blobs, mut descriptors, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for file in need.blobs.iter().filter(|file| self.have.contains(&file.digest)) {
            if blobs.len() == DESCRIPTORS {
                break;
            }
            match self.cache.file(file) {
                Some(open) => {
                    blobs.push(file.digest);
                    descriptors.push(OwnedFd::from(open));
                }
                None => gone.push(file.digest),
            }
        }
        for digest in gone {
            self.have.remove(&digest);
        }
        if !blobs.is_empty() {
            let asked = Asked::Provide(blobs.clone());
            self.ask(ToApplier::Provide { blobs }, descriptors, asked);
        }
    }

    fn ask(&mut self, message: ToApplier, descriptors: Vec<OwnedFd>, asked: Asked) {
        let Some(to) = &self.applier else { return };
        match to.try_send(Outgoing { message, descriptors }) {
            Ok(()) => self.asked = Some(asked),
            // The connection is gone; `ApplierDown` follows.
            Err(_) => self.applier = None,
        }
    }

    /// What is staged, or this very cache, needs the room of what it holds.
    fn is_short_of_room(&self) -> bool {
        let full = |reason: &Refusal| reason.code == Code::NoSpace;
        match &self.need {
            Some(need) => need.spare < self.config.ahead_bytes,
            None => self
                .state
                .borrow()
                .as_ref()
                .is_some_and(|s| s.report.status.reason.as_ref().is_some_and(full)),
        }
    }

    /// Cuts the cache to its size. All blobs go when the release is staged, or room is short; a withdrawn rollout may come back, so some
    /// stay.
    fn prune(&mut self) {
        let phase = self.state.borrow().as_ref().map(|s| s.report.status.phase);
        let staged = matches!(
            phase,
            Some(Phase::Staged | Phase::Waiting | Phase::Switching | Phase::Trial | Phase::Confirmed)
        );
        let mut keep: HashSet<Digest> = self.wanted.iter().flat_map(documents).map(|d| d.digest).collect();
        keep.extend(self.need.iter().flat_map(|n| &n.blobs).map(|f| f.digest));
        let bytes = if (staged && self.need.is_none()) || self.is_short_of_room() {
            0
        } else {
            self.config.cache_bytes
        };
        self.taken = 0;
        self.have.retain(|digest| keep.contains(digest));
        if let Err(error) = self.cache.prune(&keep, bytes) {
            self.trouble(&error);
        }
    }

    fn trouble(&mut self, error: &CacheError) {
        let text = chain(error);
        tracing::warn!(error = %text, "the download cache is in trouble");
        self.fail(Refusal::new(error.code(), text));
    }

    /// Notes what went wrong; what cannot be stored goes into the next report as well: nobody looks at the device.
    fn fail(&mut self, refusal: Refusal) {
        if matches!(refusal.code, Code::NoSpace | Code::Io) {
            self.unstored = Some(refusal.clone());
        }
        self.status.send_modify(|s| s.last_error = Some(refusal));
    }
}

/// What a controller asks for, within bounds: it can neither silence a device nor make it spin.
fn interval(asked_s: u64) -> Duration {
    Duration::from_secs(asked_s.clamp(1, limits::CLAMP_S))
}

fn reference(document: &DocRef) -> FileRef {
    FileRef {
        digest: document.digest,
        length: document.length,
    }
}

/// Every document of what is wanted, in the order in which an applier reads them.
fn documents(wanted: &Desired) -> Vec<DocRef> {
    let mut documents = wanted.documents.clone();
    if let Some(rollout) = &wanted.rollout {
        documents.push(rollout.plan.clone());
        documents.push(rollout.release.clone());
        documents.extend(rollout.gate.clone());
    }
    documents
}
