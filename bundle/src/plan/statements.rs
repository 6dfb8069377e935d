//! What operators ask: plan, cancel, hold, promote, grant. Signed by deploy keys on operators' machines.

use ensign_crypto::PublicKey;
use serde::{Deserialize, Serialize};

use crate::codec::Ext;
use crate::digest::{CutSeed, DeviceId, Digest};
use crate::ids::{Ident, Label, Labels, Version};
use crate::limits;
use crate::reason::Refusal;
use crate::refuse;
use crate::statement::Document;
use crate::trust::roles::FORMAT;

/// Who gets which release, in which waves. Its identity is the digest of the payload, its id the first 16 bytes of that.
/// What the controller enforces alone stands in [`Pace`]; devices enforce the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub format: u16,
    /// Unix seconds.
    pub issued: u64,
    pub product: Ident,
    /// Greater than that of the last plan a device started for the product.
    pub seq: u64,
    /// Orders the devices of a cut; drawn at random for each plan.
    pub cut_seed: CutSeed,
    pub release: PlanRelease,
    /// In order; waves are numbered from 1.
    pub waves: Vec<Wave>,
    /// Nothing starts before, unix seconds; 0 = at once.
    pub not_before: u64,
    /// Nothing starts from then on, unix seconds; at most 30 days after `issued`.
    pub expires: u64,
    /// Maintenance windows. A device that cannot evaluate one refuses the plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<String>,
    /// May only tighten the manifest's numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthBounds>,
    /// Present where the plan takes back another one, on its failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverts: Option<Reverts>,
    /// Present where the plan may go back to a lower counter, with the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downgrade: Option<String>,
    /// Present where the plan may be used from a stick: digest of the snapshot it is fresh with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<Digest>,
    /// Passes windows and locks; never waves, evidence or floors.
    pub emergency: bool,
    /// What the controller enforces.
    pub pace: Pace,
    /// The selector and exclusions it was cut from, and why: for people.
    pub select: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Ext::is_empty")]
    pub ext: Ext,
}

/// The release a plan brings: `manifest` is the manifest's digest, in plans, receipts and reverts alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRelease {
    pub version: Version,
    /// As in the manifest; orders the releases of a product.
    pub counter: u64,
    pub manifest: Digest,
    /// Of the manifest, bytes.
    pub length: u64,
}

/// One step of a plan; waves are numbered from 1, at most 64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    pub cohort: Cohort,
    /// How long a device of this wave must have been healthy before its receipt counts for the next gate, seconds of boot clock.
    pub min_soak_s: u64,
    pub gate: GateKind,
    /// What opens this wave.
    pub evidence: Evidence,
}

/// Who is in a wave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cohort {
    /// Exactly the devices under this Merkle root (RFC 9162, `plan::merkle`).
    Listed { root: Digest, count: u32 },
    /// Whoever the newest grant's labels match, up to this cumulative share in basis points.
    Selector { expr: String, cumulative_bp: u32 },
}

/// Whether evidence alone opens a wave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateKind {
    /// It does.
    Auto,
    /// Also needs a signed [`Promote`].
    Manual,
}

/// What a device wants to see before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// Receipts of distinct devices of the nearest earlier wave that has any. 0 only where no earlier wave has a device.
    Receipts(u32),
    /// The device waits by its own clock: the sum of the earlier waves' soaks.
    Dwell,
}

/// Bounds on the manifest's health numbers, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthBounds {
    /// A shorter window of the manifest becomes this, seconds.
    pub window_s: u64,
    /// A later deadline of the manifest becomes this, seconds.
    pub deadline_s: u64,
}

/// A prepared revert: which plan it takes back, from where to where, for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reverts {
    /// The plan that is taken back.
    pub plan: Digest,
    /// Manifest that is left.
    pub from: Digest,
    /// Manifest that is gone back to.
    pub to: Digest,
    /// Longest time since the switch to `from` on a device that goes back, seconds of boot clock.
    pub revert_for_s: u64,
    /// Receipts of failures that prove the need, 1 to 64.
    pub failures: u32,
}

/// What the controller enforces: signed so that everyone sees the same, but a stolen controller may ignore it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Most devices from their first offer to their terminal report; none = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// At most one device for each value of this label updates at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_per: Option<Label>,
    /// Most first offers in an hour; none = no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_h: Option<u32>,
    /// Devices may fetch before their gate opens.
    pub prefetch: bool,
    /// Among rollouts under way the higher one is served first. Default 0.
    pub priority: u32,
    pub stop: Stop,
}

/// What stops a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Failures since the last resume that stop it.
    pub failed: Bound,
    /// Devices gone dark since the last resume that stop it.
    pub dark: Bound,
    /// Finished devices before a percentage counts.
    pub min_sample: u32,
    /// Silence that makes an updated device dark; none = three check-in intervals, at least 30 min. Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dark_after_s: Option<u64>,
    /// Healthy share of those not held and reached that a wave needs, basis points.
    pub quorum_bp: u32,
    /// Not connected for this long since the wave opened = unreached, seconds.
    pub reach_s: u64,
    pub on_breach: OnBreach,
}

/// A count, or a share in basis points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    Count(u32),
    BasisPoints(u32),
}

/// What a stop rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBreach {
    /// Stop, and wait for an operator.
    Halt,
    /// Bring the updated devices back by the prepared revert.
    Revert,
}

/// Ends a plan for ever; devices remember it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    pub format: u16,
    /// Unix seconds.
    pub issued: u64,
    /// Digest of the payload of the plan that ends.
    pub plan: Digest,
    pub product: Ident,
    pub reason: String,
}

/// Takes one device out of every update, or lets it in again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    pub format: u16,
    /// Unix seconds.
    pub issued: u64,
    pub device: DeviceId,
    /// Greater than that of the hold before.
    pub seq: u64,
    /// False lets it in again.
    pub held: bool,
    pub reason: String,
}

/// Opens a manual gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    pub format: u16,
    /// Unix seconds.
    pub issued: u64,
    pub plan: Digest,
    /// From 1.
    pub wave: u32,
}

/// Labels that operators give to a device, or to every device that joins with a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    pub format: u16,
    /// Unix seconds.
    pub issued: u64,
    pub subject: Subject,
    /// All of its labels, at most 64: they take the place of those before.
    pub labels: Labels,
    /// The highest one counts; a token's grant has 0.
    pub label_seq: u64,
}

/// Whom a grant gives its labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    Device(DeviceId),
    /// `expires` and `uses` bind joining only; what joined stays evidence.
    Token {
        key: PublicKey,
        uses: u32,
        expires: u64,
        approve: bool,
    },
}

/// What an operator asks, with the time of asking.
pub trait Asked: Document {
    /// Unix seconds.
    fn issued(&self) -> u64;
}

impl Document for Plan {
    const KIND: &'static str = "plan";
    const MAX_BYTES: usize = limits::PLAN_BYTES;

    fn check(&self) -> Result<(), Refusal> {
        check_format(Self::KIND, self.format)?;
        if self.waves.is_empty() || self.waves.len() > limits::WAVES {
            return refuse!(
                LimitExceeded,
                "the plan has {} waves, 1 to {} are allowed",
                self.waves.len(),
                limits::WAVES
            );
        }
        self.check_waves()?;
        if let Some(reverts) = &self.reverts
            && (reverts.failures == 0 || reverts.failures as usize > limits::GATE_RECEIPTS)
        {
            return refuse!(
                Malformed,
                "a revert asks for {} receipts of failure, 1 to {} are possible",
                reverts.failures,
                limits::GATE_RECEIPTS
            );
        }
        let stop = &self.pace.stop;
        for (brake, bound) in [("stop-failed", stop.failed), ("stop-dark", stop.dark)] {
            if let Bound::BasisPoints(bp) = bound
                && bp > 10_000
            {
                return refuse!(Malformed, "{brake} is {bp} basis points, at most 10000 are possible");
            }
        }
        if self.pace.stop.quorum_bp > 10_000 {
            return refuse!(
                Malformed,
                "quorum is {} basis points, at most 10000 are possible",
                self.pace.stop.quorum_bp
            );
        }
        Ok(())
    }

    fn check_lifetime(&self) -> Result<(), Refusal> {
        if self.expires <= self.issued || self.expires - self.issued > limits::PLAN_LIFE_S {
            return refuse!(
                LifetimeRefused,
                "the plan lives from {} to {}, at most {} s are allowed",
                self.issued,
                self.expires,
                limits::PLAN_LIFE_S
            );
        }
        check_number(Self::KIND, self.seq, self.issued)
    }
}

impl Plan {
    /// Each wave asks for evidence that the nearest earlier wave with a device can give, and for none where there is no such wave.
    fn check_waves(&self) -> Result<(), Refusal> {
        let mut nearest: Option<&Cohort> = None;
        for (wave, number) in self.waves.iter().zip(1u32..) {
            if let Evidence::Receipts(receipts) = wave.evidence {
                let most = match nearest {
                    None => 0,
                    Some(Cohort::Listed { count, .. }) => {
                        (*count).min(u32::try_from(limits::GATE_RECEIPTS).unwrap_or(u32::MAX))
                    }
                    // Nobody can prove to be in a cohort that is not listed.
                    Some(Cohort::Selector { .. }) => {
                        return refuse!(
                            Malformed,
                            "wave {number} follows a selector and must wait by dwell, not by receipts"
                        );
                    }
                };
                if receipts > most || (receipts == 0 && nearest.is_some()) {
                    return refuse!(
                        Malformed,
                        "wave {number} asks for {receipts} receipts, the wave before it can give 1 to {most}"
                    );
                }
            }
            match &wave.cohort {
                Cohort::Listed { count: 0, .. } => {}
                Cohort::Selector { expr, cumulative_bp } => {
                    crate::selector::Selector::parse(expr)?;
                    if *cumulative_bp > 10_000 {
                        return refuse!(Malformed, "wave {number} reaches {cumulative_bp} basis points of 10000");
                    }
                    nearest = Some(&wave.cohort);
                }
                Cohort::Listed { .. } => nearest = Some(&wave.cohort),
            }
        }
        Ok(())
    }
}

macro_rules! small_statement {
    ($type:ty, $kind:literal) => {
        impl Document for $type {
            const KIND: &'static str = $kind;
            const MAX_BYTES: usize = limits::STATEMENT_BYTES;

            fn check(&self) -> Result<(), Refusal> {
                check_format(Self::KIND, self.format)
            }
        }
    };
}
pub(super) use small_statement;

small_statement!(Cancel, "cancel");
small_statement!(Promote, "promote");

impl Document for Hold {
    const KIND: &'static str = "hold";
    const MAX_BYTES: usize = limits::STATEMENT_BYTES;

    fn check(&self) -> Result<(), Refusal> {
        check_format(Self::KIND, self.format)
    }

    fn check_lifetime(&self) -> Result<(), Refusal> {
        check_number(Self::KIND, self.seq, self.issued)
    }
}

impl Document for Grant {
    const KIND: &'static str = "grant";
    const MAX_BYTES: usize = limits::STATEMENT_BYTES;

    fn check(&self) -> Result<(), Refusal> {
        check_format(Self::KIND, self.format)?;
        if self.labels.len() > limits::LABELS {
            return refuse!(
                LimitExceeded,
                "the grant has {} labels, at most {} are allowed",
                self.labels.len(),
                limits::LABELS
            );
        }
        Ok(())
    }

    fn check_lifetime(&self) -> Result<(), Refusal> {
        check_number(Self::KIND, self.label_seq, self.issued)
    }
}

macro_rules! asked {
    ($($type:ty),+) => {
        $(impl Asked for $type {
            fn issued(&self) -> u64 {
                self.issued
            }
        })+
    };
}
asked!(Plan, Cancel, Hold, Promote, Grant);

/// Numbers follow the clock: one that ran ahead of it would block every later statement for as long. With the bound on `issued` nobody
/// gets them near their end.
fn check_number(kind: &str, number: u64, issued: u64) -> Result<(), Refusal> {
    let most = issued.saturating_add(limits::NUMBER_AHEAD_S);
    if number > most {
        return refuse!(
            NumberAhead,
            "{kind} number {number} is ahead of the clock: issued at {issued}, at most {most} is allowed"
        );
    }
    Ok(())
}

pub(super) fn check_format(kind: &str, format: u16) -> Result<(), Refusal> {
    if format != FORMAT {
        return refuse!(
            VersionUnknown,
            "{kind} has format {format}, this program knows {FORMAT}"
        );
    }
    Ok(())
}
