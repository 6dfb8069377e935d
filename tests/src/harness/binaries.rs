//! Builds the product's binaries that tests and the demo start.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// How the binaries are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build: tests and the demo.
    Dev,
    /// What benchmarks measure.
    Release,
}

/// Builds all binaries once per process and returns the folder they are in. Progress goes to standard error.
pub fn build(profile: Profile) -> Result<PathBuf> {
    static DEV: OnceLock<PathBuf> = OnceLock::new();
    static RELEASE: OnceLock<PathBuf> = OnceLock::new();
    let cell = if profile == Profile::Dev { &DEV } else { &RELEASE };
    if let Some(folder) = cell.get() {
        return Ok(folder.clone());
    }
    let folder = run_cargo(profile)?;
    Ok(cell.get_or_init(|| folder).clone())
}

fn run_cargo(profile: Profile) -> Result<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args([
        "build",
        "--quiet",
        "--bins",
        "-p",
        "ensign",
        "-p",
        "ensign-controller",
        "-p",
        "ensign-agent",
    ]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    let status = cargo.status().context("cargo builds the binaries")?;
    if !status.success() {
        bail!("cargo build ended with {status}");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from(root).join("target"), PathBuf::from);
    let folder = target.join(if profile == Profile::Dev { "debug" } else { "release" });
    folder
        .canonicalize()
        .with_context(|| format!("{} holds the binaries", folder.display()))
}
