//! The devices' side: QUIC connections, each of them either joining or a session.

mod content;
pub mod endpoint;
mod enroll;
mod frames;
mod reset;
mod session;
mod streams;
pub mod tls;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ensign_bundle::wire;
use ensign_crypto::{KeyId, PublicKey};
use ensign_rollout::DeviceState;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, Incoming, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;

use crate::core::{Core, Parts, State};
use crate::places::{Peer, Place, Places, Room, Source};

pub use content::Contents;

/// Handshakes under way at once. One costs a third of a millisecond of a core and some 60 KiB.
const HANDSHAKES: usize = 256;
/// Connection attempts that wait for a handshake, those under way included; more are refused. As in `endpoint`.
const PENDING: usize = endpoint::PENDING;
/// ... from one address: a site of devices behind one NAT whose power comes back. More are passed over in silence, and QUIC sends
/// them again: those that are under way finish.
const PENDING_EACH: usize = 64;
/// From this many pending handshakes on, an address must prove that it is one (QUIC's Retry, RFC 9000 §8.1.2) before it costs any
/// memory. Below it a connection is one round trip faster.
const RETRY_ABOVE: usize = 64;
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// ... while others wait for its place: three round trips of a bad link.
const HANDSHAKE_CROWDED: Duration = Duration::from_secs(3);
/// Connections that are joining: a token is for one device or for a few hundred, and each joins within a second.
const JOINING: usize = 256;
/// ... from one address: a bench where devices are set up.
const JOINING_EACH: usize = 64;
/// Connections of keys that the registry does not serve: they get a refusal and go.
const STRANGERS: usize = 256;
/// ... from one address.
const STRANGERS_EACH: usize = 32;
/// Connections of one approved device that have not said hello: one, and the one before it that the device has given up.
const MEMBER_EACH: usize = 2;

/// QUIC application error codes of this protocol.
pub(crate) const DONE: VarInt = VarInt::from_u32(0);
pub(crate) const REFUSED: VarInt = VarInt::from_u32(1);
pub(crate) const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
pub(crate) const STOPPING: VarInt = VarInt::from_u32(3);
/// Told with [`REFUSED`] to a connection whose place was needed.
const BUSY: &[u8] = b"busy";

/// What connections share.
#[derive(Clone, Debug)]
pub struct Server {
    pub core: Core,
    pub parts: Arc<Parts>,
    pub contents: Arc<Contents>,
    /// Buffers with blocks on their way to devices.
    buffers: Arc<Semaphore>,
    rooms: Rooms,
    /// Numbers the connections of devices.
    connections: Arc<AtomicU64>,
}

/// Connections that have proven nothing yet. Each kind has a room of its own, so that none can take the place of another; an approved
/// device shares its room with nobody.
#[derive(Clone, Debug)]
struct Rooms {
    pending: Places<Source>,
    joining: Places<Source>,
    strangers: Places<Source>,
    members: Places<KeyId>,
}

/// The place of a connection before `welcome`.
#[derive(Debug)]
enum Waiting {
    Member(Place<KeyId>),
    Stranger(Place<Source>),
}

impl Peer for KeyId {}

impl Rooms {
    fn new() -> Self {
        let room = |most, each| Room { most, each };
        Self {
            pending: Places::new(room(PENDING, PENDING_EACH)),
            joining: Places::new(room(JOINING, JOINING_EACH)),
            strangers: Places::new(room(STRANGERS, STRANGERS_EACH)),
            members: Places::new(room(usize::MAX, MEMBER_EACH)),
        }
    }
}

impl Waiting {
    /// Resolves when another needs the place.
    async fn lost(&self) {
        match self {
            Self::Member(place) => place.lost().await,
            Self::Stranger(place) => place.lost().await,
        }
    }
}

impl Server {
    pub fn new(core: Core, parts: Arc<Parts>) -> Self {
        let contents = Arc::new(Contents::new(Arc::clone(&parts)));
        Self {
            core,
            parts,
            contents,
            buffers: Arc::new(Semaphore::new(streams::BUFFERS)),
            rooms: Rooms::new(),
            connections: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Takes connections until the endpoint is closed.
    pub async fn run(self, endpoint: Endpoint) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        while let Some(incoming) = endpoint.accept().await {
            let unvalidated = !incoming.remote_address_validated() && incoming.may_retry();
            if unvalidated && self.rooms.pending.count() >= RETRY_ABOVE {
                if let Err(error) = incoming.retry() {
                    tracing::debug!(%error, "a retry packet was not sent");
                }
                continue;
            }
            let Some(place) = self
                .rooms
                .pending
                .try_enter(Source::from(incoming.remote_address().ip()))
            else {
                incoming.ignore();
                continue;
            };
            let (server, handshakes) = (self.clone(), Arc::clone(&handshakes));
            tokio::spawn(async move {
                let connection = handshake(incoming, &handshakes).await;
                drop(place);
                if let Some(connection) = connection {
                    server.serve(connection).await;
                }
            });
        }
    }

    async fn serve(self, connection: Connection) {
        let Some((peer, alpn)) = identity(&connection) else {
            connection.close(PROTOCOL_ERROR, b"no key");
            return;
        };
        let source = Source::from(connection.remote_address().ip());
        if alpn == wire::ALPN_ENROLL {
            let place = self.rooms.joining.enter(source);
            tokio::select! {
                () = enroll::serve(&self, &connection, &peer) => {}
                () = place.lost() => connection.close(REFUSED, BUSY),
            }
            return;
        }
        let is_member = move |state: &State| {
            let row = state.devices.get(&state.device_of(&peer));
            row.is_some_and(|d| d.state == DeviceState::Approved)
        };
        let place = match self.core.read(is_member).await {
            Ok(true) => Waiting::Member(self.rooms.members.enter(peer)),
            Ok(false) => Waiting::Stranger(self.rooms.strangers.enter(source)),
            Err(_) => {
                connection.close(STOPPING, b"stopping");
                return;
            }
        };
        session::serve(&self, &connection, &peer, place).await;
    }
}

async fn handshake(incoming: Incoming, handshakes: &Semaphore) -> Option<Connection> {
    let _place = handshakes.acquire().await.ok()?;
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => {
            tracing::debug!(%error, "a connection was not accepted");
            return None;
        }
    };
    let patience = if handshakes.available_permits() == 0 {
        HANDSHAKE_CROWDED
    } else {
        HANDSHAKE
    };
    match tokio::time::timeout(patience, connecting).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("a handshake took too long");
            None
        }
    }
}

/// The key that the peer proved to have, and the protocol it asked for.
fn identity(connection: &Connection) -> Option<(KeyId, Vec<u8>)> {
    let shown = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    let key = PublicKey::from_spki(shown.first()?).ok()?;
    let handshake = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Some((key.id(), handshake.protocol?))
}
