//! Who calls, and what that role may: deny by default. The controller keeps the SHA-256 of each token, never the token.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;

use super::App;
use super::error::ApiError;
use super::guests::Guest;
use crate::roles::{Permission, Role};

/// Longest token that is looked at, bytes.
const TOKEN_BYTES: usize = 512;

/// The operator behind a request.
#[derive(Clone, Debug)]
pub struct Caller {
    pub name: String,
    pub role: Role,
}

impl Caller {
    /// Refuses what the caller's role does not allow.
    pub fn require(&self, permission: Permission) -> Result<(), Refusal> {
        if self.role.may(permission) {
            return Ok(());
        }
        refuse!(
            NotAuthorised,
            "{} is {:?}: not allowed to {permission:?}",
            self.name,
            self.role
        )
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let token = parts
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .filter(|token| token.len() <= TOKEN_BYTES);
        let Some(token) = token else {
            return Err(Refusal::new(Code::NotAuthorised, "no API token was sent").into());
        };
        // Looked up by its hash: comparing hashes leaks nothing about a token.
        let hash = Digest::of(token.as_bytes());
        let now = crate::clock::unix_now();
        let row = app.core.read(move |state| state.api_tokens.get(&hash).cloned()).await?;
        match row {
            Some(row) if row.expires.is_none_or(|at| at > now) => {
                if let Some(guest) = parts.extensions.get::<Guest>() {
                    guest.proven();
                }
                Ok(Self {
                    name: row.name,
                    role: row.role,
                })
            }
            Some(row) => Err(Refusal::new(
                Code::NotAuthorised,
                format!("the API token of {} has expired", row.name),
            )
            .into()),
            None => Err(Refusal::new(Code::NotAuthorised, "the API token is unknown").into()),
        }
    }
}
