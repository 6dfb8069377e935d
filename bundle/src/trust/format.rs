//! What the state machine asks of a codec and of a profile. With Ensign's own ([`super::ensign`], [`super::profile`]) it is the
//! client that ships; with TUF's JSON and [`Plain`] it can be driven by TUF's public conformance suite.

use std::fmt::{Debug, Display};

use crate::reason::Refusal;

/// What every TUF role carries (TUF §4.2).
pub trait Meta {
    fn version(&self) -> u64;
    /// Seconds since the epoch; valid before it.
    fn expires(&self) -> u64;
    /// Seconds since the epoch, where the format says so.
    fn issued(&self) -> Option<u64>;
}

/// A codec: bytes of a role in, a role whose signatures were counted out. No rule of the client workflow lives here.
pub trait Format: Sized {
    type Root: Meta + Clone + Debug;
    type Timestamp: Meta + Clone + Debug;
    type Snapshot: Meta + Clone + Debug;
    /// The top-level targets role.
    type Targets: Meta + Clone + Debug;
    /// A delegated targets role.
    type Delegated: Meta + Clone + Debug;
    /// A targets role as the snapshot lists it.
    type Name: Clone + Ord + Debug + Display;
    /// What is asked for in the end.
    type Target: Clone + Display;
    /// Version, and length and hashes where given, of a listed role.
    type Pin: Clone + PartialEq + Debug;

    /// Opens a root that a threshold of its own keys signed, and of `by`'s keys if there is a root before it (TUF 5.3.4).
    fn open_root(&self, bytes: &[u8], by: Option<&Self::Root>) -> Result<Self::Root, Refusal>;
    fn open_timestamp(&self, bytes: &[u8], root: &Self::Root) -> Result<Self::Timestamp, Refusal>;
    fn open_snapshot(&self, bytes: &[u8], root: &Self::Root) -> Result<Self::Snapshot, Refusal>;
    fn open_targets(&self, bytes: &[u8], root: &Self::Root) -> Result<Self::Targets, Refusal>;
    /// Opens a delegated role with the keys that `parent` gives it.
    fn open_delegated(
        &self,
        bytes: &[u8],
        name: &Self::Name,
        parent: Delegator<'_, Self>,
    ) -> Result<Self::Delegated, Refusal>;

    /// True when a key that could sign timestamps or snapshots under `old` no longer can under `new` (TUF 5.3.11).
    fn online_keys_rotated(&self, old: &Self::Root, new: &Self::Root) -> bool;
    fn snapshot_pin(timestamp: &Self::Timestamp) -> &Self::Pin;
    /// The name of the top-level targets role in snapshots.
    fn targets_name() -> Self::Name;
    /// Every role that the snapshot lists.
    fn listed(snapshot: &Self::Snapshot) -> Vec<(Self::Name, Self::Pin)>;
    fn pin(snapshot: &Self::Snapshot, name: &Self::Name) -> Option<Self::Pin>;
    fn pin_version(pin: &Self::Pin) -> u64;
    /// Length and hashes, before anything is parsed (TUF 5.5.2, 5.6.2).
    fn check_pin(pin: &Self::Pin, what: &str, bytes: &[u8]) -> Result<(), Refusal>;
    /// The roles that may speak of `target`, in order; empty when the role delegates nothing (TUF 5.6.7).
    fn delegations_for(&self, parent: Delegator<'_, Self>, target: &Self::Target) -> Vec<Delegation<Self::Name>>;
    /// True when this role itself describes `target`.
    fn describes(&self, role: Delegator<'_, Self>, target: &Self::Target) -> bool;
}

/// A role that can delegate.
#[derive(Debug)]
pub enum Delegator<'a, F: Format> {
    Targets(&'a F::Targets),
    Delegated(&'a F::Delegated),
}

impl<F: Format> Clone for Delegator<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for Delegator<'_, F> {}

/// A role that another one hands a part of its targets to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation<N> {
    pub name: N,
    /// Nobody after this role is asked for what it covers.
    pub terminating: bool,
}

/// A role that TUF's own rules have accepted, with what was trusted before: what a profile judges.
#[derive(Debug)]
pub enum Candidate<'a, F: Format> {
    Root {
        old: Option<&'a F::Root>,
        new: &'a F::Root,
    },
    Timestamp {
        root: &'a F::Root,
        new: &'a F::Timestamp,
    },
    Snapshot {
        root: &'a F::Root,
        new: &'a F::Snapshot,
    },
    Targets {
        root: &'a F::Root,
        /// What is held, unless a new root covers it no more.
        old: Option<&'a F::Targets>,
        new: &'a F::Targets,
    },
    Delegated {
        root: &'a F::Root,
        targets: &'a F::Targets,
        pin: &'a F::Pin,
        name: &'a F::Name,
        new: &'a F::Delegated,
    },
}

/// Rules beyond TUF's own, in one function, run on roles that TUF itself finds valid.
pub trait Profile<F: Format> {
    fn check(&self, candidate: Candidate<'_, F>, at: &At) -> Result<(), Refusal>;

    /// True when `new` says that what `old` allowed is to be forgotten: then targets are fetched anew, compared with nothing.
    fn resets(&self, _old: &F::Root, _new: &F::Root) -> bool {
        false
    }

    /// True when a role may vanish from the snapshot, judged by the new targets. TUF itself never allows it (5.5.5).
    fn may_leave(&self, name: &F::Name, pin: &F::Pin, old: &F::Snapshot, targets: &F::Targets) -> bool;
}

/// TUF alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl<F: Format> Profile<F> for Plain {
    fn check(&self, _: Candidate<'_, F>, _: &At) -> Result<(), Refusal> {
        Ok(())
    }

    fn may_leave(&self, _: &F::Name, _: &F::Pin, _: &F::Snapshot, _: &F::Targets) -> bool {
        false
    }
}

/// The times that one run judges by, fixed at its start (TUF 5.1). Seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// For root's own expiry.
    pub root: u64,
    /// For every other expiry.
    pub now: u64,
    /// Nothing may be issued after this; none = no clock to judge by.
    pub latest_issue: Option<u64>,
    /// False for offline bundles: their plan proves freshness, so timestamp and snapshot may be past their expiry.
    pub online: bool,
}

impl At {
    /// A clock that is right, nothing remembered, and no word on documents from its future.
    pub fn plain(now: u64) -> Self {
        Self {
            root: now,
            now,
            latest_issue: None,
            online: true,
        }
    }

    /// The same with a bound on documents from the future: what a client with this clock judges by.
    pub fn client(now: u64) -> Self {
        Self {
            latest_issue: Some(now.saturating_add(crate::limits::ISSUED_AHEAD_S)),
            ..Self::plain(now)
        }
    }
}
