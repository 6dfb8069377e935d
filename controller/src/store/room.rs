//! Room on a disk, in the words that a refusal for want of it needs.

use std::io;
use std::path::Path;

use nix::sys::statvfs::statvfs;

/// What a start or a commit of the ledger may take before it gives any back, bytes: two segments of its log, a snapshot, and room for the
/// roles that are renewed.
pub const LEAST: u64 = 4 << 20;

/// True where the disk, or the share of it that this user may take, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What is free where `path` is, and what is missing.
pub fn text(path: &Path) -> String {
    let Ok(at) = statvfs(path) else {
        return format!("{}: no space is left, how much is free is not known", path.display());
    };
    let free = at.blocks_available().saturating_mul(at.fragment_size());
    format!(
        "{}: no space is left: {free} bytes are free, {LEAST} are needed, {} are missing; {} more files can be made",
        path.display(),
        LEAST.saturating_sub(free),
        at.files_available(),
    )
}
