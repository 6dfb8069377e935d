//! TUF's client workflow (1.0.34 §5) as a state machine: bytes of roles go in, each step takes them whole or refuses and changes
//! nothing. It fetches and stores nothing; [`Machine::refresh`] drives a whole run through a closure.
//!
//! ```text
//! root N → root N+1 → … → timestamp → snapshot → targets → delegated roles
//! ```

mod refresh;
mod root;
mod snapshot;
mod targets;
mod timestamp;

use std::collections::BTreeMap;

use super::format::{At, Candidate, Format, Meta, Profile};
use crate::reason::Refusal;
use crate::refuse;

pub use refresh::Want;

/// A trusted role and the bytes it came in.
#[derive(Clone, Debug)]
pub struct Held<T> {
    pub bytes: Vec<u8>,
    pub body: T,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Updated,
    /// What was offered is what is held.
    Unchanged,
}

/// The trusted roles of one repository.
#[derive(Clone, Debug)]
pub struct Machine<F: Format, P> {
    pub format: F,
    pub profile: P,
    pub(super) root: Held<F::Root>,
    pub(super) timestamp: Option<Held<F::Timestamp>>,
    pub(super) snapshot: Option<Held<F::Snapshot>>,
    /// A snapshot that drops roles: trusted once the targets it lists allow that.
    pub(super) pending: Option<Held<F::Snapshot>>,
    pub(super) targets: Option<Held<F::Targets>>,
    pub(super) delegated: BTreeMap<F::Name, Held<F::Delegated>>,
}

/// The bytes of trusted roles, as they were stored.
#[derive(Clone, Debug, Default)]
pub struct Stored<N> {
    pub root: Vec<u8>,
    pub timestamp: Option<Vec<u8>>,
    pub snapshot: Option<Vec<u8>>,
    pub targets: Option<Vec<u8>>,
    pub delegated: BTreeMap<N, Vec<u8>>,
}

impl<F: Format, P: Profile<F>> Machine<F, P> {
    /// A machine that trusts `root`, whose bytes the caller has pinned (TUF 5.2). Its expiry does not matter.
    pub fn new(format: F, profile: P, root: &[u8]) -> Result<Self, Refusal> {
        let body = format.open_root(root, None)?;
        Ok(Self {
            format,
            profile,
            root: Held {
                bytes: root.to_vec(),
                body,
            },
            timestamp: None,
            snapshot: None,
            pending: None,
            targets: None,
            delegated: BTreeMap::new(),
        })
    }

    /// The machine of an earlier run. Signatures are counted again under the stored root; whatever it does not (or no longer)
    /// cover is dropped and fetched anew. Expiry does not matter.
    pub fn load(format: F, profile: P, stored: Stored<F::Name>) -> Result<Self, Refusal> {
        let mut machine = Self::new(format, profile, &stored.root)?;
        let root = &machine.root.body;
        machine.timestamp = reopen(stored.timestamp, |b| machine.format.open_timestamp(b, root));
        machine.snapshot = reopen(stored.snapshot, |b| machine.format.open_snapshot(b, root));
        machine.targets = reopen(stored.targets, |b| machine.format.open_targets(b, root));
        machine.restore_delegated(stored.delegated);
        Ok(machine)
    }

    /// The newest root that was accepted.
    pub fn root(&self) -> &Held<F::Root> {
        &self.root
    }

    /// The newest timestamp; `None` before the first, and after its keys changed.
    pub fn timestamp(&self) -> Option<&Held<F::Timestamp>> {
        self.timestamp.as_ref()
    }

    /// The newest snapshot; `None` as for [`Self::timestamp`].
    pub fn snapshot(&self) -> Option<&Held<F::Snapshot>> {
        self.snapshot.as_ref()
    }

    /// The newest targets; `None` before the first, and after a root that resets.
    pub fn targets(&self) -> Option<&Held<F::Targets>> {
        self.targets.as_ref()
    }

    /// Delegated roles by name, those that were fetched.
    pub fn delegated(&self) -> &BTreeMap<F::Name, Held<F::Delegated>> {
        &self.delegated
    }

    /// Forgets delegated roles that `keep` does not want: they can be fetched again.
    pub fn retain_delegated(&mut self, keep: impl Fn(&F::Name) -> bool) {
        self.delegated.retain(|name, _| keep(name));
    }

    /// Refuses unless every top-level role is there, belongs to the others, is unexpired, and is what the profile wants under the
    /// newest root.
    pub fn check_fresh(&self, at: &At) -> Result<(), Refusal> {
        self.check_root_fresh(at)?;
        let timestamp = present(self.timestamp.as_ref(), "timestamp")?;
        let snapshot = present(self.snapshot.as_ref(), "snapshot")?;
        let targets = present(self.targets.as_ref(), "targets")?;
        if self.pending.is_some() {
            return refuse!(MetadataMissing, "the targets of the newest snapshot are not there");
        }
        check_pinned::<F, _>("snapshot", snapshot, F::snapshot_pin(&timestamp.body))?;
        let pin = listed::<F>(&snapshot.body, &F::targets_name())?;
        check_pinned::<F, _>("targets", targets, &pin)?;
        if at.online {
            check_expiry("timestamp", &timestamp.body, at.now)?;
            check_expiry("snapshot", &snapshot.body, at.now)?;
        }
        check_expiry("targets", &targets.body, at.now)?;
        let root = &self.root.body;
        let candidates = [
            Candidate::Root { old: None, new: root },
            Candidate::Timestamp {
                root,
                new: &timestamp.body,
            },
            Candidate::Snapshot {
                root,
                new: &snapshot.body,
            },
            Candidate::Targets {
                root,
                old: None,
                new: &targets.body,
            },
        ];
        candidates
            .into_iter()
            .try_for_each(|candidate| self.profile.check(candidate, at))
    }

    fn check_root_fresh(&self, at: &At) -> Result<(), Refusal> {
        check_expiry("root", &self.root.body, at.root)
    }
}

fn listed<F: Format>(snapshot: &F::Snapshot, name: &F::Name) -> Result<F::Pin, Refusal> {
    match F::pin(snapshot, name) {
        Some(pin) => Ok(pin),
        None => refuse!(NotFound, "the snapshot does not list {name}"),
    }
}

fn reopen<T>(bytes: Option<Vec<u8>>, open: impl Fn(&[u8]) -> Result<T, Refusal>) -> Option<Held<T>> {
    let bytes = bytes?;
    let body = open(&bytes).ok()?;
    Some(Held { bytes, body })
}

fn present<'a, T>(role: Option<&'a Held<T>>, name: &str) -> Result<&'a Held<T>, Refusal> {
    match role {
        Some(held) => Ok(held),
        None => refuse!(MetadataMissing, "there is no trusted {name} yet"),
    }
}

/// Refuses unless `held` is what `pin` names: its version, and length and hashes where it gives them.
fn check_pinned<F: Format, T: Meta>(what: &str, held: &Held<T>, pin: &F::Pin) -> Result<(), Refusal> {
    check_version(what, &held.body, F::pin_version(pin))?;
    F::check_pin(pin, what, &held.bytes)
}

fn check_version(what: &str, role: &impl Meta, named: u64) -> Result<(), Refusal> {
    if role.version() != named {
        return refuse!(
            RollbackRefused,
            "{what} has version {}, version {named} is named",
            role.version()
        );
    }
    Ok(())
}

fn check_expiry(what: &str, role: &impl Meta, now: u64) -> Result<(), Refusal> {
    if now >= role.expires() {
        return refuse!(
            MetadataExpired,
            "{what} version {} expired at {}, it is {now}",
            role.version(),
            role.expires()
        );
    }
    Ok(())
}
