//! `fleet freeze` and `fleet unfreeze`: the brake on everything, and what it does.

use std::fmt::Write as _;

use ensign_api::{Change, Fleet, Frozen, Rollout, RolloutState};
use ensign_bundle::digest::PlanId;
use ensign_bundle::limits::LEASE_S;
use serde::Serialize;

use crate::app::App;
use crate::failure::Result;
use crate::output::{Document, Facts, Paint, steps};
use crate::rollout::view;
use crate::units;

/// What the brake does, and to what.
#[derive(Debug, Serialize)]
struct Brake {
    /// None: it is off.
    frozen: Option<Frozen>,
    /// Whether this command changed that.
    changed: bool,
    /// Rollouts that it holds, or lets go.
    rollouts: Vec<Affected>,
}

#[derive(Debug, Serialize)]
struct Affected {
    id: PlanId,
    release: String,
    state: RolloutState,
    /// Devices under way: those that switch already finish, the others stop.
    active: u64,
    /// Devices that wait for their turn.
    pending: u64,
}

pub async fn run(app: &App, freeze: bool) -> Result<()> {
    let session = app.session()?;
    let before: Fleet = session.client.get("/v1/fleet").await?;
    let rollouts: Vec<Rollout> = session.client.get("/v1/rollouts").await?;
    let rollouts: Vec<Affected> = rollouts.iter().filter(|r| !r.state.is_final()).map(affected).collect();
    let verb = if freeze { "freeze" } else { "unfreeze" };
    let changed = before.frozen.is_none() == freeze;
    if app.shell.dry_run {
        let held = units::show_count(rollouts.len() as u64, "rollout");
        if !changed {
            app.shell.note(&standing(before.frozen.as_ref()));
            return app.shell.would_all(Vec::new());
        }
        return app.shell.would(format!("{verb} the fleet, with {held} under way"));
    }
    let change = Change {
        reason: app.shell.reason.clone(),
    };
    let fleet: Fleet = session.client.post(&format!("/v1/fleet/{verb}"), &change).await?;
    app.shell.print(&Brake {
        frozen: fleet.frozen,
        changed,
        rollouts,
    })
}

fn affected(rollout: &Rollout) -> Affected {
    let sum = |count: fn(&ensign_api::WaveStatus) -> u32| rollout.waves.iter().map(|w| u64::from(count(w))).sum();
    Affected {
        id: rollout.id,
        release: format!("{}@{}", rollout.product, rollout.version),
        state: rollout.state,
        active: sum(|w| w.active),
        pending: sum(|w| w.pending),
    }
}

fn standing(frozen: Option<&Frozen>) -> String {
    frozen.map_or_else(|| "the fleet is not frozen".to_owned(), view::said)
}

impl Document for Brake {
    fn table(&self, paint: Paint) -> String {
        let standing = standing(self.frozen.as_ref());
        let mut out = match (&self.frozen, self.changed) {
            (Some(_), true) => format!("{}\n", paint.yellow(&standing)),
            (Some(_), false) => format!("{}, already before this\n", paint.yellow(&standing)),
            (None, true) => format!("{}\n", paint.green("the fleet is no longer frozen")),
            (None, false) => "the fleet was not frozen\n".to_owned(),
        };
        let mut facts = Facts::new();
        if self.frozen.is_some() {
            let lease = units::show_seconds(LEASE_S);
            facts
                .add(
                    "stops",
                    format!("every offer and every switch: on connected devices now, on all others within {lease}"),
                )
                .add(
                    "goes on",
                    "switches and trials under way, and their way back; what runs, runs",
                )
                .add("may be done", "build, publish, enrol, and start rollouts: these wait");
        }
        out.push_str(&facts.text(paint));
        for r in &self.rollouts {
            // Writing to a string cannot fail.
            let _ = write!(out, "{} {} ({}): ", paint.dim("rollout"), r.release, r.state.name());
            let waits = match (self.frozen.is_some(), r.state) {
                (_, RolloutState::Paused | RolloutState::Halted) => "stands still by itself".to_owned(),
                (true, _) => format!("{} under way finish or stop, {} wait", r.active, r.pending),
                (false, _) => format!("goes on: {} under way, {} to come", r.active, r.pending),
            };
            let _ = writeln!(out, "{waits}");
        }
        if self.rollouts.is_empty() && (self.frozen.is_some() || self.changed) {
            out.push_str("no rollout is under way\n");
        }
        if self.frozen.is_some() {
            out.push_str(&steps("lift it: `ensign fleet unfreeze`", paint));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use ensign_api::Time;

    use super::*;

    #[test]
    fn says_what_stops_and_what_goes_on() {
        let rollout = |release: &str, state, active, pending| Affected {
            id: PlanId([1; 16]),
            release: release.to_owned(),
            state,
            active,
            pending,
        };
        let mut brake = Brake {
            frozen: Some(Frozen {
                since: Time(1_796_090_400),
                reason: "storm\u{1b}".to_owned(),
                by: "ada".to_owned(),
            }),
            changed: true,
            rollouts: vec![
                rollout("app@1.1.0", RolloutState::Running, 3, 12),
                rollout("os@7", RolloutState::Halted, 0, 4),
            ],
        };
        let mut out = brake.table(Paint(false));
        brake.changed = false;
        brake.rollouts.clear();
        out += "--- again\n";
        out += &brake.table(Paint(false));
        out += "--- off\n";
        (brake.frozen, brake.changed) = (None, true);
        brake.rollouts.push(rollout("app@1.1.0", RolloutState::Running, 0, 12));
        out += &brake.table(Paint(false));
        out += "--- off again\n";
        (brake.changed, brake.rollouts) = (false, Vec::new());
        out += &brake.table(Paint(false));
        insta::assert_snapshot!(out);
    }
}
