//! What the project tells people to type is something they can type: commands in hints, examples, documents and units are parsed with
//! the programs' own definitions, and every help text is as it was last read.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use clap::error::ErrorKind;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The shape of help texts in snapshots, columns.
const WIDTH: usize = 110;
/// Values that stand for others in hints and documents, and one that the flag takes.
const PLACEHOLDERS: &[(&str, &str)] = &[("N", "1"), ("TIME", "1h"), ("P%", "10%"), ("EXPR", "site = lyon")];

fn programs() -> [Command; 3] {
    [
        ensign::command(),
        ensign_agent::cli::command(),
        ensign_controller::cli::command(),
    ]
}

/// How much of a command has to stand there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// Somebody will type exactly this.
    Whole,
    /// A sentence may name a verb without what it needs.
    Named,
}

/// Words of a line as a shell splits them, up to a pipe, a list, a redirection or a comment.
fn words(line: &str) -> Vec<String> {
    let (mut out, mut word, mut quote): (Vec<String>, Option<String>, Option<char>) = (Vec::new(), None, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => out.extend(word.take()),
            (None, '|') if word.as_deref().is_some_and(|w| w.contains('=') || w == "N") => {
                word.get_or_insert_default().push(c);
            }
            (None, '|' | '&' | ';' | '>' | ')') => break,
            (None, '#') if word.is_none() => break,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

/// Whether the program takes this; `text` starts with its name.
fn check(text: &str, strictness: Strictness) -> Result<(), String> {
    let mut words = words(text);
    let elided = words.last().is_some_and(|w| w == "..." || w == "…");
    words.retain(|w| !["...", "…", "\\", "[OPTIONS]"].contains(&w.as_str()));
    for word in &mut words {
        if let Some((_, value)) = PLACEHOLDERS.iter().find(|(name, _)| name == word) {
            (*value).clone_into(word);
        }
        // What a program fills in.
        if word.contains('{') {
            "abcdef12".clone_into(word);
        }
    }
    let name = words.first().cloned().unwrap_or_default();
    let program = programs().into_iter().find(|p| p.get_name() == name);
    let program = program.ok_or_else(|| format!("there is no program {name}"))?;
    match program.try_get_matches_from(&words) {
        Ok(_) => Ok(()),
        Err(e) => match e.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(()),
            ErrorKind::MissingRequiredArgument if elided || strictness == Strictness::Named => Ok(()),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand
                if strictness == Strictness::Named =>
            {
                Ok(())
            }
            _ => Err(e.to_string().lines().next().unwrap_or_default().to_owned()),
        },
    }
}

/// Whether `text` starts with the name of a program and goes on with a word of it.
fn is_command(text: &str) -> bool {
    ["ensign ", "ensign-agent ", "ensign-controller "]
        .iter()
        .filter_map(|name| text.strip_prefix(name))
        .any(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '-'))
}

/// Whether `text` starts with a program and a noun or verb of it.
fn names_a_verb(text: &str) -> bool {
    programs().iter().any(|program| {
        let rest = text
            .strip_prefix(program.get_name())
            .and_then(|rest| rest.strip_prefix(' '));
        rest.is_some_and(|rest| {
            let word = rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next();
            word.is_some_and(|word| program.find_subcommand(word).is_some())
        })
    })
}

/// What stands between backquotes in a line, and the line without it.
fn quoted(line: &str) -> (Vec<&str>, String) {
    let parts: Vec<&str> = line.split('`').collect();
    // An odd backquote at the end opens nothing.
    let closed = (parts.len() - 1) / 2 * 2;
    let inside = parts[..closed].iter().skip(1).step_by(2).copied().collect();
    let outside = parts.iter().enumerate().filter(|(n, _)| n % 2 == 0 || *n >= closed);
    (inside, outside.map(|(_, part)| *part).collect::<Vec<_>>().join("\0"))
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let (mut out, mut todo) = (Vec::new(), vec![Path::new(ROOT).join(folder)]);
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

fn documents() -> Vec<(PathBuf, String)> {
    let own = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| Path::new(ROOT).join(name));
    let all = own.into_iter().chain(files("docs", "md"));
    all.map(|path| {
        let text = fs::read_to_string(&path).expect("a document");
        (path, text)
    })
    .collect()
}

/// Code of the product, without its tests.
fn sources() -> Vec<(PathBuf, String)> {
    let folders = ["agent/src", "agent/apply/src", "bundle/src", "controller"];
    let all = folders.iter().flat_map(|folder| files(folder, "rs"));
    let below = |path: &Path| path.strip_prefix(ROOT).map_or_else(|_| path.to_owned(), Path::to_owned);
    all.filter(|path| !below(path).iter().any(|part| part == "tests" || part == "target"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source file");
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
            (path, code)
        })
        .collect()
}

/// Collects what is wrong, so that one run names all of it.
#[derive(Default)]
struct Wrong {
    checked: usize,
    text: String,
}

impl Wrong {
    fn check(&mut self, path: &Path, command: &str, strictness: Strictness) {
        self.checked += 1;
        if let Err(why) = check(command, strictness) {
            self.say(path, &format!("`{command}`: {why}"));
        }
    }

    fn say(&mut self, path: &Path, what: &str) {
        let path = path.strip_prefix(ROOT).unwrap_or(path);
        let _ = writeln!(self.text, "{}: {what}", path.display());
    }

    fn none(self, least: usize) {
        assert!(self.text.is_empty(), "\n{}", self.text);
        assert!(self.checked >= least, "only {} were found", self.checked);
    }
}

#[test]
fn commands_in_hints_and_messages_can_be_typed() {
    let mut wrong = Wrong::default();
    for (path, code) in sources() {
        for line in code.lines() {
            let is_comment = line.trim_start().starts_with("//");
            let (inside, outside) = quoted(line);
            for text in inside.into_iter().filter(|text| is_command(text)) {
                let strictness = if is_comment {
                    Strictness::Named
                } else {
                    Strictness::Whole
                };
                wrong.check(&path, text, strictness);
            }
            // Lines of `after_help` are looked at by another test.
            if is_comment || is_command(line.trim_start()) || line.contains("Example:") {
                continue;
            }
            for literal in outside.split('"').skip(1).step_by(2) {
                let at = literal
                    .match_indices("ensign")
                    .find(|(at, _)| names_a_verb(&literal[*at..]));
                match at {
                    Some((0, _)) => wrong.check(&path, literal, Strictness::Whole),
                    Some(_) => wrong.say(&path, &format!("put the command into backquotes: {literal}")),
                    None => {}
                }
            }
        }
    }
    wrong.none(60);
}

#[test]
fn commands_in_documents_can_be_typed() {
    let nouns: BTreeSet<String> = ensign::command()
        .get_subcommands()
        .filter(|c| c.has_subcommands())
        .map(|c| c.get_name().to_owned())
        .collect();
    let mut wrong = Wrong::default();
    for (path, text) in documents() {
        let mut fenced = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if fenced {
                let line = line.trim_start().trim_start_matches("$ ");
                let line = line.split_once("$(").map_or(line, |(_, inner)| inner);
                for part in line.split(" && ").filter(|part| is_command(part)) {
                    wrong.check(&path, part, Strictness::Whole);
                }
            } else {
                for text in quoted(line).0 {
                    let of_ensign = text.split_once(' ').is_some_and(|(noun, verb)| {
                        nouns.contains(noun) && verb.starts_with(|c: char| c.is_ascii_lowercase())
                    });
                    if is_command(text) {
                        wrong.check(&path, text, Strictness::Named);
                    } else if of_ensign {
                        wrong.check(&path, &format!("ensign {text}"), Strictness::Named);
                    }
                }
            }
        }
    }
    wrong.none(40);
}

#[test]
fn commands_in_units_can_be_typed() {
    let mut wrong = Wrong::default();
    for path in files("systemd", "service") {
        let text = fs::read_to_string(&path).expect("a unit");
        for line in text.lines() {
            let Some((key, command)) = line.split_once('=') else {
                continue;
            };
            let command = command.trim_start_matches(['-', '+', '!', ':', '@']);
            let command = command.strip_prefix("/usr/bin/").unwrap_or(command);
            if key.starts_with("Exec") && is_command(command) {
                wrong.check(&path, command, Strictness::Whole);
            }
        }
    }
    wrong.none(2);
}

/// Every verb with its whole name.
fn verbs(command: &Command, path: &str, out: &mut Vec<(String, Command)>) {
    for verb in command.get_subcommands().filter(|v| v.get_name() != "help") {
        let path = format!("{path} {}", verb.get_name());
        if verb.has_subcommands() {
            verbs(verb, &path, out);
        } else {
            out.push((path, verb.clone()));
        }
    }
}

fn all_verbs() -> Vec<(String, Command)> {
    let mut out = Vec::new();
    for mut program in programs() {
        program.build();
        let name = program.get_name().to_owned();
        verbs(&program, &name, &mut out);
    }
    out
}

#[test]
fn every_verb_says_what_it_does_with_an_example_that_can_be_typed() {
    let mut wrong = Wrong::default();
    for (name, verb) in all_verbs() {
        let path = Path::new(&name);
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        if about.is_empty() || about.lines().count() > 1 {
            wrong.say(path, &format!("no summary in one line: {about}"));
        }
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<&str> = help.lines().map(str::trim).filter(|l| is_command(l)).collect();
        if !help.starts_with("Example:") || !examples.iter().any(|e| e.starts_with(&name)) {
            wrong.say(path, "no example of its own");
        }
        for example in examples {
            for part in example.split(" && ") {
                wrong.check(path, part, Strictness::Whole);
            }
        }
    }
    wrong.none(40);
}

#[test]
fn every_flag_says_what_it_is_and_what_holds_without_it() {
    let mut wrong = Wrong::default();
    for (name, verb) in all_verbs() {
        for arg in verb.get_arguments().filter(|a| !a.is_hide_set()) {
            wrong.checked += 1;
            let (path, id) = (Path::new(&name), arg.get_id());
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            if help.is_empty() {
                wrong.say(path, &format!("{id} has no help"));
            }
            let repeats = arg.get_action().takes_values() && matches!(arg.get_action(), clap::ArgAction::Append);
            let without = arg.is_required_set()
                || !arg.get_action().takes_values()
                || !arg.get_default_values().is_empty()
                || repeats
                || help.contains("[default: ")
                || help.contains("needed unless");
            // `--select` beside names of devices adds to them.
            if !without && id != "select" {
                wrong.say(path, &format!("{id} does not say what holds without it: {help}"));
            }
        }
    }
    wrong.none(200);
}

/// `rollout start --yes`: what changes something takes these everywhere.
#[test]
fn every_verb_takes_the_flags_of_every_verb() {
    for (name, verb) in all_verbs() {
        let flags: BTreeSet<&str> = verb.get_arguments().filter_map(clap::Arg::get_long).collect();
        let wanted: &[&str] = match name.split(' ').next() {
            Some("ensign") => &["format", "yes", "dry-run", "reason", "verbose", "quiet", "controller"],
            Some("ensign-agent") => &["format", "root", "verbose", "quiet"],
            _ => &[],
        };
        for flag in wanted {
            assert!(flags.contains(flag), "{name} lacks --{flag}");
        }
    }
}

#[test]
fn help_texts_are_as_they_were_last_read() {
    for mut program in programs() {
        program = program.term_width(WIDTH);
        program.build();
        let name = program.get_name().to_owned();
        let mut text = program.render_long_help().to_string();
        let mut all = Vec::new();
        verbs(&program, &name, &mut all);
        for (path, verb) in all {
            // The flags of every verb are in the program's own help.
            let own: Vec<clap::Id> = verb
                .get_arguments()
                .filter(|a| !a.is_global_set())
                .map(|a| a.get_id().clone())
                .collect();
            let mut verb = verb.mut_args(|a| if own.contains(a.get_id()) { a } else { a.hide(true) });
            let _ = write!(text, "\n=== {path} --help\n\n{}", verb.render_long_help());
        }
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        insta::assert_snapshot!(name, lines.join("\n"));
    }
}

#[test]
fn the_checks_find_what_is_wrong() {
    assert!(check("ensign rollout stop", Strictness::Named).is_err());
    assert!(check("ensign release sign", Strictness::Whole).is_err());
    assert!(check("ensign release sign", Strictness::Named).is_ok());
    assert!(check("ensign token create --uses N --ttl x", Strictness::Whole).is_err());
    assert!(check("ensign token create --uses N --ttl 1h | tee token", Strictness::Whole).is_ok());
    assert_eq!(quoted("a `b c` d `e").0, ["b c"]);
}
