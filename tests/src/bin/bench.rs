//! `cargo run -p ensign-tests --release --bin bench`: speed and size, as ratios against plain copying in the same run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ensign_tests::bench;
use ensign_tests::harness::{Profile, build};

fn main() -> ExitCode {
    let words: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let handshakes = Path::new("handshakes");
    let measured = match words.as_slice() {
        [] => bench::run(None),
        [what] if what == handshakes => build(Profile::Release).and_then(|bin| bench::handshakes::run(&bin)),
        [what, bin] if what == handshakes => bench::handshakes::run(bin),
        [old, new] => bench::run(Some((old.clone(), new.clone()))),
        _ => {
            eprintln!("usage: bench [OLD_TREE NEW_TREE]\n       bench handshakes [FOLDER_OF_BINARIES]");
            return ExitCode::from(2);
        }
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench failed: {e:#}");
            ExitCode::FAILURE
        }
    }
}
