//! The ledger: small rows under path-like keys, changed together or not at all.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;

use ensign_bundle::codec::{self, CodecError};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::chain;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::room;

/// Largest key, bytes: room for two hexadecimal digests and the words around them.
pub const KEY_BYTES: usize = 256;
/// Largest value, bytes. What is larger is a blob: the embedded ledger is made for small values.
pub const VALUE_BYTES: usize = (64 << 10) - 1;
/// Most changes in one commit: a change of every device of a large fleet, while one commit still fits in memory with ease.
pub const COMMIT_CHANGES: usize = 64 << 10;
/// CBOR items in a value; each has at least one byte.
const VALUE_ITEMS: usize = VALUE_BYTES;

/// Small transactional state. Keys are UTF-8 paths like `device/<hex>`, without control characters, at most [`KEY_BYTES`];
/// values at most [`VALUE_BYTES`].
///
/// All calls block, on a disk perhaps: asynchronous callers go through `spawn_blocking`.
pub trait Ledger: Send + Sync + 'static {
    /// The row under `key`. Only durable rows are seen: what is read cannot be taken back by a power cut.
    fn read(&self, key: &str) -> Result<Option<Row>, LedgerError>;

    /// Every row whose key starts with `prefix`, in the order of the keys' bytes, as they stood at one instant.
    fn scan(&self, prefix: &str) -> Result<Vec<(String, Row)>, LedgerError>;

    /// All of `changes` or none. Durable when it returns `Ok`: survives a kill and a power cut.
    ///
    /// [`LedgerError::Conflict`] names the first change whose expectation is not met, and nothing was changed. After
    /// [`LedgerError::Stopped`] or [`LedgerError::Io`] the changes may or may not be there after a restart.
    fn commit(&self, changes: Vec<Change>) -> Result<(), LedgerError>;
}

/// A value and the number of the commit that wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Commits are numbered through the whole ledger, so a version never comes back, not even after the row was deleted.
    pub version: u64,
    pub value: Vec<u8>,
}

/// One row to be written, or deleted if there is no value.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub expect: Expect,
    pub value: Option<Vec<u8>>,
}

/// What must be under the key for the commit to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    Version(u64),
    Any,
}

/// A decoded value with its row's version, for the [`Expect`] of the change that follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    pub version: u64,
    pub value: T,
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("`{key}` changed meanwhile: expected {expected}, found {}", version_or_absent(*found))]
    Conflict {
        key: String,
        expected: Expect,
        found: Option<u64>,
    },
    #[error("not a key: `{key}` is empty, longer than {KEY_BYTES} bytes or has control characters")]
    KeyRefused { key: String },
    #[error("`{key}` stands twice in one commit")]
    KeyTwice { key: String },
    #[error("the value of `{key}` has {bytes} bytes, at most {VALUE_BYTES} are allowed")]
    ValueTooLarge { key: String, bytes: usize },
    #[error("{changes} changes in one commit, at most {COMMIT_CHANGES} are allowed")]
    TooManyChanges { changes: usize },
    #[error("the value of `{key}` is not what is kept there")]
    Value { key: String, source: CodecError },
    #[error("{} is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error("{} has format {found}, this program knows format {known}", path.display())]
    VersionUnknown { path: PathBuf, found: u32, known: u32 },
    #[error("{} is damaged: {what}", path.display())]
    Corrupt { path: PathBuf, what: String },
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the ledger takes no more commits since its disk failed: {why}")]
    Stopped { why: String, full: bool },
    /// Also for commits after the one that met the full disk: only a restart tells what is there.
    #[error("{}", room::text(path))]
    NoSpace { path: PathBuf },
}

impl LedgerError {
    /// The reason code that a command or a request ends with.
    pub fn code(&self) -> Code {
        match self {
            Self::Conflict { .. } => Code::Conflict,
            Self::KeyRefused { .. } | Self::KeyTwice { .. } => Code::Failed,
            Self::ValueTooLarge { .. } | Self::TooManyChanges { .. } => Code::LimitExceeded,
            Self::Value { .. } => Code::Malformed,
            Self::Corrupt { .. } => Code::LedgerDamaged,
            Self::InUse { .. } => Code::InUse,
            Self::VersionUnknown { .. } => Code::VersionUnknown,
            Self::NoSpace { .. } => Code::NoSpace,
            Self::Io { .. } | Self::Stopped { .. } => Code::Io,
        }
    }
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        Self::new(error.code(), chain(&error))
    }
}

/// Values may be secret: `Debug` shows their length.
impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, value } = self;
        write!(f, "Row {{ version: {version}, {} bytes }}", value.len())
    }
}

/// See [`Row`].
impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, expect, value } = self;
        let bytes = value.as_ref().map(Vec::len);
        write!(f, "Change {{ {key:?}, expect: {expect}, bytes: {bytes:?} }}")
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("nothing"),
            Self::Version(version) => write!(f, "version {version}"),
            Self::Any => f.write_str("anything"),
        }
    }
}

impl Expect {
    /// The expectation that the row is still as it was read.
    pub fn unchanged(row: Option<u64>) -> Self {
        row.map_or(Self::Absent, Self::Version)
    }

    fn is_met_by(self, found: Option<u64>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Version(version) => found == Some(version),
            Self::Any => true,
        }
    }
}

impl Change {
    /// Writes `value` in its deterministic encoding.
    pub fn put<T: Serialize>(key: impl Into<String>, value: &T, expect: Expect) -> Result<Self, LedgerError> {
        let key = key.into();
        match codec::encode(value) {
            Ok(value) => Ok(Self {
                key,
                expect,
                value: Some(value),
            }),
            Err(source) => Err(LedgerError::Value { key, source }),
        }
    }

    pub fn delete(key: impl Into<String>, expect: Expect) -> Self {
        Self {
            key: key.into(),
            expect,
            value: None,
        }
    }

    /// Refuses the change if `found`, the version under its key, is not what it expects.
    pub(super) fn check(&self, found: Option<u64>) -> Result<(), LedgerError> {
        if self.expect.is_met_by(found) {
            return Ok(());
        }
        Err(LedgerError::Conflict {
            key: self.key.clone(),
            expected: self.expect,
            found,
        })
    }
}

impl Row {
    /// The typed value; `key` is for the error.
    pub fn decode<T: DeserializeOwned>(&self, key: &str) -> Result<Stored<T>, LedgerError> {
        match codec::decode(&self.value, VALUE_ITEMS) {
            Ok(value) => Ok(Stored {
                version: self.version,
                value,
            }),
            Err(source) => Err(LedgerError::Value {
                key: key.to_owned(),
                source,
            }),
        }
    }
}

/// Typed reading, for every ledger.
pub trait Typed: Ledger {
    fn read_as<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Stored<T>>, LedgerError> {
        self.read(key)?.map(|row| row.decode(key)).transpose()
    }

    fn scan_as<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, Stored<T>)>, LedgerError> {
        self.scan(prefix)?
            .into_iter()
            .map(|(key, row)| row.decode(&key).map(|stored| (key, stored)))
            .collect()
    }
}

impl<L: Ledger + ?Sized> Typed for L {}

/// Refuses commits that no ledger takes, before anything is looked up.
pub(super) fn check_limits(changes: &[Change]) -> Result<(), LedgerError> {
    if changes.len() > COMMIT_CHANGES {
        return Err(LedgerError::TooManyChanges { changes: changes.len() });
    }
    let mut keys = BTreeSet::new();
    for Change { key, value, .. } in changes {
        if key.is_empty() || key.len() > KEY_BYTES || key.contains(char::is_control) {
            return Err(LedgerError::KeyRefused {
                key: ensign_bundle::text::printable(key, KEY_BYTES),
            });
        }
        if !keys.insert(key) {
            return Err(LedgerError::KeyTwice { key: key.clone() });
        }
        let bytes = value.as_ref().map_or(0, Vec::len);
        if bytes > VALUE_BYTES {
            return Err(LedgerError::ValueTooLarge {
                key: key.clone(),
                bytes,
            });
        }
    }
    Ok(())
}

fn version_or_absent(version: Option<u64>) -> String {
    version.map_or_else(|| "nothing".to_owned(), |version| format!("version {version}"))
}
