//! Frames: u32 big-endian length, then that many bytes of CBOR.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::limits;
use crate::reason::{Code, Refusal};
use crate::refuse;

/// Length word of a record that is not there.
pub const ABSENT: u32 = u32::MAX;
/// Bytes of a length word.
pub const LENGTH_BYTES: usize = 4;
/// Items of a frame: small structures, but a request may name many digests.
const ITEMS: usize = 16_384;

/// `message` as a frame, length word included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Refusal> {
    let body = codec::encode(message).map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?;
    if body.len() > limits::FRAME_BYTES {
        return refuse!(
            LimitExceeded,
            "a frame of {} bytes, at most {} are allowed",
            body.len(),
            limits::FRAME_BYTES
        );
    }
    let length = u32::try_from(body.len()).map_err(|e| Refusal::new(Code::LimitExceeded, e.to_string()))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// How many bytes of body follow this length word.
pub fn body_length(word: [u8; LENGTH_BYTES]) -> Result<usize, Refusal> {
    let length = u32::from_be_bytes(word) as usize;
    if length > limits::FRAME_BYTES {
        return refuse!(
            LimitExceeded,
            "a frame of {length} bytes, at most {} are allowed",
            limits::FRAME_BYTES
        );
    }
    Ok(length)
}

/// The message in a frame's body.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    codec::decode(body, ITEMS).map_err(|e| Refusal::new(Code::Malformed, e.to_string()))
}
