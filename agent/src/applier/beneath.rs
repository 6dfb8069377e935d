//! Paths that cannot leave a directory: every file of a tree is reached from the tree's own descriptor, through no link
//! (openat2(2), `RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ensign_bundle::digest::{Digest, Hasher};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};

/// Read at once while hashing and copying, bytes.
const CHUNK: usize = 64 << 10;
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

impl Dir {
    /// Opens a directory by a path that is trusted.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::open(path, DIRECTORY, Mode::empty())?))
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// A directory below this one.
    pub(super) fn dir(&self, path: &str) -> io::Result<Self> {
        Ok(Self(fs::openat2(&self.0, path, DIRECTORY, Mode::empty(), RESOLVE)?))
    }

    /// A new file, empty, mode 0600. Refuses whatever stands there already.
    pub(super) fn create(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(fs::openat2(&self.0, path, flags, Mode::RUSR | Mode::WUSR, RESOLVE)?.into())
    }

    /// An existing file, for writing at offsets.
    pub(super) fn write(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        regular(fs::openat2(&self.0, path, flags, Mode::empty(), RESOLVE)?)
    }

    /// An existing regular file, for reading. Does not wait for a fifo's writer.
    pub(super) fn read(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        regular(fs::openat2(&self.0, path, flags, Mode::empty(), RESOLVE)?)
    }

    pub(super) fn mkdir(&self, path: &str, mode: u32) -> io::Result<()> {
        self.at_parent(path, |dir, name| fs::mkdirat(dir, name, Mode::from_raw_mode(mode)))
    }

    pub(super) fn symlink(&self, target: &str, path: &str) -> io::Result<()> {
        self.at_parent(path, |dir, name| fs::symlinkat(target, dir, name))
    }

    /// Where the symlink at `path` points.
    pub(super) fn target(&self, path: &str) -> io::Result<String> {
        let target = self.at_parent(path, |dir, name| fs::readlinkat(dir, name, Vec::new()))?;
        target.into_string().map_err(io::Error::other)
    }

    /// What stands at `path`, the last name not followed.
    pub(super) fn stat(&self, path: &str) -> io::Result<fs::Stat> {
        self.at_parent(path, |dir, name| fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Gives `path` here a second name for the file `from` of another directory.
    pub(super) fn link(&self, source: &Self, from: &str, path: &str) -> io::Result<()> {
        source.at_parent(from, |old_dir, old| {
            let (parent, name) = self.split(path)?;
            let dir = parent.as_ref().map_or(self.0.as_fd(), |p| p.0.as_fd());
            fs::linkat(old_dir, old, dir, name, AtFlags::empty())
        })
    }

    /// Removes whatever stands at `path`, a directory with all that is in it. Nothing there is fine.
    pub(super) fn remove(&self, path: &str) -> io::Result<()> {
        match self.at_parent(path, |dir, name| fs::unlinkat(dir, name, AtFlags::empty())) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied) => {
                let dir = self.dir(path)?;
                for (name, _) in dir.entries()? {
                    dir.remove(&name)?;
                }
                self.at_parent(path, |dir, name| fs::unlinkat(dir, name, AtFlags::REMOVEDIR))
            }
            Err(e) => Err(e),
        }
    }

    /// Names and kinds of what lies in this directory. Names that are not UTF-8 are shown with replacement characters: no release
    /// has such a name.
    pub(super) fn entries(&self) -> io::Result<Vec<(String, FileType)>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push((name, entry.file_type()));
            }
        }
        Ok(names)
    }

    fn split<'a>(&self, path: &'a str) -> rustix::io::Result<(Option<Self>, &'a str)> {
        match path.rsplit_once('/') {
            None => Ok((None, path)),
            Some((parent, name)) => {
                let dir = fs::openat2(&self.0, parent, DIRECTORY, Mode::empty(), RESOLVE)?;
                Ok((Some(Self(dir)), name))
            }
        }
    }

    fn at_parent<T>(
        &self,
        path: &str,
        call: impl FnOnce(BorrowedFd<'_>, &str) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        let (parent, name) = self.split(path)?;
        let dir = parent.as_ref().map_or(self.0.as_fd(), |p| p.0.as_fd());
        Ok(call(dir, name)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Refuses what is no regular file.
fn regular(fd: OwnedFd) -> io::Result<File> {
    let kind = FileType::from_raw_mode(fs::fstat(&fd)?.st_mode);
    if kind == FileType::RegularFile {
        Ok(fd.into())
    } else {
        Err(io::Error::other(format!("not a regular file but {kind:?}")))
    }
}

/// SHA-256 and length of a file from its start.
pub(super) fn hash(file: &File) -> io::Result<(Digest, u64)> {
    use std::os::unix::fs::FileExt as _;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    loop {
        match file.read_at(&mut chunk, at) {
            Ok(0) => return Ok((hasher.finish(), at)),
            Ok(n) => {
                hasher.update(chunk.get(..n).unwrap_or_default());
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Copies a whole file into an empty one.
pub(super) fn copy(from: &File, to: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    loop {
        match from.read_at(&mut chunk, at) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all_at(chunk.get(..n).unwrap_or_default(), at)?;
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_leaves_the_directory() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        symlink(outside.path(), inside.path().join("out")).unwrap();
        symlink(outside.path().join("new"), inside.path().join("file")).unwrap();
        let dir = Dir::open(inside.path()).unwrap();
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
        let dir = Dir::open(temp.path()).unwrap();
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
        assert!(Dir::open(temp.path()).unwrap().read("f").is_err());
    }
}
