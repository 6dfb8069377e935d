//! Words that are not the command's: what was wrong in one line, and what to type instead.

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use ensign_bundle::text::printable;

use super::Cli;
use crate::failure::Failure;

/// What most words for bringing a release mean.
const START: &str = "`ensign rollout start --product PRODUCT --version VERSION`";

/// Verbs of later versions, by their noun.
const LATER: &[(&str, &[&str])] = &[
    ("rollout", &["retry", "history", "catch-up"]),
    (
        "device",
        &[
            "clear-denied",
            "log",
            "import-report",
            "replace",
            "diagnose",
            "preregister",
        ],
    ),
    ("fleet", &["kit", "reconcile", "cost"]),
];

/// Words of other tools: the noun before them (empty = none), the words, what to type.
const OTHER_WORDS: &[(&str, &[&str], &str)] = &[
    (
        "rollout",
        &["stop", "halt", "hold", "freeze", "suspend", "brake"],
        "`ensign rollout pause` stops it for now, `ensign rollout abort --keep` ends it, `ensign fleet freeze` stops everything",
    ),
    (
        "rollout",
        &["cancel", "kill", "end", "delete", "rm", "remove"],
        "`ensign rollout abort --keep`",
    ),
    (
        "rollout",
        &["show", "info", "get", "watch"],
        "`ensign rollout status`, or `ensign rollout status -w` to watch",
    ),
    ("rollout", &["list"], "`ensign rollout ls`"),
    (
        "rollout",
        &["continue", "unpause", "unhalt", "go"],
        "`ensign rollout resume`",
    ),
    ("rollout", &["create", "new", "run", "begin", "deploy"], START),
    (
        "rollout",
        &["preview", "dry-run", "diff"],
        "`ensign rollout plan --product PRODUCT --version VERSION`",
    ),
    (
        "rollout",
        &["revert", "rollback", "undo", "back"],
        "`ensign rollout start --product PRODUCT --version VERSION --allow-downgrade --reason TEXT` with the older version",
    ),
    ("device", &["list", "devices"], "`ensign device ls`"),
    (
        "device",
        &["status", "info", "get"],
        "`ensign device show DEVICE`, or `ensign device why DEVICE`",
    ),
    (
        "device",
        &["delete", "remove", "rm", "forget"],
        "`ensign device revoke DEVICE` shuts it out for ever",
    ),
    (
        "device",
        &["approve", "allow", "add"],
        "`ensign device accept DEVICE` lets a waiting one in; `ensign token create` makes a token to join with",
    ),
    ("device", &["deny", "refuse"], "`ensign device reject DEVICE`"),
    (
        "device",
        &["enroll", "enrol", "join"],
        "`ensign token create` here, then on the device `ensign-agent enroll --token-file FILE`",
    ),
    (
        "device",
        &["pause", "stop", "freeze", "lock", "block", "disable"],
        "`ensign device hold DEVICE` leaves it out of updates, `ensign device suspend DEVICE` gives it nothing at all",
    ),
    (
        "device",
        &["resume", "unlock", "unblock", "enable", "release"],
        "`ensign device unhold DEVICE`, or `ensign device unsuspend DEVICE`",
    ),
    (
        "device",
        &["tag", "set", "labels"],
        "`ensign device label DEVICE --label KEY=VALUE`",
    ),
    (
        "fleet",
        &["create", "new", "make"],
        "`ensign fleet init --name NAME --controller HOST:PORT --kit DIR`",
    ),
    ("fleet", &["ls", "list", "info", "get"], "`ensign fleet show`"),
    ("fleet", &["stop", "pause", "halt", "brake"], "`ensign fleet freeze`"),
    ("fleet", &["resume", "start", "thaw", "go"], "`ensign fleet unfreeze`"),
    ("fleet", &["check", "health"], "`ensign fleet status --check`"),
    ("release", &["list"], "`ensign release ls`"),
    (
        "release",
        &["create", "make", "new", "pack"],
        "`ensign release build --product PRODUCT --version VERSION --tree NAME=DIR --out FILE`",
    ),
    ("release", &["upload", "push"], "`ensign release publish FILE`"),
    ("release", &["info", "get", "inspect"], "`ensign release show RELEASE`"),
    ("release", &["check"], "`ensign release verify FILE`"),
    ("release", &["compare"], "`ensign release diff A B`"),
    ("release", &["deploy", "install", "start"], START),
    (
        "release",
        &["rm", "remove", "delete", "withdraw", "recall"],
        "`ensign release yank PRODUCT@VERSION --reason TEXT`: no device starts it any more",
    ),
    (
        "release",
        &["renew", "extend"],
        "`ensign release sign PRODUCT@VERSION`, or `ensign release sign --live`: the next version of its document, with a new expiry",
    ),
    (
        "release",
        &["patch", "export", "prune"],
        "this verb is not in this version; `ensign release --help` lists those that are",
    ),
    ("token", &["new", "add", "make"], "`ensign token create`"),
    ("token", &["list", "show"], "`ensign token ls`"),
    (
        "token",
        &["rm", "delete", "remove", "expire"],
        "`ensign token revoke TOKEN`",
    ),
    ("key", &["list", "show"], "`ensign key ls`"),
    ("key", &["export", "pub"], "`ensign key export-pub ROLE`"),
    (
        "key",
        &["new", "create", "make"],
        "`ensign key gen NAME` makes a key, `ensign key import FILE` takes one over",
    ),
    (
        "key",
        &["password", "passphrase"],
        "`ensign key passwd` changes the passphrase",
    ),
    ("product", &["list"], "`ensign product ls`"),
    (
        "product",
        &["create", "new", "add", "change"],
        "`ensign product set PRODUCT --key FILE`; any product name that an entry of `ensign product ls` covers may be built",
    ),
    (
        "",
        &["init"],
        "`ensign fleet init --name NAME --controller HOST:PORT --kit DIR`",
    ),
    ("", &["status"], "`ensign fleet status`, or `ensign rollout status`"),
    ("", &["deploy", "update", "upgrade", "start", "install"], START),
    (
        "",
        &["stop", "pause", "freeze", "halt"],
        "`ensign rollout pause` stops one rollout, `ensign fleet freeze` stops everything",
    ),
    (
        "",
        &["enroll", "enrol", "join", "run", "agent"],
        "on the device: `ensign-agent enroll --token-file FILE`, then `ensign-agent run`",
    ),
    (
        "",
        &["serve", "server", "controller"],
        "`ensign-controller serve --data DIR`",
    ),
    ("", &["devices", "ls", "list"], "`ensign device ls`"),
    ("", &["why"], "`ensign device why DEVICE`"),
    ("", &["build", "sign", "publish", "verify"], "`ensign release --help`"),
    ("", &["help"], "`ensign --help`"),
    ("", &["version"], "`ensign --version`"),
    ("", &["completions"], "`ensign completion bash`"),
    (
        "",
        &["group", "audit", "operator", "scope", "inbox", "context", "dashboard"],
        "this noun is not in this version; `ensign --help` lists those that are",
    ),
];

/// The failure that stands for clap's, with a hint that can be typed. `words` are those of the command line, after the program's name.
pub fn failure(error: &clap::Error, words: &[String]) -> Failure {
    let path = path(error).unwrap_or_else(|| typed(words));
    let verb = path.strip_prefix("ensign").unwrap_or("").trim();
    let failure = Failure::usage(in_one_line(&error.render().to_string()));
    let hint = match error.kind() {
        ErrorKind::InvalidSubcommand => context(error, ContextKind::InvalidSubcommand).first().and_then(|word| {
            other_word(verb, word).or_else(|| {
                // The nearest stands last.
                let near = context(error, ContextKind::SuggestedSubcommand);
                let near: Vec<String> = near.iter().rev().map(|near| format!("`{path} {near}`")).collect();
                (!near.is_empty()).then(|| near.join(" or "))
            })
        }),
        ErrorKind::UnknownArgument => context(error, ContextKind::InvalidArg).first().and_then(|word| {
            let near = context(error, ContextKind::SuggestedArg);
            let near = near.last().map(|near| format!("did you mean {near}? `{path} --help`"));
            near.or_else(|| release(verb, word))
        }),
        // `rollout start app@1.0.0`: no plan file.
        ErrorKind::ValueValidation => context(error, ContextKind::InvalidValue)
            .first()
            .filter(|word| verb == "rollout start" && word.contains('@'))
            .and_then(|word| release(verb, word)),
        _ => None,
    };
    failure.hint(hint.unwrap_or_else(|| format!("`{path} --help`")))
}

/// What was wrong, without the usage and the tips that follow it.
fn in_one_line(text: &str) -> String {
    let wrong = ["\n\nUsage:", "\n\n  tip:", "\n\nFor more"]
        .iter()
        .fold(text, |text, end| text.split_once(end).map_or(text, |(wrong, _)| wrong));
    let words: Vec<&str> = wrong.split_whitespace().collect();
    let line = words.join(" ");
    printable(line.strip_prefix("error: ").unwrap_or(&line), 500)
}

/// `ensign rollout start`: how far the words were understood, where the error says so.
fn path(error: &clap::Error) -> Option<String> {
    let text = error.render().to_string();
    let usage = text.split_once("Usage: ").map_or("", |(_, usage)| usage);
    let is_word = |w: &&str| w.starts_with(|c: char| c.is_ascii_lowercase());
    let words: Vec<&str> = usage.split_whitespace().take_while(is_word).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// The noun and the verb among the words; flags and their values are passed over.
fn typed(words: &[String]) -> String {
    let command = Cli::command();
    let (mut at, mut path) = (&command, "ensign".to_owned());
    for word in words {
        if let Some(below) = at.find_subcommand(word) {
            path.push(' ');
            path.push_str(word);
            at = below;
        }
    }
    path
}

fn context(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

fn other_word(noun: &str, word: &str) -> Option<String> {
    let word = word.to_ascii_lowercase();
    let means = |of: &str, words: &[&str]| of == noun && words.contains(&word.as_str());
    if LATER.iter().any(|(of, words)| means(of, words)) {
        return Some(format!(
            "this verb is not in this version; `ensign {noun} --help` lists those that are"
        ));
    }
    let found = OTHER_WORDS.iter().find(|(of, words, _)| means(of, words));
    found.map(|(_, _, hint)| (*hint).to_owned())
}

/// `PRODUCT@VERSION` where product and version have flags of their own.
fn release(verb: &str, word: &str) -> Option<String> {
    if !matches!(verb, "rollout start" | "rollout plan") {
        return None;
    }
    let word = printable(word, 130);
    let Some((product, version)) = word.split_once('@') else {
        return Some(format!(
            "`ensign {verb} --product PRODUCT --version VERSION`, or `ensign {verb} -f FILE` for a plan file"
        ));
    };
    Some(format!("`ensign {verb} --product {product} --version {version}`"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn refused(words: &str) -> Failure {
        let typed: Vec<String> = words.split(' ').skip(1).map(str::to_owned).collect();
        failure(&Cli::try_parse_from(words.split(' ')).unwrap_err(), &typed)
    }

    #[test]
    fn wrong_words_in_one_line() {
        let failure = refused("ensign rollout start --version 1.0.0");
        let line = &failure.text;
        assert!(
            line.starts_with("the following required") && line.contains("--product"),
            "{line}"
        );
        assert!(!line.contains("Usage") && !line.contains('\n'), "{line}");
        assert_eq!(failure.hint_text(), "`ensign rollout start --help`");
    }

    #[test]
    fn near_misses_say_what_to_type() {
        for (words, text, hint) in [
            ("ensign rollout stop", "'stop'", "`ensign rollout pause`"),
            ("ensign rollout stop", "'stop'", "`ensign fleet freeze`"),
            ("ensign rollout strat", "'strat'", "`ensign rollout start`"),
            ("ensign device list", "'list'", "`ensign device ls`"),
            ("ensign stop", "'stop'", "`ensign rollout pause`"),
            ("ensign roleout ls", "'roleout'", "`ensign rollout`"),
            (
                "ensign rollout start app@1.0.0",
                "'app@1.0.0'",
                "`ensign rollout start --product app --version 1.0.0`",
            ),
            (
                "ensign rollout plan app",
                "'app'",
                "`ensign rollout plan --product PRODUCT",
            ),
            ("ensign rollout start --prodct app", "'--prodct'", "--product"),
            (
                "ensign rollout start app.plan --product app",
                "--product",
                "`ensign rollout start --help`",
            ),
            (
                "ensign -o json rollout start --product app --version 1.0.0 --soak 5x",
                "5x",
                "`ensign rollout start --help`",
            ),
            ("ensign frobnicate", "'frobnicate'", "`ensign --help`"),
        ] {
            let failure = refused(words);
            assert_eq!(failure.exit(), 2, "{words}");
            assert!(failure.text.contains(text), "{words}: {}", failure.text);
            assert!(failure.hint_text().contains(hint), "{words}: {}", failure.hint_text());
        }
    }

    #[test]
    fn no_word_of_the_tables_is_a_verb() {
        let command = Cli::command();
        let tables = OTHER_WORDS.iter().map(|(noun, words, _)| (noun, words));
        for (noun, words) in tables.chain(LATER.iter().map(|(noun, words)| (noun, words))) {
            let of = if noun.is_empty() {
                &command
            } else {
                command.find_subcommand(noun).unwrap()
            };
            for word in *words {
                assert!(of.find_subcommand(word).is_none(), "{noun} {word} exists");
            }
        }
    }
}
