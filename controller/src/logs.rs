//! Log lines on standard error. The journal adds its own times, so there are none where it listens.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// Starts logging at `level` (`info`, or a filter like `ensign_controller=debug`); `ENSIGN_LOG` overrides it.
pub fn start(level: &str) {
    let filter = EnvFilter::try_from_env("ENSIGN_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let lines = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false);
    // A second call (tests in one process) keeps the first subscriber.
    let started = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().try_init()
    } else {
        lines.try_init()
    };
    if started.is_err() {
        tracing::debug!("logging runs already");
    }
}
