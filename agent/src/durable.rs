//! Files that survive a power cut: written beside, synced, renamed over, directory synced.
#![expect(clippy::disallowed_methods, reason = "this is the module made for durable writes")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ensign_bundle::reason::{Code, Refusal};

/// Replaces `path` by `bytes` with this mode. After it returns the new content survives a power cut; before, the old one does.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = beside(path);
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    rename(&temporary, path)
}

/// Like [`write()`] without waiting for the disk: the file is whole or the old one, but may be lost with the power.
pub fn write_lossy(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = beside(path);
    let _ = fs::remove_file(&temporary);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?
        .write_all(bytes)?;
    fs::rename(temporary, path)
}

/// Renames and makes it last.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// Removes a file, if it is there, and makes that last.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(path.parent().unwrap_or(Path::new("."))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Makes the entries of a directory last.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// What is made can be read and written by its owner and written by nobody else, whatever mask this process was started with; what
/// the mask keeps from others besides stays kept. First thing of every program: a mask of 777 leaves a journal that nobody can open.
pub fn set_umask() {
    use nix::sys::stat::{Mode, umask};
    let given = umask(Mode::S_IWGRP | Mode::S_IWOTH);
    umask(given & (Mode::S_IRWXG | Mode::S_IRWXO) | Mode::S_IWGRP | Mode::S_IWOTH);
}

/// Makes `path` with this mode, and what lacks above it with 0755. All of them survive a power cut.
pub fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    create_dir(above, 0o755)?;
    match fs::DirBuilder::new().mode(mode).create(path) {
        // Somebody else made it meanwhile.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        made => made?,
    }
    // Whatever the umask says: other users read what the applier deploys.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    sync_dir(above)
}

/// Like [`create_dir()`]; one that was there already keeps no right that `mode` does not have.
pub fn closed_dir(path: &Path, mode: u32) -> io::Result<()> {
    create_dir(path, mode)?;
    let found = fs::metadata(path)?.permissions().mode() & 0o7777;
    if found & mode == found {
        return Ok(());
    }
    match fs::set_permissions(path, fs::Permissions::from_mode(found & mode)) {
        // Somebody else's, who lets this process in: closing it is theirs.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}

/// The file's bytes; `None` where it does not exist. Refuses files above `limit` bytes.
pub fn read(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    // A pipe that stands there must not keep anybody waiting for its other end.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Ok(file) if !file.metadata()?.is_file() => {
            return Err(io::Error::other(format!("{} is no file", path.display())));
        }
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
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

/// Why the file or directory `what` could not be read or written: for people and scripts a full disk is another matter than a broken one.
pub fn refusal(what: impl std::fmt::Display, error: &io::Error) -> Refusal {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let code = if full { Code::NoSpace } else { Code::Io };
    Refusal::new(code, format!("{what}: {error}"))
}

/// A name beside `path` for its next content. Dot first: listings and globs skip it.
fn beside(path: &Path) -> PathBuf {
    let name = path
        .file_name()
        .map_or_else(|| "file".into(), |n| n.to_string_lossy().into_owned());
    path.with_file_name(format!(".{name}.new"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replaces_whole_files_with_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, b"one", 0o600).unwrap();
        // A crash may have left this behind.
        fs::write(dir.path().join(".key.new"), b"torn").unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"two");
        assert!(read(&path, 2).is_err());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(read(&path, 3).unwrap(), None);
    }

    #[test]
    fn each_directory_has_its_mode_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        create_dir(&path, 0o770).unwrap();
        create_dir(&path, 0o700).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o770, "it was there");
        assert_eq!(mode(&dir.path().join("a/b")), 0o755);
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(create_dir(&dir.path().join("file/x"), 0o755).is_err());
    }

    #[test]
    fn a_closed_directory_is_closed_also_where_it_was_open() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for (before, wanted, after) in [(0o755, 0o700, 0o700), (0o700, 0o711, 0o700), (0o1777, 0o711, 0o711)] {
            let path = dir.path().join(format!("{before:o}"));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
            closed_dir(&path, wanted).unwrap();
            assert_eq!(mode(&path), after, "{before:o} for {wanted:o}");
        }
        closed_dir(&dir.path().join("new"), 0o700).unwrap();
        assert_eq!(mode(&dir.path().join("new")), 0o700);
    }

    /// Without the flag this would wait for ever.
    #[test]
    fn a_pipe_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&path, 10).is_err());
        assert!(read(dir.path(), 10).is_err());
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        use nix::errno::Errno;
        for (errno, code) in [
            (Errno::ENOSPC, Code::NoSpace),
            (Errno::EDQUOT, Code::NoSpace),
            (Errno::EIO, Code::Io),
            (Errno::EROFS, Code::Io),
        ] {
            let refusal = refusal("trust", &errno.into());
            assert_eq!(refusal.code, code, "{errno}");
            assert!(refusal.text.starts_with("trust: "), "{}", refusal.text);
        }
    }
}
