//! The words of the command. Each verb's help ends with an example.

mod key;
mod mistakes;
mod product;
mod release;
mod rollout;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ensign_api::DeviceStatus;
use ensign_bundle::ids::Ident;

pub use key::{KeyVerb, RootVerb, Rotate};
pub use mistakes::failure;
pub use product::{ProductVerb, SetProduct};
pub use release::{Build, ReleaseVerb, SignFile, SignRelease, Signature};
pub use rollout::{RolloutVerb, Start, WaitFor};

use crate::output::{Format, Shell};
use crate::units;

/// Signed updates for a fleet of devices.
#[derive(Debug, Parser)]
#[command(
    name = "ensign",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Example:
  ensign fleet init --name acme --controller updates.example.com:7443 --kit ./kit
  ensign release build --product app --version 1.0.0 --tree web=./web --out app-1.0.0.bundle
  ensign release sign app-1.0.0.bundle && ensign release publish app-1.0.0.bundle
  ensign rollout start --product app --version 1.0.0 --wait"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub noun: Noun,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// How to print the document on standard output.
    #[arg(short = 'o', long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Do not ask before acting.
    #[arg(long, global = true)]
    pub yes: bool,
    /// Say what would be done, and do nothing.
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Why: goes into what is signed and into the controller's log [default: nothing].
    #[arg(
        long,
        global = true,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub reason: String,
    /// More details on standard error.
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Only errors and warnings on standard error.
    #[arg(long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// The controller to talk to [default: the one of the fleet].
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "ENSIGN_CONTROLLER",
        hide_env_values = true
    )]
    pub controller: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Noun {
    /// The fleet: make one, see it, stop everything.
    #[command(
        subcommand,
        after_help = "Example:
  ensign fleet status"
    )]
    Fleet(FleetVerb),
    /// Signing keys on this machine.
    #[command(subcommand)]
    Key(KeyVerb),
    /// Products and who signs their releases.
    #[command(subcommand)]
    Product(ProductVerb),
    /// Join tokens for new devices.
    #[command(subcommand)]
    Token(TokenVerb),
    /// Devices: see them, label them, hold them.
    #[command(
        subcommand,
        after_help = "Example:
  ensign device ls
  ensign device why dev1"
    )]
    Device(DeviceVerb),
    /// Releases: build, sign, publish.
    #[command(subcommand)]
    Release(ReleaseVerb),
    /// Rollouts: start, watch, stop.
    #[command(
        subcommand,
        after_help = "Example:
  ensign rollout start --product app --version 1.1.0 --waves 1,10%,100% --wait
  ensign rollout status"
    )]
    Rollout(RolloutVerb),
    /// Print completions for a shell.
    #[command(after_help = "Example:
  ensign completion bash > /etc/bash_completion.d/ensign")]
    Completion {
        /// The shell that will read them.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for every verb into a folder.
    #[command(after_help = "Example:
  ensign man --out /usr/local/share/man/man1")]
    Man {
        /// Folder for a page of every verb; made where it is not there [default: one page on standard output].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum FleetVerb {
    /// Make a new fleet: keys on this machine, a kit for its controller.
    ///
    /// The keys that decide what may run stay in `$ENSIGN_HOME`; the kit holds what the controller needs. `--controller` is the
    /// address under which devices and operators reach it, and becomes part of the fleet's root.
    #[command(
        override_usage = "ensign fleet init --name NAME --controller HOST:PORT --kit DIR [OPTIONS]",
        after_help = "Example:
  ensign fleet init --name acme --controller updates.example.com:7443 --kit ./kit
  ensign fleet init --name acme --controller 127.0.0.1:7443 --kit ./kit --no-passphrase
  ensign-controller serve --data /var/lib/ensign-controller --kit ./kit

Without --no-passphrase the private keys are encrypted: the passphrase is asked for twice on the terminal, or read from
the first line of the file that ENSIGN_PASSPHRASE_FILE names."
    )]
    Init {
        /// The fleet's name: `[a-z0-9][a-z0-9._-]{0,63}`.
        #[arg(long)]
        name: String,
        /// Folder for what the controller needs; made here, 0700.
        #[arg(long, value_name = "DIR")]
        kit: PathBuf,
        /// Leave the private keys unencrypted and mark the fleet as a lab: devices on `/` join only if their agent.toml allows it.
        #[arg(long)]
        no_passphrase: bool,
    },
    /// Who this fleet is: id, keys, thresholds, addresses.
    #[command(after_help = "Example:
  ensign fleet show -o yaml")]
    Show,
    /// How the fleet is: devices, rollouts, what expires soon.
    #[command(after_help = "Example:
  ensign fleet status
  ensign fleet status --check")]
    Status {
        /// One line and an exit code for monitoring: 0 fine, 1 warning, 2 critical (also when there is no answer).
        #[arg(long)]
        check: bool,
    },
    /// Change what the fleet's root says. Asks.
    ///
    /// `lab=false` encrypts the private keys of this machine under a passphrase and publishes the next root, which no longer marks
    /// the fleet as a lab. Interrupted, it loses no key; run again, it goes on.
    #[command(after_help = "Example:
  ensign fleet set lab=false

The passphrase is asked for twice on the terminal, or read from the first line of the file that ENSIGN_PASSPHRASE_FILE names.")]
    Set {
        /// `lab=false`; other keys are not in this version.
        #[arg(value_parser = units::key_value, value_name = "KEY=VALUE")]
        change: (String, String),
    },
    /// Start nothing anywhere; what is switching finishes.
    #[command(after_help = "Example:
  ensign fleet freeze --reason 'investigating 1.4.0'")]
    Freeze,
    /// Lift a freeze.
    #[command(after_help = "Example:
  ensign fleet unfreeze")]
    Unfreeze,
}

#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token that devices join with. It is printed once and never sent to the controller.
    #[command(after_help = "Example:
  ensign token create --uses 3 --ttl 1h --label site=lyon -o json
  ensign-agent enroll --token TOKEN --name dev1")]
    Create {
        /// How many devices may join, 1 to 1000000.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        uses: u32,
        /// How long they may join for, 1s to 400d.
        #[arg(long, default_value = "1h", value_parser = units::seconds, value_name = "TIME")]
        ttl: u64,
        /// Signed labels for what joins; repeatable.
        #[arg(long, value_parser = units::key_value, value_name = "KEY=VALUE")]
        label: Vec<(String, String)>,
        /// auto: approved at once; queue: waits for `device accept`.
        #[arg(long, default_value = "auto", value_parser = ["auto", "queue"])]
        approve: String,
        /// Write the token to a file (0600) [default: print it on standard output].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write the grant, unsigned, into a file for `token sign` [default: sign it here and let devices join].
        #[arg(long, value_name = "GRANT")]
        grant: Option<PathBuf>,
    },
    /// Sign the grant of a token with this machine's deploy key, or join signatures that others made.
    #[command(after_help = "Example:
  ensign token create --uses 3 --ttl 2d --grant lyon.grant --out lyon.token
  ensign token sign lyon.grant
  ensign token sign lyon.grant --detached --out bob.sig
  ensign token publish lyon.grant")]
    Sign(SignFile),
    /// Let devices join with a token whose grant enough people signed.
    #[command(after_help = "Example:
  ensign token publish lyon.grant")]
    Publish {
        /// The grant that `token create --grant` wrote.
        #[arg(value_name = "GRANT")]
        file: PathBuf,
    },
    /// Tokens, their uses and expiry.
    #[command(after_help = "Example:
  ensign token ls")]
    Ls,
    /// End a token; devices that joined with it stay.
    #[command(after_help = "Example:
  ensign token revoke 3f6a12bc")]
    Revoke {
        /// Public key of the token, or a unique prefix of 8 digits or more; `ensign token ls` lists them.
        #[arg(value_name = "TOKEN")]
        key: String,
    },
}

/// Which devices: names, ids, unique prefixes of 8 or more; `-` reads them from standard input.
#[derive(Clone, Debug, Default, Args)]
pub struct Devices {
    /// Names, ids, or unique prefixes of an id of 8 digits or more; `-` reads them from standard input.
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<String>,
    /// Every device that matches, besides those named, e.g. `site = lyon and not pilot`.
    #[arg(long, value_name = "EXPR")]
    pub select: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum DeviceVerb {
    /// Devices, what they run and how they are.
    #[command(after_help = "Example:
  ensign device ls --select 'site in (lyon, paris)'
  ensign device ls --status rolled-back,rejected
  ensign device ls --reason no-space -o json

EXPR: `key = v`, `key != v`, `key in (a, b)`, `key` (is there), `not`, `and`, `or`, parentheses.
A key is a label, `name` or `id`: status, reason and version are no labels. --reason CODE shows those with that reason.")]
    Ls(DeviceList),
    /// Everything about one device.
    #[command(after_help = "Example:
  ensign device show dev1")]
    Show {
        /// Name, id, or a unique prefix of an id of 8 digits or more.
        #[arg(value_name = "DEVICE")]
        device: String,
    },
    /// Why a device does not run what you expect, and when it will.
    #[command(after_help = "Example:
  ensign device why dev1
  ensign device why dev1 --product app")]
    Why {
        /// Name, id, or a unique prefix of an id of 8 digits or more.
        #[arg(value_name = "DEVICE")]
        device: String,
        /// What the newest rollout of this product means for it [default: the rollout that says most about it now].
        #[arg(long, value_name = "PRODUCT")]
        product: Option<Ident>,
    },
    /// Let waiting devices in.
    #[command(after_help = "Example:
  ensign device accept dev1")]
    Accept(Devices),
    /// Turn waiting devices away.
    #[command(after_help = "Example:
  ensign device reject dev1 --reason 'not ours'")]
    Reject(Devices),
    /// Give devices nothing until unsuspended.
    #[command(after_help = "Example:
  ensign device suspend dev1 --reason stolen")]
    Suspend(Devices),
    /// Undo a suspension.
    #[command(after_help = "Example:
  ensign device unsuspend dev1")]
    Unsuspend(Devices),
    /// Shut devices out for ever. Asks.
    #[command(after_help = "Example:
  ensign device revoke dev1 --reason scrapped --yes")]
    Revoke(Devices),
    /// Sign labels for devices: those given replace or join the ones they have.
    #[command(after_help = "Example:
  ensign device label dev1 dev2 --label site=lyon --remove pilot")]
    Label {
        #[command(flatten)]
        which: Devices,
        /// Label to set; repeatable.
        #[arg(long, value_parser = units::key_value, value_name = "KEY=VALUE")]
        label: Vec<(String, String)>,
        /// Label to take away; repeatable.
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
    },
    /// Sign the grants of devices anew where root's deploy keys changed: word for word, with this machine's key.
    ///
    /// A device is in new plans while enough of today's deploy keys have signed the grant of the token it joined with, and that of its own
    /// labels. Where a key was dropped or more must sign, each key holder runs this once; the signatures add up. Only what counted under
    /// an earlier root is signed. Devices that this machine never verified meanwhile are signed for where they are named.
    #[command(after_help = "Example:
  ensign device regrant --select all --dry-run
  ensign device regrant --select all")]
    Regrant(Devices),
    /// Take devices out of every update (signed).
    #[command(after_help = "Example:
  ensign device hold dev1 --reason 'demo today'")]
    Hold(Devices),
    /// Let held devices take part again (signed).
    #[command(after_help = "Example:
  ensign device unhold dev1")]
    Unhold(Devices),
}

/// What `device ls` shows.
#[derive(Debug, Default, Args)]
pub struct DeviceList {
    /// Only those that match, e.g. `site = lyon and not pilot` [default: all].
    #[arg(long, value_name = "EXPR")]
    pub select: Option<String>,
    /// Only those in one of these: dark, idle, fetching, staged, waiting, switching, trial, confirmed, rolling-back, rolled-back,
    /// rejected [default: all].
    #[arg(long, value_name = "STATUS,...", value_delimiter = ',', value_parser = status_word)]
    pub status: Vec<String>,
}

/// A word of the column STATUS.
fn status_word(text: &str) -> Result<String, String> {
    let words = DeviceStatus::ALL.map(DeviceStatus::name);
    if text == "dark" || words.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("a status is dark, {}", words.join(", ")))
}

impl Global {
    pub fn shell(&self) -> Shell {
        Shell {
            format: self.format,
            yes: self.yes,
            dry_run: self.dry_run,
            reason: self.reason.clone(),
            verbose: self.verbose,
            quiet: self.quiet,
            controller: self.controller.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_words_are_consistent() {
        Cli::command().debug_assert();
    }

    fn verbs(command: &clap::Command, path: &str, out: &mut Vec<String>) {
        for verb in command.get_subcommands() {
            let path = format!("{path} {}", verb.get_name());
            if verb.has_subcommands() {
                verbs(verb, &path, out);
            } else {
                let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.starts_with("Example:\n"), "{path} has no example");
                assert!(verb.get_about().is_some(), "{path} does not say what it does");
                out.push(path);
            }
        }
    }

    #[test]
    fn every_verb_has_an_example() {
        let mut all = Vec::new();
        verbs(&Cli::command(), "ensign", &mut all);
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn global_flags_stand_anywhere_after_the_verb() {
        for words in [
            "ensign fleet show -o json",
            "ensign device suspend dev1 --yes -o json dev2",
            "ensign rollout start --product app --wait -o yaml --version 1.0.0",
            "ensign -o json release ls",
        ] {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            assert_ne!(cli.global.format, Format::Table, "{words}");
        }
    }
}
