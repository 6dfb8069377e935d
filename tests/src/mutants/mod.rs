//! Mutants of what a device accepts: each check taken away alone must make a test fail.
//!
//! A copy of the crates is patched so that every check asks first whether it is the one that is taken away; the copy's tests are
//! built once and run once per check, with its name in the environment. Of the acceptance function all tests of its crate run; what the
//! applier and the link half check around it is real processes, so there the one test runs that must notice. Nothing of this is in the
//! sources that ship.

mod applier;
mod by_hand;
mod copy;
mod run;
mod source;

use std::path::Path;

use anyhow::{Result, ensure};

use self::applier::AROUND;

/// Files of `bundle/src` whose checks are taken away: the acceptance function and all that it stands on.
const FILES: &[&str] = &[
    "accept/mod.rs",
    "accept/order.rs",
    "accept/revert.rs",
    "accept/manifest.rs",
    "plan/gate.rs",
    "plan/merkle.rs",
    "plan/membership.rs",
    "plan/rotation.rs",
    "plan/scope.rs",
    "plan/statements.rs",
    "statement.rs",
    "trust/asked.rs",
    "trust/ensign.rs",
    "trust/machine/mod.rs",
    "trust/machine/root.rs",
    "trust/machine/snapshot.rs",
    "trust/machine/targets.rs",
    "trust/machine/timestamp.rs",
    "trust/profile.rs",
    "trust/roles.rs",
    "trust/state.rs",
    "trust/trusted.rs",
];

/// Checks whose absence no test can see, and why.
const EQUAL: &[(&str, &str)] = &[
    (
        "accept/order.rs may_be_offline: NoOfflinePlan, reason 1",
        "what was made for no snapshot is not for the one that lists the release",
    ),
    (
        "trust/machine/mod.rs check_fresh: MetadataMissing",
        "a snapshot that waits is not the held one, which is then not what the timestamp names",
    ),
    (
        "trust/machine/snapshot.rs check_listed: RollbackRefused 2",
        "TUF's rule for formats whose snapshot may leave targets out; Ensign's cannot",
    ),
    (
        "trust/state.rs decode: LimitExceeded",
        "a bound of 256 MiB on a file that its owner alone writes",
    ),
    (
        "trust/profile.rs check: check_targets_floor",
        "the snapshot that lists such targets is refused before them",
    ),
];

/// How it went with one check.
#[derive(Debug)]
pub struct Outcome {
    pub name: String,
    /// The first tests that failed without it; none = nobody noticed.
    pub caught_by: Option<Vec<String>>,
    /// Why nobody can.
    pub equal: Option<&'static str>,
}

impl Outcome {
    pub fn is_missed(&self) -> bool {
        self.caught_by.is_none() && self.equal.is_none()
    }
}

/// Takes away each check whose name contains `filter`, one at a time, and tells `each` what came of it.
pub fn run(filter: &str, mut each: impl FnMut(&Outcome)) -> Result<Vec<Outcome>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let names = copy::make(&top)?;
    let suite = run::build(&top)?;
    let whole = run::run(&suite, None)?;
    ensure!(whole.is_none(), "the tests fail with every check in place: {whole:?}");
    let mut outcomes = Vec::new();
    for name in names.into_iter().filter(|name| name.contains(filter)) {
        let around = AROUND.iter().find(|around| around.check.name == name);
        let caught_by = match around {
            Some(around) => {
                let one = |mutant| run::run_one(&suite, around.program, around.test, mutant);
                let whole = one(None)?;
                ensure!(whole.is_none(), "{whole:?} fails with every check in place");
                one(Some(&name))?
            }
            None => run::run(&suite, Some(&name))?,
        };
        let outcome = Outcome {
            caught_by,
            equal: EQUAL.iter().find(|(equal, _)| *equal == name).map(|(_, why)| *why),
            name,
        };
        each(&outcome);
        outcomes.push(outcome);
    }
    ensure!(!outcomes.is_empty(), "no check is called like `{filter}`");
    Ok(outcomes)
}

/// Every check, without running anything.
pub fn names() -> Result<Vec<String>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    copy::make(&top)
}
