//! Frames on QUIC streams: length word, body, both bounded, within a time.

use std::time::Duration;

use ensign_bundle::reason::Refusal;
use ensign_bundle::wire::frame;
use quinn::{RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A frame that has begun must be whole within this time: at 1 KiB/s the largest takes 64 s.
const WHOLE_FRAME: Duration = Duration::from_secs(65);

/// Why a frame did not come or go.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the peer broke off inside a frame")]
    Read(#[from] quinn::ReadExactError),
    #[error("the peer does not take what is sent")]
    Write(#[from] quinn::WriteError),
    #[error("not a frame of the protocol")]
    Malformed(#[from] Refusal),
    #[error("a frame was not whole after {} s", WHOLE_FRAME.as_secs())]
    Slow,
}

/// The next message; `None` when the peer finished the stream between two frames. Waits for its first byte without limit.
pub(super) async fn read<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<Option<T>, FrameError> {
    let mut word = [0; frame::LENGTH_BYTES];
    match stream.read_exact(&mut word).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut body = vec![0; frame::body_length(word)?];
    tokio::time::timeout(WHOLE_FRAME, stream.read_exact(&mut body))
        .await
        .map_err(|_| FrameError::Slow)??;
    Ok(Some(frame::decode(&body)?))
}

/// Sends one message; a peer that takes nothing for the time of a frame is given up.
pub(super) async fn write<T: Serialize>(stream: &mut SendStream, message: &T) -> Result<(), FrameError> {
    let bytes = frame::encode(message)?;
    tokio::time::timeout(WHOLE_FRAME, stream.write_all(&bytes))
        .await
        .map_err(|_| FrameError::Slow)??;
    Ok(())
}
