//! The trees that stand on the device: `trees/<digest>`, complete when `<digest>.complete` stands beside them.

use std::collections::HashSet;
use std::io;

use ensign_bundle::digest::Digest;
use ensign_bundle::manifest::{Component, Entry, MODE_EXECUTABLE};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::words::show_bytes;
use rustix::fs::{self, FileType};

use crate::disk::{Dir, Replace, hash};
use crate::paths::Paths;

/// Live files are read-only; the directories stay writable for their owner, who must be able to remove them.
pub(super) const MODE_READ: u32 = 0o444;
pub(super) const MODE_RUN: u32 = 0o555;
pub(super) const MODE_DIR: u32 = 0o755;

/// Mode of a live file.
pub(super) fn live_mode(mode: u16) -> u32 {
    if mode == MODE_EXECUTABLE { MODE_RUN } else { MODE_READ }
}

/// Name of the marker beside a tree.
pub(super) fn marker(tree: &Digest) -> String {
    format!("{tree}.complete")
}

/// True where the tree stands, whole and synced.
pub(super) fn is_complete(paths: &Paths, tree: &Digest) -> bool {
    let trees = paths.trees();
    trees.join(marker(tree)).is_file() && trees.join(tree.to_string()).is_dir()
}

/// Brings staged trees into their place. The caller has synced what is in them.
pub(super) fn publish(paths: &Paths, trees: &[Digest]) -> io::Result<()> {
    let (disk, root) = (paths.disk(), paths.trees());
    let (from, to) = (disk.dir(&paths.staging())?, disk.dir(&root)?);
    for tree in trees {
        // Either without the other is harmless: both are asked for.
        disk.write_lossy(&root.join(marker(tree)), tree.to_string().as_bytes(), 0o644)?;
        let name = tree.to_string();
        match from.rename(&name, &to, &name, Replace::No) {
            // What stood there was not complete, or it would not have been staged.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                to.remove(&name)?;
                from.rename(&name, &to, &name, Replace::No)?;
            }
            renamed => renamed?,
        }
    }
    to.sync()
}

/// Removes a tree; its marker first, so that half of it is not taken for the whole. Where a power cut brings the marker back, the half
/// is found out like any other tree that stood before: its files are compared with what was signed.
pub(super) fn discard(paths: &Paths, tree: &Digest) -> io::Result<()> {
    let trees = paths.disk().dir(&paths.trees())?;
    trees.remove(&marker(tree))?;
    trees.remove(&tree.to_string())
}

/// Compares a standing tree with the signed entries: every file's bytes and mode, every link, and that nothing else is there.
pub(super) fn verify(paths: &Paths, component: &Component) -> Result<(), Refusal> {
    let tree = component.tree_digest();
    let tampered = |path: &str, what: String| {
        Refusal::new(
            Code::GenerationTampered,
            format!(
                "{}: {}: {what}",
                component.name,
                ensign_bundle::text::printable(path, 120)
            ),
        )
    };
    let dir = paths.disk().dir(&paths.trees().join(tree.to_string()));
    let dir = dir.map_err(|e| tampered("", e.to_string()))?;
    let mut listed = HashSet::new();
    for entry in component.entries() {
        let path = entry.path().as_str();
        check(&dir, &entry).map_err(|what| tampered(path, what))?;
        listed.insert(path.to_owned());
    }
    match extra(&dir, "", &listed) {
        Ok(None) => Ok(()),
        Ok(Some(path)) => Err(tampered(&path, "does not belong to the release".to_owned())),
        Err(e) => Err(tampered("", e.to_string())),
    }
}

/// What is wrong with the thing that stands where `entry` should.
fn check(dir: &Dir, entry: &Entry) -> Result<(), String> {
    let say = |e: io::Error| e.to_string();
    let path = entry.path().as_str();
    let stat = dir.stat(path).map_err(say)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match entry {
        Entry::Dir { .. } if kind == FileType::Directory => Ok(()),
        Entry::Symlink { target, .. } if kind == FileType::Symlink => {
            let found = dir.target(path).map_err(say)?;
            if found == *target {
                Ok(())
            } else {
                Err("points elsewhere".to_owned())
            }
        }
        Entry::File { mode, size, digest, .. } if kind == FileType::RegularFile => {
            if stat.st_mode & 0o777 != live_mode(*mode) {
                return Err(format!("has mode {:o}", stat.st_mode & 0o777));
            }
            let (found, length) = hash(&dir.read(path).map_err(say)?).map_err(say)?;
            if found == *digest && length == *size {
                Ok(())
            } else {
                Err(format!("has the digest {found}, {digest} was signed for"))
            }
        }
        _ => Err(format!("is {kind:?}")),
    }
}

/// The first path that is not listed.
fn extra(dir: &Dir, above: &str, listed: &HashSet<String>) -> io::Result<Option<String>> {
    for (name, kind) in dir.entries()? {
        let path = if above.is_empty() {
            name.clone()
        } else {
            format!("{above}/{name}")
        };
        if !listed.contains(&path) {
            return Ok(Some(path));
        }
        if kind == FileType::Directory
            && let Some(found) = extra(&dir.dir(&name)?, &path, listed)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Room on the file system of the trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Free for whoever has no privileges, bytes.
    pub bytes: u64,
    pub inodes: u64,
    /// `st_dev`.
    pub device: u64,
}

/// What is free; refuses to guess.
pub(super) fn room(paths: &Paths) -> Result<Room, Refusal> {
    let path = paths.trees();
    let stat = fs::statvfs(&path).map_err(|e| {
        Refusal::new(
            Code::NoSpace,
            format!("{}: free room is not known: {e}", path.display()),
        )
    })?;
    let Some(bytes) = stat.f_bavail.checked_mul(stat.f_frsize) else {
        return refuse!(NoSpace, "{}: free room is not known", path.display());
    };
    // File systems without a fixed table of inodes (btrfs) say 0 of 0.
    let inodes = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
    let device = fs::stat(&path).map_or(0, |stat| stat.st_dev);
    Ok(Room { bytes, inodes, device })
}

/// Refuses unless so much fits beside the reserve, with what is missing.
pub(super) fn require_room(room: Room, bytes: u64, inodes: u64, reserve: u64) -> Result<(), Refusal> {
    let wanted = bytes.saturating_add(reserve);
    if room.bytes < wanted {
        return refuse!(
            NoSpace,
            "{} and a reserve of {} are needed, {} are free: {} are missing",
            show_bytes(bytes),
            show_bytes(reserve),
            show_bytes(room.bytes),
            show_bytes(wanted - room.bytes)
        );
    }
    if room.inodes < inodes {
        return refuse!(
            NoSpace,
            "{inodes} inodes are needed, {} are free: {} inodes are missing",
            room.inodes,
            inodes - room.inodes
        );
    }
    Ok(())
}
