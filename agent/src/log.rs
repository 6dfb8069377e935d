//! Log lines on standard error: with time and colour for a terminal, without either for the journal, which has its own.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

/// How much is said. `ENSIGN_LOG` (`info`, or `debug,quinn=warn`) goes before it.
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
        Level::Verbose => "debug,quinn=warn,quinn_proto=warn,rustls=warn",
    };
    let filter: Targets = std::env::var("ENSIGN_LOG")
        .ok()
        .and_then(|filter| filter.parse().ok())
        .unwrap_or_else(|| default.parse().unwrap_or_default());
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let lines = fmt::layer().with_writer(stderr).with_ansi(colour).with_target(false);
    // The journal stamps each line itself.
    let lines = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().with_filter(filter).boxed()
    } else {
        lines.with_filter(filter).boxed()
    };
    // Only a second call can fail; the first one's choice stays.
    let _ = registry().with(lines).try_init();
}
