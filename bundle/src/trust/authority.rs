//! What evidence and orders are judged by: who stands in which role, and what time it is at the most.

use ensign_crypto::PublicKey;

use super::roles::{Root, Targets};
use crate::digest::FleetId;
use crate::plan::statements::Asked;
use crate::reason::Refusal;
use crate::refuse;

/// The roles as the judge has verified them, and its clock.
#[derive(Clone, Copy, Debug)]
pub struct Authority<'a> {
    pub root: &'a Root,
    /// None: none were accepted yet, as on a device that joins.
    pub targets: Option<&'a Targets>,
    pub fleet: &'a FleetId,
    /// Nothing is issued later than this, unix seconds; none = no clock says so.
    pub latest_issue: Option<u64>,
}

impl Authority<'_> {
    /// The role in which a key stands: those of root, and `release` for the keys of any product.
    pub fn role_of(&self, key: &PublicKey) -> Option<&'static str> {
        let releases = |targets: &Targets| targets.products.iter().any(|p| p.role.keys.contains(key));
        self.root
            .role_of(key)
            .or_else(|| self.targets.is_some_and(releases).then_some("release"))
    }

    /// Refuses what was issued more than 24 h ahead of a clock that is kept right.
    pub fn check_issued<T: Asked>(&self, statement: &T) -> Result<(), Refusal> {
        let issued = statement.issued();
        match self.latest_issue {
            Some(latest) if issued > latest => refuse!(
                LifetimeRefused,
                "the {} was issued at {issued}, after {latest}: the clock here or the signer's is wrong",
                T::KIND
            ),
            _ => Ok(()),
        }
    }
}
