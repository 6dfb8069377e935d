//! Blobs: asked for by digest, uploaded in batches, hashed before they count.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use ensign_api::{BatchHeader, Digests, ErrorDocument, Missing, Stored};
use ensign_bundle::digest::Digest;
use ensign_bundle::reason::Refusal;
use ensign_bundle::refuse;

use super::auth::Caller;
use super::error::{Answer, Body, Raw};
use super::{App, blocking};
use crate::roles::Permission;

/// Which of these are not stored.
#[utoipa::path(post, path = "/v1/blobs/missing", tag = "releases", request_body = Digests,
    responses((status = 200, body = Missing)))]
pub(super) async fn missing(State(app): State<App>, caller: Caller, Body(asked): Body<Digests>) -> Answer<Missing> {
    caller.require(Permission::Deploy)?;
    let most = BatchHeader::DIGESTS_MAX;
    if asked.digests.len() > most {
        let refused: Result<(), Refusal> = refuse!(
            LimitExceeded,
            "{} digests, at most {most} are allowed in one question",
            asked.digests.len()
        );
        refused?;
    }
    let store = app.parts.blobs.clone();
    let missing = blocking(move || Ok(store.missing(&asked.digests)?)).await?;
    Ok(Json(Missing { missing }))
}

/// Stores a batch: digest (32 bytes), length (u64, big-endian), bytes, again and again. All of it is durable when the answer comes.
#[utoipa::path(post, path = "/v1/blobs", tag = "releases",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Stored), (status = 422, body = ErrorDocument)))]
pub(super) async fn upload(State(app): State<App>, caller: Caller, Raw(body): Raw) -> Answer<Stored> {
    caller.require(Permission::Deploy)?;
    let store = app.parts.blobs.clone();
    let stored = blocking(move || {
        let batch = split(&body)?;
        // Each once, however often it is in the batch.
        let digests: BTreeSet<Digest> = batch.iter().map(|(digest, _)| *digest).collect();
        let digests: Vec<Digest> = digests.into_iter().collect();
        let missing = store.missing(&digests)?.len() as u64;
        store.put_many(&batch)?;
        Ok(missing)
    });
    Ok(Json(Stored { stored: stored.await? }))
}

/// The blobs of a batch. Their content is hashed by the store.
fn split(mut body: &[u8]) -> Result<Vec<(Digest, &[u8])>, Refusal> {
    let mut batch = Vec::new();
    while !body.is_empty() {
        let Some((header, rest)) = body.split_first_chunk::<{ BatchHeader::BYTES }>() else {
            return refuse!(Malformed, "the batch ends inside a header");
        };
        let header = BatchHeader::decode(header);
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let Some((bytes, rest)) = rest.split_at_checked(length) else {
            return refuse!(Malformed, "the batch ends inside blob {}", header.digest);
        };
        batch.push((header.digest, bytes));
        body = rest;
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_taken_apart_exactly() {
        let blobs: [&[u8]; 3] = [b"one", b"", b"three"];
        let mut body = Vec::new();
        for bytes in blobs {
            let header = BatchHeader {
                digest: Digest::of(bytes),
                length: bytes.len() as u64,
            };
            body.extend(header.encode());
            body.extend(bytes);
        }
        let found: Vec<_> = split(&body).unwrap().into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(found, blobs);
        assert!(split(&body[..body.len() - 1]).is_err());
        assert!(split(&body[..20]).is_err());
    }
}
