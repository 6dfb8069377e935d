//! Join tokens.

use axum::Json;
use axum::extract::State;
use ensign_api::{Change, ErrorDocument, NewToken, Token};
use ensign_bundle::reason::{Code, Refusal};
use ensign_crypto::PublicKey;

use super::App;
use super::auth::Caller;
use super::error::{Answer, Body, Path};
use crate::core::State as Fleet;
use crate::roles::Permission;

/// Takes the deploy-signed grant of a new token.
#[utoipa::path(post, path = "/v1/tokens", tag = "devices", request_body = NewToken,
    responses((status = 200, body = Token), (status = 422, body = ErrorDocument)))]
pub(super) async fn create(State(app): State<App>, caller: Caller, Body(new): Body<NewToken>) -> Answer<Token> {
    caller.require(Permission::Enroll)?;
    let row = app.core.change(move |state| state.create_token(&new.grant.0)).await?;
    Ok(Json(Fleet::view_token(&row)))
}

/// Every token.
#[utoipa::path(get, path = "/v1/tokens", tag = "devices", responses((status = 200, body = Vec<Token>)))]
pub(super) async fn list(State(app): State<App>, caller: Caller) -> Answer<Vec<Token>> {
    caller.require(Permission::Read)?;
    let tokens = app
        .core
        .read(|state| state.tokens.values().map(Fleet::view_token).collect());
    Ok(Json(tokens.await?))
}

/// Nobody joins with it any more.
#[utoipa::path(post, path = "/v1/tokens/{key}/revoke", tag = "devices", params(("key" = String, Path)), request_body = Change,
    responses((status = 200, body = Token), (status = 403, body = ErrorDocument)))]
pub(super) async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Path(key): Path<String>,
    Body(change): Body<Change>,
) -> Answer<Token> {
    caller.require(Permission::Enroll)?;
    let key: PublicKey = key
        .parse()
        .map_err(|e: ensign_crypto::KeyError| Refusal::new(Code::Usage, e.to_string()))?;
    let row = app
        .core
        .change(move |state| state.revoke_token(&key, &change.reason, &caller.name))
        .await?;
    Ok(Json(Fleet::view_token(&row)))
}
