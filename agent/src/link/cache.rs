//! Downloaded bytes by digest: what a resume starts from. Lossy on purpose; everything here is checked again by the applier.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ensign_bundle::digest::{Digest, Hasher};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::FileRef;

use crate::durable;
use crate::ipc::CacheSize;

/// Ending of a file that is being written.
const PART: &str = "part";

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("the cache {} cannot be used", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{wanted} was expected, bytes with the digest {found} came")]
    Digest { wanted: Digest, found: Digest },
    #[error("{digest} has {wanted} bytes, {found} came")]
    Length { digest: Digest, wanted: u64, found: u64 },
}

impl CacheError {
    /// The reason as people and scripts see it.
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } => durable::refusal("", source).code,
            Self::Digest { .. } | Self::Length { .. } => Code::ContentMismatch,
        }
    }
}

/// A directory of files named by the digest of their content.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Opens the cache and clears what an interrupted process left half-written.
    pub fn open(directory: &Path) -> Result<Self, CacheError> {
        let cache = Self {
            directory: directory.to_owned(),
        };
        durable::closed_dir(directory, 0o700).map_err(|e| cache.io(e))?;
        for entry in fs::read_dir(directory).map_err(|e| cache.io(e))? {
            let path = entry.map_err(|e| cache.io(e))?.path();
            if path.extension().is_some_and(|e| e == PART) {
                fs::remove_file(path).map_err(|e| cache.io(e))?;
            }
        }
        Ok(cache)
    }

    /// Whether it is here with its whole length.
    pub fn has(&self, file: &FileRef) -> bool {
        fs::symlink_metadata(self.path(&file.digest)).is_ok_and(|m| m.is_file() && m.len() == file.length)
    }

    /// The file for reading, if it is here with its whole length.
    pub fn file(&self, wanted: &FileRef) -> Option<File> {
        // What is no file must not keep the link half waiting: a pipe does until somebody opens its other end.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags())
            .open(self.path(&wanted.digest))
            .ok()?;
        let whole = file.metadata().is_ok_and(|m| m.is_file() && m.len() == wanted.length);
        whole.then_some(file)
    }

    /// The bytes, hashed again; a damaged file is removed and counts as absent.
    pub fn bytes(&self, wanted: &FileRef) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(wanted)?.take(wanted.length).read_to_end(&mut bytes).ok()?;
        if Digest::of(&bytes) != wanted.digest {
            self.remove(&wanted.digest);
            return None;
        }
        Some(bytes)
    }

    /// A nameless file with these pieces back to back, gone when it is closed.
    pub fn scratch(&self, pieces: &[Vec<u8>]) -> Result<File, CacheError> {
        let mut file = tempfile::tempfile_in(&self.directory).map_err(|e| self.io(e))?;
        for piece in pieces {
            file.write_all(piece).map_err(|e| self.io(e))?;
        }
        Ok(file)
    }

    /// Starts to receive a file.
    pub fn begin(&self, wanted: FileRef) -> Result<Incoming, CacheError> {
        let temporary = self.directory.join(format!("{}.{PART}", wanted.digest));
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.io(e)),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(flags())
            .open(&temporary)
            .map_err(|e| self.io(e))?;
        Ok(Incoming {
            cache: self.clone(),
            wanted,
            file,
            temporary,
            hasher: Hasher::new(),
            received: 0,
        })
    }

    pub fn remove(&self, digest: &Digest) {
        // Lossy: a file that stays is found damaged again, or pruned.
        let _ = fs::remove_file(self.path(digest));
    }

    /// Removes the oldest files until at most `bytes` are left; those in `keep` stay and do not count.
    pub fn prune(&self, keep: &HashSet<Digest>, bytes: u64) -> Result<(), CacheError> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(|e| self.io(e))? {
            let entry = entry.map_err(|e| self.io(e))?;
            let digest = entry.file_name().to_str().and_then(|n| n.parse::<Digest>().ok());
            let (Some(digest), Ok(metadata)) = (digest, entry.metadata()) else {
                continue;
            };
            if !keep.contains(&digest) {
                let age = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                files.push((age, metadata.len(), entry.path()));
            }
        }
        let mut total: u64 = files.iter().map(|(_, length, _)| *length).sum();
        files.sort();
        for (_, length, path) in files {
            if total <= bytes {
                break;
            }
            fs::remove_file(path).map_err(|e| self.io(e))?;
            total -= length;
        }
        Ok(())
    }

    /// How much there is, and on which file system; none where that cannot be told.
    pub fn size(&self) -> Option<CacheSize> {
        let device = fs::metadata(&self.directory).ok()?.dev();
        let entries = fs::read_dir(&self.directory).ok()?;
        let blocks = entries
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .map(|m| m.blocks());
        Some(CacheSize {
            device,
            bytes: blocks.fold(0, u64::saturating_add).saturating_mul(512),
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.to_string())
    }

    fn io(&self, source: io::Error) -> CacheError {
        CacheError::Io {
            path: self.directory.clone(),
            source,
        }
    }
}

fn flags() -> i32 {
    use rustix::fs::OFlags;
    i32::try_from((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits()).unwrap_or(0)
}

/// A file on its way in: hashed while it is written, visible only when whole and right. Dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct Incoming {
    cache: Cache,
    wanted: FileRef,
    file: File,
    temporary: PathBuf,
    hasher: Hasher,
    received: u64,
}

impl Incoming {
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        self.received += bytes.len() as u64;
        if self.received > self.wanted.length {
            return Err(self.length());
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|e| self.cache.io(e))
    }

    /// Puts the file in its place if it is whole and has its digest.
    pub fn finish(self) -> Result<(), CacheError> {
        if self.received != self.wanted.length {
            return Err(self.length());
        }
        let found = self.hasher.clone().finish();
        if found != self.wanted.digest {
            return Err(CacheError::Digest {
                wanted: self.wanted.digest,
                found,
            });
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the cache is lossy: a torn file is found by its digest"
        )]
        fs::rename(&self.temporary, self.cache.path(&self.wanted.digest)).map_err(|e| self.cache.io(e))
    }

    fn length(&self) -> CacheError {
        CacheError::Length {
            digest: self.wanted.digest,
            wanted: self.wanted.length,
            found: self.received,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After `finish` there is nothing under this name any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(bytes: &[u8]) -> FileRef {
        FileRef {
            digest: Digest::of(bytes),
            length: bytes.len() as u64,
        }
    }

    fn put(cache: &Cache, bytes: &[u8]) -> Result<(), CacheError> {
        let mut incoming = cache.begin(reference(bytes))?;
        for chunk in bytes.chunks(3) {
            incoming.write(chunk)?;
        }
        incoming.finish()
    }

    #[test]
    fn e44_whole_files_survive_a_restart_and_half_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        put(&cache, b"whole").unwrap();
        let half = reference(b"half of it");
        let mut incoming = cache.begin(half).unwrap();
        incoming.write(b"half").unwrap();
        // The process dies here: nothing is dropped.
        std::mem::forget(incoming);

        let cache = Cache::open(dir.path()).unwrap();
        assert_eq!(cache.bytes(&reference(b"whole")).unwrap(), b"whole");
        assert!(!cache.has(&half));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn refuses_other_bytes_and_other_lengths() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let wanted = reference(b"abc");
        for (bytes, ok) in [(&b"abd"[..], false), (b"ab", false), (b"abcd", false), (b"abc", true)] {
            let mut incoming = cache.begin(wanted).unwrap();
            let done = incoming.write(bytes).and_then(|()| incoming.finish());
            assert_eq!(done.is_ok(), ok, "{bytes:?}");
            assert_eq!(cache.has(&wanted), ok, "{bytes:?}");
        }
    }

    #[test]
    fn e15_a_damaged_file_is_not_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        put(&cache, b"abc").unwrap();
        let wanted = reference(b"abc");
        durable::write(&dir.path().join(wanted.digest.to_string()), b"abd", 0o600).unwrap();
        assert!(cache.bytes(&wanted).is_none());
        assert!(!cache.has(&wanted));
        put(&cache, b"abc").unwrap();
        durable::write(&dir.path().join(wanted.digest.to_string()), b"", 0o600).unwrap();
        assert!(cache.file(&wanted).is_none());
    }

    /// Opened as files they would wait for ever, or lead out of the cache.
    #[test]
    fn pipes_and_links_in_the_cache_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let wanted = reference(b"");
        let path = cache.path(&wanted.digest);
        let part = dir.path().join(format!("{}.{PART}", wanted.digest));
        for place in [&path, &part] {
            nix::unistd::mkfifo(place, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        assert!(!cache.has(&wanted) && cache.file(&wanted).is_none() && cache.bytes(&wanted).is_none());
        put(&cache, b"").unwrap();
        assert!(cache.has(&wanted));
        fs::remove_file(&path).unwrap();
        durable::write(&dir.path().join("elsewhere"), b"", 0o600).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(cache.file(&wanted).is_none());
    }

    #[test]
    fn prunes_the_oldest_and_keeps_what_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let files = [&b"1111"[..], b"2222", b"3333", b"4444"];
        for (age, bytes) in files.iter().enumerate() {
            put(&cache, bytes).unwrap();
            let file = File::options()
                .write(true)
                .open(cache.path(&Digest::of(bytes)))
                .unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + age as u64);
            file.set_modified(time).unwrap();
        }
        cache.prune(&HashSet::from([Digest::of(files[0])]), 4).unwrap();
        let left: Vec<bool> = files.iter().map(|b| cache.has(&reference(b))).collect();
        assert_eq!(left, [true, false, false, true]);
        cache.prune(&HashSet::new(), 0).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
