//! Releases.

use axum::Json;
use axum::extract::State;
use ensign_api::{ErrorDocument, Release};
use ensign_bundle::ids::{BadName, Ident, Version};
use ensign_bundle::reason::{Code, Refusal};

use super::auth::Caller;
use super::error::{Answer, Path, Raw};
use super::{App, blocking};
use crate::core::Complete;
use crate::roles::Permission;

/// Publishes a signed release document. Its manifest, block tables and blocks must be stored.
#[utoipa::path(post, path = "/v1/releases", tag = "releases",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Release), (status = 409, body = ErrorDocument), (status = 422, body = ErrorDocument)))]
pub(super) async fn publish(State(app): State<App>, caller: Caller, Raw(body): Raw) -> Answer<Release> {
    caller.require(Permission::Deploy)?;
    let store = app.parts.blobs.clone();
    let complete = blocking(move || Complete::check(body.to_vec(), store.as_ref())).await?;
    let published = app.core.change(move |state| {
        let row = state.publish_release(complete)?;
        state.view_release(&row)
    });
    Ok(Json(published.await?))
}

/// Every release, newest first.
#[utoipa::path(get, path = "/v1/releases", tag = "releases", responses((status = 200, body = Vec<Release>)))]
pub(super) async fn list(State(app): State<App>, caller: Caller) -> Answer<Vec<Release>> {
    caller.require(Permission::Read)?;
    let releases = app.core.read(|state| {
        let mut rows: Vec<_> = state.releases.values().collect();
        rows.sort_by(|a, b| a.product.cmp(&b.product).then(b.counter.cmp(&a.counter)));
        rows.into_iter()
            .map(|row| state.view_release(row))
            .collect::<Result<Vec<_>, _>>()
    });
    Ok(Json(releases.await??))
}

/// One release.
#[utoipa::path(get, path = "/v1/releases/{product}/{version}", tag = "releases",
    params(("product" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = Release), (status = 404, body = ErrorDocument)))]
pub(super) async fn show(
    State(app): State<App>,
    caller: Caller,
    Path((product, version)): Path<(String, String)>,
) -> Answer<Release> {
    caller.require(Permission::Read)?;
    let bad = |e: BadName| Refusal::new(Code::Usage, e.to_string());
    let product = Ident::parse(&product).map_err(bad)?;
    let version = Version::parse(&version).map_err(bad)?;
    let release = app
        .core
        .read(move |state| state.view_release(state.release(&product, &version)?));
    Ok(Json(release.await??))
}
