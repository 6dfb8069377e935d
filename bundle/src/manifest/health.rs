//! How a device finds out whether a release works: the manifest's `health` and `restart`.

use serde::{Deserialize, Serialize};

use super::address::{HttpUrl, check_address};
use crate::ids::Ident;
use crate::limits::CLAMP_S;
use crate::path::TreePath;
use crate::reason::Refusal;
use crate::refuse;
use crate::text::printable;

/// Probes in a release.
pub const PROBES: usize = 64;
/// Words of a probe's command line.
pub const ARGS: usize = 64;
/// A unit's name or an argument, bytes.
pub const TEXT_BYTES: usize = 1024;
/// A unit's name, bytes (systemd.unit(5)).
const UNIT_BYTES: usize = 255;

/// When a trial has passed: every probe, through the whole window, before the deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// None and no unit: confirmed at once.
    pub probes: Vec<Probe>,
    /// Unbroken time of passed probes that confirms, seconds of the boot clock. Default 5.
    pub window_s: u64,
    /// Time after which an unconfirmed trial has failed, seconds of the boot clock. Default 60, at most a day.
    pub deadline_s: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probes: Vec::new(),
            window_s: 5,
            deadline_s: 60,
        }
    }
}

/// One question that is asked each second; 10 s each at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Probe {
    /// Runs an executable of the component without a shell, in `current/COMPONENT`; 0 is healthy.
    Exec {
        component: Ident,
        path: TreePath,
        args: Vec<String>,
    },
    /// The unit is active.
    Unit { unit: String },
    /// `GET` of `http://HOST[:PORT][/PATH]` answers 200 to 399.
    Http { url: String },
    /// `HOST:PORT` accepts a connection.
    Tcp { address: String },
    /// An authenticated connection to the controller, within so many seconds of the switch.
    Controller { within_s: u64 },
}

/// Time that a probe of the controller has where nobody said otherwise, seconds.
pub const CONTROLLER_WITHIN_S: u64 = 600;

/// How units come back after the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// Longest time that stopping or starting one unit may take, seconds. Without `restart`: the unit's own limit.
    pub timeout_s: u64,
}

impl Health {
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.probes.len() > PROBES {
            return refuse!(
                LimitExceeded,
                "{} probes, at most {PROBES} are allowed",
                self.probes.len()
            );
        }
        let (window, deadline) = (self.window_s, self.deadline_s);
        if window > deadline || deadline > CLAMP_S {
            return refuse!(
                Malformed,
                "a health window of {window} s with a deadline of {deadline} s: window ≤ deadline ≤ {CLAMP_S} s"
            );
        }
        self.probes.iter().try_for_each(Probe::check)
    }
}

impl Probe {
    /// Whether a device could ask this at all.
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Exec { args, .. } if args.len() > ARGS => {
                refuse!(LimitExceeded, "a probe with {} arguments, at most {ARGS}", args.len())
            }
            Self::Exec { args, .. } => args.iter().try_for_each(|arg| check_text("a probe's argument", arg)),
            Self::Unit { unit } => check_unit(unit),
            Self::Http { url } => HttpUrl::parse(url).map(drop),
            Self::Tcp { address } => check_address(address),
            Self::Controller { within_s: 1..=CLAMP_S } => Ok(()),
            Self::Controller { within_s } => {
                refuse!(
                    LimitExceeded,
                    "a controller probe of {within_s} s, 1 to {CLAMP_S} are possible"
                )
            }
        }
    }
}

impl Restart {
    pub(crate) fn check(self) -> Result<(), Refusal> {
        match self.timeout_s {
            1..=CLAMP_S => Ok(()),
            other => refuse!(
                LimitExceeded,
                "a restart timeout of {other} s, 1 to {CLAMP_S} are possible"
            ),
        }
    }
}

/// A unit's name: ASCII letters, digits and `:-_.\@`, not starting with `-` or `.`, at most 255 bytes.
pub fn check_unit(unit: &str) -> Result<(), Refusal> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    if unit.is_empty() || unit.len() > UNIT_BYTES || unit.starts_with(['-', '.']) || !unit.bytes().all(allowed) {
        return refuse!(Malformed, "`{}` is no unit name", printable(unit, 80));
    }
    Ok(())
}

/// Text that ends up on a command line or in a log.
pub(crate) fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > TEXT_BYTES || text.contains('\0') {
        return refuse!(
            LimitExceeded,
            "{what} `{}` is longer than {TEXT_BYTES} bytes or holds a NUL",
            printable(text, 40)
        );
    }
    Ok(())
}
