//! What a plan changes.

use ensign_api::Time;
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::statements::{Evidence, GateKind, Plan};
use ensign_bundle::words::show_share;

use super::Difference;
use crate::output::some_of;
use crate::signing::Count;
use crate::units::{show_bound, show_count, show_seconds};

/// What a signature stands for: devices by name, waves, expiry, and how many of how many are there in each scope, before and after.
pub fn of_plan(plan: &Plan, names: &[String], cut: &[CutWave], scopes: &[(String, Count, Count)]) -> Difference {
    let mut all = Difference::default();
    let devices = show_count(names.len() as u64, "device");
    all.say("brings", &format!("{}@{}", plan.product, plan.release.version));
    all.say("number", &plan.seq);
    all.say("manifest", &plan.release.manifest);
    all.say("to", &format!("{devices}: {}", some_of(names)));
    all.say("selected by", &plan.select);
    for exclude in &plan.exclude {
        all.say("without", exclude);
    }
    for (wave, cut) in plan.waves.iter().zip(cut).filter(|(_, cut)| cut.count() > 0) {
        let mut text = show_count(u64::from(cut.count()), "device");
        if wave.min_soak_s > 0 {
            text.push_str(", healthy for ");
            text.push_str(&show_seconds(wave.min_soak_s));
        }
        match wave.evidence {
            Evidence::Receipts(0) => {}
            Evidence::Receipts(receipts) => {
                text.push_str(", after ");
                text.push_str(&show_count(u64::from(receipts), "receipt"));
            }
            Evidence::Dwell => text.push_str(", by each device's own clock"),
        }
        if wave.gate == GateKind::Manual {
            text.push_str(", opened by promote");
        }
        all.say(format!("wave {}", cut.number), &text);
    }
    if let Some(most) = plan.pace.max_parallel {
        all.say("at once", &show_count(u64::from(most), "device"));
    }
    let stop = &plan.pace.stop;
    let (failed, dark) = (show_bound(stop.failed), show_bound(stop.dark));
    let quorum = show_share(stop.quorum_bp);
    all.say(
        "stops",
        &format!("at {failed} failed or {dark} dark, a wave below {quorum} healthy"),
    );
    if plan.not_before > 0 {
        all.say("starts", &Time(plan.not_before));
    }
    all.say("expires", &Time(plan.expires));
    if plan.emergency {
        all.say("emergency", "passes windows and locks");
    }
    if let Some(reason) = &plan.downgrade {
        all.say("may go back", reason);
    }
    if !plan.reason.is_empty() {
        all.say("reason", &plan.reason);
    }
    for (scope, before, after) in scopes {
        all.changed(format!("signatures in scope {scope}"), before, after);
    }
    all
}
