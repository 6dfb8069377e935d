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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Enroll, EnrollReply, FromDevice, Request, ToDevice};

    /// Read as every message there is. What is understood can be said again.
    fn read_all(body: &[u8]) -> usize {
        fn read<T: Serialize + DeserializeOwned>(body: &[u8]) -> usize {
            let Ok(message) = decode::<T>(body) else { return 0 };
            encode(&message).unwrap();
            1
        }
        read::<FromDevice>(body)
            + read::<ToDevice>(body)
            + read::<Request>(body)
            + read::<Enroll>(body)
            + read::<EnrollReply>(body)
    }

    /// The golden frames, without their length words.
    fn bodies() -> Vec<Vec<u8>> {
        let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        let frames = files.filter(|path| path.extension().is_some_and(|end| end == "frame"));
        frames
            .map(|path| std::fs::read(path).unwrap().split_off(LENGTH_BYTES))
            .collect()
    }

    #[test]
    fn e75_no_frame_that_is_cut_longer_or_changed_is_taken_for_another_or_panics() {
        let bodies = bodies();
        assert!(bodies.len() > 10, "the golden frames are there");
        for body in bodies {
            assert!(read_all(&body) > 0);
            for end in 0..body.len() {
                assert_eq!(read_all(&body[..end]), 0, "cut at {end}: {body:02x?}");
            }
            assert_eq!(read_all(&[&body[..], &[0]].concat()), 0, "longer: {body:02x?}");
            for at in 0..body.len() {
                for byte in [0x00, 0x5f, 0x9b, 0xbb, 0xf6] {
                    let mut changed = body.clone();
                    changed[at] = byte;
                    read_all(&changed);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn e75_garbage_is_no_message(bytes in vec(any::<u8>(), 0..300)) {
            // A message is a map of one key; nothing that short is drawn by chance.
            prop_assert_eq!(read_all(&bytes), 0);
        }
    }
}
