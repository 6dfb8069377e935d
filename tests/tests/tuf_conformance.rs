//! The state machine that ships against repositories that lie (`tests/conformance`): signed by python-tuf, served over HTTP, judged
//! by what the client stores, asks for and ends with. See docs/tuf-conformance.md.
//!
//! Needs python3 with venv. Its packages come from the registry once and stay in `target`; only where the registry cannot be
//! reached is the test left out, and says `SKIPPED`.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ensign_tests::python::{bounded, interpreter, skipped};

/// Fewer cases than this have not all been run.
const CASES: usize = 264;
/// Most that all cases may take, seconds.
const LONGEST_RUN_S: &str = "300";

#[test]
fn the_state_machine_withstands_repositories_that_lie() -> Result<()> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tuf-conformance");
    let Some(python) = interpreter(&venv, &cases.join("requirements.txt"))? else {
        return skipped("the registry of Python packages cannot be reached: no conformance case was run");
    };
    let mut pytest = bounded(LONGEST_RUN_S, &python);
    pytest.args(["-m", "pytest", "--quiet", "--tb=short", "--client"]);
    pytest
        .arg(env!("CARGO_BIN_EXE_tuf-adapter"))
        .arg(&cases)
        .current_dir(&cases);
    pytest.env("PYTHONDONTWRITEBYTECODE", "1");
    let output = pytest.output().context("starting pytest")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let last = text.lines().last().unwrap_or_default();
    let (passed, left_out) = (counted(last, "passed"), counted(last, "skipped"));
    ensure!(passed + left_out >= CASES, "fewer cases than there are: {last}");
    if left_out > 0 {
        return skipped(&format!("{left_out} conformance cases need faketime: {last}"));
    }
    writeln!(std::io::stderr(), "tuf conformance: {last}")?;
    Ok(())
}

/// The number before a word of pytest's last line: `264 passed, 1 skipped in 9.42s`.
fn counted(line: &str, word: &str) -> usize {
    let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let at = words.windows(2).find(|pair| pair[1] == word);
    at.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}
