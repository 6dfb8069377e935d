//! Changes to files that survive a power cut: each function has synced what it did when it returns.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Start of the names of files that are not finished. What a crash leaves of them is removed by [`remove_unfinished`].
const UNFINISHED: &str = ".unfinished-";

/// Mode of files that every local user may read.
const PUBLIC: u32 = 0o644;
/// Mode of directories that nobody else has business in.
const PRIVATE: u32 = 0o700;
/// Mode of files with secrets.
const SECRET: u32 = 0o600;

/// Replaces `path` by a file with `bytes`, mode 0644. A reader sees the old or the new content, also after a power cut.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, PUBLIC)
}

/// Like [`write()`], mode 0600 from the first byte on.
pub fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, SECRET)
}

/// Renames within one file system; `to` is replaced if it is there. The content of `from` must be synced already.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_unsynced(from, to)?;
    sync_dir(parent(to))?;
    if parent(from) != parent(to) {
        sync_dir(parent(from))?;
    }
    Ok(())
}

/// A rename that is on disk only after [`sync_dir`] of the directory it went to: for batches that sync each directory once.
#[expect(clippy::disallowed_methods, reason = "this module is where files are renamed")]
pub fn rename_unsynced(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Creates the directory and those above it that are missing, each synced into its parent.
pub fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    create_dir(above)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        result => result?,
    }
    sync_dir(above)
}

/// Like [`create_dir()`], closed to every other user (0700), also where it was there: a lock that others can open is one that they
/// can hold.
pub fn private_dir(path: &Path) -> io::Result<()> {
    create_dir(path)?;
    match fs::set_permissions(path, Permissions::from_mode(PRIVATE)) {
        // Somebody else's, who lets this process in: closing it is theirs.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Removes a file; one that is not there is no error.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Syncs the entries of a directory: what was created, renamed or removed in it.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A new file with a name of its own in `dir`, mode 0600; removed when dropped, unless it was renamed away.
pub fn unfinished(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    let made = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir);
    // Its own error names the path, as everybody does who shows this one.
    made.map_err(|error| io::Error::from(error.kind()))
}

/// Removes what a crash left of unfinished files directly in `dir`, and says how many there were.
pub fn remove_unfinished(dir: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = unfinished(parent(path))?;
    file.as_file_mut().write_all(bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    sync_dir(parent(path))
}

/// The directory that holds `path`; the working directory for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_replaces_with_the_mode_asked_for_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for (content, secret) in [(&b"one"[..], false), (b"second", true), (b"3", false)] {
            let (write, mode): (fn(&Path, &[u8]) -> _, _) = if secret {
                (write_secret, SECRET)
            } else {
                (write, PUBLIC)
            };
            write(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_unfinished_files_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("kept"), b"").unwrap();
        unfinished(dir.path()).unwrap().keep().unwrap();
        assert_eq!(remove_unfinished(dir.path()).unwrap(), 1);
        assert_eq!(remove_unfinished(dir.path()).unwrap(), 0);
        assert!(dir.path().join("kept").exists());
    }

    #[test]
    fn directories_are_made_with_those_above_and_not_over_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir(&deep).unwrap();
        create_dir(&deep).unwrap();
        write(&deep.join("file"), b"").unwrap();
        assert!(create_dir(&deep.join("file")).is_err());
        assert!(create_dir(&deep.join("file/below")).is_err());
    }
}
