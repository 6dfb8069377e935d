//! One rollout: its signed spec, its stage, its waves and members, and the counters over them.

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::plan::statements::GateKind;
use ensign_bundle::reason::Refusal;
use serde::{Deserialize, Serialize};

use crate::event::RolloutSpec;
use crate::member::{Counts, Member};

/// A signed plan on its way: what was signed, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    pub id: PlanId,
    /// Digest of the plan's payload.
    pub plan: Digest,
    /// As signed; the members' lists are moved to [`Rollout::members`].
    pub spec: RolloutSpec,
    /// Unix seconds.
    pub started_at: u64,
    /// Position among all rollouts, in the order they were started.
    pub order: u64,
    pub stage: Stage,
    /// Goes up with every resume.
    pub epoch: u32,
    /// When the rate allows the next offer, milliseconds.
    pub(crate) rate_due_ms: u64,
    pub(crate) control: Control,
    pub(crate) waves: Vec<Wave>,
    pub(crate) members: BTreeMap<DeviceId, Member>,
    pub(crate) index: Index,
}

/// What an operator or a rule made of the rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Running,
    /// By an operator.
    Paused {
        reason: Refusal,
        at: u64,
    },
    /// By a rule.
    Halted {
        reason: Refusal,
        at: u64,
    },
    Aborted {
        reason: Refusal,
        at: u64,
    },
    /// Waits for the rollout that takes it back.
    Reverting {
        reason: Refusal,
        at: u64,
    },
    Reverted {
        at: u64,
    },
    Superseded {
        by: PlanId,
        at: u64,
    },
    Expired {
        at: u64,
    },
    /// Devices that could not be reached may still come until the plan expires (`closed`).
    Done {
        at: u64,
        closed: bool,
    },
}

impl Stage {
    pub(crate) fn ended(&self) -> bool {
        match self {
            Self::Running | Self::Paused { .. } | Self::Halted { .. } | Self::Done { closed: false, .. } => false,
            Self::Aborted { .. }
            | Self::Reverting { .. }
            | Self::Reverted { .. }
            | Self::Superseded { .. }
            | Self::Expired { .. }
            | Self::Done { closed: true, .. } => true,
        }
    }
}

/// What happened to a wave, and its devices counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// Unix seconds; none = not open yet.
    pub opened_at: Option<u64>,
    /// Unix seconds; none = not done yet.
    pub done_at: Option<u64>,
    /// The promote statement of a manual gate is here.
    pub promoted_at: Option<u64>,
    /// Whose receipts make the gate of this wave.
    pub evidence: Vec<DeviceId>,
    /// A resume acknowledged that the quorum was not reached.
    pub quorum_acknowledged: bool,
    #[serde(skip)]
    pub(crate) counts: Counts,
    /// Failed and dark since the last resume.
    #[serde(skip)]
    pub(crate) tally: Tally,
    /// Devices whose receipts count for the next gate.
    #[serde(skip)]
    pub(crate) proven: BTreeSet<DeviceId>,
}

/// The control cohort when the newest wave opened: members that had not been offered the release yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Members that had not been offered the release.
    pub devices: u32,
    /// Of these, silent for longer than the dark limit.
    pub silent: u32,
}

/// What the stop rules look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) ok: u32,
    pub(crate) failed: u32,
    pub(crate) dark: u32,
}

/// Counters and queues over the members; every one of them follows from the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) tally: Tally,
    pub(crate) slots: BTreeSet<DeviceId>,
    /// Wave, then device: the order of offers.
    pub(crate) ready: BTreeSet<(u32, DeviceId)>,
    /// When silence has a consequence.
    pub(crate) deadlines: BTreeSet<(u64, DeviceId)>,
    /// Members that a newer rollout of the product took over.
    pub(crate) taken: u32,
    /// Members that this rollout would still update.
    pub(crate) open: u32,
    /// Members that have the whole release.
    pub(crate) fetched: u32,
}

impl Rollout {
    /// The device's place in it, if it has one.
    pub fn member(&self, device: &DeviceId) -> Option<&Member> {
        self.members.get(device)
    }

    /// Every device of every wave, in the order of ids.
    pub fn members(&self) -> impl Iterator<Item = (&DeviceId, &Member)> {
        self.members.iter()
    }

    /// In their order; the first is wave 1.
    pub fn waves(&self) -> &[Wave] {
        &self.waves
    }

    /// Devices that hold a slot.
    pub fn in_flight(&self) -> u32 {
        count(self.index.slots.len())
    }

    /// Most devices at once.
    pub fn cap(&self) -> u32 {
        self.spec.pace.max_parallel.unwrap_or(u32::MAX)
    }

    /// All waves together.
    pub fn counts(&self) -> Counts {
        self.waves
            .iter()
            .fold(Counts::default(), |sum, wave| sum.plus(&wave.counts))
    }

    /// Devices of wave `wave` (from 1) by standing; all 0 where there is no such wave.
    pub fn counts_of(&self, wave: u32) -> Counts {
        self.wave(wave).map(|w| w.counts).unwrap_or_default()
    }

    /// Offers may be made as far as the stage is concerned.
    pub fn serves(&self) -> bool {
        matches!(self.stage, Stage::Running | Stage::Done { closed: false, .. })
    }

    /// Nothing will be offered any more, whatever happens.
    pub fn ended(&self) -> bool {
        self.stage.ended()
    }

    /// There is nothing left to pause, to resume or to end.
    pub fn is_over(&self) -> bool {
        self.ended() || (matches!(self.stage, Stage::Done { .. }) && self.remaining() == 0)
    }

    /// Neither done nor ended: what an operator counts as not finished. Stragglers of a done one may still come.
    pub fn is_under_way(&self) -> bool {
        !self.ended() && !matches!(self.stage, Stage::Done { .. })
    }

    /// Whether the plan is over at `now`, unix seconds.
    pub fn expired(&self, now: u64) -> bool {
        now >= self.spec.expires
    }

    /// Whether an operator opens wave `number`. The first one is opened by the plan itself.
    pub fn is_manual(&self, number: u32) -> bool {
        let wave = (number as usize).checked_sub(1).and_then(|i| self.spec.waves.get(i));
        number > 1 && wave.is_some_and(|wave| wave.gate == GateKind::Manual)
    }

    /// Wave `number`, from 1.
    pub(crate) fn wave(&self, number: u32) -> Option<&Wave> {
        self.waves.get((number as usize).checked_sub(1)?)
    }

    pub(crate) fn wave_mut(&mut self, number: u32) -> Option<&mut Wave> {
        self.waves.get_mut((number as usize).checked_sub(1)?)
    }

    /// Waves with their numbers.
    pub(crate) fn numbered(&self) -> impl DoubleEndedIterator<Item = (u32, &Wave)> + ExactSizeIterator {
        self.waves.iter().enumerate().map(|(i, wave)| (count(i) + 1, wave))
    }

    /// Devices that may still be offered the release, or have it in hand.
    pub(crate) fn remaining(&self) -> u32 {
        let counts = self.counts();
        counts.pending + counts.active + counts.unreached
    }
}

/// Numbers of devices are far below 2^32: ids of a listed cohort are counted in 32 bits.
pub(crate) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
