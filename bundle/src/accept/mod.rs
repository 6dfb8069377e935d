//! What a device accepts: one function, one reason code for each refusal, in a fixed order.
//!
//! The first of these that fails is the answer:
//!
//! 1. signatures — the plan reads (`malformed`, `limit-exceeded`) and has the threshold of every scope that covers the device
//!    (`unsigned`, `role-not-authorised`, `threshold-not-met`); the roles are there and fit each other (`metadata-missing`,
//!    `content-mismatch`); the release is listed (`not-found`), delegated (`outside-delegation`) and its counter is the listed one;
//! 2. the device — `hardware-mismatch`, `agent-too-old`, `step-missing`;
//! 3. counters — `plan-replayed`, `below-floor`, `downgrade-refused` or `newer-installed`, and what a prepared revert needs
//!    (`plan-mismatch`, `gate-not-open`);
//! 4. time — `clock-suspect`, `metadata-expired`, `plan-expired`, `lifetime-refused`;
//! 5. the plan — `no-offline-plan`, `plan-mismatch`, `policy-refused`, `plan-cancelled`, `yanked`, `denied`, `held`,
//!    `trust-degraded`, `identity-changed`, `not-in-plan`, `up-to-date` (not an error: exit code 0), `not-yet`, `gate-not-open`
//!    (with `receipt-invalid`);
//! 6. only to switch — `lease-missing`, `outside-window`, `locked`.
//!
//! Bounds of the delegation and the manifest's agreement with the release document are checked as soon as the manifest is there:
//! [`check_manifest`].

mod facts;
mod manifest;
mod order;
mod revert;

pub use facts::{Denial, DeviceFacts, HeldLease, Installed, Offer, Stage, Window};
pub use manifest::{ENSIGN_PRODUCT, check_components, check_manifest};

use crate::digest::{Digest, PlanId};
use crate::plan::scope;
use crate::plan::statements::Plan;
use crate::reason::Refusal;
use crate::statement::Signed;
use crate::trust::roles::{Product, Release};
use crate::trust::{Clock, ReleaseName, Source, Trusted};

/// An offer that the device may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub plan: Plan,
    /// Of the plan's payload: what receipts, cancels and gates name.
    pub digest: Digest,
    pub release: Release,
    /// The delegation that bounds the release.
    pub product: Product,
    /// From 1.
    pub wave: u32,
    pub direction: Direction,
}

/// Whether the counter goes up, and if not, what allows that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Upgrade,
    /// The plan allows it, with a reason.
    Downgrade,
    /// A prepared revert, on evidence.
    Revert,
}

impl Accepted {
    /// Of the plan: the first 16 bytes of its digest.
    pub fn id(&self) -> PlanId {
        PlanId::of(&self.digest)
    }
}

/// Judges an offer. The roles and the release document of the plan's release must already be in `trusted`: they got there by its
/// `update_*` methods. Run once to fetch and stage ([`Stage::Prepare`]) and again right before the switch ([`Stage::Switch`]): time
/// passes and operators change their minds in between.
pub fn accept(
    trusted: &Trusted,
    device: &DeviceFacts,
    offer: &Offer<'_>,
    clock: impl Into<Clock>,
    stage: Stage,
) -> Result<Accepted, Refusal> {
    let clock = clock.into();
    let scopes = trusted.scopes(&device.id, &device.name)?;
    let signed: Signed<Plan> = scope::open(offer.plan, &scopes, trusted.fleet())?;
    let digest = signed.digest();
    let plan = signed.body;
    let name = ReleaseName {
        product: plan.product.clone(),
        version: plan.release.version.clone(),
    };
    let (release, product) = trusted.listed_release(&name)?;

    let judge = order::Judge {
        trusted,
        device,
        offer,
        clock,
        plan: &plan,
        digest,
        release,
        scopes: &scopes,
    };
    judge.fits_device()?;
    let direction = judge.counters()?;
    judge.in_time()?;
    if offer.source == Source::Bundle {
        judge.may_be_offline()?;
    }
    judge.is_wanted()?;
    let wave = judge.is_member()?;
    judge.is_news()?;
    if stage == Stage::Switch || !plan.pace.prefetch {
        judge.has_begun()?;
        judge.gate_is_open(wave)?;
    }
    if stage == Stage::Switch {
        judge.may_switch_now()?;
    }
    let (release, product) = (release.clone(), product.clone());
    Ok(Accepted {
        plan,
        digest,
        release,
        product,
        wave,
        direction,
    })
}
