//! Words of `ensign product`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum ProductVerb {
    /// Products with an entry in the targets role, and those with releases.
    #[command(after_help = "Example:
  ensign product ls")]
    Ls,
    /// What a product's delegation allows.
    #[command(after_help = "Example:
  ensign product show app")]
    Show {
        /// Name of the product; `ensign product ls` lists them.
        #[arg(value_name = "PRODUCT")]
        product: String,
    },
    /// Write the draft of the next targets, or change it further: who signs a product's releases, and within which bounds.
    ///
    /// A product without an entry of its own begins with a copy of the entry that covers it (`*`). `product publish` signs the draft
    /// with this machine's targets keys and publishes it; where more are needed, each holder signs a copy with `product sign`.
    #[command(after_help = "Example:
  ensign product set pos --key pos-ci.pub --remove 3f6a12bc --components 'pos-*' --units 'pos-*.service'
  ensign product set pos --select 'role = till'
  ensign product set pos --security-floor 4.2.0 --lowest 3.0.0
  ensign product publish")]
    Set(Box<SetProduct>),
    /// Sign a draft with every targets key of this machine.
    #[command(after_help = "Example:
  ensign product sign
  ensign product sign targets-4.draft")]
    Sign {
        /// A draft [default: the one of this context].
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Put the signatures of several copies of one draft together.
    #[command(after_help = "Example:
  ensign product assemble targets-4.alice targets-4.bob")]
    Assemble {
        /// Copies of the draft that others have signed.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Write it there [default: the draft of this context].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Sign a draft with this machine's targets keys, and publish it once enough have signed.
    ///
    /// Published releases that would not be valid under it are signed anew in the same step, where this machine has the keys.
    #[command(after_help = "Example:
  ensign product publish
  ensign product publish --dry-run")]
    Publish {
        /// A draft [default: the one of this context].
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub struct SetProduct {
    /// The product; `*` stands for every product without an entry of its own.
    #[arg(value_name = "PRODUCT")]
    pub product: String,
    /// Public key of a release signer to add (PEM file); repeatable.
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// Release key to take away: its id or a unique prefix of 8 digits or more; repeatable.
    #[arg(long, value_name = "KID")]
    pub remove: Vec<String>,
    /// How many of the keys must sign a release [default: as before].
    #[arg(long, value_name = "N")]
    pub threshold: Option<u32>,
    /// Patterns of component names, `*` for any run of characters [default: as before].
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',')]
    pub components: Vec<String>,
    /// Patterns of unit names [default: as before].
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',')]
    pub units: Vec<String>,
    /// Kinds of components: tree, image, oci, agent, handler [default: as before].
    #[arg(long, value_name = "KIND,...", value_delimiter = ',')]
    pub kinds: Vec<String>,
    /// Handlers that components may name [default: as before].
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    pub handlers: Vec<String>,
    /// network: its failure cuts devices off, so its releases probe the controller; plain: they do not [default: as before].
    #[arg(long, value_parser = ["network", "plain"])]
    pub role: Option<String>,
    /// Devices that `rollout start` means where it is not told otherwise; empty = no such default [default: as before].
    #[arg(long, value_name = "EXPR")]
    pub select: Option<String>,
    /// No device installs a release below it; only rises. A version, or a counter [default: as before].
    #[arg(long, value_name = "VERSION|COUNTER")]
    pub security_floor: Option<String>,
    /// Releases below it leave the list of what is published; only rises. A version, or a counter [default: as before].
    #[arg(long, value_name = "VERSION|COUNTER")]
    pub lowest: Option<String>,
    /// Forget the draft that is there and begin anew.
    #[arg(long)]
    pub anew: bool,
    /// Write the draft there [default: into this context].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
