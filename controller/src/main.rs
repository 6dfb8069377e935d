//! The controller of a fleet.

use std::process::ExitCode;

fn main() -> ExitCode {
    ensign_controller::cli::main()
}
