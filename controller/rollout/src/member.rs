//! One device in one rollout: what is kept of it, and where it therefore stands.

use ensign_bundle::reason::{Code, Refusal};
use serde::{Deserialize, Serialize};

/// A row of the ledger: `slot/<rollout>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// From 1.
    pub wave: u32,
    /// First offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_at: Option<u64>,
    /// Taken with the offer, given back by a terminal report (or by an operator while dark).
    pub slot: bool,
    /// None = it has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Sequence number of the newest receipt for this plan; 0 = none.
    pub receipt_seq: u64,
    /// Unix seconds; none = not dark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dark_since: Option<u64>,
    /// Unix seconds; none = it was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreached_since: Option<u64>,
    /// Which resume its failure or silence came after: older ones are acknowledged.
    pub epoch: u32,
    /// It has the whole release on its disk, or had it.
    #[serde(default)]
    pub fetched: bool,
    /// How it is counted just now.
    #[serde(skip)]
    pub(crate) entry: Entry,
}

/// How the attempt of a device ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// By its receipt.
    Confirmed { healthy_for_s: u64, at: u64 },
    /// Refused, could not be applied or rolled back.
    Failed { reason: Refusal, at: u64 },
    /// The device declined for a reason that is no failure: it runs something newer, or it is held.
    Spared { reason: Refusal, at: u64 },
}

/// Where a device stands in a rollout, as `rollout status` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Not offered yet.
    Pending,
    /// Offered; its end is not known.
    Active,
    /// Confirmed by its receipt.
    Ok,
    /// Refused, could not be applied, or rolled back.
    Failed,
    /// Took the update, then was silent for longer than the dark limit.
    Dark,
    /// Not connected for longer than the reach since its wave opened.
    Unreached,
    /// Held, not approved, running something newer, or with a newer rollout: counts neither way.
    Held,
}

/// Devices by [`Standing`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub pending: u32,
    pub active: u32,
    pub ok: u32,
    pub failed: u32,
    pub dark: u32,
    pub unreached: u32,
    pub held: u32,
}

/// What a member adds to its rollout's counters and queues; the difference between two entries is what a change costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) standing: Option<Standing>,
    /// Counts against the caps.
    pub(crate) slot: bool,
    /// May be offered as far as the device itself is concerned.
    pub(crate) ready: bool,
    /// When its silence has a consequence.
    pub(crate) deadline: Option<u64>,
    /// Counts for the stop rules since the last resume.
    pub(crate) fresh: bool,
    /// Its receipt counts for the next gate.
    pub(crate) proven: bool,
    /// A newer rollout of the product took it over.
    pub(crate) taken: bool,
    /// This rollout would still update it.
    pub(crate) open: bool,
    pub(crate) fetched: bool,
}

impl Member {
    pub(crate) fn new(wave: u32) -> Self {
        Self {
            wave,
            offered_at: None,
            slot: false,
            outcome: None,
            receipt_seq: 0,
            dark_since: None,
            unreached_since: None,
            epoch: 0,
            fetched: false,
            entry: Entry::default(),
        }
    }

    /// Where it stands in its wave; pending until something happened.
    pub fn standing(&self) -> Standing {
        self.entry.standing.unwrap_or(Standing::Pending)
    }

    /// Counts against `max_parallel`.
    pub fn in_flight(&self) -> bool {
        self.entry.slot
    }

    /// When its silence will count against the device; `None`: it is connected, or its silence counts already or never will.
    pub(crate) fn silence_counts_at(&self) -> Option<u64> {
        self.entry.deadline
    }

    /// The device was heard: it is neither dark nor out of reach.
    pub(crate) fn heard(&mut self) {
        self.dark_since = None;
        self.unreached_since = None;
    }

    pub(crate) fn finish(&mut self, outcome: Outcome, epoch: u32) {
        // A second good receipt (the soak is over) is no new finish.
        let same = matches!(
            (&self.outcome, &outcome),
            (Some(Outcome::Confirmed { .. }), Outcome::Confirmed { .. })
        );
        if !same {
            self.epoch = epoch;
        }
        self.outcome = Some(outcome);
        self.slot = false;
    }
}

impl Outcome {
    /// What a refusal with this reason means for the rollout.
    pub(crate) fn refused(reason: Refusal, at: u64) -> Self {
        match reason.code {
            Code::NewerInstalled | Code::Held => Self::Spared { reason, at },
            _ => Self::Failed { reason, at },
        }
    }
}

impl Counts {
    /// Devices in all.
    pub fn total(&self) -> u32 {
        [
            self.pending,
            self.active,
            self.ok,
            self.failed,
            self.dark,
            self.unreached,
            self.held,
        ]
        .into_iter()
        .fold(0, u32::saturating_add)
    }

    /// Devices that will not change by themselves any more.
    pub fn settled(&self) -> u32 {
        self.total() - self.pending - self.active
    }

    /// Devices that took the update and whose answer, or silence, says something about it.
    pub fn answered(&self) -> u32 {
        self.ok.saturating_add(self.failed).saturating_add(self.dark)
    }

    pub(crate) fn of(&mut self, standing: Standing) -> &mut u32 {
        match standing {
            Standing::Pending => &mut self.pending,
            Standing::Active => &mut self.active,
            Standing::Ok => &mut self.ok,
            Standing::Failed => &mut self.failed,
            Standing::Dark => &mut self.dark,
            Standing::Unreached => &mut self.unreached,
            Standing::Held => &mut self.held,
        }
    }

    pub(crate) fn plus(mut self, other: &Self) -> Self {
        for standing in Standing::ALL {
            let mut other = *other;
            *self.of(standing) = self.of(standing).saturating_add(*other.of(standing));
        }
        self
    }
}

impl Standing {
    /// Every standing, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Active,
        Self::Ok,
        Self::Failed,
        Self::Dark,
        Self::Unreached,
        Self::Held,
    ];

    /// The word in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Dark => "dark",
            Self::Unreached => "unreached",
            Self::Held => "held",
        }
    }
}
