//! Files that survive a power cut: written beside, synced, renamed over, directory synced. On the plain disk of this machine; what
//! [`crate::disk::Disk`] does with one that is recorded, these do for whoever has only a path.

use std::io;
use std::path::Path;

use ensign_bundle::reason::{Code, Refusal};

use crate::disk::Disk;

pub use crate::disk::read;

/// [`Disk::write()`].
#[track_caller]
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Disk::default().write(path, bytes, mode)
}

/// [`Disk::write_lossy()`].
pub fn write_lossy(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Disk::default().write_lossy(path, bytes, mode)
}

/// [`Disk::rename()`].
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    Disk::default().rename(from, to)
}

/// [`Disk::remove()`].
pub fn remove(path: &Path) -> io::Result<()> {
    Disk::default().remove(path)
}

/// [`Disk::create_dir()`].
pub fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    Disk::default().create_dir(path, mode)
}

/// [`Disk::closed_dir()`].
pub fn closed_dir(path: &Path, mode: u32) -> io::Result<()> {
    Disk::default().closed_dir(path, mode)
}

/// What is made can be read and written by its owner and written by nobody else, whatever mask this process was started with; what
/// the mask keeps from others besides stays kept. First thing of every program: a mask of 777 leaves a journal that nobody can open.
pub fn set_umask() {
    use nix::sys::stat::{Mode, umask};
    let given = umask(Mode::S_IWGRP | Mode::S_IWOTH);
    umask(given & (Mode::S_IRWXG | Mode::S_IRWXO) | Mode::S_IWGRP | Mode::S_IWOTH);
}

/// Why the file or directory `what` could not be read or written: for people and scripts a full disk is another matter than a broken one.
pub fn refusal(what: impl std::fmt::Display, error: &io::Error) -> Refusal {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let code = if full { Code::NoSpace } else { Code::Io };
    Refusal::new(code, format!("{what}: {error}"))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "these tests make what a crash leaves behind")]
mod tests {
    use std::fs;
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

    /// As under a unit with `RestrictSUIDSGID=`, which the link half has.
    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn files_are_replaced_without_openat2_too() {
        use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
        let rules = [(nix::libc::SYS_openat2, Vec::new())].into();
        let missing = SeccompAction::Errno(nix::libc::ENOSYS.unsigned_abs());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, arch).unwrap();
        let filter: BpfProgram = filter.try_into().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session");
        // A filter holds for the thread that takes it.
        let written = std::thread::spawn(move || {
            seccompiler::apply_filter(&filter).unwrap();
            create_dir(&path.with_file_name("d"), 0o700)?;
            write(&path, b"1", 0o600)?;
            write_lossy(&path, b"2", 0o600)?;
            rename(&path, &path.with_file_name("d/moved"))?;
            remove(&path.with_file_name("d/moved"))
        });
        written.join().unwrap().unwrap();
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
