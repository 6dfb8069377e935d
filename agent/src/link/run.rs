//! `ensign-agent run`: starts the parts, says when it is ready, and ends them in order.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::applier;
use super::cache::Cache;
use super::controller::Controller;
use super::engine::Engine;
use super::identity::{self, Device};
use super::status::{self, LinkStatus};
use super::supervisor::{self, Program};
use crate::chain::chain;
use crate::clock;
use crate::config::{Config, Reader};
use crate::durable;
use crate::paths::Paths;

/// A link half that was killed a moment ago may still hold the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// The whole way down: children that do not end by themselves are killed within it.
const STOP: Duration = Duration::from_millis(4500);
/// The only work on other threads is resolving names.
const BLOCKING_THREADS: usize = 2;

/// Runs until SIGTERM or SIGINT.
pub fn run(paths: &Paths, ready_file: Option<&Path>) -> Result<(), Refusal> {
    let config = Config::load(paths, Reader::Link).map_err(|e| Refusal::new(Code::ConfigRefused, chain(&e)))?;
    let (Some(device), Some(key)) = (
        Device::load(paths).map_err(|e| io(&e))?,
        identity::key(paths).map_err(|e| io(&e))?,
    ) else {
        return refuse!(NotFound, "this device has not joined a fleet");
    };
    durable::create_dir(&paths.run(), 0o755).map_err(|e| io(&e))?;
    durable::closed_dir(&paths.link(), identity::DIRECTORY_MODE).map_err(|e| io(&e))?;
    let _lock = lock(paths)?;
    // Before there is a second thread: each would have to be confined by itself.
    crate::sandbox::link(paths, ready_file).map_err(|e| io(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|e| io(&e))?;
    let parts = Parts {
        paths: paths.clone(),
        config,
        device,
        key,
        ready_file: ready_file.map(Path::to_owned),
    };
    let ended = runtime.block_on(parts.run());
    // A name that is being resolved must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// The lock that says who is the link half of this root. Held as long as the file is open.
pub fn lock(paths: &Paths) -> Result<File, Refusal> {
    let path = paths.link().join("lock");
    let file = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .and_then(|file| identity::give_to_owner(&path).map(|()| file))
        .map_err(|e| durable::refusal(path.display(), &e))?;
    let deadline = clock::boot() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if clock::boot() < deadline => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                return refuse!(InUse, "another ensign-agent works under {}", paths.root().display());
            }
            Err(TryLockError::Error(e)) => return refuse!(Io, "{}: {e}", path.display()),
        }
    }
}

struct Parts {
    paths: Paths,
    config: Config,
    device: Device,
    key: ensign_crypto::SecretKey,
    ready_file: Option<PathBuf>,
}

impl Parts {
    async fn run(self) -> Result<(), Refusal> {
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| io(&e))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| io(&e))?;
        let cache = Cache::open(&self.paths.link_cache()).map_err(|e| io(&e))?;
        let (stop, stopping) = watch::channel(false);
        let (events, happened) = mpsc::unbounded_channel();
        let (state, states) = watch::channel(None);
        let (told, status) = watch::channel(LinkStatus::new(Some(&self.device)));

        // What ends by itself when told to, and is waited for.
        let mut orderly = JoinSet::new();
        if !self.paths.is_system() {
            for program in [Program::Applier, Program::Runner] {
                let root = self.paths.root().to_owned();
                orderly.spawn(supervisor::keep_running(program, root, stopping.clone()));
            }
        }
        let controller = Controller {
            paths: self.paths.clone(),
            config: self.config.clone(),
            key: self.key.clone(),
            device: self.device.clone(),
            state: states.clone(),
            events: events.clone(),
            stop: stopping.clone(),
            welcomed: None,
            rotating: false,
        };
        // What may end at any moment.
        let mut loose = JoinSet::new();
        loose.spawn(applier::keep_connected(self.paths.run(), events.clone()));
        let engine = Engine::new(self.config.link.clone(), cache, events, state, told);
        loose.spawn(engine.run(happened));
        match status::listen(&self.paths.run()) {
            Ok(listener) => {
                loose.spawn(status::serve(listener, status));
            }
            // The machine's own run/ensign belongs to root; updates matter more than `status`.
            Err(error) => tracing::warn!(error = %chain(&error), "status cannot be asked"),
        }
        loose.spawn(announce(states, self.ready_file.clone()));
        let talking = tokio::spawn(controller.keep_connected());

        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        stop.send_replace(true);
        let down = async {
            // It may be waiting for a next try: then there is nobody to say goodbye to.
            let _ = tokio::time::timeout(Duration::from_millis(500), talking).await;
            while orderly.join_next().await.is_some() {}
        };
        if tokio::time::timeout(STOP, down).await.is_err() {
            tracing::warn!("not everything ended in time");
        }
        Ok(())
    }
}

/// Says READY once the applier answered, whether or not the controller can be reached.
async fn announce(mut states: watch::Receiver<Option<crate::ipc::State>>, ready_file: Option<PathBuf>) {
    if states.wait_for(Option::is_some).await.is_err() {
        return;
    }
    tracing::info!("ready");
    // Without a service manager this does nothing.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "the service manager was not told");
    }
    if let Some(path) = ready_file {
        let text = format!("{{\"pid\":{}}}\n", std::process::id());
        if let Err(error) = durable::write_lossy(&path, text.as_bytes(), 0o644) {
            tracing::warn!(path = %path.display(), %error, "the ready file was not written");
        }
    }
}

fn io(error: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal::new(Code::Io, chain(error))
}
