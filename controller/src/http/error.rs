//! Refusals as the error document that every command prints (`{ "error": { "code", "exit", "message", "hint" } }`), with a fitting
//! HTTP status.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use ensign_api::ErrorDocument;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::printable;
use serde::de::DeserializeOwned;

use super::pace::TooSlow;

/// What every failing request answers.
#[derive(Debug)]
pub struct ApiError(pub Refusal);

/// The answer of a handler.
pub type Answer<T> = Result<Json<T>, ApiError>;

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self(unreadable(rejection.status(), &rejection.body_text(), &rejection))
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        Self(unreadable(rejection.status(), &rejection.body_text(), &rejection))
    }
}

/// Why a body could not be read.
fn unreadable(status: StatusCode, text: &str, error: &(dyn std::error::Error + 'static)) -> Refusal {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    if let Some(slow) = causes.find_map(|cause| cause.downcast_ref::<TooSlow>()) {
        return Refusal::new(Code::TooSlow, slow.to_string());
    }
    let code = if status == StatusCode::PAYLOAD_TOO_LARGE {
        Code::LimitExceeded
    } else {
        Code::Usage
    };
    Refusal::new(code, printable(text, 500))
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self(Refusal::new(Code::Usage, printable(&rejection.body_text(), 500)))
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self(Refusal::new(Code::Usage, printable(&rejection.body_text(), 500)))
    }
}

/// Parts of the path, refused likewise.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let axum::extract::Path(found) = axum::extract::Path::from_request_parts(parts, state).await?;
        Ok(Self(found))
    }
}

/// A JSON body; one that does not fit is refused with an error document.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(body) = Json::from_request(request, state).await?;
        Ok(Self(body))
    }
}

/// A body as it came, refused likewise.
#[derive(Debug)]
pub struct Raw(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        Ok(Self(Bytes::from_request(request, state).await?))
    }
}

/// Parameters of the query, refused likewise.
#[derive(Debug)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::from_request_parts(parts, state).await?;
        Ok(Self(params))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = status(self.0.code);
        if status.is_server_error() {
            tracing::error!(code = %self.0.code, text = %self.0.text, "a request failed");
        }
        (status, Json(ErrorDocument::from(&self.0))).into_response()
    }
}

/// The status for people with a browser and for proxies; programs read the code.
fn status(code: Code) -> StatusCode {
    match code {
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::LimitExceeded => StatusCode::PAYLOAD_TOO_LARGE,
        Code::TooSlow => StatusCode::REQUEST_TIMEOUT,
        Code::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        Code::NotAuthorised => StatusCode::FORBIDDEN,
        _ => match code.exit() {
            1 => StatusCode::INTERNAL_SERVER_ERROR,
            2 => StatusCode::BAD_REQUEST,
            20..=27 => StatusCode::UNPROCESSABLE_ENTITY,
            30 => StatusCode::SERVICE_UNAVAILABLE,
            31 => StatusCode::FORBIDDEN,
            32 => StatusCode::NOT_FOUND,
            _ => StatusCode::CONFLICT,
        },
    }
}
