//! From a folder to a running controller, and back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::text::chain;
use ensign_bundle::trust::roles::Controller;
use quinn::Endpoint;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::Config;
use crate::core::{Core, Parts, load};
use crate::http::{self, App, listen, monitor};
use crate::paths::Paths;
use crate::server::tls::Shown;
use crate::server::{STOPPING, Server, endpoint};
use crate::store::blobs::BlobStore;
use crate::store::files::Files;
use crate::store::ledger::Ledger;
use crate::store::room;
use crate::store::sled::Sled;
use crate::{clock, durable, https, kit};

/// Tries to find a number that is free for UDP and TCP, where none was asked for.
const PORT_TRIES: usize = 32;
/// Port of devices and operators where the kit's address names none.
const DEFAULT_PORT: u16 = 7443;
/// Devices get their CONNECTION_CLOSE, operators their answers, within this time; the ledger is closed after it.
const FAREWELL: Duration = Duration::from_secs(2);
/// The core writes its last rows within this time.
const LAST_COMMIT: Duration = Duration::from_secs(2);

/// What to serve.
#[derive(Clone, Debug)]
pub struct Options {
    pub data: PathBuf,
    pub kit: Option<PathBuf>,
    pub config: Config,
}

/// A controller that listens.
#[derive(Debug)]
pub struct Running {
    pub address: SocketAddr,
    pub core: Core,
    endpoint: Endpoint,
    thread: JoinHandle<Result<(), Refusal>>,
    stop: watch::Sender<bool>,
}

/// Opens the folder (importing the kit, if it is the first start), and listens.
pub async fn start(options: Options) -> Result<Running, Refusal> {
    let Options { data, kit, config } = options;
    let paths = Paths::new(&data);
    let (parts, core, thread) = tokio::task::spawn_blocking(move || open(&paths, kit.as_deref(), config))
        .await
        .map_err(|e| Refusal::new(Code::Failed, e.to_string()))??;
    let paths = Paths::new(&data);
    let fleet_address = core.read(|state| state.fleet.address.clone()).await?;
    let wanted = parts
        .config
        .listen
        .map_or_else(|| default_addresses(&fleet_address), |a| vec![a]);
    let (udp, tcp) = bind(&wanted, parts.config.operator_listen)?;
    let address = udp.local_addr().map_err(|e| Refusal::new(Code::Io, e.to_string()))?;

    let failed =
        |what: &str, e: &(dyn std::error::Error + 'static)| Refusal::new(Code::Failed, format!("{what}: {}", chain(e)));
    let mut named = parts.named.subscribe();
    let in_root = named.borrow_and_update().clone();
    let controller = parts.keys.of_controller(&in_root.keys)?;
    let shown = Arc::new(Shown::new(&controller).map_err(|e| failed("devices' port", &e))?);
    let endpoint = endpoint::start(udp, &controller, shown.clone()).map_err(|e| failed("devices' port", &e))?;
    let to_operators = Arc::new(https::Shown::new(https::of_operators(&paths, &in_root.api)?));
    let acceptor = listen::acceptor(to_operators.clone()).map_err(|e| failed("operators' port", &e))?;
    tokio::spawn(follow_root(parts.clone(), shown, to_operators, named));

    let (stop, stopped) = watch::channel(false);
    let app = App {
        core: core.clone(),
        parts: parts.clone(),
    };
    let limits = listen::Limits::new(parts.config.operator_connections);
    let router = http::router(app.clone());
    tokio::spawn(listen::serve(
        into_tokio(tcp)?,
        Some(acceptor),
        router,
        limits,
        stopped.clone(),
    ));
    if let Some(address) = parts.config.metrics_listen {
        let listener = TcpListener::bind(address).map_err(|e| not_bound(address, "TCP", &e))?;
        tokio::spawn(listen::serve(
            into_tokio(listener)?,
            None,
            monitor::router(app),
            limits,
            stopped,
        ));
    }
    tokio::spawn(Server::new(core.clone(), parts).run(endpoint.clone()));
    tracing::info!(%address, data = %data.display(), "listening");
    Ok(Running {
        address,
        core,
        endpoint,
        thread,
        stop,
    })
}

impl Running {
    /// Tells the service manager and writes the ready file.
    pub fn announce(&self, ready_file: Option<&Path>) -> Result<(), Refusal> {
        if let Some(path) = ready_file {
            let text = format!("{{\"listen\":\"{}\",\"pid\":{}}}\n", self.address, std::process::id());
            durable::write(path, text.as_bytes())
                .map_err(|e| Refusal::new(Code::Io, format!("{}: {e}", path.display())))?;
        }
        if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
            tracing::warn!(%error, "the service manager was not told");
        }
        Ok(())
    }

    /// Serves until SIGTERM, SIGINT, or until the core fails.
    pub async fn until_stopped(self) -> Result<(), Refusal> {
        let failed = |e: io::Error| Refusal::new(Code::Failed, format!("no signals: {e}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = self.core.ended() => tracing::error!("the core has ended"),
        }
        self.stop().await
    }

    /// Says goodbye and writes what was kept back. The result is that of the core.
    pub async fn stop(self) -> Result<(), Refusal> {
        tracing::info!("stopping");
        // Best effort: an old service manager has no such word.
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        self.stop.send_replace(true);
        self.endpoint.close(STOPPING, b"stopping");
        // Time for the goodbyes; devices that do not answer are not waited for.
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
        self.core.stop();
        let thread = self.thread;
        let joined = tokio::task::spawn_blocking(move || thread.join());
        match tokio::time::timeout(LAST_COMMIT, joined).await {
            Ok(Ok(Ok(result))) => result,
            Ok(_) => refuse!(Failed, "the core ended in a panic"),
            Err(_) => refuse!(Failed, "the last commit took longer than {} s", LAST_COMMIT.as_secs()),
        }
    }
}

type Opened = (Arc<Parts>, Core, JoinHandle<Result<(), Refusal>>);

fn open(paths: &Paths, kit: Option<&Path>, config: Config) -> Result<Opened, Refusal> {
    let folders = [
        paths.data().to_owned(),
        paths.keys(),
        paths.ledger(),
        paths.blobs(),
        paths.metadata(),
    ];
    for folder in folders {
        durable::private_dir(&folder).map_err(|e| {
            if room::is_full(&e) {
                Refusal::new(Code::NoSpace, room::text(folder.parent().unwrap_or(&folder)))
            } else {
                Refusal::new(Code::Io, format!("{}: {e}", folder.display()))
            }
        })?;
    }
    // First: its lock keeps a second controller out of the folder.
    let ledger: Arc<dyn Ledger> = Arc::new(Sled::open(&paths.ledger())?);
    let documents: Arc<dyn BlobStore> = Arc::new(Files::open(&paths.metadata())?);
    let blobs: Arc<dyn BlobStore> = Arc::new(Files::open(&paths.blobs())?);
    if let Some(kit) = kit {
        kit::import(
            kit,
            paths,
            ledger.as_ref(),
            documents.as_ref(),
            &config,
            clock::unix_now(),
        )?;
    }
    let state = load::load(ledger.as_ref(), documents, blobs, paths, config)?;
    let parts = state.parts.clone();
    let (core, thread) =
        Core::start(state, ledger).map_err(|e| Refusal::new(Code::Failed, format!("no thread: {e}")))?;
    Ok((parts, core, thread))
}

/// Shows devices and operators the keys that the newest root puts first among those that are here.
async fn follow_root(
    parts: Arc<Parts>,
    to_devices: Arc<Shown>,
    to_operators: Arc<https::Shown>,
    mut named: watch::Receiver<Controller>,
) {
    while named.changed().await.is_ok() {
        let in_root = named.borrow_and_update().clone();
        // A root without any key of this controller's was refused before.
        if let Ok(key) = parts.keys.of_controller(&in_root.keys) {
            match to_devices.show(&key) {
                Ok(()) => tracing::info!(key = %key.public().id(), "devices are shown the key that root names"),
                Err(error) => tracing::error!(%error, "the key that root names cannot be shown"),
            }
        }
        match https::of_operators(&Paths::new(&parts.data), &in_root.api) {
            Ok(key) => to_operators.show(key),
            Err(refusal) => tracing::error!(%refusal, "the operators' key that root names cannot be shown"),
        }
    }
}

/// Where to listen when nobody says so: the kit's port, on its host if that is loopback, else everywhere.
fn default_addresses(fleet: &str) -> Vec<SocketAddr> {
    let (host, port) = fleet.rsplit_once(':').unwrap_or((fleet, ""));
    let port = port.parse().unwrap_or(DEFAULT_PORT);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = match host {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => host.parse::<IpAddr>().ok().filter(IpAddr::is_loopback),
    };
    match loopback {
        Some(ip) => vec![SocketAddr::new(ip, port)],
        // One socket for both families; hosts without IPv6 get the other.
        None => vec![
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
        ],
    }
}

/// UDP first, then TCP on the same number, or on the operators' own address.
fn bind(wanted: &[SocketAddr], operators: Option<SocketAddr>) -> Result<(UdpSocket, TcpListener), Refusal> {
    let mut last = Refusal::new(Code::Failed, "no address to listen on");
    for address in wanted {
        for _ in 0..PORT_TRIES {
            let udp = match endpoint::bind(*address) {
                Ok(udp) => udp,
                Err(error) => {
                    last = not_bound(*address, "UDP", &error);
                    break;
                }
            };
            let same = udp.local_addr().map_err(|e| Refusal::new(Code::Io, e.to_string()))?;
            let operators = operators.unwrap_or(same);
            match TcpListener::bind(operators) {
                Ok(tcp) => return Ok((udp, tcp)),
                Err(error) => last = not_bound(operators, "TCP", &error),
            }
            if address.port() != 0 {
                break;
            }
        }
        if last.code == Code::PortInUse {
            break;
        }
    }
    Err(last)
}

fn into_tokio(listener: TcpListener) -> Result<tokio::net::TcpListener, Refusal> {
    let failed = |e: io::Error| Refusal::new(Code::Io, e.to_string());
    listener.set_nonblocking(true).map_err(failed)?;
    tokio::net::TcpListener::from_std(listener).map_err(failed)
}

fn not_bound(address: SocketAddr, protocol: &str, error: &io::Error) -> Refusal {
    let code = if error.kind() == io::ErrorKind::AddrInUse {
        Code::PortInUse
    } else {
        Code::Io
    };
    Refusal::new(code, format!("{address} ({protocol}) cannot be listened on: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_stays_loopback_and_other_names_listen_everywhere() {
        assert_eq!(default_addresses("127.0.0.1:7443"), ["127.0.0.1:7443".parse().unwrap()]);
        assert_eq!(default_addresses("localhost:9"), ["127.0.0.1:9".parse().unwrap()]);
        assert_eq!(default_addresses("[::1]:9"), ["[::1]:9".parse().unwrap()]);
        for public in ["ensign.example:7443", "192.0.2.1:7443"] {
            let all = default_addresses(public);
            assert!(
                all.iter().all(|a| a.ip().is_unspecified() && a.port() == 7443),
                "{public}"
            );
        }
    }

    #[test]
    fn a_taken_port_is_said_so() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let refusal = bind(&[udp.local_addr().unwrap()], None).unwrap_err();
        assert_eq!(refusal.code, Code::PortInUse);
        let (udp, tcp) = bind(&["127.0.0.1:0".parse().unwrap()], None).unwrap();
        assert_eq!(udp.local_addr().unwrap().port(), tcp.local_addr().unwrap().port());
    }
}
