//! The live trust state: Ensign's machine with its memory.

use ensign_crypto::PublicKey;

use super::authority::Authority;
use super::ensign::{DocName, Ensign, ReleaseName};
use super::format::{At, Candidate, Profile as _};
use super::machine::{Machine, Step};
use super::memory::{Memory, Started};
use super::profile::Strict;
use super::roles::{Product, Release, Root, Snapshot, Targets, Timestamp};
use super::time::Clock;
use crate::digest::{DeviceId, Digest, FleetId, Nonce};
use crate::ids::Ident;
use crate::plan::evidence::TimeAttestation;
use crate::plan::statements::Plan;
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::statement::{self, Document as _};

/// A document that a refresh needs next.
pub type Want<'a> = super::machine::Want<'a, Ensign>;

/// Where metadata comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The controller: timestamp and snapshot must be unexpired.
    #[default]
    Online,
    /// A bundle: its offline plan is the proof of freshness, so timestamp and snapshot may have expired. They still never go
    /// back, and nothing but an offline plan is accepted on the strength of them.
    Bundle,
}

/// Judges no ages.
const TIMELESS: At = At {
    root: 0,
    now: 0,
    latest_issue: None,
    online: false,
};

/// The trust of one device or signer. Each method takes what it is given whole, or refuses and changes nothing; whoever calls it
/// stores [`Trusted::encode`] before acting on the result.
#[derive(Clone, Debug)]
pub struct Trusted {
    pub(super) machine: Machine<Ensign, Strict>,
    pub(super) memory: Memory,
}

impl Trusted {
    /// The fleet that this trust is in; it never changes.
    pub fn fleet(&self) -> &FleetId {
        &self.machine.format.fleet
    }

    /// The newest root that was accepted; there always is one.
    pub fn root(&self) -> &Root {
        &self.machine.root.body
    }

    /// The newest timestamp; `None` until one was accepted under the current root.
    pub fn timestamp(&self) -> Option<&Timestamp> {
        self.machine.timestamp.as_ref().map(|held| &held.body)
    }

    /// The newest snapshot, likewise.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.machine.snapshot.as_ref().map(|held| &held.body)
    }

    /// The newest targets, likewise.
    pub fn targets(&self) -> Option<&Targets> {
        self.machine.targets.as_ref().map(|held| &held.body)
    }

    /// The root's bytes as received.
    pub fn root_bytes(&self) -> &[u8] {
        &self.machine.root.bytes
    }

    /// The envelope of targets as received.
    pub fn targets_bytes(&self) -> Option<&[u8]> {
        self.machine.targets.as_ref().map(|held| held.bytes.as_slice())
    }

    /// The timestamp's bytes as received; those of other documents likewise.
    pub fn timestamp_bytes(&self) -> Option<&[u8]> {
        self.machine.timestamp.as_ref().map(|held| held.bytes.as_slice())
    }

    /// The snapshot's envelope as received.
    pub fn snapshot_bytes(&self) -> Option<&[u8]> {
        self.machine.snapshot.as_ref().map(|held| held.bytes.as_slice())
    }

    /// Bytes of a held release document.
    pub fn release_bytes(&self, name: &ReleaseName) -> Option<&[u8]> {
        let held = self.machine.delegated.get(&DocName::Release(name.clone()));
        held.map(|held| held.bytes.as_slice())
    }

    /// The versions held, as `hello` and status show them; 0 = none.
    pub fn held(&self) -> crate::wire::Held {
        crate::wire::Held {
            root: self.root().version,
            timestamp: self.timestamp().map_or(0, |r| r.version),
            snapshot: self.snapshot().map_or(0, |r| r.version),
            targets: self.targets().map_or(0, |r| r.version),
        }
    }

    /// When the first of the held roles expires.
    pub fn expires(&self) -> u64 {
        [
            Some(self.root().expires),
            self.timestamp().map(|r| r.expires),
            self.snapshot().map(|r| r.expires),
            self.targets().map(|r| r.expires),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(0)
    }

    /// Takes the root after the held one (TUF 5.3). Nothing but the root itself can block it, no expiry and no clock floor.
    pub fn update_root(&mut self, bytes: &[u8], clock: impl Into<Clock>) -> Result<(), Refusal> {
        let at = self.at(clock, Source::Online);
        self.machine.update_root(bytes, &at)?;
        self.saw_root();
        Ok(())
    }

    /// Refuses what [`Self::update_root`] would refuse of `next` however many signed it: for signers, before anybody signs.
    pub fn check_next_root(&self, next: &Root, clock: impl Into<Clock>) -> Result<(), Refusal> {
        next.check()?;
        next.check_lifetime()?;
        let old = self.root();
        if next.fleet != old.fleet || next.version != old.version.saturating_add(1) {
            return refuse!(
                RollbackRefused,
                "root version {} of fleet {} offered after {} of {}",
                next.version,
                next.fleet,
                old.version,
                old.fleet
            );
        }
        let candidate = Candidate::Root {
            old: Some(old),
            new: next,
        };
        Strict.check(candidate, &self.at(clock, Source::Online))
    }

    /// Refuses what [`Self::update_targets`] would refuse of `next` however many signed it, with the root in force: for signers, before
    /// anybody signs.
    pub fn check_next_targets(&self, next: &Targets, clock: impl Into<Clock>) -> Result<(), Refusal> {
        next.check()?;
        next.check_lifetime()?;
        let old = self.targets();
        let held = old.map_or(0, |old| old.version);
        if next.version <= held {
            return refuse!(RollbackRefused, "targets version {} offered after {held}", next.version);
        }
        let candidate = Candidate::Targets {
            root: self.root(),
            old,
            new: next,
        };
        Strict.check(candidate, &self.at(clock, Source::Online))
    }

    /// Takes a timestamp (TUF 5.4).
    pub fn update_timestamp(&mut self, bytes: &[u8], clock: impl Into<Clock>, source: Source) -> Result<Step, Refusal> {
        let at = self.at(clock, source);
        let step = self.machine.update_timestamp(bytes, &at)?;
        self.saw_roles();
        Ok(step)
    }

    /// Takes the snapshot that the timestamp names (TUF 5.5).
    pub fn update_snapshot(&mut self, bytes: &[u8], clock: impl Into<Clock>, source: Source) -> Result<Step, Refusal> {
        let at = self.at(clock, source);
        let step = self.machine.update_snapshot(bytes, &at)?;
        self.saw_roles();
        Ok(step)
    }

    /// Takes the targets that the snapshot lists (TUF 5.6).
    pub fn update_targets(&mut self, bytes: &[u8], clock: impl Into<Clock>, source: Source) -> Result<Step, Refusal> {
        let at = self.at(clock, source);
        let step = self.machine.update_targets(bytes, &at)?;
        self.saw_roles();
        Ok(step)
    }

    /// Takes a release document that the snapshot lists.
    pub fn update_release(
        &mut self,
        name: &ReleaseName,
        bytes: &[u8],
        clock: impl Into<Clock>,
        source: Source,
    ) -> Result<Step, Refusal> {
        let at = self.at(clock, source);
        let step = self
            .machine
            .update_delegated(&DocName::Release(name.clone()), bytes, &at)?;
        if let Some(release) = self.release(name) {
            let issued = release.issued;
            self.memory.time.saw_offline(issued);
        }
        Ok(step)
    }

    /// A whole run: roots, timestamp, snapshot, targets. Store the state whatever this returns: steps before a refusal stay taken.
    pub fn refresh(
        &mut self,
        docs: &mut dyn FnMut(Want<'_>) -> Option<Vec<u8>>,
        clock: impl Into<Clock>,
        source: Source,
    ) -> Result<Step, Refusal> {
        let clock = clock.into();
        // A new root may mend the clock's floors, so the times are read again after it.
        let roots = self.refresh_root(docs, clock)?;
        let at = self.at(clock, source);
        let rest = self.machine.refresh_roles(docs, &at);
        self.saw_roles();
        let rest = rest?;
        Ok(if roots == Step::Updated { roots } else { rest })
    }

    /// Follows the chain of roots alone: what a joining device does before anything else is published.
    pub fn refresh_root(
        &mut self,
        docs: &mut dyn FnMut(Want<'_>) -> Option<Vec<u8>>,
        clock: impl Into<Clock>,
    ) -> Result<Step, Refusal> {
        let clock = clock.into();
        let mut step = Step::Unchanged;
        // One at a time, as if each had come alone: a reset or a change of keys on the way counts, whatever follows it.
        for _ in 0..crate::limits::ROOT_STEPS {
            let Some(next) = self.root().version.checked_add(1) else {
                break;
            };
            let Some(bytes) = docs(Want::Root(next)) else { break };
            self.update_root(&bytes, clock)?;
            step = Step::Updated;
        }
        Ok(step)
    }

    /// The release document of a version, fetched through `docs` unless the current one is held.
    pub fn find_release(
        &mut self,
        name: &ReleaseName,
        docs: &mut dyn FnMut(Want<'_>) -> Option<Vec<u8>>,
        clock: impl Into<Clock>,
        source: Source,
    ) -> Result<&Release, Refusal> {
        let at = self.at(clock, source);
        self.machine.find(name, docs, &at)?;
        let issued = self.release(name).map_or(0, |release| release.issued);
        self.memory.time.saw_offline(issued);
        self.release(name)
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("{name} is not there")))
    }

    /// A held release document, whatever its age.
    pub fn release(&self, name: &ReleaseName) -> Option<&Release> {
        self.machine
            .delegated
            .get(&DocName::Release(name.clone()))
            .map(|held| &held.body)
    }

    /// Every held release document.
    pub fn releases(&self) -> impl Iterator<Item = &Release> {
        self.machine.delegated.values().map(|held| &held.body)
    }

    /// Forgets release documents that are neither asked for nor run any more.
    pub fn retain_releases(&mut self, keep: impl Fn(&ReleaseName) -> bool) {
        self.machine
            .retain_delegated(|name| matches!(name, DocName::Release(name) if keep(name)));
    }

    /// A release document that is held, listed by the current snapshot and unexpired, with the delegation that covers it.
    pub fn fresh_release(
        &self,
        name: &ReleaseName,
        clock: impl Into<Clock>,
        source: Source,
    ) -> Result<(&Release, &Product), Refusal> {
        self.release_at(name, &self.at(clock, source))
    }

    /// The same, whatever the ages.
    pub fn listed_release(&self, name: &ReleaseName) -> Result<(&Release, &Product), Refusal> {
        self.release_at(name, &TIMELESS)
    }

    /// Refuses unless every top-level role is there, fits the others and is unexpired.
    pub fn check_fresh(&self, clock: impl Into<Clock>) -> Result<(), Refusal> {
        self.machine.check_fresh(&self.at(clock, Source::Online))
    }

    /// True when the clock can be used to refuse what is late; otherwise installing needs a time attestation (`clock-suspect`).
    pub fn clock_is_usable(&self, clock: impl Into<Clock>) -> bool {
        self.memory.time.allows(clock.into())
    }

    /// The time that expiry is judged by: never before what signed documents prove.
    pub fn now(&self, clock: impl Into<Clock>) -> u64 {
        self.at(clock, Source::Online).now
    }

    /// True when the system's clock cannot be right: nothing keeps it so, or signed documents are ahead of it by more than the
    /// slack. Installing then needs [`Trusted::attest_time`] (online), or root's leave (offline).
    pub fn clock_is_suspect(&self, clock: impl Into<Clock>) -> bool {
        self.memory.time.suspects(clock.into())
    }

    /// Takes the controller's time, signed by the timestamp role for this device's nonce; `None` where that is so and the device's own
    /// clock is good: there the controller's word could only make it worse. The caller carries the result on by the boot clock and presents
    /// it as [`Clock::attested`], for as long as [`Trusted::vouches`] says so. At most
    /// [`LATEST_TIME`](crate::limits::LATEST_TIME), before root expires, and no more ahead of a synchronised clock than any other document.
    pub fn attest_time(
        &mut self,
        bytes: &[u8],
        device: &DeviceId,
        nonce: &Nonce,
        clock: impl Into<Clock>,
    ) -> Result<Option<u64>, Refusal> {
        let clock = clock.into();
        let role = &self.root().roles.timestamp;
        let time: TimeAttestation = statement::open(bytes, &role.keys, role.threshold, self.fleet())?.body;
        if time.fleet != *self.fleet() {
            return refuse!(WrongFleet, "time attestation of fleet {}", time.fleet);
        }
        if time.device != *device || time.nonce != *nonce {
            return refuse!(
                WrongDevice,
                "time attestation for device {} and nonce {}",
                time.device,
                time.nonce
            );
        }
        if !self.clock_is_suspect(clock) {
            return Ok(None);
        }
        // A time at which root has expired is no time to install at, and as a floor it would outlast the mistake. One that really is
        // that late comes with the next roots, and is asked for again after them.
        let latest = crate::limits::LATEST_TIME.min(self.root().expires.saturating_sub(1));
        let latest = self.memory.time.latest_issue(clock).map_or(latest, |l| l.min(latest));
        if time.time > latest {
            return refuse!(
                LifetimeRefused,
                "the attested time is {} s, at most {latest} is possible",
                time.time
            );
        }
        let root = &self.machine.root.body;
        self.memory.time.saw_online(time.time, root);
        Ok(Some(self.memory.time.proven()))
    }

    /// True while the timestamp keys of an attestation are those of root: a thief's word goes with the stolen key.
    pub fn vouches(&self, keys: &[PublicKey]) -> bool {
        keys.iter().all(|key| self.root().roles.timestamp.keys.contains(key))
    }

    /// Remembers that a plan was started: stored before the switch. A plan with this or a lower sequence number is not taken
    /// again.
    pub fn started(&mut self, plan: &Plan, digest: Digest) -> Result<(), Refusal> {
        if self.memory.started.len() >= super::memory::ENTRIES && !self.memory.started.contains_key(&plan.product) {
            return refuse!(
                LimitExceeded,
                "plans of {} products are remembered",
                self.memory.started.len()
            );
        }
        let last = self.memory.started.get(&plan.product);
        if last.is_none_or(|last| last.seq < plan.seq) {
            let seq = plan.seq;
            let entry = Started { seq, plan: digest };
            self.memory.started.insert(plan.product.clone(), entry);
        }
        Ok(())
    }

    /// The last plan started for a product.
    pub fn last_started(&self, product: &Ident) -> Option<&Started> {
        self.memory.started.get(product)
    }

    /// A plan for the product needs a sequence number above this.
    pub fn plan_seq_floor(&self, product: &Ident) -> u64 {
        let started = self.last_started(product).map_or(0, |last| last.seq);
        started.max(self.root().floor(product).plan_seq)
    }

    /// Remembers the security floor of a release that proved itself here.
    pub fn confirmed(&mut self, release: &Release) {
        let floor = self.memory.security.entry(release.product.clone()).or_default();
        *floor = (*floor).max(release.security_floor);
    }

    /// Nothing of the product below this counter is installed, whatever a plan says.
    pub fn security_floor(&self, product: &Ident) -> u64 {
        let root = self.root().floor(product);
        let targets = self.targets().and_then(|targets| targets.product(product));
        let seen = self.memory.security.get(product).copied().unwrap_or(0);
        root.counter
            .max(root.security)
            .max(targets.map_or(0, |product| product.security_floor))
            .max(seen)
    }

    /// The lowest counter of the product that its signers keep. What is below may have left the snapshot, so that an older version
    /// of its document (from before it was withdrawn) could be listed again.
    pub fn lowest(&self, product: &Ident) -> u64 {
        let targets = self.targets().and_then(|targets| targets.product(product));
        targets.map_or(0, |product| product.lowest)
    }

    /// True when the plan was cancelled.
    pub fn is_cancelled(&self, plan: &Digest) -> bool {
        self.memory.cancelled.contains_key(plan)
    }

    /// Why an operator holds the device, if one does.
    pub fn hold(&self, device: &DeviceId) -> Option<&str> {
        let held = self.memory.holds.get(device).filter(|held| held.held);
        held.map(|held| held.reason.as_str())
    }

    /// What evidence and orders are judged by.
    pub fn authority(&self, clock: impl Into<Clock>) -> Authority<'_> {
        Authority {
            root: self.root(),
            targets: self.targets(),
            fleet: self.fleet(),
            latest_issue: self.memory.time.latest_issue(clock.into()),
        }
    }

    fn release_at(&self, name: &ReleaseName, at: &At) -> Result<(&Release, &Product), Refusal> {
        let held = self.machine.fresh_delegated(&DocName::Release(name.clone()), at)?;
        let listed = self.snapshot().and_then(|snapshot| snapshot.release(name));
        if listed.is_none_or(|entry| entry.counter != held.body.counter) {
            return refuse!(
                ContentMismatch,
                "the document of {name} has counter {}, the snapshot lists {:?}",
                held.body.counter,
                listed.map(|entry| entry.counter)
            );
        }
        let product = self.targets().and_then(|targets| targets.product(&name.product));
        match product {
            Some(product) => Ok((&held.body, product)),
            None => refuse!(OutsideDelegation, "no entry of targets covers product {}", name.product),
        }
    }

    pub(super) fn at(&self, clock: impl Into<Clock>, source: Source) -> At {
        self.memory.time.judge(clock.into(), source == Source::Online)
    }

    pub(super) fn saw_root(&mut self) {
        let root = &self.machine.root.body;
        self.memory.follow(root);
        self.memory.time.saw_offline(root.issued);
    }

    fn saw_roles(&mut self) {
        let root = &self.machine.root.body;
        for role in [
            self.machine.timestamp.as_ref().map(|held| held.body.issued),
            self.machine.snapshot.as_ref().map(|held| held.body.issued),
        ] {
            self.memory.time.saw_online(role.unwrap_or(0), root);
        }
        if let Some(targets) = &self.machine.targets {
            self.memory.time.saw_offline(targets.body.issued);
        }
    }
}
