//! Components from a list of files, as a builder makes them.

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::blocks::StoredBlock;
use ensign_bundle::digest::Digest;
use ensign_bundle::manifest::{Entry, Kind, Tree, TreeDraft};
use ensign_bundle::path::TreePath;

use crate::ident;

/// What a tree holds: path to executable flag and bytes. Directories follow from the paths; bytes `-> target` are a symlink.
pub type Files = BTreeMap<String, (bool, Vec<u8>)>;

/// A component and its blocks, in order.
#[derive(Debug)]
pub struct Component {
    pub tree: Tree,
    pub blocks: Vec<StoredBlock>,
}

/// `*` in front of a path makes it executable.
pub fn files(list: &[(&str, &[u8])]) -> Files {
    list.iter()
        .map(|(path, bytes)| {
            let plain = path.trim_start_matches('*');
            (plain.to_owned(), (path.starts_with('*'), bytes.to_vec()))
        })
        .collect()
}

/// A component of kind `tree`, its blocks stored at level 3.
pub fn component(name: &str, files: &Files, units: &[&str]) -> Component {
    let mut draft = TreeDraft::new(ident(name), Kind::Tree, entries(files)).unwrap();
    draft.units = units.iter().map(|unit| (*unit).to_owned()).collect();
    let blocks: Vec<StoredBlock> = draft
        .plans()
        .iter()
        .map(|plan| {
            let mut plain = Vec::new();
            for piece in &plan.pieces {
                let path = draft.entries()[piece.entry as usize].path().as_str();
                let from = usize::try_from(piece.offset).unwrap();
                plain.extend_from_slice(&files[path].1[from..from + piece.length as usize]);
            }
            plan.store(&plain, 3).unwrap()
        })
        .collect();
    let rows: Vec<_> = blocks.iter().map(|block| block.row.clone()).collect();
    let tree = draft.finish(&rows).unwrap();
    Component { tree, blocks }
}

fn entries(files: &Files) -> Vec<Entry> {
    let path = |text: &str| TreePath::parse(text).unwrap();
    let mut dirs = BTreeSet::new();
    for name in files.keys() {
        let mut rest = name.as_str();
        while let Some((parent, _)) = rest.rsplit_once('/') {
            dirs.insert(parent.to_owned());
            rest = parent;
        }
    }
    let mut entries: Vec<Entry> = dirs.iter().map(|dir| Entry::dir(path(dir))).collect();
    for (name, (executable, bytes)) in files {
        let link = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.strip_prefix("-> "));
        entries.push(if let Some(target) = link {
            Entry::symlink(path(name), target).unwrap()
        } else {
            let mode = if *executable { 0o755 } else { 0o644 };
            Entry::file(path(name), mode, bytes.len() as u64, Digest::of(bytes))
        });
    }
    entries
}
