//! Fetching by digest: one request on one stream, its records hashed while they arrive and put into the cache one by one.
//!
//! What is in the cache when a stream is cut needs no second fetch; that is the whole of resuming.

use std::time::Duration;

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::Code;
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

impl FetchError {
    /// The reason as people and scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Frame(_) | Self::Slow { .. } => Code::ControllerUnreachable,
            Self::Cache(error) => error.code(),
        }
    }
}

/// Asks for `files` in this order and tells `sink` about each as it is decided.
///
/// `received` counts every byte of records, those of a record that was cut off included; not a length word that came in part.
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
        let record = record(&mut stream, *file, cache, received);
        sink(in_time(file.digest, deadline(file), record).await?);
    }
    Ok(())
}

/// How long a record may take. It never grows by what dribbles in.
const fn deadline(file: &FileRef) -> Duration {
    PATIENCE.saturating_add(Duration::from_secs(file.length / SLOWEST))
}

async fn in_time<T>(
    digest: Digest,
    after: Duration,
    record: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    tokio::time::timeout(after, record)
        .await
        .map_err(|_| FetchError::Slow { digest, after })?
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU64, Ordering};

    use ensign_bundle::wire;
    use ensign_crypto::SecretKey;

    use super::super::fake::{Fake, Script};
    use super::*;

    /// Files of odd lengths, an empty one among them.
    fn files() -> (Vec<FileRef>, HashMap<Digest, Vec<u8>>) {
        let contents = [1usize, 0, 70_001, 5000, 33].map(|n| {
            (0..n)
                .map(|i| ((i * 31 + n) % 256).try_into().unwrap())
                .collect::<Vec<u8>>()
        });
        let reference = |bytes: &Vec<u8>| FileRef {
            digest: Digest::of(bytes),
            length: bytes.len() as u64,
        };
        let list = contents.iter().map(reference).collect();
        (
            list,
            contents.into_iter().map(|bytes| (Digest::of(&bytes), bytes)).collect(),
        )
    }

    /// One connection's worth of fetching what the cache lacks. Returns the bytes of records received.
    async fn once(fake: &Fake, cache: &Cache, files: &[FileRef]) -> (Vec<Outcome>, u64, Result<(), FetchError>) {
        let key = SecretKey::from_seed([9; 32]);
        let connected = session::connect(&fake.target(), &key, wire::ALPN).await.unwrap();
        let lacking: Vec<FileRef> = files.iter().filter(|f| !cache.has(f)).copied().collect();
        let request = Request::Blobs {
            manifest: Digest([0; 32]),
            digests: lacking.iter().map(|f| f.digest).collect(),
        };
        let (mut outcomes, mut received) = (Vec::new(), 0);
        let done = fetch(&connected.connection, &request, &lacking, cache, &mut received, |o| {
            outcomes.push(o);
        })
        .await;
        connected.close().await;
        (outcomes, received, done)
    }

    #[tokio::test]
    async fn a_fetch_that_is_cut_at_any_byte_goes_on_where_it_was() {
        let (files, blobs) = files();
        let whole: u64 = files.iter().map(|f| f.length + LENGTH_BYTES as u64).sum();
        for cut in [
            1,
            3,
            4,
            5,
            8,
            9,
            12,
            13,
            40_000,
            70_012,
            70_013,
            70_014,
            75_020,
            whole - 1,
        ] {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(dir.path()).unwrap();
            let fake = Fake::start(
                7,
                Script {
                    blobs: blobs.clone(),
                    cut_after: AtomicU64::new(cut),
                    ..Script::default()
                },
            );
            let (first, received, ended) = once(&fake, &cache, &files).await;
            assert!(ended.is_err(), "cut at {cut}");
            assert!(
                (0..LENGTH_BYTES as u64).contains(&(cut - received)),
                "cut at {cut}: {received}"
            );
            fake.script.cut_after.store(0, Ordering::SeqCst);
            let before = fake.script.sent.load(Ordering::SeqCst);
            let (second, _, ended) = once(&fake, &cache, &files).await;
            ended.unwrap();
            assert_eq!(first.len() + second.len(), files.len(), "cut at {cut}: nothing twice");
            for file in &files {
                assert_eq!(cache.bytes(file).unwrap(), blobs[&file.digest], "cut at {cut}");
            }
            let again = fake.script.sent.load(Ordering::SeqCst) - before;
            assert_eq!(before + again, whole, "cut at {cut}: whole records cross once");
        }
    }

    #[tokio::test]
    async fn absent_files_are_told_and_the_rest_arrives() {
        let (files, mut blobs) = files();
        blobs.remove(&files[2].digest);
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let fake = Fake::start(
            7,
            Script {
                blobs,
                ..Script::default()
            },
        );
        let (outcomes, _, ended) = once(&fake, &cache, &files).await;
        ended.unwrap();
        assert_eq!(outcomes[2], Outcome::Absent(files[2].digest));
        assert_eq!(files.iter().filter(|f| cache.has(f)).count(), 4);
    }

    #[tokio::test]
    async fn other_bytes_of_the_right_length_do_not_enter_the_cache() {
        let (files, mut blobs) = files();
        blobs.get_mut(&files[2].digest).unwrap()[35_000] ^= 1;
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let fake = Fake::start(
            7,
            Script {
                blobs,
                ..Script::default()
            },
        );
        let (outcomes, _, ended) = once(&fake, &cache, &files).await;
        assert!(matches!(ended, Err(FetchError::Cache(CacheError::Digest { .. }))));
        assert_eq!(outcomes.len(), 2);
        assert!(!cache.has(&files[2]));
    }

    #[tokio::test]
    async fn e69_a_controller_with_another_key_is_named_and_refused() {
        let fake = Fake::start(7, Script::default());
        let other = SecretKey::from_seed([8; 32]).public().id();
        let target = session::Target {
            pins: vec![other],
            ..fake.target()
        };
        let error = session::connect(&target, &SecretKey::from_seed([9; 32]), wire::ALPN)
            .await
            .unwrap_err();
        assert_eq!(error.refusal().code, Code::WrongControllerKey);
        let text = error.to_string();
        assert!(text.contains(&fake.key.public().id().to_string()), "{text}");
        assert!(text.contains(&other.to_string()), "{text}");
        fake.stop();
    }

    #[tokio::test]
    async fn e58_a_retrieval_that_is_too_slow_ends() {
        let file = |length| FileRef {
            digest: Digest([1; 32]),
            length,
        };
        assert_eq!(deadline(&file(0)), Duration::from_secs(60));
        assert_eq!(deadline(&file(1 << 20)), Duration::from_secs(60 + 1024));
        assert!(deadline(&file(u64::MAX)) > deadline(&file(1 << 40)), "no overflow");
        let dribbling = std::future::pending::<Result<(), FetchError>>();
        let ended = in_time(Digest([1; 32]), Duration::from_millis(1), dribbling).await;
        assert!(matches!(ended, Err(FetchError::Slow { digest: Digest(d), .. }) if d == [1; 32]));
        let there = in_time(Digest([1; 32]), Duration::from_secs(60), async { Ok(7) }).await;
        assert!(matches!(there, Ok(7)));
    }
}
