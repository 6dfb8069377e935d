//! Verbs that stop, go on or end a rollout.

use ensign_api::{Change, Device, ReleaseSlots, Rollout, RolloutState};
use ensign_bundle::digest::{Digest, PlanId};
use ensign_bundle::plan::statements::{Cancel, Promote};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::FORMAT;

use crate::app::App;
use crate::evidence::Inventory;
use crate::failure::{Failure, Result};
use crate::output::{Paint, Shell};
use crate::rollout::running::Running;
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
    let inventory = Inventory::fetch(&session).await?;
    inventory.say_refused();
    let plan = match Running::fetch(&session, &found, &inventory).await {
        Ok(running) => {
            app.shell.block(&running.difference(None).text(Paint::of_diagnostics()));
            running.digest()
        }
        // The whole id names the plan, whoever shows it: nothing else can be ended by it.
        Err(e) if e.code == Code::PlanLost && which == Some(&*found.id.to_string()) => {
            if PlanId::of(&found.plan) != found.id {
                return Err(unnamed(&found));
            }
            Shell::warn(&format!("{e}: nobody can say what it was"));
            found.plan
        }
        Err(e) if e.code == Code::PlanLost => {
            return Err(e.hint(format!(
                "end it by its whole id: `ensign rollout abort {} --keep`",
                found.id
            )));
        }
        Err(e) => return Err(e),
    };
    app.shell.confirm(
        &format!("End {} for ever? Updated devices stay as they are.", named(&found)),
        &format!("{} goes on as it was", named(&found)),
    )?;
    if app.shell.dry_run {
        return app.shell.would(format!("end {}", named(&found)));
    }
    let cancel = Cancel {
        format: FORMAT,
        issued: clock::now(),
        plan,
        product: found.product.clone(),
        reason: app.shell.reason.clone(),
    };
    app.shell
        .note(&format!("signing the end of plan {plan}, sha256 {}", payload(&cancel)?));
    let cancel = session.sign_deploy(&cancel)?;
    let path = format!("/v1/rollouts/{}/cancel", found.id);
    let changed = session.client.post_bytes(&path, cancel).await;
    let changed: Rollout = changed.map_err(|e| ended(e, &found))?;
    app.shell.print(&changed)
}

/// Opens a manual gate: a signed statement that the devices of the wave want to see. What is opened is what the signed plan says.
pub async fn promote(app: &App, which: Option<&str>, wave: Option<u32>) -> Result<()> {
    let session = app.signing_session().await?;
    let found = rollout::find(&session, which).await?;
    let inventory = Inventory::fetch(&session).await?;
    inventory.say_refused();
    let running = Running::fetch(&session, &found, &inventory).await?;
    let Some(wave) = wave.or_else(|| running.next_manual()) else {
        return Err(Failure::new(
            Code::Conflict,
            format!("no wave of {} waits for a promotion", named(&found)),
        )
        .hint(format!("`ensign rollout status {}`", found.id)));
    };
    running.check_manual(wave)?;
    running.check_age(&session)?;
    let difference = running.difference(Some(wave));
    if app.shell.dry_run {
        return app
            .shell
            .would_change(format!("open wave {wave} of {}", named(&found)), &difference);
    }
    let promote = Promote {
        format: FORMAT,
        issued: clock::now(),
        plan: running.digest(),
        wave,
    };
    app.shell.block(&difference.text(Paint::of_diagnostics()));
    app.shell
        .note(&format!("signing the promotion, sha256 {}", payload(&promote)?));
    let promote = session.sign_deploy(&promote)?;
    let path = format!("/v1/rollouts/{}/promote", found.id);
    let changed = session.client.post_bytes(&path, promote).await;
    let changed: Rollout = changed.map_err(|e| ended(e, &found))?;
    app.shell.print(&changed)
}

fn payload<T: statement::Document>(body: &T) -> Result<Digest> {
    Ok(Digest(statement::seal(body)?.payload_digest()))
}

fn unnamed(found: &Rollout) -> Failure {
    Failure::new(
        Code::PlanMismatch,
        format!("the controller calls the plan {} rollout {}", found.plan, found.id),
    )
    .hint("sign nothing; check the controller")
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
