//! The trial of a release that has just been switched to: it must stay healthy for its whole window before it is confirmed.
//!
//! ```text
//!            window passed            ┌───────────┐
//!        ┌──────────────────────────▶ │ Confirmed │
//!  ┌─────┴────┐                       └───────────┘
//!  │ Watching │ ── third failure in a row, deadline ──▶ Failed
//!  └──────────┘
//! ```

use ensign_bundle::reason::{Code, Refusal};

use crate::stage::Policy;

/// Probe failures in a row that end a trial, counted after the first window: a service may take that long to come up, one
/// failed probe is noise on a loaded device, three at one-second spacing are not.
const FAILURES_IN_A_ROW: u8 = 3;
/// Past the deadline, milliseconds: the round at work may still end a healthy window. As long as the longest probe.
const LAST_ROUND_MS: u64 = 10_000;

/// The current run of passed or failed rounds of probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Start of the unbroken run of passed rounds, milliseconds since the switch.
    healthy_since_ms: Option<u64>,
    failures: u8,
    /// What the last failed round said.
    said: Option<String>,
}

/// What a round of probes amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    Watching,
    Confirmed,
    Failed(Refusal),
}

impl Watch {
    /// Takes a round in which every probe passed (`failure` = None) or one failed (what it said), `elapsed_ms` after the switch.
    pub fn round(&mut self, policy: &Policy, elapsed_ms: u64, failure: Option<&str>) -> Outlook {
        match failure {
            None => {
                self.failures = 0;
                let since = *self.healthy_since_ms.get_or_insert(elapsed_ms);
                if elapsed_ms.saturating_sub(since) >= policy.window_ms {
                    return Outlook::Confirmed;
                }
            }
            Some(text) => {
                self.healthy_since_ms = None;
                self.said = Some(text.to_owned());
                if elapsed_ms > policy.window_ms {
                    self.failures = self.failures.saturating_add(1);
                }
                if self.failures >= FAILURES_IN_A_ROW {
                    let (times, seconds) = (self.failures, elapsed_ms / 1000);
                    return Outlook::Failed(Refusal::new(
                        Code::Unhealthy,
                        format!("{times} probes failed in a row, {seconds} s after the switch: {text}"),
                    ));
                }
            }
        }
        if elapsed_ms >= policy.deadline_ms {
            return too_late(policy, failure.unwrap_or("the last probe passed"));
        }
        Outlook::Watching
    }

    /// When the trial is over whether or not another round ends, milliseconds since the switch.
    pub(crate) fn over_at_ms(&self, policy: &Policy) -> u64 {
        let grace = self.healthy_since_ms.map_or(0, |_| LAST_ROUND_MS);
        policy.deadline_ms.saturating_add(grace)
    }

    /// Nobody has said how a round went; `pending` is what has not answered.
    pub(crate) fn overdue(&self, policy: &Policy, elapsed_ms: u64, pending: &str) -> Outlook {
        if elapsed_ms < self.over_at_ms(policy) {
            return Outlook::Watching;
        }
        too_late(policy, self.said.as_deref().unwrap_or(pending))
    }
}

fn too_late(policy: &Policy, last: &str) -> Outlook {
    let (window, deadline) = (policy.window_ms / 1000, policy.deadline_ms / 1000);
    Outlook::Failed(Refusal::new(
        Code::TrialDeadline,
        format!("not healthy for {window} s within {deadline} s: {last}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        window_ms: 5000,
        deadline_ms: 60_000,
        probed: true,
    };

    /// One round per second, `+` passes and `-` fails; the outlook after the last.
    fn run(rounds: &str) -> Outlook {
        let mut watch = Watch::default();
        let mut outlook = Outlook::Watching;
        for (round, second) in rounds.chars().zip(1..) {
            assert_eq!(outlook, Outlook::Watching, "a finished trial at second {second}");
            outlook = watch.round(&POLICY, second * 1000, (round == '-').then_some("exit 1"));
        }
        outlook
    }

    #[test]
    fn a_whole_healthy_window_confirms() {
        assert_eq!(run("+++++"), Outlook::Watching);
        assert_eq!(run("++++++"), Outlook::Confirmed);
    }

    #[test]
    fn a_failed_probe_starts_the_window_again() {
        assert_eq!(run("++++-+++++"), Outlook::Watching);
        assert_eq!(run("++++-++++++"), Outlook::Confirmed);
    }

    #[test]
    fn three_failures_in_a_row_after_the_first_window_fail() {
        assert_eq!(run("-------"), Outlook::Watching);
        assert!(
            matches!(run("--------"), Outlook::Failed(r) if r.code == Code::Unhealthy && r.text.contains("exit 1"))
        );
        assert_eq!(run("------+--"), Outlook::Watching);
    }

    #[test]
    fn a_round_that_never_ends_is_not_waited_for_past_the_deadline() {
        let silent = Watch::default();
        assert_eq!(silent.overdue(&POLICY, 59_999, "web/check"), Outlook::Watching);
        let over = silent.overdue(&POLICY, 60_000, "web/check has not answered");
        assert!(
            matches!(&over, Outlook::Failed(r) if r.code == Code::TrialDeadline && r.text.contains("has not answered"))
        );
        let mut failed = Watch::default();
        failed.round(&POLICY, 1000, Some("exit 1"));
        let over = failed.overdue(&POLICY, 60_000, "web/check has not answered");
        assert!(matches!(over, Outlook::Failed(r) if r.text.contains("exit 1")));
        // A healthy window may be whole with the round at work.
        let mut healthy = Watch::default();
        healthy.round(&POLICY, 55_500, None);
        assert_eq!(healthy.overdue(&POLICY, 69_999, "web/check"), Outlook::Watching);
        assert!(matches!(
            healthy.overdue(&POLICY, 70_000, "web/check"),
            Outlook::Failed(_)
        ));
    }

    #[test]
    fn flapping_for_ever_ends_at_the_deadline() {
        assert!(matches!(run(&"+-".repeat(30)), Outlook::Failed(r) if r.code == Code::TrialDeadline));
    }
}
