//! The counters: how a member is counted follows from its row, its device and its rollout. A change costs the difference.

use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::wire::Phase;

use crate::event::DeviceState;
use crate::fleet::{Device, Fleet};
use crate::member::{Entry, Member, Outcome, Standing};
use crate::rollout::{Rollout, Tally};

impl Fleet {
    /// Counts `device` in `rollout` anew, after anything about the two changed.
    pub(crate) fn recount(&mut self, rollout: &PlanId, device: &DeviceId) {
        let Some(entry) = self.entry(rollout, device) else {
            return;
        };
        let (Some(r), Some(d)) = (self.rollouts.get_mut(rollout), self.devices.get_mut(device)) else {
            return;
        };
        let unfinished = r.members.get(device).is_some_and(|m| m.slot && m.outcome.is_none());
        if r.ended() && !unfinished {
            d.rollouts.remove(rollout);
        } else {
            d.rollouts.insert(*rollout);
        }
        r.replace(device, entry);
    }

    /// Counts `device` anew in every rollout that follows it.
    pub(crate) fn recount_device(&mut self, device: &DeviceId) {
        let rollouts: Vec<PlanId> = self
            .devices
            .get(device)
            .map(|d| d.rollouts.iter().copied().collect())
            .unwrap_or_default();
        for rollout in rollouts {
            self.recount(&rollout, device);
        }
    }

    /// Counts every member of `rollout` anew, after its stage or a wave changed.
    pub(crate) fn recount_rollout(&mut self, rollout: &PlanId) {
        let Some(r) = self.rollouts.get(rollout) else {
            return;
        };
        let place = (std::cmp::Reverse(r.spec.pace.priority), r.order, *rollout);
        if r.ended() {
            self.live.remove(&place);
        } else {
            self.live.insert(place);
        }
        let members: Vec<DeviceId> = r.members.keys().copied().collect();
        for device in members {
            self.recount(rollout, &device);
        }
    }

    fn entry(&self, rollout: &PlanId, device: &DeviceId) -> Option<Entry> {
        let rollout = self.rollouts.get(rollout)?;
        let member = rollout.members.get(device)?;
        let device = self.devices.get(device)?;
        let wave = rollout.wave(member.wave)?;
        let soak = rollout.spec.waves.get(member.wave as usize - 1)?.min_soak_s;

        let switching = member.outcome.is_none() && device.is_switching(&rollout.plan);
        let slot = holds_slot(rollout, member, device, switching);
        let standing = standing(rollout, member, device, slot);
        let open = !rollout.ended();
        let taken = open && taken(rollout, device);
        let silent = (!device.connected).then(|| self.silent_since(device));
        let deadline = match (standing, silent, wave.opened_at) {
            (Standing::Active | Standing::Ok, Some(since), _) if open && !taken && took(rollout, member, device) => {
                Some(since.saturating_add(self.dark_after_s(rollout)))
            }
            // Who has not taken the update yet is waited for like one that was never there.
            (Standing::Pending | Standing::Active, Some(since), Some(opened))
                if open && (standing == Standing::Pending || !taken) =>
            {
                Some(since.max(opened).saturating_add(rollout.spec.pace.stop.reach_s))
            }
            _ => None,
        };
        let proven = standing == Standing::Ok
            && matches!(member.outcome, Some(Outcome::Confirmed { healthy_for_s, .. }) if healthy_for_s >= soak);
        Some(Entry {
            standing: Some(standing),
            slot,
            ready: open && standing == Standing::Pending && wave.opened_at.is_some() && device.connected,
            deadline,
            fresh: member.epoch == rollout.epoch,
            proven,
            taken,
            open: !taken
                && matches!(
                    standing,
                    Standing::Pending | Standing::Active | Standing::Unreached | Standing::Held
                ),
            fetched: member.fetched,
        })
    }
}

/// A newer rollout of the product has this device: the older one has no say any more.
pub(crate) fn taken(rollout: &Rollout, device: &Device) -> bool {
    device
        .newest
        .get(&rollout.spec.product)
        .is_some_and(|newest| *newest != rollout.id)
}

/// Whether a device took the update, as far as it said: it has the whole release, and may switch to it without asking.
fn took(rollout: &Rollout, member: &Member, device: &Device) -> bool {
    let mine = device.plan == Some(rollout.plan);
    member.outcome.is_some()
        || member.fetched
        || (mine && !matches!(device.phase, Phase::Idle | Phase::Fetching | Phase::Rejected))
}

/// What a device that stays silent will count as.
pub(crate) fn silence_means(rollout: &Rollout, member: &Member, device: &Device) -> Standing {
    // Who has no slot waits for one, whatever it had in hand before.
    if member.standing() != Standing::Pending && took(rollout, member, device) {
        Standing::Dark
    } else {
        Standing::Unreached
    }
}

/// What runs is newer than what the rollout brings.
pub(crate) fn runs_newer(rollout: &Rollout, device: &Device) -> bool {
    !rollout.spec.downgrade
        && device
            .runs(&rollout.spec.product)
            .is_some_and(|installed| installed.confirmed && installed.counter > rollout.spec.counter)
}

/// Once the offer is withdrawn, only a device that is past the point of no return still counts.
fn holds_slot(rollout: &Rollout, member: &Member, device: &Device, switching: bool) -> bool {
    member.slot
        && member.outcome.is_none()
        && device.state != DeviceState::Revoked
        && (switching || !(rollout.ended() || taken(rollout, device)))
}

fn standing(rollout: &Rollout, member: &Member, device: &Device, slot: bool) -> Standing {
    let dark = member.dark_since.is_some();
    // What has ended stays as it was, whatever becomes of its devices: only the member itself says where it stands.
    let open = !rollout.ended();
    match &member.outcome {
        Some(Outcome::Confirmed { .. }) if dark => Standing::Dark,
        Some(Outcome::Confirmed { .. }) => Standing::Ok,
        Some(Outcome::Failed { .. }) => Standing::Failed,
        Some(Outcome::Spared { .. }) => Standing::Held,
        None if open && device.state != DeviceState::Approved => Standing::Held,
        None if slot && dark => Standing::Dark,
        None if slot => Standing::Active,
        None if open && taken(rollout, device) => Standing::Held,
        None if dark => Standing::Dark,
        None if open && (device.is_held() || runs_newer(rollout, device)) => Standing::Held,
        None if member.unreached_since.is_some() => Standing::Unreached,
        None => Standing::Pending,
    }
}

impl Rollout {
    fn replace(&mut self, device: &DeviceId, new: Entry) {
        let Some(member) = self.members.get_mut(device) else {
            return;
        };
        let number = member.wave;
        let old = std::mem::replace(&mut member.entry, new);
        if old == new {
            return;
        }
        let Some(wave) = (number as usize).checked_sub(1).and_then(|i| self.waves.get_mut(i)) else {
            return;
        };
        if let Some(standing) = old.standing {
            let n = wave.counts.of(standing);
            *n = n.saturating_sub(1);
        }
        if let Some(standing) = new.standing {
            *wave.counts.of(standing) += 1;
        }
        let index = &mut self.index;
        for tally in [&mut wave.tally, &mut index.tally] {
            tally.take(old);
            tally.add(new);
        }
        if new.proven {
            wave.proven.insert(*device);
        } else {
            wave.proven.remove(device);
        }
        if new.slot {
            index.slots.insert(*device);
        } else {
            index.slots.remove(device);
        }
        if new.ready {
            index.ready.insert((number, *device));
        } else {
            index.ready.remove(&(number, *device));
        }
        if let Some(at) = old.deadline {
            index.deadlines.remove(&(at, *device));
        }
        if let Some(at) = new.deadline {
            index.deadlines.insert((at, *device));
        }
        for (before, after, n) in [
            (old.taken, new.taken, &mut index.taken),
            (old.open, new.open, &mut index.open),
            (old.fetched, new.fetched, &mut index.fetched),
        ] {
            *n = n.saturating_sub(u32::from(before)) + u32::from(after);
        }
    }
}

impl Tally {
    fn add(&mut self, entry: Entry) {
        if let Some(n) = self.of(entry) {
            *n += 1;
        }
    }

    fn take(&mut self, entry: Entry) {
        if let Some(n) = self.of(entry) {
            *n = n.saturating_sub(1);
        }
    }

    fn of(&mut self, entry: Entry) -> Option<&mut u32> {
        match entry.standing {
            Some(Standing::Ok) if entry.fresh => Some(&mut self.ok),
            Some(Standing::Failed) if entry.fresh => Some(&mut self.failed),
            Some(Standing::Dark) if entry.fresh => Some(&mut self.dark),
            _ => None,
        }
    }
}
