//! `docs/conformance.md` against the sources: each case has its test, and each test of a case is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

const CASES: u32 = 75;
const CRATES: [&str; 5] = ["crypto", "bundle", "agent", "controller", "tests"];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The number in `e07_name`.
fn case(name: &str) -> Option<u32> {
    let digits = name.strip_prefix('e')?.get(..2)?;
    name.get(3..4).filter(|c| *c == "_")?;
    digits.parse().ok()
}

/// Functions with a test attribute above them, by the number of their case.
fn tests_in(source: &str, found: &mut BTreeMap<u32, BTreeSet<String>>) {
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(rest) = line.trim_start_matches("async ").strip_prefix("fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            if let Some(number) = case(name).filter(|_| is_test) {
                found.entry(number).or_default().insert(name.to_owned());
            }
            is_test = false;
        }
    }
}

#[test]
fn every_case_has_its_test_and_every_test_of_a_case_is_listed() -> Result<()> {
    let mut tests = BTreeMap::new();
    for name in CRATES {
        let mut files = Vec::new();
        sources(&top().join(name), &mut files)?;
        for file in files {
            tests_in(&fs::read_to_string(file)?, &mut tests);
        }
    }
    let page = fs::read_to_string(top().join("docs/conformance.md"))?;
    let mut listed = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| E")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let number: u32 = cells[1].trim_start_matches('E').parse()?;
        assert!(listed.insert(number), "E{number} stands twice");
        let named: BTreeSet<String> = cells[3].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let there = tests.remove(&number).unwrap_or_default();
        assert_eq!(named, there, "E{number}: what is listed and what is there");
        let reason = cells[3].strip_prefix("none: ").is_some_and(|why| why.len() > 20);
        assert!(!named.is_empty() || reason, "E{number} has neither a test nor a reason");
    }
    assert_eq!(listed, (1..=CASES).collect(), "the cases of the list");
    assert!(tests.is_empty(), "not listed: {tests:?}");
    Ok(())
}

#[test]
fn names_are_told_apart() {
    let mut found = BTreeMap::new();
    let source = "#[test]\nfn e07_a() {}\nfn e08_helper() {}\n#[tokio::test(x)]\nasync fn e09_b<T>() {}\n#[test]\nfn early_11() {}\n";
    tests_in(source, &mut found);
    let names: Vec<_> = found.into_values().flatten().collect();
    assert_eq!(names, ["e07_a", "e09_b"]);
}
