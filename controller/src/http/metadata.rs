//! The signed documents of the fleet.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use ensign_api::{Base64, ErrorDocument, Metadata, MetadataKind, MetadataQuery, NewRoot, NewTargets};
use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::printable;

use super::auth::Caller;
use super::error::{Answer, ApiError, Params, Path, Raw};
use super::{App, blocking};
use crate::core::read_document;
use crate::keys;
use crate::paths::Paths;
use crate::roles::Permission;

/// Roots in one answer to whoever has no login.
const ROOTS: usize = 64;

/// Roots above the one that the client has, then targets, snapshot, timestamp.
#[utoipa::path(get, path = "/v1/metadata", tag = "fleet", params(MetadataQuery), responses((status = 200, body = Vec<Metadata>)))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(query): Params<MetadataQuery>,
) -> Answer<Vec<Metadata>> {
    caller.require(Permission::Read)?;
    current(&app, query.root).await
}

/// One signed document, by the SHA-256 of its envelope.
#[utoipa::path(get, path = "/v1/documents/{digest}", tag = "fleet", params(("digest" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = 404, body = ErrorDocument)))]
pub(super) async fn document(
    State(app): State<App>,
    caller: Caller,
    Path(digest): Path<String>,
) -> Result<Response, ApiError> {
    caller.require(Permission::Read)?;
    let digest: Digest = digest
        .parse()
        .map_err(|e: ensign_bundle::digest::NotHex| Refusal::new(Code::Usage, e.to_string()))?;
    let store = app.parts.documents.clone();
    let bytes = blocking(move || read_document(store.as_ref(), &digest)).await?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// The roots that follow the one with this digest, oldest first, at most 64: for whoever was away while the key of this port changed.
///
/// Asks for no login, which nobody sends to a key that they do not know: roots are signed, and whoever knows the digest of one has it.
#[utoipa::path(get, path = "/v1/roots/{digest}", tag = "fleet", params(("digest" = String, Path, description = "SHA-256 of the envelope of a root")),
    responses((status = 200, body = Vec<Base64>), (status = 404, body = ErrorDocument)))]
pub(super) async fn roots_after(State(app): State<App>, Path(digest): Path<String>) -> Answer<Vec<Base64>> {
    let digest: Digest = digest
        .parse()
        .map_err(|e: ensign_bundle::digest::NotHex| Refusal::new(Code::Usage, e.to_string()))?;
    let after = app.core.read(move |state| state.roots_after(&digest, ROOTS)).await?;
    let Some(after) = after else {
        return Err(Refusal::new(Code::NotFound, "no root of this fleet has that digest").into());
    };
    let store = app.parts.documents.clone();
    let roots = blocking(move || {
        let one = |digest| read_document(store.as_ref(), &digest).map(Base64);
        after.into_iter().map(one).collect()
    });
    Ok(Json(roots.await?))
}

/// The next root or targets, signed by those who may. A root comes with new targets where those in force would not be valid under it,
/// targets with the next versions of the release documents that would not be valid under them: as a JSON document. Without any, the
/// envelope alone will do.
#[utoipa::path(post, path = "/v1/metadata/{role}", tag = "fleet", params(("role" = String, Path, description = "root or targets")),
    request_body(content((Vec<u8> = "application/octet-stream"), (NewRoot = "application/json"), (NewTargets = "application/json"))),
    responses((status = 200, body = Vec<Metadata>), (status = 422, body = ErrorDocument)))]
pub(super) async fn publish(
    State(app): State<App>,
    caller: Caller,
    Path(role): Path<String>,
    headers: HeaderMap,
    Raw(body): Raw,
) -> Answer<Vec<Metadata>> {
    caller.require(Permission::Administer)?;
    let json = headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let usage = |e: serde_json::Error| Refusal::new(Code::Usage, format!("new {}: {e}", printable(&role, 16)));
    let published = match role.as_str() {
        "root" => {
            let (root, targets) = if json {
                let new: NewRoot = serde_json::from_slice(&body).map_err(usage)?;
                (new.root.0, new.targets.map(|bytes| bytes.0))
            } else {
                (body.to_vec(), None)
            };
            app.core.change(move |state| state.publish_root(root, targets)).await
        }
        "targets" => {
            let (envelope, renewed) = if json {
                let new: NewTargets = serde_json::from_slice(&body).map_err(usage)?;
                (new.targets.0, new.releases.into_iter().map(|bytes| bytes.0).collect())
            } else {
                (body.to_vec(), Vec::new())
            };
            app.core
                .change(move |state| state.publish_targets(envelope, renewed))
                .await
        }
        _ => Err(Refusal::new(Code::NotFound, "only root and targets are published here")),
    };
    published?;
    if role == "root" {
        settle_keys(&app).await;
    }
    current(&app, 0).await
}

/// The keys that wait for this root take their places, so that `keys new` makes the next ones. Only after it is committed: one that goes
/// is gone. Whatever hinders it, the next start does it.
async fn settle_keys(app: &App) {
    let Ok(root) = app.core.read(|state| state.roles.root().clone()).await else {
        return;
    };
    let paths = Paths::new(&app.parts.data);
    if let Err(refusal) = blocking(move || keys::settle(&paths, &root)).await {
        tracing::error!(code = %refusal.0.code, error = %refusal.0.text, "the new keys have not taken their places; they are used all the same");
    }
}

async fn current(app: &App, above: u64) -> Answer<Vec<Metadata>> {
    let named = app
        .core
        .read(move |state| {
            let roles = &state.roles;
            let roots = roles.roots.range(above.saturating_add(1)..);
            let mut named: Vec<(MetadataKind, Digest)> =
                roots.map(|(_, row)| (MetadataKind::Root, row.digest)).collect();
            named.push((MetadataKind::Targets, roles.targets.digest));
            named.push((MetadataKind::Snapshot, roles.snapshot.digest));
            named.push((MetadataKind::Timestamp, roles.timestamp.digest));
            named
        })
        .await?;
    let store = app.parts.documents.clone();
    let documents = blocking(move || {
        let one = |(kind, digest)| {
            read_document(store.as_ref(), &digest).map(|bytes| Metadata {
                kind,
                bytes: Base64(bytes),
            })
        };
        named.into_iter().map(one).collect()
    });
    Ok(Json(documents.await?))
}
