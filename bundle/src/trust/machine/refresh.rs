//! A whole run of the workflow, driven through a closure that finds documents.

use std::collections::BTreeSet;

use super::super::format::{At, Delegation, Delegator, Format, Meta, Profile};
use super::{Machine, Step, check_pinned, listed, present};
use crate::limits;
use crate::reason::Refusal;
use crate::refuse;

/// Delegated roles that one search visits: as the reference client.
const VISITED: usize = 32;

/// A document that the run needs next.
#[derive(Debug)]
pub enum Want<'a, F: Format> {
    /// The root with this version; nothing there ends the chain.
    Root(u64),
    Timestamp,
    Snapshot(&'a F::Pin),
    /// The top-level targets or a delegated role.
    Targets(&'a F::Name, &'a F::Pin),
}

impl<F: Format, P: Profile<F>> Machine<F, P> {
    /// Follows roots (at most 256, the next run goes on from there), then timestamp, snapshot and targets.
    ///
    /// Steps taken before a refusal stay taken: they were verified by themselves, and the next run starts from them. So the
    /// caller stores the machine whatever this returns.
    pub fn refresh(&mut self, docs: &mut dyn FnMut(Want<'_, F>) -> Option<Vec<u8>>, at: &At) -> Result<Step, Refusal> {
        let roots = self.refresh_root(docs, at)?;
        Ok(roots.or(self.refresh_roles(docs, at)?))
    }

    /// What follows the chain of roots: timestamp, snapshot, targets.
    pub fn refresh_roles(
        &mut self,
        docs: &mut dyn FnMut(Want<'_, F>) -> Option<Vec<u8>>,
        at: &At,
    ) -> Result<Step, Refusal> {
        let mut step = Step::Unchanged;
        self.check_root_fresh(at)?;
        let bytes = need(docs(Want::Timestamp), "timestamp")?;
        step = step.or(self.update_timestamp(&bytes, at)?);
        if !self.snapshot_is_current() {
            let timestamp = present(self.timestamp.as_ref(), "timestamp")?;
            let pin = F::snapshot_pin(&timestamp.body).clone();
            let bytes = need(docs(Want::Snapshot(&pin)), "snapshot")?;
            step = step.or(self.update_snapshot(&bytes, at)?);
        }
        let newest = present(self.pending.as_ref().or(self.snapshot.as_ref()), "snapshot")?;
        let name = F::targets_name();
        let pin = listed::<F>(&newest.body, &name)?;
        let held = self.targets.as_ref();
        let held = held.filter(|held| check_pinned::<F, _>("targets", held, &pin).is_ok());
        if self.pending.is_some() || held.is_none() {
            let bytes = match held {
                Some(held) => held.bytes.clone(),
                None => need(docs(Want::Targets(&name, &pin)), "targets")?,
            };
            step = step.or(self.update_targets(&bytes, at)?);
        }
        self.check_fresh(at)?;
        Ok(step)
    }

    /// Follows the chain of roots alone.
    pub fn refresh_root(
        &mut self,
        docs: &mut dyn FnMut(Want<'_, F>) -> Option<Vec<u8>>,
        at: &At,
    ) -> Result<Step, Refusal> {
        let mut step = Step::Unchanged;
        for _ in 0..limits::ROOT_STEPS {
            let Some(next) = self.root.body.version().checked_add(1) else {
                break;
            };
            let Some(bytes) = docs(Want::Root(next)) else { break };
            self.update_root(&bytes, at)?;
            step = Step::Updated;
        }
        Ok(step)
    }

    /// The role that speaks of `target`: pre-order over the delegations, each role once, at most 32 of them; a terminating
    /// delegation ends the search, so does a role that is refused (TUF 5.6.7). `None` = the top-level targets describe it.
    ///
    /// Every role on the way is judged by the keys of the delegation that led to it, also one that is held because another
    /// delegator vouched for it.
    pub fn find(
        &mut self,
        target: &F::Target,
        docs: &mut dyn FnMut(Want<'_, F>) -> Option<Vec<u8>>,
        at: &At,
    ) -> Result<Option<F::Name>, Refusal> {
        self.check_fresh(at)?;
        let targets = present(self.targets.as_ref(), "targets")?;
        let top = Delegator::Targets(&targets.body);
        if self.format.describes(top, target) {
            return Ok(None);
        }
        // Whom to ask next is last; each with the role that names it.
        let mut todo = Vec::new();
        push(&mut todo, None, self.format.delegations_for(top, target));
        let mut visited = BTreeSet::new();
        while let Some((parent, Delegation { name, terminating })) = todo.pop() {
            if visited.len() == VISITED {
                break;
            }
            if !visited.insert(name.clone()) {
                continue;
            }
            self.obtain(parent.as_ref(), &name, docs, at)?;
            let role = Delegator::Delegated(&self.fresh_delegated(&name, at)?.body);
            if self.format.describes(role, target) {
                return Ok(Some(name));
            }
            if terminating {
                todo.clear();
            }
            push(&mut todo, Some(&name), self.format.delegations_for(role, target));
        }
        refuse!(NotFound, "no role speaks of {target}")
    }

    fn obtain(
        &mut self,
        parent: Option<&F::Name>,
        name: &F::Name,
        docs: &mut dyn FnMut(Want<'_, F>) -> Option<Vec<u8>>,
        at: &At,
    ) -> Result<(), Refusal> {
        if let Ok(held) = self.fresh_delegated(name, at)
            && self.open_delegated(parent, name, &held.bytes).is_ok()
        {
            return Ok(());
        }
        let snapshot = present(self.snapshot.as_ref(), "snapshot")?;
        let pin = listed::<F>(&snapshot.body, name)?;
        let bytes = need(docs(Want::Targets(name, &pin)), &name.to_string())?;
        self.update_delegated_by(parent, name, &bytes, at)?;
        Ok(())
    }
}

impl Step {
    fn or(self, other: Self) -> Self {
        if self == Self::Updated { self } else { other }
    }
}

/// Puts `delegations` on top, the first of them uppermost.
fn push<N: Clone>(todo: &mut Vec<(Option<N>, Delegation<N>)>, parent: Option<&N>, delegations: Vec<Delegation<N>>) {
    todo.extend(
        delegations
            .into_iter()
            .rev()
            .map(|delegation| (parent.cloned(), delegation)),
    );
}

fn need(bytes: Option<Vec<u8>>, what: &str) -> Result<Vec<u8>, Refusal> {
    match bytes {
        Some(bytes) => Ok(bytes),
        None => refuse!(MetadataMissing, "{what} is not there"),
    }
}
