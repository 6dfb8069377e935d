//! What a device accepts: a good offer, and one test for each code that refuses it.

mod device;
mod offline;
mod plan;
mod revert;
mod signed;
mod switch;
mod waves;

use ensign_bundle::accept::Direction;
use ensign_bundle::reason::Code;

use crate::bench::*;
use crate::fleet::*;

#[test]
fn a_good_offer_is_accepted() {
    let bench = bench();
    let accepted = bench.answer().unwrap();
    assert_eq!((accepted.wave, accepted.direction), (1, Direction::Upgrade));
    assert_eq!(accepted.digest, bench.digest());
    assert_eq!(accepted.id().0[..], accepted.digest.0[..16]);
    assert_eq!(accepted.release.release, version("2.0.0"));
    let mut first = bench.clone();
    first.facts.installed.clear();
    assert_eq!(first.answer().unwrap().direction, Direction::Upgrade);
}

#[test]
fn the_first_failing_group_is_the_answer() {
    // Everything wrong at once: signatures, device, counter, time, plan, lease.
    let mut bench = bench_with(
        |_| {},
        "app",
        |release| release.compatible.arch = vec!["riscv64".into()],
    );
    bench.signers = vec![4];
    bench.installed().counter = u64::MAX;
    bench.clock = (START + 100 * DAY).into();
    bench.facts.trust_degraded = true;
    bench.lease_age_s = 9999;
    let mut answers = Vec::new();
    let mends: [fn(&mut Bench); 6] = [
        |b| b.signers = vec![5],
        |b| b.facts.arch = "riscv64".into(),
        |b| b.installed().counter = 1,
        |b| b.clock = START.into(),
        |b| b.facts.trust_degraded = false,
        |b| b.lease_age_s = 0,
    ];
    for mend in mends {
        answers.push(bench.answer().unwrap_err().code);
        mend(&mut bench);
    }
    bench.answer().unwrap();
    assert_eq!(
        answers,
        [
            Code::RoleNotAuthorised,
            Code::HardwareMismatch,
            Code::NewerInstalled,
            Code::MetadataExpired,
            Code::TrustDegraded,
            Code::LeaseMissing
        ]
    );
}
