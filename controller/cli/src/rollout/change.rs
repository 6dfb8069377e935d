//! Verbs that stop, go on or end a rollout.

use ensign_api::{Change, Device, ReleaseSlots, Rollout, RolloutState, WaveState};
use ensign_bundle::plan::statements::{Cancel, Promote};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::FORMAT;

use crate::app::App;
use crate::failure::{Failure, Result};
use crate::rollout::{self, wait};
use crate::units::show_count;
use crate::{clock, device};

pub async fn pause(app: &App, which: Option<&str>, pause: bool) -> Result<()> {
    let session = app.session()?;
    let found = rollout::find(&session, which).await?;
    let verb = if pause { "pause" } else { "resume" };
    if app.shell.dry_run {
        return app.shell.would(format!("{verb} {}", named(&found)));
    }
    let change = Change {
        reason: app.shell.reason.clone(),
    };
    let path = format!("/v1/rollouts/{}/{verb}", found.id);
    let changed: Rollout = session
        .client
        .post(&path, &change)
        .await
        .map_err(|e| ended(e, &found))?;
    app.shell.print(&changed)?;
    if pause && let Some(note) = under_way(&changed) {
        app.shell.note(&note);
    }
    // What halted it was acknowledged, and the next rule stops it: that is no success.
    if !pause && changed.state == RolloutState::Halted {
        return Err(wait::shown(&app.shell, &changed, halted_again(&changed)));
    }
    Ok(())
}

/// What a pause does not stop.
fn under_way(rollout: &Rollout) -> Option<String> {
    let active = rollout.waves.iter().map(|w| u64::from(w.active)).sum();
    (active > 0).then(|| {
        format!(
            "{} under way: what is being fetched is fetched to its end and waits, what is switching finishes",
            show_count(active, "device")
        )
    })
}

fn halted_again(rollout: &Rollout) -> Failure {
    wait::stands(rollout, Code::Paused)
}

/// A cancel is for ever and devices remember it: so it is signed.
pub async fn abort(app: &App, which: Option<&str>, keep: bool) -> Result<()> {
    if !keep {
        return Err(Failure::usage("say what becomes of updated devices").hint(
            "--keep leaves them as they are; to bring them back: `ensign rollout start --product PRODUCT --version VERSION --allow-downgrade --reason TEXT`",
        ));
    }
    let session = app.signing_session().await?;
    let found = rollout::find(&session, which).await?;
    app.shell.confirm(
        &format!("End {} for ever? Updated devices stay as they are.", named(&found)),
        &format!("{} goes on as it was", named(&found)),
    )?;
    if app.shell.dry_run {
        return app.shell.would(format!("end {}", named(&found)));
    }
    let cancel = session.sign_deploy(&Cancel {
        format: FORMAT,
        issued: clock::now(),
        plan: found.plan,
        product: found.product.clone(),
        reason: app.shell.reason.clone(),
    })?;
    let path = format!("/v1/rollouts/{}/cancel", found.id);
    let changed = session.client.post_bytes(&path, cancel).await;
    let changed: Rollout = changed.map_err(|e| ended(e, &found))?;
    app.shell.print(&changed)
}

/// Opens a manual gate: a signed statement that the devices of the wave want to see.
pub async fn promote(app: &App, which: Option<&str>, wave: Option<u32>) -> Result<()> {
    let session = app.signing_session().await?;
    let found = rollout::find(&session, which).await?;
    let wave = match wave {
        Some(wave) => wave,
        None => next_wave(&found)?,
    };
    if app.shell.dry_run {
        return app.shell.would(format!("open wave {wave} of {}", named(&found)));
    }
    let promote = session.sign_deploy(&Promote {
        format: FORMAT,
        issued: clock::now(),
        plan: found.plan,
        wave,
    })?;
    let path = format!("/v1/rollouts/{}/promote", found.id);
    let changed = session.client.post_bytes(&path, promote).await;
    let changed: Rollout = changed.map_err(|e| ended(e, &found))?;
    app.shell.print(&changed)
}

/// The first wave that waits.
fn next_wave(rollout: &Rollout) -> Result<u32> {
    let waiting = rollout
        .waves
        .iter()
        .find(|w| w.state == WaveState::Waiting && w.target > 0);
    waiting.map(|w| w.index).ok_or_else(|| {
        Failure::new(Code::Conflict, format!("every wave of {} is open", named(rollout)))
            .hint("`ensign rollout status`")
    })
}

/// What the controller refuses because of where the rollout stands is seen in its status.
fn ended(failure: Failure, rollout: &Rollout) -> Failure {
    match failure.code {
        Code::Conflict | Code::GateNotOpen => failure.hint(format!("`ensign rollout status {}`", rollout.id)),
        _ => failure,
    }
}

/// Gives back the slots of dark devices.
pub async fn release(app: &App, which: &str, names: &[String]) -> Result<()> {
    let session = app.session()?;
    let found = rollout::find(&session, Some(which)).await?;
    let rows: Vec<Device> = session.client.get("/v1/devices").await?;
    let devices = names
        .iter()
        .map(|name| device::find(&rows, name).map(|d| d.id))
        .collect::<Result<Vec<_>>>()?;
    if app.shell.dry_run {
        return app.shell.would(format!(
            "give back {} of {}",
            show_count(devices.len() as u64, "slot"),
            named(&found)
        ));
    }
    let body = ReleaseSlots {
        devices,
        reason: app.shell.reason.clone(),
    };
    let path = format!("/v1/rollouts/{}/release", found.id);
    let changed: Rollout = session.client.post(&path, &body).await?;
    app.shell.print(&changed)
}

fn named(rollout: &Rollout) -> String {
    format!("the rollout {} of {}@{}", rollout.id, rollout.product, rollout.version)
}

#[cfg(test)]
mod tests {
    use ensign_api::Reason;

    use super::*;
    use crate::rollout::view::tests::rollout;

    #[test]
    fn a_pause_says_what_runs_on() {
        let mut r = rollout(1, "app");
        for wave in &mut r.waves {
            wave.active = 0;
        }
        assert_eq!(under_way(&r), None);
        r.waves[0].active = 3;
        assert!(under_way(&r).is_some_and(|note| note.starts_with("3 devices under way: what is being fetched")));
    }

    #[test]
    fn a_resume_that_halts_again_has_the_code_of_the_halt() {
        let mut r = rollout(1, "app");
        r.state = RolloutState::Halted;
        r.reason = Some(Reason {
            code: Code::QuorumNotReached,
            text: "1 of 3 devices in wave 1 are ok".to_owned(),
        });
        assert_eq!(halted_again(&r).code, Code::QuorumNotReached);
        assert_eq!(halted_again(&r).exit(), 10);
    }
}
