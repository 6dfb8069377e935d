//! Blobs: bytes of any size under their SHA-256, never changed once they are there.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::chain;

use super::room;

/// Blobs by digest. Content is hashed before it gets its name: what is there under a digest had that digest when it was
/// written, and what is reported as there is on disk.
///
/// All calls block: asynchronous callers go through `spawn_blocking`.
pub trait BlobStore: Send + Sync + 'static {
    /// Stores one blob, durably. One that is there already is no error.
    fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), BlobError> {
        self.put_many(&[(digest, bytes)])
    }

    /// Stores many blobs and syncs them together. All of them are hashed first: after [`BlobError::Mismatch`] none is there
    /// that was not there before; after another error some may be.
    fn put_many(&self, blobs: &[(Digest, &[u8])]) -> Result<(), BlobError>;

    /// A blob of at most `max` bytes whose content comes piece by piece.
    fn begin(&self, max: u64) -> Result<Box<dyn Upload>, BlobError>;

    /// Length and content to stream, which is not hashed again here: who receives it does that.
    fn get(&self, digest: Digest) -> Result<Option<Blob>, BlobError>;

    fn contains(&self, digest: Digest) -> Result<bool, BlobError>;

    /// Those of `digests` that are not there, in the same order.
    fn missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, BlobError> {
        let mut missing = Vec::new();
        for digest in digests {
            if !self.contains(*digest)? {
                missing.push(*digest);
            }
        }
        Ok(missing)
    }

    /// Every blob, in the order of the digests.
    fn list(&self) -> Result<Vec<Digest>, BlobError>;

    /// Removes a blob; `false` if it was not there.
    fn remove(&self, digest: Digest) -> Result<bool, BlobError>;

    /// Takes a damaged blob out of the way: it counts as missing from now on, so that the next publish brings it again.
    fn set_aside(&self, digest: Digest) -> Result<(), BlobError>;

    /// The whole content of a blob of at most `max` bytes, hashed. A damaged one is set aside and is an error.
    fn read(&self, digest: Digest, max: u64) -> Result<Option<Vec<u8>>, BlobError> {
        let Some(Blob { len, content }) = self.get(digest)? else {
            return Ok(None);
        };
        if len > max {
            return Err(BlobError::TooLarge { max });
        }
        let mut bytes = Vec::new();
        content
            .take(len)
            .read_to_end(&mut bytes)
            .map_err(|source| BlobError::Read { digest, source })?;
        if Digest::of(&bytes) != digest {
            self.set_aside(digest)?;
            return Err(BlobError::Damaged { digest });
        }
        Ok(Some(bytes))
    }
}

/// A blob being written. Dropped before [`Upload::finish`], nothing of it remains.
pub trait Upload: Send {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError>;

    /// Stores the blob under `expected`, durably, if that is its digest; returns its length in bytes.
    fn finish(self: Box<Self>, expected: Digest) -> Result<u64, BlobError>;
}

/// A blob to be read from its start.
#[derive(Debug)]
pub struct Blob {
    /// Bytes.
    pub len: u64,
    pub content: Content,
}

#[derive(Debug)]
pub enum Content {
    File(File),
    Memory(Cursor<Arc<[u8]>>),
}

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("the content has digest {found}, {expected} was announced")]
    Mismatch { expected: Digest, found: Digest },
    #[error("blob {digest} was damaged on disk and has been set aside; publish its release again")]
    Damaged { digest: Digest },
    #[error("a blob has more than the {max} bytes that are allowed here")]
    TooLarge { max: u64 },
    #[error("cannot read blob {digest}")]
    Read { digest: Digest, source: io::Error },
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

impl BlobError {
    /// The reason code that a command or a request ends with.
    pub fn code(&self) -> Code {
        match self {
            Self::Mismatch { .. } | Self::Damaged { .. } => Code::ContentMismatch,
            Self::TooLarge { .. } => Code::LimitExceeded,
            Self::Io { source, .. } if room::is_full(source) => Code::NoSpace,
            Self::Read { .. } | Self::Io { .. } => Code::Io,
        }
    }
}

impl From<BlobError> for Refusal {
    fn from(error: BlobError) -> Self {
        let text = match &error {
            BlobError::Io { path, source, .. } if room::is_full(source) => room::text(path.parent().unwrap_or(path)),
            _ => chain(&error),
        };
        Self::new(error.code(), text)
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Memory(bytes) => bytes.read(buffer),
        }
    }
}

impl Seek for Content {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File(file) => file.seek(to),
            Self::Memory(bytes) => bytes.seek(to),
        }
    }
}

pub(super) fn check_content(expected: Digest, found: Digest) -> Result<(), BlobError> {
    if expected == found {
        Ok(())
    } else {
        Err(BlobError::Mismatch { expected, found })
    }
}
