//! The embedded ledger: all of sled is here.
//!
//! What sled leaves to its user, and what is done about it:
//! - `flush` ends in `sync_file_range`, which writes neither file metadata nor the disk's cache: an own handle on sled's file
//!   `db` is synced after each flush, and shared by all commits that wait (`group_commit`).
//! - Pages above a quarter of a segment go to files under `blobs/` that are never synced: new ones are synced here.
//! - A start or a commit on a full disk leaves half a snapshot, which the next start would take for damage: removed before opening.
//! - A damaged log is cut at the damage without a word: the file `acknowledged` holds the number of the newest commit that
//!   was reported as durable; a log that ends before it is refused.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock, RwLockWriteGuard};

use super::group_commit::GroupCommit;
use super::ledger::{Change, Ledger, LedgerError, Row, check_limits};
use super::room;
use crate::durable;

/// The format of keys and rows in the file.
const FORMAT: u32 = 1;
/// Rows of the ledger itself start with this byte, which no key of a user may contain.
const OWN: u8 = 0;
const FORMAT_KEY: &[u8] = b"\0format";
/// Number of the newest commit; written with each commit.
const COMMIT_KEY: &[u8] = b"\0commit";
/// Pages held in memory, bytes. A fleet of 100,000 devices has some 40 MB of rows.
const CACHE_BYTES: u64 = 128 << 20;
/// Number of the newest acknowledged commit in 16 hexadecimal digits; also the file that is locked.
const ACKNOWLEDGED: &str = "acknowledged";
const ACKNOWLEDGED_BYTES: usize = 17;

/// A ledger in a directory that belongs to this process alone as long as it is open.
pub struct Sled {
    dir: PathBuf,
    rows: sled::Db,
    /// Commits apply under the write lock, readers take the read lock: both see whole commits.
    newest: RwLock<Newest>,
    group: GroupCommit,
    disk: Disk,
}

#[derive(Debug)]
struct Newest {
    commit: u64,
    /// The newest commit that deleted something: who finds nothing under a key waits until that is durable.
    delete: u64,
}

/// The files that a sync covers.
struct Disk {
    db: File,
    acknowledged: File,
    blobs: PathBuf,
    synced_blobs: Mutex<BTreeSet<OsString>>,
}

impl Sled {
    /// Opens the ledger in `dir`, creating it when there is none. Every row is read once: damage shows here, not later.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| failed(what, &path, source)
        };
        durable::create_dir(dir).map_err(io("cannot create", dir))?;
        let path = dir.join(ACKNOWLEDGED);
        let acknowledged = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("cannot open", &path))?;
        match acknowledged.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LedgerError::InUse { path: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io("cannot lock", &path)(source)),
        }
        let promised = read_acknowledged(&acknowledged).map_err(io("cannot read", &path))?;
        acknowledged
            .set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(io("cannot close to others", &path))?;

        remove_half_snapshots(dir).map_err(io("cannot clean", dir))?;
        let rows = guarded(dir, || options(dir).open())?;
        let commit = guarded(dir, || check_rows(dir, &rows))??;
        let promised = match promised {
            Acknowledged::Commit(number) => number,
            Acknowledged::Nothing if commit == 0 => 0,
            Acknowledged::Nothing => {
                let what = format!("`{ACKNOWLEDGED}` is empty though there are {commit} commits; restore a backup");
                return Err(corrupt(dir, what));
            }
            Acknowledged::Foreign => return Err(corrupt(dir, format!("`{ACKNOWLEDGED}` is not a number"))),
        };
        if commit < promised {
            let what = format!("it ends with commit {commit}, commit {promised} was acknowledged; restore a backup");
            return Err(corrupt(dir, what));
        }

        let blobs = dir.join("blobs");
        let db = dir.join("db");
        let disk = Disk {
            db: File::open(&db).map_err(io("cannot open", &db))?,
            acknowledged,
            blobs,
            synced_blobs: Mutex::new(BTreeSet::new()),
        };
        // What a killed process had not synced yet, and the files that sled has just made.
        rows.flush().map_err(|e| from_sled(dir, e))?;
        sync_files(dir).map_err(io("cannot sync", dir))?;
        disk.sync(commit).map_err(io("cannot sync", dir))?;
        disk.acknowledged.sync_all().map_err(io("cannot sync", &path))?;

        Ok(Self {
            dir: dir.to_owned(),
            rows,
            newest: RwLock::new(Newest { commit, delete: commit }),
            group: GroupCommit::new(commit),
            disk,
        })
    }

    /// Checks, applies and numbers the commit; returns its number. Not durable yet.
    fn apply(&self, changes: Vec<Change>) -> Result<u64, LedgerError> {
        let mut newest = self.newest_for_writing();
        self.group.check_running().map_err(|error| self.explain(error))?;
        let number = newest.commit + 1;
        let mut batch = sled::Batch::default();
        let mut deletes = false;
        for change in changes {
            let found = self.stored(&change.key)?.map(|row| row.version);
            change.check(found)?;
            match change.value {
                Some(value) => batch.insert(change.key.as_bytes(), encode_row(number, &value)),
                None if found.is_some() => {
                    deletes = true;
                    batch.remove(change.key.as_bytes());
                }
                None => {}
            }
        }
        batch.insert(COMMIT_KEY, &number.to_be_bytes());
        if let Err(error) = guarded(&self.dir, || self.rows.apply_batch(batch)) {
            // Perhaps half applied in memory; the log on disk still has all of it or nothing.
            self.group
                .stop(error.to_string(), matches!(error, LedgerError::NoSpace { .. }));
            return Err(error);
        }
        newest.commit = number;
        if deletes {
            newest.delete = number;
        }
        self.group.applied(number);
        Ok(number)
    }

    fn wait_for(&self, number: u64) -> Result<(), LedgerError> {
        let synced = self.group.wait_for(number, |covered| {
            self.rows.flush().map_err(|error| match error {
                sled::Error::Io(error) => error,
                other => io::Error::other(other),
            })?;
            self.disk.sync(covered)
        });
        synced.map_err(|error| self.explain(error))
    }

    /// A disk that is full is no disk that has failed.
    fn explain(&self, error: LedgerError) -> LedgerError {
        match error {
            LedgerError::Stopped { full: true, .. } => LedgerError::NoSpace { path: self.dir.clone() },
            other => other,
        }
    }

    fn stored(&self, key: &str) -> Result<Option<Row>, LedgerError> {
        let found = self.rows.get(key).map_err(|e| from_sled(&self.dir, e))?;
        found
            .map(|bytes| {
                decode_row(&bytes).ok_or_else(|| corrupt(&self.dir, format!("the row `{key}` has no version")))
            })
            .transpose()
    }

    /// A commit that panicked has stopped the group; its numbers were not touched.
    fn newest_for_writing(&self) -> RwLockWriteGuard<'_, Newest> {
        self.newest.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No flushes by the clock: every commit flushes by itself, and an idle controller sleeps.
fn options(dir: &Path) -> sled::Config {
    sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
}

/// Without the rows, which sled would show.
impl fmt::Debug for Sled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sled").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Ledger for Sled {
    fn read(&self, key: &str) -> Result<Option<Row>, LedgerError> {
        if key.as_bytes().first() == Some(&OWN) {
            return Ok(None);
        }
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        let row = self.stored(key)?;
        let seen = row.as_ref().map_or(newest.delete, |row| row.version);
        drop(newest);
        self.wait_for(seen)?;
        Ok(row)
    }

    fn scan(&self, prefix: &str) -> Result<Vec<(String, Row)>, LedgerError> {
        let newest = self.newest.read().unwrap_or_else(PoisonError::into_inner);
        let mut seen = newest.delete;
        let mut rows = Vec::new();
        for entry in self.rows.scan_prefix(prefix) {
            let (key, bytes) = entry.map_err(|e| from_sled(&self.dir, e))?;
            if key.first() == Some(&OWN) {
                continue;
            }
            let (key, row) = decode_entry(&key, &bytes).map_err(|what| corrupt(&self.dir, what))?;
            seen = seen.max(row.version);
            rows.push((key, row));
        }
        drop(newest);
        self.wait_for(seen)?;
        Ok(rows)
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), LedgerError> {
        check_limits(&changes)?;
        if changes.is_empty() {
            return Ok(());
        }
        let number = self.apply(changes)?;
        self.wait_for(number)
    }
}

impl Disk {
    /// Brings to the disk what sled has flushed, up to commit `covered`.
    fn sync(&self, covered: u64) -> io::Result<()> {
        self.sync_blobs()?;
        self.db.sync_data()?;
        // After the sync, so never ahead of it, and not synced itself: one behind only makes the check at start weaker.
        self.acknowledged
            .write_all_at(format!("{covered:016x}\n").as_bytes(), 0)
    }

    /// Only large pages make such files, so mostly there are none.
    fn sync_blobs(&self) -> io::Result<()> {
        let mut synced = self.synced_blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut there = BTreeSet::new();
        let mut changed = false;
        for entry in fs::read_dir(&self.blobs)? {
            let entry = entry?;
            if !synced.contains(&entry.file_name()) {
                match File::open(entry.path()) {
                    Ok(file) => file.sync_all()?,
                    // sled removes a page that it has replaced.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
                changed = true;
            }
            there.insert(entry.file_name());
        }
        if changed {
            durable::sync_dir(&self.blobs)?;
        }
        *synced = there;
        Ok(())
    }
}

/// What the file of the newest acknowledged commit says.
enum Acknowledged {
    Commit(u64),
    /// Just created, or emptied.
    Nothing,
    /// Not what this program writes.
    Foreign,
}

fn read_acknowledged(file: &File) -> io::Result<Acknowledged> {
    if file.metadata()?.len() == 0 {
        return Ok(Acknowledged::Nothing);
    }
    let mut bytes = [0; ACKNOWLEDGED_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Acknowledged::Foreign),
        result => result?,
    }
    let number = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|text| text.strip_suffix('\n'))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    Ok(number.map_or(Acknowledged::Foreign, Acknowledged::Commit))
}

/// Checks format and every row, or makes an empty ledger; returns the number of the newest commit.
fn check_rows(dir: &Path, rows: &sled::Db) -> sled::Result<Result<u64, LedgerError>> {
    if rows.is_empty() {
        let mut batch = sled::Batch::default();
        batch.insert(FORMAT_KEY, &FORMAT.to_be_bytes());
        batch.insert(COMMIT_KEY, &0_u64.to_be_bytes());
        rows.apply_batch(batch)?;
        return Ok(Ok(0));
    }
    let format = rows.get(FORMAT_KEY)?.and_then(|bytes| bytes.as_ref().try_into().ok());
    let Some(found) = format.map(u32::from_be_bytes) else {
        return Ok(Err(corrupt(dir, "it has no format version".to_owned())));
    };
    if found != FORMAT {
        return Ok(Err(LedgerError::VersionUnknown {
            path: dir.to_owned(),
            found,
            known: FORMAT,
        }));
    }
    let commit = rows.get(COMMIT_KEY)?.and_then(|bytes| bytes.as_ref().try_into().ok());
    let Some(commit) = commit.map(u64::from_be_bytes) else {
        return Ok(Err(corrupt(dir, "it has no commit number".to_owned())));
    };
    for entry in rows.iter() {
        let (key, bytes) = entry?;
        if key.first() == Some(&OWN) {
            continue;
        }
        match decode_entry(&key, &bytes) {
            Ok((_, row)) if row.version <= commit => {}
            Ok((key, row)) => {
                let what = format!("the row `{key}` is of commit {}, the newest is {commit}", row.version);
                return Ok(Err(corrupt(dir, what)));
            }
            Err(what) => return Ok(Err(corrupt(dir, what))),
        }
    }
    Ok(Ok(commit))
}

/// Removes snapshots that were not finished. sled writes one under such a name and renames it, but takes whatever name is the last in
/// order when it opens: after a full disk that is an empty file. A snapshot only shortens a start; the log has everything.
fn remove_half_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b"snap.") && name.ends_with(b".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Syncs every file directly in `dir`, and `dir`.
fn sync_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    durable::sync_dir(dir)
}

/// Row in the file: version (8 bytes, big endian), value.
fn encode_row(version: u64, value: &[u8]) -> Vec<u8> {
    [&version.to_be_bytes(), value].concat()
}

fn decode_row(bytes: &[u8]) -> Option<Row> {
    let (version, value) = bytes.split_first_chunk()?;
    Some(Row {
        version: u64::from_be_bytes(*version),
        value: value.to_vec(),
    })
}

fn decode_entry(key: &[u8], bytes: &[u8]) -> Result<(String, Row), String> {
    let key = String::from_utf8(key.to_vec()).map_err(|_| "a key is not text".to_owned())?;
    let row = decode_row(bytes).ok_or_else(|| format!("the row `{key}` has no version"))?;
    Ok((key, row))
}

/// sled panics on some damage: that is an error here.
fn guarded<T>(dir: &Path, work: impl FnOnce() -> sled::Result<T>) -> Result<T, LedgerError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| from_sled(dir, e)),
        Err(_) => Err(corrupt(dir, "sled could not make sense of it".to_owned())),
    }
}

fn from_sled(dir: &Path, error: sled::Error) -> LedgerError {
    match error {
        sled::Error::Io(source) => failed("cannot read or write", dir, source),
        other => corrupt(dir, other.to_string()),
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> LedgerError {
    if room::is_full(&source) {
        let path = if path.is_dir() {
            path
        } else {
            path.parent().unwrap_or(path)
        };
        return LedgerError::NoSpace { path: path.to_owned() };
    }
    LedgerError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

fn corrupt(dir: &Path, what: String) -> LedgerError {
    LedgerError::Corrupt {
        path: dir.to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests;
