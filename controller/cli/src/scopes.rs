//! The deploy scopes that something touches: who may sign it, how many have, and what is missing.

use std::path::Path;

use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::Scope;
use ensign_crypto::{Envelope, PublicKey};
use serde::Serialize;

use crate::app::Session;
use crate::failure::{Failure, Result, fail};
use crate::home::KeyRole;
use crate::keyring::Stored;
use crate::signing::Count;

/// How many of how many have signed in a scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScopeCount {
    pub scope: String,
    #[serde(flatten)]
    pub count: Count,
}

/// The keys of all scopes together, each once.
pub fn keys(scopes: &[&Scope]) -> Vec<PublicKey> {
    let mut keys: Vec<PublicKey> = scopes.iter().flat_map(|s| s.role.keys.iter().copied()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

pub fn counts(session: &Session, scopes: &[&Scope], envelope: &Envelope) -> Vec<ScopeCount> {
    let count = |scope: &&Scope| {
        let role = &scope.role;
        ScopeCount {
            scope: scope.name.to_string(),
            count: Count::of(envelope, &role.keys, role.threshold, &session.fleet()),
        }
    };
    scopes.iter().map(count).collect()
}

/// Each scope before and after a signature of this key.
pub fn with_key(scopes: &[&Scope], before: &[ScopeCount], key: &PublicKey) -> Vec<(String, Count, Count)> {
    let one = |(scope, before): (&&Scope, &ScopeCount)| {
        let mut after = before.count;
        after.signatures += usize::from(scope.role.keys.contains(key));
        (before.scope.clone(), before.count, after)
    };
    scopes.iter().zip(before).map(one).collect()
}

/// The deploy key that signs `what`: the one in `file`, else that of this machine. Refused where it is in none of the scopes.
pub fn signer(session: &Session, file: Option<&Path>, scopes: &[&Scope], what: &str) -> Result<Stored> {
    let stored = deploy_key(session, file)?;
    let (key, keys) = (stored.public(), keys(scopes));
    if keys.contains(&key) {
        return Ok(stored);
    }
    let names: Vec<&str> = scopes.iter().map(|s| s.name.as_str()).collect();
    fail!(
        RoleNotAuthorised,
        "key {} is none of the {} that sign {what} of the scope {}",
        key.id(),
        keys.len(),
        names.join(", ")
    )
}

/// Refuses where the signature of this machine's key is not enough by itself.
pub fn alone(session: &Session, scopes: &[&Scope], what: &str, hint: &str) -> Result<()> {
    let key = deploy_key(session, None)?.public();
    for scope in scopes {
        let role = &scope.role;
        if !role.keys.contains(&key) {
            return fail!(
                RoleNotAuthorised,
                "the deploy key {} of this machine is none of the {} of scope {}",
                key.id(),
                role.keys.len(),
                scope.name
            );
        }
        if role.threshold > 1 {
            return Err(Failure::new(
                Code::ThresholdNotMet,
                format!(
                    "scope {}: {} of {} keys must sign {what}, this machine has 1",
                    scope.name,
                    role.threshold,
                    role.keys.len()
                ),
            )
            .hint(hint));
        }
    }
    Ok(())
}

fn deploy_key(session: &Session, file: Option<&Path>) -> Result<Stored> {
    match file {
        Some(file) => session.context.keyring().stored(file),
        None => session.context.signer(KeyRole::Deploy, &session.trust.deploy_role().0),
    }
}

/// Refuses where a scope lacks signatures; `hint` says how to get them.
pub fn require(session: &Session, scopes: &[&Scope], envelope: &Envelope, hint: &str) -> Result<()> {
    for scope in scopes {
        let role = &scope.role;
        if let Err(e) = statement::count(envelope, &role.keys, role.threshold, &session.fleet()) {
            let (least, all) = (role.threshold, role.keys.len());
            let text = format!("scope {}, {least} of {all} keys: {}", scope.name, e.text);
            return Err(Failure::new(e.code, text).hint(hint));
        }
    }
    Ok(())
}
