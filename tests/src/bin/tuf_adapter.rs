//! The state machine of what ships as a client of any TUF repository, for conformance suites (see `ensign_tests::tuf`).
//!
//! Exits with 0 when everything asked for was done, else with 1 and the reason on standard error.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use ensign_tests::tuf::client::{self, Client, Download};

#[derive(Parser)]
#[command(name = "tuf-adapter")]
struct Arguments {
    /// Where trusted metadata is kept
    #[arg(long)]
    metadata_dir: PathBuf,
    /// Where the repository's metadata is served
    #[arg(long)]
    metadata_url: Option<String>,
    /// A target to download; may be repeated
    #[arg(long = "target-name")]
    target_names: Vec<String>,
    /// Where the repository's targets are served
    #[arg(long)]
    target_base_url: Option<String>,
    /// Where targets are kept
    #[arg(long)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start trusting a root
    Init { root: PathBuf },
    /// Bring the top-level roles up to date
    Refresh,
    /// Refresh, then download targets, in order, until one fails
    Download,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("tuf-adapter: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if let Command::Init { root } = &arguments.command {
        return client::init(&arguments.metadata_dir, root);
    }
    let url = arguments.metadata_url.context("--metadata-url is missing")?;
    let mut client = Client::open(&arguments.metadata_dir, &url, now()?)?;
    client.refresh()?;
    if matches!(arguments.command, Command::Download) {
        let to = Download {
            url: arguments.target_base_url.context("--target-base-url is missing")?,
            folder: arguments.target_dir.context("--target-dir is missing")?,
        };
        for name in &arguments.target_names {
            client.download(name, &to)?;
        }
    }
    Ok(())
}

/// Seconds since the epoch, from the C library, so that a suite can move the clock under it.
fn now() -> Result<u64> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the adapter's shell: the one place that reads its clock"
    )]
    let now = SystemTime::now();
    Ok(now
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs())
}
