//! `ensign-enroll/1`: a device asks for the grant behind its token, then joins with a binding that names it.

use std::time::Duration;

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::{self, Enroll, EnrollReply, EnrollStep, frame};
use ensign_crypto::KeyId;
use quinn::{Connection, RecvStream, SendStream};
use serde_bytes::ByteBuf;

use super::frames::{self, FrameError};
use super::{DONE, PROTOCOL_ERROR, Server};
use crate::core::read_document;

/// A joining device must be done within this time: it signs between two frames, people are not asked.
const JOINING: Duration = Duration::from_secs(30);
/// The first frame must come within this time.
const FIRST: Duration = Duration::from_secs(5);
/// Frames on one connection: two steps, and one of each again.
const STEPS: usize = 4;

/// Serves a joining device on the one stream that it opens.
pub(super) async fn serve(server: &Server, connection: &Connection, peer: &KeyId) {
    let served = tokio::time::timeout(JOINING, steps(server, connection, peer)).await;
    match served {
        Ok(Ok(())) => connection.close(DONE, b""),
        Ok(Err(error)) => {
            tracing::debug!(%error, %peer, "joining was broken off");
            connection.close(PROTOCOL_ERROR, b"");
        }
        Err(_) => connection.close(PROTOCOL_ERROR, b"too slow"),
    }
}

async fn steps(server: &Server, connection: &Connection, peer: &KeyId) -> Result<(), FrameError> {
    // A device that closes the connection instead is no error either.
    let mut first = Some(FIRST);
    loop {
        let opened = tokio::time::timeout(first.take().unwrap_or(JOINING), connection.accept_bi()).await;
        let Ok((mut send, mut recv)) = opened.map_err(|_| FrameError::Slow)? else {
            return Ok(());
        };
        stream(server, peer, &mut send, &mut recv).await?;
        // FIN only counts once the device has it: closing before would take the answer back.
        let _ = send.finish();
        let _ = send.stopped().await;
    }
}

async fn stream(server: &Server, peer: &KeyId, send: &mut SendStream, recv: &mut RecvStream) -> Result<(), FrameError> {
    for _ in 0..STEPS {
        let Some(message) = frames::read::<Enroll>(recv).await? else {
            return Ok(());
        };
        let reply = answer(server, peer, message).await.unwrap_or_else(|refusal| {
            tracing::info!(%peer, code = %refusal.code, text = %refusal.text, "joining was refused");
            EnrollReply::Refused(refusal)
        });
        frames::write(send, &reply).await?;
    }
    Ok(())
}

async fn answer(server: &Server, peer: &KeyId, message: Enroll) -> Result<EnrollReply, Refusal> {
    if message.protocol.0 > wire::PROTOCOL.1 || message.protocol.1 < wire::PROTOCOL.0 {
        return Err(Refusal::new(
            Code::VersionUnknown,
            format!(
                "the device speaks protocol {} to {}, this controller {} to {}",
                message.protocol.0,
                message.protocol.1,
                wire::PROTOCOL.0,
                wire::PROTOCOL.1
            ),
        ));
    }
    let peer = *peer;
    match message.step {
        EnrollStep::Ask { token } => {
            let asked = server.core.read(move |state| state.ask_token(&token, &peer)).await??;
            granted(server, asked.roots, asked.grant).await
        }
        EnrollStep::Join { binding } => {
            let joined = server.core.change(move |state| state.join(&binding, &peer)).await?;
            Ok(EnrollReply::Joined {
                name: joined.name,
                approved: joined.approved,
            })
        }
    }
}

async fn granted(server: &Server, roots: Vec<Digest>, grant: Digest) -> Result<EnrollReply, Refusal> {
    let documents = server.parts.documents.clone();
    let read = move || -> Result<EnrollReply, Refusal> {
        let mut room = frame_room();
        let grant = read_document(documents.as_ref(), &grant)?;
        room = room.saturating_sub(grant.len());
        let mut sent = Vec::new();
        // As many roots as a frame holds: the device follows the rest of the chain once it is connected.
        for digest in roots {
            let bytes = read_document(documents.as_ref(), &digest)?;
            if bytes.len() + frame::LENGTH_BYTES + 8 > room {
                break;
            }
            room -= bytes.len() + frame::LENGTH_BYTES + 8;
            sent.push(ByteBuf::from(bytes));
        }
        Ok(EnrollReply::Granted {
            roots: sent,
            grant: ByteBuf::from(grant),
        })
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(reply) => reply,
        Err(error) => Err(Refusal::new(Code::Failed, error.to_string())),
    }
}

/// Bytes of a frame that documents may fill.
const fn frame_room() -> usize {
    ensign_bundle::limits::FRAME_BYTES - 256
}
