//! `ensign`: the operator's command. It holds the signing keys; the controller only ever sees what they signed.
#![warn(missing_debug_implementations)]
#![expect(
    unreachable_pub,
    reason = "the outside sees `main` and `command` alone; `pub` says what a module offers to the others"
)]

mod app;
mod args;
mod ceremony;
mod client;
mod clock;
mod device;
mod difference;
mod durable;
mod evidence;
mod failure;
mod fleet;
mod generated;
mod grant;
mod home;
mod key;
mod keyring;
mod numbers;
mod output;
mod passphrase;
mod product;
mod progress;
mod random;
mod release;
mod rollout;
mod scopes;
mod seen;
mod signing;
mod token;
mod trust;
mod units;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use ensign_bundle::reason::Code;

use crate::app::App;
use crate::args::{Cli, FleetVerb, Noun};
use crate::failure::{Failure, Result};
use crate::home::Home;
use crate::output::{Format, Shell};

/// The whole program.
pub fn main() -> ExitCode {
    let mut command = command();
    let parsed = command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|mut matches| {
            let path = path(&matches);
            Ok((path, Cli::from_arg_matches_mut(&mut matches)?))
        });
    let (path, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(e) => return usage(&e.format(&mut command)),
    };
    let shell = cli.global.shell();
    match run(shell.clone(), cli.noun) {
        Ok(exit) => exit,
        Err(failure) => {
            let failure = failure.of_verb(&path);
            shell.print_failure(&failure);
            ExitCode::from(failure.exit())
        }
    }
}

/// `ensign device hold`: the verb that runs.
fn path(matches: &ArgMatches) -> String {
    let mut path = "ensign".to_owned();
    let mut next = matches.subcommand();
    while let Some((word, below)) = next {
        path.push(' ');
        path.push_str(word);
        next = below.subcommand();
    }
    path
}

/// Every noun, verb and flag, for whoever checks words against them.
pub fn command() -> clap::Command {
    Cli::command()
}

fn run(shell: Shell, noun: Noun) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match noun {
        Noun::Completion { shell } => return generated::completion(shell).map(done),
        Noun::Man { out } => return generated::man(out.as_deref()).map(done),
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
            Noun::Fleet(FleetVerb::Status { check: true }) => fleet::check(&app).await,
            Noun::Fleet(verb) => fleet::run(&app, verb).await.map(done),
            Noun::Key(verb) => key::run(&app, verb).await.map(done),
            Noun::Product(verb) => product::run(&app, verb).await.map(done),
            Noun::Token(verb) => token::run(&app, verb).await.map(done),
            Noun::Device(verb) => device::run(&app, verb).await.map(done),
            Noun::Release(verb) => release::run(&app, verb).await.map(done),
            Noun::Rollout(verb) => rollout::run(&app, verb).await.map(done),
            Noun::Completion { .. } | Noun::Man { .. } => Ok(ExitCode::SUCCESS),
        }
    })
}

/// Help and version go to standard output with 0; everything else is a wrong word: 2, as JSON where JSON was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // Standard output or error is gone: nobody is left to tell.
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { Code::Usage.exit() } else { 0 });
    }
    let words: Vec<String> = std::env::args_os().map(|w| w.to_string_lossy().into_owned()).collect();
    let shell = Shell {
        format: if asks_for_json(&words) {
            Format::Json
        } else {
            Format::Table
        },
        ..Shell::default()
    };
    let failure = args::failure(error, words.get(1..).unwrap_or_default());
    shell.print_failure(&failure);
    ExitCode::from(failure.exit())
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
    fn json_is_noticed_wherever_it_stands() {
        let asked = |words: &str| asks_for_json(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(asked("ensign fleet yank -o json") && asked("ensign --format=json x") && asked("ensign x -ojson"));
        assert!(!asked("ensign fleet yank") && !asked("ensign release ls -o yaml json"));
    }
}
