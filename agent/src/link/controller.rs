//! Keeps a session with the controller: connect, `hello`, `welcome`, then frames both ways until it ends, then again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::printable;
use ensign_bundle::wire::{self, FromDevice, Hello, Report, ToDevice, Welcome};
use ensign_crypto::{PublicKey, SecretKey};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{mpsc, watch};

use super::backoff::{Backoff, Complaint};
use super::engine::Event;
use super::identity::{self, Device, IdentityError};
use super::rotation::Pending;
use super::session::{self, ConnectError, Connected, FrameError, Target};
use crate::chain::chain;
use crate::clock;
use crate::config::Config;
use crate::ipc::State;
use crate::paths::Paths;

/// How long a controller may take to welcome.
const WELCOME: Duration = Duration::from_secs(10);
/// Between two looks whether a new key was asked for.
const LOOK: Duration = Duration::from_secs(20);
/// Words of a fact.
const FACT_CHARS: usize = 100;

/// A session that was welcomed.
#[derive(Debug)]
pub struct Up {
    pub connection: Connection,
    pub address: String,
    pub welcome: Welcome,
    /// The applier's challenge in `hello`: leases of this session answer it.
    pub nonce: ensign_bundle::digest::Nonce,
    /// What is put here is sent.
    pub reports: watch::Sender<Option<Report>>,
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the controller refused: {0}")]
    Refused(Refusal),
    #[error("no welcome within {} s", WELCOME.as_secs())]
    Silent,
    #[error("expected a welcome, got something else")]
    NoWelcome,
}

impl SessionError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Connect(e) => e.refusal(),
            Self::Refused(refusal) => Refusal::new(refusal.code, printable(&refusal.text, 300)),
            Self::Frame(_) | Self::Silent | Self::NoWelcome => Refusal::new(Code::ControllerUnreachable, chain(self)),
            Self::Identity(_) => Refusal::new(Code::Io, chain(self)),
        }
    }
}

/// What a session needs from elsewhere.
#[derive(Debug)]
pub struct Controller {
    pub paths: Paths,
    pub config: Config,
    pub key: SecretKey,
    pub device: Device,
    /// The applier's newest state; nothing is sent before there is one.
    pub state: watch::Receiver<Option<State>>,
    pub events: mpsc::UnboundedSender<Event>,
    /// True when this process is to end.
    pub stop: watch::Receiver<bool>,
    /// When the session at hand was welcomed, boot clock; `None` at the start.
    pub welcomed: Option<Duration>,
    /// The change of the key is a step further: the next session begins at once.
    pub rotating: bool,
}

impl Controller {
    /// Keeps connected until told to stop; a session is then ended with a goodbye.
    pub async fn keep_connected(mut self) {
        let (mut backoff, mut complaint) = (Backoff::default(), Complaint::default());
        let (mut stop, mut haste) = (self.stop.clone(), Haste::default());
        while !*stop.borrow() {
            // Before the applier answers, and after it left the fleet, there is nothing to say.
            let enrolled = |state: &Option<State>| state.as_ref().is_some_and(State::has_fleet);
            let state = tokio::select! {
                state = self.state.wait_for(enrolled) => state.ok().and_then(|s| s.clone()),
                () = told(&mut stop) => return,
            };
            let Some(state) = state else { return };
            let nonce = state.nonce;
            let target = self.target(&state);
            self.welcomed = None;
            self.rotating = false;
            let refusal = self.next_session(&target, state).await.err().map(|e| e.refusal());
            let lived = self.welcomed.map(|at| clock::boot().saturating_sub(at));
            backoff.ended(lived);
            if let Some(refusal) = &refusal {
                if complaint.is_due(refusal.code, lived, clock::boot()) {
                    tracing::warn!(code = %refusal.code, error = %refusal.text, "no session with the controller");
                } else {
                    tracing::debug!(code = %refusal.code, error = %refusal.text, "no session with the controller still");
                }
                if refusal.code == Code::Revoked {
                    self.note_revoked(true);
                }
            }
            if self.events.send(Event::ControllerDown(refusal)).is_err() {
                return;
            }
            // A new applier needs a new session, at once: its leases answer its own nonce.
            let renewed = self.state.borrow().as_ref().is_some_and(|s| s.nonce != nonce);
            if !haste.is_due(self.rotating) && !renewed {
                let mut random = [0; 8];
                // Without randomness every wait is the shortest; that is still a wait of the next try's handshake.
                let _ = getrandom::fill(&mut random);
                tokio::select! {
                    () = tokio::time::sleep(backoff.wait(target.is_local(), u64::from_ne_bytes(random))) => {}
                    () = told(&mut stop) => return,
                }
            }
        }
    }

    /// A session with the key of this device; while that is being changed, with the new one if the controller has it already.
    async fn next_session(&mut self, target: &Target, state: State) -> Result<(), SessionError> {
        let Some(pending) = Pending::load(&self.paths, &self.key.public())? else {
            return self.session(target, state, None, false).await;
        };
        match self.session(target, state.clone(), Some(&pending), true).await {
            // It has not heard of the new key: the old one announces it.
            Err(SessionError::Refused(refusal)) if refusal.code == Code::NotAuthorised => {
                self.session(target, state, Some(&pending), false).await
            }
            ended => ended,
        }
    }

    /// One session from the first packet to its end, with the new key of the change or with the key that is in use.
    async fn session(
        &mut self,
        target: &Target,
        state: State,
        pending: Option<&Pending>,
        anew: bool,
    ) -> Result<(), SessionError> {
        let hello = self.hello(&state)?;
        let mut stop = self.stop.clone();
        let key = pending.filter(|_| anew).map_or(&self.key, |p| &p.new).clone();
        let connected = tokio::select! {
            connected = session::connect(target, &key, wire::ALPN) => connected?,
            () = told(&mut stop) => return Ok(()),
        };
        let ended = self.converse(&connected, hello, pending, anew).await;
        connected.close().await;
        ended
    }

    async fn converse(
        &mut self,
        connected: &Connected,
        hello: Hello,
        pending: Option<&Pending>,
        anew: bool,
    ) -> Result<(), SessionError> {
        let (connection, nonce) = (&connected.connection, hello.nonce);
        let opened = tokio::time::timeout(WELCOME, greet(connection, hello)).await;
        let (mut send, recv, welcome) = opened.map_err(|_| SessionError::Silent)??;
        match pending {
            Some(pending) if anew => {
                pending.done(&self.paths)?;
                self.key = pending.new.clone();
                tracing::info!(key = %self.key.public().id(), "the controller knows the new key: it takes the place of the old one");
            }
            Some(pending) => {
                let statement = serde_bytes::ByteBuf::from(pending.statement.clone());
                session::write(&mut send, &FromDevice::Rotate { statement }).await?;
            }
            None => {}
        }
        let announced = pending.filter(|_| !anew);
        self.welcomed = Some(clock::boot());
        self.note_revoked(false);
        tracing::info!(address = %connected.address, device = %welcome.device, "connected");
        let (reports, outgoing) = watch::channel(None);
        let up = Up {
            connection: connection.clone(),
            address: connected.address.clone(),
            welcome,
            nonce,
            reports,
        };
        if self.events.send(Event::ControllerUp(Box::new(up))).is_err() {
            return Ok(());
        }
        self.frames(connection, send, recv, outgoing, nonce, announced).await
    }

    async fn frames(
        &mut self,
        connection: &Connection,
        mut send: SendStream,
        mut recv: RecvStream,
        mut outgoing: watch::Receiver<Option<Report>>,
        nonce: ensign_bundle::digest::Nonce,
        announced: Option<&Pending>,
    ) -> Result<(), SessionError> {
        let (events, paths, current) = (&self.events, &self.paths, self.key.public());
        let further = AtomicBool::new(false);
        let writer = async {
            while outgoing.changed().await.is_ok() {
                let report = outgoing.borrow_and_update().clone();
                if let Some(report) = report {
                    session::write(&mut send, &FromDevice::Report(report)).await?;
                }
            }
            Ok(())
        };
        let reader = async {
            loop {
                match session::read::<ToDevice>(&mut recv).await? {
                    ToDevice::Refused(refusal) => return Err(SessionError::Refused(refusal)),
                    ToDevice::Rotated { refused: None } => {
                        further.store(true, Ordering::Relaxed);
                        return Ok(());
                    }
                    ToDevice::Rotated { refused: Some(refusal) } => {
                        let text = printable(&refusal.text, 300);
                        tracing::error!(code = %refusal.code, error = %text, "the controller does not take the new key; the old one stays");
                        if let Some(pending) = announced {
                            pending.drop_statement(paths)?;
                        }
                    }
                    frame => {
                        if events.send(Event::Controller(frame)).is_err() {
                            return Ok(());
                        }
                    }
                }
            }
        };
        let state = &mut self.state;
        let replaced = async {
            // A new applier has a new nonce.
            let other = |s: &Option<State>| s.as_ref().is_some_and(|s| s.nonce != nonce || !s.has_fleet());
            let _ = state.wait_for(other).await;
            tracing::info!("the applier started anew or left the fleet");
        };
        // Somebody asks for a new key while this session stands: the next one begins the change.
        let asked = async {
            if announced.is_some() {
                return std::future::pending().await;
            }
            new_key_is_asked_for(paths, &current).await;
            further.store(true, Ordering::Relaxed);
        };
        let mut stop = self.stop.clone();
        let ended = tokio::select! {
            ended = writer => ended,
            ended = reader => ended,
            () = told(&mut stop) => Ok(()),
            () = replaced => Ok(()),
            () = asked => Ok(()),
            error = connection.closed() => Err(FrameError::Lost(session::closed(&error)).into()),
        };
        self.rotating = further.into_inner();
        ended
    }

    /// For `enroll`, which has a use for it alone.
    fn note_revoked(&self, revoked: bool) {
        if let Err(error) = identity::note_revoked(&self.paths, revoked) {
            tracing::warn!(%error, "whether this device is revoked is not noted");
        }
    }

    fn target(&self, state: &State) -> Target {
        let root = state.controller.as_ref();
        let given = [
            self.config.controller.addresses.clone(),
            root.map(|c| c.addresses.clone()).unwrap_or_default(),
            self.device.addresses.clone(),
        ];
        Target {
            addresses: given.into_iter().find(|a| !a.is_empty()).unwrap_or_default(),
            pins: root
                .map(|c| c.keys.clone())
                .filter(|keys| !keys.is_empty())
                .unwrap_or_else(|| vec![self.device.pin]),
            keep_alive: self.config.link.keep_alive,
            idle_timeout: self.config.link.idle_timeout,
        }
    }

    fn hello(&self, state: &State) -> Result<Hello, SessionError> {
        Ok(Hello {
            protocol: wire::PROTOCOL,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            facts: facts(&self.config),
            held: state.held,
            session: identity::next_session(&self.paths)?,
            boot_id: clock::boot_id(),
            nonce: state.nonce,
            status: state.report.status.clone(),
        })
    }
}

/// Which session begins without a wait because the change of the key is a step further.
#[derive(Debug, Default)]
struct Haste {
    last: bool,
}

impl Haste {
    /// One step hurries, the next does not: a controller that forgets the new key again and again is asked at the usual pace.
    fn is_due(&mut self, rotating: bool) -> bool {
        self.last = rotating && !self.last;
        self.last
    }
}

/// Waits until a change from `current` to another key is under way. What a crash left of a change that is done is none.
async fn new_key_is_asked_for(paths: &Paths, current: &PublicKey) {
    loop {
        tokio::time::sleep(LOOK).await;
        if Pending::load(paths, current).is_ok_and(|pending| pending.is_some()) {
            return;
        }
    }
}

/// Waits until this process is to end; the sender being gone means the same.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn greet(connection: &Connection, hello: Hello) -> Result<(SendStream, RecvStream, Welcome), SessionError> {
    let lost = |e: quinn::ConnectionError| SessionError::from(FrameError::Lost(session::closed(&e)));
    let (mut send, mut recv) = connection.open_bi().await.map_err(lost)?;
    session::write(&mut send, &FromDevice::Hello(hello)).await?;
    match session::read::<ToDevice>(&mut recv).await? {
        ToDevice::Welcome(welcome) => Ok((send, recv, welcome)),
        ToDevice::Refused(refusal) => Err(SessionError::Refused(refusal)),
        ToDevice::Desired(_) | ToDevice::Ack { .. } | ToDevice::Rotated { .. } => Err(SessionError::NoWelcome),
    }
}

/// What the device says about itself: for people and filters, believed by nobody.
fn facts(config: &Config) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::from([
        ("arch".to_owned(), std::env::consts::ARCH.to_owned()),
        ("os".to_owned(), std::env::consts::OS.to_owned()),
    ]);
    if let Ok(uname) = nix::sys::utsname::uname() {
        facts.insert("kernel".to_owned(), uname.release().to_string_lossy().into_owned());
    }
    if !config.applier.hardware.is_empty() {
        facts.insert("hardware".to_owned(), config.applier.hardware.clone());
    }
    for value in facts.values_mut() {
        *value = printable(value, FACT_CHARS);
    }
    facts
}

#[cfg(test)]
mod tests {
    use ensign_bundle::digest::{DeviceId, FleetId};
    use ensign_bundle::statement;

    use super::super::rotation;
    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    /// Puts down the statement of a change from one key to the next.
    fn announce(paths: &Paths, old: &SecretKey, new: &SecretKey) {
        let body = rotation::body(1, DeviceId::from(old.public().id()), old, new, key(9).public());
        let signed = statement::sign(&body, &[old, new, &key(9)], &FleetId([7; 32])).unwrap();
        rotation::begin(paths, &signed).unwrap();
    }

    /// It answers each announcement and knows the key by none: every second step waits.
    #[test]
    fn a_controller_that_forgets_the_new_key_is_asked_with_waits() {
        let mut haste = Haste::default();
        let steps = [true, true, true, true, false, true, false, false];
        let hurried = steps.map(|rotating| haste.is_due(rotating));
        assert_eq!(hurried, [true, false, true, false, false, true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_change_that_is_done_ends_no_session() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let current = identity::create_key(&paths).unwrap().public();
        let ends = async || {
            let looks = tokio::time::timeout(10 * LOOK, new_key_is_asked_for(&paths, &current));
            looks.await.is_ok()
        };
        assert!(!ends().await, "nothing was asked for");
        // A crash between the last two steps: the key in use is the one that was changed to.
        let next = rotation::next_key(&paths, &current).unwrap();
        announce(&paths, &key(1), &next);
        assert!(!ends().await, "of a key that is not in use");
        let old = identity::key(&paths).unwrap().unwrap();
        announce(&paths, &old, &key(2));
        assert!(!ends().await, "to a key that is not there");
        announce(&paths, &old, &next);
        assert!(ends().await);
    }
}
