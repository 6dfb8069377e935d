//! Why a device is where it is: the one rule that decides, with its numbers, and when it may move on.

use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::Phase;
use serde::{Deserialize, Serialize};

use crate::event::DeviceState;
use crate::fleet::{Device, Fleet};
use crate::index;
use crate::member::{Member, Outcome, Standing};
use crate::planner;
use crate::rollout::{Rollout, Stage};
use crate::rules::{self, Soak};
use crate::status;
use crate::waits;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    pub device: DeviceId,
    pub rollout: Option<PlanId>,
    /// From 1.
    pub wave: Option<u32>,
    /// Of the device, as it says itself.
    pub status: Phase,
    /// In the rollout.
    pub standing: Option<Standing>,
    pub reason: Refusal,
    /// Unix seconds; none where only an event can change it.
    pub next_eligible: Option<u64>,
    pub hint: String,
}

/// A reason, and when time alone ends it.
type Reason = (Refusal, Option<u64>);

/// Why `device` has, or has not, what `rollout` brings (`None` = the newest rollout that names the device).
pub fn why(fleet: &Fleet, rollout: Option<&PlanId>, device: &DeviceId, now: u64) -> Why {
    let known = fleet.device(device);
    let rollout = match rollout {
        Some(id) => fleet.rollout(id),
        None => fleet
            .rollouts
            .values()
            .filter(|r| r.members.contains_key(device))
            .max_by_key(|r| r.order),
    };
    let member = rollout.and_then(|r| r.member(device));
    let (reason, next_eligible) = match (known, rollout, member) {
        (None, _, _) => only(Code::NotFound, format!("there is no device {device}")),
        (Some(d), Some(r), Some(m)) => Asked {
            fleet,
            r,
            m,
            d,
            device,
            now,
        }
        .reason(),
        (Some(d), Some(r), None) => only(
            Code::NotInPlan,
            format!(
                "rollout {} of {} {} does not name {}",
                r.id, r.spec.product, r.spec.version, d.name
            ),
        ),
        (Some(d), None, _) => match standing_of_device(d) {
            Some(reason) => (reason, None),
            None => only(Code::NoRollout, format!("no rollout names {}", d.name)),
        },
    };
    Why {
        device: *device,
        rollout: rollout.map(|r| r.id),
        wave: member.map(|m| m.wave),
        status: known.map(|d| d.phase).unwrap_or_default(),
        standing: member.map(Member::standing),
        hint: reason.hint().to_owned(),
        reason,
        next_eligible,
    }
}

/// Nothing reaches a device in this state, whatever the rollout.
fn standing_of_device(device: &Device) -> Option<Refusal> {
    let name = &device.name;
    match device.state {
        DeviceState::Pending => Some(Refusal::new(Code::Pending, format!("{name} waits for approval"))),
        DeviceState::Revoked => Some(Refusal::new(Code::Revoked, format!("{name} is revoked"))),
        _ if device.cloned => Some(Refusal::new(
            Code::CloneDetected,
            format!("another copy of {name} connected: nothing is installed on either"),
        )),
        DeviceState::Suspended => Some(Refusal::new(Code::Suspended, format!("{name} is suspended"))),
        DeviceState::Approved => device.hold.as_ref().map(|reason| {
            let because = if reason.is_empty() {
                String::new()
            } else {
                format!(": {reason}")
            };
            Refusal::new(Code::Held, format!("{name} is held{because}"))
        }),
    }
}

struct Asked<'a> {
    fleet: &'a Fleet,
    r: &'a Rollout,
    m: &'a Member,
    d: &'a Device,
    device: &'a DeviceId,
    now: u64,
}

impl Asked<'_> {
    fn reason(&self) -> Reason {
        match self.m.standing() {
            Standing::Ok => self.ok(),
            Standing::Failed | Standing::Held => (self.failed_or_held(), None),
            Standing::Dark => self.dark(),
            Standing::Unreached => self.unreached(),
            Standing::Active => (self.active(), None),
            Standing::Pending => self.pending(),
        }
    }

    fn ok(&self) -> Reason {
        let version = &self.r.spec.version;
        let healthy = match self.m.outcome {
            Some(Outcome::Confirmed { healthy_for_s, .. }) => healthy_for_s,
            _ => 0,
        };
        only(
            Code::UpToDate,
            format!(
                "runs {} {version}, healthy for {healthy} s by its last receipt",
                self.r.spec.product
            ),
        )
    }

    fn failed_or_held(&self) -> Refusal {
        if let Some(Outcome::Failed { reason, .. } | Outcome::Spared { reason, .. }) = &self.m.outcome {
            return reason.clone();
        }
        if self.d.state != DeviceState::Approved
            && let Some(reason) = standing_of_device(self.d)
        {
            return reason;
        }
        if index::taken(self.r, self.d)
            && let Some(newest) = self.d.newest.get(&self.r.spec.product)
        {
            return status::superseded(newest);
        }
        if let Some(reason) = standing_of_device(self.d) {
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

    fn dark(&self) -> Reason {
        let silent = self.now.saturating_sub(self.fleet.silent_since(self.d));
        let limit = self.fleet.dark_after_s(self.r);
        let slot = if self.m.in_flight() { ", and keeps its slot" } else { "" };
        only(
            Code::Dark,
            format!("took the update and is silent for {silent} s, the limit is {limit} s{slot}"),
        )
    }

    fn unreached(&self) -> Reason {
        if let Some(reason) = self.stopped() {
            return (reason, None);
        }
        let reach = self.r.spec.pace.stop.reach_s;
        only(
            Code::Offline,
            format!(
                "not connected for {reach} s while wave {} was open; {}; it updates when it returns",
                self.m.wave,
                self.last_heard()
            ),
        )
    }

    fn active(&self) -> Refusal {
        // A stopped rollout gives no leases: only a device past the point of no return goes on.
        if !self.d.is_switching(&self.r.plan)
            && let Some(reason) = self.stopped()
        {
            return reason;
        }
        if !self.d.is_switching(&self.r.plan)
            && let Some(reason) = standing_of_device(self.d)
        {
            return reason;
        }
        // What the device itself waits for says more than that it was offered.
        let mine = self.d.plan == Some(self.r.plan);
        if mine && let Some(reason) = &self.d.reason {
            return reason.clone();
        }
        let since = self.m.offered_at.map_or(0, |at| self.now.saturating_sub(at));
        let doing = if mine {
            phase_name(self.d.phase)
        } else {
            "has not answered yet"
        };
        Refusal::new(Code::InProgress, format!("offered {since} s ago, {doing}"))
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
                "the plan expired before this device was updated",
            )),
        }
    }

    fn pending(&self) -> Reason {
        let Self { fleet, r, d, now, .. } = *self;
        if let Some(reason) = self.stopped() {
            return (reason, None);
        }
        if let Some(reason) = fleet.frozen() {
            return (reason, None);
        }
        if now < r.spec.not_before {
            return (waits::not_yet(r, now), Some(r.spec.not_before));
        }
        if r.wave(self.m.wave).is_none_or(|wave| wave.opened_at.is_none()) {
            return self.wave_waits();
        }
        if !d.connected {
            return only(Code::Offline, format!("not connected, {}", self.last_heard()));
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
        only(Code::InProgress, "is offered the release next".to_owned())
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
                let next = (number + 1 == mine).then(|| self.now.saturating_add(seconds));
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

    fn last_heard(&self) -> String {
        match self.d.heard_at {
            0 => "never heard of".to_owned(),
            at => format!("last heard {} s ago", self.now.saturating_sub(at)),
        }
    }
}

fn only(code: Code, text: String) -> Reason {
    (Refusal::new(code, text), None)
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
