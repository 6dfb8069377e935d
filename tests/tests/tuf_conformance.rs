//! The state machine that ships against repositories that lie (`tests/conformance`): signed by python-tuf, served over HTTP, judged
//! by what the client stores, asks for and ends with. See docs/tuf-conformance.md.
//!
//! Needs python3 with venv. Its packages come from the registry once and stay in `target`; only where the registry cannot be
//! reached is the test left out, and says `SKIPPED`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use ensign_bundle::digest::Digest;

/// Fewer cases than this have not all been run.
const CASES: usize = 264;
/// Most that fetching the packages, and then all cases, may take, seconds.
const LONGEST_INSTALL_S: &str = "240";
const LONGEST_RUN_S: &str = "300";

#[test]
fn the_state_machine_withstands_repositories_that_lie() -> Result<()> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let Some(python) = python(&cases.join("requirements.txt"))? else {
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

/// An interpreter with the pinned packages; none where the registry cannot be reached.
fn python(requirements: &Path) -> Result<Option<PathBuf>> {
    let pinned = Digest::of(&fs::read(requirements)?).to_string();
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tuf-conformance");
    let (python, complete) = (venv.join("bin/python"), venv.join("complete"));
    if fs::read_to_string(&complete).is_ok_and(|done| done == pinned) {
        return Ok(Some(python));
    }
    if venv.exists() {
        fs::remove_dir_all(&venv)?;
    }
    let made = bounded(LONGEST_INSTALL_S, Path::new("python3"))
        .args(["-m", "venv"])
        .arg(&venv)
        .output()?;
    check("making a virtual environment (is python3-venv installed?)", &made)?;
    let mut install = bounded(LONGEST_INSTALL_S, &python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--timeout",
        "20",
    ]);
    let installed = install.arg("--requirement").arg(requirements).output()?;
    let said = String::from_utf8_lossy(&installed.stderr);
    // What pip says when it has seen no registry at all; a package that a registry does not have is a mistake in the list.
    let unreachable = [
        "from versions: none",
        "NewConnectionError",
        "Max retries exceeded",
        "Read timed out",
    ];
    if !installed.status.success() && unreachable.iter().any(|sign| said.contains(sign)) {
        return Ok(None);
    }
    check("installing the packages", &installed)?;
    fs::File::create(&complete)?.write_all(pinned.as_bytes())?;
    Ok(Some(python))
}

/// A command that is ended after so many seconds.
fn bounded(seconds: &str, program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.arg(seconds).arg(program);
    command
}

fn check(what: &str, output: &Output) -> Result<()> {
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The number before a word of pytest's last line: `264 passed, 1 skipped in 9.42s`.
fn counted(line: &str, word: &str) -> usize {
    let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let at = words.windows(2).find(|pair| pair[1] == word);
    at.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

/// Past the capture of passing tests' output: a skip must be seen.
fn skipped(why: &str) -> Result<()> {
    writeln!(std::io::stderr(), "SKIPPED: {why}")?;
    Ok(())
}
