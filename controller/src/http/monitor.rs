//! The plain port for monitoring: `/metrics` (OpenMetrics) and `/healthz`. It shows numbers only, so it asks for no login.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::App;
use crate::metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub fn router(app: App) -> Router {
    Router::new()
        .route("/metrics", get(show))
        .route("/healthz", get(health))
        .with_state(app)
}

async fn show(State(app): State<App>) -> Response {
    let parts = app.parts.clone();
    let text = app.core.read(move |state| metrics::text(state, &parts)).await;
    match text {
        Ok(Ok(text)) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(refusal) => (StatusCode::SERVICE_UNAVAILABLE, refusal.text).into_response(),
    }
}

/// 200 while the core answers: the ledger takes commits.
async fn health(State(app): State<App>) -> Response {
    match app.core.read(|_| ()).await {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(refusal) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", refusal.text)).into_response(),
    }
}
