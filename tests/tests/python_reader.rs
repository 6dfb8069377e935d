//! The reader in `docs/reader`, written in another language from `docs/formats.md`, agrees with this library about a bundle.
//!
//! Needs python3 and its packages from the registry; without them it says `SKIPPED` and why.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use ensign_bundle::container::Writer;
use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::manifest::Draft;
use ensign_crypto::SecretKey;

const FLEET: FleetId = FleetId([0x0f; 32]);
const PACKAGES: [&str; 3] = ["cbor2", "zstandard", "cryptography"];

#[test]
fn a_reader_written_from_the_docs_accepts_what_is_written_and_refuses_what_is_not() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let python = match python(folder.path()) {
        Ok(python) => python,
        Err(why) => {
            // Past the capture of passing tests' output: a skip must be seen.
            writeln!(std::io::stderr(), "SKIPPED: the python reader was not run: {why:#}")?;
            return Ok(());
        }
    };
    let keys = [SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32])];
    let bundle = bundle(&keys)?;
    let file = folder.path().join("app.bundle");
    let read = |bytes: &[u8], threshold: u32| -> Result<Output> {
        std::fs::File::create(&file)?.write_all(bytes)?;
        let mut command = Command::new(&python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reader/ensign_reader.py"));
        command.arg(&file).arg(FLEET.to_string()).arg(threshold.to_string());
        for key in &keys {
            command.arg(Digest(*key.public().as_bytes()).to_string());
        }
        command.output().context("starting the reader")
    };

    let good = read(&bundle, 2)?;
    ensure!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let found: serde_json::Value = serde_json::from_slice(&good.stdout)?;
    assert_eq!(
        found,
        serde_json::json!([{
            "product": "app", "version": "1.0.0", "signatures": 2,
            "bytes": 3_000_000 + 12 + 12 + 4000, "inodes": 6, "peak_staging": 3_002_368 + 3 * 4096 + 2 * 4096,
        }])
    );

    assert!(!read(&bundle, 3)?.status.success(), "a threshold above the signatures");
    let mut longer = bundle.clone();
    longer.push(0);
    assert!(!read(&longer, 2)?.status.success(), "a byte after the end");
    // One byte in each part of the file: preamble, header, document, ..., the last block.
    for part in 0..12 {
        let mut flipped = bundle.clone();
        let at = part * (flipped.len() - 1) / 11;
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 1;
        }
        assert!(!read(&flipped, 2)?.status.success(), "byte {at} flipped");
    }
    Ok(())
}

/// A tree with a large file, a copy, an empty stretch and a symlink, in two components; signed by all `keys`.
fn bundle(keys: &[SecretKey]) -> Result<Vec<u8>> {
    let large: Vec<u8> = (0_u32..750_000).flat_map(u32::to_be_bytes).collect();
    let web = ensign_testkit::files(&[
        ("assets/app.js", &large),
        ("assets/copy", b"hello world\n"),
        ("assets/link", b"-> ../readme"),
        ("readme", b"hello world\n"),
    ]);
    let zeros = ensign_testkit::files(&[("zeros", &[0; 4000])]);
    let mut draft = Draft::new(Ident::parse("app")?, Version::parse("1.0.0")?, 1_000_000_000_000);
    let mut blocks = Vec::new();
    for (name, files) in [("web", web), ("zeros", zeros)] {
        let made = ensign_testkit::component(name, &files, &[]);
        blocks.extend(made.blocks.into_iter().map(|block| block.stored));
        draft.add(made.tree);
    }
    let mut release = draft.freeze()?;
    for key in keys {
        release.sign(key, &FLEET, 1_700_000_000)?;
    }
    let contents = [release.into_contents()];
    let mut writer = Writer::new(Vec::new(), &[], &contents)?;
    for block in &blocks {
        writer.block(block)?;
    }
    Ok(writer.finish()?)
}

/// An interpreter with the packages that the reader needs.
fn python(folder: &Path) -> Result<PathBuf> {
    let venv = folder.join("venv");
    run(Command::new("python3").arg("-m").arg("venv").arg(&venv))?;
    let python = venv.join("bin/python");
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
    ]);
    run(install.args(PACKAGES))?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
