//! Verifies, stages, switches, watches and goes back: the half of a device that decides. Started by systemd's sockets, or by the
//! link half under `--root`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ensign_agent::applier::questions::{self, Question};
use ensign_agent::{applier, durable, log, paths::Paths};

/// Verifies and installs what the link half brings; trusts nothing of it.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example:\n  ensign-applier --root /srv/device1")]
struct Arguments {
    /// Every path lies under this directory; `/` is the machine itself.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Decodes blocks into a staging directory; started by the applier itself.
    #[command(hide = true)]
    Unpack {
        /// Landlock and seccomp, or nothing is unpacked.
        #[arg(long)]
        required: bool,
    },
    /// Answers `ensign-agent status`.
    #[command(hide = true)]
    State,
    /// Answers `ensign-agent verify`.
    #[command(hide = true)]
    Verify,
    /// Answers `ensign-agent check`: what confines the unpacking here.
    #[command(hide = true)]
    Sandbox,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    durable::set_umask();
    log::start(log::Level::Normal);
    match arguments.command {
        Some(Command::Unpack { required }) => applier::unpack::main(required),
        Some(Command::State) => questions::main(&Paths::new(arguments.root), Question::State),
        Some(Command::Verify) => questions::main(&Paths::new(arguments.root), Question::Verify),
        Some(Command::Sandbox) => questions::main(&Paths::new(arguments.root), Question::Sandbox),
        None => applier::main(&Paths::new(arguments.root)),
    }
}
