//! The link half of a device, and the commands on it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ensign_agent::cli::main()
}
