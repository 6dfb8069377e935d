//! `rollout plan` and `rollout start`.

use std::path::Path;

use ensign_api::{Base64, Fleet, Rollout, StartRollout};
use ensign_bundle::digest::{CutSeed, PlanId};
use ensign_bundle::ids::{Ident, Label};
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;

use crate::app::{App, Session};
use crate::args::Start;
use crate::evidence::Inventory;
use crate::failure::{Failure, Result};
use crate::output::{Document as _, Paint, Shell};
use crate::rollout::draft::{self, Draft, Moment, Open};
use crate::rollout::preview::{Preview, Seen, Stuck};
use crate::rollout::words::Words;
use crate::rollout::{running, travel, wait};
use crate::seen::{self, How};
use crate::units::show_count;
use crate::{clock, device, numbers, random, scopes};

/// On a terminal more devices than this are asked about.
const ASK_ABOVE: u32 = 50;

/// What to do where a plan needs several signatures.
const SEVERAL: &str = "write it as a file: `ensign rollout plan --product PRODUCT --version VERSION --out PLAN`; each signs it: `ensign rollout sign PLAN`; then `ensign rollout start PLAN`";

/// Shows what `start` with the same words would do; with `out`, writes it as a file for those who sign it.
pub async fn plan(app: &App, flags: &Start, out: Option<&Path>) -> Result<()> {
    let words = Words::of(flags)?;
    let mut session = app.signing_session().await?;
    let inventory = Inventory::fetch(&session).await?;
    let draft = prepare(app, &mut session, &words, &inventory).await?;
    let example = out.is_none() || app.shell.dry_run;
    let mut preview = preview(&session, &draft, &inventory, flags.print_devices, example).await?;
    if let Some(path) = out {
        newer_everywhere(&draft, &preview)?;
        if app.shell.dry_run {
            return app.shell.would(format!("write the plan into {}", path.display()));
        }
        let packed = travel::pack(&session, &draft).await?;
        travel::write(path, &packed.file)?;
        preview.written(PlanId::of(&packed.file.plan.digest()), path);
    }
    if let Some(strangers) = inventory.changed.strange_canaries(&draft.cut, &inventory) {
        Shell::warn(&strangers);
    }
    app.shell.print(&preview)?;
    // Shown is known: what a later look differs from this one in is said again.
    seen::remember(&session, &inventory.known, How::Shown)
}

pub async fn start(app: &App, flags: &Start) -> Result<()> {
    let words = Words::of(flags)?;
    let mut session = app.signing_session().await?;
    let inventory = Inventory::fetch(&session).await?;
    let draft = prepare(app, &mut session, &words, &inventory).await?;
    let preview = preview(&session, &draft, &inventory, flags.print_devices, app.shell.dry_run).await?;
    app.shell.block(&preview.table(Paint::of_diagnostics()));
    newer_everywhere(&draft, &preview)?;
    inventory
        .changed
        .check_canaries(session.trust.root(), &draft.cut, &inventory)?;
    // What devices would refuse is not started: the thresholds of every scope that the plan touches.
    let scopes = travel::scopes(session.trust.root(), draft.chosen.iter().copied())?;
    scopes::alone(&session, &scopes, "the plan", SEVERAL)?;
    if app.shell.dry_run {
        return app.shell.would(format!(
            "sign a plan for {}@{} and start it on {}",
            draft.plan.product,
            draft.plan.release.version,
            show_count(u64::from(preview.devices()), "device")
        ));
    }
    ask(app, &preview)?;
    let body = StartRollout {
        plan: Base64(session.sign_deploy(&draft.plan)?),
        waves: draft.cut.iter().map(travel::members).collect(),
    };
    seen::remember(&session, &inventory.known, How::Shown)?;
    launch(app, &mut session, &preview, &body, flags).await
}

/// Starts a plan file. Nothing is signed here: enough people must have done so.
pub async fn start_file(app: &App, path: &Path, flags: &Start) -> Result<()> {
    let mut session = app.session()?;
    let verified = travel::open(&mut session, path).await?;
    let mut draft = verified.draft();
    let rollouts: Vec<Rollout> = session.client.get("/v1/rollouts").await?;
    draft.open = open(
        &rollouts,
        &draft.plan.product,
        Some(PlanId::of(&verified.file.plan.digest())),
    );
    let preview = preview(&session, &draft, &verified.inventory, flags.print_devices, false).await?;
    app.shell.block(&preview.table(Paint::of_diagnostics()));
    newer_everywhere(&draft, &preview)?;
    verified.check_canaries(session.trust.root())?;
    let shown = ensign_bundle::text::printable(&path.to_string_lossy(), 300);
    let scopes = verified.scopes(session.trust.root())?;
    scopes::require(
        &session,
        &scopes,
        &verified.file.plan.envelope,
        &format!("each key holder: `ensign rollout sign {shown}`"),
    )
    .map_err(|e| e.about(path))?;
    if app.shell.dry_run {
        return app.shell.would(format!(
            "start the plan in {shown} for {}@{} on {}",
            draft.plan.product,
            draft.plan.release.version,
            show_count(u64::from(preview.devices()), "device")
        ));
    }
    ask(app, &preview)?;
    launch(app, &mut session, &preview, &verified.body(), flags).await
}

/// Nobody would take the release, or too few of a wave to open the next one.
fn newer_everywhere(draft: &Draft<'_>, preview: &Preview) -> Result<()> {
    let Some(running) = preview.all_run_newer() else {
        return match preview.stuck() {
            Some(stuck) => Err(Failure::new(Code::DowngradeRefused, stuck.words()).hint(way_back(draft, stuck))),
            None => Ok(()),
        };
    };
    let release = format!("{}@{}", draft.plan.product, draft.plan.release.version);
    let who = match preview.devices() {
        1 => "the device".to_owned(),
        devices => format!("each of the {devices} devices"),
    };
    Err(Failure::new(
        Code::DowngradeRefused,
        format!("{who} runs something newer than {release}, such as {running}"),
    ))
}

fn ask(app: &App, preview: &Preview) -> Result<()> {
    if preview.devices() > ASK_ABOVE && Shell::can_ask() {
        app.shell.confirm(
            &format!("Start on {} devices?", preview.devices()),
            "no rollout was started, nothing was signed",
        )?;
    }
    Ok(())
}

async fn launch(app: &App, session: &mut Session, preview: &Preview, body: &StartRollout, flags: &Start) -> Result<()> {
    let plan = statement::open_unverified::<Plan>(&body.plan.0)?;
    session.trust.saw_plan(&plan.body, plan.digest())?;
    let rollout: Rollout = session.client.post("/v1/rollouts", body).await?;
    let how = match preview.frozen() {
        Some(_) => "is signed and waits: the fleet is frozen (`ensign fleet unfreeze`)",
        None => "is on its way",
    };
    app.shell.note(&format!(
        "rollout {} of {}@{} {how}",
        rollout.id, rollout.product, rollout.version
    ));
    match flags.wait {
        None => app.shell.print(&rollout),
        Some(until) => wait::until(&app.shell, session, rollout, until, flags.timeout).await,
    }
}

/// How to get there all the same.
fn way_back(draft: &Draft<'_>, stuck: &Stuck) -> String {
    let (product, version) = (&draft.plan.product, &draft.plan.release.version);
    let plain: Vec<&str> = stuck
        .newer
        .iter()
        .map(String::as_str)
        .filter(|n| Label::parse(n).is_ok())
        .collect();
    format!(
        "to go back on purpose: `ensign rollout start --product {product} --version {version} --allow-downgrade --reason TEXT`; or without those that run something newer: `ensign rollout start --product {product} --version {version} --select 'not name in ({})'`",
        plain.join(", ")
    )
}

async fn prepare<'a>(app: &App, session: &mut Session, words: &Words, inventory: &'a Inventory) -> Result<Draft<'a>> {
    let release = session
        .trust
        .release(&session.client, &words.product, &words.version)
        .await?;
    if let Some(why) = &release.yanked {
        return Err(draft::withdrawn(&words.product, &words.version, why));
    }
    let rollouts: Vec<Rollout> = session.client.get("/v1/rollouts").await?;
    let last = running::highest_seq(session, &rollouts, &words.product, inventory).await?;
    let moment = Moment {
        now: clock::now(),
        seed: CutSeed(random::bytes()?),
        seq: numbers::next(&format!("the plan of {}", words.product), last)?,
        reason: app.shell.reason.clone(),
    };
    let words = &with_own_selector(session, words)?;
    let mut draft = draft::draft(words, inventory, &release, session.trust.root(), &moment)?;
    draft.open = open(&rollouts, &words.product, None);
    Ok(draft)
}

/// Where nothing else is said, the devices that the product's entry in targets selects.
fn with_own_selector(session: &Session, words: &Words) -> Result<Words> {
    let mut words = words.clone();
    if words.select.is_none()
        && let Some(own) = session.trust.product(&words.product)?.select()
    {
        words.select = Some(device::selector(own)?);
    }
    Ok(words)
}

/// Rollouts of the product that are not over, but for the one that is meant.
fn open(rollouts: &[Rollout], product: &Ident, own: Option<PlanId>) -> Vec<Open> {
    let open = rollouts
        .iter()
        .filter(|r| r.product == *product && !r.state.is_final() && Some(r.id) != own);
    open.map(|r| Open {
        id: r.id,
        what: format!("{} of {} ({})", r.id, r.version, r.state.name()),
    })
    .collect()
}

/// What the plan does, with what the controller says of its devices. `example`: nothing is signed from this draw.
pub async fn preview(
    session: &Session,
    draft: &Draft<'_>,
    inventory: &Inventory,
    print_devices: bool,
    example: bool,
) -> Result<Preview> {
    let plan = &draft.plan;
    let path = format!("/v1/releases/{}/{}", plan.product, plan.release.version);
    let release: ensign_api::Release = session.client.get(&path).await?;
    let fleet: Fleet = session.client.get("/v1/fleet").await?;
    let seen = Seen {
        rows: session.client.get("/v1/devices").await?,
        frozen: fleet.frozen,
        bytes: Some(release.bytes),
        example,
    };
    Ok(Preview::of(draft, inventory, &seen, print_devices))
}
