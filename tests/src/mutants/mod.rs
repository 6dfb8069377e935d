//! Mutants of what a device accepts: each check taken away alone must make a test fail.
//!
//! A copy of the two crates is patched so that every check asks first whether it is the one that is taken away; the copy's tests are
//! built once and run once per check, with its name in the environment. Nothing of this is in the sources that ship.

mod copy;
mod run;
mod source;

use std::path::Path;

use anyhow::{Result, ensure};

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

/// Checks that are no `if` around a refusal and no call by itself: what stands there, what stands there in the copy.
const BY_HAND: &[ByHand] = &[
    ByHand {
        name: "accept/order.rs counters: DowngradeRefused",
        file: "accept/order.rs",
        from: "        let text = format!(\n            \"counter {counter} of {product} is offered",
        to: "        if MUTANT {\n            return Ok(Direction::Upgrade);\n        }\n        let text = format!(\n            \"counter {counter} of {product} is offered",
    },
    ByHand {
        name: "accept/order.rs may_switch_now: OutsideWindow",
        file: "accept/order.rs",
        from: "match &self.device.window {",
        to: "match if MUTANT { &Window::Open } else { &self.device.window } {",
    },
    ByHand {
        name: "accept/mod.rs accept: signatures of the plan",
        file: "accept/mod.rs",
        from: "let signed: Signed<Plan> = scope::open(offer.plan, &scopes, trusted.fleet())?;",
        to: "let signed: Signed<Plan> = if MUTANT { crate::statement::open_unverified(offer.plan)? } else { scope::open(offer.plan, &scopes, trusted.fleet())? };",
    },
    ByHand {
        name: "accept/mod.rs accept: the place in a wave",
        file: "accept/mod.rs",
        from: "let wave = judge.is_member()?;",
        to: "let wave = if MUTANT { offer.member.wave } else { judge.is_member()? };",
    },
    ByHand {
        name: "accept/order.rs is_member: the proof of a listed cohort",
        file: "accept/order.rs",
        from: "_ => gate::check_member(self.plan, &device.id, member)?,",
        to: "_ => if !MUTANT { gate::check_member(self.plan, &device.id, member)? },",
    },
    ByHand {
        name: "accept/order.rs lease_is_live: signature of the lease",
        file: "accept/order.rs",
        from: "let opened = statement::open(held.envelope, &role.keys, role.threshold, self.trusted.fleet());",
        to: "let opened = if MUTANT { statement::open_unverified(held.envelope) } else { statement::open(held.envelope, &role.keys, role.threshold, self.trusted.fleet()) };",
    },
    ByHand {
        name: "plan/gate.rs open_receipt: signature of the receipt",
        file: "plan/gate.rs",
        from: "statement::open(&shown.receipt, &[shown.member.receipt_key], 1, fleet)",
        to: "if MUTANT { statement::open_unverified(&shown.receipt) } else { statement::open(&shown.receipt, &[shown.member.receipt_key], 1, fleet) }",
    },
    ByHand {
        name: "plan/gate.rs check: receipts of the right wave",
        file: "plan/gate.rs",
        from: "*at == wave && receipt.state",
        to: "(MUTANT || *at == wave) && receipt.state",
    },
    ByHand {
        name: "plan/gate.rs check: receipts that say confirmed",
        file: "plan/gate.rs",
        from: "receipt.state == ReceiptState::Confirmed && receipt.healthy_for_s >= min_soak_s\n            });\n            let good = good.count();",
        to: "(MUTANT || receipt.state == ReceiptState::Confirmed) && receipt.healthy_for_s >= min_soak_s\n            });\n            let good = good.count();",
    },
    ByHand {
        name: "plan/gate.rs check: the soak",
        file: "plan/gate.rs",
        from: "&& receipt.healthy_for_s >= min_soak_s\n            });\n            let good = good.count();",
        to: "&& (MUTANT || receipt.healthy_for_s >= min_soak_s)\n            });\n            let good = good.count();",
    },
    ByHand {
        name: "plan/gate.rs newest: a later receipt counts",
        file: "plan/gate.rs",
        from: ".is_none_or(|(_, other)| other.seq < opened.seq)",
        to: ".is_none_or(|(_, other)| !MUTANT && other.seq < opened.seq)",
    },
    ByHand {
        name: "plan/gate.rs check_failures: only failures count",
        file: "plan/gate.rs",
        from: ".filter(|(_, r)| r.state != ReceiptState::Confirmed)",
        to: ".filter(|(_, r)| MUTANT || r.state != ReceiptState::Confirmed)",
    },
    ByHand {
        name: "plan/gate.rs check: dwell",
        file: "plan/gate.rs",
        from: "Needed::Dwell { seconds } if dwell_s >= seconds => {}",
        to: "Needed::Dwell { seconds } if MUTANT || dwell_s >= seconds => {}",
    },
    ByHand {
        name: "plan/scope.rs of_device: no labels counts as protected",
        file: "plan/scope.rs",
        from: "selector.matches(device) || (bare && names(selector, &root.protected))\n        })\n    }\n\n    /// The scopes that a change",
        to: "selector.matches(device) || (!MUTANT && bare && names(selector, &root.protected))\n        })\n    }\n\n    /// The scopes that a change",
    },
    ByHand {
        name: "plan/scope.rs of_change: the labels before",
        file: "plan/scope.rs",
        from: "            selector.matches(device)\n                || selector.matches(after)",
        to: "            (!MUTANT && selector.matches(device))\n                || selector.matches(after)",
    },
    ByHand {
        name: "plan/scope.rs of_change: the labels after",
        file: "plan/scope.rs",
        from: "|| selector.matches(after)",
        to: "|| (!MUTANT && selector.matches(after))",
    },
    ByHand {
        name: "plan/scope.rs of_change: protected labels that change",
        file: "plan/scope.rs",
        from: "|| names(selector, &touched)",
        to: "|| (!MUTANT && names(selector, &touched))",
    },
    ByHand {
        name: "trust/time.rs judge: root's expiry goes by no attested time",
        file: "trust/time.rs",
        from: "root: offline_or_system,",
        to: "root: if MUTANT { self.proven().max(clock.wall()) } else { offline_or_system },",
    },
    ByHand {
        name: "trust/time.rs judge: the floor",
        file: "trust/time.rs",
        from: "now: self.proven().max(clock.wall()),",
        to: "now: if MUTANT { clock.wall() } else { self.proven().max(clock.wall()) },",
    },
    ByHand {
        name: "trust/time.rs allows: a clock behind the floor",
        file: "trust/time.rs",
        from: "clock.now.saturating_add(CLOCK_SLACK_S) < self.proven()",
        to: "!MUTANT && clock.now.saturating_add(CLOCK_SLACK_S) < self.proven()",
    },
    ByHand {
        name: "trust/time.rs follow: the online slot goes with its key",
        file: "trust/time.rs",
        from: "if !self.online_keys.is_subset(&keys) {",
        to: "if !MUTANT && !self.online_keys.is_subset(&keys) {",
    },
    ByHand {
        name: "trust/profile.rs may_leave: below the lowest counter",
        file: "trust/profile.rs",
        from: "if counter < lowest)",
        to: "if MUTANT || counter < lowest)",
    },
    ByHand {
        name: "trust/profile.rs resets",
        file: "trust/profile.rs",
        from: "new.floors.reset_epoch > old.floors.reset_epoch\n    }",
        to: "!MUTANT && new.floors.reset_epoch > old.floors.reset_epoch\n    }",
    },
    ByHand {
        name: "trust/machine/root.rs: rotated keys forget versions",
        file: "trust/machine/root.rs",
        from: "        if rotated {",
        to: "        if rotated && !MUTANT {",
    },
    ByHand {
        name: "trust/trusted.rs security_floor: root's counter",
        file: "trust/trusted.rs",
        from: "        root.counter\n            .max(root.security)",
        to: "        if MUTANT { 0 } else { root.counter }\n            .max(root.security)",
    },
    ByHand {
        name: "trust/trusted.rs security_floor: root's security floor",
        file: "trust/trusted.rs",
        from: ".max(root.security)",
        to: ".max(if MUTANT { 0 } else { root.security })",
    },
    ByHand {
        name: "trust/trusted.rs security_floor: that of targets",
        file: "trust/trusted.rs",
        from: ".max(targets.map_or(0, |product| product.security_floor))",
        to: ".max(if MUTANT { 0 } else { targets.map_or(0, |product| product.security_floor) })",
    },
    ByHand {
        name: "trust/trusted.rs security_floor: what proved itself here",
        file: "trust/trusted.rs",
        from: "            .max(seen)",
        to: "            .max(if MUTANT { 0 } else { seen })",
    },
];

/// Checks whose absence no test can see, and why.
const EQUAL: &[(&str, &str)] = &[
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

/// A change that is described by what stands there; `MUTANT` becomes the question.
struct ByHand {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

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
        let outcome = Outcome {
            caught_by: run::run(&suite, Some(&name))?,
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
