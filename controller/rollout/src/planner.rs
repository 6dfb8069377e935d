//! What to do now. Decides, changes nothing: the same fleet and the same time give the same plan.

use std::collections::BTreeSet;

use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::ids::Label;
use ensign_bundle::reason::{Code, Refusal};

use crate::action::{Action, Planned};
use crate::fleet::Fleet;
use crate::index::silence_means;
use crate::member::Standing;
use crate::rollout::{Control, Rollout, Stage, Wave};
use crate::rules::{self, Soak};
use crate::waits;

/// Most actions of one plan: the controller commits them and asks again, so that no single step is long.
pub const ACTIONS_AT_ONCE: usize = 1024;

/// What to do at `now` (unix seconds).
pub fn plan(fleet: &Fleet, now: u64) -> Planned {
    let mut planner = Planner {
        fleet,
        now,
        planned: Planned::default(),
        offered: BTreeSet::new(),
        sites: BTreeSet::new(),
    };
    for rollout in fleet.live() {
        if let Err(wait) = planner.rollout(rollout) {
            planner.planned.report.waits.insert(rollout.id, wait);
        }
    }
    planner.planned
}

struct Planner<'a> {
    fleet: &'a Fleet,
    now: u64,
    planned: Planned,
    /// Devices that get an offer in this plan.
    offered: BTreeSet<DeviceId>,
    /// Label values (`one_per`) that get an offer in this plan.
    sites: BTreeSet<(Label, Label)>,
}

impl Planner<'_> {
    /// Plans one rollout; an error is what it waits for.
    fn rollout(&mut self, rollout: &Rollout) -> Result<(), Refusal> {
        let id = rollout.id;
        if rollout.expired(self.now) {
            self.act(Action::Expire { rollout: id });
            return Ok(());
        }
        if let Some(by) = superseded_by(self.fleet, rollout) {
            self.act(Action::Supersede { rollout: id, by });
            return Ok(());
        }
        // What silence means comes first: nothing else is decided on counters that are about to change.
        if self.mark_silent(rollout) {
            return Ok(());
        }
        match &rollout.stage {
            Stage::Paused { reason, .. } | Stage::Halted { reason, .. } => return Err(reason.clone()),
            _ => {}
        }
        // A finished rollout that nobody will be offered any more has nothing left to stop.
        let stoppable = matches!(rollout.stage, Stage::Running) || rollout.remaining() > 0;
        if stoppable && let Some(reason) = rules::breach(rollout) {
            self.act(Action::Halt { rollout: id, reason });
            return Ok(());
        }
        if let Some(frozen) = self.fleet.frozen() {
            return Err(frozen);
        }
        if self.now < rollout.spec.not_before {
            return Err(waits::not_yet(rollout, self.now));
        }
        if matches!(rollout.stage, Stage::Running) {
            match self.waves(rollout) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(wait) => {
                    // The next wave waits; devices of this one and earlier ones need not.
                    self.offers(rollout)?;
                    return Err(wait);
                }
            }
        }
        self.offers(rollout)
    }

    fn mark_silent(&mut self, rollout: &Rollout) -> bool {
        let due = (self.now, DeviceId([u8::MAX; 32]));
        let mut marked = false;
        for (_, device) in rollout.index.deadlines.range(..=due) {
            if self.is_full() {
                break;
            }
            let (id, device) = (rollout.id, *device);
            let means = rollout.members.get(&device).zip(self.fleet.device(&device));
            let unreached = means.is_some_and(|(m, d)| silence_means(rollout, m, d) == Standing::Unreached);
            self.act(if unreached {
                Action::MarkUnreached { rollout: id, device }
            } else {
                Action::MarkDark { rollout: id, device }
            });
            marked = true;
        }
        marked
    }

    /// Ends, halts or opens a wave. `true`: the rollout changes; an error is what the next wave waits for.
    fn waves(&mut self, rollout: &Rollout) -> Result<bool, Refusal> {
        let id = rollout.id;
        if let Some((number, wave)) = current(rollout) {
            if !rules::is_settled(&wave.counts) {
                return Ok(false);
            }
            if let Some(reason) = rules::below_quorum(rollout, number, wave) {
                self.act(Action::Halt { rollout: id, reason });
                return Ok(true);
            }
            return match rules::soak(rollout, number, wave, self.now) {
                Soak::Over => {
                    self.act(Action::CloseWave {
                        rollout: id,
                        wave: number,
                    });
                    Ok(true)
                }
                Soak::Missing(reason) => {
                    self.act(Action::Halt { rollout: id, reason });
                    Ok(true)
                }
                Soak::Left {
                    proven,
                    needed,
                    seconds,
                } => Err(waits::soaking(number, proven, needed, seconds)),
            };
        }
        let Some((number, _)) = rollout.numbered().find(|(_, wave)| wave.opened_at.is_none()) else {
            self.act(Action::Finish { rollout: id });
            return Ok(true);
        };
        if rules::waits_for_promote(rollout, number) {
            return Err(waits::promote(number));
        }
        let Some(evidence) = rules::gate(rollout, number) else {
            return Err(Refusal::new(
                Code::GateNotOpen,
                format!("a receipt for the gate of wave {number} was cancelled by a later one"),
            ));
        };
        let control = self.control(rollout);
        self.act(Action::OpenWave {
            rollout: id,
            wave: number,
            evidence,
            control,
        });
        Ok(true)
    }

    /// Members that were not offered the release yet, and how many of them are silent.
    fn control(&self, rollout: &Rollout) -> Control {
        let limit = self.fleet.dark_after_s(rollout);
        let mut control = Control::default();
        for (id, member) in rollout.members() {
            if !matches!(member.standing(), Standing::Pending | Standing::Unreached) {
                continue;
            }
            let Some(device) = self.fleet.device(id) else { continue };
            control.devices += 1;
            let silent = !device.connected && self.fleet.silent_since(device).saturating_add(limit) <= self.now;
            control.silent += u32::from(silent);
        }
        control
    }

    fn offers(&mut self, rollout: &Rollout) -> Result<(), Refusal> {
        let mut room = rollout.cap().saturating_sub(rollout.in_flight());
        let mut rate_due_ms = rollout.rate_due_ms;
        let busy_sites = self.busy_sites(rollout);
        for (wave, device) in &rollout.index.ready {
            if self.is_full() {
                return Ok(());
            }
            if room == 0 {
                return Err(waits::at_capacity(rollout));
            }
            if let Some(rate) = rollout.spec.pace.rate_per_h {
                let opens = rules::rate_opens_at(rate_due_ms, rate);
                if opens > self.now {
                    return Err(waits::at_rate(rate, opens, self.now));
                }
            }
            if self.offered.contains(device) || busy_elsewhere(self.fleet, rollout, device).is_some() {
                continue;
            }
            let site = site(self.fleet, rollout, device);
            if site
                .as_ref()
                .is_some_and(|site| self.sites.contains(site) || busy_sites.contains(&site.1))
            {
                continue;
            }
            self.sites.extend(site);
            self.offered.insert(*device);
            self.act(Action::Offer {
                rollout: rollout.id,
                wave: *wave,
                device: *device,
            });
            room -= 1;
            if let Some(rate) = rollout.spec.pace.rate_per_h {
                rate_due_ms = rules::rate_after(rate_due_ms, self.now, rate);
            }
        }
        Ok(())
    }

    /// Values of this rollout's `one_per` label where a device is updating, whichever rollout it belongs to.
    fn busy_sites(&self, rollout: &Rollout) -> BTreeSet<Label> {
        let Some(key) = &rollout.spec.pace.one_per else {
            return BTreeSet::new();
        };
        self.fleet
            .rollouts
            .values()
            .flat_map(|r| &r.index.slots)
            .filter_map(|device| self.fleet.device(device)?.label(key).cloned())
            .collect()
    }

    fn is_full(&self) -> bool {
        self.planned.actions.len() >= ACTIONS_AT_ONCE
    }

    fn act(&mut self, action: Action) {
        self.planned.actions.push(action);
    }
}

/// The wave that is open and not done.
pub(crate) fn current(rollout: &Rollout) -> Option<(u32, &Wave)> {
    rollout
        .numbered()
        .find(|(_, wave)| wave.opened_at.is_some() && wave.done_at.is_none())
}

/// The rollout that took every device this one would still update, asked before that one begins: a rollout that lost only some of
/// its devices ends by its own rules.
fn superseded_by(fleet: &Fleet, rollout: &Rollout) -> Option<PlanId> {
    if rollout.index.taken == 0 || rollout.index.open > 0 {
        return None;
    }
    fleet
        .rollouts
        .values()
        .filter(|r| r.spec.product == rollout.spec.product && r.order > rollout.order)
        .max_by_key(|r| r.order)
        .filter(|newest| newest.waves.iter().all(|wave| wave.opened_at.is_none()))
        .map(|newest| newest.id)
}

/// Another rollout (of another product) in which the device holds a slot: a device does one thing at a time.
pub(crate) fn busy_elsewhere(fleet: &Fleet, rollout: &Rollout, device: &DeviceId) -> Option<PlanId> {
    fleet
        .device(device)?
        .rollouts
        .iter()
        .find(|other| {
            **other != rollout.id
                && fleet
                    .rollouts
                    .get(*other)
                    .is_some_and(|r| r.index.slots.contains(device))
        })
        .copied()
}

/// The `one_per` label of the rollout and the device's value of it.
pub(crate) fn site(fleet: &Fleet, rollout: &Rollout, device: &DeviceId) -> Option<(Label, Label)> {
    let key = rollout.spec.pace.one_per.as_ref()?;
    let value = fleet.device(device)?.label(key)?;
    Some((key.clone(), value.clone()))
}
