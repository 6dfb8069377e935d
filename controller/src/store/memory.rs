//! Ledger and blobs in memory: for tests and rehearsals, gone with the process.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ensign_bundle::digest::Digest;

use super::blobs::{Blob, BlobError, BlobStore, Content, Upload, check_content};
use super::ledger::{Change, Ledger, LedgerError, Row, check_limits};

/// A ledger that keeps nothing.
#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    rows: BTreeMap<String, Row>,
    commit: u64,
}

impl MemoryLedger {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Ledger for MemoryLedger {
    fn read(&self, key: &str) -> Result<Option<Row>, LedgerError> {
        Ok(lock(&self.0).rows.get(key).cloned())
    }

    fn scan(&self, prefix: &str) -> Result<Vec<(String, Row)>, LedgerError> {
        Ok(lock(&self.0)
            .rows
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, row)| (key.clone(), row.clone()))
            .collect())
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), LedgerError> {
        check_limits(&changes)?;
        let mut rows = lock(&self.0);
        for change in &changes {
            change.check(rows.rows.get(&change.key).map(|row| row.version))?;
        }
        rows.commit += 1;
        let version = rows.commit;
        for Change { key, value, .. } in changes {
            match value {
                Some(value) => rows.rows.insert(key, Row { version, value }),
                None => rows.rows.remove(&key),
            };
        }
        Ok(())
    }
}

type Blobs = Arc<Mutex<BTreeMap<Digest, Arc<[u8]>>>>;

/// Blobs that are gone with the process.
#[derive(Default)]
pub struct MemoryBlobs(Blobs);

impl MemoryBlobs {
    pub fn new() -> Self {
        Self::default()
    }
}

impl BlobStore for MemoryBlobs {
    fn put_many(&self, blobs: &[(Digest, &[u8])]) -> Result<(), BlobError> {
        for (digest, bytes) in blobs {
            check_content(*digest, Digest::of(bytes))?;
        }
        lock(&self.0).extend(blobs.iter().map(|(digest, bytes)| (*digest, Arc::from(*bytes))));
        Ok(())
    }

    fn begin(&self, max: u64) -> Result<Box<dyn Upload>, BlobError> {
        Ok(Box::new(MemoryUpload {
            blobs: Arc::clone(&self.0),
            bytes: Vec::new(),
            max,
        }))
    }

    fn get(&self, digest: Digest) -> Result<Option<Blob>, BlobError> {
        Ok(lock(&self.0).get(&digest).map(|bytes| Blob {
            len: bytes.len() as u64,
            content: Content::Memory(Cursor::new(Arc::clone(bytes))),
        }))
    }

    fn contains(&self, digest: Digest) -> Result<bool, BlobError> {
        Ok(lock(&self.0).contains_key(&digest))
    }

    fn list(&self) -> Result<Vec<Digest>, BlobError> {
        Ok(lock(&self.0).keys().copied().collect())
    }

    fn remove(&self, digest: Digest) -> Result<bool, BlobError> {
        Ok(lock(&self.0).remove(&digest).is_some())
    }

    fn set_aside(&self, digest: Digest) -> Result<(), BlobError> {
        self.remove(digest).map(drop)
    }
}

struct MemoryUpload {
    blobs: Blobs,
    bytes: Vec<u8>,
    max: u64,
}

impl Upload for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() as u64 > self.max {
            return Err(BlobError::TooLarge { max: self.max });
        }
        Ok(())
    }

    fn finish(self: Box<Self>, expected: Digest) -> Result<u64, BlobError> {
        check_content(expected, Digest::of(&self.bytes))?;
        let len = self.bytes.len() as u64;
        lock(&self.blobs).insert(expected, self.bytes.into());
        Ok(len)
    }
}

/// Nothing panics between two changes that belong together, so a poisoned map is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
