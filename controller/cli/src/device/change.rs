//! Verbs that change devices: what the controller may do by itself, and what an operator signs (labels, holds).

use ensign_api::{Change, Device};
use ensign_bundle::ids::{Label, Labels};
use ensign_bundle::plan::statements::{Grant, Hold, Subject};
use ensign_bundle::text::printable;
use ensign_bundle::trust::roles::FORMAT;

use crate::app::{App, Session};
use crate::args::Devices;
use crate::device::{which, why};
use crate::evidence::{Inventory, Known};
use crate::failure::{Failure, Result};
use crate::output::{Shell, some_of};
use crate::seen::{self, How};
use crate::token;
use crate::{clock, numbers};

/// Devices of which `unhold` says what they do now.
const SAID: usize = 8;

/// accept, reject, suspend, unsuspend, revoke.
pub async fn state(app: &App, verb: &str, words: &Devices) -> Result<()> {
    let session = app.session()?;
    let rows: Vec<Device> = session.client.get("/v1/devices").await?;
    let chosen = which::several(&rows, words)?;
    let names: Vec<String> = chosen.iter().map(|d| d.name.clone()).collect();
    if verb == "revoke" {
        let which = some_of(&names);
        app.shell.confirm(
            &format!("Revoke {which} for ever?"),
            &format!("{which} {} not revoked", if names.len() == 1 { "is" } else { "are" }),
        )?;
    }
    if app.shell.dry_run {
        return app.shell.would(format!("{verb} {}", some_of(&names)));
    }
    let change = Change {
        reason: app.shell.reason.clone(),
    };
    let mut changed: Vec<Device> = Vec::new();
    for device in chosen {
        let path = format!("/v1/devices/{}/{verb}", device.id);
        changed.push(session.client.post(&path, &change).await?);
    }
    app.shell.print(&changed[..])
}

/// Signs new labels for each device, on top of those that are signed for now.
pub async fn label(app: &App, words: &Devices, add: &[(String, String)], remove: &[String]) -> Result<()> {
    if add.is_empty() && remove.is_empty() {
        return Err(Failure::usage("nothing to change: --label KEY=VALUE or --remove KEY"));
    }
    let add = token::labels(add)?;
    let remove = remove
        .iter()
        .map(|key| Label::parse(key).map_err(|e| Failure::usage(e.to_string())))
        .collect::<Result<Vec<_>>>()?;
    let session = app.signing_session().await?;
    let mut inventory = Inventory::fetch(&session).await?;
    inventory.say_refused();
    // Who is shown with older labels than the newest gets new ones on top of the newest.
    let stale = std::mem::take(&mut inventory.stale);
    for known in &stale {
        Shell::warn(&format!(
            "{}: the controller shows labels from before the newest; what is signed for it is on top of the newest",
            printable(&known.member.name, 63)
        ));
    }
    inventory.known.extend(stale);
    let mut changed: Vec<Device> = Vec::new();
    let mut signed: Vec<Known> = Vec::new();
    let mut would = Vec::new();
    for known in which::several(&inventory.known, words)? {
        let member = &known.member;
        let mut labels: Labels = member.labels.clone();
        labels.retain(|key, _| !remove.contains(key));
        labels.extend(add.clone());
        if labels == member.labels {
            continue;
        }
        let difference = format!(
            "{}: {} → {}",
            printable(&member.name, 63),
            token::show_labels(&member.labels),
            token::show_labels(&labels)
        );
        if app.shell.dry_run {
            would.push(format!("label {difference}"));
            continue;
        }
        app.shell.note(&difference);
        let mut next = known.clone();
        next.member.labels = labels;
        next.member.label_seq = numbers::next(
            &format!("the labels of {}", printable(&member.name, 63)),
            member.label_seq,
        )?;
        let grant = session.sign_deploy(&Grant {
            format: FORMAT,
            issued: clock::now(),
            subject: Subject::Device(member.device),
            labels: next.member.labels.clone(),
            label_seq: next.member.label_seq,
        })?;
        let path = format!("/v1/devices/{}/grant", member.device);
        changed.push(session.client.post_bytes(&path, grant).await?);
        signed.push(next);
    }
    if app.shell.dry_run {
        return app.shell.would_all(would);
    }
    seen::remember(&session, &signed, How::Named)?;
    app.shell.print(&changed[..])
}

/// Signs a hold, or its end, for each device.
pub async fn hold(app: &App, words: &Devices, held: bool) -> Result<()> {
    let session = app.signing_session().await?;
    let inventory = Inventory::fetch(&session).await?;
    inventory.say_refused();
    let chosen = which::several(&inventory.known, words)?;
    if app.shell.dry_run {
        let names: Vec<String> = chosen.iter().map(|k| k.member.name.clone()).collect();
        let verb = if held { "hold" } else { "let go" };
        return app.shell.would(format!("{verb} {}", some_of(&names)));
    }
    let mut changed: Vec<Device> = Vec::new();
    let mut signed: Vec<Known> = Vec::new();
    for known in chosen {
        let device = known.member.device;
        let mut next = known.clone();
        next.hold_seq = numbers::next(
            &format!("the hold of {}", printable(&known.member.name, 63)),
            known.hold_seq,
        )?;
        let hold = session.sign_deploy(&Hold {
            format: FORMAT,
            issued: clock::now(),
            device,
            seq: next.hold_seq,
            held,
            reason: app.shell.reason.clone(),
        })?;
        let path = format!("/v1/devices/{device}/hold");
        changed.push(session.client.post_bytes(&path, hold).await?);
        signed.push(next);
    }
    seen::remember(&session, &signed, How::Named)?;
    app.shell.print(&changed[..])?;
    if !held {
        say_what_follows(app, &session, &changed).await;
    }
    Ok(())
}

/// What devices do that take part again. The hold is lifted whatever the answer is, so nothing fails here.
async fn say_what_follows(app: &App, session: &Session, devices: &[Device]) {
    for device in devices.iter().take(SAID) {
        if let Ok(answer) = why::of_device(session, device).await {
            app.shell.note(&answer.in_a_line());
        }
    }
    if devices.len() > SAID {
        app.shell.note("the others: `ensign device why DEVICE`");
    }
}
