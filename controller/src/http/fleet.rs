//! The fleet at a glance, and its brake.

use axum::Json;
use axum::extract::State;
use ensign_api::{Change, ErrorDocument, Fleet};

use super::App;
use super::auth::Caller;
use super::error::{Answer, Body};
use crate::roles::Permission;

/// The fleet at a glance.
#[utoipa::path(get, path = "/v1/fleet", tag = "fleet", responses((status = 200, body = Fleet), (status = 403, body = ErrorDocument)))]
pub(super) async fn show(State(app): State<App>, caller: Caller) -> Answer<Fleet> {
    caller.require(Permission::Read)?;
    Ok(Json(app.core.read(crate::core::State::view_fleet).await?))
}

/// Nothing starts any more; what is switching finishes.
#[utoipa::path(post, path = "/v1/fleet/freeze", tag = "fleet", request_body = Change, responses((status = 200, body = Fleet)))]
pub(super) async fn freeze(State(app): State<App>, caller: Caller, Body(change): Body<Change>) -> Answer<Fleet> {
    caller.require(Permission::Brake)?;
    let frozen = move |state: &mut crate::core::State| {
        state.freeze_fleet(&change.reason, &caller.name);
        Ok(state.view_fleet())
    };
    Ok(Json(app.core.change(frozen).await?))
}

/// Lets go of the brake.
#[utoipa::path(post, path = "/v1/fleet/unfreeze", tag = "fleet", request_body = Change, responses((status = 200, body = Fleet)))]
pub(super) async fn unfreeze(State(app): State<App>, caller: Caller, Body(change): Body<Change>) -> Answer<Fleet> {
    caller.require(Permission::Brake)?;
    let thawed = move |state: &mut crate::core::State| {
        state.unfreeze_fleet(&change.reason, &caller.name);
        Ok(state.view_fleet())
    };
    Ok(Json(app.core.change(thawed).await?))
}
