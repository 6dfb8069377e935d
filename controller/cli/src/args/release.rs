//! `ensign release ...`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ensign_bundle::ids::Ident;

use crate::units;

#[derive(Debug, Subcommand)]
pub enum ReleaseVerb {
    /// Build a release from folders. Same input, same bytes.
    #[command(after_help = "Example:
  ensign release build --product app --version 1.0.0 --tree web=./web --unit web=web.service --out app-1.0.0.bundle
  ensign release build --manifest release.toml --out app-1.0.0.bundle

release.toml:
  product = \"app\"
  version = \"1.0.0\"
  tree = [\"web=./web\"]
  unit = [\"web=web.service\"]
  health = [\"exec:bin/check --fast\"]")]
    Build(Box<Build>),
    /// Sign a bundle with this machine's release key, or join signatures that others made; or renew a published release.
    ///
    /// Before it signs it says what the release changes against this machine's own verified state. Several people sign one after the
    /// other, or each into a file of their own (--detached) that somebody joins (--add).
    ///
    /// The document of a published release (PRODUCT@VERSION, or all with --live) is signed anew as its next version, with a new expiry,
    /// and published. Where several must sign, --detached writes it into a file that the others sign and somebody publishes.
    #[command(after_help = "Example:
  ensign release sign app-1.0.0.bundle
  ensign release sign app-1.0.0.bundle --detached --out bob.sig
  ensign release sign app-1.0.0.bundle --add bob.sig --add eve.sig
  ensign release sign app@1.0.0
  ensign release sign --live --product app

The first signature dates the release. Whoever signs detached after that joins the first one before: --add, then --detached.")]
    Sign(SignRelease),
    /// Upload a signed bundle, or publish the next document of a release.
    #[command(after_help = "Example:
  ensign release publish app-1.0.0.bundle
  ensign release publish app-1.0.0.release")]
    Publish {
        /// The signed bundle, or the document that `release sign` or `release yank` wrote.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Withdraw a published release: no device starts it any more, those that run it keep it. Asks.
    ///
    /// It is signed by the product's release keys as the next version of the release's document. Where several must sign, --detached
    /// writes it into a file that the others sign (`release sign FILE`) and somebody publishes (`release publish FILE`).
    #[command(after_help = "Example:
  ensign release yank app@1.1.0 --reason 'eats the database'
  ensign release yank app@1.1.0 --reason 'eats the database' --detached --out app-1.1.0.release")]
    Yank {
        /// A published release.
        #[arg(value_name = "PRODUCT@VERSION")]
        release: String,
        /// Private key (PEM) to sign with [default: the fleet's key for it on this machine].
        #[arg(long, value_name = "FILE", env = "ENSIGN_KEY_FILE", hide_env_values = true)]
        key: Option<PathBuf>,
        /// Publish nothing and write the signed document into a file.
        #[arg(long, requires = "out")]
        detached: bool,
        /// The file of the document; needed with --detached [default: none].
        #[arg(long, requires = "detached", value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Published releases, newest first.
    #[command(after_help = "Example:
  ensign release ls")]
    Ls {
        /// Of this product only [default: all products].
        #[arg(long, value_name = "PRODUCT")]
        product: Option<String>,
    },
    /// What a release is: components, size, signatures.
    #[command(after_help = "Example:
  ensign release show app@1.0.0
  ensign release show app-1.0.0.bundle")]
    Show {
        /// PRODUCT@VERSION of a published release, or a bundle file.
        #[arg(value_name = "RELEASE")]
        release: String,
    },
    /// What changes from one bundle file to another.
    #[command(after_help = "Example:
  ensign release diff app-1.0.0.bundle app-1.1.0.bundle")]
    Diff {
        /// Bundle file that devices come from.
        #[arg(value_name = "A")]
        old: PathBuf,
        /// Bundle file that they go to.
        #[arg(value_name = "B")]
        new: PathBuf,
    },
    /// Check every byte and signature of a bundle, offline.
    #[command(after_help = "Example:
  ensign release verify app-1.0.0.bundle")]
    Verify {
        /// The bundle; its signatures are compared with the trust state of this machine.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// What `release sign` signs.
#[derive(Clone, Debug, Args)]
pub struct SignRelease {
    /// A bundle file or the file of a document, signed in place unless --detached; or PRODUCT@VERSION of a published release; needed
    /// unless --live.
    #[arg(value_name = "RELEASE", required_unless_present = "live")]
    pub release: Option<String>,
    /// Every published release that is not withdrawn.
    #[arg(long, conflicts_with_all = ["release", "detached", "add"])]
    pub live: bool,
    /// With --live: of this product only [default: all products].
    #[arg(long, requires = "live", value_name = "PRODUCT")]
    pub product: Option<Ident>,
    #[command(flatten)]
    pub by: Signature,
}

/// A file that several people sign.
#[derive(Clone, Debug, Args)]
pub struct SignFile {
    /// The file to sign; signed in place unless --detached.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub by: Signature,
}

/// Whose signature, and where it goes.
#[derive(Clone, Debug, Default, Args)]
pub struct Signature {
    /// Private key (PEM) to sign with [default: the fleet's key for it on this machine].
    #[arg(long, value_name = "FILE", env = "ENSIGN_KEY_FILE", hide_env_values = true)]
    pub key: Option<PathBuf>,
    /// Leave FILE as it is and write the signature into a file of its own.
    #[arg(long, requires = "out")]
    pub detached: bool,
    /// The file of the detached signature; needed unless it is signed in place [default: none].
    #[arg(long, requires = "detached", value_name = "SIG")]
    pub out: Option<PathBuf>,
    /// Join a detached signature, and sign nothing; repeatable.
    #[arg(long, conflicts_with = "detached", value_name = "SIG")]
    pub add: Vec<PathBuf>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Build {
    /// Product: `[a-z0-9][a-z0-9._-]{0,63}`; needed unless --manifest names it.
    #[arg(long, required_unless_present = "manifest", value_name = "PRODUCT")]
    pub product: Option<String>,
    /// Version, MAJOR.MINOR.PATCH or any other with --counter; needed unless --manifest names it.
    #[arg(long, required_unless_present = "manifest", value_name = "VERSION")]
    pub version: Option<String>,
    /// A component from a folder; repeatable.
    #[arg(long, value_parser = units::key_value, value_name = "NAME=DIR")]
    pub tree: Vec<(String, String)>,
    /// A unit of a component: restarted when the component changed; repeatable, in order.
    #[arg(long, value_parser = units::key_value, value_name = "NAME=UNIT")]
    pub unit: Vec<(String, String)>,
    /// A probe that must pass: exec:'PATH ARGS' (with NAME= in front if there are several components), unit:UNIT,
    /// http://HOST[:PORT]/PATH, tcp:HOST:PORT or controller[:10m]; repeatable.
    #[arg(long, value_name = "[NAME=]PROBE")]
    pub health: Vec<String>,
    /// How long all probes must pass without a break [default: 5s].
    #[arg(long, value_parser = units::seconds, value_name = "TIME")]
    pub health_window: Option<u64>,
    /// When an unconfirmed release has failed [default: 60s].
    #[arg(long, value_parser = units::seconds, value_name = "TIME")]
    pub health_deadline: Option<u64>,
    /// Hardware that it fits; repeatable [default: all].
    #[arg(long, value_name = "HARDWARE")]
    pub hardware: Vec<String>,
    /// Orders releases [default: major·10^12 + minor·10^6 + patch of the version].
    #[arg(long, value_name = "N")]
    pub counter: Option<u64>,
    /// Compression, 1 to 19: 3 for a quick try, 12 everyday, 19 for what many devices fetch [default: 12].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub level: Option<i32>,
    /// All of the above from a file (TOML, the same names with `_`); flags win [default: flags alone].
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// The bundle to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}
