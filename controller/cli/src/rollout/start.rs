//! `rollout plan` and `rollout start`.

use ensign_api::{Base64, Fleet, Member, Rollout, StartRollout};
use ensign_bundle::digest::CutSeed;
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::reason::Code;
use ensign_crypto::Envelope;

use crate::app::{App, Session};
use crate::args::Start;
use crate::evidence::Inventory;
use crate::failure::{Failure, Result};
use crate::output::{Document as _, Paint, Shell};
use crate::rollout::draft::{self, Draft, Moment};
use crate::rollout::preview::{Preview, Seen};
use crate::rollout::wait;
use crate::rollout::words::Words;
use crate::units::show_count;
use crate::{clock, random};

/// On a terminal more devices than this are asked about.
const ASK_ABOVE: u32 = 50;

/// Shows what `start` with the same words would do.
pub async fn plan(app: &App, flags: &Start) -> Result<()> {
    let words = Words::of(flags)?;
    let mut session = app.signing_session().await?;
    let inventory = Inventory::fetch(&session).await?;
    let draft = prepare(app, &mut session, &words, &inventory).await?;
    let preview = preview(&session, &draft, &inventory, flags.print_devices).await?;
    app.shell.print(&preview)
}

pub async fn start(app: &App, flags: &Start) -> Result<()> {
    let words = Words::of(flags)?;
    let mut session = app.signing_session().await?;
    let inventory = Inventory::fetch(&session).await?;
    let draft = prepare(app, &mut session, &words, &inventory).await?;
    let preview = preview(&session, &draft, &inventory, flags.print_devices).await?;
    app.shell.block(&preview.table(Paint::of_diagnostics()));
    if let Some(running) = preview.all_run_newer() {
        let release = format!("{}@{}", draft.plan.product, draft.plan.release.version);
        return Err(Failure::new(
            Code::DowngradeRefused,
            format!(
                "each of the {} devices runs something newer than {release}, such as {running}",
                preview.devices()
            ),
        ));
    }
    if app.shell.dry_run {
        return app.shell.would(format!(
            "sign a plan for {}@{} and start it on {}",
            draft.plan.product,
            draft.plan.release.version,
            show_count(u64::from(preview.devices()), "device")
        ));
    }
    if preview.devices() > ASK_ABOVE && Shell::can_ask() {
        app.shell.confirm(&format!("Start on {} devices?", preview.devices()))?;
    }
    let envelope = session.sign_deploy(&draft.plan)?;
    check_scopes(&session, &draft, &envelope)?;
    let body = StartRollout {
        plan: Base64(envelope),
        waves: draft.cut.iter().map(members).collect(),
    };
    let rollout: Rollout = session.client.post("/v1/rollouts", &body).await?;
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
        Some(until) => wait::until(&app.shell, &session, rollout, until, flags.timeout).await,
    }
}

async fn prepare<'a>(app: &App, session: &mut Session, words: &Words, inventory: &'a Inventory) -> Result<Draft<'a>> {
    let release = session
        .trust
        .release(&session.client, &words.product, &words.version)
        .await?;
    if let Some(why) = &release.yanked {
        let why = ensign_bundle::text::printable(why, 200);
        return Err(Failure::new(
            Code::Yanked,
            format!("{}@{} was withdrawn: {why}", words.product, words.version),
        ));
    }
    let rollouts: Vec<Rollout> = session.client.get("/v1/rollouts").await?;
    let of_product = rollouts.iter().filter(|r| r.product == words.product);
    let last = of_product.map(|r| r.seq).max().unwrap_or(0);
    let floor = session.trust.trusted().plan_seq_floor(&words.product).max(last);
    let now = clock::now();
    let moment = Moment {
        now,
        seed: CutSeed(random::bytes()?),
        seq: floor.saturating_add(1).max(now),
        reason: app.shell.reason.clone(),
    };
    let mut draft = draft::draft(words, inventory, &release, session.trust.root(), &moment)?;
    let open = rollouts
        .iter()
        .filter(|r| r.product == words.product && !r.state.is_final());
    draft.supersedes = open
        .map(|r| format!("{} of {} ({})", r.id, r.version, r.state.name()))
        .collect();
    Ok(draft)
}

async fn preview(session: &Session, draft: &Draft<'_>, inventory: &Inventory, print_devices: bool) -> Result<Preview> {
    let plan = &draft.plan;
    let path = format!("/v1/releases/{}/{}", plan.product, plan.release.version);
    let release: ensign_api::Release = session.client.get(&path).await?;
    let fleet: Fleet = session.client.get("/v1/fleet").await?;
    let seen = Seen {
        rows: session.client.get("/v1/devices").await?,
        frozen: fleet.frozen,
        bytes: release.bytes,
    };
    Ok(Preview::of(draft, inventory, &seen, print_devices))
}

/// What devices would refuse is not started: the thresholds of every scope that the plan touches.
fn check_scopes(session: &Session, draft: &Draft<'_>, plan: &[u8]) -> Result<()> {
    let envelope = Envelope::parse(plan, plan.len()).map_err(|e| Failure::new(Code::Malformed, e.to_string()))?;
    let mut checked: Vec<Vec<String>> = Vec::new();
    for known in &draft.chosen {
        let scopes = known.member.scopes(session.trust.root())?;
        let names: Vec<String> = scopes.iter().map(|s| s.name.to_string()).collect();
        if !checked.contains(&names) {
            scopes.require(&envelope, &session.fleet())?;
            checked.push(names);
        }
    }
    Ok(())
}

fn members(wave: &CutWave) -> Vec<Member> {
    let members = wave.members.iter();
    members
        .map(|m| Member {
            device: m.device,
            receipt_key: m.receipt_key,
        })
        .collect()
}
