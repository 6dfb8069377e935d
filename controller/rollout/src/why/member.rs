//! Why a member of a rollout stands where it stands.

use ensign_bundle::digest::DeviceId;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::utc;
use ensign_bundle::wire::Phase;
use ensign_bundle::words::show_seconds;

use super::{Reason, kept_out, only};
use crate::fleet::{Device, Fleet};
use crate::index;
use crate::member::{Member, Outcome, Standing};
use crate::planner;
use crate::rollout::{Rollout, Stage};
use crate::rules::{self, Soak};
use crate::status;
use crate::waits;

pub(super) struct Asked<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) r: &'a Rollout,
    pub(super) m: &'a Member,
    pub(super) d: &'a Device,
    pub(super) device: &'a DeviceId,
    pub(super) now: u64,
}

impl Asked<'_> {
    pub(super) fn reason(&self) -> Reason {
        match self.m.standing() {
            Standing::Ok => only(Code::UpToDate, self.up_to_date()),
            Standing::Failed | Standing::Held => (self.failed_or_held(), None),
            Standing::Dark => only(Code::Dark, self.dark()),
            Standing::Unreached => self.unreached(),
            Standing::Active => (self.active(), None),
            Standing::Pending => self.pending(),
        }
    }

    fn up_to_date(&self) -> String {
        let healthy = match self.m.outcome {
            Some(Outcome::Confirmed { healthy_for_s, .. }) => healthy_for_s,
            _ => 0,
        };
        let proven = match healthy {
            // A release without a health check is confirmed at once.
            0 => "confirmed".to_owned(),
            _ => format!("healthy for {} by its last receipt", show_seconds(healthy)),
        };
        let text = format!("runs {} {}, {proven}", self.r.spec.product, self.r.spec.version);
        if let Some(kept_out) = kept_out(self.d) {
            return format!("{text}; {kept_out}");
        }
        if self.d.connected {
            return text;
        }
        format!("{text}; {}{}", self.away(), self.counts_as("dark"))
    }

    fn failed_or_held(&self) -> Refusal {
        if let Some(Outcome::Failed { reason, at }) = &self.m.outcome {
            let (spec, said) = (&self.r.spec, waits::told(reason));
            let text = format!("{} {}, at {}: {}", spec.product, spec.version, utc(*at), said.text);
            return Refusal::new(said.code, text);
        }
        if let Some(Outcome::Spared { reason, .. }) = &self.m.outcome {
            return waits::told(reason);
        }
        let kept_out = kept_out(self.d);
        // A hold ends, a newer rollout stays newer.
        if let Some(reason) = &kept_out
            && reason.code != Code::Held
        {
            return reason.clone();
        }
        if index::taken(self.r, self.d)
            && let Some(newest) = self.d.newest.get(&self.r.spec.product)
        {
            return status::superseded(newest);
        }
        if let Some(reason) = kept_out {
            return reason;
        }
        match self.d.runs(&self.r.spec.product) {
            Some(installed) => Refusal::new(
                Code::NewerInstalled,
                format!(
                    "runs {} {}, the rollout brings {}",
                    installed.product, installed.version, self.r.spec.version
                ),
            ),
            None => Refusal::new(Code::Held, format!("{} is held", self.d.name)),
        }
    }

    fn dark(&self) -> String {
        let limit = show_seconds(self.fleet.dark_after_s(self.r));
        let slot = if self.m.in_flight() {
            ", and it keeps its slot until it answers"
        } else {
            ""
        };
        format!("took the update and is {}; the limit is {limit}{slot}", self.away())
    }

    fn unreached(&self) -> Reason {
        if let Some(reason) = self.stopped() {
            return (reason, None);
        }
        let reach = self.r.spec.pace.stop.reach_s;
        only(
            Code::Offline,
            format!(
                "{}, longer than the {} that wave {} waits; it updates when it returns before {}",
                self.away(),
                show_seconds(reach),
                self.m.wave,
                utc(self.r.spec.expires)
            ),
        )
    }

    fn active(&self) -> Refusal {
        // A stopped rollout gives no leases: only a device past the point of no return goes on.
        let switching = self.d.is_switching(&self.r.plan);
        let stops = || {
            kept_out(self.d)
                .or_else(|| self.stopped())
                .or_else(|| self.fleet.frozen())
        };
        if !switching && let Some(reason) = stops() {
            return reason;
        }
        let mine = self.d.plan == Some(self.r.plan);
        let doing = if mine {
            phase_name(self.d.phase)
        } else {
            "has not answered yet"
        };
        let since = show_seconds(self.m.offered_at.map_or(0, |at| self.now.saturating_sub(at)));
        // Whatever it said last, it says nothing now.
        if !self.d.connected {
            let last = if mine {
                format!("its last word: {doing}")
            } else {
                "it had not answered".to_owned()
            };
            return Refusal::new(
                Code::Offline,
                format!(
                    "offered {since} ago, {last}; {}{}; it goes on by itself when it is back",
                    self.away(),
                    self.counts_as(index::silence_means(self.r, self.m, self.d).name())
                ),
            );
        }
        // What the device itself waits for says more than that it was offered. Without an attempt it has a reason only where it cannot
        // take one up: no room for what it is sent, no usable trust.
        let unable = matches!(self.d.phase, Phase::Idle | Phase::Confirmed);
        match &self.d.reason {
            Some(reason) if mine || unable => waits::told(reason),
            _ => Refusal::new(Code::InProgress, format!("offered {since} ago, {doing}")),
        }
    }

    /// What stops the whole rollout.
    fn stopped(&self) -> Option<Refusal> {
        match &self.r.stage {
            Stage::Running | Stage::Done { closed: false, .. } => None,
            Stage::Paused { reason, .. }
            | Stage::Halted { reason, .. }
            | Stage::Aborted { reason, .. }
            | Stage::Reverting { reason, .. } => Some(reason.clone()),
            Stage::Reverted { .. } => Some(Refusal::new(Code::Reverted, "the rollout was reverted")),
            Stage::Superseded { by, .. } => Some(status::superseded(by)),
            Stage::Expired { .. } | Stage::Done { closed: true, .. } => Some(Refusal::new(
                Code::PlanExpired,
                format!(
                    "the plan expired at {}, before this device was updated",
                    utc(self.r.spec.expires)
                ),
            )),
        }
    }

    fn pending(&self) -> Reason {
        let Self { fleet, r, now, .. } = *self;
        if let Some(reason) = self.stopped().or_else(|| fleet.frozen()) {
            return (reason, None);
        }
        if now < r.spec.not_before {
            return (waits::not_yet(r, now), Some(r.spec.not_before));
        }
        if r.wave(self.m.wave).is_none_or(|wave| wave.opened_at.is_none()) {
            return self.wave_waits();
        }
        if !self.d.connected {
            let text = format!(
                "{}{}; it updates when it returns before {}",
                self.away(),
                self.counts_as("unreached"),
                utc(r.spec.expires)
            );
            return only(Code::Offline, text);
        }
        if let Some(other) = planner::busy_elsewhere(fleet, r, self.device) {
            return only(Code::AtCapacity, format!("rollout {other} updates this device first"));
        }
        if let Some(reason) = self.site_busy() {
            return (reason, None);
        }
        if r.in_flight() >= r.cap() {
            return (waits::at_capacity(r), None);
        }
        if let Some(rate) = r.spec.pace.rate_per_h {
            let opens = rules::rate_opens_at(r.rate_due_ms, rate);
            if opens > now {
                return (waits::at_rate(rate, opens, now), Some(opens));
            }
        }
        (Refusal::new(Code::InProgress, "is offered the release next"), Some(now))
    }

    fn wave_waits(&self) -> Reason {
        let (r, mine) = (self.r, self.m.wave);
        if let Some((number, wave)) = planner::current(r) {
            let counts = wave.counts;
            if rules::is_settled(&counts)
                && let Soak::Left {
                    proven,
                    needed,
                    seconds,
                } = rules::soak(r, number, wave, self.now)
            {
                let next = number + 1 == mine && !rules::waits_for_promote(r, mine);
                let next = next.then(|| self.now.saturating_add(seconds));
                return (waits::soaking(number, proven, needed, seconds), next);
            }
            return only(
                Code::WaveWaiting,
                format!(
                    "is in wave {mine}; wave {number} has {} of {} settled",
                    counts.settled(),
                    rules::devices(counts.total())
                ),
            );
        }
        match r.numbered().find(|(_, wave)| wave.opened_at.is_none()) {
            Some((next, _)) if rules::waits_for_promote(r, next) => (waits::promote(next), None),
            Some((next, _)) => only(Code::WaveWaiting, format!("is in wave {mine}; wave {next} opens next")),
            None => only(Code::WaveWaiting, format!("is in wave {mine}")),
        }
    }

    fn site_busy(&self) -> Option<Refusal> {
        let (key, value) = planner::site(self.fleet, self.r, self.device)?;
        let other = self
            .fleet
            .rollouts
            .values()
            .flat_map(|r| &r.index.slots)
            .filter(|id| *id != self.device)
            .filter_map(|id| self.fleet.device(id))
            .find(|d| d.label(&key) == Some(&value))?;
        Some(Refusal::new(
            Code::AtCapacity,
            format!(
                "one device per {key} at a time: {} of {key} {value} is updating",
                other.name
            ),
        ))
    }

    /// `not connected for 120 s (since 2026-12-01T02:00:00Z)`.
    fn away(&self) -> String {
        if self.d.heard_at == 0 {
            return "not connected, and never was".to_owned();
        }
        let since = self.fleet.last_heard(self.d);
        format!(
            "not connected for {} (since {})",
            show_seconds(self.now.saturating_sub(since)),
            utc(since)
        )
    }

    /// `, counts as dark in 60 s (at 2026-12-01T02:30:00Z)`, where its silence will have a consequence.
    fn counts_as(&self, what: &str) -> String {
        self.m.silence_counts_at().map_or_else(String::new, |at| {
            format!(
                ", counts as {what} in {} (at {})",
                show_seconds(at.saturating_sub(self.now)),
                utc(at)
            )
        })
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Fetching => "fetching",
        Phase::Staged => "staged",
        Phase::Waiting => "waiting",
        Phase::Switching => "switching",
        Phase::Trial => "on trial",
        Phase::Confirmed => "confirmed, its receipt is on the way",
        Phase::RollingBack => "rolling back",
        Phase::RolledBack => "rolled back",
        Phase::Rejected => "rejected",
    }
}
