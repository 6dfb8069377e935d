//! The journal's bytes: steps one after the other, each in a frame that shows whether it is whole.
//!
//! Frame, integers big-endian: u32 length of the body · u64 sequence (from 1, without gaps) · u16 highest type of its records · u64
//! attempt · body (deterministic CBOR: the array of all records of one step) · u32 CRC32C of everything before it. A length of 0 or
//! the end of the file ends the journal: files are preallocated with zeros.
//!
//! A step is one frame and one write: whatever a power cut leaves of it, no whole frame stands behind a torn one.

use ensign_bundle::codec::{self, CodecError};

use crate::device::Device;
use crate::record::Record;

/// Before the body, bytes.
const HEADER: usize = 4 + 8 + 2 + 8;
/// CRC32C, bytes.
const TRAILER: usize = 4;
/// Largest body, bytes: a snapshot of a device with 256 components in three generations has about 300 KiB.
pub const BODY_BYTES: usize = 4 << 20;
/// CBOR items of a step.
const ITEMS: usize = 1_000_000;

/// What was read.
#[derive(Debug, Default)]
pub struct Replay {
    pub device: Device,
    /// Sequence of the last frame, 0 = none.
    pub sequence: u64,
    /// Where the next frame goes, bytes from the start.
    pub end: usize,
    /// Bytes behind `end` that are neither a frame nor zeros: a torn write. They must be cut off.
    pub torn: bool,
    /// Frames read.
    pub frames: usize,
}

/// Why a journal cannot be used. Nothing is repaired by guessing: the device stops and says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error(
        "frame {sequence} at byte {offset} has a record of type {kind}, this program knows 1 to {}",
        Record::LAST
    )]
    Unknown { sequence: u64, offset: usize, kind: u16 },
    #[error("the journal is damaged at byte {offset}: whole frames follow")]
    Damaged { offset: usize },
    #[error("frame {found} at byte {offset} follows frame {last}")]
    Sequence { last: u64, found: u64, offset: usize },
    #[error("frame {sequence} at byte {offset} has another shape")]
    Shape {
        sequence: u64,
        offset: usize,
        source: CodecError,
    },
    #[error("a step of {bytes} bytes, at most {BODY_BYTES} are allowed")]
    TooLong { bytes: usize },
    #[error("a step cannot be encoded")]
    Encode(#[from] CodecError),
}

/// The frame of one step.
pub fn frame(sequence: u64, attempt: u64, records: &[Record]) -> Result<Vec<u8>, JournalError> {
    let body = codec::encode(&records)?;
    // A program that does not know one of them must not read the others either.
    let kind = records.iter().map(Record::number).max().unwrap_or(0);
    let length = match u32::try_from(body.len()) {
        Ok(length) if body.len() <= BODY_BYTES => length,
        _ => return Err(JournalError::TooLong { bytes: body.len() }),
    };
    let mut frame = Vec::with_capacity(HEADER + body.len() + TRAILER);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&sequence.to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&attempt.to_be_bytes());
    frame.extend_from_slice(&body);
    frame.extend_from_slice(&crc32c::crc32c(&frame).to_be_bytes());
    Ok(frame)
}

/// Reads a journal and folds the records of its frames.
pub fn replay(bytes: &[u8]) -> Result<Replay, JournalError> {
    let mut replay = Replay::default();
    while let Some(found) = whole_frame(bytes, replay.end) {
        let offset = replay.end;
        // A compacted journal starts where the one before it ended.
        if replay.frames > 0 && found.sequence != replay.sequence + 1 {
            return Err(JournalError::Sequence {
                last: replay.sequence,
                found: found.sequence,
                offset,
            });
        }
        if found.kind == 0 || found.kind > Record::LAST {
            return Err(JournalError::Unknown {
                sequence: found.sequence,
                offset,
                kind: found.kind,
            });
        }
        let records: Vec<Record> = codec::decode(found.body, ITEMS).map_err(|source| JournalError::Shape {
            sequence: found.sequence,
            offset,
            source,
        })?;
        for record in &records {
            replay.device.apply(record);
        }
        replay.sequence = found.sequence;
        replay.end += found.length;
        replay.frames += 1;
    }
    let rest = bytes.get(replay.end..).unwrap_or_default();
    replay.torn = rest.iter().any(|b| *b != 0);
    if replay.torn {
        // One write can be torn, and it is one frame. A whole frame behind the tear means that something else happened to the file.
        let later = (replay.end + 1..bytes.len()).find(|at| follows(bytes, *at, replay.sequence));
        if later.is_some() {
            return Err(JournalError::Damaged { offset: replay.end });
        }
    }
    Ok(replay)
}

/// Whether a whole frame from after `sequence` stands at `offset`. Cheap where its header is none: this is asked of every byte.
fn follows(bytes: &[u8], offset: usize, sequence: u64) -> bool {
    let header = bytes.get(offset..).and_then(|rest| rest.first_chunk::<12>());
    let Some([0, _, _, _, number @ ..]) = header else {
        // Bodies are below 16 MiB: the first byte of their length is 0.
        return false;
    };
    let behind = u64::from_be_bytes(*number).checked_sub(sequence);
    // Each frame between has at least one byte.
    behind.is_some_and(|n| n > 0 && n <= bytes.len() as u64) && whole_frame(bytes, offset).is_some()
}

struct Found<'a> {
    sequence: u64,
    kind: u16,
    body: &'a [u8],
    /// Of the whole frame, bytes.
    length: usize,
}

/// The frame at `offset`, if a whole one with the right checksum stands there.
fn whole_frame(bytes: &[u8], offset: usize) -> Option<Found<'_>> {
    let bytes = bytes.get(offset..)?;
    let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    if length == 0 || length > BODY_BYTES {
        return None;
    }
    let (checked, rest) = bytes.split_at_checked(HEADER + length)?;
    let crc = u32::from_be_bytes(*rest.first_chunk()?);
    if crc32c::crc32c(checked) != crc {
        return None;
    }
    Some(Found {
        sequence: u64::from_be_bytes(*checked.get(4..)?.first_chunk()?),
        kind: u16::from_be_bytes(*checked.get(12..)?.first_chunk()?),
        body: checked.get(HEADER..)?,
        length: HEADER + length + TRAILER,
    })
}
