//! `ensign`: the operator's command. It holds the signing keys; the controller only ever sees what they signed.
#![warn(missing_debug_implementations)]
#![expect(
    unreachable_pub,
    reason = "a binary has no outside; `pub` says what a module offers to the others"
)]

mod app;
mod args;
mod client;
mod clock;
mod device;
mod durable;
mod evidence;
mod failure;
mod fleet;
mod generated;
mod home;
mod key;
mod output;
mod product;
mod progress;
mod random;
mod release;
mod rollout;
mod token;
mod trust;
mod units;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use ensign_bundle::reason::Code;

use crate::app::App;
use crate::args::{Cli, Noun};
use crate::failure::{Failure, Result};
use crate::home::Home;
use crate::output::{Format, Shell};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let shell = cli.global.shell();
    match run(shell.clone(), cli.noun) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            shell.print_failure(&failure);
            ExitCode::from(failure.exit())
        }
    }
}

fn run(shell: Shell, noun: Noun) -> Result<()> {
    match noun {
        Noun::Completion { shell } => return generated::completion(shell),
        Noun::Man { out } => return generated::man(out.as_deref()),
        _ => {}
    }
    let app = App {
        shell,
        home: Home::find()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Failed, format!("the runtime: {e}")))?;
    runtime.block_on(async {
        match noun {
            Noun::Fleet(verb) => fleet::run(&app, verb).await,
            Noun::Key(verb) => key::run(&app, verb),
            Noun::Product(verb) => product::run(&app, verb).await,
            Noun::Token(verb) => token::run(&app, verb).await,
            Noun::Device(verb) => device::run(&app, verb).await,
            Noun::Release(verb) => release::run(&app, verb).await,
            Noun::Rollout(verb) => rollout::run(&app, verb).await,
            Noun::Completion { .. } | Noun::Man { .. } => Ok(()),
        }
    })
}

/// Help and version go to standard output with 0; everything else is a wrong word: 2, as JSON where JSON was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    let helps = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    let words: Vec<String> = std::env::args().collect();
    if helps || !asks_for_json(&words) {
        // Standard output or error is gone: nobody is left to tell.
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { Code::Usage.exit() } else { 0 });
    }
    let text = error.render().to_string();
    let failure = Failure::usage(in_one_line(&text));
    let shell = Shell {
        format: Format::Json,
        ..Shell::default()
    };
    shell.print_failure(&failure);
    ExitCode::from(failure.exit())
}

/// What was wrong, without the usage that follows it.
fn in_one_line(text: &str) -> String {
    let (wrong, _) = text.split_once("\n\nUsage:").unwrap_or((text, ""));
    let words: Vec<&str> = wrong.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

fn asks_for_json(words: &[String]) -> bool {
    let pairs = words
        .windows(2)
        .any(|w| matches!(w[0].as_str(), "-o" | "--format") && w[1] == "json");
    pairs
        || words
            .iter()
            .any(|w| matches!(w.as_str(), "-ojson" | "-o=json" | "--format=json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_words_in_one_line() {
        let error = Cli::try_parse_from(["ensign", "rollout", "start", "--version", "1.0.0"]).unwrap_err();
        let line = in_one_line(&error.render().to_string());
        assert!(
            line.starts_with("the following required") && line.contains("--product"),
            "{line}"
        );
        assert!(!line.contains("Usage") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn json_is_noticed_wherever_it_stands() {
        let asked = |words: &str| asks_for_json(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(asked("ensign fleet yank -o json") && asked("ensign --format=json x") && asked("ensign x -ojson"));
        assert!(!asked("ensign fleet yank") && !asked("ensign release ls -o yaml json"));
    }
}
