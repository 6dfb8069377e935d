//! Rollouts as the API shows them.

use ensign_api::{Away, Base64, Halted, Member, Reason, Rollout, SignedPlan, Time, TransferBytes, Waiting, Why};
use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::plan::cohort::{CutWave, Listed};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::printable;
use ensign_bundle::words::{Fits, ROLLOUT_PREFIX, by_prefix};
use ensign_rollout as model;

use super::rows::DeviceRow;
use super::state::State;
use crate::clock;

/// Characters of a reason: devices' texts are in some of them.
const REASON: usize = 500;
/// Characters of a device's name.
const NAME: usize = 64;

impl State {
    /// `rollout status`.
    pub fn view_rollout(&self, id: &PlanId) -> Result<Rollout, Refusal> {
        let not_found = || Refusal::new(Code::NotFound, format!("there is no rollout {id}"));
        let rollout = self.rollouts.model.rollout(id).ok_or_else(not_found)?;
        // The clock of the question, not that of the last change: what is left of a soak goes by it.
        let status = model::status(&self.rollouts.model, id, clock::unix_now()).ok_or_else(not_found)?;
        let release = self.release(&status.product, &status.version);
        // What devices say decides whom it counts for; its size and what was sent are known here.
        let plain = release.map_or(0, |r| r.bytes).saturating_mul(u64::from(status.fetched));
        let sent = self.rollouts.entry(id)?.row.sent;
        Ok(Rollout {
            id: *id,
            product: status.product,
            version: status.version,
            state: status.state,
            reason: status.reason.as_ref().map(reason),
            waves: status.waves,
            bytes: TransferBytes {
                sent,
                saved: plain.saturating_sub(sent),
            },
            away: status.away.iter().map(away).collect(),
            waiting: status.waiting.iter().map(waiting).collect(),
            frozen: self.frozen().filter(|_| !rollout.is_over()),
            hint: status.hint,
            revision: self.rollouts.revision(id),
            plan: rollout.plan,
            seq: rollout.spec.seq,
            started: Time(rollout.started_at),
            expires: Time(rollout.spec.expires),
        })
    }

    /// The plan of a rollout, for people who sign about it.
    pub fn view_plan(&self, id: &PlanId) -> Result<SignedPlan, Refusal> {
        let entry = self.rollouts.entry(id)?;
        let signed = entry.signed()?;
        let wave = |wave: &CutWave| {
            let member = |m: &Listed| Member {
                device: m.device,
                receipt_key: m.receipt_key,
            };
            wave.members.iter().map(member).collect()
        };
        let promotes = entry.row.promotes.values();
        Ok(SignedPlan {
            plan: Base64(self.document(&entry.row.document.digest).map_err(|_| entry.lost())?),
            waves: signed.waves().iter().map(wave).collect(),
            promotes: promotes
                .map(|row| self.document(&row.digest).map(Base64))
                .collect::<Result<_, _>>()?,
        })
    }

    /// `rollout ls`: newest first.
    pub fn view_rollouts(&self) -> Result<Vec<Rollout>, Refusal> {
        let mut all: Vec<_> = self.rollouts.model.rollouts().map(|(id, r)| (r.order, *id)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.iter().map(|(_, id)| self.view_rollout(id)).collect()
    }

    /// The rule that decides about a device in a rollout.
    pub fn view_why(&self, id: &PlanId, device: &DeviceId) -> Result<Why, Refusal> {
        let row = self.device(device)?;
        let why = model::why(&self.rollouts.model, Some(id), device, clock::unix_now());
        Ok(self.show_why(row, why))
    }

    /// The rule that decides about a device just now, whichever rollout it comes from.
    pub fn view_device_why(&self, device: &DeviceId) -> Result<Why, Refusal> {
        let row = self.device(device)?;
        let why = model::why(&self.rollouts.model, None, device, clock::unix_now());
        Ok(self.show_why(row, why))
    }

    fn show_why(&self, row: &DeviceRow, why: model::Why) -> Why {
        Why {
            device: why.device,
            release: why.rollout.as_ref().and_then(|id| self.brings(id)),
            rollout: why.rollout,
            wave: why.wave,
            status: self.view_device(row).status.name().to_owned(),
            status_of: self.status_of(row),
            reason: Some(reason(&why.reason)),
            next_eligible: why.next_eligible.map(Time).or_else(|| unlocked_at(&why.reason)),
            hint: why.hint,
        }
    }

    /// `PRODUCT@VERSION` of a rollout.
    fn brings(&self, id: &PlanId) -> Option<String> {
        let spec = &self.rollouts.model.rollout(id)?.spec;
        Some(format!("{}@{}", spec.product, spec.version))
    }

    /// What the newest status of a device is about.
    pub(super) fn status_of(&self, row: &DeviceRow) -> Option<String> {
        self.brings(&PlanId::of(&row.status.as_ref()?.plan?))
    }

    /// The rollout that `text` means: an id, a unique prefix of at least 4 digits, or a product (its newest).
    pub fn find_rollout(&self, text: &str) -> Result<PlanId, Refusal> {
        if let Ok(id) = text.parse::<PlanId>()
            && self.rollouts.plans.contains_key(&id)
        {
            return Ok(id);
        }
        match by_prefix(self.rollouts.plans.keys(), ToString::to_string, text, ROLLOUT_PREFIX) {
            Fits::One(id) => return Ok(*id),
            Fits::Several(n) => {
                return Err(Refusal::new(
                    Code::Conflict,
                    format!("{} fits {n} rollouts", printable(text, 64)),
                ));
            }
            Fits::Nothing => {}
        }
        let of_product = self
            .rollouts
            .model
            .rollouts()
            .filter(|(_, r)| r.spec.product.as_str() == text);
        match of_product.max_by_key(|(_, r)| r.order) {
            Some((id, _)) => Ok(*id),
            None => Err(Refusal::new(
                Code::NotFound,
                format!("there is no rollout {}", printable(text, 64)),
            )),
        }
    }

    pub(super) fn is_dark(&self, device: &DeviceId) -> bool {
        model::is_dark(&self.rollouts.model, device)
    }

    pub(super) fn live_rollouts(&self) -> u64 {
        self.rollouts.model.rollouts().filter(|(_, r)| r.is_under_way()).count() as u64
    }

    pub(super) fn halted(&self) -> Vec<Halted> {
        let one = |(r, why): (&model::Rollout, &Refusal)| Halted {
            rollout: r.id,
            product: r.spec.product.clone(),
            version: r.spec.version.clone(),
            reason: reason(why),
        };
        model::halted(&self.rollouts.model).into_iter().map(one).collect()
    }

    /// Rollouts that list the device and may still change it.
    pub(super) fn open_rollouts_of(&self, device: &DeviceId) -> Vec<PlanId> {
        let model = &self.rollouts.model;
        let open = |id: &&PlanId| {
            let rollout = model.rollout(id).filter(|r| !r.is_over());
            rollout.is_some_and(|r| r.member(device).is_some())
        };
        model.followed(device).filter(open).copied().collect()
    }

    /// Attempts to take a release that failed, in all its rollouts.
    pub(super) fn failed_attempts(&self, product: &Ident, version: &Version) -> u64 {
        let of_release = |r: &&model::Rollout| r.spec.product == *product && r.spec.version == *version;
        let rollouts = self.rollouts.model.rollouts().map(|(_, r)| r);
        rollouts.filter(of_release).map(|r| u64::from(r.counts().failed)).sum()
    }

    pub(super) fn newest_rollout_of(&self, device: &DeviceId) -> Option<PlanId> {
        let lists = self
            .rollouts
            .model
            .rollouts()
            .filter(|(_, r)| r.member(device).is_some());
        lists.max_by_key(|(_, r)| r.order).map(|(id, _)| *id)
    }
}

fn reason(refusal: &Refusal) -> Reason {
    Reason {
        code: refusal.code,
        text: printable(&refusal.text, REASON),
    }
}

/// When the lock of a device ends, as far as its own words say.
fn unlocked_at(reason: &Refusal) -> Option<Time> {
    let (_, until) = reason.text.split_once("locked until ")?;
    let end = until.find('Z')?;
    (reason.code == Code::Locked)
        .then(|| until[..=end].parse().ok())
        .flatten()
}

fn waiting(waiting: &model::Waiting) -> Waiting {
    Waiting {
        device: waiting.device,
        name: printable(&waiting.name, NAME),
        wave: waiting.wave,
        reason: reason(&waiting.reason),
    }
}

fn away(away: &model::Away) -> Away {
    Away {
        device: away.device,
        name: printable(&away.name, NAME),
        wave: away.wave,
        since: Time(away.since),
        counts_as: away.counts_as.name().to_owned(),
        at: Time(away.at),
    }
}
