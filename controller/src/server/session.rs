//! `ensign/1`: one connection of one device. It says what it wants by level — whenever the state changes, the newest wish goes out
//! and replaces the one before — and acknowledges what it heard once that is in the ledger.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ensign_bundle::digest::{DeviceId, Digest, Nonce};
use ensign_bundle::plan::evidence::Lease;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement;
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::wire::{Desired, FromDevice, Report, ToDevice};
use ensign_crypto::KeyId;
use quinn::{Connection, RecvStream, SendStream};
use serde_bytes::ByteBuf;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::content::ReleaseBlobs;
use super::frames::{self, FrameError};
use super::{BUSY, DONE, PROTOCOL_ERROR, REFUSED, Server, Waiting, streams};
use crate::clock;
use crate::core::{Fetch, Leave, Session, Want};

/// The first frame must come within this time.
const HELLO: Duration = Duration::from_secs(10);
/// Reports that wait for the ledger; a device sends the next one after an acknowledgement anyway.
const REPORTS: usize = 4;
/// ... from a key that the registry does not serve: it only gets a refusal.
const STRANGER_HELLO: Duration = Duration::from_secs(5);
/// A device that is refused at `hello` reads why before the connection is closed under it.
const FIRST_WORD: Duration = Duration::from_secs(2);
/// ... one whose session is ended: the promise is that revocation drops a live connection within a second, whatever the device does.
const LAST_WORD: Duration = Duration::from_millis(400);
const _: () = assert!(
    LAST_WORD.as_millis() <= 500,
    "half of the second is for what comes before it"
);

/// What a session and its streams share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) device: DeviceId,
    wants: watch::Receiver<Arc<Want>>,
    /// The wish before the newest: its documents may be on their way.
    before: Mutex<Option<Arc<Want>>>,
    /// Keeps lists of blobs in memory while this session uses them.
    lists: Mutex<HashMap<Digest, Arc<ReleaseBlobs>>>,
}

impl Shared {
    /// Whether the device was told about this document.
    pub(super) fn may_read(&self, document: &Digest) -> bool {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        self.wants.borrow().names(document) || before.as_ref().is_some_and(|want| want.names(document))
    }

    /// Why the device may fetch of the release with this manifest.
    pub(super) fn may_fetch(&self, manifest: &Digest) -> Option<Fetch> {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.wants.borrow().may_fetch(manifest);
        now.or_else(|| before.as_ref().and_then(|want| want.may_fetch(manifest)))
    }

    pub(super) fn keep(&self, manifest: Digest, list: &Arc<ReleaseBlobs>) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.insert(manifest, Arc::clone(list));
        lists.retain(|m, _| *m == manifest || self.wants.borrow().may_fetch(m).is_some());
    }

    fn forget_lists(&self) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|m, _| self.wants.borrow().plans(m));
        lists.shrink_to_fit();
    }
}

/// Serves a device until its connection ends.
pub(super) async fn serve(server: &Server, connection: &Connection, peer: &KeyId, place: Waiting) {
    let patience = match place {
        Waiting::Member(_) => HELLO,
        Waiting::Stranger(_) => STRANGER_HELLO,
    };
    let opened = tokio::select! {
        opened = tokio::time::timeout(patience, open(server, connection, peer)) => opened,
        () = place.lost() => {
            connection.close(REFUSED, BUSY);
            return;
        }
    };
    drop(place);
    match opened {
        Ok(Ok(Some((session, send, recv)))) => run(server, connection, session, send, recv).await,
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a device was not welcomed");
            connection.close(PROTOCOL_ERROR, b"");
        }
        Err(_) => connection.close(PROTOCOL_ERROR, b"no hello"),
    }
}

/// `hello` and `welcome`. `None` = refused, and the device knows why.
async fn open(
    server: &Server,
    connection: &Connection,
    peer: &KeyId,
) -> Result<Option<(Opened, SendStream, RecvStream)>, FrameError> {
    let Ok((mut send, mut recv)) = connection.accept_bi().await else {
        return Ok(None);
    };
    let Some(FromDevice::Hello(hello)) = frames::read::<FromDevice>(&mut recv).await? else {
        return Err(FrameError::Malformed(Refusal::new(
            Code::Malformed,
            "the first frame is not hello",
        )));
    };
    let peer = *peer;
    let nonce = hello.nonce;
    let number = server.connections.fetch_add(1, Ordering::Relaxed);
    let leave = Leave::new(&server.core, &peer, number);
    let welcomed = server
        .core
        .change(move |state| state.connect(&peer, number, &hello))
        .await;
    match welcomed {
        Ok(welcomed) => {
            frames::write(&mut send, &ToDevice::Welcome(welcomed.welcome)).await?;
            let opened = Opened {
                session: welcomed.session,
                number,
                nonce,
                leave,
            };
            Ok(Some((opened, send, recv)))
        }
        Err(refusal) => {
            tracing::info!(%peer, code = %refusal.code, text = %refusal.text, "a device was refused");
            refuse(connection, &mut send, refusal, FIRST_WORD).await;
            Ok(None)
        }
    }
}

struct Opened {
    session: Session,
    /// Of the connection.
    number: u64,
    /// The applier's challenge: leases answer it.
    nonce: Nonce,
    leave: Leave,
}

async fn run(server: &Server, connection: &Connection, opened: Opened, mut send: SendStream, recv: RecvStream) {
    let Opened {
        session,
        number,
        nonce,
        leave,
    } = opened;
    let shared = Arc::new(Shared {
        device: session.device,
        wants: session.wants.clone(),
        before: Mutex::new(None),
        lists: Mutex::new(HashMap::new()),
    });
    let (answers, answered) = mpsc::channel(REPORTS);
    let ended = tokio::select! {
        ended = tell(server, &shared, nonce, answered, &mut send) => ended,
        ended = listen(server, session.device, number, recv, answers) => ended,
        () = content(server, &shared, connection) => Ok(None),
        refusal = overdue(&shared) => {
            connection.close(REFUSED, refusal.code.name().as_bytes());
            Ok(None)
        }
        error = connection.closed() => {
            tracing::debug!(device = %session.device, %error, "a connection ended");
            Ok(None)
        }
    };
    // The registry knows it at once, the device when it has read its last word.
    drop(leave);
    match ended {
        Ok(None) => connection.close(DONE, b""),
        Ok(Some(refusal)) => refuse(connection, &mut send, refusal, LAST_WORD).await,
        Err(error) => {
            tracing::debug!(device = %session.device, %error, "a session was broken off");
            connection.close(PROTOCOL_ERROR, b"");
        }
    }
}

/// The refusal that a device did not take: one that reads nothing would hold its connection for as long as a frame may take.
async fn overdue(shared: &Shared) -> Refusal {
    let mut wants = shared.wants.clone();
    let refused = wants.wait_for(|want| want.refused.is_some()).await;
    let refusal = refused.ok().and_then(|want| want.refused.clone());
    match refusal {
        Some(refusal) => {
            tokio::time::sleep(LAST_WORD).await;
            refusal
        }
        // Nobody is left to end the session: the others see that it is over.
        None => std::future::pending().await,
    }
}

/// Sends wishes, renewed leases and acknowledgements. Ends with a refusal when the registry says so.
async fn tell(
    server: &Server,
    shared: &Shared,
    nonce: Nonce,
    mut answers: mpsc::Receiver<ToDevice>,
    send: &mut SendStream,
) -> Result<Option<Refusal>, FrameError> {
    let mut wants = shared.wants.clone();
    let mut told = wants.borrow_and_update().clone();
    loop {
        if let Some(refusal) = &told.refused {
            return Ok(Some(refusal.clone()));
        }
        let desired = leased(server, shared.device, nonce, &told)?;
        frames::write(send, &ToDevice::Desired(desired)).await?;
        let half = Duration::from_secs((server.parts.config.lease_s / 2).max(1));
        let renew = tokio::time::sleep(half);
        tokio::pin!(renew);
        loop {
            tokio::select! {
                changed = wants.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                    let before = std::mem::replace(&mut told, wants.borrow_and_update().clone());
                    *shared.before.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
                    shared.forget_lists();
                    break;
                }
                () = &mut renew, if told.lease.is_some() => break,
                answer = answers.recv() => match answer {
                    Some(answer) => frames::write(send, &answer).await?,
                    None => return Ok(None),
                },
            }
        }
    }
}

/// The wish with a fresh lease, if there is to be one.
fn leased(server: &Server, device: DeviceId, nonce: Nonce, want: &Want) -> Result<Desired, Refusal> {
    let mut desired = want.desired.clone();
    if let (Some(plan), Some(rollout)) = (want.lease, desired.rollout.as_mut()) {
        let lease = Lease {
            format: FORMAT,
            issued: clock::unix_now(),
            plan,
            device,
            nonce,
            ttl_s: server.parts.config.lease_s,
        };
        let keys = server.parts.keys.of_role("timestamp", &want.timestamp)?;
        let bytes = statement::sign(&lease, &keys.iter().collect::<Vec<_>>(), &want.fleet)?;
        rollout.lease = Some(ByteBuf::from(bytes));
    }
    Ok(desired)
}

/// Takes reports and changes of the key; each is answered once it is in the ledger.
async fn listen(
    server: &Server,
    device: DeviceId,
    number: u64,
    mut recv: RecvStream,
    answers: mpsc::Sender<ToDevice>,
) -> Result<Option<Refusal>, FrameError> {
    while let Some(message) = frames::read::<FromDevice>(&mut recv).await? {
        let answer = match message {
            FromDevice::Report(report) => {
                let Report { seq, .. } = report;
                let taken = server.core.change(move |state| state.report(&device, number, report));
                match taken.await {
                    Ok(()) => ToDevice::Ack { seq },
                    Err(refusal) => return Ok(Some(refusal)),
                }
            }
            FromDevice::Rotate { statement } => {
                let taken = server
                    .core
                    .change(move |state| state.rotate(&device, number, &statement));
                ToDevice::Rotated {
                    refused: taken.await.err(),
                }
            }
            FromDevice::Hello(_) => {
                return Err(FrameError::Malformed(Refusal::new(
                    Code::Malformed,
                    "hello came twice on one connection",
                )));
            }
        };
        if answers.send(answer).await.is_err() {
            break;
        }
    }
    Ok(None)
}

/// Answers the streams that the device opens; those under way end with the session.
async fn content(server: &Server, shared: &Arc<Shared>, connection: &Connection) {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            opened = connection.accept_bi() => match opened {
                Ok((send, recv)) => {
                    streams.spawn(streams::serve(server.clone(), Arc::clone(shared), send, recv));
                }
                Err(_) => return,
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn refuse(connection: &Connection, send: &mut SendStream, refusal: Refusal, patience: Duration) {
    let reason = refusal.code.name().as_bytes().to_vec();
    let told = async {
        frames::write(send, &ToDevice::Refused(refusal)).await?;
        let _ = send.finish();
        // Resolves when the device has everything.
        let _ = send.stopped().await;
        Ok::<_, FrameError>(())
    };
    if !matches!(tokio::time::timeout(patience, told).await, Ok(Ok(()))) {
        tracing::debug!("a refused device did not wait for the reason");
    }
    connection.close(REFUSED, &reason);
}
