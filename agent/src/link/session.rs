//! One connection to the controller: finding it, proving both ends, and the frames of the control stream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::frame::{self, LENGTH_BYTES};
use ensign_crypto::{KeyId, SecretKey};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, IdleTimeout, RecvStream, SendStream, TransportConfig,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tls::{self, TlsError};
use crate::chain::chain;

/// Longest handshake with one address.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a goodbye may take to leave.
const GOODBYE: Duration = Duration::from_millis(300);
/// First guess of the round trip: a lost first packet is repeated after three of these.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// On this machine a first packet is lost only because nobody listens yet: it is repeated soon.
const LOCAL_RTT: Duration = Duration::from_millis(25);
/// Unread bytes of one stream: 100 Mbit/s at 80 ms.
const STREAM_WINDOW: u32 = 1 << 20;
/// Unread bytes of the whole connection: bounds the memory that a fast controller can fill.
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Unacknowledged bytes towards the controller: reports are small.
const SEND_WINDOW: u64 = 256 << 10;
/// On this machine no NAT forgets anybody. What is in flight when a controller is killed is repeated until the new one answers with a
/// reset; a device that is silent asks this often, which costs a controller with a dozen of them less than 0.1 % of a core.
const LOCAL_KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Longer than [`LOCAL_KEEP_ALIVE`] by what a busy machine may take to answer.
const LOCAL_IDLE: Duration = Duration::from_secs(7);
/// Addresses that one name may stand for.
const ADDRESSES_PER_NAME: usize = 8;

/// Whom to reach, as whom, by which protocol.
#[derive(Clone, Debug)]
pub struct Target {
    /// `HOST:PORT`, tried in order.
    pub addresses: Vec<String>,
    /// SPKI digests that the controller may show.
    pub pins: Vec<KeyId>,
    pub keep_alive: Duration,
    pub idle_timeout: Duration,
}

impl Target {
    /// Whether the controller is on this very machine, as far as its addresses tell without asking anybody.
    pub fn is_local(&self) -> bool {
        let local = |address: &String| {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || bare.parse().is_ok_and(is_this_machine)
        };
        !self.addresses.is_empty() && self.addresses.iter().all(local)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no address of a controller is known")]
    NoAddress,
    #[error("{address} has no address")]
    Resolve { address: String, source: std::io::Error },
    #[error("no answer from the controller at {address}: {text}")]
    Unreachable { address: String, text: String },
    #[error("the controller at {address} shows key {shown}, pinned is {}", pins.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "))]
    WrongKey {
        address: String,
        shown: KeyId,
        pins: Vec<KeyId>,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no UDP socket")]
    Socket(#[source] std::io::Error),
}

impl ConnectError {
    /// The reason as people and scripts see it.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::WrongKey { .. } => Code::WrongControllerKey,
            Self::NoAddress | Self::Resolve { .. } | Self::Unreachable { .. } => Code::ControllerUnreachable,
            Self::Tls(_) | Self::Socket(_) => Code::Failed,
        };
        Refusal::new(code, chain(self))
    }
}

/// Why a stream of frames ended.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the stream ended")]
    Ended,
    #[error("the connection is gone: {0}")]
    Lost(String),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection whose controller has proven its key.
#[derive(Debug)]
pub struct Connected {
    pub connection: Connection,
    /// As it was configured.
    pub address: String,
    endpoint: Endpoint,
}

impl Connected {
    /// Says goodbye and waits a moment for it to be sent.
    pub async fn close(self) {
        self.connection.close(0_u8.into(), b"");
        // A goodbye that is lost costs the controller a timeout, no more.
        let _ = tokio::time::timeout(GOODBYE, self.endpoint.wait_idle()).await;
    }
}

/// Connects to the first address that answers with a pinned key.
pub async fn connect(target: &Target, key: &SecretKey, alpn: &[u8]) -> Result<Connected, ConnectError> {
    let mut failure = ConnectError::NoAddress;
    for address in &target.addresses {
        match connect_to(address, target, key, alpn).await {
            Ok((connection, endpoint)) => {
                return Ok(Connected {
                    connection,
                    address: address.clone(),
                    endpoint,
                });
            }
            // A wrong key says more than a later address that is silent.
            Err(_) if matches!(failure, ConnectError::WrongKey { .. }) => {}
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn connect_to(
    address: &str,
    target: &Target,
    key: &SecretKey,
    alpn: &[u8],
) -> Result<(Connection, Endpoint), ConnectError> {
    let resolve = |source| ConnectError::Resolve {
        address: address.to_owned(),
        source,
    };
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .map_err(resolve)?
        .take(ADDRESSES_PER_NAME)
        .collect();
    let mut failure = resolve(std::io::ErrorKind::NotFound.into());
    for socket in found {
        match handshake(socket, address, target, key, alpn).await {
            Ok(connected) => return Ok(connected),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn handshake(
    socket: SocketAddr,
    address: &str,
    target: &Target,
    key: &SecretKey,
    alpn: &[u8],
) -> Result<(Connection, Endpoint), ConnectError> {
    let pinned = tls::client(key, &target.pins, alpn)?;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(pinned.config).map_err(TlsError::from)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(target, socket.ip())));
    let unreachable = |text: String| ConnectError::Unreachable {
        address: address.to_owned(),
        text,
    };
    let any: IpAddr = match socket {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let endpoint = Endpoint::client((any, 0).into()).map_err(ConnectError::Socket)?;
    let connecting = endpoint
        .connect_with(config, socket, tls::SERVER_NAME)
        .map_err(|e| unreachable(e.to_string()))?;
    match tokio::time::timeout(HANDSHAKE, connecting).await {
        Ok(Ok(connection)) => Ok((connection, endpoint)),
        Ok(Err(error)) => Err(match pinned.shown.take() {
            Some(shown) => ConnectError::WrongKey {
                address: address.to_owned(),
                shown,
                pins: target.pins.clone(),
            },
            None => unreachable(closed(&error)),
        }),
        Err(_) => Err(unreachable(format!("silent for {} s", HANDSHAKE.as_secs()))),
    }
}

/// IPv4 in its IPv6 form too.
fn is_this_machine(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn transport(target: &Target, peer: IpAddr) -> TransportConfig {
    let (keep_alive, idle, rtt) = if is_this_machine(peer) {
        (
            LOCAL_KEEP_ALIVE.min(target.keep_alive),
            LOCAL_IDLE.min(target.idle_timeout),
            LOCAL_RTT,
        )
    } else {
        (target.keep_alive, target.idle_timeout, INITIAL_RTT)
    };
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(keep_alive))
        .max_idle_timeout(IdleTimeout::try_from(idle).ok())
        .initial_rtt(rtt)
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        // The device opens every stream.
        .max_concurrent_bidi_streams(0_u8.into())
        .max_concurrent_uni_streams(0_u8.into())
        .datagram_receive_buffer_size(None);
    transport
}

/// What ended a connection, for people: the other end's words are foreign text.
pub fn closed(error: &ConnectionError) -> String {
    ensign_bundle::text::printable(&error.to_string(), 300)
}

/// Writes one frame.
pub async fn write<T: Serialize>(stream: &mut SendStream, message: &T) -> Result<(), FrameError> {
    let bytes = frame::encode(message)?;
    stream
        .write_all(&bytes)
        .await
        .map_err(|e| FrameError::Lost(e.to_string()))
}

/// Reads one frame. Not cancel safe: a frame may be taken in part.
pub async fn read<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<T, FrameError> {
    let mut word = [0; LENGTH_BYTES];
    exact(stream, &mut word).await?;
    let mut body = vec![0; frame::body_length(word)?];
    exact(stream, &mut body).await?;
    Ok(frame::decode(&body)?)
}

async fn exact(stream: &mut RecvStream, bytes: &mut [u8]) -> Result<(), FrameError> {
    match stream.read_exact(bytes).await {
        Ok(()) => Ok(()),
        Err(quinn::ReadExactError::FinishedEarly(_)) => Err(FrameError::Ended),
        Err(quinn::ReadExactError::ReadError(e)) => Err(FrameError::Lost(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_local() {
        let target = |addresses: &[&str]| Target {
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            pins: Vec::new(),
            keep_alive: Duration::from_secs(25),
            idle_timeout: Duration::from_secs(60),
        };
        for local in [
            &["127.0.0.1:7443"][..],
            &["[::1]:7443"],
            &["[::ffff:127.0.0.1]:7443"],
            &["localhost:1", "127.9.9.9:2"],
        ] {
            assert!(target(local).is_local(), "{local:?}");
        }
        for other in [
            &[][..],
            &["192.0.2.1:7443"],
            &["127.0.0.1:1", "example.com:1"],
            &["127.example.com:1"],
        ] {
            assert!(!target(other).is_local(), "{other:?}");
        }
    }
}
