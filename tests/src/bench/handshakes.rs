//! What a handshake costs: TLS alone in memory, with the hybrid key exchange and with the one before it, and a flood of strangers who
//! connect to a real controller over QUIC, prove their keys, are let go, and come again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use ensign_agent::link::session::{self, Target};
use ensign_bundle::wire;
use ensign_crypto::SecretKey;
use quinn::ConnectionError;

use super::{memory, tls_alone};
use crate::harness::{Fleet, now};

/// Connections that are always being made: less than the controller demands proof of an address from, and far more.
const CROWDS: [u64; 2] = [16, 256];
/// How long each crowd keeps coming.
const STORM: Duration = Duration::from_secs(20);
/// The controller closes a stranger within 5 s; a connection that it does not close by then has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Handshakes per second, and the processor time of either side for each, by the size of the crowd.
pub fn run(bin: &Path) -> Result<()> {
    let alone = tls_alone::run()?;
    let mut fleet = Fleet::start(bin, 0)?;
    let pem = std::fs::read_to_string(fleet.path("controller/keys/controller.pem"))?;
    let target = Arc::new(Target {
        addresses: vec![fleet.address().to_owned()],
        pins: vec![SecretKey::from_pem(&pem)?.public().id()],
        keep_alive: Duration::from_secs(25),
        idle_timeout: Duration::from_secs(60),
    });
    let controller = fleet.controller()?.id();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    for crowd in CROWDS {
        let (began, before) = (now(), times(controller));
        let (made, failed) = runtime.block_on(storm(&target, crowd));
        let (seconds, after) = (began.elapsed().as_secs_f64(), times(controller));
        ensure!(made > 0, "no handshake was finished");
        let each = |from: u64, to: u64| as_float(to - from) / memory::TICKS_PER_SECOND * 1000.0 / as_float(made);
        let (controllers, devices) = (each(before.0, after.0), each(before.1, after.1));
        println!(
            "QUIC, {crowd} at once: {:.0} handshakes/s, {failed} of {} failed; processor time each: controller {controllers:.2} ms \
             ({:.1} times TLS alone), device {devices:.2} ms ({:.1} times); controller {} KiB PSS",
            as_float(made) / seconds,
            made + failed,
            controllers / alone.server_ms,
            devices / alone.client_ms,
            memory::pss(controller)
        );
    }
    Ok(())
}

/// Processor time so far, clock ticks: of the controller, and of this process, which is every device.
fn times(controller: u32) -> (u64, u64) {
    // The tree of this process has the controller in it.
    let controllers = memory::ticks(controller);
    (
        controllers,
        memory::ticks(std::process::id()).saturating_sub(controllers),
    )
}

/// Each of the crowd connects again as soon as it was let go; every connection with a key of its own. One counts when the controller has
/// closed it: it knows the key then, and has looked for it in the registry.
async fn storm(target: &Arc<Target>, crowd: u64) -> (u64, u64) {
    let (made, failed, keys) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let counts = Arc::new((made, failed, keys));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..crowd {
        let (target, counts) = (Arc::clone(target), Arc::clone(&counts));
        tasks.spawn(async move {
            let (made, failed, keys) = &*counts;
            loop {
                let mut seed = [0; 32];
                seed[..8].copy_from_slice(&keys.fetch_add(1, Ordering::Relaxed).to_be_bytes());
                let key = SecretKey::from_seed(seed);
                let count = if proven(&target, &key).await { made } else { failed };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(STORM).await;
    tasks.shutdown().await;
    (counts.0.load(Ordering::Relaxed), counts.1.load(Ordering::Relaxed))
}

/// Connects and says nothing: the controller, which has proven the key, ends the connection.
async fn proven(target: &Target, key: &SecretKey) -> bool {
    let Ok(connected) = session::connect(target, key, wire::ALPN).await else {
        return false;
    };
    let connection = &connected.connection;
    let ended = async {
        let (mut send, _recv) = connection.open_bi().await.ok()?;
        send.finish().ok()?;
        matches!(connection.closed().await, ConnectionError::ApplicationClosed(_)).then_some(())
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    matches!(ended, Ok(Some(())))
}

fn as_float(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}
