//! A file that is written.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::panic::Location;

use ensign_bundle::digest::{Digest, Hasher};

use super::{Change, Disk, Site};

/// Read at once while hashing and copying, bytes.
const CHUNK: usize = 64 << 10;

/// An open file, for writing.
#[derive(Debug)]
pub struct File {
    file: std::fs::File,
    disk: Disk,
}

impl File {
    pub(super) fn new(file: std::fs::File, disk: Disk) -> Self {
        Self { file, disk }
    }

    /// For reading, and for what changes nothing that lasts.
    pub fn plain(&self) -> &std::fs::File {
        &self.file
    }

    /// Writes all bytes at this offset.
    #[track_caller]
    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_at(bytes, at, Location::caller())
    }

    /// Takes the bytes of another file, where the file system can share them. Else an error, and nothing happened.
    #[track_caller]
    pub fn clone_of(&self, other: &std::fs::File) -> io::Result<()> {
        rustix::fs::ioctl_ficlone(&self.file, other)?;
        self.record(Change::Clone { file: self.as_fd() }, Location::caller());
        Ok(())
    }

    /// Cuts the file, or makes it longer with zeros.
    #[track_caller]
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.resized(length, Location::caller());
        Ok(())
    }

    /// Takes room up to this length ahead; new bytes are zeros. Nothing happens to what is longer.
    #[track_caller]
    pub fn allocate(&self, length: u64) -> rustix::io::Result<()> {
        rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, length)?;
        self.resized(length, Location::caller());
        Ok(())
    }

    #[track_caller]
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        self.record(Change::Mode { of: self.as_fd(), mode }, Location::caller());
        Ok(())
    }

    /// Returns when bytes and length survive a power cut.
    #[track_caller]
    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.record(Change::SyncData { file: self.as_fd() }, Location::caller());
        Ok(())
    }

    pub(super) fn sync_at(&self, site: Site) -> io::Result<()> {
        self.file.sync_all()?;
        self.record(Change::Sync { of: self.as_fd() }, site);
        Ok(())
    }

    pub(super) fn write_at(&self, bytes: &[u8], at: u64, site: Site) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        let file = self.as_fd();
        self.record(Change::Write { file, at, bytes }, site);
        Ok(())
    }

    fn resized(&self, length: u64, site: Site) {
        let file = self.as_fd();
        self.record(Change::Resize { file, length }, site);
    }

    fn record(&self, change: Change<'_>, site: Site) {
        self.disk.record(change, site);
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// SHA-256 and length of a file from its start.
pub fn hash(file: &std::fs::File) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new();
    let length = chunks(file, |bytes, _| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok((hasher.finish(), length))
}

/// Copies a whole file into an empty one.
#[track_caller]
pub fn copy(from: &std::fs::File, to: &File) -> io::Result<()> {
    let site = Location::caller();
    chunks(from, |bytes, at| to.write_at(bytes, at, site)).map(drop)
}

/// Reads a file from its start. Its length.
fn chunks(file: &std::fs::File, mut each: impl FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    loop {
        match file.read_at(&mut chunk, at) {
            Ok(0) => return Ok(at),
            Ok(n) => {
                each(chunk.get(..n).unwrap_or_default(), at)?;
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
