//! What trust costs a device, counted in instructions: docs/performance.md has the figures and the command. Under plain `cargo test` the
//! functions have to do what they are measured for, with as many checks of signatures as there may be.

use ensign_bundle::accept::{Accepted, DeviceFacts, HeldLease, Offer, Stage, accept};
use ensign_bundle::digest::Digest;
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::plan::statements::Evidence;
use ensign_bundle::trust::{ReleaseName, Source, Step, TrustState, Trusted, Want};
use ensign_crypto::counted;

use crate::bench::*;
use crate::fleet::*;

/// One Ed25519 verification: the unit.
#[inline(never)]
fn measured_verification(signature: &[u8; 64]) -> bool {
    ensign_crypto::verify(&public(1), b"one message of a usual size, more or less", signature)
}

/// From root 1 to the accepted plan.
#[inline(never)]
fn measured_chain(fleet: &Fleet, release: &ReleaseName, device: &DeviceFacts, offer: &Offer<'_>) -> Accepted {
    let first = &fleet.roots[0];
    let mut trusted = TrustState::new(first, &Digest::of(first), &FLEET).unwrap();
    let now = fleet.now;
    trusted
        .refresh(&mut |want| fleet.find(&want), now, Source::Online)
        .unwrap();
    trusted
        .find_release(release, &mut |want| fleet.find(&want), now, Source::Online)
        .unwrap();
    accept(&trusted, device, offer, now, Stage::Switch).unwrap()
}

/// What a session begins with where nothing is new.
#[inline(never)]
fn measured_hello(trusted: &mut Trusted, fleet: &Fleet, asked: &mut Vec<&'static str>) -> Step {
    let mut find = |want: Want<'_>| {
        asked.push(match want {
            Want::Root(_) => "root",
            Want::Timestamp => "timestamp",
            Want::Snapshot(_) => "snapshot",
            Want::Targets(..) => "targets",
        });
        fleet.find(&want)
    };
    trusted.refresh(&mut find, fleet.now, Source::Online).unwrap()
}

/// A run that follows as many roots as there may be in one.
#[inline(never)]
fn measured_roots(trusted: &mut Trusted, fleet: &Fleet) {
    trusted.refresh_root(&mut |want| fleet.find(&want), fleet.now).unwrap();
}

#[test]
fn cost_of_one_verification() {
    let signature = key(1).sign(b"one message of a usual size, more or less");
    assert_eq!(counted(|| measured_verification(&signature)), (true, 1));
}

#[test]
fn cost_of_a_chain_with_plan_proof_and_three_receipts() {
    let mut bench = bench().second_wave();
    bench.plan.waves[1].evidence = Evidence::Receipts(3);
    let third = bench.waves[0].members[2].device;
    let mut gate = bench.open_gate();
    gate.receipts
        .push(bench.receipt(third, ReceiptState::Confirmed, 600, 1));
    let (plan, gate, lease) = (
        bench.plan_bytes(),
        gate.encode().unwrap(),
        sign(&bench.default_lease(), &[7]),
    );
    let offer = Offer {
        plan: &plan,
        member: &bench.membership(),
        gate: Some(&gate),
        lease: Some(HeldLease {
            envelope: &lease,
            age_s: 1,
        }),
        forward: None,
        dwell_s: 0,
        source: Source::Online,
    };
    let (accepted, verifications) = counted(|| measured_chain(&bench.fleet, &bench.release, &bench.facts, &offer));
    assert_eq!(accepted.wave, 2);
    assert!((10..=25).contains(&verifications), "{verifications} verifications");
}

#[test]
fn cost_of_a_hello_with_nothing_new() {
    let mut fleet = Fleet::new();
    fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let mut trusted = fleet.fresh();
    let mut asked = Vec::new();
    let hello = counted(|| measured_hello(&mut trusted, &fleet, &mut asked));
    assert_eq!(hello, (Step::Unchanged, 1));
    // Nothing but the timestamp is looked at; whether there is a root after the held one is only asked.
    assert_eq!(asked, ["root", "timestamp"]);
}

fn behind_by(roots: u64) -> (Fleet, Trusted) {
    let mut fleet = Fleet::new();
    let trusted = fleet.fresh();
    for _ in 0..roots {
        fleet.next_root(|_| {}, &[]);
    }
    (fleet, trusted)
}

/// Each root is checked against the one before it and against itself, and timestamp, snapshot and targets at hand against it.
const OF_A_ROOT: u64 = 5;

#[test]
fn cost_of_128_roots() {
    let (fleet, mut trusted) = behind_by(128);
    let ((), verifications) = counted(|| measured_roots(&mut trusted, &fleet));
    assert_eq!((trusted.root().version, verifications), (129, 128 * OF_A_ROOT));
}

#[test]
fn cost_of_256_roots() {
    let (fleet, mut trusted) = behind_by(300);
    let ((), verifications) = counted(|| measured_roots(&mut trusted, &fleet));
    // No more in one run; the next one goes on from what is stored, and what was checked is not checked again.
    assert_eq!((trusted.root().version, verifications), (257, 256 * OF_A_ROOT));
    let bytes = trusted.encode().unwrap();
    let (decoded, again) = counted(|| Trusted::decode(&bytes).unwrap());
    assert!(again <= 8, "{again} verifications to read what is stored");
    let mut trusted = decoded;
    let ((), verifications) = counted(|| measured_roots(&mut trusted, &fleet));
    assert_eq!((trusted.root().version, verifications), (301, 44 * OF_A_ROOT));
}
