//! `cargo demo`: the main job, for real, on one machine. See `ensign_tests::demo`.

use std::process::ExitCode;

use ensign_tests::demo;

fn main() -> ExitCode {
    let mut keep = false;
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--keep" => keep = true,
            "--help" | "-h" => {
                println!("{}", demo::HELP);
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("error: unknown argument `{other}`\n\n{}", demo::HELP);
                return ExitCode::from(2);
            }
        }
    }
    match demo::run(keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\ndemo failed: {e:#}");
            ExitCode::FAILURE
        }
    }
}
