//! Every change that Ensign makes on a device's disk goes through here: files written, names given and taken, and when that lasts.
//!
//! Reading is nobody's business but the reader's. A [`Disk`] carries changes out; where it has a [`Recorder`], each is told to it
//! with the line of the program that asked for it. Tests enumerate from such a record what a power cut can leave behind
//! (docs/reliability.md, docs/decisions/0010-power-cuts-from-a-recorded-disk.md). Sockets are no part of it: they lie under `run`,
//! which is empty after each start of the machine.

mod dir;
mod file;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, Mode, OFlags};

pub use dir::{Dir, Replace};
pub use file::{File, copy, hash};

/// The line of the program that asked for a change.
pub type Site = &'static Location<'static>;

/// One change, carried out. Descriptors are those that it was carried out with.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A new, empty file.
    Create {
        dir: BorrowedFd<'a>,
        name: &'a str,
    },
    MakeDir {
        dir: BorrowedFd<'a>,
        name: &'a str,
    },
    Symlink {
        dir: BorrowedFd<'a>,
        name: &'a str,
        target: &'a str,
    },
    /// A second name for a file.
    Link {
        dir: BorrowedFd<'a>,
        name: &'a str,
    },
    Write {
        file: BorrowedFd<'a>,
        at: u64,
        bytes: &'a [u8],
    },
    /// The file's bytes are those of another one now (`FICLONE`).
    Clone {
        file: BorrowedFd<'a>,
    },
    /// Cut to this length, or made longer with zeros.
    Resize {
        file: BorrowedFd<'a>,
        length: u64,
    },
    Mode {
        of: BorrowedFd<'a>,
        mode: u32,
    },
    /// Gone from one name, there under the other, whatever had that.
    Rename {
        from: (BorrowedFd<'a>, &'a str),
        to: (BorrowedFd<'a>, &'a str),
    },
    /// A file or link, or an empty directory.
    Remove {
        dir: BorrowedFd<'a>,
        name: &'a str,
    },
    /// A file with its length and mode, or the entries of a directory, last from here on.
    Sync {
        of: BorrowedFd<'a>,
    },
    /// A file's bytes and length last from here on.
    SyncData {
        file: BorrowedFd<'a>,
    },
    /// Everything on the file system lasts from here on.
    SyncAll {
        of: BorrowedFd<'a>,
    },
    /// No change, but part of the order: these bytes go to somebody outside, who may act on them.
    Told(&'a [u8]),
}

/// Who hears of changes. Called when they are done, and before somebody is told.
pub trait Recorder: std::fmt::Debug + Send + Sync {
    fn record(&self, change: Change<'_>, site: Site);
}

/// The disk of a device.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    recorder: Option<Arc<dyn Recorder>>,
}

impl Disk {
    /// One whose changes are recorded.
    pub fn recorded(recorder: Arc<dyn Recorder>) -> Self {
        Self {
            recorder: Some(recorder),
        }
    }

    /// Notes that somebody outside is told these bytes now.
    #[track_caller]
    pub fn told(&self, bytes: &[u8]) {
        self.record(Change::Told(bytes), Location::caller());
    }

    /// An existing directory, by a path that is trusted; the last name is no link.
    pub fn dir(&self, path: &Path) -> io::Result<Dir> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Dir::new(fs::open(path, flags, Mode::empty())?, self.clone()))
    }

    /// The directory behind a descriptor.
    pub fn dir_of(&self, fd: std::os::fd::OwnedFd) -> Dir {
        Dir::new(fd, self.clone())
    }

    /// A file for reading and writing, made where there is none.
    #[track_caller]
    pub fn open(&self, path: &Path, mode: u32) -> io::Result<File> {
        let site = Location::caller();
        let (dir, name) = self.place(path)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match fs::openat(&dir, name.as_str(), flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => {}
            opened => return Ok(File::new(opened?.into(), self.clone())),
        }
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        let made = fs::openat(&dir, name.as_str(), flags, Mode::from_raw_mode(mode))?;
        self.record(
            Change::Create {
                dir: dir.as_fd(),
                name: &name,
            },
            site,
        );
        Ok(File::new(made.into(), self.clone()))
    }

    /// Replaces `path` by `bytes` with this mode. After it returns the new content survives a power cut; before, the old one does.
    #[track_caller]
    pub fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let site = Location::caller();
        let (dir, name) = self.place(path)?;
        let temporary = beside(&name);
        write_beside(&dir, &temporary, bytes, mode, site)?.sync_at(site)?;
        dir.rename_at(&temporary, &dir, &name, Replace::Yes, site)?;
        dir.sync_at(site)
    }

    /// Like [`Self::write()`] without waiting for the disk: the file is whole or the old one, but may be lost with the power.
    #[track_caller]
    pub fn write_lossy(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let site = Location::caller();
        let (dir, name) = self.place(path)?;
        let temporary = beside(&name);
        write_beside(&dir, &temporary, bytes, mode, site)?;
        dir.rename_at(&temporary, &dir, &name, Replace::Yes, site)
    }

    /// Makes `path` a symlink to `target` at once, whatever had that name, and makes it last.
    #[track_caller]
    pub fn point(&self, path: &Path, target: &str) -> io::Result<()> {
        let site = Location::caller();
        let (dir, name) = self.place(path)?;
        let temporary = beside(&name);
        dir.remove_file_at(&temporary, site)?;
        dir.symlink_at(target, &temporary, site)?;
        dir.rename_at(&temporary, &dir, &name, Replace::Yes, site)?;
        dir.sync_at(site)
    }

    /// Renames and makes it last.
    #[track_caller]
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let site = Location::caller();
        let (from_dir, from) = self.place(from)?;
        let (to_dir, to) = self.place(to)?;
        from_dir.rename_at(&from, &to_dir, &to, Replace::Yes, site)?;
        to_dir.sync_at(site)
    }

    /// Removes a file, if it is there, and makes that last.
    #[track_caller]
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        let site = Location::caller();
        let (dir, name) = self.place(path)?;
        if dir.remove_file_at(&name, site)? {
            dir.sync_at(site)?;
        }
        Ok(())
    }

    /// Like [`Self::remove()`] without waiting for the disk: a power cut may bring the file back.
    #[track_caller]
    pub fn remove_lossy(&self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        dir.remove_file_at(&name, Location::caller()).map(drop)
    }

    /// Makes `path` with this mode, and what lacks above it with 0755. All of them survive a power cut.
    #[track_caller]
    pub fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.create_dir_at(path, mode, Location::caller())
    }

    /// Like [`Self::create_dir()`]; one that was there already keeps no right that `mode` does not have.
    #[track_caller]
    pub fn closed_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let site = Location::caller();
        self.create_dir_at(path, mode, site)?;
        let found = std::fs::metadata(path)?.permissions().mode() & 0o7777;
        if found & mode == found {
            return Ok(());
        }
        match self.set_mode_at(path, found & mode, site) {
            // Somebody else's, who lets this process in: closing it is theirs.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            done => done,
        }
    }

    fn create_dir_at(&self, path: &Path, mode: u32, site: Site) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        self.create_dir_at(above.unwrap_or(Path::new(".")), 0o755, site)?;
        let (above, name) = self.place(path)?;
        match above.mkdir_at(&name, mode, site) {
            // Somebody else made it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
            made => made?,
        }
        // Whatever the umask says: other users read what the applier deploys.
        self.set_mode_at(path, mode, site)?;
        above.sync_at(site)
    }

    /// Of what may be closed to this process.
    fn set_mode_at(&self, path: &Path, mode: u32, site: Site) -> io::Result<()> {
        fs::chmod(path, Mode::from_raw_mode(mode))?;
        let of = fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        self.record(Change::Mode { of: of.as_fd(), mode }, site);
        Ok(())
    }

    /// The directory that holds `path`, and the name in it.
    fn place(&self, path: &Path) -> io::Result<(Dir, String)> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| io::Error::other(format!("{} is no name for a file", path.display())))?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = fs::open(above.unwrap_or(Path::new(".")), flags, Mode::empty())?;
        Ok((Dir::new(above, self.clone()), name.to_owned()))
    }

    fn record(&self, change: Change<'_>, site: Site) {
        if let Some(recorder) = &self.recorder {
            recorder.record(change, site);
        }
    }
}

/// The file's bytes; `None` where it does not exist. Refuses files above `limit` bytes.
pub fn read(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    // A pipe that stands there must not keep anybody waiting for its other end.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match fs::open(path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        opened => std::fs::File::from(opened?),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is no file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::other(format!(
            "{} has more than {limit} bytes",
            path.display()
        )));
    }
    Ok(Some(bytes))
}

/// A new file under a temporary name, in place of what a crash left there.
fn write_beside(dir: &Dir, temporary: &str, bytes: &[u8], mode: u32, site: Site) -> io::Result<File> {
    dir.remove_file_at(temporary, site)?;
    let file = dir.create_at(temporary, mode, site)?;
    file.write_at(bytes, 0, site)?;
    Ok(file)
}

/// A name beside `name` for its next content. Dot first: listings and globs skip it.
fn beside(name: &str) -> String {
    format!(".{name}.new")
}
