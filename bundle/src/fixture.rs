//! Trees, releases and bundles for tests: built as a caller of this crate builds them.

use std::collections::BTreeMap;
use std::io::Cursor;

use ensign_crypto::SecretKey;

use crate::blocks::StoredBlock;
use crate::container::{Bundle, Writer, read};
use crate::digest::{Digest, FleetId};
use crate::ids::{Ident, Version};
use crate::manifest::{Draft, Entry, Kind, Manifest, Tree, TreeDraft, Unsigned};
use crate::path::TreePath;
use crate::reason::Refusal;

pub(crate) const FLEET: FleetId = FleetId([3; 32]);
pub(crate) const NOW: u64 = 1_700_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    File { executable: bool, bytes: Vec<u8> },
    Dir,
    Link(String),
}

/// Path to what lies there; directories included.
pub(crate) type Source = BTreeMap<String, Node>;

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub(crate) fn path(text: &str) -> TreePath {
    TreePath::parse(text).unwrap()
}

pub(crate) fn file(bytes: &[u8]) -> Node {
    Node::File {
        executable: false,
        bytes: bytes.to_vec(),
    }
}

/// Bytes that do not compress, the same on every run.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let digests = (0_u64..).flat_map(|n| Digest::of(&[seed.to_be_bytes(), n.to_be_bytes()].concat()).0);
    digests.take(length).collect()
}

pub(crate) fn small_source() -> Source {
    let run = Node::File {
        executable: true,
        bytes: b"#!/bin/sh\nexec true\n".to_vec(),
    };
    [
        ("bin", Node::Dir),
        ("bin/run", run),
        ("etc", Node::Dir),
        ("etc/empty", file(b"")),
        ("etc/page", file(&b"<p>page</p>\n".repeat(20))),
        ("etc/page.copy", file(&b"<p>page</p>\n".repeat(20))),
        ("link", Node::Link("etc/page".to_owned())),
        ("zero", file(&[0; 100])),
    ]
    .map(|(path, node)| (path.to_owned(), node))
    .into()
}

pub(crate) fn entries(source: &Source) -> Vec<Entry> {
    let entry = |(name, node): (&String, &Node)| match node {
        Node::File { executable, bytes } => {
            let mode = if *executable { 0o750 } else { 0o600 };
            Entry::file(path(name), mode, bytes.len() as u64, Digest::of(bytes))
        }
        Node::Dir => Entry::dir(path(name)),
        Node::Link(target) => Entry::symlink(path(name), target).unwrap(),
    };
    source.iter().map(entry).collect()
}

/// A component and its stored blocks.
pub(crate) fn tree(name: &str, source: &Source, entries: Vec<Entry>) -> (Tree, Vec<Vec<u8>>) {
    let draft = TreeDraft::new(Ident::parse(name).unwrap(), Kind::Tree, entries).unwrap();
    let blocks: Vec<StoredBlock> = draft
        .plans()
        .iter()
        .map(|plan| {
            let mut plain = Vec::new();
            for piece in &plan.pieces {
                let Node::File { bytes, .. } = &source[draft.entries()[piece.entry as usize].path().as_str()] else {
                    panic!("a piece of what is no file");
                };
                let from = usize::try_from(piece.offset).unwrap();
                plain.extend_from_slice(&bytes[from..from + piece.length as usize]);
            }
            plan.store(&plain, 3).unwrap()
        })
        .collect();
    let (rows, stored): (Vec<_>, Vec<_>) = blocks.into_iter().map(|b| (b.row, b.stored)).unzip();
    (draft.finish(&rows).unwrap(), stored)
}

pub(crate) fn draft(version: &str) -> Draft {
    let version = Version::parse(version).unwrap();
    let counter = version.counter().unwrap();
    Draft::new(Ident::parse("app").unwrap(), version, counter)
}

/// A release of these components.
pub(crate) fn release(version: &str, sources: &[(&str, &Source)]) -> (Unsigned, Vec<Vec<u8>>) {
    let mut draft = draft(version);
    let mut blocks = Vec::new();
    for (name, source) in sources {
        let (tree, stored) = tree(name, source, entries(source));
        draft.add(tree);
        blocks.extend(stored);
    }
    (draft.freeze().unwrap(), blocks)
}

pub(crate) fn manifest(source: &Source) -> Manifest {
    release("1.0.0", &[("web", source)]).0.into_contents().manifest
}

/// The file of one release.
pub(crate) fn write(unsigned: &Unsigned, blocks: &[Vec<u8>]) -> Vec<u8> {
    let contents = [unsigned.contents().clone()];
    let mut writer = Writer::new(Vec::new(), &[], &contents).unwrap();
    for block in blocks {
        writer.block(block).unwrap();
    }
    writer.finish().unwrap()
}

pub(crate) fn signed_small_bundle() -> Vec<u8> {
    let (mut unsigned, blocks) = release("1.0.0", &[("web", &small_source())]);
    unsigned.sign(&key(1), &FLEET, NOW).unwrap();
    write(&unsigned, &blocks)
}

/// Everything a bundle promises: structure, content, and one signature by key 1 on each release.
pub(crate) fn verify(bytes: &[u8]) -> Result<Bundle, Refusal> {
    let mut reader = Cursor::new(bytes);
    let bundle = read(&mut reader)?;
    bundle.check_content(&mut reader, &mut |_| ())?;
    for contents in &bundle.releases {
        Unsigned::from(contents.clone()).into_signed(&[key(1).public()], 1, &FLEET)?;
    }
    Ok(bundle)
}
