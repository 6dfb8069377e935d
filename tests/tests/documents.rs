//! Documents that are made from the code: each is compared with what the code says today. `UPDATE_DOCS=1` writes them anew. And the
//! pages among themselves: every one is in the book, every link leads somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ensign_bundle::reason::Code;

fn compare(name: &str, wanted: &str) -> Result<()> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::File::create(&path)?.write_all(wanted.as_bytes())?;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/{name} is not what the code says: UPDATE_DOCS=1 cargo test -p ensign-tests --test documents"
    );
    Ok(())
}

#[test]
fn every_reason_code_is_in_the_docs() -> Result<()> {
    let head = "# Reason codes\n\nEvery refusal and every state that waits carries one. Codes are never renamed or used again; scripts \
                may rely on them and on the exit code of a command that ends with one.\n\n\
                | code | exit | what it means | what to do |\n|---|---|---|---|\n";
    let row = |code: &Code| format!("| `{code}` | {} |{} | {} |\n", code.exit(), code.meaning(), code.hint());
    let page = head.to_owned() + &Code::ALL.iter().map(row).collect::<String>();
    compare("reasons.md", &page)
}

/// Every page in `folder` and below.
fn pages(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(pages(&path)?);
        } else if path.extension().is_some_and(|end| end == "md") {
            found.insert(path);
        }
    }
    Ok(found)
}

/// Targets of the links of a page, without those to other sites.
fn links(page: &str) -> impl Iterator<Item = &str> {
    let targets = page
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://"))
}

/// The anchor of a heading, as forges and mdBook make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The tests that the threat model names, for each row of its tables.
#[test]
fn every_test_that_the_threat_model_names_is_there() -> Result<()> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut sources = String::new();
    for folder in ["agent", "bundle", "controller", "crypto", "tests"] {
        collect(&root.join(folder), &mut sources)?;
    }
    let page = fs::read_to_string(root.join("docs/threat-model.md"))?;
    let mut named = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        for name in tests.split('`').skip(1).step_by(2) {
            assert!(sources.contains(&format!("fn {name}(")), "{name} is no test: {row}");
            named += 1;
        }
    }
    assert!(named > 50, "{named} tests were found");
    Ok(())
}

/// Appends every Rust file in `folder` and below.
fn collect(folder: &Path, sources: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            sources.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

#[test]
fn every_page_is_in_the_book() -> Result<()> {
    let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    let summary = docs.join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> = links(&fs::read_to_string(&summary)?)
        .map(|link| docs.join(link))
        .chain([summary.clone()])
        .collect();
    assert_eq!(listed, pages(docs)?, "left: SUMMARY.md, right: the folder");
    Ok(())
}

#[test]
fn every_link_leads_somewhere() -> Result<()> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut all = pages(&root.join("docs"))?;
    all.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root.join(name)));
    for page in all {
        let text = fs::read_to_string(&page)?;
        for link in links(&text) {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.with_file_name(file)
            };
            assert!(target.exists(), "{} links to {link}", page.display());
            if !place.is_empty() {
                let headings = fs::read_to_string(&target)?;
                let known = headings.lines().filter(|line| line.starts_with('#'));
                let found = known
                    .map(|line| anchor(line.trim_start_matches('#')))
                    .any(|a| a == place);
                assert!(found, "{} links to {link}: no such heading", page.display());
            }
        }
    }
    Ok(())
}
