//! What a preview says of the brakes is what the planner does.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "tests and their helpers")]

mod common;

use std::fmt::Write as _;

use common::*;
use ensign_bundle::plan::statements::Bound;
use ensign_bundle::wire::Phase;
use ensign_rollout::*;

/// Confirms wave after wave until `wave` is open, everybody offered.
fn up_to(sizes: &[u32], wave: usize, plan: &RolloutSpec) -> (World, u32) {
    let mut w = World::new(sizes.iter().sum());
    w.start(1, plan);
    w.settle();
    let mut first = 0;
    for size in &sizes[..wave] {
        (first..first + size).for_each(|n| w.confirm(1, n));
        w.settle();
        first += size;
    }
    (w, first)
}

#[test]
fn so_many_failures_halt_each_wave_and_one_less_does_not() {
    let bounds = [Bound::BasisPoints(200), Bound::Count(3)];
    for (sizes, bound) in [[1, 4, 7], [1, 1, 30], [5, 5, 5]]
        .iter()
        .flat_map(|s| bounds.iter().map(move |b| (s, *b)))
    {
        let mut plan = spec(sizes);
        plan.pace.stop.failed = bound;
        plan.pace.stop.dark = bound;
        plan.pace.stop.quorum_bp = 0;
        for (wave, brakes) in brakes(&plan.pace.stop, sizes).iter().enumerate() {
            for (limit, dark) in [(brakes.failed.at, false), (brakes.dark.at, true)] {
                for n in [limit - 1, limit] {
                    if n > sizes[wave] {
                        continue;
                    }
                    let (mut w, first) = up_to(sizes, wave, &plan);
                    for device in first..first + n {
                        if dark {
                            w.report(1, device, Phase::Trial, None);
                            w.disconnect(device);
                        } else {
                            w.roll_back(1, device);
                        }
                    }
                    w.wait(1800).settle();
                    let code = w.reason(1).map(ensign_bundle::reason::Code::name);
                    let stopped = matches!(code, Some("too-many-failed" | "too-many-dark"));
                    assert_eq!(
                        stopped,
                        n == limit,
                        "{sizes:?} wave {} {n} dark={dark}: {code:?}",
                        wave + 1
                    );
                }
            }
        }
    }
}

#[test]
fn the_quorum_is_the_smallest_number_that_is_enough() {
    for size in [1, 3, 10, 15] {
        let mut plan = spec(&[size, 1]);
        plan.pace.stop.failed = Bound::Count(100);
        let healthy = brakes(&plan.pace.stop, &[size, 1])[0].healthy;
        for ok in [healthy - 1, healthy] {
            let mut w = World::new(size + 1);
            w.start(1, &plan);
            w.settle();
            (0..size).for_each(|n| if n < ok { w.confirm(1, n) } else { w.roll_back(1, n) });
            w.settle();
            let halted = w.state(1) == RolloutState::Halted;
            assert_eq!(halted, ok < healthy, "{ok} of {size}");
        }
    }
}

#[test]
fn in_words() {
    let mut out = String::new();
    for sizes in [&[1, 1, 10][..], &[10, 90, 900], &[5, 20], &[1, 0]] {
        writeln!(out, "{sizes:?}").unwrap();
        for brakes in brakes(&spec(sizes).pace.stop, sizes) {
            writeln!(out, "  {} {}", brakes.wave, brakes.words()).unwrap();
        }
    }
    insta::assert_snapshot!(out);
}
