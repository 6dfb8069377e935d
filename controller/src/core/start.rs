//! Starting a rollout: everything that is checked before a signed plan counts.

use std::collections::BTreeSet;

use ensign_api::Member;
use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::ids::Labels;
use ensign_bundle::plan::cohort::{CutWave, Listed};
use ensign_bundle::plan::scope::Scopes;
use ensign_bundle::plan::statements::{Cohort, Evidence, OnBreach, Plan};
use ensign_bundle::reason::Refusal;
use ensign_bundle::refuse;
use ensign_bundle::statement::{self, Document as _, Signed};
use ensign_bundle::text::printable;
use ensign_rollout::{DeviceState, Event, RolloutSpec, WaveSpec};

use super::devices::subject_of;
use super::plans::{Entry, PlanRow, SignedPlan, encode_lists};
use super::rows::key;
use super::state::State;

/// Characters of a withdrawal's reason.
const REASON: usize = 200;
/// Receipts that all gates of a plan may ask for together: their devices are named in one row of the ledger.
const EVIDENCE: u32 = 1024;

impl State {
    /// Starts a signed plan. Everything is checked before anything is written; the same plan again changes nothing.
    pub fn start_rollout(&mut self, envelope: &[u8], lists: &[Vec<Member>], by: &str) -> Result<PlanId, Refusal> {
        let plan = statement::open_unverified::<Plan>(envelope)?;
        let digest = plan.digest();
        let id = PlanId::of(&digest);
        if self.rollouts.plans.contains_key(&id) {
            return Ok(id);
        }
        let waves = check_lists(&plan.body, lists)?;
        self.check_members(&plan, &waves)?;
        plan.body.check_lifetime()?;
        self.authority().check_issued(&plan.body)?;
        self.check_release(&plan.body)?;
        self.check_seq(&plan.body)?;
        check_supported(&plan.body)?;
        if plan.body.expires <= self.now {
            return refuse!(PlanExpired, "the plan expired at {}", plan.body.expires);
        }
        let spec = spec(&plan.body, &waves);
        let lists = encode_lists(&waves)?;
        let row = PlanRow {
            plan: digest,
            document: self.keep_statement(envelope, plan.body.seq)?,
            lists: self.keep_document(&lists)?,
            gates: std::collections::BTreeMap::new(),
            promotes: std::collections::BTreeMap::new(),
            cancel: None,
            sent: 0,
            started_by: by.to_owned(),
        };
        self.put_new(key::plan(&id), &row)?;
        tracing::info!(
            rollout = %id,
            product = %plan.body.product,
            version = %plan.body.release.version,
            devices = waves.iter().map(|w| w.members.len()).sum::<usize>(),
            by,
            "a rollout starts"
        );
        let signed = Some(SignedPlan::new(plan.body, waves));
        self.rollouts.plans.insert(id, Entry { row, signed });
        self.happened(&Event::RolloutStarted {
            id,
            plan: digest,
            spec: Box::new(spec),
            at: self.now,
        });
        Ok(id)
    }

    /// Everybody in the plan is known here by the listed receipt key, and every scope that they are in has signed.
    fn check_members(&self, plan: &Signed<Plan>, waves: &[CutWave]) -> Result<(), Refusal> {
        for member in waves.iter().flat_map(|wave| &wave.members) {
            let row = self.device(&member.device)?;
            if row.receipt_key != member.receipt_key {
                return refuse!(
                    IdentityChanged,
                    "device {} ({}) has another receipt key than the plan lists",
                    member.device,
                    printable(&row.name, 64)
                );
            }
            if row.state == DeviceState::Revoked {
                return refuse!(Revoked, "{} is revoked", printable(&row.name, 64));
            }
        }
        for device in self.label_sets(waves.iter().flat_map(|wave| &wave.members).map(|m| m.device)) {
            let row = self.device(&device)?;
            Scopes::of_device(self.roles.root(), subject_of(row))?.require(&plan.envelope, &self.fleet.fleet)?;
        }
        Ok(())
    }

    /// One device for each set of labels among the members, or every device where a scope asks for names or ids: what scopes see.
    pub(super) fn label_sets(&self, members: impl Iterator<Item = DeviceId>) -> Vec<DeviceId> {
        let by_name = self.roles.root().scopes.iter().any(|scope| {
            ensign_bundle::selector::Selector::parse(&scope.select)
                .is_ok_and(|s| s.keys().iter().any(|k| ["name", "id"].contains(&k.as_str())))
        });
        let mut seen: BTreeSet<&Labels> = BTreeSet::new();
        members
            .filter(|id| by_name || self.devices.get(id).is_some_and(|row| seen.insert(&row.labels)))
            .collect()
    }

    fn check_release(&self, plan: &Plan) -> Result<(), Refusal> {
        let release = self.release(&plan.product, &plan.release.version)?;
        if release.manifest != plan.release.manifest || release.counter != plan.release.counter {
            return refuse!(
                PlanMismatch,
                "the plan brings manifest {}, {}@{} is published with {}",
                plan.release.manifest,
                plan.product,
                plan.release.version,
                release.manifest
            );
        }
        if let Some(why) = &release.yanked {
            return refuse!(
                Yanked,
                "{}@{} was withdrawn: {}",
                plan.product,
                plan.release.version,
                printable(why, REASON)
            );
        }
        Ok(())
    }

    fn check_seq(&self, plan: &Plan) -> Result<(), Refusal> {
        let specs = self.rollouts.model.rollouts().map(|(_, r)| &r.spec);
        let of_product = specs.filter(|spec| spec.product == plan.product);
        let newest = of_product.map(|spec| spec.seq).max().unwrap_or(0);
        let floor = self.roles.root().floor(&plan.product).plan_seq;
        let newest = newest.max(floor);
        if plan.seq <= newest {
            return refuse!(
                PlanReplayed,
                "the plan has number {}, {} was started already",
                plan.seq,
                newest
            );
        }
        Ok(())
    }
}

/// The lists hash to exactly the roots that the plan signs.
fn check_lists(plan: &Plan, lists: &[Vec<Member>]) -> Result<Vec<CutWave>, Refusal> {
    if lists.len() != plan.waves.len() {
        return refuse!(
            Malformed,
            "{} lists came with a plan of {} waves",
            lists.len(),
            plan.waves.len()
        );
    }
    let mut seen = BTreeSet::new();
    let mut waves = Vec::with_capacity(lists.len());
    for ((list, wave), number) in lists.iter().zip(&plan.waves).zip(1u32..) {
        let Cohort::Listed { root, count } = &wave.cohort else {
            return refuse!(Usage, "wave {number} has a selector; a rollout is started with lists");
        };
        if !list.is_sorted_by(|a, b| a.device < b.device) {
            return refuse!(Malformed, "the list of wave {number} is not strictly increasing");
        }
        if let Some(twice) = list.iter().find(|m| !seen.insert(m.device)) {
            return refuse!(Conflict, "device {} is in two waves", twice.device);
        }
        let members = list.iter().map(|m| Listed {
            device: m.device,
            receipt_key: m.receipt_key,
        });
        let cut = CutWave::new(number, members.collect());
        if cut.root != *root || cut.count() != *count {
            return refuse!(
                ContentMismatch,
                "the list of wave {number} has {} devices and root {}, the plan signs {count} and {root}",
                cut.count(),
                cut.root
            );
        }
        waves.push(cut);
    }
    Ok(waves)
}

fn check_supported(plan: &Plan) -> Result<(), Refusal> {
    if plan.pace.stop.on_breach == OnBreach::Revert {
        return refuse!(
            Usage,
            "the plan reverts by itself on a breach, which this version of the controller does not"
        );
    }
    let asked = plan.waves.iter().map(|wave| match wave.evidence {
        Evidence::Receipts(receipts) => receipts,
        Evidence::Dwell => 0,
    });
    let asked = asked.fold(0, u32::saturating_add);
    if asked > EVIDENCE {
        return refuse!(
            LimitExceeded,
            "the waves ask for {asked} receipts together, at most {EVIDENCE} are allowed"
        );
    }
    Ok(())
}

fn spec(plan: &Plan, waves: &[CutWave]) -> RolloutSpec {
    let wave_spec = |(cut, wave): (&CutWave, &ensign_bundle::plan::statements::Wave)| WaveSpec {
        members: cut.members.iter().map(|m| m.device).collect(),
        min_soak_s: wave.min_soak_s,
        gate: wave.gate,
        evidence: wave.evidence,
    };
    RolloutSpec {
        product: plan.product.clone(),
        version: plan.release.version.clone(),
        counter: plan.release.counter,
        manifest: plan.release.manifest,
        seq: plan.seq,
        waves: waves.iter().zip(&plan.waves).map(wave_spec).collect(),
        pace: plan.pace.clone(),
        not_before: plan.not_before,
        expires: plan.expires,
        downgrade: plan.downgrade.is_some(),
        reverts: plan.reverts.as_ref().map(|r| PlanId::of(&r.plan)),
        select: plan.select.clone(),
        exclude: plan.exclude.clone(),
    }
}
