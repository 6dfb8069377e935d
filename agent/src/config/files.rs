//! Which configuration files there are, and which of them a process may believe.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::ConfigError;
use crate::durable;
use crate::paths::Paths;

/// Largest configuration file, bytes.
const FILE_BYTES: usize = 64 << 10;
/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// Who reads. Applier and runner believe only files that nobody but root (under `--root`: the invoking user) could have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Link,
    Applier,
    Runner,
}

/// A file that counts.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub path: PathBuf,
    pub text: String,
    /// From etc or usr/lib: may grant rights.
    pub privileged: bool,
}

/// The files in the order in which they count, the strongest last.
pub(super) fn list(paths: &Paths, reader: Reader) -> Result<Vec<File>, ConfigError> {
    let mut files = Vec::new();
    for (directory, privileged) in [(paths.lib(), true), (paths.run(), false), (paths.etc(), true)] {
        let mut candidates = vec![directory.join("agent.toml")];
        candidates.extend(drop_ins(&directory.join("agent.d"))?);
        for path in candidates {
            if let Some(text) = read(&path)? {
                match reader {
                    Reader::Applier | Reader::Runner => {
                        if let Err(why) = require_owned(paths, &path) {
                            tracing::warn!(path = %path.display(), why, "configuration file ignored");
                            continue;
                        }
                    }
                    Reader::Link => {}
                }
                files.push(File { path, text, privileged });
            }
        }
    }
    Ok(files)
}

/// `*.toml` of a directory, by name.
fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(directory, source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| unreadable(directory, e))?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    let Some(bytes) = durable::read(path, FILE_BYTES).map_err(|e| unreadable(path, e))? else {
        return Ok(None);
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|e| unreadable(path, io::Error::other(e)))
}

/// Refuses a file where someone else could change it or a directory above it, from the root downwards.
pub(crate) fn require_owned(paths: &Paths, file: &Path) -> Result<(), String> {
    let owner = if paths.is_system() {
        0
    } else {
        nix::unistd::geteuid().as_raw()
    };
    let below = file.strip_prefix(paths.root()).unwrap_or(file);
    // `join("")` would end in a slash, which follows a symbolic link.
    let mut places = vec![paths.root().to_path_buf()];
    for step in below {
        let deeper = places.last().map_or_else(PathBuf::new, |p| p.join(step));
        places.push(deeper);
    }
    for place in places {
        let metadata = fs::symlink_metadata(&place).map_err(|e| format!("{}: {e}", place.display()))?;
        let found = metadata.uid();
        if found != owner {
            return Err(format!("{} belongs to user {found}, not to {owner}", place.display()));
        }
        if metadata.is_symlink() {
            return Err(format!("{} is a symbolic link", place.display()));
        }
        if metadata.mode() & OTHERS_WRITE != 0 {
            return Err(format!("{} can be written by others", place.display()));
        }
    }
    Ok(())
}

fn unreadable(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Read {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn applier_and_runner_ignore_what_others_could_write() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        fs::create_dir_all(paths.etc()).unwrap();
        durable::write(&paths.etc().join("agent.toml"), b"", 0o644).unwrap();
        let count = |reader| list(&paths, reader).unwrap().len();
        assert_eq!((count(Reader::Applier), count(Reader::Runner)), (1, 1));

        let etc = dir.path().join("etc");
        for (place, mode) in [(etc.join("ensign/agent.toml"), 0o664), (etc.clone(), 0o777)] {
            let before = fs::metadata(&place).unwrap().permissions();
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!((count(Reader::Applier), count(Reader::Runner)), (0, 0), "{place:?}");
            assert_eq!(count(Reader::Link), 1);
            fs::set_permissions(&place, before).unwrap();
        }
        assert_eq!(count(Reader::Applier), 1);
    }

    #[test]
    fn a_symbolic_link_is_not_followed_by_the_privileged() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        fs::create_dir_all(paths.etc()).unwrap();
        durable::write(&dir.path().join("elsewhere"), b"", 0o644).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), paths.etc().join("agent.toml")).unwrap();
        assert_eq!(list(&paths, Reader::Runner).unwrap().len(), 0);
    }
}
