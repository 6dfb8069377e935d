//! A course of actions that takes several answers of the runner: switching, going back, a round of probes.

use std::collections::VecDeque;
use std::time::Duration;

use ensign_apply::Generation;
use ensign_bundle::reason::{Code, Refusal};

use super::checks::Check;
use crate::ipc::{FromRunner, ToRunner, UnitVerb};

/// How long a switch waits for a runner that is not there, before it goes back, and a way back before it goes on without units.
const PATIENCE: Duration = Duration::from_secs(60);
/// Runners that may be lost over one question of a switch: whatever ends so many is not chance.
const LOSSES: u32 = 3;

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Switch { to: u64 },
    SwitchBack { to: u64 },
    Probe,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    Ask(ToRunner),
    /// Make this generation the one that `current` shows.
    Point(u64),
    Check(Check),
}

/// What an answer means for the course.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    /// The rest is not done.
    Failed(Refusal),
    /// A unit is in state `failed` for good.
    UnitFailed(String),
}

/// Errands in order.
#[derive(Clone, Debug)]
pub(super) struct Course {
    pub purpose: Purpose,
    errands: VecDeque<Errand>,
}

impl Course {
    /// Stop what changes in reverse order, move the pointer, start what changed in order. The same for both directions.
    pub(super) fn between(purpose: Purpose, from: Option<&Generation>, to: Option<&Generation>, number: u64) -> Self {
        let unit = |verb, name: &String| {
            Errand::Ask(ToRunner::Unit {
                verb,
                name: name.clone(),
            })
        };
        let mut errands = VecDeque::new();
        if let Some(from) = from {
            let gone: Vec<&String> = from.differing(to).flat_map(|c| &c.units).collect();
            errands.extend(gone.iter().rev().map(|name| unit(UnitVerb::Stop, name)));
        }
        errands.push_back(Errand::Point(number));
        if let Some(to) = to {
            errands.extend(
                to.differing(from)
                    .flat_map(|c| &c.units)
                    .map(|name| unit(UnitVerb::Start, name)),
            );
        }
        Self { purpose, errands }
    }

    pub(super) fn probes(checks: &[Check]) -> Self {
        Self {
            purpose: Purpose::Probe,
            errands: checks.iter().cloned().map(Errand::Check).collect(),
        }
    }

    pub(super) fn next(&mut self) -> Option<Errand> {
        self.errands.pop_front()
    }

    /// What the runner's answer to `errand` means.
    pub(super) fn judge(&self, errand: &Errand, answer: FromRunner) -> Verdict {
        let gone = matches!(answer, FromRunner::UnitFailed { .. });
        let text = match answer {
            FromRunner::Ok | FromRunner::NotManaged => return Verdict::GoOn,
            FromRunner::Failed { text } | FromRunner::UnitFailed { text } => text,
            FromRunner::Refused(refusal) => refusal.text,
        };
        let text = ensign_bundle::text::printable(&text, 300);
        match (self.purpose, errand) {
            (Purpose::Probe, Errand::Check(check)) => {
                let says = format!("{}: {text}", check.name());
                if gone {
                    Verdict::UnitFailed(says)
                } else {
                    Verdict::Failed(Refusal::new(Code::Unhealthy, says))
                }
            }
            (
                Purpose::Switch { .. },
                Errand::Ask(ToRunner::Unit {
                    verb: UnitVerb::Start,
                    name,
                }),
            ) => Verdict::Failed(Refusal::new(
                Code::UnitFailed,
                format!("{name} could not be started: {text}"),
            )),
            // Stopping what does not run, and whatever fails on the way back: going on is all that is left.
            (_, errand) => {
                tracing::warn!(?errand, error = text, "a unit did not follow");
                Verdict::GoOn
            }
        }
    }

    /// What it means that so many runners went away over `errand`.
    pub(super) fn judge_loss(&self, errand: &Errand, losses: u32) -> Option<Verdict> {
        let reason = |code, what: &str| {
            let text = format!("{what}: the runner was lost over it");
            Some(Verdict::Failed(Refusal::new(code, text)))
        };
        match (self.purpose, errand) {
            // A failed round, as if the probe had said so: the release may be what ends its judge.
            (Purpose::Probe, Errand::Check(check)) => reason(Code::Unhealthy, &check.name()),
            _ if losses < LOSSES => None,
            (Purpose::SwitchBack { .. }, _) => Some(Verdict::GoOn),
            (_, Errand::Ask(ToRunner::Unit { name, .. })) => reason(Code::UnitFailed, name),
            _ => reason(Code::AgentNotRunning, "switching"),
        }
    }

    /// What it means that nobody has been reachable for so long.
    pub(super) fn judge_silence(&self, silent: Duration) -> Option<Verdict> {
        if silent < PATIENCE {
            return None;
        }
        Some(match self.purpose {
            Purpose::Switch { .. } | Purpose::Probe => Verdict::Failed(Refusal::new(
                Code::AgentNotRunning,
                format!("the runner has not answered for {} s", silent.as_secs()),
            )),
            Purpose::SwitchBack { .. } => Verdict::GoOn,
        })
    }
}

#[cfg(test)]
mod tests {
    use ensign_apply::Component;
    use ensign_bundle::digest::Digest;
    use ensign_bundle::ids::Ident;

    use super::*;

    fn generation(trees: &[(&str, u8)]) -> Generation {
        let component = |(name, tree): &(&str, u8)| Component {
            product: Ident::parse("app").unwrap(),
            name: Ident::parse(name).unwrap(),
            tree: Digest([*tree; 32]),
            units: vec![format!("{name}.service")],
        };
        Generation {
            components: trees.iter().map(component).collect(),
            ..Generation::default()
        }
    }

    #[test]
    fn only_changed_components_are_stopped_in_reverse_and_started_in_order() {
        let from = generation(&[("db", 1), ("web", 1), ("ui", 1)]);
        let to = generation(&[("db", 1), ("web", 2), ("ui", 2), ("new", 1)]);
        let mut course = Course::between(Purpose::Switch { to: 2 }, Some(&from), Some(&to), 2);
        let mut said = Vec::new();
        while let Some(errand) = course.next() {
            said.push(match errand {
                Errand::Ask(ToRunner::Unit { verb, name }) => format!("{verb:?} {name}"),
                Errand::Point(to) => format!("point {to}"),
                other => format!("{other:?}"),
            });
        }
        assert_eq!(
            said,
            [
                "Stop ui.service",
                "Stop web.service",
                "point 2",
                "Start web.service",
                "Start ui.service",
                "Start new.service"
            ]
        );
    }

    #[test]
    fn a_failed_start_ends_a_switch_and_not_the_way_back() {
        let start = Errand::Ask(ToRunner::Unit {
            verb: UnitVerb::Start,
            name: "web.service".to_owned(),
        });
        let failed = || FromRunner::Failed {
            text: "exit 1".to_owned(),
        };
        let forward = Course::between(Purpose::Switch { to: 1 }, None, None, 1);
        assert!(matches!(forward.judge(&start, failed()), Verdict::Failed(_)));
        let back = Course::between(Purpose::SwitchBack { to: 1 }, None, None, 1);
        assert_eq!(back.judge(&start, failed()), Verdict::GoOn);
        assert_eq!(forward.judge(&start, FromRunner::NotManaged), Verdict::GoOn);
    }

    /// What a program prints last decides nothing: the runner says which unit is gone.
    #[test]
    fn a_unit_is_gone_where_the_runner_says_so() {
        let check = Check::Ask(ToRunner::Unit {
            verb: UnitVerb::IsActive,
            name: "web.service".to_owned(),
        });
        let probes = Course::probes(std::slice::from_ref(&check));
        let text = "exit 3: failed".to_owned();
        let errand = Errand::Check(check);
        let gone = probes.judge(&errand, FromRunner::UnitFailed { text: text.clone() });
        assert!(matches!(gone, Verdict::UnitFailed(_)), "{gone:?}");
        let unwell = probes.judge(&errand, FromRunner::Failed { text });
        assert!(matches!(unwell, Verdict::Failed(_)), "{unwell:?}");
    }
}
