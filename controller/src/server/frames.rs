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
    read_within(WHOLE_FRAME, stream).await
}

/// Sends one message; a peer that takes nothing for the time of a frame is given up.
pub(super) async fn write<T: Serialize>(stream: &mut SendStream, message: &T) -> Result<(), FrameError> {
    write_within(WHOLE_FRAME, stream, message).await
}

async fn read_within<T: DeserializeOwned>(time: Duration, stream: &mut RecvStream) -> Result<Option<T>, FrameError> {
    let mut word = [0; frame::LENGTH_BYTES];
    match stream.read_exact(&mut word).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut body = vec![0; frame::body_length(word)?];
    tokio::time::timeout(time, stream.read_exact(&mut body))
        .await
        .map_err(|_| FrameError::Slow)??;
    Ok(Some(frame::decode(&body)?))
}

async fn write_within<T: Serialize>(time: Duration, stream: &mut SendStream, message: &T) -> Result<(), FrameError> {
    let bytes = frame::encode(message)?;
    tokio::time::timeout(time, stream.write_all(&bytes))
        .await
        .map_err(|_| FrameError::Slow)??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ensign_bundle::wire::ToDevice;
    use ensign_crypto::SecretKey;
    use quinn::{Connection, Endpoint};

    use super::super::endpoint;
    use super::super::tests::stranger;
    use super::super::tls::Shown;
    use super::*;

    /// Only a broken test gets there.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A stranger and the controller's end of its connection, over loopback.
    async fn connected() -> (Endpoint, Connection, Connection) {
        let key = SecretKey::from_seed([1; 32]);
        let socket = endpoint::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let server = endpoint::start(socket, &key, Arc::new(Shown::new(&key).unwrap())).unwrap();
        let client = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = client.connect_with(stranger(), address, "controller").unwrap();
        let (theirs, ours) = tokio::join!(connecting, async { server.accept().await.unwrap().await });
        (client, theirs.unwrap(), ours.unwrap())
    }

    #[tokio::test]
    async fn a_frame_that_has_begun_is_not_waited_for_without_end() {
        let (_client, theirs, ours) = connected().await;
        let (mut send, _recv) = theirs.open_bi().await.unwrap();
        // All but its last byte.
        let bytes = frame::encode(&ToDevice::Ack { seq: 1 }).unwrap();
        send.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
        let (_, mut recv) = ours.accept_bi().await.unwrap();
        let read = read_within::<ToDevice>(Duration::from_millis(50), &mut recv);
        let read = tokio::time::timeout(PATIENCE, read).await.expect("it is given up");
        assert!(matches!(read, Err(FrameError::Slow)), "{read:?}");
        assert_eq!(WHOLE_FRAME.as_secs(), 65);
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_not_waited_for_without_end() {
        let (_client, theirs, ours) = connected().await;
        let (mut hello, _unread) = theirs.open_bi().await.unwrap();
        hello.write_all(b"x").await.unwrap();
        let (mut send, _) = ours.accept_bi().await.unwrap();
        let large = ToDevice::Refused(Refusal::new(ensign_bundle::reason::Code::Failed, "x".repeat(60_000)));
        let write = async {
            // What the peer's window and our own take in advance goes through.
            loop {
                write_within(Duration::from_millis(50), &mut send, &large).await?;
            }
        };
        let written: Result<(), FrameError> = tokio::time::timeout(PATIENCE, write).await.expect("it is given up");
        assert!(matches!(written, Err(FrameError::Slow)), "{written:?}");
    }
}
