//! The patched copy of the crates, under the target directory.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::source::{question, switch};
use super::{BY_HAND, FILES};

/// The crates that the copy needs.
const CRATES: &[&str] = &["crypto", "bundle", "tests/kit"];
/// The question that every switch asks.
const MUTANT: &str = "
/// True for the check that is taken away in this run.
pub fn mutant(name: &str) -> bool {
    static ASKED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ASKED.get_or_init(|| std::env::var(\"ENSIGN_MUTANT\").ok()).as_deref() == Some(name)
}
";

pub(super) fn place(top: &Path) -> PathBuf {
    top.join("target/mutants")
}

/// Makes the copy anew. Returns the names of its switches.
pub(super) fn make(top: &Path) -> Result<Vec<String>> {
    let copy = place(top);
    for name in CRATES {
        let to = copy.join(name);
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        copy_dir(&top.join(name), &to)?;
    }
    let manifest = fs::read_to_string(top.join("Cargo.toml"))?;
    let from = manifest.find("members = [").context("the workspace has members")?;
    let to = from + manifest[from..].find(']').context("the list of members ends")? + 1;
    let members = CRATES
        .iter()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    write(
        &copy.join("Cargo.toml"),
        &format!("{}members = [{members}]{}", &manifest[..from], &manifest[to..]),
    )?;
    for name in ["Cargo.lock", "rust-toolchain.toml"] {
        fs::copy(top.join(name), copy.join(name)).with_context(|| name.to_owned())?;
    }
    let bundle = copy.join("bundle/src");
    let mut names = Vec::new();
    for change in BY_HAND {
        let path = bundle.join(change.file);
        let text = fs::read_to_string(&path).with_context(|| change.file.to_owned())?;
        ensure!(
            text.matches(change.from).count() == 1,
            "`{}`: {} does not have this once: {}",
            change.name,
            change.file,
            change.from
        );
        let to = change.to.replace("MUTANT", &question(change.name));
        write(&path, &text.replace(change.from, &to))?;
        names.push(change.name.to_owned());
    }
    for file in FILES {
        let path = bundle.join(file);
        let text = fs::read_to_string(&path).with_context(|| (*file).to_owned())?;
        let switched = switch(file, &text);
        write(&path, &switched.text)?;
        names.extend(switched.names);
    }
    let lib = bundle.join("lib.rs");
    let text = fs::read_to_string(&lib)? + MUTANT;
    write(&lib, &text)?;
    names.sort();
    Ok(names)
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::File::create(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| path.display().to_string())
}
