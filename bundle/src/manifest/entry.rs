//! The entries of a component's tree and their compact form: CBOR arrays `[0, path, mode, size, digest]` for a file,
//! `[1, path, mode]` for a directory, `[2, path, target]` for a symlink.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::path::{TreePath, check_target};
use crate::reason::Refusal;
use crate::refuse;

/// Mode of a file that nobody executes.
pub const MODE_PLAIN: u16 = 0o644;
/// Mode of executable files and of every directory.
pub const MODE_EXECUTABLE: u16 = 0o755;

const FILE: u8 = 0;
const DIR: u8 = 1;
const SYMLINK: u8 = 2;

/// One thing in a tree. No owner: everything belongs to whom the device's policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    File {
        path: TreePath,
        /// 0o644 or 0o755.
        mode: u16,
        /// Bytes.
        size: u64,
        digest: Digest,
    },
    Dir {
        path: TreePath,
        /// 0o755.
        mode: u16,
    },
    /// Relative, stays inside the component, may point at nothing.
    Symlink { path: TreePath, target: String },
}

impl Entry {
    /// A file; of its mode only the executable bits matter.
    pub fn file(path: TreePath, mode: u32, size: u64, digest: Digest) -> Self {
        let mode = if mode & 0o111 == 0 { MODE_PLAIN } else { MODE_EXECUTABLE };
        Self::File {
            path,
            mode,
            size,
            digest,
        }
    }

    /// A directory; its mode is always 0755.
    pub fn dir(path: TreePath) -> Self {
        Self::Dir {
            path,
            mode: MODE_EXECUTABLE,
        }
    }

    /// Refuses a target that leaves the component.
    pub fn symlink(path: TreePath, target: &str) -> Result<Self, Refusal> {
        check_target(&path, target)?;
        Ok(Self::Symlink {
            path,
            target: target.to_owned(),
        })
    }

    /// Below the top of the component.
    pub fn path(&self) -> &TreePath {
        match self {
            Self::File { path, .. } | Self::Dir { path, .. } | Self::Symlink { path, .. } => path,
        }
    }

    /// Bytes of the file; 0 for everything else.
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            Self::Dir { .. } | Self::Symlink { .. } => 0,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::File { path, mode, .. } if !matches!(*mode, MODE_PLAIN | MODE_EXECUTABLE) => {
                refuse!(Malformed, "the file {path} has mode {mode:o}, 644 and 755 are possible")
            }
            Self::File {
                path, size: 0, digest, ..
            } if *digest != Digest::of(b"") => {
                refuse!(Malformed, "the empty file {path} has the digest of another")
            }
            Self::Dir { path, mode } if *mode != MODE_EXECUTABLE => {
                refuse!(Malformed, "the directory {path} has mode {mode:o}, 755 is possible")
            }
            Self::Symlink { path, target } => check_target(path, target),
            Self::File { .. } | Self::Dir { .. } => Ok(()),
        }
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File {
                path,
                mode,
                size,
                digest,
            } => (FILE, path, mode, size, digest).serialize(serializer),
            Self::Dir { path, mode } => (DIR, path, mode).serialize(serializer),
            Self::Symlink { path, target } => (SYMLINK, path, target).serialize(serializer),
        }
    }
}

/// An entry as it stands in the bytes: its path is only text yet, so that a bad one is refused with its own reason.
pub(crate) enum Raw {
    File(String, u16, u64, Digest),
    Dir(String, u16),
    Symlink(String, String),
}

impl TryFrom<Raw> for Entry {
    type Error = Refusal;

    fn try_from(raw: Raw) -> Result<Self, Refusal> {
        let entry = match raw {
            Raw::File(path, mode, size, digest) => Self::File {
                path: TreePath::parse(&path)?,
                mode,
                size,
                digest,
            },
            Raw::Dir(path, mode) => Self::Dir {
                path: TreePath::parse(&path)?,
                mode,
            },
            Raw::Symlink(path, target) => Self::Symlink {
                path: TreePath::parse(&path)?,
                target,
            },
        };
        entry.check()?;
        Ok(entry)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a file, a directory or a symlink")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        match next(&mut seq)? {
            FILE => Ok(Raw::File(
                next(&mut seq)?,
                next(&mut seq)?,
                next(&mut seq)?,
                next(&mut seq)?,
            )),
            DIR => Ok(Raw::Dir(next(&mut seq)?, next(&mut seq)?)),
            SYMLINK => Ok(Raw::Symlink(next(&mut seq)?, next(&mut seq)?)),
            kind => Err(A::Error::custom(format_args!("an entry of the unknown kind {kind}"))),
        }
    }
}

fn next<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(seq: &mut A) -> Result<T, A::Error> {
    seq.next_element()?
        .ok_or_else(|| A::Error::custom("an entry that ends too early"))
}
