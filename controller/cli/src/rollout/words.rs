//! What to roll out: the flags of `rollout start` and the plan file of `-f`, with their defaults.

use std::path::Path;

use ensign_api::Time;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::limits::{GATE_RECEIPTS, PLAN_LIFE_S};
use ensign_bundle::plan::cohort::Waves;
use ensign_bundle::plan::statements::{Bound, GateKind, OnBreach, Pace, Stop};
use ensign_bundle::selector::Selector;
use serde::Deserialize;

use crate::args::Start;
use crate::failure::{Failure, Result};
use crate::{device, home, units};

const WAVES: &str = "1,10%,100%";
const SOAK_S: u64 = 10 * 60;
const STOP_FAILED: Bound = Bound::BasisPoints(200);
const STOP_DARK: Bound = Bound::BasisPoints(300);
const STOP_MIN_SAMPLE: u32 = 20;
const QUORUM_BP: u32 = 9000;
const REACH_S: u64 = 3600;
const EXPIRES_S: u64 = 7 * 24 * 3600;

/// A rollout as it was asked for, complete.
#[derive(Clone, Debug)]
pub struct Words {
    pub product: Ident,
    pub version: Version,
    /// None: everybody, where they are few enough.
    pub select: Option<Selector>,
    pub exclude: Vec<Selector>,
    pub canary: Option<Selector>,
    pub waves: Waves,
    pub soak_s: u64,
    /// Of every wave but the first.
    pub gate: GateKind,
    pub evidence: Option<u32>,
    pub pace: Pace,
    pub start_at: Option<Time>,
    pub expires_s: u64,
    pub emergency: bool,
    pub allow_downgrade: bool,
}

/// `plan.toml`: the flags' names with `_` for `-`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    product: Option<String>,
    version: Option<String>,
    select: Option<String>,
    exclude: Option<OneOrMany>,
    canary: Option<String>,
    waves: Option<OneOrMany>,
    soak: Option<String>,
    gate: Option<String>,
    evidence: Option<u32>,
    max_parallel: Option<u32>,
    stop_failed: Option<String>,
    stop_dark: Option<String>,
    stop_min_sample: Option<u32>,
    dark_after: Option<String>,
    quorum: Option<String>,
    reach: Option<String>,
    on_breach: Option<String>,
    start_at: Option<toml::value::Datetime>,
    expires: Option<String>,
    #[serde(default)]
    emergency: bool,
    #[serde(default)]
    allow_downgrade: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Words {
    pub fn of(flags: &Start) -> Result<Self> {
        let flags = match &flags.file {
            Some(path) => merge(flags, path)?,
            None => flags.clone(),
        };
        let required = |value: &Option<String>, flag: &str| {
            value
                .clone()
                .ok_or_else(|| Failure::usage(format!("{flag} is missing, in the flags and in the file")))
        };
        let bad = |e: ensign_bundle::ids::BadName| Failure::usage(e.to_string());
        let gate = match flags.gate.as_deref() {
            None | Some("auto") => GateKind::Auto,
            Some("manual") => GateKind::Manual,
            Some(other) => {
                let other = ensign_bundle::text::printable(other, 40);
                return Err(Failure::usage(format!("gate `{other}`: write auto or manual")));
            }
        };
        if flags.on_breach.as_deref().is_some_and(|b| b != "halt") {
            return Err(Failure::not_in_this_version("--on-breach revert")
                .hint("devices that fail go back by themselves; bring others back with --allow-downgrade"));
        }
        let expires_s = flags.expires.unwrap_or(EXPIRES_S);
        if expires_s == 0 || expires_s > PLAN_LIFE_S {
            return Err(Failure::usage(format!(
                "--expires {}: 1s to {} are possible",
                units::show_seconds(expires_s),
                units::show_seconds(PLAN_LIFE_S)
            )));
        }
        if let Some(m) = flags.evidence.filter(|m| *m == 0 || *m as usize > GATE_RECEIPTS) {
            return Err(Failure::usage(format!(
                "--evidence {m}: 1 to {GATE_RECEIPTS} are possible"
            )));
        }
        let selector = |text: &String| device::selector(text);
        Ok(Self {
            product: Ident::parse(&required(&flags.product, "--product")?).map_err(bad)?,
            version: Version::parse(&required(&flags.version, "--version")?).map_err(bad)?,
            select: flags.select.as_ref().map(selector).transpose()?,
            exclude: flags.exclude.iter().map(selector).collect::<Result<_>>()?,
            canary: flags.canary.as_ref().map(selector).transpose()?,
            waves: Waves::parse(flags.waves.as_deref().unwrap_or(WAVES)).map_err(|e| Failure::usage(e.text))?,
            soak_s: flags.soak.unwrap_or(SOAK_S),
            gate,
            evidence: flags.evidence,
            pace: Pace {
                max_parallel: flags.max_parallel,
                one_per: None,
                rate_per_h: None,
                prefetch: false,
                priority: 0,
                stop: Stop {
                    failed: flags.stop_failed.unwrap_or(STOP_FAILED),
                    dark: flags.stop_dark.unwrap_or(STOP_DARK),
                    min_sample: flags.stop_min_sample.unwrap_or(STOP_MIN_SAMPLE),
                    dark_after_s: flags.dark_after,
                    quorum_bp: flags.quorum.unwrap_or(QUORUM_BP),
                    reach_s: flags.reach.unwrap_or(REACH_S),
                    on_breach: OnBreach::Halt,
                },
            },
            start_at: flags.not_before,
            expires_s,
            emergency: flags.emergency,
            allow_downgrade: flags.allow_downgrade,
        })
    }
}

/// The file's words, each replaced by the flag of its name where that is given.
fn merge(flags: &Start, path: &Path) -> Result<Start> {
    let bad = |e: String| Failure::usage(format!("{}: {e}", path.display()));
    let text = String::from_utf8_lossy(&home::read(path)?).into_owned();
    let file: File = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let time = |text: &Option<String>| text.as_deref().map(units::seconds).transpose().map_err(bad);
    let bound = |text: &Option<String>| text.as_deref().map(units::bound).transpose().map_err(bad);
    let share = |text: &Option<String>| text.as_deref().map(units::share).transpose().map_err(bad);
    let start_at = file.start_at.map(|t| t.to_string().parse()).transpose().map_err(bad)?;
    let mut merged = flags.clone();
    merged.file = None;
    let soak = time(&file.soak)?;
    let (dark_after, reach, expires) = (time(&file.dark_after)?, time(&file.reach)?, time(&file.expires)?);
    let (failed, dark, quorum) = (bound(&file.stop_failed)?, bound(&file.stop_dark)?, share(&file.quorum)?);
    if merged.exclude.is_empty() {
        merged.exclude = file.exclude.map(OneOrMany::into_vec).unwrap_or_default();
    }
    merged.product = merged.product.or(file.product);
    merged.version = merged.version.or(file.version);
    merged.select = merged.select.or(file.select);
    merged.canary = merged.canary.or(file.canary);
    merged.waves = merged.waves.or(file.waves.map(|w| w.into_vec().join(",")));
    merged.soak = merged.soak.or(soak);
    merged.gate = merged.gate.or(file.gate);
    merged.evidence = merged.evidence.or(file.evidence);
    merged.max_parallel = merged.max_parallel.or(file.max_parallel);
    merged.stop_failed = merged.stop_failed.or(failed);
    merged.stop_dark = merged.stop_dark.or(dark);
    merged.stop_min_sample = merged.stop_min_sample.or(file.stop_min_sample);
    merged.dark_after = merged.dark_after.or(dark_after);
    merged.quorum = merged.quorum.or(quorum);
    merged.reach = merged.reach.or(reach);
    merged.on_breach = merged.on_breach.or(file.on_breach);
    merged.not_before = merged.not_before.or(start_at);
    merged.expires = merged.expires.or(expires);
    merged.emergency |= file.emergency;
    merged.allow_downgrade |= file.allow_downgrade;
    Ok(merged)
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Start {
        Start {
            product: Some("app".to_owned()),
            version: Some("1.0.0".to_owned()),
            ..Start::default()
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_help() {
        let words = Words::of(&flags()).unwrap();
        assert_eq!(words.waves, Waves::parse("1,10%,100%").unwrap());
        assert_eq!((words.soak_s, words.expires_s), (600, 604_800));
        let stop = words.pace.stop;
        assert_eq!(
            (stop.failed, stop.dark),
            (Bound::BasisPoints(200), Bound::BasisPoints(300))
        );
        assert_eq!((stop.min_sample, stop.quorum_bp, stop.reach_s), (20, 9000, 3600));
        assert_eq!((stop.dark_after_s, stop.on_breach), (None, OnBreach::Halt));
    }

    #[test]
    fn a_file_speaks_the_flags_words_and_flags_win() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.toml");
        let text = r#"
            product = "pos"
            version = "1.4.0"
            select = "site in (lyon, paris)"
            exclude = "hold"
            canary = "pilot = yes"
            waves = ["5", "10%", "100%"]
            soak = "2h"
            stop_failed = "1"
            on_breach = "halt"
            start_at = 2026-12-01T02:00:00Z
            expires = "14d"
        "#;
        crate::durable::write(&path, text.as_bytes(), 0o644).unwrap();
        let words = Words::of(&Start {
            version: Some("1.5.0".to_owned()),
            file: Some(path.clone()),
            ..Start::default()
        })
        .unwrap();
        assert_eq!((words.product.as_str(), words.version.as_str()), ("pos", "1.5.0"));
        assert_eq!(words.waves, Waves::parse("5,10%,100%").unwrap());
        assert_eq!(
            (words.soak_s, words.expires_s, words.exclude.len()),
            (7200, 14 * 86_400, 1)
        );
        assert_eq!(words.start_at, Some(Time(1_796_090_400)));
        assert_eq!(words.pace.stop.failed, Bound::Count(1));
        crate::durable::write(&path, b"wavess = '1'", 0o644).unwrap();
        assert_eq!(
            Words::of(&Start {
                file: Some(path),
                ..flags()
            })
            .unwrap_err()
            .exit(),
            2
        );
    }

    #[test]
    fn what_this_version_does_not_have_is_exit_2() {
        let cases = [
            Start {
                gate: Some("sometimes".to_owned()),
                ..flags()
            },
            Start {
                on_breach: Some("revert".to_owned()),
                ..flags()
            },
            Start {
                expires: Some(31 * 86_400),
                ..flags()
            },
            Start {
                evidence: Some(0),
                ..flags()
            },
            Start {
                waves: Some("ten".to_owned()),
                ..flags()
            },
            Start {
                select: Some("site =".to_owned()),
                ..flags()
            },
            Start {
                product: None,
                ..flags()
            },
        ];
        for case in cases {
            assert_eq!(Words::of(&case).map_err(|e| e.exit()).map(|_| ()), Err(2), "{case:?}");
        }
    }
}
