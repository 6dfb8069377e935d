//! Join tokens: a deploy-signed grant and how often it may be used. The controller never sees the seed, so it cannot mint devices.

use ensign_api::Time;
use ensign_bundle::plan::membership::Invitation;
use ensign_bundle::plan::statements::{Grant, Subject};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement;
use ensign_bundle::text::printable;
use ensign_crypto::PublicKey;

use super::resign::Anew;
use super::rows::{TokenRow, key};
use super::state::State;

/// Most uses of a token.
const USES: u32 = 1_000_000;
/// Longest life of a token, seconds.
const LIFE_S: u64 = 400 * 24 * 3600;

impl State {
    /// Takes a token's grant. The same one again changes nothing but the signatures that are new.
    pub fn create_token(&mut self, envelope: &[u8]) -> Result<TokenRow, Refusal> {
        if let Some(row) = self.sign_token_anew(envelope)? {
            return Ok(row);
        }
        let invitation = Invitation::verify(&self.authority(), envelope)?;
        let payload = invitation.signed.digest();
        let Invitation {
            signed: grant,
            key: token,
            uses,
            expires,
            approve,
        } = invitation;
        if self.tokens.contains_key(&token) {
            return refuse!(Conflict, "there is a token {token} with another grant");
        }
        if uses == 0 || uses > USES {
            return refuse!(LimitExceeded, "the token has {uses} uses, 1 to {USES} are possible");
        }
        if expires <= self.now {
            return refuse!(
                TokenExpired,
                "the token expired at {}, it is {} here",
                Time(expires),
                Time(self.now)
            );
        }
        if expires - self.now > LIFE_S {
            return refuse!(
                LifetimeRefused,
                "the token lives for {} s, at most {LIFE_S} s are allowed",
                expires - self.now
            );
        }
        let row = TokenRow {
            key: token,
            grant: self.keep_document(envelope)?,
            grant_payload: payload,
            labels: grant.body.labels,
            uses,
            used: 0,
            expires,
            approve,
            revoked: false,
            created: self.now,
        };
        self.put_new(key::token(&token), &row)?;
        self.tokens.insert(token, row.clone());
        tracing::info!(token = %token, uses, expires = %Time(expires), "a join token was made");
        Ok(row)
    }

    /// Adds what is new among the signatures of a grant that is there.
    fn sign_token_anew(&mut self, envelope: &[u8]) -> Result<Option<TokenRow>, Refusal> {
        let grant = statement::open_unverified::<Grant>(envelope)?.body;
        let Subject::Token { key: token, .. } = grant.subject else {
            return Ok(None);
        };
        let Some(row) = self.tokens.get(&token) else {
            return Ok(None);
        };
        let mut row = row.clone();
        match self.signed_anew(&row.grant, envelope)? {
            Anew::Other => return Ok(None),
            Anew::Same => {}
            Anew::Signed(joined) => {
                row.grant = self.keep_document(&joined)?;
                self.put(key::token(&token), &row)?;
                self.tokens.insert(token, row.clone());
                tracing::info!(token = %token, "the grant of a join token was signed anew");
            }
        }
        Ok(Some(row))
    }

    /// Ends a token; devices that joined with it stay.
    pub fn revoke_token(&mut self, token: &PublicKey, reason: &str, by: &str) -> Result<TokenRow, Refusal> {
        let Some(row) = self.tokens.get(token) else {
            return refuse!(TokenUnknown, "there is no token {token}");
        };
        let row = TokenRow {
            revoked: true,
            ..row.clone()
        };
        self.put(key::token(token), &row)?;
        self.tokens.insert(*token, row.clone());
        tracing::info!(token = %token, by, reason = %printable(reason, 200), "a join token was revoked");
        Ok(row)
    }

    /// The token, if a device can join with it now.
    pub(super) fn usable_token(&self, token: &PublicKey) -> Result<&TokenRow, Refusal> {
        let Some(row) = self.tokens.get(token) else {
            return refuse!(TokenUnknown, "the join token is unknown here");
        };
        if row.revoked {
            return refuse!(TokenRevoked, "the join token was revoked");
        }
        if row.expires <= self.now {
            return refuse!(
                TokenExpired,
                "the join token expired at {}, it is {} here",
                Time(row.expires),
                Time(self.now)
            );
        }
        if row.used >= row.uses {
            return refuse!(
                TokenUsedUp,
                "the join token was used {} of {} times",
                row.used,
                row.uses
            );
        }
        Ok(row)
    }

    pub(super) fn token(&self, token: &PublicKey) -> Result<&TokenRow, Refusal> {
        self.tokens
            .get(token)
            .ok_or_else(|| Refusal::new(Code::TokenUnknown, format!("there is no token {token}")))
    }
}
