//! Files that are there whole or not at all: temporary file, fsync, rename, fsync of the folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Readable by their owner alone: keys, tokens.
pub const SECRET: u32 = 0o600;
/// Readable by everyone.
pub const PUBLIC: u32 = 0o644;

/// Writes `bytes` to `path` with `mode`, replacing what is there.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut pending = Pending::create(path, mode)?;
    pending.file.write_all(bytes)?;
    pending.commit()
}

/// Makes `path` and its missing parents, readable by the owner alone.
pub fn private_dir(path: &Path) -> io::Result<()> {
    step();
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Moves a finished folder into place and makes that durable. Fails if `to` exists and is not empty.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the durable module: the folder is synced"
)]
pub fn move_dir(from: &Path, to: &Path) -> io::Result<()> {
    step();
    fs::rename(from, to)?;
    step();
    sync_parent(to)
}

/// Removes a folder with all in it; one that is not there is no error.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    step();
    match fs::remove_dir_all(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a file; one that is not there is no error.
pub fn remove_file(path: &Path) -> io::Result<()> {
    step();
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A file that appears under its name only when it is complete; dropped before, it leaves nothing behind.
#[derive(Debug)]
pub struct Pending {
    pub file: File,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Pending {
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        // Of another process of this number, long gone; or a link that somebody planted where others may write too.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        step();
        Ok(Self {
            file,
            temporary,
            path: path.to_owned(),
            committed: false,
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the durable module: file and folder are synced"
    )]
    pub fn commit(mut self) -> io::Result<()> {
        step();
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        self.committed = true;
        step();
        sync_parent(&self.path)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing to tell anyone: what matters is that `path` was not touched.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Between any two of this module's changes to the disk: tests end the process there.
#[cfg(not(test))]
fn step() {}

#[cfg(test)]
use self::tests::step;

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
pub mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Names the step at which the process dies.
    pub const DIE_AT: &str = "ENSIGN_TEST_DIE_AT";

    pub fn step() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static STEPS: AtomicUsize = AtomicUsize::new(0);
        let Some(last) = std::env::var(DIE_AT).ok().and_then(|text| text.parse::<usize>().ok()) else {
            return;
        };
        if STEPS.fetch_add(1, Ordering::SeqCst) == last {
            std::process::abort();
        }
    }

    /// In a folder where others may write too, the name of the file on its way can be guessed.
    #[test]
    fn a_planted_link_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, theirs) = (dir.path().join("token"), dir.path().join("theirs"));
        File::create(&theirs).unwrap();
        let planted = dir.path().join(format!(".token.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&theirs, &planted).unwrap();
        write(&path, b"secret", SECRET).unwrap();
        assert_eq!(fs::read(&theirs).unwrap(), b"");
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert_eq!(
            fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777,
            SECRET
        );
    }

    #[test]
    fn a_file_appears_whole_with_its_mode_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        {
            let mut pending = Pending::create(&path, SECRET).unwrap();
            pending.file.write_all(b"half").unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        write(&path, b"whole", SECRET).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SECRET);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
