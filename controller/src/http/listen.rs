//! HTTPS for operators: HTTP/1.1 over TLS 1.3 with the self-signed certificate that the CLI pins by its SPKI.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::guests::{self, Guest, Guests};
use super::pace::{Pace, Paced};
use crate::https::Shown;
use crate::places::{Room, Source};

/// A client must have finished its handshake, and each of its request heads, within this time: four round trips of a bad mobile
/// network. A connection that lies idle for it is closed too.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an error of the whole listener (no descriptors left): what `accept` would do again at once.
const BREATH: Duration = Duration::from_millis(100);

/// TLS that shows one of the operators' keys.
pub fn acceptor(shown: Arc<Shown>) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What one listener allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections without a valid token: so many before the end of their handshake, and so many after it.
    pub strangers: Room,
    /// Connections with one.
    pub operators: usize,
    /// For a handshake, for each request head, and for an idle connection.
    pub patience: Duration,
    /// Of bodies.
    pub pace: Pace,
}

impl Limits {
    /// The defaults, with so many operators.
    pub fn new(operators: usize) -> Self {
        Self {
            strangers: guests::strangers(),
            operators,
            patience: PATIENCE,
            pace: Pace::default(),
        }
    }
}

/// Serves `router` until `stop` turns true; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let guests = Guests::new(limits.strangers, limits.operators);
    let stopped = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping(&mut stop) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an operator's connection was not accepted");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let guest = guests.enter(Source::from(peer.ip()));
        let (tls, router, stopped) = (tls.clone(), router.clone(), stopped.clone());
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = connection(stream, tls, router, limits, &guest, stopped) => ended,
                () = guest.lost() => Err(io::Error::other("its place was needed for another connection")),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, %peer, "an operator's connection ended");
            }
        });
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: Limits,
    guest: &Guest,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return http(TokioIo::new(stream), router, limits, guest, stop).await;
    };
    let stream = tokio::time::timeout(limits.patience, tls.accept(stream))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    guest.shaken();
    http(TokioIo::new(stream), router, limits, guest, stop).await
}

async fn http<I>(
    io: I,
    router: Router,
    limits: Limits,
    guest: &Guest,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let mut request = request.map(|body| Body::new(Paced::new(body, limits.pace)));
        request.extensions_mut().insert(guest.clone());
        router.call(request)
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.patience);
    let connection = builder.serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stopping(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

/// Resolves when the process stops: the flag is up, or nobody is left to raise it.
async fn stopping(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
