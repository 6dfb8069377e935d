//! Building the copy's tests once, running them many times.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::copy;

/// Longest run: tests that hang without a check have noticed that it is gone.
const LONGEST: Duration = Duration::from_secs(300);
/// Between two looks at a run.
const PAUSE: Duration = Duration::from_millis(20);
/// Tests that look at bytes rather than at checks, and take long.
const SKIPPED: &[&str] = &[
    "e27_",
    "e64_",
    "golden::",
    "model::",
    "moves::",
    "long_chain",
    "proptest",
];
/// Names of failed tests that are told.
const TOLD: usize = 3;

/// The test programs, the most telling first.
pub(super) struct Suite {
    programs: Vec<PathBuf>,
    dir: PathBuf,
}

/// With a target directory of its own: cargo names what it builds by the place within a workspace, so the copy's crates would take
/// the place of the real ones.
pub(super) fn build(top: &Path) -> Result<Suite> {
    let dir = copy::place(top);
    let args = [
        "test",
        "--offline",
        "-p",
        "ensign-bundle",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ];
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(args)
        .current_dir(&dir)
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not start")?;
    ensure!(built.status.success(), "the copy does not build");
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&built.stdout).lines() {
        let message: Value = serde_json::from_str(line)?;
        if let Some(program) = message["executable"].as_str() {
            programs.push(PathBuf::from(program));
        }
    }
    // The tests from outside first: nearly everything is caught there.
    programs.sort_by_key(|p| !p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("trust")));
    ensure!(programs.len() > 1, "no test programs were built");
    Ok(Suite {
        programs,
        dir: dir.join("bundle"),
    })
}

/// Runs the tests without the check of this name. The names of the first that failed; `None` = all passed.
pub(super) fn run(suite: &Suite, mutant: Option<&str>) -> Result<Option<Vec<String>>> {
    for program in &suite.programs {
        let mut command = Command::new(program);
        command.args(SKIPPED.iter().flat_map(|name| ["--skip", name]));
        command
            .current_dir(&suite.dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
            .env("PROPTEST_CASES", "16")
            .env("RUST_BACKTRACE", "0")
            .env_remove("ENSIGN_MUTANT");
        if let Some(mutant) = mutant {
            command.env("ENSIGN_MUTANT", mutant);
        }
        let mut child = command.spawn().with_context(|| program.display().to_string())?;
        let mut output = child.stdout.take().context("standard output is a pipe")?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).map(|_| text)
        });
        let mut waited = Duration::ZERO;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if waited > LONGEST {
                child.kill()?;
                child.wait()?;
                return Ok(Some(vec!["it hangs".to_owned()]));
            }
            std::thread::sleep(PAUSE);
            waited += PAUSE;
        };
        if !status.success() {
            let text = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
            let failed = text
                .lines()
                .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
            return Ok(Some(failed.take(TOLD).map(str::to_owned).collect()));
        }
    }
    Ok(None)
}
