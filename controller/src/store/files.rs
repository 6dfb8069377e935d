//! Blobs as files: `ab/cdef…`, the digest in hexadecimal, two digits of it as directory.
//!
//! A blob is written under another name in `incoming/`, synced, renamed, and its directory synced: it is whole or not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ensign_bundle::digest::{Digest, Hasher};
use tempfile::NamedTempFile;

use super::blobs::{Blob, BlobError, BlobStore, Content, Upload, check_content};
use crate::durable;

/// Unfinished blobs; emptied at start.
const INCOMING: &str = "incoming";
/// Damaged blobs, kept for whoever wants to know what happened to the disk.
const DAMAGED: &str = "damaged";
/// From this many files on one sync of the file system is cheaper than one of each file.
const SYNC_TOGETHER: usize = 8;

/// Blobs in a directory. Two processes may not share it: the ledger's lock sees to that.
#[derive(Debug)]
pub struct Files(Arc<Root>);

#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// Renamed into place, but the rename is not synced yet, with the number of writers: these do not count as there.
    unsynced: Mutex<BTreeMap<Digest, usize>>,
}

impl Files {
    /// Opens the blobs under `path`, creating what is missing and removing what a crash left unfinished.
    pub fn open(path: &Path) -> Result<Self, BlobError> {
        let root = Root {
            path: path.to_owned(),
            unsynced: Mutex::new(BTreeMap::new()),
        };
        let incoming = path.join(INCOMING);
        for dir in [path, &incoming, &path.join(DAMAGED)] {
            durable::create_dir(dir).map_err(|e| failed("cannot create", dir, e))?;
        }
        let mut created = false;
        for first in 0..=u8::MAX {
            let dir = path.join(hex::encode([first]));
            match fs::create_dir(&dir) {
                Ok(()) => created = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("cannot create", &dir, error)),
            }
        }
        if created {
            durable::sync_dir(path).map_err(|e| failed("cannot sync", path, e))?;
        }
        durable::remove_unfinished(&incoming).map_err(|e| failed("cannot clean", &incoming, e))?;
        // A killed process may have left a rename that is visible and not synced.
        root.sync_file_system()?;
        Ok(Self(Arc::new(root)))
    }
}

impl BlobStore for Files {
    fn put_many(&self, blobs: &[(Digest, &[u8])]) -> Result<(), BlobError> {
        for (digest, bytes) in blobs {
            check_content(*digest, Digest::of(bytes))?;
        }
        let mut seen = BTreeSet::new();
        let mut written = Vec::new();
        for (digest, bytes) in blobs {
            if !seen.insert(*digest) || self.contains(*digest)? {
                continue;
            }
            let mut file = self.0.unfinished()?;
            file.as_file_mut()
                .write_all(bytes)
                .map_err(|e| failed("cannot write", file.path(), e))?;
            written.push((*digest, file));
        }
        self.0.sync_and_place(written)
    }

    fn begin(&self, max: u64) -> Result<Box<dyn Upload>, BlobError> {
        Ok(Box::new(FileUpload {
            file: self.0.unfinished()?,
            root: Arc::clone(&self.0),
            hasher: Hasher::new(),
            left: max,
            len: 0,
            max,
        }))
    }

    fn get(&self, digest: Digest) -> Result<Option<Blob>, BlobError> {
        let path = self.0.path_of(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("cannot open", &path, error)),
        };
        let len = file.metadata().map_err(|e| failed("cannot read", &path, e))?.len();
        if len == 0 && digest != Digest::of(b"") {
            self.set_aside(digest)?;
            return Err(BlobError::Damaged { digest });
        }
        Ok(Some(Blob {
            len,
            content: Content::File(file),
        }))
    }

    fn contains(&self, digest: Digest) -> Result<bool, BlobError> {
        if self.0.unsynced().contains_key(&digest) {
            return Ok(false);
        }
        let path = self.0.path_of(digest);
        match path.metadata() {
            Ok(metadata) => Ok(metadata.len() > 0 || digest == Digest::of(b"")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("cannot read", &path, error)),
        }
    }

    fn list(&self) -> Result<Vec<Digest>, BlobError> {
        let mut digests = Vec::new();
        for first in 0..=u8::MAX {
            let first = hex::encode([first]);
            let dir = self.0.path.join(&first);
            for entry in fs::read_dir(&dir).map_err(|e| failed("cannot list", &dir, e))? {
                let name = entry.map_err(|e| failed("cannot list", &dir, e))?.file_name();
                // Files that are no blobs are somebody else's.
                digests.extend(
                    name.to_str()
                        .and_then(|rest| format!("{first}{rest}").parse::<Digest>().ok()),
                );
            }
        }
        digests.sort_unstable();
        Ok(digests)
    }

    fn remove(&self, digest: Digest) -> Result<bool, BlobError> {
        let path = self.0.path_of(digest);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("cannot remove", &path, error)),
        }
        let dir = self.0.dir_of(digest);
        durable::sync_dir(&dir).map_err(|e| failed("cannot sync", &dir, e))?;
        Ok(true)
    }

    fn set_aside(&self, digest: Digest) -> Result<(), BlobError> {
        let path = self.0.path_of(digest);
        let aside = self.0.path.join(DAMAGED).join(digest.to_string());
        match durable::rename(&path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|e| failed("cannot set aside", &path, e)),
        }
    }
}

#[derive(Debug)]
struct FileUpload {
    root: Arc<Root>,
    file: NamedTempFile,
    hasher: Hasher,
    len: u64,
    left: u64,
    max: u64,
}

impl Upload for FileUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let more = bytes.len() as u64;
        self.left = self
            .left
            .checked_sub(more)
            .ok_or(BlobError::TooLarge { max: self.max })?;
        self.len += more;
        self.hasher.update(bytes);
        self.file
            .as_file_mut()
            .write_all(bytes)
            .map_err(|e| failed("cannot write", self.file.path(), e))
    }

    fn finish(self: Box<Self>, expected: Digest) -> Result<u64, BlobError> {
        check_content(expected, self.hasher.finish())?;
        self.root.sync_and_place(vec![(expected, self.file)])?;
        Ok(self.len)
    }
}

impl Root {
    fn dir_of(&self, digest: Digest) -> PathBuf {
        self.path.join(hex::encode(&digest.0[..1]))
    }

    fn path_of(&self, digest: Digest) -> PathBuf {
        self.dir_of(digest).join(hex::encode(&digest.0[1..]))
    }

    fn unfinished(&self) -> Result<NamedTempFile, BlobError> {
        let incoming = self.path.join(INCOMING);
        durable::unfinished(&incoming).map_err(|e| failed("cannot create a file in", &incoming, e))
    }

    /// Content to disk, then names, then the directories, each once.
    fn sync_and_place(&self, blobs: Vec<(Digest, NamedTempFile)>) -> Result<(), BlobError> {
        if blobs.len() < SYNC_TOGETHER {
            for (_, file) in &blobs {
                file.as_file()
                    .sync_all()
                    .map_err(|e| failed("cannot sync", file.path(), e))?;
            }
        } else {
            self.sync_file_system()?;
        }
        let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        for digest in &digests {
            *self.unsynced().entry(*digest).or_default() += 1;
        }
        let placed = self.place(blobs);
        let mut unsynced = self.unsynced();
        for digest in &digests {
            if let Some(writers) = unsynced.get_mut(digest) {
                *writers -= 1;
                // After a failed sync nobody knows what is on disk: such a blob stays missing until the next start.
                if *writers == 0 && placed.is_ok() {
                    unsynced.remove(digest);
                }
            }
        }
        placed
    }

    fn place(&self, blobs: Vec<(Digest, NamedTempFile)>) -> Result<(), BlobError> {
        let mut dirs = BTreeSet::new();
        for (digest, file) in blobs {
            let path = self.path_of(digest);
            file.persist(&path).map_err(|e| failed("cannot name", &path, e.error))?;
            dirs.insert(self.dir_of(digest));
        }
        dirs.iter()
            .try_for_each(|dir| durable::sync_dir(dir).map_err(|e| failed("cannot sync", dir, e)))
    }

    fn sync_file_system(&self) -> Result<(), BlobError> {
        let sync = || nix::unistd::syncfs(File::open(&self.path)?).map_err(io::Error::from);
        sync().map_err(|e| failed("cannot sync", &self.path, e))
    }

    /// Counts are changed in one statement each, so a panic elsewhere leaves them whole.
    fn unsynced(&self) -> MutexGuard<'_, BTreeMap<Digest, usize>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> BlobError {
    BlobError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_keeps_blobs_and_drops_what_was_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let store = Files::open(dir.path()).unwrap();
        store.put(Digest::of(b"blob"), b"blob").unwrap();
        let mut left = store.0.unfinished().unwrap();
        left.write_all(b"half").unwrap();
        let left = left.into_temp_path().keep().unwrap();
        assert!(left.exists());
        let store = Files::open(dir.path()).unwrap();
        assert!(!left.exists());
        assert_eq!(store.list().unwrap(), [Digest::of(b"blob")]);
        assert_eq!(store.read(Digest::of(b"blob"), 4).unwrap().unwrap(), b"blob");
    }

    #[test]
    fn a_damaged_blob_is_set_aside_and_can_be_stored_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Files::open(dir.path()).unwrap();
        let digest = Digest::of(b"blob");
        for damaged in [&b"bloc"[..], b"blo", b""] {
            store.put(digest, b"blob").unwrap();
            durable::write(&store.0.path_of(digest), damaged).unwrap();
            assert!(matches!(store.read(digest, 100), Err(BlobError::Damaged { .. })));
            assert_eq!(store.missing(&[digest]).unwrap(), [digest]);
            assert!(dir.path().join(DAMAGED).join(digest.to_string()).exists());
            store.put(digest, b"blob").unwrap();
            assert_eq!(store.read(digest, 100).unwrap().unwrap(), b"blob");
        }
    }

    #[test]
    fn a_blob_whose_name_is_not_synced_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Files::open(dir.path()).unwrap();
        let digest = Digest::of(b"blob");
        // The directory cannot be synced, as it is gone: the write fails, and nobody may build on it.
        let away = dir.path().join("away");
        let home = store.0.dir_of(digest);
        durable::rename(&home, &away).unwrap();
        assert!(matches!(store.put(digest, b"blob"), Err(BlobError::Io { .. })));
        durable::rename(&away, &home).unwrap();
        durable::write(&store.0.path_of(digest), b"blob").unwrap();
        assert!(!store.contains(digest).unwrap());
        store.put(digest, b"blob").unwrap();
        assert!(store.contains(digest).unwrap());
        assert!(fs::read_dir(dir.path().join(INCOMING)).unwrap().next().is_none());
    }
}
