//! Documents that are made from the code: each is compared with what the code says today. `UPDATE_DOCS=1` writes them anew.

use std::fs;
use std::io::Write as _;
use std::path::Path;

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
