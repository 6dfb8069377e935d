//! Interpreters of Python with pinned packages, for what other people's programs have to say about this one.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Result, bail};
use ensign_bundle::digest::Digest;

/// Most that fetching packages may take, seconds.
const LONGEST_INSTALL_S: &str = "240";

/// An interpreter with these packages, made once in `folder` and kept there; none where the registry cannot be reached.
pub fn interpreter(folder: &Path, requirements: &Path) -> Result<Option<PathBuf>> {
    let pinned = Digest::of(&fs::read(requirements)?).to_string();
    let (python, complete) = (folder.join("bin/python"), folder.join("complete"));
    if fs::read_to_string(&complete).is_ok_and(|done| done == pinned) {
        return Ok(Some(python));
    }
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let made = bounded(LONGEST_INSTALL_S, Path::new("python3"))
        .args(["-m", "venv"])
        .arg(folder)
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
pub fn bounded(seconds: &str, program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.arg(seconds).arg(program);
    command
}

/// Past the capture of passing tests' output: a skip must be seen.
pub fn skipped(why: &str) -> Result<()> {
    writeln!(std::io::stderr(), "SKIPPED: {why}")?;
    Ok(())
}

fn check(what: &str, output: &Output) -> Result<()> {
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
