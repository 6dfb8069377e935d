//! Where a rollout stands: the document of `rollout status`.

use std::collections::BTreeMap;

use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::reason::{Code, Refusal};
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::hints;
use crate::index::silence_means;
use crate::member::Standing;
use crate::planner;
use crate::rollout::{Rollout, Stage, Wave};
use crate::rules::{self, Soak};
use crate::waits;

/// The document of `rollout status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    pub id: PlanId,
    pub product: Ident,
    pub version: Version,
    pub state: RolloutState,
    pub reason: Option<Refusal>,
    pub waves: Vec<WaveStatus>,
    /// Devices that have the whole release, or had it: what was sent is less than that many times its size.
    pub fetched: u32,
    /// Devices that open waves wait for and that are not connected, the first to count against it first; at most [`AWAY_SHOWN`].
    pub away: Vec<Away>,
    /// Connected devices that were asked and wait for something of their own, at most [`AWAY_SHOWN`].
    pub waiting: Vec<Waiting>,
    /// What to type next; empty where nothing is to be done.
    pub hint: String,
}

/// A device that says what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub device: DeviceId,
    pub name: String,
    pub wave: u32,
    pub reason: Refusal,
}

/// Most devices in [`RolloutStatus::away`].
pub const AWAY_SHOWN: usize = 8;

/// A device that was asked, or could be, and is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    pub device: DeviceId,
    pub name: String,
    /// From 1.
    pub wave: u32,
    /// Since when nothing is heard of it, unix seconds.
    pub since: u64,
    /// What it will count as ...
    pub counts_as: Standing,
    /// ... and when, unix seconds.
    pub at: u64,
}

/// Where a rollout stands, in the words that scripts see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// Started; its `not_before` has not come.
    Scheduled,
    /// Offers are made.
    Running,
    /// Stopped by an operator.
    Paused,
    /// Stopped by a rule of the plan.
    Halted,
    /// Ended by a signed cancel.
    Aborted,
    /// Another rollout takes it back.
    Reverting,
    /// Another rollout took it back.
    Reverted,
    /// Newer rollouts of the product took its devices over.
    Superseded,
    /// The plan ended before the rollout did.
    Expired,
    /// Every wave is done; devices that were not reached may still come.
    Done,
}

/// How many devices of a wave are where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct WaveStatus {
    /// From 1.
    pub index: u32,
    pub state: WaveState,
    /// Devices in this wave alone.
    pub target: u32,
    /// Not offered yet; from here to `held` as [`Standing`].
    pub pending: u32,
    pub active: u32,
    pub ok: u32,
    pub failed: u32,
    pub dark: u32,
    pub unreached: u32,
    pub held: u32,
    /// Of those pending and active, not connected.
    #[serde(default)]
    pub away: u32,
    /// Seconds until its receipts can show the whole soak.
    pub soak_left_s: u64,
}

/// Where a wave stands, in the words that scripts see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WaveState {
    /// Not open yet.
    Waiting,
    /// Its devices are offered the release.
    Open,
    /// Every device has answered; receipts must still show the whole soak.
    Soaking,
    /// Its quorum was reached and its soak is over; the next one may open.
    Done,
    /// Open while its rollout was halted, or not done when its rollout ended.
    Halted,
}

/// Bytes on their way to devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TransferBytes {
    /// Records of blocks and patches with their framing, retries included.
    pub sent: u64,
    /// Plain size less `sent`.
    pub saved: u64,
}

impl RolloutState {
    /// The word in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Aborted => "aborted",
            Self::Reverting => "reverting",
            Self::Reverted => "reverted",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
            Self::Done => "done",
        }
    }

    /// Nothing changes any more.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Aborted | Self::Reverted | Self::Superseded | Self::Expired | Self::Done
        )
    }
}

impl WaveState {
    /// The word in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Open => "open",
            Self::Soaking => "soaking",
            Self::Done => "done",
            Self::Halted => "halted",
        }
    }
}

/// The status of `rollout` at `now` (unix seconds); `None` = there is no such rollout.
pub fn status(fleet: &Fleet, rollout: &PlanId, now: u64) -> Option<RolloutStatus> {
    let rollout = fleet.rollout(rollout)?;
    let (state, reason) = state(fleet, rollout, now);
    let (away, counts) = away(fleet, rollout);
    let waits = reason.as_ref().map(|r| r.code);
    Some(RolloutStatus {
        id: rollout.id,
        product: rollout.spec.product.clone(),
        version: rollout.spec.version.clone(),
        state,
        hint: hints::of_rollout(fleet, rollout, waits),
        reason,
        waves: rollout
            .numbered()
            .map(|(number, wave)| WaveStatus {
                away: counts.get(&number).copied().unwrap_or_default(),
                ..wave_status(rollout, number, wave, now)
            })
            .collect(),
        fetched: rollout.index.fetched,
        away,
        waiting: waiting(fleet, rollout),
    })
}

/// The name of the state of a rollout.
pub(crate) fn state_name(fleet: &Fleet, rollout: &Rollout, now: u64) -> &'static str {
    state(fleet, rollout, now).0.name()
}

/// Who is not there, and how many that are in each wave.
fn away(fleet: &Fleet, rollout: &Rollout) -> (Vec<Away>, BTreeMap<u32, u32>) {
    let (mut shown, mut counts) = (Vec::new(), BTreeMap::new());
    for (at, id) in &rollout.index.deadlines {
        let (Some(member), Some(device)) = (rollout.member(id), fleet.device(id)) else {
            continue;
        };
        if !matches!(member.standing(), Standing::Active | Standing::Pending) {
            continue;
        }
        let counts_as = silence_means(rollout, member, device);
        *counts.entry(member.wave).or_default() += 1;
        if shown.len() < AWAY_SHOWN {
            shown.push(Away {
                device: *id,
                name: device.name.clone(),
                wave: member.wave,
                since: fleet.last_heard(device),
                counts_as,
                at: *at,
            });
        }
    }
    (shown, counts)
}

/// Who waits for something of its own: a lock, a window, space.
fn waiting(fleet: &Fleet, rollout: &Rollout) -> Vec<Waiting> {
    let one = |id: &DeviceId| {
        let (member, device) = (rollout.member(id)?, fleet.device(id)?);
        let asked = device.connected && device.plan == Some(rollout.plan) && member.outcome.is_none();
        let reason = device.reason.as_ref().filter(|_| asked)?;
        Some(Waiting {
            device: *id,
            name: device.name.clone(),
            wave: member.wave,
            reason: waits::told(reason),
        })
    };
    let slots = rollout.index.slots.iter();
    slots.filter_map(one).take(AWAY_SHOWN).collect()
}

/// Took an update and is silent since.
pub fn is_dark(fleet: &Fleet, device: &DeviceId) -> bool {
    fleet.device(device).is_some_and(|d| {
        d.rollouts
            .iter()
            .filter_map(|id| fleet.rollout(id)?.member(device))
            .any(|member| member.standing() == Standing::Dark)
    })
}

fn state(fleet: &Fleet, rollout: &Rollout, now: u64) -> (RolloutState, Option<Refusal>) {
    match &rollout.stage {
        Stage::Running => {
            let waits = waits_for(fleet, rollout, now);
            if waits.as_ref().is_some_and(|w| w.code == Code::NotYet) {
                (RolloutState::Scheduled, waits)
            } else {
                (RolloutState::Running, waits)
            }
        }
        Stage::Paused { reason, .. } => (RolloutState::Paused, Some(reason.clone())),
        Stage::Halted { reason, .. } => (RolloutState::Halted, Some(halted(rollout, reason))),
        Stage::Aborted { reason, .. } => (RolloutState::Aborted, Some(reason.clone())),
        Stage::Reverting { reason, .. } => (RolloutState::Reverting, Some(reason.clone())),
        Stage::Reverted { .. } => (
            RolloutState::Reverted,
            Some(Refusal::new(Code::Reverted, "its devices run the release before again")),
        ),
        Stage::Superseded { by, .. } => (RolloutState::Superseded, Some(superseded(by))),
        Stage::Expired { .. } => (
            RolloutState::Expired,
            Some(Refusal::new(
                Code::PlanExpired,
                format!(
                    "the plan expired with {} not updated",
                    rules::devices(rollout.remaining())
                ),
            )),
        ),
        Stage::Done { .. } => (RolloutState::Done, None),
    }
}

/// Why it halted, and where it cannot go on from here, that too.
fn halted(rollout: &Rollout, reason: &Refusal) -> Refusal {
    match rules::dead_end(rollout) {
        Some(end) => Refusal::new(reason.code, format!("{reason}; {end}")),
        None => reason.clone(),
    }
}

/// What a running rollout waits for as a whole: a brake, its start, or an operator.
pub(crate) fn waits_for(fleet: &Fleet, rollout: &Rollout, now: u64) -> Option<Refusal> {
    if let Some(frozen) = fleet.frozen() {
        return Some(frozen);
    }
    if now < rollout.spec.not_before {
        return Some(waits::not_yet(rollout, now));
    }
    if planner::current(rollout).is_some() {
        return None;
    }
    let (next, _) = rollout.numbered().find(|(_, wave)| wave.opened_at.is_none())?;
    rules::waits_for_promote(rollout, next).then(|| waits::promote(next))
}

pub(crate) fn superseded(by: &PlanId) -> Refusal {
    Refusal::new(Code::Superseded, format!("rollout {} took its place", hints::short(by)))
}

fn wave_status(rollout: &Rollout, number: u32, wave: &Wave, now: u64) -> WaveStatus {
    let counts = wave.counts;
    let open = wave.opened_at.is_some() && wave.done_at.is_none();
    let soak = (open && rules::is_settled(&counts)).then(|| rules::soak(rollout, number, wave, now));
    let state = match (&rollout.stage, &soak) {
        _ if wave.done_at.is_some() => WaveState::Done,
        // Whatever ended it: an open wave goes no further, the others never open.
        (stage, _) if stage.ended() => WaveState::Halted,
        _ if wave.opened_at.is_none() => WaveState::Waiting,
        (Stage::Halted { .. }, _) => WaveState::Halted,
        (_, Some(Soak::Left { .. })) => WaveState::Soaking,
        _ => WaveState::Open,
    };
    WaveStatus {
        index: number,
        state,
        target: counts.total(),
        pending: counts.pending,
        active: counts.active,
        ok: counts.ok,
        failed: counts.failed,
        dark: counts.dark,
        unreached: counts.unreached,
        held: counts.held,
        away: 0,
        soak_left_s: match soak {
            Some(Soak::Left { seconds, .. }) if state == WaveState::Soaking => seconds,
            _ => 0,
        },
    }
}
