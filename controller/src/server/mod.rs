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
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, Incoming, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;

use crate::core::{Core, Parts};

pub use content::Contents;

/// Handshakes at once; more wait in QUIC's own queue. One costs a third of a millisecond of a core.
const HANDSHAKES: usize = 256;
/// From this many handshakes on, an address must prove that it is one (QUIC's Retry) before it costs any memory.
const RETRY_ABOVE: usize = 64;
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that are not welcomed yet, joining ones included.
const UNPROVEN: usize = 1024;

/// QUIC application error codes of this protocol.
pub(crate) const DONE: VarInt = VarInt::from_u32(0);
pub(crate) const REFUSED: VarInt = VarInt::from_u32(1);
pub(crate) const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
pub(crate) const STOPPING: VarInt = VarInt::from_u32(3);

/// What connections share.
#[derive(Clone, Debug)]
pub struct Server {
    pub core: Core,
    pub parts: Arc<Parts>,
    pub contents: Arc<Contents>,
    /// Buffers with blocks on their way to devices.
    buffers: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    /// Numbers the connections of devices.
    connections: Arc<AtomicU64>,
}

impl Server {
    pub fn new(core: Core, parts: Arc<Parts>) -> Self {
        let contents = Arc::new(Contents::new(Arc::clone(&parts)));
        Self {
            core,
            parts,
            contents,
            buffers: Arc::new(Semaphore::new(streams::BUFFERS)),
            unproven: Arc::new(Semaphore::new(UNPROVEN)),
            connections: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Takes connections until the endpoint is closed.
    pub async fn run(self, endpoint: Endpoint) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        while let Some(incoming) = endpoint.accept().await {
            let busy = HANDSHAKES - handshakes.available_permits();
            if busy >= RETRY_ABOVE && !incoming.remote_address_validated() && incoming.may_retry() {
                if let Err(error) = incoming.retry() {
                    tracing::debug!(%error, "a retry packet was not sent");
                }
                continue;
            }
            let Ok(place) = Arc::clone(&handshakes).acquire_owned().await else {
                return;
            };
            let server = self.clone();
            tokio::spawn(async move {
                let connection = handshake(incoming).await;
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
        let Ok(place) = Arc::clone(&self.unproven).try_acquire_owned() else {
            connection.close(REFUSED, b"busy");
            return;
        };
        if alpn == wire::ALPN_ENROLL {
            enroll::serve(&self, &connection, &peer).await;
        } else {
            session::serve(&self, &connection, &peer, place).await;
        }
    }
}

async fn handshake(incoming: Incoming) -> Option<Connection> {
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => {
            tracing::debug!(%error, "a connection was not accepted");
            return None;
        }
    };
    match tokio::time::timeout(HANDSHAKE, connecting).await {
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
