//! Rollouts.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use ensign_api::{ErrorDocument, ReleaseSlots, Rollout, RolloutQuery, SignedPlan, StartRollout, Why, WhyQuery};
use ensign_bundle::digest::PlanId;
use ensign_bundle::reason::{Code, Refusal};

use super::App;
use super::auth::Caller;
use super::devices::reason;
use super::error::{Answer, ApiError, Body, Params, Path, Raw};
use crate::core::State as Fleet;
use crate::roles::Permission;

/// Longest wait of a long poll, seconds: below what proxies cut.
const WAIT_S: u64 = 60;

/// Starts a signed plan; the devices under its Merkle roots come along. The same plan again changes nothing.
#[utoipa::path(post, path = "/v1/rollouts", tag = "rollouts", request_body = StartRollout,
    responses((status = 200, body = Rollout), (status = 409, body = ErrorDocument), (status = 422, body = ErrorDocument)))]
pub(super) async fn start(State(app): State<App>, caller: Caller, Body(start): Body<StartRollout>) -> Answer<Rollout> {
    caller.require(Permission::Deploy)?;
    let id = app
        .core
        .change(move |state| state.start_rollout(&start.plan.0, &start.waves, &caller.name))
        .await?;
    Ok(Json(app.core.read(move |state| state.view_rollout(&id)).await??))
}

/// Every rollout, newest first.
#[utoipa::path(get, path = "/v1/rollouts", tag = "rollouts", responses((status = 200, body = Vec<Rollout>)))]
pub(super) async fn list(State(app): State<App>, caller: Caller) -> Answer<Vec<Rollout>> {
    caller.require(Permission::Read)?;
    Ok(Json(app.core.read(Fleet::view_rollouts).await??))
}

/// One rollout. With `after`, the answer waits until its revision is above that, or for `wait_s`.
#[utoipa::path(get, path = "/v1/rollouts/{rollout}", tag = "rollouts", params(("rollout" = String, Path), RolloutQuery),
    responses((status = 200, body = Rollout), (status = 404, body = ErrorDocument)))]
pub(super) async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(rollout): Path<String>,
    Params(query): Params<RolloutQuery>,
) -> Answer<Rollout> {
    caller.require(Permission::Read)?;
    let (id, mut changes) = app
        .core
        .read(move |state| Ok::<_, Refusal>((state.find_rollout(&rollout)?, state.rollouts.changes())))
        .await??;
    let wait = Duration::from_secs(query.wait_s.unwrap_or(0).min(WAIT_S));
    let deadline = tokio::time::sleep(wait);
    tokio::pin!(deadline);
    loop {
        changes.borrow_and_update();
        let rollout = app.core.read(move |state| state.view_rollout(&id)).await??;
        let news = query.after.is_none_or(|after| rollout.revision > after);
        if news || wait.is_zero() {
            return Ok(Json(rollout));
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Ok(Json(rollout)) },
            () = &mut deadline => return Ok(Json(rollout)),
        }
    }
}

/// The signed plan, the devices under its Merkle roots, and the promotions so far.
#[utoipa::path(get, path = "/v1/rollouts/{rollout}/plan", tag = "rollouts", params(("rollout" = String, Path)),
    responses((status = 200, body = SignedPlan), (status = 404, body = ErrorDocument), (status = 409, body = ErrorDocument)))]
pub(super) async fn plan(State(app): State<App>, caller: Caller, Path(rollout): Path<String>) -> Answer<SignedPlan> {
    caller.require(Permission::Read)?;
    let plan = app.core.read(move |state| {
        let id = state.find_rollout(&rollout)?;
        state.view_plan(&id)
    });
    Ok(Json(plan.await??))
}

/// The rule that decides about a device just now.
#[utoipa::path(get, path = "/v1/rollouts/{rollout}/why", tag = "rollouts", params(("rollout" = String, Path), WhyQuery),
    responses((status = 200, body = Why), (status = 404, body = ErrorDocument)))]
pub(super) async fn why(
    State(app): State<App>,
    caller: Caller,
    Path(rollout): Path<String>,
    Params(query): Params<WhyQuery>,
) -> Answer<Why> {
    caller.require(Permission::Read)?;
    let why = app.core.read(move |state| {
        let id = state.find_rollout(&rollout)?;
        state.view_why(&id, &query.device)
    });
    Ok(Json(why.await??))
}

/// `pause`, `resume` with a reason; `cancel`, `promote` with an envelope; `release` with devices.
#[utoipa::path(post, path = "/v1/rollouts/{rollout}/{verb}", tag = "rollouts",
    params(("rollout" = String, Path), ("verb" = String, Path)), request_body = ReleaseSlots,
    responses((status = 200, body = Rollout), (status = 404, body = ErrorDocument), (status = 409, body = ErrorDocument)))]
pub(super) async fn act(
    State(app): State<App>,
    caller: Caller,
    Path((rollout, verb)): Path<(String, String)>,
    Raw(body): Raw,
) -> Answer<Rollout> {
    let action = Action::parse(&verb, &body)?;
    caller.require(action.permission())?;
    let id = app
        .core
        .change(move |state| {
            let id = state.find_rollout(&rollout)?;
            action.perform(state, &id, &caller)?;
            Ok(id)
        })
        .await?;
    Ok(Json(app.core.read(move |state| state.view_rollout(&id)).await??))
}

enum Action {
    Pause(String),
    Resume(String),
    Cancel(Vec<u8>),
    Promote(Vec<u8>),
    Release(ReleaseSlots),
}

impl Action {
    fn parse(verb: &str, body: &[u8]) -> Result<Self, ApiError> {
        match verb {
            "pause" => Ok(Self::Pause(reason(body)?)),
            "resume" => Ok(Self::Resume(reason(body)?)),
            "cancel" => Ok(Self::Cancel(body.to_vec())),
            "promote" => Ok(Self::Promote(body.to_vec())),
            "release" => serde_json::from_slice(body)
                .map(Self::Release)
                .map_err(|e| Refusal::new(Code::Usage, format!("not a list of devices: {e}")).into()),
            _ => Err(Refusal::new(Code::NotFound, "there is no such verb for rollouts").into()),
        }
    }

    const fn permission(&self) -> Permission {
        match self {
            Self::Pause(_) | Self::Cancel(_) => Permission::Brake,
            Self::Resume(_) | Self::Promote(_) | Self::Release(_) => Permission::Deploy,
        }
    }

    fn perform(self, state: &mut Fleet, id: &PlanId, caller: &Caller) -> Result<(), Refusal> {
        match self {
            Self::Pause(reason) => state.pause(id, &reason, &caller.name),
            Self::Resume(reason) => state.resume(id, &reason, &caller.name),
            Self::Cancel(envelope) => state.cancel(id, &envelope, &caller.name),
            Self::Promote(envelope) => state.promote(id, &envelope),
            Self::Release(slots) => state.release_slots(id, &slots.devices, &caller.name),
        }
    }
}
