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

/// Handshakes under way at once. One costs half a millisecond of a core (docs/performance.md) and some 60 KiB.
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

impl Rooms {
    /// The place of a connection that has proven its key and not said hello.
    fn before_welcome(&self, is_member: bool, peer: KeyId, source: Source) -> Waiting {
        if is_member {
            Waiting::Member(self.members.enter(peer))
        } else {
            Waiting::Stranger(self.strangers.enter(source))
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
        let Ok(is_member) = self.core.read(is_member).await else {
            connection.close(STOPPING, b"stopping");
            return;
        };
        let place = self.rooms.before_welcome(is_member, peer, source);
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ensign_crypto::SecretKey;
    use quinn::ClientConfig;
    use quinn::crypto::rustls::QuicClientConfig;
    use rustls::client::AlwaysResolvesClientRawPublicKeys;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::verify_tls13_signature_with_raw_key;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
    use rustls::sign::CertifiedKey;
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    use super::*;

    /// A client that believes any controller.
    pub(super) fn stranger() -> ClientConfig {
        let (provider, key) = (tls::provider(), SecretKey::from_seed([2; 32]));
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec()));
        let signing = provider.key_provider.load_private_key(private).unwrap();
        let shown = CertificateDer::from(key.public().to_spki());
        let resolver = AlwaysResolvesClientRawPublicKeys::new(Arc::new(CertifiedKey::new(vec![shown], signing)));
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![wire::ALPN.to_vec()];
        ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
    }

    #[derive(Debug)]
    struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.3 only".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
            let algorithms = tls::provider().signature_verification_algorithms;
            verify_tls13_signature_with_raw_key(message, &spki, dss, &algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    }

    /// As many handshakes run as there are places: one more costs nothing until a place is free.
    #[tokio::test]
    async fn a_handshake_waits_for_its_place() {
        let key = SecretKey::from_seed([1; 32]);
        let socket = endpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let shown = Arc::new(tls::Shown::new(&key).unwrap());
        let server = endpoint::start(socket, &key, shown).unwrap();
        let client = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = client.connect_with(stranger(), address, "controller").unwrap();
        let incoming = server.accept().await.unwrap();
        let places = Arc::new(Semaphore::new(1));
        let taken = Arc::clone(&places).acquire_owned().await.unwrap();
        let (waits, theirs) = {
            let places = Arc::clone(&places);
            let ours = tokio::spawn(async move { handshake(incoming, &places).await });
            (ours, tokio::spawn(connecting))
        };
        // Whatever is ready has run by then, over and over.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(!waits.is_finished() && !theirs.is_finished());
        assert_eq!(server.open_connections(), 0, "nothing was begun");
        drop(taken);
        assert!(waits.await.unwrap().is_some());
        assert!(theirs.await.unwrap().is_ok());
    }

    /// From the very address of the strangers.
    #[tokio::test]
    async fn an_approved_device_shares_its_room_with_nobody() {
        let rooms = Rooms::new();
        let id = |seed| SecretKey::from_seed([seed; 32]).public().id();
        let source = Source::from(IpAddr::from([192, 0, 2, 1]));
        let member = rooms.before_welcome(true, id(1), source);
        let first = rooms.before_welcome(false, id(2), source);
        let _crowd: Vec<_> = (0..1000).map(|_| rooms.before_welcome(false, id(2), source)).collect();
        first.lost().await;
        let lost = tokio::time::timeout(Duration::ZERO, member.lost()).await;
        assert!(lost.is_err(), "its place is its own");
    }

    /// The rooms that docs/protocol.md promises.
    #[test]
    fn each_room_has_its_own_bounds() {
        let rooms = Rooms::new();
        let from = |last: u8| Source::from(IpAddr::from([192, 0, 2, last]));
        let waiting: Vec<_> = (0..65).map_while(|_| rooms.pending.try_enter(from(1))).collect();
        assert_eq!(waiting.len(), 64, "handshakes of one address");
        assert!(rooms.pending.try_enter(from(2)).is_some());
        let all: Vec<_> = (0..)
            .map_while(|_| rooms.pending.try_enter(Source::Local))
            .take(5000)
            .collect();
        assert_eq!(waiting.len() + all.len(), 4096, "handshakes in all");
        for (room, each) in [(&rooms.joining, 64), (&rooms.strangers, 32)] {
            let _one: Vec<_> = (0..100).map(|_| room.enter(from(1))).collect();
            assert_eq!(room.count(), each);
            let _all: Vec<_> = (0..1000).map(|_| room.enter(Source::Local)).collect();
            assert_eq!(room.count(), 256);
        }
        let id = SecretKey::from_seed([3; 32]).public().id();
        let _mine: Vec<_> = (0..3).map(|_| rooms.members.enter(id)).collect();
        assert_eq!(rooms.members.count(), 2, "connections of one device before its welcome");
        assert_eq!((HANDSHAKES, RETRY_ABOVE), (256, 64));
    }
}
