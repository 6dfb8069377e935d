//! Plans with nothing special in them: a test changes what it is about.

use ensign_bundle::codec::Ext;
use ensign_bundle::digest::CutSeed;
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::statements::{Bound, Evidence, GateKind, OnBreach, Pace, Plan, PlanRelease, Stop, Wave};
use ensign_bundle::trust::roles::FORMAT;

use crate::{DAY, ident};

/// The pace that `rollout start` gives a plan: 2 % failed or 3 % dark of at least 20 stop it, a wave needs 90 %.
pub fn pace() -> Pace {
    Pace {
        max_parallel: None,
        one_per: None,
        rate_per_h: None,
        prefetch: false,
        priority: 0,
        stop: Stop {
            failed: Bound::BasisPoints(200),
            dark: Bound::BasisPoints(300),
            min_sample: 20,
            dark_after_s: None,
            quorum_bp: 9000,
            reach_s: 3600,
            on_breach: OnBreach::Halt,
        },
    }
}

/// The same, stopped by this many devices that failed or went dark.
pub fn stop_at(devices: u32) -> Pace {
    let mut pace = pace();
    pace.stop.failed = Bound::Count(devices);
    pace.stop.dark = Bound::Count(devices);
    pace
}

/// A wave that nothing has to open.
pub fn one_wave(wave: &CutWave, min_soak_s: u64) -> Vec<Wave> {
    vec![Wave {
        cohort: wave.cohort(),
        min_soak_s,
        gate: GateKind::Auto,
        evidence: Evidence::Receipts(0),
    }]
}

/// Plan `seq` of the product `app`: from now on, for a day, at the usual [`pace`].
pub fn plan(now: u64, seq: u64, release: PlanRelease, waves: Vec<Wave>) -> Plan {
    Plan {
        format: FORMAT,
        issued: now,
        product: ident("app"),
        seq,
        cut_seed: CutSeed([9; 16]),
        release,
        waves,
        not_before: now,
        expires: now + DAY,
        windows: Vec::new(),
        health: None,
        reverts: None,
        downgrade: None,
        offline: None,
        emergency: false,
        pace: pace(),
        select: "all".to_owned(),
        exclude: Vec::new(),
        reason: String::new(),
        ext: Ext::default(),
    }
}
