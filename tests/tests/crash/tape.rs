//! The recording disk: every change in its order, in terms of nodes that keep their number whatever they are called.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ensign_agent::disk::{Change, Disk, Recorder, Site};

use crate::image::{Fate, Image, Node, Thing};

/// Where another file system begins: what is synced at once on one is not on the other.
const DEPLOY: &str = "var/lib/ensign/deploy";

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A node has a name.
    Enter {
        dir: Node,
        name: String,
        node: Node,
    },
    /// It has it no more.
    Leave {
        dir: Node,
        name: String,
        node: Node,
    },
    Move {
        from: (Node, String),
        to: (Node, String),
        node: Node,
    },
    Write {
        file: Node,
        at: usize,
        bytes: Vec<u8>,
    },
    Whole {
        file: Node,
        bytes: Vec<u8>,
    },
    Resize {
        file: Node,
        length: usize,
        cut: bool,
    },
    Mode {
        node: Node,
        mode: u32,
    },
    Sync(Node),
    SyncData(Node),
    SyncAll,
    Told(Vec<u8>),
    /// The link half says that the controller has everything: no change, but part of the order.
    Acknowledged,
}

/// One change, where it was and who asked for it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) op: Op,
    /// Below the root of the device.
    pub(crate) path: String,
    /// `journal.rs:61`.
    pub(crate) site: String,
}

/// What was done from a known beginning on.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    /// The beginning, and every node that was made later, as it was made.
    pub(crate) base: Image,
    pub(crate) steps: Vec<Step>,
    /// Steps that a program with a mistake does not take.
    pub(crate) dropped: BTreeSet<usize>,
}

/// The recorder of one device.
#[derive(Debug)]
pub(crate) struct Tape {
    root: PathBuf,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    base: Image,
    known: HashMap<(u64, u64), Node>,
    /// Numbers of inodes are given again when nobody holds them.
    pins: Vec<File>,
    steps: Vec<Step>,
}

impl Tape {
    /// Records from here on what is done below `root`.
    pub(crate) fn begin(root: &Path) -> Arc<Self> {
        let (base, known) = Image::load(root);
        let tape = Self {
            root: root.canonicalize().unwrap(),
            taken: Mutex::new(Taken {
                base,
                known,
                pins: Vec::new(),
                steps: Vec::new(),
            }),
        };
        tape.pin_all(root);
        Arc::new(tape)
    }

    pub(crate) fn disk(self: &Arc<Self>) -> Disk {
        Disk::recorded(Arc::clone(self) as Arc<dyn Recorder>)
    }

    pub(crate) fn acknowledged(&self) {
        self.taken.lock().unwrap().steps.push(Step {
            op: Op::Acknowledged,
            path: String::new(),
            site: String::new(),
        });
    }

    pub(crate) fn recording(&self) -> Recording {
        let taken = self.taken.lock().unwrap();
        Recording {
            base: taken.base.clone(),
            steps: taken.steps.clone(),
            dropped: BTreeSet::new(),
        }
    }

    fn pin_all(&self, path: &Path) {
        self.taken.lock().unwrap().pins.push(pin(path));
        if path.symlink_metadata().unwrap().is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                self.pin_all(&entry.unwrap().path());
            }
        }
    }

    fn below(&self, path: &Path) -> String {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        below.to_str().unwrap().trim_end_matches(" (deleted)").to_owned()
    }
}

impl Recorder for Tape {
    fn record(&self, change: Change<'_>, site: Site) {
        let mut taken = self.taken.lock().unwrap();
        let name_in = |dir: BorrowedFd<'_>, name: &str| self.below(&path_of(dir).join(name));
        let (op, path) = match change {
            Change::Create { dir, name } | Change::MakeDir { dir, name } | Change::Symlink { dir, name, .. } => {
                let node = taken.born(&inside(dir, name));
                (taken.enter(dir, name, node), name_in(dir, name))
            }
            Change::Link { dir, name } => {
                let node = taken.node(&inside(dir, name));
                (taken.enter(dir, name, node), name_in(dir, name))
            }
            Change::Write { file, at, bytes } => {
                let op = Op::Write {
                    file: taken.node(&itself(file)),
                    at: usize::try_from(at).unwrap(),
                    bytes: bytes.to_vec(),
                };
                (op, self.below(&path_of(file)))
            }
            Change::Clone { file } => {
                let op = Op::Whole {
                    file: taken.node(&itself(file)),
                    bytes: std::fs::read(itself(file)).unwrap(),
                };
                (op, self.below(&path_of(file)))
            }
            Change::Resize { file, length } => {
                let length = usize::try_from(length).unwrap();
                let cut = itself(file).metadata().unwrap().len() == length as u64;
                let file_node = taken.node(&itself(file));
                let op = Op::Resize {
                    file: file_node,
                    length,
                    cut,
                };
                (op, self.below(&path_of(file)))
            }
            Change::Mode { of, mode } => {
                let node = taken.node(&itself(of));
                (Op::Mode { node, mode }, self.below(&path_of(of)))
            }
            Change::Rename { from, to } => {
                let node = taken.node(&inside(to.0, to.1));
                let op = Op::Move {
                    from: (taken.node(&itself(from.0)), from.1.to_owned()),
                    to: (taken.node(&itself(to.0)), to.1.to_owned()),
                    node,
                };
                (op, name_in(to.0, to.1))
            }
            Change::Remove { dir, name } => {
                let dir_node = taken.node(&itself(dir));
                let op = taken.leave(dir_node, name);
                (op, name_in(dir, name))
            }
            Change::Sync { of } => (Op::Sync(taken.node(&itself(of))), self.below(&path_of(of))),
            Change::SyncData { file } => (Op::SyncData(taken.node(&itself(file))), self.below(&path_of(file))),
            Change::SyncAll { of } => (Op::SyncAll, self.below(&path_of(of))),
            Change::Told(bytes) => (Op::Told(bytes.to_vec()), String::new()),
        };
        let file = Path::new(site.file()).file_name().unwrap().to_str().unwrap();
        taken.steps.push(Step {
            op,
            path,
            site: format!("{file}:{}", site.line()),
        });
    }
}

impl Taken {
    fn node(&self, path: &Path) -> Node {
        // What /proc/self/fd/N leads to, and never further.
        let meta = if path.parent() == Some(Path::new("/proc/self/fd")) {
            path.metadata()
        } else {
            path.symlink_metadata()
        };
        let meta = meta.unwrap();
        let node = self.known.get(&(meta.dev(), meta.ino()));
        *node.unwrap_or_else(|| panic!("{} is not known", path_of_path(path).display()))
    }

    fn born(&mut self, path: &Path) -> Node {
        let meta = path.symlink_metadata().unwrap();
        let node = self.base.0.len();
        self.base.0.push(Thing::at(path));
        self.known.insert((meta.dev(), meta.ino()), node);
        self.pins.push(pin(path));
        node
    }

    fn enter(&self, dir: BorrowedFd<'_>, name: &str, node: Node) -> Op {
        Op::Enter {
            dir: self.node(&itself(dir)),
            name: name.to_owned(),
            node,
        }
    }

    /// What had the name is found in what was done so far: it has none any more.
    fn leave(&self, dir: Node, name: &str) -> Op {
        let mut has = match &self.base.0[dir] {
            Thing::Dir { names, .. } => names.get(name).copied(),
            _ => None,
        };
        for step in &self.steps {
            match &step.op {
                Op::Enter { dir: d, name: n, node } if *d == dir && n == name => has = Some(*node),
                Op::Move { to, node, .. } if to.0 == dir && to.1 == name => has = Some(*node),
                _ => {}
            }
        }
        Op::Leave {
            dir,
            name: name.to_owned(),
            node: has.unwrap_or_else(|| panic!("{name} had no name")),
        }
    }
}

impl Recording {
    /// The disk before each step and after the last, had all of them lasted.
    pub(crate) fn whole(&self) -> Vec<Image> {
        let mut all = vec![self.base.clone()];
        for (at, step) in self.steps.iter().enumerate() {
            let mut image = all[at].clone();
            if !self.dropped.contains(&at) {
                image.take(&step.op, Fate::Kept);
            }
            all.push(image);
        }
        all
    }

    /// Changes among the first `count` steps that nothing has made last.
    pub(crate) fn pending(&self, count: usize) -> Vec<usize> {
        let mut data: BTreeMap<Node, Vec<usize>> = BTreeMap::new();
        let mut modes: BTreeMap<Node, Vec<usize>> = BTreeMap::new();
        let mut names: BTreeMap<Node, Vec<usize>> = BTreeMap::new();
        for (at, step) in self.steps.iter().take(count).enumerate() {
            if self.dropped.contains(&at) {
                continue;
            }
            match &step.op {
                Op::Enter { dir, .. } | Op::Leave { dir, .. } => names.entry(*dir).or_default().push(at),
                // One transaction, and that of the directory that has the new name.
                Op::Move { to, .. } => names.entry(to.0).or_default().push(at),
                Op::Write { file, .. } | Op::Whole { file, .. } | Op::Resize { file, .. } => {
                    data.entry(*file).or_default().push(at);
                }
                Op::Mode { node, .. } => modes.entry(*node).or_default().push(at),
                Op::SyncData(file) => drop(data.remove(file)),
                Op::Sync(node) => {
                    for all in [&mut data, &mut modes, &mut names] {
                        all.remove(node);
                    }
                }
                Op::SyncAll => {
                    let deploy = step.path.starts_with(DEPLOY);
                    for all in [&mut data, &mut modes, &mut names] {
                        for steps in all.values_mut() {
                            steps.retain(|at| self.steps[*at].path.starts_with(DEPLOY) != deploy);
                        }
                    }
                }
                Op::Told(_) | Op::Acknowledged => {}
            }
        }
        let mut pending: Vec<usize> = [data, modes, names]
            .into_iter()
            .flat_map(BTreeMap::into_values)
            .flatten()
            .collect();
        pending.sort_unstable();
        pending
    }
}

fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    path_of_path(&itself(fd))
}

fn path_of_path(path: &Path) -> PathBuf {
    std::fs::read_link(path).unwrap_or_else(|_| path.to_owned())
}

fn itself(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn inside(dir: BorrowedFd<'_>, name: &str) -> PathBuf {
    itself(dir).join(name)
}

fn pin(path: &Path) -> File {
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_NOFOLLOW;
    File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .unwrap()
}
