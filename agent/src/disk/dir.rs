//! Paths that cannot leave a directory: every file of a tree is reached from the tree's own descriptor, through no link
//! (openat2(2), `RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::Location;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};

use super::{Change, Disk, File, Site};

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    disk: Disk,
}

/// What a rename does to what has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    Yes,
    /// It fails with `EEXIST`.
    No,
}

impl Dir {
    pub(super) fn new(fd: OwnedFd, disk: Disk) -> Self {
        Self { fd, disk }
    }

    /// A directory below this one.
    pub fn dir(&self, path: &str) -> io::Result<Self> {
        let fd = fs::openat2(&self.fd, path, DIRECTORY, Mode::empty(), RESOLVE)?;
        Ok(Self::new(fd, self.disk.clone()))
    }

    /// A new file, empty, mode 0600. Refuses whatever stands there already.
    #[track_caller]
    pub fn create(&self, path: &str) -> io::Result<File> {
        self.create_at(path, 0o600, Location::caller())
    }

    /// An existing file, for writing at offsets.
    pub fn write(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = regular(fs::openat2(&self.fd, path, flags, Mode::empty(), RESOLVE)?)?;
        Ok(File::new(file, self.disk.clone()))
    }

    /// An existing regular file, for reading. Does not wait for a fifo's writer.
    pub fn read(&self, path: &str) -> io::Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        regular(fs::openat2(&self.fd, path, flags, Mode::empty(), RESOLVE)?)
    }

    #[track_caller]
    pub fn mkdir(&self, path: &str, mode: u32) -> io::Result<()> {
        self.mkdir_at(path, mode, Location::caller())
    }

    #[track_caller]
    pub fn symlink(&self, target: &str, path: &str) -> io::Result<()> {
        self.symlink_at(target, path, Location::caller())
    }

    /// Where the symlink at `path` points.
    pub fn target(&self, path: &str) -> io::Result<String> {
        let target = self.at_parent(path, |dir, name| fs::readlinkat(dir, name, Vec::new()))?;
        target.into_string().map_err(io::Error::other)
    }

    /// What stands at `path`, the last name not followed.
    pub fn stat(&self, path: &str) -> io::Result<fs::Stat> {
        self.at_parent(path, |dir, name| fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Gives `path` here a second name for the file `from` of another directory.
    #[track_caller]
    pub fn link(&self, source: &Self, from: &str, path: &str) -> io::Result<()> {
        let site = Location::caller();
        source.at_parent(from, |old_dir, old| {
            let (parent, name) = self.split(path)?;
            let dir = parent.as_ref().map_or(self.fd.as_fd(), |p| p.fd.as_fd());
            fs::linkat(old_dir, old, dir, name, AtFlags::empty())?;
            self.disk.record(Change::Link { dir, name }, site);
            Ok(())
        })
    }

    /// Renames within a file system. Neither name has to last before a [`Self::sync`] of the directory that has the new one.
    #[track_caller]
    pub fn rename(&self, from: &str, to_dir: &Self, to: &str, replace: Replace) -> io::Result<()> {
        self.rename_at(from, to_dir, to, replace, Location::caller())
    }

    /// Removes whatever stands at `path`, a directory with all that is in it. Nothing there is fine.
    #[track_caller]
    pub fn remove(&self, path: &str) -> io::Result<()> {
        self.remove_at(path, Location::caller())
    }

    /// Of the directory itself.
    #[track_caller]
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::fchmod(&self.fd, Mode::from_raw_mode(mode))?;
        let of = self.as_fd();
        self.disk.record(Change::Mode { of, mode }, Location::caller());
        Ok(())
    }

    /// Returns when the names in it survive a power cut.
    #[track_caller]
    pub fn sync(&self) -> io::Result<()> {
        self.sync_at(Location::caller())
    }

    /// Returns when everything on the file system of this directory survives a power cut.
    #[track_caller]
    pub fn sync_all(&self) -> io::Result<()> {
        fs::syncfs(&self.fd)?;
        let of = self.as_fd();
        self.disk.record(Change::SyncAll { of }, Location::caller());
        Ok(())
    }

    /// Names and kinds of what lies in this directory. Names that are not UTF-8 are shown with replacement characters: no release
    /// has such a name.
    pub fn entries(&self) -> io::Result<Vec<(String, FileType)>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push((name, entry.file_type()));
            }
        }
        Ok(names)
    }

    pub(super) fn create_at(&self, path: &str, mode: u32, site: Site) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let made = self.at_parent(path, |dir, name| {
            // A single new name leads nowhere, so the older call does: the link half's unit takes openat2 away (RestrictSUIDSGID=).
            let made = fs::openat(dir, name, flags, Mode::from_raw_mode(mode))?;
            self.disk.record(Change::Create { dir, name }, site);
            Ok(made)
        })?;
        Ok(File::new(made.into(), self.disk.clone()))
    }

    pub(super) fn mkdir_at(&self, path: &str, mode: u32, site: Site) -> io::Result<()> {
        self.at_parent(path, |dir, name| {
            fs::mkdirat(dir, name, Mode::from_raw_mode(mode))?;
            self.disk.record(Change::MakeDir { dir, name }, site);
            Ok(())
        })
    }

    pub(super) fn symlink_at(&self, target: &str, path: &str, site: Site) -> io::Result<()> {
        self.at_parent(path, |dir, name| {
            fs::symlinkat(target, dir, name)?;
            self.disk.record(Change::Symlink { dir, name, target }, site);
            Ok(())
        })
    }

    pub(super) fn rename_at(
        &self,
        from: &str,
        to_dir: &Self,
        to: &str,
        replace: Replace,
        site: Site,
    ) -> io::Result<()> {
        let flags = match replace {
            Replace::Yes => RenameFlags::empty(),
            Replace::No => RenameFlags::NOREPLACE,
        };
        fs::renameat_with(&self.fd, from, &to_dir.fd, to, flags)?;
        let change = Change::Rename {
            from: (self.as_fd(), from),
            to: (to_dir.as_fd(), to),
        };
        self.disk.record(change, site);
        Ok(())
    }

    pub(super) fn sync_at(&self, site: Site) -> io::Result<()> {
        fs::fsync(&self.fd)?;
        self.disk.record(Change::Sync { of: self.as_fd() }, site);
        Ok(())
    }

    /// False = there was none.
    pub(super) fn remove_file_at(&self, name: &str, site: Site) -> io::Result<bool> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => {
                let dir = self.as_fd();
                self.disk.record(Change::Remove { dir, name }, site);
                Ok(true)
            }
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn remove_at(&self, path: &str, site: Site) -> io::Result<()> {
        let unlink = |flags| {
            self.at_parent(path, |dir, name| {
                fs::unlinkat(dir, name, flags)?;
                self.disk.record(Change::Remove { dir, name }, site);
                Ok(())
            })
        };
        match unlink(AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied) => {
                let dir = self.dir(path)?;
                for (name, _) in dir.entries()? {
                    dir.remove_at(&name, site)?;
                }
                unlink(AtFlags::REMOVEDIR)
            }
            Err(e) => Err(e),
        }
    }

    fn split<'a>(&self, path: &'a str) -> rustix::io::Result<(Option<Self>, &'a str)> {
        match path.rsplit_once('/') {
            None => Ok((None, path)),
            Some((parent, name)) => {
                let fd = fs::openat2(&self.fd, parent, DIRECTORY, Mode::empty(), RESOLVE)?;
                Ok((Some(Self::new(fd, self.disk.clone())), name))
            }
        }
    }

    fn at_parent<T>(
        &self,
        path: &str,
        call: impl FnOnce(BorrowedFd<'_>, &str) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        let (parent, name) = self.split(path)?;
        let dir = parent.as_ref().map_or(self.fd.as_fd(), |p| p.fd.as_fd());
        Ok(call(dir, name)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Refuses what is no regular file.
fn regular(fd: OwnedFd) -> io::Result<std::fs::File> {
    let kind = FileType::from_raw_mode(fs::fstat(&fd)?.st_mode);
    if kind == FileType::RegularFile {
        Ok(fd.into())
    } else {
        Err(io::Error::other(format!("not a regular file but {kind:?}")))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn open(path: &std::path::Path) -> Dir {
        Disk::default().dir(path).unwrap()
    }

    #[test]
    fn nothing_leaves_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        symlink(outside.path(), inside.path().join("out")).unwrap();
        symlink(outside.path().join("new"), inside.path().join("file")).unwrap();
        let dir = open(inside.path());
        assert!(dir.create("out/x").is_err());
        assert!(dir.create("file").is_err());
        assert!(dir.write("file").is_err());
        assert!(dir.create("../x").is_err());
        assert!(dir.mkdir("out/d", 0o755).is_err());
        assert!(dir.dir("out").is_err());
        dir.remove("out").unwrap();
        assert!(outside.path().exists());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn removes_directories_with_all_that_is_in_them() {
        let temp = tempfile::tempdir().unwrap();
        let dir = open(temp.path());
        dir.mkdir("a", 0o755).unwrap();
        dir.mkdir("a/b", 0o755).unwrap();
        dir.create("a/b/c").unwrap();
        dir.remove("a").unwrap();
        dir.remove("a").unwrap();
        assert!(dir.entries().unwrap().is_empty());
    }

    #[test]
    fn a_fifo_is_no_file() {
        let temp = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&temp.path().join("f"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(temp.path()).read("f").is_err());
    }
}
