//! One block between its stored and its plain form: raw, zeros, or exactly one zstd frame (RFC 8878).

use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, find_frame_compressed_size};

use crate::blocks::table::{BlockKind, BlockRow};
use crate::digest::Digest;
use crate::limits::BLOCK_BYTES;
use crate::reason::{Code, Refusal};
use crate::refuse;

/// Compression levels that a build may ask for.
pub const LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// log2 of the largest block: with a window that holds the whole block, every frame is a single segment.
const WINDOW_LOG: u32 = BLOCK_BYTES.ilog2();
/// RFC 8878 §3.1.1.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The frame header descriptor (RFC 8878 §3.1.1.1.1) without the two bits for the size of the content size: single segment, no
/// checksum (SHA-256 is there), no dictionary, unused bits zero.
const DESCRIPTOR: u8 = 0b0010_0000;

/// The smallest of the three forms of `plain`, at most 1 MiB. `level` is 1 to 19; 12 is the default of a build.
pub fn encode_block(plain: &[u8], level: i32) -> Result<(BlockKind, Vec<u8>), Refusal> {
    if plain.is_empty() || plain.len() > BLOCK_BYTES {
        return refuse!(
            LimitExceeded,
            "a block of {} bytes, 1 to {BLOCK_BYTES} are possible",
            plain.len()
        );
    }
    if !LEVELS.contains(&level) {
        return refuse!(
            Usage,
            "compression level {level}, {} to {} are possible",
            LEVELS.start(),
            LEVELS.end()
        );
    }
    if plain.iter().all(|b| *b == 0) {
        return Ok((BlockKind::Zero, Vec::new()));
    }
    let compress = || -> std::io::Result<Vec<u8>> {
        let mut compressor = Compressor::new(level)?;
        compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        compressor.compress(plain)
    };
    let stored = compress().map_err(|e| Refusal::new(Code::Failed, format!("zstd cannot compress a block: {e}")))?;
    if stored.len() < plain.len() {
        Ok((BlockKind::Zstd, stored))
    } else {
        Ok((BlockKind::Raw, plain.to_vec()))
    }
}

/// Puts the plain bytes of a block into `out` (which is cleared first). The stored bytes are hashed before a decoder sees them,
/// the plain ones before this returns. Needs memory for the plain block and no more.
pub fn decode_block(row: &BlockRow, stored: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    out.clear();
    if stored.len() != row.stored_len as usize {
        return refuse!(
            ContentMismatch,
            "a block has {} stored bytes, its table says {}",
            stored.len(),
            row.stored_len
        );
    }
    let digest = Digest::of(stored);
    if digest != row.stored {
        return refuse!(
            ContentMismatch,
            "a stored block has the digest {digest}, its table says {}",
            row.stored
        );
    }
    let length = row.plain_len as usize;
    if length > BLOCK_BYTES {
        return refuse!(
            LimitExceeded,
            "a block of {length} bytes, at most {BLOCK_BYTES} are possible"
        );
    }
    out.reserve_exact(length);
    match row.kind {
        BlockKind::Raw => out.extend_from_slice(stored),
        BlockKind::Zero => out.resize(length, 0),
        BlockKind::Zstd => {
            out.resize(length, 0);
            decompress(stored, out)?;
        }
    }
    if out.len() != length {
        return refuse!(
            ContentMismatch,
            "a block has {} plain bytes, its table says {length}",
            out.len()
        );
    }
    // The stored bytes of a raw block are the plain ones: hashed above.
    if row.kind == BlockKind::Raw && row.plain == row.stored {
        return Ok(());
    }
    let digest = Digest::of(out);
    if digest != row.plain {
        return refuse!(
            ContentMismatch,
            "a plain block has the digest {digest}, its table says {}",
            row.plain
        );
    }
    Ok(())
}

fn decompress(stored: &[u8], out: &mut [u8]) -> Result<(), Refusal> {
    let length = out.len();
    let claimed = content_size(stored)?;
    if claimed != length as u64 {
        return refuse!(
            Malformed,
            "a zstd frame claims {claimed} bytes, its table says {length}"
        );
    }
    let frame = find_frame_compressed_size(stored).map_err(|code| {
        let name = zstd::zstd_safe::get_error_name(code);
        Refusal::new(Code::Malformed, format!("a broken zstd frame: {name}"))
    })?;
    if frame != stored.len() {
        return refuse!(
            Malformed,
            "a zstd frame of {frame} bytes is followed by {} more",
            stored.len().saturating_sub(frame)
        );
    }
    let written = zstd::bulk::decompress_to_buffer(stored, out)
        .map_err(|e| Refusal::new(Code::Malformed, format!("a broken zstd frame: {e}")))?;
    if written != length {
        return refuse!(
            Malformed,
            "a zstd frame makes {written} bytes of the {length} it claims"
        );
    }
    Ok(())
}

/// The content size of a frame whose header is of the one shape that is written here (RFC 8878 §3.1.1.1). Of a single segment
/// this is also the window, so it bounds what the decoder asks for.
fn content_size(stored: &[u8]) -> Result<u64, Refusal> {
    let shape = || Refusal::new(Code::Malformed, "not a zstd frame of a single segment without extras");
    let rest = stored.strip_prefix(&MAGIC).ok_or_else(shape)?;
    let (descriptor, rest) = rest.split_first().ok_or_else(shape)?;
    if descriptor & 0b0011_1111 != DESCRIPTOR {
        return Err(shape());
    }
    let (width, base) = match descriptor >> 6 {
        0 => (1, 0),
        1 => (2, 256),
        2 => (4, 0),
        _ => (8, 0),
    };
    let bytes = rest.get(..width).ok_or_else(shape)?;
    let size = bytes
        .iter()
        .rev()
        .fold(0_u64, |size, byte| (size << 8) | u64::from(*byte));
    size.checked_add(base).ok_or_else(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: BlockKind, plain: &[u8], stored: &[u8]) -> BlockRow {
        BlockRow {
            kind,
            plain_len: u32::try_from(plain.len()).unwrap(),
            stored_len: u32::try_from(stored.len()).unwrap(),
            plain: Digest::of(plain),
            stored: Digest::of(stored),
            pieces: Vec::new(),
        }
    }

    fn decode(row: &BlockRow, stored: &[u8]) -> Result<Vec<u8>, Code> {
        let mut out = Vec::new();
        decode_block(row, stored, &mut out).map_err(|e| e.code)?;
        Ok(out)
    }

    /// Bytes that do not compress, the same on every run.
    fn noise(length: usize) -> Vec<u8> {
        let digests = (0_u64..).flat_map(|n| Digest::of(&n.to_be_bytes()).0);
        digests.take(length).collect()
    }

    #[test]
    fn every_kind_round_trips_at_every_size_class() {
        for length in [1, 255, 256, 300, 65_791, 65_792, 100_000, BLOCK_BYTES] {
            let text: Vec<u8> = (0..length).map(|n| b'a' + u8::try_from(n % 7).unwrap()).collect();
            for (plain, expected) in [
                (vec![0; length], BlockKind::Zero),
                (noise(length), BlockKind::Raw),
                (text, if length > 20 { BlockKind::Zstd } else { BlockKind::Raw }),
            ] {
                for level in [1, 3, 12, 19] {
                    let (kind, stored) = encode_block(&plain, level).unwrap();
                    assert_eq!(kind, expected, "{length} bytes at level {level}");
                    assert_eq!(decode(&row(kind, &plain, &stored), &stored).as_ref(), Ok(&plain));
                }
            }
        }
        assert_eq!(encode_block(&[], 3).unwrap_err().code, Code::LimitExceeded);
        assert_eq!(
            encode_block(&vec![1; BLOCK_BYTES + 1], 3).unwrap_err().code,
            Code::LimitExceeded
        );
        assert_eq!(encode_block(&[1], 20).unwrap_err().code, Code::Usage);
    }

    #[test]
    fn digests_decide_before_and_after_the_decoder() {
        let plain = b"abcabcabcabcabcabcabcabcabcabcabcabc".repeat(9);
        let (kind, stored) = encode_block(&plain, 3).unwrap();
        let good = row(kind, &plain, &stored);
        for at in 0..stored.len() {
            let mut broken = stored.clone();
            broken[at] ^= 1;
            assert_eq!(decode(&good, &broken), Err(Code::ContentMismatch));
        }
        assert_eq!(decode(&good, &stored[1..]), Err(Code::ContentMismatch));
        let mut other = good.clone();
        other.plain = Digest::of(b"other");
        assert_eq!(decode(&other, &stored), Err(Code::ContentMismatch));
    }

    /// Frames whose digest is right, as a hostile table would list them.
    #[test]
    fn e40_frames_of_another_shape_are_refused() {
        let plain = vec![7; 5000];
        let (_, stored) = encode_block(&plain, 3).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0][..], &stored].concat();
        let trailing_skippable = [&stored, &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0][..]].concat();
        let two = [&stored[..], &stored].concat();
        let trailing = [&stored[..], b"x"].concat();
        let checksum = {
            let mut compressor = Compressor::new(3).unwrap();
            compressor.set_parameter(CParameter::ChecksumFlag(true)).unwrap();
            compressor.compress(&plain).unwrap()
        };
        let streamed = {
            let mut compressor = Compressor::new(3).unwrap();
            compressor.set_parameter(CParameter::ContentSizeFlag(false)).unwrap();
            compressor.compress(&plain).unwrap()
        };
        let cut = stored[..stored.len() - 1].to_vec();
        for (what, hostile) in [
            ("skippable first", skippable),
            ("skippable last", trailing_skippable),
            ("two frames", two),
            ("leftover", trailing),
            ("checksum", checksum),
            ("no content size", streamed),
            ("truncated", cut),
            ("not zstd", vec![1, 2, 3, 4, 5]),
            ("empty", Vec::new()),
        ] {
            let row = row(BlockKind::Zstd, &plain, &hostile);
            assert_eq!(decode(&row, &hostile), Err(Code::Malformed), "{what}");
        }
    }

    #[test]
    fn e41_bombs_are_refused_before_they_are_decoded() {
        // 4 GiB claimed in a few bytes.
        let claims = [&MAGIC[..], &[DESCRIPTOR | 0b1000_0000], &[0xff; 4], &[1, 0, 0]].concat();
        assert_eq!(
            decode(&row(BlockKind::Zstd, &[0; 9], &claims), &claims),
            Err(Code::Malformed)
        );
        // 64 MiB of zeros claimed honestly; then a gibibyte under a header that lies.
        let zeros = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        let mut bomb = row(BlockKind::Zstd, &[0; 9], &zeros);
        assert_eq!(decode(&bomb, &zeros), Err(Code::Malformed));
        bomb.plain_len = u32::MAX;
        assert_eq!(decode(&bomb, &zeros), Err(Code::LimitExceeded));
        let body = zeros_frame_claiming(1000);
        let lying = row(BlockKind::Zstd, &[0; 1000], &body);
        assert_eq!(decode(&lying, &body), Err(Code::Malformed));
        assert_eq!(
            decode(&row(BlockKind::Zero, &[1], &[]), &[]),
            Err(Code::ContentMismatch)
        );
    }

    /// A frame of RLE blocks (RFC 8878 §3.1.1.2.2) that make a gibibyte out of a few kilobytes, under a small content size.
    fn zeros_frame_claiming(size: u16) -> Vec<u8> {
        let mut frame = [&MAGIC[..], &[DESCRIPTOR | 0b0100_0000], &(size - 256).to_le_bytes()].concat();
        let blocks: u32 = 8192;
        for n in 0..blocks {
            let header: u32 = (128 << 10) << 3 | 1 << 1 | u32::from(n + 1 == blocks);
            frame.extend_from_slice(&header.to_le_bytes()[..3]);
            frame.push(0);
        }
        frame
    }
}
