//! The operators' API (`ensign-api` has its types), and the plain port for monitoring.

pub mod auth;
mod blobs;
mod devices;
pub mod error;
mod fleet;
pub mod guests;
pub mod listen;
mod metadata;
pub mod monitor;
pub mod pace;
mod releases;
mod rollouts;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::IntoResponse;
use ensign_bundle::reason::{Code, Refusal};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::error::ApiError;
use crate::core::{Core, Parts};

/// Largest body but for batches of blobs and lists of devices, bytes: every signed document fits.
const BODY_BYTES: usize = 2 << 20;
/// Largest list of devices (`POST /v1/rollouts`), bytes of JSON: 200 for each of 300,000 devices.
const LIST_BYTES: usize = 64 << 20;
/// Largest batch of blobs, bytes: one block table of the largest size, or many blocks.
const BATCH_BYTES: usize = ensign_bundle::limits::BLOCK_TABLE_BYTES + (16 << 20);

/// What handlers share.
#[derive(Clone, Debug)]
pub struct App {
    pub core: Core,
    pub parts: Arc<Parts>,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Ensign", description = "The operators' API of an Ensign controller.", license(name = "Apache-2.0")),
    tags(
        (name = "fleet", description = "The fleet, its metadata and its brake"),
        (name = "devices", description = "Devices and the tokens they join with"),
        (name = "releases", description = "Releases and the blobs they are made of"),
        (name = "rollouts", description = "Rollouts"),
    )
)]
struct Api;

/// Every route, and the description of all of them at `/v1/openapi.json`.
pub fn router(app: App) -> Router {
    let (router, api) = described().split_for_parts();
    let json = Arc::new(api.to_json().unwrap_or_default());
    let openapi = move || {
        let json = json.as_str().to_owned();
        async move { ([("content-type", "application/json")], json).into_response() }
    };
    router
        .route("/v1/openapi.json", axum::routing::get(openapi))
        .fallback(|| async { ApiError(Refusal::new(Code::NotFound, "there is no such path")) })
        .method_not_allowed_fallback(|| async { ApiError(Refusal::new(Code::Usage, "this path has another method")) })
        .with_state(app)
}

fn described() -> OpenApiRouter<App> {
    let small = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(fleet::show))
        .routes(routes!(fleet::freeze))
        .routes(routes!(fleet::unfreeze))
        .routes(routes!(metadata::list))
        .routes(routes!(metadata::document))
        .routes(routes!(metadata::roots_after))
        .routes(routes!(metadata::publish))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(devices::list))
        .routes(routes!(devices::show))
        .routes(routes!(devices::why))
        .routes(routes!(devices::evidence))
        .routes(routes!(devices::act))
        .routes(routes!(blobs::missing))
        .routes(routes!(releases::publish, releases::list))
        .routes(routes!(releases::show))
        .routes(routes!(rollouts::list))
        .routes(routes!(rollouts::show))
        .routes(routes!(rollouts::plan))
        .routes(routes!(rollouts::why))
        .routes(routes!(rollouts::act))
        .layer(DefaultBodyLimit::max(BODY_BYTES));
    let lists = OpenApiRouter::new()
        .routes(routes!(rollouts::start))
        .layer(DefaultBodyLimit::max(LIST_BYTES));
    let batches = OpenApiRouter::new()
        .routes(routes!(blobs::upload))
        .layer(DefaultBodyLimit::max(BATCH_BYTES));
    small.merge(lists).merge(batches)
}

/// Runs work that blocks on a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Refusal::new(Code::Failed, error.to_string()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_api_is_described() {
        let (_, api) = described().split_for_parts();
        let json: serde_json::Value = serde_json::from_str(&api.to_json().unwrap()).unwrap();
        let paths = json["paths"].as_object().unwrap();
        for path in [
            "/v1/fleet",
            "/v1/fleet/freeze",
            "/v1/metadata",
            "/v1/documents/{digest}",
            "/v1/roots/{digest}",
            "/v1/metadata/{role}",
            "/v1/tokens",
            "/v1/tokens/{key}/revoke",
            "/v1/devices",
            "/v1/devices/{device}",
            "/v1/evidence",
            "/v1/devices/{device}/{verb}",
            "/v1/blobs",
            "/v1/blobs/missing",
            "/v1/releases",
            "/v1/releases/{product}/{version}",
            "/v1/rollouts",
            "/v1/rollouts/{rollout}",
            "/v1/rollouts/{rollout}/plan",
            "/v1/rollouts/{rollout}/why",
            "/v1/rollouts/{rollout}/{verb}",
        ] {
            assert!(paths.contains_key(path), "{path}: {:?}", paths.keys());
        }
    }
}
