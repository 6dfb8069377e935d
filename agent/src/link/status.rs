//! What the link half knows of the device, for `ensign-agent status` of anybody: one CBOR document per connection to `agent.sock`.

use std::path::Path;
use std::time::Duration;

use ensign_bundle::digest::DeviceId;
use ensign_bundle::reason::Refusal;
use ensign_bundle::statement::{Document, open_unverified};
use ensign_bundle::trust::roles::{Root, Snapshot, Targets, Timestamp};
use ensign_bundle::wire::{DocKind, DocRef, Held, Status};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::controller::Up;
use super::identity::Device;
use crate::ipc::State;
use crate::ipc::socket::{AsyncListener, Listener, Socket, SocketError};
use crate::paths::{Paths, sockets};

/// Anybody may connect: the document holds nothing secret.
const MODE: u32 = 0o666;
/// `FileDescriptorName=` of the socket unit.
const INHERITED: &str = "agent";
/// How long `status` waits for the link half.
const PATIENCE: Duration = Duration::from_secs(2);

/// The newest state, as far as the link half knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    pub id: Option<DeviceId>,
    pub name: Option<String>,
    /// The applier answers.
    pub applier: bool,
    pub connected: bool,
    /// Of the current or last session.
    pub address: Option<String>,
    /// `None` until the applier answered once.
    pub status: Option<Status>,
    pub held: Held,
    pub roles: Vec<Role>,
    pub last_error: Option<Refusal>,
}

/// A role that was offered to the applier. For display only: the link half verifies nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub kind: DocKind,
    pub version: u64,
    /// Unix seconds.
    pub expires: u64,
}

impl LinkStatus {
    pub fn new(device: Option<&Device>) -> Self {
        Self {
            id: device.map(|d| d.id),
            name: device.map(|d| d.name.clone()),
            applier: false,
            connected: false,
            address: None,
            status: None,
            held: Held::default(),
            roles: Vec::new(),
            last_error: None,
        }
    }

    /// The first expiry of the roles that the applier holds.
    pub fn expires(&self) -> Option<u64> {
        let held = |role: &&Role| {
            role.version
                == match role.kind {
                    DocKind::Root => self.held.root,
                    DocKind::Timestamp => self.held.timestamp,
                    DocKind::Snapshot => self.held.snapshot,
                    DocKind::Targets => self.held.targets,
                    _ => 0,
                }
        };
        self.roles.iter().filter(held).map(|role| role.expires).min()
    }

    pub(super) fn connected(&mut self, up: &Up) {
        self.connected = true;
        self.address = Some(up.address.clone());
        self.name = Some(ensign_bundle::text::printable(&up.welcome.name, 63));
        self.last_error = None;
    }

    pub(super) fn disconnected(&mut self, refusal: Option<Refusal>) {
        self.connected = false;
        if refusal.is_some() {
            self.last_error = refusal;
        }
    }

    pub(super) fn told(&mut self, state: &State) {
        self.applier = true;
        self.id = state.device;
        if self.id.is_none() {
            self.name = None;
        }
        self.held = state.held;
        self.status = Some(state.report.status.clone());
    }

    /// Notes the versions and expiries of the roles among offered documents.
    pub(super) fn offered(&mut self, documents: &[DocRef], bytes: &[Vec<u8>]) {
        for (document, bytes) in documents.iter().zip(bytes) {
            let read = match document.kind {
                DocKind::Root => role(bytes, |r: &Root| (r.version, r.expires)),
                DocKind::Timestamp => role(bytes, |r: &Timestamp| (r.version, r.expires)),
                DocKind::Snapshot => role(bytes, |r: &Snapshot| (r.version, r.expires)),
                DocKind::Targets => role(bytes, |r: &Targets| (r.version, r.expires)),
                _ => None,
            };
            if let Some((version, expires)) = read {
                self.roles.retain(|r| r.kind != document.kind);
                self.roles.push(Role {
                    kind: document.kind,
                    version,
                    expires,
                });
            }
        }
    }
}

fn role<T: Document>(bytes: &[u8], read: impl Fn(&T) -> (u64, u64)) -> Option<(u64, u64)> {
    open_unverified::<T>(bytes).ok().map(|signed| read(&signed.body))
}

/// Listens for `status`.
pub fn listen(run: &Path) -> Result<AsyncListener, SocketError> {
    use std::os::unix::fs::PermissionsExt as _;
    let listener = if let Some(listener) = Listener::inherited(INHERITED)? {
        listener
    } else {
        let listener = Listener::bind(run, sockets::AGENT)?;
        std::fs::set_permissions(run.join(sockets::AGENT), std::fs::Permissions::from_mode(MODE))?;
        listener
    };
    AsyncListener::new(listener)
}

/// Answers every connection with the newest status.
pub async fn serve(listener: AsyncListener, status: watch::Receiver<LinkStatus>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let document = status.borrow().clone();
                if let Err(error) = socket.send(&document, &[]).await {
                    tracing::debug!(%error, "status was not taken");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "status cannot be asked");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// The running link half's status; `None` where none runs.
pub fn query(paths: &Paths) -> Option<LinkStatus> {
    let socket = Socket::connect(&paths.run(), sockets::AGENT).ok()?;
    socket.timeout(Some(PATIENCE)).ok()?;
    Some(socket.receive().ok()??.0)
}
