//! The rules that hold between the entries of a tree, checked in one pass with memory for the open directories only.

use serde::{Deserialize, Serialize};

use crate::limits::FILES;
use crate::manifest::entry::Entry;
use crate::path::TreePath;
use crate::reason::{Code, Refusal};
use crate::refuse;

/// Unit in which file systems hand out room, bytes: what [`Totals::peak_staging`] rounds up to.
const PAGE: u64 = 4096;

/// What a release needs, summed over its components. Derived from the entries and checked against them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Sizes of all files.
    pub bytes: u64,
    /// Files, directories and symlinks.
    pub inodes: u64,
    /// Room that staging takes at most, bytes: each file rounded up to 4096, and 4096 for each directory and symlink.
    pub peak_staging: u64,
}

impl Totals {
    /// The sum, or a refusal when it does not fit 64 bits.
    pub fn plus(self, other: Self) -> Result<Self, Refusal> {
        let sum = || {
            Some(Self {
                bytes: self.bytes.checked_add(other.bytes)?,
                inodes: self.inodes.checked_add(other.inodes)?,
                peak_staging: self.peak_staging.checked_add(other.peak_staging)?,
            })
        };
        sum().ok_or_else(|| Refusal::new(Code::LimitExceeded, "the sizes of the files do not fit 64 bits"))
    }

    fn of(entry: &Entry) -> Result<Self, Refusal> {
        let bytes = entry.size();
        let room = match entry {
            Entry::File { .. } => bytes.checked_next_multiple_of(PAGE),
            Entry::Dir { .. } | Entry::Symlink { .. } => Some(PAGE),
        };
        match room {
            Some(peak_staging) => Ok(Self {
                bytes,
                inodes: 1,
                peak_staging,
            }),
            None => refuse!(LimitExceeded, "{} has {bytes} bytes: too many", entry.path()),
        }
    }
}

/// Takes the entries of one component in order.
#[derive(Debug, Default)]
pub(crate) struct TreeCheck {
    totals: Totals,
    last: Option<TreePath>,
    /// The directories that the next entry may lie in, outermost first.
    open: Vec<TreePath>,
}

impl TreeCheck {
    /// Refuses an entry that is not after the last one, or whose directory is not there.
    pub(crate) fn push(&mut self, entry: &Entry) -> Result<(), Refusal> {
        let path = entry.path();
        if let Some(last) = &self.last {
            if last == path {
                return refuse!(Malformed, "the path {path} stands twice");
            }
            if last > path {
                return refuse!(Malformed, "the path {path} stands after {last}");
            }
        }
        let parent = path.parent();
        // In this order everything in a directory follows it, so a directory that is not above this entry is finished.
        while self.open.last().is_some_and(|dir| !is_above(dir, path)) {
            self.open.pop();
        }
        let found = self.open.last().map_or("", TreePath::as_str);
        if found != parent {
            return refuse!(Malformed, "the directory of {path} is not there");
        }
        self.totals = self.totals.plus(Totals::of(entry)?)?;
        if self.totals.inodes > FILES as u64 {
            return refuse!(
                LimitExceeded,
                "more than {FILES} files, directories and symlinks in a component"
            );
        }
        if let Entry::Dir { path, .. } = entry {
            self.open.push(path.clone());
        }
        self.last = Some(path.clone());
        Ok(())
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }
}

fn is_above(dir: &TreePath, path: &TreePath) -> bool {
    path.as_str()
        .strip_prefix(dir.as_str())
        .is_some_and(|rest| rest.starts_with('/'))
}
