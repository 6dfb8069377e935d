//! Directories that releases are built from, and how two of them are compared.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::random::Random;

/// Writes files (name → content); a name that ends in `!` is executable.
pub fn write_tree(root: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, content) in files {
        let path = root.join(name.trim_end_matches('!'));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::File::create(&path)?;
        file.write_all(content.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(if name.ends_with('!') {
            0o755
        } else {
            0o644
        }))?;
    }
    Ok(())
}

/// What real trees contain somewhere: empty files and folders, symlinks (dangling too), odd names, a file of `big` bytes,
/// thousands of small ones. The same seed gives the same tree.
pub fn nasty_tree(root: &Path, seed: u64, big: usize) -> Result<()> {
    let mut random = Random::new(seed);
    fs::create_dir_all(root.join("empty-folder/below"))?;
    write_tree(
        root,
        &[
            ("empty-file", ""),
            ("with space and ümlaut ☂.txt", "x"),
            ("-leading-dash", "dash"),
            ("bin/tool!", "#!/bin/sh\n"),
        ],
    )?;
    symlink("bin/tool", root.join("link"))?;
    symlink("nowhere", root.join("dangling"))?;
    symlink("bin", root.join("folder-link"))?;
    let mut file = fs::File::create(root.join("big"))?;
    let mut left = big;
    while left > 0 {
        let length = left.min(1 << 19);
        file.write_all(&random.bytes(length))?;
        left -= length;
        let zeros = left.min(1 << 19);
        file.write_all(&vec![0; zeros])?;
        left -= zeros;
    }
    for number in 0..3000 {
        let folder = root.join(format!("many/{:02}/{}", number % 40, number % 7));
        fs::create_dir_all(&folder)?;
        let length = random.below(900);
        fs::File::create(folder.join(format!("file-{number}.txt")))?.write_all(&random.bytes(length))?;
    }
    Ok(())
}

/// The first difference between two trees: names, kinds, contents, symlink targets, executable bits.
pub fn difference(left: &Path, right: &Path) -> Result<Option<String>> {
    let (a, b) = (listing(left)?, listing(right)?);
    for (name, entry) in &a {
        match b.get(name) {
            None => return Ok(Some(format!("{} is only in {}", name.display(), left.display()))),
            Some(other) if other != entry => return Ok(Some(format!("{} differs", name.display()))),
            Some(_) => {}
        }
    }
    Ok(b.keys()
        .find(|name| !a.contains_key(*name))
        .map(|name| format!("{} is only in {}", name.display(), right.display())))
}

#[derive(PartialEq, Eq)]
enum Entry {
    Folder,
    Link(PathBuf),
    File { content: Vec<u8>, executable: bool },
}

fn listing(root: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let (mut out, mut todo) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            let value = if meta.is_symlink() {
                Entry::Link(fs::read_link(&path)?)
            } else if meta.is_dir() {
                todo.push(path.clone());
                Entry::Folder
            } else {
                Entry::File {
                    content: fs::read(&path)?,
                    executable: meta.permissions().mode() & 0o111 != 0,
                }
            };
            out.insert(path.strip_prefix(root)?.to_owned(), value);
        }
    }
    Ok(out)
}

/// Live trees are read-only; a temporary folder must be removable by whoever made it.
pub(super) fn make_writable(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    let _ = fs::set_permissions(root, fs::Permissions::from_mode(0o755));
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755));
            make_writable(&entry.path());
        }
    }
}
