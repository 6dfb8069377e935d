//! The journal on disk: appended and synced before anything is done on the strength of it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ensign_apply::journal::{self, JournalError, Replay};
use ensign_apply::{Device, Record};
use ensign_bundle::reason::{Code, Refusal};

use super::generations;
use crate::chain::chain;
use crate::disk::{self, Disk};
use crate::paths::Paths;

/// Room that is taken ahead, bytes: appending then changes no metadata, and a full disk does not stop a rollback.
const PREALLOCATED: u64 = 64 << 10;
/// A journal longer than this is replaced by a snapshot of what it amounts to, bytes.
const COMPACT: u64 = 48 << 10;
/// Largest journal that is read, bytes: far above what compaction leaves.
const MOST: usize = 16 << 20;
const MODE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("the journal {} cannot be used", path.display())]
    Journal { path: PathBuf, source: JournalError },
    #[error("the journal {} cannot be read or written", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The open journal.
#[derive(Debug)]
pub(super) struct Journal {
    disk: Disk,
    path: PathBuf,
    file: disk::File,
    sequence: u64,
    end: u64,
}

impl Journal {
    /// Opens the journal, or begins one, and says what it amounts to. A torn tail is cut.
    pub(super) fn open(disk: &Disk, path: &Path) -> Result<(Self, Device), Trouble> {
        let fail = |source| Trouble::Io {
            path: path.to_owned(),
            source,
        };
        let replay = read(path)?;
        let file = disk.open(path, MODE).map_err(fail)?;
        let end = replay.end as u64;
        let this = Self {
            disk: disk.clone(),
            path: path.to_owned(),
            file,
            sequence: replay.sequence,
            end,
        };
        if replay.torn {
            tracing::warn!(at = end, "the journal ended in a torn step; it is cut");
            this.file.set_len(end).map_err(fail)?;
        }
        this.preallocate().map_err(fail)?;
        // The first step that is appended makes the rest last.
        let above = disk.dir(path.parent().unwrap_or(Path::new("/")));
        above.and_then(|above| above.sync()).map_err(fail)?;
        Ok((this, replay.device))
    }

    /// Appends the records of one step as one frame and returns when they survive a power cut. `device` is what they lead to.
    pub(super) fn append(&mut self, records: &[Record], device: &Device) -> Result<(), Trouble> {
        if records.is_empty() {
            return Ok(());
        }
        let sequence = self.sequence + 1;
        let bytes = journal::frame(sequence, device.attempt, records).map_err(|e| self.journal(e))?;
        self.file.write_all_at(&bytes, self.end).map_err(|e| self.io(e))?;
        self.file.sync_data().map_err(|e| self.io(e))?;
        self.sequence = sequence;
        self.end += bytes.len() as u64;
        if self.end > COMPACT {
            let disk = self.disk.clone();
            self.compact(device, |path, bytes, mode| disk.write(path, bytes, mode))?;
        }
        Ok(())
    }

    /// A new file with one snapshot takes the place of the old one. `replace` is [`Disk::write()`].
    fn compact(
        &mut self,
        device: &Device,
        replace: impl FnOnce(&Path, &[u8], u32) -> io::Result<()>,
    ) -> Result<(), Trouble> {
        let sequence = self.sequence + 1;
        let snapshot = [Record::Snapshot(Box::new(device.clone()))];
        let frame = journal::frame(sequence, device.attempt, &snapshot).map_err(|e| self.journal(e))?;
        if frame.len() as u64 * 2 > self.end {
            // Almost all of it is in use: compacting each time would only write more.
            return Ok(());
        }
        if let Err(error) = replace(&self.path, &frame, MODE) {
            if !self.is_in_place().map_err(|e| self.io(e))? {
                // The short one has the name, and whether it keeps it over a power cut is not known: another step in either of them
                // could be lost. Both say the same now, so that the next start goes on from whichever is there.
                return Err(self.io(error));
            }
            // The long one is whole, and there is room in it: the next append tries again.
            tracing::warn!(%error, "the journal could not be made shorter");
            return Ok(());
        }
        self.file = self.disk.open(&self.path, MODE).map_err(|e| self.io(e))?;
        self.sequence = sequence;
        self.end = frame.len() as u64;
        self.preallocate().map_err(|e| self.io(e))
    }

    /// Whether the open file is the one that has the journal's name.
    fn is_in_place(&self) -> io::Result<bool> {
        let place = |m: std::fs::Metadata| (m.dev(), m.ino());
        Ok(place(self.file.plain().metadata()?) == place(std::fs::metadata(&self.path)?))
    }

    fn preallocate(&self) -> io::Result<()> {
        let room = self.end + PREALLOCATED;
        if self.file.plain().metadata()?.len() >= room {
            return Ok(());
        }
        match self.file.allocate(room) {
            // Not every file system can, and a full one cannot now; the journal works without, and a device that cannot start
            // cannot go back.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn journal(&self, source: JournalError) -> Trouble {
        Trouble::Journal {
            path: self.path.clone(),
            source,
        }
    }

    fn io(&self, source: io::Error) -> Trouble {
        Trouble::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// What the journal amounts to, and why nothing may be done by it, where that is so: it cannot be read, or it lost steps. Untouched.
pub(super) fn judge(paths: &Paths) -> Result<(Device, Option<Refusal>), Refusal> {
    match read(&paths.journal()) {
        Ok(replay) => {
            let loss = generations::beyond(paths, replay.device.newest)?;
            Ok((replay.device, loss))
        }
        // Starting again would find the same, and nobody would hear of it.
        Err(trouble) => Ok((Device::default(), Some(lost(&chain(&trouble))))),
    }
}

/// Why nothing is done where the journal cannot be gone by.
pub(super) fn lost(why: &str) -> Refusal {
    let text = format!(
        "{why}: nothing is changed. Put the whole journal back; or stop the agent, remove applier/journal, deploy/current and \
         deploy/generations, and start it: what runs ends"
    );
    Refusal::new(Code::JournalLost, text)
}

/// What the journal at `path` amounts to, without touching it. No file = a new device.
fn read(path: &Path) -> Result<Replay, Trouble> {
    let bytes = disk::read(path, MOST).map_err(|source| Trouble::Io {
        path: path.to_owned(),
        source,
    })?;
    journal::replay(&bytes.unwrap_or_default()).map_err(|source| Trouble::Journal {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use ensign_apply::{Event, Lock, Now};

    use super::*;

    fn now() -> Now {
        Now {
            unix_s: 1,
            boot: "b".to_owned(),
            boot_ms: 1,
        }
    }

    fn open(path: &Path) -> (Journal, Device) {
        Journal::open(&Disk::default(), path).unwrap()
    }

    fn lock(journal: &mut Journal, device: Device, n: u64) -> Device {
        let lock = Lock {
            reason: "x".repeat(100),
            until: 100 + n,
        };
        let step = device.step(Event::Locked(lock), &now());
        journal.append(&step.records, &step.device).unwrap();
        step.device
    }

    /// The disk says no after the short one took the name: what is appended to the long one then would be gone with it.
    #[test]
    fn a_compaction_that_fails_half_way_loses_no_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, mut device) = open(&path);
        for n in 0..20 {
            device = lock(&mut journal, device, n);
        }
        let full = |_: &Path, _: &[u8], _: u32| Err(io::Error::from(io::ErrorKind::StorageFull));
        journal.compact(&device, full).unwrap();
        device = lock(&mut journal, device, 100);
        assert_eq!(open(&path).1, device, "the long one goes on");

        let late = |path: &Path, bytes: &[u8], mode: u32| {
            Disk::default().write(path, bytes, mode)?;
            Err(io::Error::other("the directory is not synced"))
        };
        let ended = journal.compact(&device, late);
        if ended.is_ok() {
            device = lock(&mut journal, device, 200);
        }
        assert_eq!(open(&path).1, device);
    }

    #[test]
    fn survives_reopening_tearing_and_compaction() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut journal, mut device) = open(&path);
        for n in 0..600 {
            device = lock(&mut journal, device, n);
        }
        assert!(journal.end < COMPACT, "never compacted: {}", journal.end);
        let whole = journal.end;
        let before = device.clone();
        lock(&mut journal, device, 1000);
        drop(journal);
        // The last step, torn.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 8], whole + 30).unwrap();
        let (mut journal, device) = open(&path);
        assert_eq!(device, before);
        let device = lock(&mut journal, device, 2000);
        assert_eq!(open(&path).1, device);
    }
}
