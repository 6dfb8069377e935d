//! Words of `ensign key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::units;

#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// The keys on this machine and their roles.
    #[command(after_help = "Example:
  ensign key ls")]
    Ls,
    /// Make a new key on this machine. Nobody listens to it before root or targets name it.
    #[command(after_help = "Example:
  ensign key gen root-2027
  ensign key export-pub root-2027 > root-2027.pub
  ensign key root rotate --add root-2027.pub")]
    Gen {
        /// Its name, `[a-z0-9][a-z0-9._-]{0,63}`: the file becomes NAME.pem.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Take over a private key from a file: from a backup, or from another machine.
    ///
    /// It is kept under the passphrase of the keys that are there. The file stays: destroy it, or lock it away.
    #[command(after_help = "Example:
  ensign key import /media/stick/deploy.pem --name deploy")]
    Import {
        /// The private key (PEM), plain or encrypted.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Its name here [default: the name of the file].
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// File whose first line is the passphrase of FILE [default: that of the keys here, else it is asked for].
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Change the passphrase of the keys on this machine.
    ///
    /// Cut off at any moment, each key opens with the passphrase before or with the new one; run again with both, it goes on.
    #[command(after_help = "Example:
  ensign key passwd

The passphrase before is asked for on the terminal, or read from the file that ENSIGN_PASSPHRASE_FILE names.")]
    Passwd {
        /// File whose first line is the new passphrase [default: asked for twice].
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Print the public half of a key (PEM).
    #[command(after_help = "Example:
  ensign key export-pub deploy > deploy.pub")]
    ExportPub {
        /// root, recovery, targets, release, deploy, or the name given to `key gen`.
        #[arg(value_name = "NAME")]
        role: String,
    },
    /// Who may decide what: change the fleet's root, sign it, publish it.
    #[command(subcommand)]
    Root(RootVerb),
}

#[derive(Debug, Subcommand)]
pub enum RootVerb {
    /// The root in force, and what the draft of the next one changes.
    #[command(after_help = "Example:
  ensign key root show
  ensign key root show root-4.draft")]
    Show {
        /// A draft [default: the one of this context, if there is one].
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Write the draft of the next root, or change it further. Without changes it is a renewal.
    ///
    /// Floors rise as they are given; lowering one needs --reset, which makes every device forget what it remembers of plans, floors and
    /// targets. New online keys are made by `ensign-controller keys new`.
    #[command(after_help = "Example:
  ensign key root rotate --add root-2027.pub --remove 3f6a12bc
  ensign key root rotate --role timestamp --add timestamp-next.pub --remove 9b01fe44
  ensign key root rotate --role controller --add controller-next.pub
  ensign key root rotate --role https --add https-next.crt --remove 77ab03d1
  ensign key root rotate --floor app.counter=1004000000
  ensign key root sign && ensign key root publish")]
    Rotate(Rotate),
    /// Sign a draft with every key of this machine that the old or the new root names.
    #[command(after_help = "Example:
  ensign key root sign
  ensign key root sign root-4.draft")]
    Sign {
        /// A draft [default: the one of this context].
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Put the signatures of several copies of one draft together.
    #[command(after_help = "Example:
  ensign key root assemble root-4.alice root-4.bob")]
    Assemble {
        /// Copies of the draft that others have signed.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Write it there [default: the draft of this context].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Publish a draft that thresholds of the old and the new root keys signed. Asks.
    #[command(after_help = "Example:
  ensign key root publish --yes")]
    Publish {
        /// A draft [default: the one of this context].
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub struct Rotate {
    /// Whose keys: root, targets, snapshot, timestamp, controller, https, deploy (every scope) or deploy:SCOPE.
    #[arg(long, value_name = "ROLE", default_value = "root")]
    pub role: String,
    /// Public key to add (PEM file; for https a certificate); repeatable.
    #[arg(long, value_name = "FILE")]
    pub add: Vec<PathBuf>,
    /// Key to take away: its id or a unique prefix of 8 digits or more; repeatable.
    #[arg(long, value_name = "KID")]
    pub remove: Vec<String>,
    /// How many of the role's keys must sign [default: as before].
    #[arg(long, value_name = "N")]
    pub threshold: Option<u32>,
    /// PRODUCT.plan-seq, PRODUCT.counter or PRODUCT.security and its new floor; repeatable.
    #[arg(long, value_parser = units::key_value, value_name = "FLOOR=N")]
    pub floor: Vec<(String, String)>,
    /// Lowest version of targets that devices take [default: as before].
    #[arg(long, value_name = "N")]
    pub targets_floor: Option<u64>,
    /// Let floors fall: devices forget plans, floors and targets, and start anew from this root.
    #[arg(long)]
    pub reset: bool,
    /// With --reset: mends devices whose clock floor is in the future. Seconds since 1970, at most now [default: clock floors stay].
    #[arg(long, value_name = "SECONDS", requires = "reset")]
    pub time_reset: Option<u64>,
    /// Forget the draft that is there and begin anew.
    #[arg(long)]
    pub anew: bool,
    /// Write the draft there [default: into this context].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
