//! The trial: rounds of probes, and the end of its time whatever they do.

use std::time::Duration;

use ensign_apply::{Component, Event, Stage};
use ensign_bundle::trust::Trusted;

use super::checks::{self, Check};
use super::course::{Course, Errand, Purpose};
use super::shell::{Shell, ShellError};
use super::sockets;
use crate::clock;

/// From the start of one round of probes to the start of the next.
const ROUND: Duration = Duration::from_secs(1);

impl Shell {
    pub(super) fn begin_watch(&mut self) {
        let Stage::Trial(trial) = &self.device.stage else {
            return;
        };
        let Ok(Some(manifest)) = self.read_manifest(&trial.target.manifest.digest) else {
            // Without it nothing can be asked, and what is not asked does not pass.
            let reason = "the manifest of what runs on trial is gone".to_owned();
            self.checks = Some(vec![Check::Never(reason)]);
            self.round_at = Some(clock::boot());
            return;
        };
        let components: Vec<Component> = self
            .device
            .generation(trial.to)
            .into_iter()
            .flat_map(|g| &g.components)
            .filter(|c| c.product == manifest.product)
            .cloned()
            .collect();
        let targets = self.trusted.as_ref().and_then(Trusted::targets);
        let network = targets
            .and_then(|t| t.product(&manifest.product))
            .is_some_and(|p| p.network);
        let checks = checks::of(&manifest, &components, network);
        if checks.iter().any(|check| matches!(check, Check::Controller { .. })) {
            // The link half opens a session that answers the new nonce: what is signed for it was signed since the switch.
            self.leases.draw();
            self.contact = None;
            sockets::tell_link(self);
        }
        self.checks = Some(checks);
        self.round_at = Some(clock::boot());
    }

    pub(super) fn begin_round(&mut self) -> Result<(), ShellError> {
        let Some(checks) = &self.checks else { return Ok(()) };
        let course = Course::probes(checks);
        self.round_at = Some(clock::boot() + ROUND);
        self.begin(course)
    }

    /// How long until the trial is over, whatever the runner does. While the controller may still be waited for, it is not.
    pub(super) fn trial_left(&self) -> Option<Duration> {
        let left = Duration::from_millis(self.device.trial_left_ms(&self.wall.now())?);
        let within = self.checks.iter().flatten().filter_map(|check| match check {
            Check::Controller { within_s } if self.controller_answers(Duration::from_secs(*within_s)).is_none() => {
                Some(Duration::from_secs(*within_s))
            }
            _ => None,
        });
        let lasted = Duration::from_millis(self.device.trial_ms(&self.wall.now()));
        Some(left.max(within.max().unwrap_or_default().saturating_sub(lasted)))
    }

    /// No round of probes has ended the trial in its time.
    pub(super) fn end_trial(&mut self) -> Result<(), ShellError> {
        let pending = match &self.course {
            Some((course, Some(Errand::Check(check)))) if course.purpose == Purpose::Probe => {
                format!("{} has not answered", check.name())
            }
            _ => "no probe has answered".to_owned(),
        };
        self.step(Event::Overdue { pending })
    }

    /// Whether the controller has been heard from since the switch; `None` = there is time left.
    pub(super) fn controller_answers(&self, within: Duration) -> Option<bool> {
        let Stage::Trial(trial) = &self.device.stage else {
            return Some(true);
        };
        if !trial.contact || self.contact.is_some() {
            return Some(true);
        }
        let product = self
            .device
            .generation(trial.to)
            .and_then(|g| g.product(&trial.target.product));
        let elapsed = Duration::from_millis(product.map_or(0, |p| p.uptime.elapsed_ms(&self.wall.now())));
        (elapsed >= within).then_some(false)
    }
}
