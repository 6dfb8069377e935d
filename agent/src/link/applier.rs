//! The link half's end of `applier.sock`: keeps a connection, sends what the engine asks, tells it what comes back.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use super::engine::Event;
use crate::ipc::socket::{AsyncSocket, Socket, SocketError};
use crate::ipc::{FromApplier, ToApplier};
use crate::paths::sockets;

/// Between two tries to reach an applier that does not listen yet: it starts within tens of milliseconds.
const RETRY: Duration = Duration::from_millis(50);
/// The longest such pause, when it stays away.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A message for the applier and the descriptors beside it.
#[derive(Debug)]
pub struct Outgoing {
    pub message: ToApplier,
    pub descriptors: Vec<OwnedFd>,
}

/// Keeps connected for ever. `Event::ApplierUp` carries the way to send; it ends with the connection.
pub async fn keep_connected(run: PathBuf, events: mpsc::UnboundedSender<Event>) {
    let mut pause = RETRY;
    while !events.is_closed() {
        match Socket::connect(&run, sockets::APPLIER).and_then(AsyncSocket::new) {
            Ok(socket) => {
                pause = RETRY;
                let end = serve(&socket, &events).await;
                if let Err(error) = end {
                    tracing::debug!(%error, "the applier's connection ended");
                }
                // The engine is gone with this process when nobody listens.
                let _ = events.send(Event::ApplierDown);
            }
            Err(error) => tracing::debug!(%error, "no applier yet"),
        }
        tokio::time::sleep(pause).await;
        pause = RETRY_MAX.min(pause * 2);
    }
}

async fn serve(socket: &AsyncSocket, events: &mpsc::UnboundedSender<Event>) -> Result<(), SocketError> {
    // One request at a time is outstanding, so one place is enough.
    let (to, mut outgoing) = mpsc::channel::<Outgoing>(1);
    if events.send(Event::ApplierUp(to)).is_err() {
        return Ok(());
    }
    let writer = async {
        while let Some(next) = outgoing.recv().await {
            let descriptors: Vec<_> = next.descriptors.iter().map(OwnedFd::as_fd).collect();
            socket.send(&next.message, &descriptors).await?;
        }
        Ok(())
    };
    let reader = async {
        while let Some((message, _)) = socket.receive::<FromApplier>().await? {
            if events.send(Event::Applier(message)).is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = writer => ended,
        ended = reader => ended,
    }
}
