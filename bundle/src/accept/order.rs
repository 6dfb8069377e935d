//! The checks of the acceptance function, in its order.

use super::Direction;
use super::facts::{DeviceFacts, Installed, Offer, Window};
use crate::digest::Digest;
use crate::ids::Version;
use crate::limits;
use crate::plan::evidence::{Gate, Lease};
use crate::plan::scope::Scopes;
use crate::plan::statements::{Cohort, Plan};
use crate::plan::{cohort, gate};
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::selector::{Selector, Subject};
use crate::statement;
use crate::trust::roles::Release;
use crate::trust::{Clock, ReleaseName, Source, Trusted};

/// Longest life of a plan that is used offline, seconds.
const OFFLINE_PLAN_LIFE_S: u64 = 14 * 24 * 3600;

pub(super) struct Judge<'a> {
    pub(super) trusted: &'a Trusted,
    pub(super) device: &'a DeviceFacts,
    pub(super) offer: &'a Offer<'a>,
    pub(super) clock: Clock,
    pub(super) plan: &'a Plan,
    pub(super) digest: Digest,
    pub(super) release: &'a Release,
    pub(super) scopes: &'a Scopes<'a>,
}

impl Judge<'_> {
    pub(super) fn fits_device(&self) -> Result<(), Refusal> {
        let fits = &self.release.compatible;
        let (arch, hardware) = (&self.device.arch, &self.device.hardware);
        if !fits.arch.is_empty() && !fits.arch.contains(arch) {
            return refuse!(
                HardwareMismatch,
                "the release is for {}, this is {arch}",
                fits.arch.join(", ")
            );
        }
        if !fits.hardware.is_empty() && !fits.hardware.contains(hardware) {
            return refuse!(
                HardwareMismatch,
                "the release is for {}, this is `{hardware}`",
                fits.hardware.join(", ")
            );
        }
        if let Some(needed) = &fits.min_agent
            && numbers(needed).is_none_or(|needed| numbers(&self.device.agent).is_none_or(|own| own < needed))
        {
            return refuse!(
                AgentTooOld,
                "the release needs agent {needed}, this is {}",
                self.device.agent
            );
        }
        match (fits.min_from, self.installed()) {
            (Some(from), Some(installed)) if installed.counter < from => refuse!(
                StepMissing,
                "the release can be reached from counter {from}, here runs {}",
                installed.counter
            ),
            _ => Ok(()),
        }
    }

    /// What is older than before is refused, whoever signed it.
    pub(super) fn counters(&self) -> Result<Direction, Refusal> {
        let (plan, product) = (self.plan, &self.plan.product);
        let there = self.already_there();
        let floor = self.trusted.root().floor(product).plan_seq;
        if floor > 0 && plan.seq <= floor {
            return refuse!(
                PlanReplayed,
                "plan number {} of {product}, root retired numbers up to {floor}",
                plan.seq
            );
        }
        if let Some(last) = self.trusted.last_started(product) {
            let own = last.plan == self.digest && (there || self.device.attempt == Some(self.digest));
            if plan.seq <= last.seq && !own {
                return refuse!(
                    PlanReplayed,
                    "plan number {} of {product}, number {} was started already",
                    plan.seq,
                    last.seq
                );
            }
        }
        let (counter, floor) = (self.release.counter, self.trusted.security_floor(product));
        if counter < floor {
            return refuse!(BelowFloor, "counter {counter} of {product} is below the floor {floor}");
        }
        let lowest = self.trusted.lowest(product);
        if counter < lowest {
            return refuse!(
                BelowFloor,
                "counter {counter} of {product} is below {lowest}, the lowest that its signers keep"
            );
        }
        if there {
            return Ok(Direction::Upgrade);
        }
        if let Some(reverts) = &plan.reverts {
            self.check_revert(reverts)?;
            return Ok(Direction::Revert);
        }
        let Some(installed) = self.installed() else {
            return Ok(Direction::Upgrade);
        };
        if counter > installed.counter {
            return Ok(Direction::Upgrade);
        }
        if plan.downgrade.is_some() {
            return Ok(Direction::Downgrade);
        }
        let text = format!(
            "counter {counter} of {product} is offered, {} is installed",
            installed.counter
        );
        if counter < installed.counter && self.offer.source == Source::Online {
            return refuse!(NewerInstalled, "{text}");
        }
        refuse!(DowngradeRefused, "{text}")
    }

    pub(super) fn in_time(&self) -> Result<(), Refusal> {
        let offline = self.offer.source == Source::Bundle;
        let without_time = offline && self.trusted.root().policy.offline_without_time;
        if !without_time && !self.trusted.clock_is_usable(self.clock) {
            return refuse!(
                ClockSuspect,
                "the clock says {} and is not synchronised, or is behind what signed documents prove",
                self.clock.now
            );
        }
        let plan = self.plan;
        let name = ReleaseName {
            product: plan.product.clone(),
            version: plan.release.version.clone(),
        };
        self.trusted.fresh_release(&name, self.clock, self.offer.source)?;
        let now = self.trusted.now(self.clock);
        if now >= plan.expires {
            return refuse!(PlanExpired, "the plan expired at {}, it is {now}", plan.expires);
        }
        if plan.issued > now.saturating_add(limits::ISSUED_AHEAD_S) {
            return refuse!(LifetimeRefused, "the plan was issued at {}, it is {now}", plan.issued);
        }
        Ok(())
    }

    /// An offline plan names the snapshot it was made with, and that is its proof of freshness.
    pub(super) fn may_be_offline(&self) -> Result<(), Refusal> {
        let (plan, policy) = (self.plan, &self.trusted.root().policy);
        let snapshot = self.trusted.snapshot_bytes().map(Digest::of);
        if plan.offline.is_none() || plan.offline != snapshot {
            return refuse!(
                NoOfflinePlan,
                "the plan is not signed for offline use with this metadata"
            );
        }
        if plan.expires.saturating_sub(plan.issued) > OFFLINE_PLAN_LIFE_S {
            return refuse!(
                NoOfflinePlan,
                "an offline plan may live {OFFLINE_PLAN_LIFE_S} s, this one lives {} s",
                plan.expires.saturating_sub(plan.issued)
            );
        }
        if let Some(scope) = self.scopes.iter().find(|scope| !policy.offline.contains(&scope.name)) {
            return refuse!(
                NoOfflinePlan,
                "root's policy allows no offline plans in scope {}",
                scope.name
            );
        }
        if plan
            .waves
            .iter()
            .any(|wave| matches!(wave.cohort, Cohort::Selector { .. }))
        {
            return refuse!(
                NoOfflinePlan,
                "an offline plan lists its devices, this one has a selector"
            );
        }
        Ok(())
    }

    pub(super) fn is_wanted(&self) -> Result<(), Refusal> {
        let (wanted, release) = (&self.plan.release, self.release);
        let same = (&wanted.version, wanted.counter, wanted.manifest, wanted.length)
            == (
                &release.release,
                release.counter,
                release.manifest.digest,
                release.manifest.length,
            );
        if !same {
            return refuse!(
                PlanMismatch,
                "the plan is for manifest {} with counter {}, the release has {} with {}",
                wanted.manifest,
                wanted.counter,
                release.manifest.digest,
                release.counter
            );
        }
        self.first_wave_is_small()?;
        if self.trusted.is_cancelled(&self.digest) {
            return refuse!(PlanCancelled, "plan {} was cancelled", self.digest);
        }
        if let Some(reason) = &release.yanked {
            return refuse!(
                Yanked,
                "{}/{} was withdrawn: {reason}",
                release.product,
                release.release
            );
        }
        if let Some(denial) = self.device.denied.get(&wanted.manifest) {
            return refuse!(
                Denied,
                "{}/{} failed on this device before: {}, {}",
                release.product,
                release.release,
                denial.code,
                times(denial.count)
            );
        }
        if let Some(reason) = self.trusted.hold(&self.device.id) {
            return refuse!(Held, "an operator holds this device: {reason}");
        }
        if self.device.trust_degraded {
            return refuse!(
                TrustDegraded,
                "the trust state is an older copy, a refresh must come first"
            );
        }
        Ok(())
    }

    /// The wave of this device, proven.
    pub(super) fn is_member(&self) -> Result<u32, Refusal> {
        let (device, member) = (self.device, self.offer.member);
        let place = usize::try_from(member.wave).ok().and_then(|n| n.checked_sub(1));
        match place.and_then(|at| self.plan.waves.get(at)).map(|wave| &wave.cohort) {
            Some(Cohort::Selector { expr, cumulative_bp }) => {
                let labels = self.trusted.labels(&device.id);
                let subject = Subject {
                    id: &device.id,
                    name: &device.name,
                    labels: &labels,
                };
                let bucket = cohort::bucket(&self.plan.cut_seed, &device.id);
                if !Selector::parse(expr)?.matches(subject) || bucket >= *cumulative_bp {
                    return refuse!(
                        NotInPlan,
                        "wave {} is for `{expr}` up to {cumulative_bp}, this device is at {bucket}",
                        member.wave
                    );
                }
            }
            _ => gate::check_member(self.plan, &device.id, member)?,
        }
        // After the proof: what a plan says of this device ends the plan here, what somebody claims that it says does not.
        if member.receipt_key != device.receipt_key {
            return refuse!(
                IdentityChanged,
                "the plan lists this device with receipt key {}, it has {}",
                member.receipt_key.id(),
                device.receipt_key.id()
            );
        }
        Ok(member.wave)
    }

    pub(super) fn is_news(&self) -> Result<(), Refusal> {
        if self.already_there() {
            return refuse!(
                UpToDate,
                "{}/{} is installed already",
                self.plan.product,
                self.plan.release.version
            );
        }
        Ok(())
    }

    pub(super) fn has_begun(&self) -> Result<(), Refusal> {
        let (start, now) = (self.plan.not_before, self.clock.wall());
        if now < start {
            return refuse!(NotYet, "the plan starts at {start}, it is {now}");
        }
        Ok(())
    }

    pub(super) fn gate_is_open(&self, wave: u32) -> Result<(), Refusal> {
        let gate = self.offer.gate.map(read_gate).transpose()?;
        gate::check(
            self.plan,
            &self.digest,
            wave,
            gate.as_ref(),
            self.offer.dwell_s,
            self.scopes,
            &self.trusted.authority(self.clock),
        )
    }

    pub(super) fn may_switch_now(&self) -> Result<(), Refusal> {
        if self.offer.source == Source::Online {
            self.lease_is_live()?;
        }
        if self.plan.emergency {
            return Ok(());
        }
        match &self.device.window {
            Window::Open => {}
            Window::Closed { opens } => {
                let opens = opens.map_or(String::new(), |at| format!(", the next opens at {at}"));
                return refuse!(OutsideWindow, "no maintenance window is open{opens}");
            }
            Window::Unknown(window) => {
                return refuse!(
                    OutsideWindow,
                    "the maintenance window `{window}` cannot be evaluated here"
                );
            }
        }
        if let Some(lock) = &self.device.lock {
            return refuse!(Locked, "the device is locked {lock}");
        }
        Ok(())
    }

    fn lease_is_live(&self) -> Result<(), Refusal> {
        let Some(held) = &self.offer.lease else {
            return refuse!(LeaseMissing, "the controller gave no permission to start now");
        };
        let role = &self.trusted.root().roles.timestamp;
        // Whoever brings one that is not signed brings none.
        let opened = statement::open(held.envelope, &role.keys, role.threshold, self.trusted.fleet());
        let lease: Lease = opened
            .map_err(|refusal| Refusal::new(Code::LeaseMissing, format!("the lease is none: {refusal}")))?
            .body;
        if lease.plan != self.digest || lease.device != self.device.id || lease.nonce != self.device.nonce {
            return refuse!(
                LeaseMissing,
                "the lease is of plan {}, device {} and nonce {}",
                lease.plan,
                lease.device,
                lease.nonce
            );
        }
        let ttl = lease.ttl_s.min(limits::LEASE_S);
        if held.age_s >= ttl {
            return refuse!(
                LeaseMissing,
                "the lease was good for {ttl} s, it is {} s old",
                held.age_s
            );
        }
        Ok(())
    }

    /// Root's bound on the first wave that has any device.
    fn first_wave_is_small(&self) -> Result<(), Refusal> {
        let Some(most) = self.trusted.root().policy.first_wave_max else {
            return Ok(());
        };
        for wave in &self.plan.waves {
            match &wave.cohort {
                Cohort::Listed { count: 0, .. } => {}
                Cohort::Listed { count, .. } if *count <= most => return Ok(()),
                Cohort::Listed { count, .. } => {
                    return refuse!(
                        PolicyRefused,
                        "the first wave has {count} devices, root's policy allows {most}"
                    );
                }
                Cohort::Selector { .. } => {
                    return refuse!(
                        PolicyRefused,
                        "the first wave has no bound, root's policy allows {most} devices"
                    );
                }
            }
        }
        Ok(())
    }

    fn already_there(&self) -> bool {
        self.installed()
            .is_some_and(|installed| installed.manifest == self.plan.release.manifest)
    }

    fn installed(&self) -> Option<&Installed> {
        self.device.installed.get(&self.plan.product)
    }
}

/// The gate that is shown. Nobody signs a gate, so one that cannot be read says nothing about the plan: it opens nothing.
pub(super) fn read_gate(bytes: &[u8]) -> Result<Gate, Refusal> {
    Gate::decode(bytes).map_err(|refusal| Refusal::new(Code::GateNotOpen, format!("the gate is none: {refusal}")))
}

/// `MAJOR.MINOR.PATCH` as one number; what follows a `-` or `+` does not count.
fn numbers(version: &Version) -> Option<u64> {
    let plain = version.as_str().split(['-', '+']).next()?;
    Version::parse(plain).ok()?.counter()
}

fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        more => format!("{more} times"),
    }
}
