//! Log lines on standard error: with time and colour for a terminal, without either for the journal, which has its own.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;

/// How much is said. `ENSIGN_LOG` (a filter of the `tracing` crate) goes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Errors only.
    Quiet,
    /// What an administrator should know.
    Normal,
    /// Every step.
    Verbose,
}

/// Starts logging, once per process.
pub fn start(level: Level) {
    let default = match level {
        Level::Quiet => "error",
        Level::Normal => "info",
        Level::Verbose => "debug,quinn=info,quinn_proto=info,rustls=info",
    };
    let filter = EnvFilter::try_from_env("ENSIGN_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(colour)
        .with_target(false);
    // The journal stamps each line itself.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    // Only a second call can fail; the first one's choice stays.
    let _ = if journal {
        builder.without_time().try_init()
    } else {
        builder.try_init()
    };
}
