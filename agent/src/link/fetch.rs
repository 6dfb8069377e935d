//! Fetching by digest: one request on one stream, its records hashed while they arrive and put into the cache one by one.
//!
//! What is in the cache when a stream is cut needs no second fetch; that is the whole of resuming.

use std::time::Duration;

use ensign_bundle::digest::Digest;
use ensign_bundle::trust::roles::FileRef;
use ensign_bundle::wire::Request;
use ensign_bundle::wire::frame::{ABSENT, LENGTH_BYTES};
use quinn::{Connection, RecvStream};

use super::cache::{Cache, CacheError};
use super::session::{self, FrameError};

/// Slowest stream that is worth waiting for, bytes per second: below it a record runs into its deadline.
const SLOWEST: u64 = 1 << 10;
/// Deadline of the smallest record.
const PATIENCE: Duration = Duration::from_secs(60);

/// One thing that happened to a requested file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In the cache.
    Fetched(Digest),
    /// The controller has or gives none.
    Absent(Digest),
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("{digest} was not there {} s after it was asked for", after.as_secs())]
    Slow { digest: Digest, after: Duration },
}

/// Asks for `files` in this order and tells `sink` about each as it is decided, with the bytes its record took on the wire.
///
/// `received` counts every byte of records, those of a record that was cut off included.
pub async fn fetch(
    connection: &Connection,
    request: &Request,
    files: &[FileRef],
    cache: &Cache,
    received: &mut u64,
    mut sink: impl FnMut(Outcome),
) -> Result<(), FetchError> {
    let (mut send, mut stream) = connection
        .open_bi()
        .await
        .map_err(|e| FrameError::Lost(session::closed(&e)))?;
    session::write(&mut send, request).await?;
    // Whoever closed the stream already tells so on its other half.
    let _ = send.finish();
    for file in files {
        let deadline = PATIENCE + Duration::from_secs(file.length / SLOWEST);
        let outcome = tokio::time::timeout(deadline, record(&mut stream, *file, cache, received))
            .await
            .map_err(|_| FetchError::Slow {
                digest: file.digest,
                after: deadline,
            })??;
        sink(outcome);
    }
    Ok(())
}

async fn record(
    stream: &mut RecvStream,
    file: FileRef,
    cache: &Cache,
    received: &mut u64,
) -> Result<Outcome, FetchError> {
    let mut word = [0; LENGTH_BYTES];
    stream.read_exact(&mut word).await.map_err(|e| match e {
        quinn::ReadExactError::FinishedEarly(_) => FrameError::Ended,
        quinn::ReadExactError::ReadError(e) => FrameError::Lost(e.to_string()),
    })?;
    *received += LENGTH_BYTES as u64;
    let length = u32::from_be_bytes(word);
    if length == ABSENT {
        return Ok(Outcome::Absent(file.digest));
    }
    if u64::from(length) != file.length {
        return Err(CacheError::Length {
            digest: file.digest,
            wanted: file.length,
            found: length.into(),
        }
        .into());
    }
    let mut incoming = cache.begin(file)?;
    let mut left = length as usize;
    while left > 0 {
        let chunk = stream
            .read_chunk(left, true)
            .await
            .map_err(|e| FrameError::Lost(e.to_string()))?
            .ok_or(FrameError::Ended)?;
        left -= chunk.bytes.len();
        *received += chunk.bytes.len() as u64;
        incoming.write(&chunk.bytes)?;
    }
    incoming.finish()?;
    Ok(Outcome::Fetched(file.digest))
}
