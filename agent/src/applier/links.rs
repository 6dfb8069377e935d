//! Hard links of a staged tree, made when its worker is gone: while it lives, no file that stands has a name where it may write.

use std::io;
use std::os::unix::fs::PermissionsExt as _;

use ensign_bundle::digest::Digest;
use ensign_bundle::limits::MANIFEST_BYTES;
use ensign_bundle::reason::Refusal;
use ensign_bundle::refuse;

use super::tree::MODE_DIR;
use super::unpack::Links;
use crate::disk::{self, Dir, hash};
use crate::paths::Paths;

/// Bytes of paths of one release: each stands in its manifest, and in that of another release.
const BYTES: usize = 2 * MANIFEST_BYTES;

/// The links of the release at hand.
#[derive(Debug, Default)]
pub(super) struct Pending {
    links: Vec<Links>,
    bytes: usize,
}

impl Pending {
    /// Notes what the worker said.
    pub(super) fn note(&mut self, links: Links) -> Result<(), Refusal> {
        self.bytes = self.bytes.saturating_add(links.bytes());
        if self.bytes > BYTES {
            return refuse!(
                LimitExceeded,
                "links with {} bytes of paths, at most {BYTES} are allowed",
                self.bytes
            );
        }
        self.links.push(links);
        Ok(())
    }

    /// Makes them, and opens the staged `trees` for whoever may read them.
    pub(super) fn make(self, paths: &Paths, trees: &[Digest]) -> io::Result<()> {
        let (staging, standing) = (paths.disk().dir(&paths.staging())?, paths.disk().dir(&paths.trees())?);
        for links in &self.links {
            let to = staging.dir(&links.to.to_string())?;
            let from = links.from.map(|tree| standing.dir(&tree.to_string())).transpose()?;
            for (path, source) in &links.paths {
                let source = if source.is_empty() { path } else { source };
                link(from.as_ref().unwrap_or(&to), source, &to, path)?;
            }
        }
        for tree in trees {
            staging.dir(&tree.to_string())?.set_mode(MODE_DIR)?;
        }
        Ok(())
    }
}

/// A second name, or a copy where the file system gives none (any more).
fn link(from: &Dir, source: &str, to: &Dir, path: &str) -> io::Result<()> {
    to.remove(path)?;
    if to.link(from, source, path).is_ok() {
        return Ok(());
    }
    let file = from.read(source)?;
    let copy = to.create(path)?;
    disk::copy(&file, &copy)?;
    if hash(&to.read(path)?)? != hash(&file)? {
        return Err(io::Error::other(format!("{path} is not what was copied")));
    }
    copy.set_mode(file.metadata()?.permissions().mode() & 0o777)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest([byte; Digest::BYTES])
    }

    fn pending(links: Links) -> Pending {
        let mut pending = Pending::default();
        pending.note(links).unwrap();
        pending
    }

    #[test]
    fn links_come_from_a_standing_tree_or_from_the_staged_one_and_from_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let (old, new) = (
            paths.trees().join(digest(1).to_string()),
            paths.staging().join(digest(2).to_string()),
        );
        for folder in [&old, &new] {
            fs::create_dir_all(folder).unwrap();
        }
        crate::durable::write(&old.join("a"), b"standing", 0o444).unwrap();
        crate::durable::write(&new.join("b"), b"new", 0o555).unwrap();
        crate::durable::write(&dir.path().join("secret"), b"secret", 0o600).unwrap();
        let pair = |path: &str, source: &str| (path.to_owned(), source.to_owned());
        let all = |from, paths: Vec<(String, String)>| Links {
            to: digest(2),
            from,
            paths,
        };
        pending(all(Some(digest(1)), vec![pair("a", ""), pair("c", "a")]))
            .make(&paths, &[digest(2)])
            .unwrap();
        pending(all(None, vec![pair("d", "b")])).make(&paths, &[]).unwrap();
        let inode = |path: &std::path::Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&old.join("a")), inode(&new.join("a")));
        assert_eq!(inode(&old.join("a")), inode(&new.join("c")));
        assert_eq!(inode(&new.join("b")), inode(&new.join("d")));
        assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o777, MODE_DIR);

        for source in ["../../../../../../secret", "/etc/hostname", "no"] {
            assert!(
                pending(all(Some(digest(1)), vec![pair("e", source)]))
                    .make(&paths, &[])
                    .is_err(),
                "{source}"
            );
        }
        for path in ["../e", "/e", "no/e", ".."] {
            assert!(
                pending(all(None, vec![pair(path, "b")])).make(&paths, &[]).is_err(),
                "{path}"
            );
        }
        assert_eq!(fs::read_dir(&new).unwrap().count(), 4);
        assert_eq!(fs::read_dir(paths.staging()).unwrap().count(), 1);
    }

    #[test]
    fn paths_without_end_are_refused() {
        let mut pending = Pending {
            links: Vec::new(),
            bytes: BYTES,
        };
        let links = Links {
            to: digest(1),
            from: None,
            paths: vec![("a".to_owned(), String::new())],
        };
        assert!(pending.note(links).is_err());
    }
}
