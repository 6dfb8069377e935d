//! A rollout that was started, as its plan says it. What the controller tells of a rollout is for looking at; what is signed about it is
//! signed about a plan that deploy keys have signed, and that this machine has verified.

use std::collections::{BTreeMap, BTreeSet};

use ensign_api::{Rollout, SignedPlan, Time};
use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::ids::{Ident, Labels};
use ensign_bundle::plan::cohort::{CutWave, Listed};
use ensign_bundle::plan::scope::Scopes;
use ensign_bundle::plan::statements::{Cohort, GateKind, Plan, Promote};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::selector::Subject;
use ensign_bundle::statement::{self, Document as _, Signed};
use ensign_bundle::text::printable;
use ensign_bundle::trust::roles::Scope;

use crate::app::Session;
use crate::clock;
use crate::difference::Difference;
use crate::evidence::{Inventory, Known};
use crate::failure::{Failure, Result, fail};
use crate::output::{Shell, some_of};
use crate::scopes;
use crate::units::show_count;

/// Rollouts whose plans are asked for, to learn the highest number of a product.
const ASKED: usize = 4;
/// What to do where the controller shows something else than people signed.
const TRUST_NOBODY: &str = "sign nothing; what was signed and what the controller shows differ: check the controller";

/// See the module.
#[derive(Debug)]
pub struct Running {
    pub plan: Signed<Plan>,
    pub cut: Vec<CutWave>,
    /// Names of the devices in each wave, or their ids where nobody vouches for a name.
    names: Vec<Vec<String>>,
    /// Waves that operators have promoted.
    promoted: BTreeSet<u32>,
}

impl Running {
    /// The plan of a rollout, verified: the thresholds of every scope that it touches, its devices under its Merkle roots, and that it is
    /// the plan of this rollout. Its age and its number are judged apart: what only ends it is welcome at any time.
    pub async fn fetch(session: &Session, found: &Rollout, inventory: &Inventory) -> Result<Self> {
        let shown: SignedPlan = session.client.get(&format!("/v1/rollouts/{}/plan", found.id)).await?;
        let plan = statement::open_unverified::<Plan>(&shown.plan.0)?;
        check_named(found, &plan)?;
        let cut = cut(&plan.body, &shown)?;
        let known: BTreeMap<DeviceId, &Known> = inventory.known.iter().map(|k| (k.member.device, k)).collect();
        let scopes = touched(session, &cut, &known)?;
        scopes::require(session, &scopes, &plan.envelope, TRUST_NOBODY)?;
        let digest = plan.digest();
        let mut promoted = BTreeSet::new();
        for bytes in &shown.promotes {
            let promote = statement::open_unverified::<Promote>(&bytes.0)?;
            scopes::require(session, &scopes, &promote.envelope, TRUST_NOBODY)?;
            if promote.body.plan == digest {
                promoted.insert(promote.body.wave);
            }
        }
        let name = |id: &DeviceId| {
            known
                .get(id)
                .map_or_else(|| id.to_string(), |known| known.member.name.clone())
        };
        let names = cut.iter().map(|w| w.members.iter().map(|m| name(&m.device)).collect());
        Ok(Self {
            names: names.collect(),
            plan,
            cut,
            promoted,
        })
    }

    pub fn digest(&self) -> Digest {
        self.plan.digest()
    }

    /// Refuses a plan that is over, or whose dates or number nobody should have signed.
    pub fn check_age(&self, session: &Session) -> Result<()> {
        let (plan, now) = (&self.plan.body, clock::now());
        plan.check_lifetime()?;
        session.trust.authority().check_issued(plan)?;
        if plan.expires <= now {
            return fail!(
                PlanExpired,
                "the plan expired at {}, it is {}",
                Time(plan.expires),
                Time(now)
            );
        }
        Ok(())
    }

    /// The first wave that waits for a promotion, by what was signed: nobody is led to open a later one.
    pub fn next_manual(&self) -> Option<u32> {
        let waves = self.plan.body.waves.iter().zip(&self.cut);
        let mut manual = waves.filter(|(wave, cut)| wave.gate == GateKind::Manual && cut.count() > 0);
        let waits = manual.find(|(_, cut)| !self.promoted.contains(&cut.number));
        waits.map(|(_, cut)| cut.number)
    }

    /// Refuses a wave that no promotion opens.
    pub fn check_manual(&self, wave: u32) -> Result<()> {
        let waves = &self.plan.body.waves;
        let place = usize::try_from(wave).ok().and_then(|n| n.checked_sub(1));
        match place.and_then(|at| waves.get(at)) {
            None => fail!(NotFound, "the plan has {} waves, no wave {wave}", waves.len()),
            Some(found) if found.gate == GateKind::Auto => {
                Err(Failure::new(Code::Conflict, format!("wave {wave} opens by itself"))
                    .hint("`ensign rollout status`"))
            }
            Some(_) => Ok(()),
        }
    }

    /// What the plan brings, and to whom; with `wave`, what opens.
    pub fn difference(&self, wave: Option<u32>) -> Difference {
        let plan = &self.plan.body;
        let mut all = Difference::default();
        let who = |names: &[String]| format!("{}: {}", show_count(names.len() as u64, "device"), some_of(names));
        match wave.and_then(|n| Some((n, self.names.get(usize::try_from(n).ok()?.checked_sub(1)?)?))) {
            Some((n, names)) => all.say(format!("opens wave {n} of {}", plan.waves.len()), &who(names)),
            None => all.say("to", &who(&self.names.concat())),
        }
        all.say("brings", &format!("{}@{}", plan.product, plan.release.version));
        all.say("manifest", &plan.release.manifest);
        all.say(
            "plan",
            &format!("{}, sha256 {}", PlanId::of(&self.digest()), self.digest()),
        );
        all.say("expires", &Time(plan.expires));
        all
    }
}

/// The highest number of a plan of the product, of those that the controller lists and this machine could verify; it is remembered. A
/// number that nobody signed leads nowhere.
pub async fn highest_seq(
    session: &mut Session,
    rollouts: &[Rollout],
    product: &Ident,
    inventory: &Inventory,
) -> Result<u64> {
    let own = session.trust.trusted().plan_seq_floor(product);
    let mut of_product: Vec<&Rollout> = rollouts
        .iter()
        .filter(|r| r.product == *product && r.seq > own)
        .collect();
    of_product.sort_by_key(|r| std::cmp::Reverse(r.seq));
    for found in of_product.into_iter().take(ASKED) {
        let verified = match Running::fetch(session, found, inventory).await {
            Ok(running) => running.check_number(session).map(|()| running),
            Err(e) if e.code == Code::ControllerUnreachable => return Err(e),
            Err(e) => Err(e),
        };
        match verified {
            Ok(running) => {
                session.trust.saw_plan(&running.plan.body, running.digest())?;
                break;
            }
            Err(e) => Shell::warn(&format!(
                "the controller shows a plan of {product} with number {} that does not hold, it is not counted: {e}",
                found.seq
            )),
        }
    }
    Ok(session.trust.trusted().plan_seq_floor(product))
}

impl Running {
    fn check_number(&self, session: &Session) -> Result<()> {
        self.plan.body.check_lifetime()?;
        Ok(session.trust.authority().check_issued(&self.plan.body)?)
    }
}

/// The plan is that of the rollout which was asked for.
fn check_named(found: &Rollout, plan: &Signed<Plan>) -> Result<()> {
    let (digest, body) = (plan.digest(), &plan.body);
    let same = PlanId::of(&digest) == found.id
        && digest == found.plan
        && body.product == found.product
        && body.release.version == found.version;
    if same {
        return Ok(());
    }
    Err(Failure::new(
        Code::PlanMismatch,
        format!(
            "the controller calls a rollout {} of {}@{} with plan {}, and shows the plan {digest} of {}@{}",
            found.id, found.product, found.version, found.plan, body.product, body.release.version
        ),
    )
    .hint(TRUST_NOBODY))
}

/// The devices that are shown are exactly those under the roots that the plan signs.
fn cut(plan: &Plan, shown: &SignedPlan) -> Result<Vec<CutWave>> {
    if shown.waves.len() != plan.waves.len() {
        return fail!(
            ContentMismatch,
            "the controller lists {} waves, the plan has {}",
            shown.waves.len(),
            plan.waves.len()
        );
    }
    let waves = plan.waves.iter().zip(&shown.waves).zip(1u32..);
    let wave = |((wave, members), number): ((&ensign_bundle::plan::statements::Wave, &Vec<_>), u32)| {
        let listed = members.iter().map(|m: &ensign_api::Member| Listed {
            device: m.device,
            receipt_key: m.receipt_key,
        });
        let cut = CutWave::new(number, listed.collect());
        match &wave.cohort {
            Cohort::Listed { root, count } if cut.root == *root && cut.count() == *count => Ok(cut),
            Cohort::Listed { root, count } => Err(Failure::new(
                Code::ContentMismatch,
                format!(
                    "the controller lists {} with root {} in wave {number}, the plan signs {count} with {root}",
                    show_count(u64::from(cut.count()), "device"),
                    cut.root
                ),
            )
            .hint(TRUST_NOBODY)),
            Cohort::Selector { expr, .. } => fail!(
                Usage,
                "wave {number} has the selector `{}`; only plans that list their devices are signed about here",
                printable(expr, 200)
            ),
        }
    };
    waves.map(wave).collect()
}

/// Every scope that a device of the plan is in. One for which nobody vouches any more counts as one without labels.
fn touched<'a>(session: &'a Session, cut: &[CutWave], known: &BTreeMap<DeviceId, &Known>) -> Result<Vec<&'a Scope>> {
    let root = session.trust.root();
    let (mut found, mut looked): (Vec<&Scope>, BTreeSet<(Labels, String)>) = (Vec::new(), BTreeSet::new());
    // Names and ids decide where a scope asks for them; labels otherwise, and few devices have labels of their own.
    let by_name = root
        .scopes
        .iter()
        .any(|s| s.select.contains("name") || s.select.contains("id"));
    for member in cut.iter().flat_map(|wave| &wave.members) {
        let member_of = known.get(&member.device).map(|k| &k.member);
        let labels = member_of.map(|m| m.labels.clone()).unwrap_or_default();
        let own = if by_name {
            member.device.to_string()
        } else {
            String::new()
        };
        if !looked.insert((labels.clone(), own)) {
            continue;
        }
        let subject = Subject {
            id: &member.device,
            name: member_of.map_or("", |m| m.name.as_str()),
            labels: &labels,
        };
        let scopes = Scopes::of_device(root, subject).map_err(|e: Refusal| Failure::from(e))?;
        for scope in scopes.iter() {
            if !found.iter().any(|f| f.name == scope.name) {
                found.push(scope);
            }
        }
    }
    if found.is_empty() {
        return fail!(NobodyMatches, "the plan lists nobody");
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}
