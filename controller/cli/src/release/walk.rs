//! From a folder to the list of what is in it. Order, owners and times do not matter; links are not followed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ensign_bundle::limits;
use ensign_bundle::path::TreePath;
use ensign_bundle::text::printable;
use nix::fcntl::OFlag;

use crate::failure::{Failure, Result, fail};

/// setuid and setgid: a release carries neither.
const SPECIAL_BITS: u32 = 0o6000;

/// One thing below the top of a folder.
#[derive(Clone, Debug)]
pub enum Found {
    File { path: TreePath, mode: u32, size: u64 },
    Dir { path: TreePath },
    Symlink { path: TreePath, target: String },
}

/// Everything below `top`, sorted by path.
pub fn walk(top: &Path) -> Result<Vec<Found>> {
    let metadata = fs::metadata(top).map_err(|e| Failure::io("read", top, &e))?;
    if !metadata.is_dir() {
        return Err(Failure::usage(format!("{} is no folder", top.display())));
    }
    let mut found = Vec::new();
    let mut open: Vec<(PathBuf, String)> = vec![(top.to_owned(), String::new())];
    while let Some((dir, prefix)) = open.pop() {
        let failed = |e| Failure::io("read", &dir, &e);
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let full = entry.path();
            let shown = printable(&full.to_string_lossy(), limits::PATH_BYTES);
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return fail!(PathRefused, "the name of {shown} is not UTF-8");
            };
            let text = if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}/{name}")
            };
            let path = TreePath::parse(&text)?;
            if found.len() >= limits::FILES {
                return fail!(
                    LimitExceeded,
                    "{} holds more than {} files and folders",
                    top.display(),
                    limits::FILES
                );
            }
            let metadata = fs::symlink_metadata(&full).map_err(|e| Failure::io("read", &full, &e))?;
            let kind = metadata.file_type();
            if kind.is_dir() {
                open.push((full, text));
                found.push(Found::Dir { path });
            } else if kind.is_symlink() {
                let target = fs::read_link(&full).map_err(|e| Failure::io("read", &full, &e))?;
                let Some(target) = target.to_str() else {
                    return fail!(PathRefused, "the target of {shown} is not UTF-8");
                };
                let target = target.to_owned();
                found.push(Found::Symlink { path, target });
            } else if kind.is_file() {
                if metadata.mode() & SPECIAL_BITS != 0 {
                    return Err(Failure::new(
                        ensign_bundle::reason::Code::PathRefused,
                        format!("{shown} is setuid or setgid (mode {:o})", metadata.mode() & 0o7777),
                    )
                    .hint("chmod ug-s it and build again"));
                }
                found.push(Found::File {
                    path,
                    mode: metadata.mode(),
                    size: metadata.len(),
                });
            } else {
                let what = match () {
                    () if kind.is_socket() => "a socket",
                    () if kind.is_fifo() => "a fifo",
                    () if kind.is_block_device() || kind.is_char_device() => "a device",
                    () => "neither file, folder nor symlink",
                };
                return fail!(PathRefused, "{shown} is {what}");
            }
        }
    }
    found.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(found)
}

/// Opens a regular file of the folder; what became something else meanwhile is refused.
pub fn open(top: &Path, path: &TreePath) -> Result<File> {
    let full = top.join(path.as_str());
    let open = || -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(&full)?;
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::other("no regular file any more"))
        }
    };
    open().map_err(|e| Failure::io("read", &full, &e))
}

impl Found {
    pub fn path(&self) -> &TreePath {
        match self {
            Self::File { path, .. } | Self::Dir { path } | Self::Symlink { path, .. } => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn finds_everything_and_follows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        fs::create_dir_all(top.join("a/empty")).unwrap();
        File::create(top.join("-dash ☂")).unwrap();
        File::create(top.join("a/b")).unwrap();
        fs::hard_link(top.join("a/b"), top.join("a/c")).unwrap();
        symlink("a", top.join("to-folder")).unwrap();
        symlink("nowhere", top.join("dangling")).unwrap();
        let found: Vec<String> = walk(top).unwrap().iter().map(|f| f.path().to_string()).collect();
        assert_eq!(
            found,
            ["-dash ☂", "a", "a/b", "a/c", "a/empty", "dangling", "to-folder"]
        );
    }

    #[test]
    fn refuses_what_is_no_content() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(walk(dir.path()).unwrap_err().exit(), 23);
        drop(listener);
        fs::remove_file(&socket).unwrap();
        let tool = dir.path().join("tool");
        File::create(&tool).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o4755)).unwrap();
        assert!(walk(dir.path()).unwrap_err().text.contains("setuid"));
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(walk(dir.path()).is_ok());
        File::create(dir.path().join("line\nfeed")).unwrap();
        assert_eq!(walk(dir.path()).unwrap_err().exit(), 23);
        assert_eq!(walk(&tool).unwrap_err().exit(), 2);
        assert_eq!(walk(&dir.path().join("none")).unwrap_err().exit(), 32);
    }
}
