//! `cargo run -p ensign-tests --release --bin bench`: speed and size, as ratios against plain copying in the same run.

use std::path::PathBuf;
use std::process::ExitCode;

use ensign_tests::bench;

fn main() -> ExitCode {
    let pair: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let pair = match pair.as_slice() {
        [] => None,
        [old, new] => Some((old.clone(), new.clone())),
        _ => {
            eprintln!("usage: bench [OLD_TREE NEW_TREE]");
            return ExitCode::from(2);
        }
    };
    match bench::run(pair) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench failed: {e:#}");
            ExitCode::FAILURE
        }
    }
}
