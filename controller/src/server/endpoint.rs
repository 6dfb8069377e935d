//! The UDP socket and what QUIC may use of it: small windows, few streams, a bound on handshakes that have not proven anything yet.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use ensign_crypto::SecretKey;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig, VarInt};

use super::{reset, tls};

/// Silence after which a connection is gone. Devices keep it alive every 25 s (a NAT binding lives 30 s), so two may be lost.
const IDLE: Duration = Duration::from_secs(60);
/// A device has one control stream and fetches over this many at once.
const STREAMS: u32 = 17;
/// What a device may send ahead on one stream, bytes: a frame and its length word.
const STREAM_WINDOW: u32 = 128 << 10;
/// ... and on all of them.
const RECEIVE_WINDOW: u32 = 256 << 10;
/// Bytes on the way to one device that it has not acknowledged: 1 MiB fills 20 MB/s at 50 ms, and bounds memory.
const SEND_WINDOW: u64 = 1 << 20;
/// Handshakes that wait to be looked at; above it new ones are dropped (QUIC sends them again).
pub(super) const PENDING: usize = 4096;
/// Wanted size of the socket's receive buffer, bytes: room for the first packets of a fleet that reconnects at once. The kernel
/// grants at most `net.core.rmem_max` (systemd/sysctl.d/ensign.conf raises it).
const RECEIVE_BUFFER: usize = 4 << 20;

/// Why the devices' side cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("the TLS configuration is not usable")]
    Tls(#[from] rustls::Error),
    #[error("no cipher suite for the first packets of QUIC")]
    NoInitialSuite(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
    #[error("the UDP socket is not usable")]
    Socket(#[from] io::Error),
}

/// Binds the socket. Done apart from [`start`], so that UDP and TCP can agree on a port first.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    if let Err(error) = setsockopt(&socket.as_fd(), sockopt::RcvBuf, &RECEIVE_BUFFER) {
        tracing::debug!(%error, "the receive buffer keeps its size");
    }
    let granted = getsockopt(&socket.as_fd(), sockopt::RcvBuf).unwrap_or(0);
    tracing::debug!(wanted = RECEIVE_BUFFER, granted, "receive buffer of the devices' port");
    Ok(socket)
}

/// QUIC on a bound socket. Resets stay those of `key` until the next start. Needs a tokio runtime around it.
pub fn start(socket: UdpSocket, key: &SecretKey, shown: Arc<tls::Shown>) -> Result<Endpoint, EndpointError> {
    let crypto = QuicServerConfig::try_from(tls::server_config(shown)?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    config.max_incoming(PENDING);
    config.incoming_buffer_size(64 << 10);
    config.incoming_buffer_size_total(16 << 20);
    let endpoint = Endpoint::new(
        reset::endpoint_config(key),
        Some(config),
        socket,
        Arc::new(TokioRuntime),
    )?;
    Ok(endpoint)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
            u32::try_from(IDLE.as_millis()).unwrap_or(u32::MAX),
        ))))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .crypto_buffer_size(16 << 10)
        .datagram_receive_buffer_size(None);
    transport
}
