//! The few privileged verbs: units and probes. Started by systemd's socket, or by the link half under `--root`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ensign_agent::{paths::Paths, runner};

/// Performs the few verbs that need privileges, for the applier alone.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example:\n  ensign-runner --root /srv/device1")]
struct Arguments {
    /// Every path lies under this directory; `/` is the machine itself.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    ensign_agent::durable::set_umask();
    ensign_agent::log::start(ensign_agent::log::Level::Normal);
    runner::main(&Paths::new(arguments.root))
}
