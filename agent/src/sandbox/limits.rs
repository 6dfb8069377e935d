//! Limits of a process (setrlimit(2)).

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors of the worker, beside the ones of a message.
const FILES: u64 = 128;
/// Address space of the worker: two blocks, a manifest and its index, with room for the largest of each, bytes.
const MEMORY: u64 = 1 << 30;

/// Whom a limit binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// This process and all that it starts, for good.
    ForGood,
    /// Those as well, but each may take it back: they may be anybody's programs.
    Default,
}

/// No core files, no children, few descriptors, bounded memory.
pub(super) fn worker() -> io::Result<()> {
    no_core(Reach::ForGood)?;
    setrlimit(Resource::RLIMIT_NPROC, 0, 0)?;
    setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES)?;
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY)?;
    Ok(())
}

/// Keys in memory must not end in a file.
pub(super) fn no_core(reach: Reach) -> io::Result<()> {
    let hard = match reach {
        Reach::ForGood => 0,
        Reach::Default => getrlimit(Resource::RLIMIT_CORE)?.1,
    };
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, hard)?)
}
