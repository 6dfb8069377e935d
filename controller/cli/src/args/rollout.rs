//! `ensign rollout ...`

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Arg, Args, Subcommand};
use ensign_bundle::plan::statements::Bound;

use super::release::SignFile;
use crate::units;

/// Flags that make a plan: they say nothing beside a plan that is there.
const NEW_PLAN: [&str; 22] = [
    "file",
    "product",
    "version",
    "select",
    "exclude",
    "waves",
    "soak",
    "gate",
    "canary",
    "evidence",
    "max_parallel",
    "stop_failed",
    "stop_dark",
    "stop_min_sample",
    "dark_after",
    "quorum",
    "reach",
    "on_breach",
    "not_before",
    "expires",
    "emergency",
    "allow_downgrade",
];

#[derive(Debug, Subcommand)]
pub enum RolloutVerb {
    /// Show what `start` with the same flags would do, or write it as a plan file that several people sign.
    #[command(after_help = "Example:
  ensign rollout plan --product app --version 1.1.0 --waves 1,10%,100%
  ensign rollout plan -f plan.toml --out app.plan

A plan file carries the evidence of its devices and the metadata of its release: it is previewed and signed offline too.")]
    Plan {
        #[command(flatten)]
        words: Box<Start>,
        /// Write the plan, unsigned, into a file for `rollout sign` [default: only show it].
        #[arg(long, value_name = "PLAN")]
        out: Option<PathBuf>,
    },
    /// Sign a plan file with this machine's deploy key, or join signatures that others made.
    ///
    /// Before it signs it shows the plan, verified against this machine's own state from signed evidence alone. It works without the
    /// controller.
    #[command(after_help = "Example:
  ensign rollout sign app.plan
  ensign rollout sign app.plan --detached --out bob.sig
  ensign rollout sign app.plan --add bob.sig")]
    Sign(SignFile),
    /// Sign a plan and start it, or start a plan file that enough people signed.
    #[command(
        mut_arg("product", unless_plan),
        mut_arg("version", unless_plan),
        after_help = "Example:
  ensign rollout start --product app --version 1.1.0 --waves 1,10%,100% --soak 10m --wait
  ensign rollout start -f plan.toml
  ensign rollout start app.plan

Exit codes with --wait: 0 done, 10 paused or halted, 11 aborted or superseded, 22 expired, 12 after --timeout."
    )]
    Start {
        /// Plan file of `rollout plan --out`; nothing of it can be changed by flags [default: a new plan from the flags].
        #[arg(value_name = "PLAN", value_parser = plan_file, conflicts_with_all = NEW_PLAN)]
        plan: Option<PathBuf>,
        #[command(flatten)]
        words: Box<Start>,
    },
    /// Where a rollout stands.
    #[command(after_help = "Example:
  ensign rollout status -w
  ensign rollout status app -o json")]
    Status {
        #[command(flatten)]
        rollout: Target,
        /// Keep watching until it ends.
        #[arg(short, long)]
        watch: bool,
    },
    /// Rollouts, newest first.
    #[command(after_help = "Example:
  ensign rollout ls -o json")]
    Ls,
    /// Offer nothing more; what is switching finishes.
    #[command(after_help = "Example:
  ensign rollout pause --reason 'look at dev7 first'")]
    Pause {
        #[command(flatten)]
        rollout: Target,
    },
    /// Go on after a pause or a halt; acknowledges what halted it.
    #[command(after_help = "Example:
  ensign rollout resume")]
    Resume {
        #[command(flatten)]
        rollout: Target,
    },
    /// Open the next wave of a rollout with `--gate manual` (signed).
    #[command(after_help = "Example:
  ensign rollout promote app
  ensign rollout promote app --wave 3")]
    Promote {
        #[command(flatten)]
        rollout: Target,
        /// Which wave, from 2 [default: the next one that waits].
        #[arg(long, value_name = "N")]
        wave: Option<u32>,
    },
    /// End a rollout for ever (signed). Asks.
    #[command(after_help = "Example:
  ensign rollout abort --keep --reason 'shows wrong prices'")]
    Abort {
        #[command(flatten)]
        rollout: Target,
        /// Updated devices stay as they are. Required: the other way is a new rollout with --allow-downgrade.
        #[arg(long)]
        keep: bool,
    },
    /// Give back the slots of dark devices.
    #[command(after_help = "Example:
  ensign rollout release app dev3 dev7")]
    Release {
        /// Id, a unique prefix of 4 digits or more, or a product (its newest).
        #[arg(value_name = "ROLLOUT")]
        rollout: String,
        /// Names, ids, or unique prefixes of an id of 8 digits or more.
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<String>,
    },
    /// Which rule holds a device, and when it is next eligible.
    #[command(after_help = "Example:
  ensign rollout why dev3
  ensign rollout why dev3 --rollout app")]
    Why {
        /// Name, id, or a unique prefix of an id of 8 digits or more [default: the first device that is not well].
        #[arg(value_name = "DEVICE")]
        device: Option<String>,
        /// Id, a unique prefix of 4 digits or more, or a product (its newest) [default: the newest].
        #[arg(long, value_name = "ROLLOUT")]
        rollout: Option<String>,
    },
}

/// Which rollout.
#[derive(Clone, Debug, Default, Args)]
pub struct Target {
    /// Id, a unique prefix of 4 digits or more, or a product (its newest) [default: the newest].
    #[arg(value_name = "ROLLOUT")]
    pub rollout: Option<String>,
}

/// What `--wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    Done,
    /// This wave, from 1.
    Wave(u32),
}

#[derive(Clone, Debug, Default, Args)]
#[group(id = "new_plan")]
pub struct Start {
    /// Plan file (TOML) with the flags' names as keys, `_` for `-`; flags win [default: flags alone].
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Product that the devices get; needed unless the plan file names it.
    #[arg(long, required_unless_present = "file", value_name = "PRODUCT")]
    pub product: Option<String>,
    /// Version to bring, published before; needed unless the plan file names it.
    #[arg(long, required_unless_present = "file", value_name = "VERSION")]
    pub version: Option<String>,
    /// Devices that match; `all` for everyone [default: what `product set --select` says, else all, where they are at most 50].
    #[arg(long, value_name = "EXPR")]
    pub select: Option<String>,
    /// Devices to leave out; repeatable [default: none].
    #[arg(long, value_name = "EXPR")]
    pub exclude: Vec<String>,
    /// Cumulative counts or percentages of the selected, rounded up; the last must reach all [default: 1,10%,100%].
    #[arg(long, value_name = "LIST")]
    pub waves: Option<String>,
    /// How long a wave must be healthy before the next opens [default: 10m].
    #[arg(long, value_parser = units::seconds, value_name = "TIME")]
    pub soak: Option<u64>,
    /// auto: the next wave opens by itself; manual: after its soak, with `rollout promote` [default: auto].
    #[arg(long, value_parser = ["auto", "manual"])]
    pub gate: Option<String>,
    /// A first wave of exactly these, counted in --waves [default: none].
    #[arg(long, value_name = "EXPR")]
    pub canary: Option<String>,
    /// Receipts a device wants to see of the wave before it [default: half of that wave, 1 to 3].
    #[arg(long, value_name = "N")]
    pub evidence: Option<u32>,
    /// Most devices updating at once [default: no limit].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_parallel: Option<u32>,
    /// Failures that halt it: a count or a percentage [default: 2%].
    #[arg(long, value_parser = units::bound, value_name = "N|P%")]
    pub stop_failed: Option<Bound>,
    /// Devices gone dark that halt it [default: 3%].
    #[arg(long, value_parser = units::bound, value_name = "N|P%")]
    pub stop_dark: Option<Bound>,
    /// Finished devices before a percentage counts [default: 20].
    #[arg(long, value_name = "N")]
    pub stop_min_sample: Option<u32>,
    /// Silence that makes an updated device dark [default: 3 check-ins, at least 30m].
    #[arg(long, value_parser = units::seconds, value_name = "TIME")]
    pub dark_after: Option<u64>,
    /// Healthy share of the reached that a wave needs [default: 90%].
    #[arg(long, value_parser = units::share, value_name = "P%")]
    pub quorum: Option<u32>,
    /// Not connected for this long since the wave opened = unreached [default: 1h].
    #[arg(long, value_parser = units::seconds, value_name = "TIME")]
    pub reach: Option<u64>,
    /// What a breached brake does; halt: stop and wait for an operator [default: halt].
    #[arg(long, value_parser = breach())]
    pub on_breach: Option<String>,
    /// Not before this time, e.g. 2027-01-31T02:00:00Z (RFC 3339) [default: at once].
    #[arg(long = "start-at", value_name = "TIME")]
    pub not_before: Option<ensign_api::Time>,
    /// End of the plan, at most 30d [default: 7d].
    #[arg(long, value_parser = units::seconds, value_name = "TIME")]
    pub expires: Option<u64>,
    /// Passes maintenance windows and locks; never waves, evidence or floors.
    #[arg(long)]
    pub emergency: bool,
    /// May go back to a lower counter; needs --reason.
    #[arg(long)]
    pub allow_downgrade: bool,
    /// Wait until it is done, or until a wave is [default: do not wait].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "done", value_name = "done|wave:N",
          value_parser = wait_for)]
    pub wait: Option<WaitFor>,
    /// Stop waiting after this; the rollout goes on [default: no limit].
    #[arg(long, value_parser = units::seconds, value_name = "TIME")]
    pub timeout: Option<u64>,
    /// List the devices of each wave in the preview.
    #[arg(long)]
    pub print_devices: bool,
}

/// A plan that is there needs no words for a new one.
fn unless_plan(arg: Arg) -> Arg {
    arg.required_unless_present("plan")
}

/// `revert` is a word of plans, and nothing that this version does: `rollout start` says so.
fn breach() -> PossibleValuesParser {
    [PossibleValue::new("halt"), PossibleValue::new("revert").hide(true)].into()
}

/// A path; `PRODUCT@VERSION` stands in flags of its own.
fn plan_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text.contains('@') && !path.exists() {
        return Err("this is no plan file".to_owned());
    }
    Ok(path)
}

fn wait_for(text: &str) -> Result<WaitFor, String> {
    match text.strip_prefix("wave:").map(str::parse) {
        Some(Ok(wave)) if wave > 0 => Ok(WaitFor::Wave(wave)),
        None if text == "done" => Ok(WaitFor::Done),
        _ => Err("write --wait, --wait=done or --wait=wave:2".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_wait_for() {
        assert_eq!(wait_for("done"), Ok(WaitFor::Done));
        assert_eq!(wait_for("wave:2"), Ok(WaitFor::Wave(2)));
        for bad in ["", "wave:", "wave:0", "wave:x", "forever"] {
            assert!(wait_for(bad).is_err(), "{bad}");
        }
    }
}
