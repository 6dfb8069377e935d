//! A file system in memory: what lies on a disk, and what each change makes of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use ensign_bundle::digest::{Digest, Hasher};

use crate::tape::Op;

/// Number of a node; the root of the device is the first.
pub(crate) type Node = usize;

#[derive(Clone, Debug)]
pub(crate) enum Thing {
    Dir { mode: u32, names: BTreeMap<String, Node> },
    File { mode: u32, content: Arc<Content> },
    Link { target: String },
}

/// A file's bytes and their digest: most disks share most of them.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
}

impl Content {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        let digest = Digest::of(&bytes);
        Arc::new(Self { bytes, digest })
    }
}

/// Everything on a disk.
#[derive(Clone, Debug)]
pub(crate) struct Image(pub(crate) Vec<Thing>);

/// Whether a change had reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    Lost,
    /// A write whose length arrived and whose bytes did not.
    Zeros,
    /// A write of which so many bytes arrived.
    Torn(usize),
}

impl Thing {
    /// What stands at a path, as it is now, without what is in it.
    pub(crate) fn at(path: &Path) -> Self {
        let meta = path.symlink_metadata().unwrap();
        let mode = meta.mode() & 0o7777;
        if meta.is_symlink() {
            let target = fs::read_link(path).unwrap();
            Self::Link {
                target: target.to_str().unwrap().to_owned(),
            }
        } else if meta.is_dir() {
            Self::Dir {
                mode,
                names: BTreeMap::new(),
            }
        } else {
            let content = Content::new(Vec::new());
            Self::File { mode, content }
        }
    }
}

impl Image {
    /// What lies under `root`, all but sockets, and by which device and inode number.
    pub(crate) fn load(root: &Path) -> (Self, HashMap<(u64, u64), Node>) {
        let (mut image, mut known) = (Self(Vec::new()), HashMap::new());
        image.load_at(root, &mut known);
        (image, known)
    }

    fn load_at(&mut self, path: &Path, known: &mut HashMap<(u64, u64), Node>) -> Node {
        let meta = path.symlink_metadata().unwrap();
        if let Some(node) = known.get(&(meta.dev(), meta.ino())) {
            return *node;
        }
        let node = self.0.len();
        known.insert((meta.dev(), meta.ino()), node);
        self.0.push(Thing::at(path));
        if meta.is_file() {
            self.set(node, fs::read(path).unwrap());
        } else if meta.is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() || kind.is_file() || kind.is_symlink() {
                    let below = self.load_at(&entry.path(), known);
                    self.names(node).insert(entry.file_name().into_string().unwrap(), below);
                }
            }
        }
        node
    }

    /// Makes all of it in an empty directory.
    pub(crate) fn make(&self, root: &Path) {
        self.make_at(0, root, &mut HashMap::new());
    }

    fn make_at(&self, node: Node, path: &Path, made: &mut HashMap<Node, std::path::PathBuf>) {
        match &self.0[node] {
            Thing::Dir { mode, names } => {
                if !path.is_dir() {
                    fs::create_dir(path).unwrap();
                }
                for (name, below) in names {
                    self.make_at(*below, &path.join(name), made);
                }
                fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Thing::Link { target } => symlink(target, path).unwrap(),
            Thing::File { mode, content } => {
                if let Some(first) = made.get(&node) {
                    return fs::hard_link(first, path).unwrap();
                }
                std::io::Write::write_all(&mut fs::File::create(path).unwrap(), &content.bytes).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
                made.insert(node, path.to_owned());
            }
        }
    }

    /// Carries out a change that had this fate.
    pub(crate) fn take(&mut self, op: &Op, fate: Fate) {
        if fate == Fate::Lost {
            return;
        }
        match op {
            Op::Enter { dir, name, node } => {
                self.names(*dir).insert(name.clone(), *node);
            }
            Op::Leave { dir, name, node } => {
                if self.names(*dir).get(name) == Some(node) {
                    self.names(*dir).remove(name);
                }
            }
            Op::Move { from, to, node } => {
                if self.names(from.0).get(&from.1) == Some(node) {
                    self.names(from.0).remove(&from.1);
                }
                self.names(to.0).insert(to.1.clone(), *node);
            }
            Op::Write { file, at, bytes } => {
                let mut content = self.bytes(*file).to_vec();
                if content.len() < at + bytes.len() && !matches!(fate, Fate::Torn(_)) {
                    content.resize(at + bytes.len(), 0);
                }
                let arrived = match fate {
                    Fate::Torn(bytes) => bytes,
                    Fate::Zeros => 0,
                    Fate::Kept | Fate::Lost => bytes.len(),
                };
                if content.len() < at + arrived {
                    content.resize(at + arrived, 0);
                }
                content[*at..at + arrived].copy_from_slice(&bytes[..arrived]);
                self.set(*file, content);
            }
            Op::Whole { file, bytes } => self.set(*file, bytes.clone()),
            Op::Resize { file, length, cut } => {
                let mut content = self.bytes(*file).to_vec();
                if *cut || content.len() < *length {
                    content.resize(*length, 0);
                    self.set(*file, content);
                }
            }
            Op::Mode { node, mode: new } => match &mut self.0[*node] {
                Thing::Dir { mode, .. } | Thing::File { mode, .. } => *mode = *new,
                Thing::Link { .. } => {}
            },
            Op::Sync(_) | Op::SyncData(_) | Op::SyncAll | Op::Told(_) | Op::Acknowledged => {}
        }
    }

    /// What has this path; no link is followed.
    pub(crate) fn find(&self, path: &str) -> Option<Node> {
        path.split('/').try_fold(0, |node, name| match &self.0[node] {
            Thing::Dir { names, .. } => names.get(name).copied(),
            _ => None,
        })
    }

    /// A file's bytes.
    pub(crate) fn file(&self, path: &str) -> Option<&Content> {
        match &self.0[self.find(path)?] {
            Thing::File { content, .. } => Some(content),
            Thing::Dir { .. } | Thing::Link { .. } => None,
        }
    }

    /// Where a link points.
    pub(crate) fn target(&self, path: &str) -> Option<&str> {
        match &self.0[self.find(path)?] {
            Thing::Link { target } => Some(target),
            Thing::Dir { .. } | Thing::File { .. } => None,
        }
    }

    /// The digest of what has this path, with all that is in it.
    pub(crate) fn digest_of(&self, path: &str) -> Option<Digest> {
        let mut hasher = Hasher::new();
        self.digest_at(self.find(path)?, None, &mut hasher);
        Some(hasher.finish())
    }

    /// Names in a directory; none where there is none.
    pub(crate) fn list(&self, path: &str) -> BTreeSet<String> {
        match self.find(path).map(|node| &self.0[node]) {
            Some(Thing::Dir { names, .. }) => names.keys().cloned().collect(),
            _ => BTreeSet::new(),
        }
    }

    /// A directory as the files that a release is made of, and its directories.
    pub(crate) fn files(&self, path: &str) -> Option<(ensign_testkit::Files, BTreeSet<String>)> {
        let (mut files, mut dirs) = Default::default();
        self.walk(self.find(path)?, "", &mut files, &mut dirs);
        Some((files, dirs))
    }

    fn walk(&self, node: Node, at: &str, files: &mut ensign_testkit::Files, dirs: &mut BTreeSet<String>) {
        match &self.0[node] {
            Thing::Dir { names, .. } => {
                for (name, below) in names {
                    let path = if at.is_empty() {
                        name.clone()
                    } else {
                        format!("{at}/{name}")
                    };
                    if matches!(self.0[*below], Thing::Dir { .. }) {
                        dirs.insert(path.clone());
                    }
                    self.walk(*below, &path, files, dirs);
                }
            }
            Thing::File { mode, content } => {
                // Anything but the two live modes shows as bytes that no release has.
                let bytes = match mode {
                    0o444 | 0o555 => content.bytes.clone(),
                    other => format!("mode {other:o}").into_bytes(),
                };
                files.insert(at.to_owned(), (*mode == 0o555, bytes));
            }
            Thing::Link { target } => {
                files.insert(at.to_owned(), (false, format!("-> {target}").into_bytes()));
            }
        }
    }

    /// The same for the same names, modes and bytes. `instead` is what one file counts as.
    pub(crate) fn digest(&self, instead: Option<(Node, Digest)>) -> Digest {
        let mut hasher = Hasher::new();
        self.digest_at(0, instead, &mut hasher);
        hasher.finish()
    }

    fn digest_at(&self, node: Node, instead: Option<(Node, Digest)>, hasher: &mut Hasher) {
        match &self.0[node] {
            Thing::Dir { mode, names } => {
                hasher.update(format!("d{mode:o} {}\n", names.len()).as_bytes());
                for (name, below) in names {
                    hasher.update(name.as_bytes()).update(b"\0");
                    self.digest_at(*below, instead, hasher);
                }
            }
            Thing::File { mode, content } => {
                let counts = instead.filter(|(file, _)| *file == node).map(|(_, digest)| digest);
                hasher.update(format!("f{mode:o}\n").as_bytes());
                hasher.update(&counts.unwrap_or(content.digest).0);
            }
            Thing::Link { target } => {
                hasher.update(format!("l{target}\0").as_bytes());
            }
        }
    }

    fn names(&mut self, dir: Node) -> &mut BTreeMap<String, Node> {
        match &mut self.0[dir] {
            Thing::Dir { names, .. } => names,
            other => panic!("no directory: {other:?}"),
        }
    }

    fn bytes(&self, file: Node) -> &[u8] {
        match &self.0[file] {
            Thing::File { content, .. } => &content.bytes,
            other => panic!("no file: {other:?}"),
        }
    }

    fn set(&mut self, file: Node, bytes: Vec<u8>) {
        match &mut self.0[file] {
            Thing::File { content, .. } => *content = Content::new(bytes),
            other => panic!("no file: {other:?}"),
        }
    }
}
