//! A fleet of 200 devices through hours of faults, for many seeds. `SEED=n` runs one seed alone.

use ensign_tests::simulation::{Faults, Simulation, Summary};

const DEVICES: u32 = 200;
const SEEDS: u64 = 8;

fn run(seed: u64, faults: Faults) -> Summary {
    match Simulation::new(seed, DEVICES, faults).run() {
        Ok(summary) => {
            println!("SEED={seed}: {summary:?}");
            summary
        }
        Err(wrong) => panic!("SEED={seed}: {wrong}"),
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=SEEDS).collect(),
    }
}

#[test]
fn a_fleet_survives_everything_and_comes_to_rest() {
    let all: Vec<Summary> = seeds().into_iter().map(|seed| run(seed, Faults::default())).collect();
    if all.len() > 1 {
        // Runs in which nothing went wrong would prove nothing.
        assert!(
            all.iter().any(|s| s.crashes > 3) && all.iter().any(|s| s.halts > 0) && all.iter().any(|s| s.failed > 0)
        );
    }
}

#[test]
fn without_faults_every_device_is_updated() {
    let calm = Faults {
        loss: 0,
        twice: 0,
        delay_ms: 50,
        power_cuts: 0,
        bad: 0,
        silent: 0,
        controller_crash_s: 0,
        until_s: 60,
    };
    let summary = run(1, calm);
    assert_eq!((summary.ok, summary.failed, summary.halts), (DEVICES, 0, 0));
}

#[test]
fn a_seed_repeats_its_run() {
    assert_eq!(run(3, Faults::default()), run(3, Faults::default()));
}
