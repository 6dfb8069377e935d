//! `completion` and `man`: made from the words themselves.

use std::io::Write as _;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell as Dialect;

use crate::args::Cli;
use crate::durable;
use crate::failure::{Failure, Result};

pub fn completion(dialect: Dialect) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(dialect, &mut Cli::command(), "ensign", &mut text);
    to_stdout(&text)
}

/// One page on standard output, or every verb's page in a folder.
pub fn man(out: Option<&Path>) -> Result<()> {
    let mut command = Cli::command();
    command.build();
    let Some(dir) = out else {
        return to_stdout(&page(&command)?);
    };
    std::fs::create_dir_all(dir).map_err(|e| Failure::io("make", dir, &e))?;
    pages(&command, dir)
}

fn pages(command: &clap::Command, dir: &Path) -> Result<()> {
    let name = command
        .get_display_name()
        .unwrap_or(command.get_name())
        .replace(' ', "-");
    let path = dir.join(format!("{name}.1"));
    durable::write(&path, &page(command)?, durable::PUBLIC).map_err(|e| Failure::io("write", &path, &e))?;
    command.get_subcommands().try_for_each(|verb| pages(verb, dir))
}

fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut text)
        .map_err(|e| Failure::io("write", Path::new("the manual page"), &e))?;
    Ok(text)
}

fn to_stdout(text: &[u8]) -> Result<()> {
    match std::io::stdout().lock().write_all(text) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::io("write", Path::new("standard output"), &e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        man(Some(dir.path())).unwrap();
        for verb in verbs(&Cli::command()) {
            let page =
                std::fs::read_to_string(dir.path().join(format!("ensign-{}.1", verb.replace(' ', "-")))).unwrap();
            assert!(page.contains("Example:"), "{verb}: {page}");
        }
        assert!(dir.path().join("ensign.1").exists());
    }

    #[test]
    fn every_verb_and_flag_is_completed() {
        for dialect in [Dialect::Bash, Dialect::Zsh, Dialect::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(dialect, &mut Cli::command(), "ensign", &mut text);
            let text = String::from_utf8(text).unwrap();
            for verb in verbs(&Cli::command()) {
                let word = verb.rsplit(' ').next().unwrap();
                assert!(text.contains(word), "{dialect}: {verb}");
            }
            for flag in ["stop-dark", "dry-run", "no-passphrase"] {
                assert!(text.contains(flag), "{dialect}: {flag}");
            }
        }
    }

    /// `rollout start`, `completion`, ...
    fn verbs(command: &clap::Command) -> Vec<String> {
        let mut out = Vec::new();
        for noun in command.get_subcommands() {
            let name = noun.get_name();
            if noun.has_subcommands() {
                out.extend(verbs(noun).into_iter().map(|verb| format!("{name} {verb}")));
            } else {
                out.push(name.to_owned());
            }
        }
        assert!(!out.is_empty());
        out
    }
}
