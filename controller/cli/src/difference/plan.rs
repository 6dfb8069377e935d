//! What a plan changes.

use ensign_api::Time;
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::statements::{GateKind, Plan};

use super::Difference;
use crate::output::some_of;
use crate::signing::Count;
use crate::units::{show_count, show_seconds};

/// What a signature stands for: devices by name, waves, expiry, and how many of how many are there in each scope, before and after.
pub fn of_plan(plan: &Plan, names: &[String], cut: &[CutWave], scopes: &[(String, Count, Count)]) -> Difference {
    let mut all = Difference::default();
    let devices = show_count(names.len() as u64, "device");
    all.say("brings", &format!("{}@{}", plan.product, plan.release.version));
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
        if wave.gate == GateKind::Manual {
            text.push_str(", opened by promote");
        }
        all.say(format!("wave {}", cut.number), &text);
    }
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
