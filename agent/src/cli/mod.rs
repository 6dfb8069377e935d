//! `ensign-agent`: the commands of a device.

mod admin;
mod check;
mod enroll;
mod output;
mod rotate;
mod status;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use ensign_bundle::digest::Digest;
use ensign_bundle::reason::Code;
use ensign_bundle::words;

use self::admin::Admin;
use self::output::{Failure, Format, print, rooted, show};
use crate::ipc::ToAdmin;
use crate::link::{identity, run};
use crate::log;
use crate::paths::Paths;

/// Longest lock of a device: whoever needs more locks again.
const LOCK_MAX_S: u64 = 30 * 24 * 3600;

/// Keeps this device at what its fleet's operators have signed.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  ensign-agent enroll --token-file join.token --name till-3\n  ensign-agent run"
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Common {
    /// Every path lies under this directory; no privileges and no systemd are needed. `/` is the machine itself.
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// How documents are written.
    #[arg(
        short = 'o',
        long = "format",
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    format: Format,
    /// Say more.
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
    /// Say only what went wrong.
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Join a fleet.
    #[command(after_help = "Example:\n  ensign-agent enroll --token-file join.token --name till-3 --claim serial=4711")]
    Enroll(enroll::Arguments),
    /// Run the device: fetch, and under --root also start applier and runner.
    #[command(after_help = "Example:\n  ensign-agent run --root /srv/device1 --ready-file /tmp/ready")]
    Run {
        /// Written when the device is ready: `{"pid":N}` [default: none].
        #[arg(long, value_name = "FILE")]
        ready_file: Option<PathBuf>,
    },
    /// Show what runs here and what it is doing.
    #[command(after_help = "Example:\n  ensign-agent status -o json")]
    Status,
    /// Find out whether this machine is fit to be a device.
    #[command(after_help = "Example:\n  ensign-agent check --controller updates.example.com:7443")]
    Check {
        /// Where the controller is; may be repeated [default: what is known here].
        #[arg(long, value_name = "HOST:PORT")]
        controller: Vec<String>,
    },
    /// Install a bundle that carries a signed plan for this device, without a network.
    #[command(after_help = "Example:\n  ensign-agent apply /media/usb/app-1.1.0.bundle")]
    Apply {
        /// The bundle; `-` is standard input.
        file: PathBuf,
    },
    /// Check every byte and signature of a bundle against what this device trusts.
    #[command(after_help = "Example:\n  ensign-agent verify app-1.1.0.bundle -o json")]
    Verify {
        /// The bundle; `-` is standard input.
        file: PathBuf,
    },
    /// Go back to the generation before.
    #[command(after_help = "Example:\n  ensign-agent rollback --reason 'till freezes at closing'")]
    Rollback {
        /// Why, for the operators [default: nothing].
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Put off updates for a while.
    #[command(after_help = "Example:\n  ensign-agent lock --reason 'inventory' --ttl 4h")]
    Lock {
        /// Why, for the operators [default: nothing].
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// How long, at most 30 days: `90s`, `15m`, `4h`, `2d`.
        #[arg(long, value_parser = ttl, default_value = "1h", value_name = "TIME")]
        ttl: u64,
    },
    /// Let updates happen again.
    #[command(after_help = "Example:\n  ensign-agent unlock")]
    Unlock,
    /// Forget that releases failed here, so that they may be tried again.
    #[command(after_help = "Example:\n  ensign-agent clear-denied")]
    ClearDenied {
        /// Digest of one release's manifest [default: all].
        manifest: Option<Digest>,
    },
    /// Change the key by which the controller knows this device. The old one is accepted until the new one has been seen.
    #[command(after_help = "Example:\n  ensign-agent rotate-key")]
    RotateKey,
    /// Forget the fleet. What runs stays.
    #[command(after_help = "Example:\n  ensign-agent leave")]
    Leave,
}

/// Every verb and flag, for whoever checks words against them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The whole program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    crate::durable::set_umask();
    log::start(match (cli.common.quiet, cli.common.verbose) {
        (true, _) => log::Level::Quiet,
        (_, true) => log::Level::Verbose,
        _ => log::Level::Normal,
    });
    match perform(&cli) {
        Ok(code) => code,
        Err(failure) => failure.report(cli.common.format, &cli.common.root),
    }
}

fn perform(cli: &Cli) -> Result<ExitCode, Failure> {
    let paths = paths(&cli.common.root)?;
    let format = cli.common.format;
    match &cli.verb {
        Verb::Enroll(arguments) => {
            let document = enroll::run(&paths, arguments)?;
            match format {
                Format::Table => print(&format!("{}\n", document.sentence()))?,
                Format::Json | Format::Yaml => show(format, &document)?,
            }
        }
        Verb::Run { ready_file } => run::run(&paths, ready_file.as_deref()).map_err(|refusal| {
            let enrol = refusal.code == Code::NotFound;
            let failure = Failure::from(refusal);
            if enrol {
                failure.hint("`ensign-agent enroll --token-file FILE`")
            } else {
                failure
            }
        })?,
        Verb::Status => show(format, &status::document(&paths, &cli.common.root))?,
        Verb::Check { controller } => return check(&paths, &cli.common.root, controller, format),
        Verb::Apply { file } => told(format, &admin::apply(&paths, file)?)?,
        Verb::Verify { file } => verify::run(&paths, file, format)?,
        Verb::Rollback { reason } => {
            let reason = reason.clone();
            told(format, &Admin::connect(&paths)?.command(&ToAdmin::Rollback { reason })?)?;
        }
        Verb::Lock { reason, ttl } => {
            let request = ToAdmin::Lock {
                reason: reason.clone(),
                ttl_s: *ttl,
            };
            told(format, &Admin::connect(&paths)?.command(&request)?)?;
        }
        Verb::Unlock => told(format, &Admin::connect(&paths)?.command(&ToAdmin::Unlock)?)?,
        Verb::ClearDenied { manifest } => told(format, &admin::clear_denied(&paths, *manifest)?)?,
        Verb::RotateKey => {
            let document = rotate::run(&paths)?;
            match format {
                Format::Table => print(&format!("{}\n", document.sentence()))?,
                Format::Json | Format::Yaml => show(format, &document)?,
            }
        }
        Verb::Leave => {
            let text = Admin::connect(&paths)?.command(&ToAdmin::Leave)?;
            identity::forget(&paths).map_err(|e| Failure::new(Code::Io, crate::chain::chain(&e)))?;
            told(format, &text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what the applier said it did.
fn told(format: Format, text: &str) -> Result<(), Failure> {
    match format {
        Format::Table => print(&format!("{}\n", ensign_bundle::text::printable(text, 1000))),
        Format::Json | Format::Yaml => show(format, &serde_json::json!({ "done": true, "text": text })),
    }
}

fn check(paths: &Paths, root: &std::path::Path, controller: &[String], format: Format) -> Result<ExitCode, Failure> {
    let lines = check::lines(paths, controller);
    match format {
        Format::Table => {
            for line in &lines {
                let state = match line.state {
                    check::State::Ok => "ok  ",
                    check::State::Warn => "warn",
                    check::State::Fail => "fail",
                };
                let text = ensign_bundle::text::printable(&line.text, 300);
                let remedy = line
                    .remedy
                    .map(|r| format!(" ({})", rooted(r, root)))
                    .unwrap_or_default();
                print(&format!("{state}  {:8}  {text}{remedy}\n", line.name))?;
            }
        }
        Format::Json | Format::Yaml => show(format, &lines)?,
    }
    let failed = lines.iter().any(|l| l.state == check::State::Fail);
    Ok(if failed {
        ExitCode::from(Code::Failed.exit())
    } else {
        ExitCode::SUCCESS
    })
}

/// The root, absolute and without symbolic links, so that every process means the same directory. It is made where it is not there.
fn paths(root: &std::path::Path) -> Result<Paths, Failure> {
    let fail = |e: std::io::Error| Failure::new(Code::Io, format!("{}: {e}", root.display()));
    crate::durable::create_dir(root, 0o755).map_err(fail)?;
    Ok(Paths::new(std::fs::canonicalize(root).map_err(fail)?))
}

/// How long a lock holds, seconds.
fn ttl(text: &str) -> Result<u64, String> {
    words::seconds_within(text, 1, LOCK_MAX_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_fit_together_and_each_verb_shows_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands().filter(|v| v.get_name() != "help") {
            let example = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let line = example.lines().nth(1).unwrap_or_default().trim();
            assert!(
                line.starts_with(&format!("ensign-agent {}", verb.get_name())),
                "{example}"
            );
        }
    }

    #[test]
    fn flags_may_stand_anywhere_after_the_verb() {
        for words in [
            vec!["ensign-agent", "status", "-o", "json", "--root", "/x"],
            vec!["ensign-agent", "--root", "/x", "-o", "json", "status"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!(
                (cli.common.format, cli.common.root),
                (Format::Json, PathBuf::from("/x"))
            );
        }
        let apply = ["ensign-agent", "apply", "--root", "/x", "file", "--quiet"];
        assert!(matches!(Cli::try_parse_from(apply).unwrap().verb, Verb::Apply { file } if file.as_os_str() == "file"));
    }

    #[test]
    fn two_tokens_are_one_too_many() {
        let words = ["ensign-agent", "enroll", "--token", "a", "--token-file", "b"];
        assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_ttl_has_a_unit_and_an_end() {
        assert_eq!(ttl("4h").unwrap(), 14_400);
        assert_eq!(ttl("30d").unwrap(), LOCK_MAX_S);
        assert_eq!(ttl("1h30m").unwrap(), 5400, "the grammar of every other duration");
        for bad in ["", "4", "h", "0s", "31d", "-1h", "99999999999999999999d", "1é"] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }
}
