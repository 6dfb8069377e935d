//! Streams that devices open to fetch bytes: one request, one record per digest, FIN.
//!
//! Memory is bounded: a stream holds one buffer of at most [`CHUNK`] bytes, and [`BUFFERS`] of them exist at once. A reader that
//! takes less than 1 KiB/s over a minute loses its stream, so nobody holds a buffer for ever.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ensign_bundle::digest::{Digest, PlanId};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::frame::{ABSENT, LENGTH_BYTES};
use ensign_bundle::wire::{REQUEST_DIGESTS, Request};
use quinn::{RecvStream, SendStream};

use super::content::ReleaseBlobs;
use super::frames::{self, FrameError};
use super::session::Shared;
use super::{PROTOCOL_ERROR, Server};
use crate::core::Fetch;
use crate::store::blobs::BlobStore;

/// Bytes read from disk at once: a few blocks, so that one trip to another thread carries several records.
const CHUNK: usize = 256 << 10;
/// Chunks in memory at once: 16 MiB for any number of devices.
pub(super) const BUFFERS: usize = 64;
/// A request must be whole within this time.
const REQUEST: Duration = Duration::from_secs(30);
/// Least speed of a reader, bytes per second ...
const SLOWEST: u64 = 1 << 10;
/// ... judged over this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the device does not take what it asked for")]
    Write(#[from] quinn::WriteError),
    #[error("slower than {SLOWEST} B/s")]
    Slow,
    #[error("no request within {} s", REQUEST.as_secs())]
    NoRequest,
}

/// Answers one stream.
pub(super) async fn serve(server: Server, shared: Arc<Shared>, mut send: SendStream, mut recv: RecvStream) {
    if let Err(error) = answer(&server, &shared, &mut send, &mut recv).await {
        tracing::debug!(device = %shared.device, %error, "a stream was broken off");
        // Either may be closed already.
        let _ = send.reset(PROTOCOL_ERROR);
        let _ = recv.stop(PROTOCOL_ERROR);
        return;
    }
    let _ = send.finish();
}

async fn answer(
    server: &Server,
    shared: &Shared,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<(), StreamError> {
    let request = tokio::time::timeout(REQUEST, frames::read::<Request>(recv))
        .await
        .map_err(|_| StreamError::NoRequest)??;
    match request {
        None => Ok(()),
        Some(Request::Documents { digests }) => {
            check_count(&digests)?;
            let given = digests.into_iter().map(|d| shared.may_read(&d).then_some(d)).collect();
            records(server, server.parts.documents.clone(), given, send, None).await
        }
        Some(Request::Blobs { manifest, digests }) => {
            check_count(&digests)?;
            let Some(fetch) = shared.may_fetch(&manifest) else {
                let none = vec![None; digests.len()];
                return records(server, server.parts.blobs.clone(), none, send, None).await;
            };
            let list = Arc::clone(&server.contents).of(manifest).await?;
            shared.keep(manifest, &list);
            let given = digests.into_iter().map(|d| list.contains(&d).then_some(d)).collect();
            let count = match fetch {
                Fetch::Planned(plan) => Some(Count {
                    shared,
                    server,
                    plan,
                    list,
                }),
                Fetch::Installed => None,
            };
            records(server, server.parts.blobs.clone(), given, send, count).await
        }
    }
}

fn check_count(digests: &[Digest]) -> Result<(), Refusal> {
    if digests.len() > REQUEST_DIGESTS {
        return Err(Refusal::new(
            Code::LimitExceeded,
            format!("a request names {} files, at most {REQUEST_DIGESTS}", digests.len()),
        ));
    }
    Ok(())
}

/// What counts the bytes of a rollout.
struct Count<'a> {
    shared: &'a Shared,
    server: &'a Server,
    plan: PlanId,
    list: Arc<ReleaseBlobs>,
}

/// Sends one record per entry; `None` = absent.
async fn records(
    server: &Server,
    store: Arc<dyn BlobStore>,
    given: Vec<Option<Digest>>,
    send: &mut SendStream,
    count: Option<Count<'_>>,
) -> Result<(), StreamError> {
    let mut at = Position {
        given,
        next: 0,
        file: None,
        counts: false,
        counted: 0,
        list: count.as_ref().map(|count| Arc::clone(&count.list)),
    };
    // Bytes of blocks with their framing; the manifest and the tables are metadata.
    let mut sent = 0u64;
    let result = loop {
        let Ok(_place) = server.buffers.acquire().await else {
            break Ok(());
        };
        let store = Arc::clone(&store);
        let filled = tokio::task::spawn_blocking(move || at.fill(store.as_ref())).await;
        let (position, chunk) = match filled {
            Ok(filled) => filled?,
            Err(error) => return Err(Refusal::new(Code::Failed, error.to_string()).into()),
        };
        at = position;
        if chunk.is_empty() {
            break Ok(());
        }
        let length = chunk.len() as u64;
        let deadline = PATIENCE + Duration::from_secs(length / SLOWEST);
        match tokio::time::timeout(deadline, send.write_chunk(chunk.into())).await {
            Ok(Ok(())) => sent += std::mem::take(&mut at.counted),
            Ok(Err(error)) => break Err(error.into()),
            Err(_) => break Err(StreamError::Slow),
        }
    };
    if let Some(Count {
        shared, server, plan, ..
    }) = count
    {
        server.parts.bytes_sent.fetch_add(sent, Ordering::Relaxed);
        let device = shared.device;
        server.core.tell(move |state| state.bytes_sent(&plan, &device, sent));
    }
    result
}

/// How far a request has been answered.
struct Position {
    given: Vec<Option<Digest>>,
    next: usize,
    /// A file that did not fit into the last chunk, and its bytes that are left.
    file: Option<(crate::store::blobs::Content, u64)>,
    /// Whether that file counts for a rollout.
    counts: bool,
    /// Bytes of the last chunk that count for a rollout.
    counted: u64,
    list: Option<Arc<ReleaseBlobs>>,
}

impl Position {
    /// The next bytes of the answer, at most [`CHUNK`]; empty at the end. Blocks.
    fn fill(mut self, store: &dyn BlobStore) -> Result<(Self, Vec<u8>), Refusal> {
        let mut out = Vec::with_capacity(CHUNK);
        while out.len() + LENGTH_BYTES < CHUNK {
            if let Some((mut content, left)) = self.file.take() {
                let room = ((CHUNK - out.len()) as u64).min(left);
                let read = (&mut content).take(room).read_to_end(&mut out);
                let read = read.map_err(|e| Refusal::new(Code::Io, e.to_string()))? as u64;
                if read < room {
                    // The length word is on its way: only a broken stream says that the rest is missing.
                    return Err(Refusal::new(
                        Code::ContentMismatch,
                        "a stored file is shorter than it was",
                    ));
                }
                if self.counts {
                    self.counted += read;
                }
                if left > read {
                    self.file = Some((content, left - read));
                }
                continue;
            }
            let Some(entry) = self.given.get(self.next) else { break };
            self.next += 1;
            self.counts = self
                .list
                .as_ref()
                .is_some_and(|list| entry.is_some_and(|digest| list.is_block(&digest)));
            let blob = entry.map(|digest| store.get(digest)).transpose()?.flatten();
            match blob.and_then(|blob| Some((u32::try_from(blob.len).ok().filter(|l| *l != ABSENT)?, blob.content))) {
                Some((length, mut content)) => {
                    content
                        .seek(SeekFrom::Start(0))
                        .map_err(|e| Refusal::new(Code::Io, e.to_string()))?;
                    out.extend_from_slice(&length.to_be_bytes());
                    if self.counts {
                        self.counted += LENGTH_BYTES as u64;
                    }
                    if length > 0 {
                        self.file = Some((content, u64::from(length)));
                    }
                }
                None => out.extend_from_slice(&ABSENT.to_be_bytes()),
            }
        }
        Ok((self, out))
    }
}
