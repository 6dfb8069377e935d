//! The stream of a component and how it is cut into blocks. Pure: builder and device come to the same result.

use std::collections::BTreeMap;

use crate::blocks::frame::encode_block;
use crate::blocks::table::{BlockKind, BlockRow, Piece};
use crate::digest::Digest;
use crate::limits::BLOCK_BYTES;
use crate::manifest::Entry;
use crate::reason::{Code, Refusal};
use crate::refuse;

/// A file whose bytes stand in the stream: the first in path order of its content. Others of the same content are copies of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFile {
    /// Index among the component's entries.
    pub entry: u32,
    /// Bytes; not 0.
    pub size: u64,
    pub digest: Digest,
}

/// The files of the stream, in path order. Refuses two sizes for one digest.
pub fn stream_files(entries: impl IntoIterator<Item = Entry>) -> Result<Vec<StreamFile>, Refusal> {
    let mut sizes: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut files = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let Entry::File { path, size, digest, .. } = entry else {
            continue;
        };
        match sizes.insert(digest, size) {
            Some(other) if other != size => {
                return refuse!(
                    Malformed,
                    "{path} has {size} bytes, another file of the digest {digest} has {other}"
                );
            }
            None if size > 0 => files.push(StreamFile {
                entry: entry_number(index)?,
                size,
                digest,
            }),
            Some(_) | None => {}
        }
    }
    Ok(files)
}

/// One block before it is read: which bytes of which files, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockPlan {
    pub pieces: Vec<Piece>,
    /// Plain bytes, 1 to 1 MiB.
    pub length: u32,
}

/// A finished block: its row of the table, and its stored bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    pub row: BlockRow,
    pub stored: Vec<u8>,
}

/// Cuts the stream of `entries` (in manifest order) into blocks. Files of 1 MiB and more come first, in path order, each from
/// the start of a block of its own. Smaller ones share blocks without being cut, sorted by extension and then path, so that
/// what resembles each other is compressed together.
pub fn layout(entries: &[Entry]) -> Result<Vec<BlockPlan>, Refusal> {
    let files = stream_files(entries.iter().cloned())?;
    let (large, mut small): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| f.size >= BLOCK_BYTES as u64);
    let mut blocks = Vec::new();
    for file in large {
        let mut offset = 0;
        while offset < file.size {
            let length = u32::try_from((file.size - offset).min(BLOCK_BYTES as u64)).unwrap_or(u32::MAX);
            blocks.push(BlockPlan {
                pieces: vec![Piece {
                    entry: file.entry,
                    offset,
                    length,
                }],
                length,
            });
            offset += u64::from(length);
        }
    }
    // Stable: files of one extension stay in path order.
    small.sort_by_key(|file| entries.get(file.entry as usize).map_or("", |e| e.path().extension()));
    let mut open = BlockPlan::default();
    for file in small {
        let length = u32::try_from(file.size).unwrap_or(u32::MAX);
        if u64::from(open.length) + file.size > BLOCK_BYTES as u64 {
            blocks.push(std::mem::take(&mut open));
        }
        open.length += length;
        open.pieces.push(Piece {
            entry: file.entry,
            offset: 0,
            length,
        });
    }
    if open.length > 0 {
        blocks.push(open);
    }
    Ok(blocks)
}

impl BlockPlan {
    /// Makes the block of `plain`, the bytes of all pieces in order. Independent of every other block, so callers run it on all
    /// cores.
    pub fn store(&self, plain: &[u8], level: i32) -> Result<StoredBlock, Refusal> {
        if plain.len() != self.length as usize {
            return refuse!(
                ContentMismatch,
                "a block of {} bytes where its files had {}: they changed while they were read",
                plain.len(),
                self.length
            );
        }
        let (kind, stored) = encode_block(plain, level)?;
        let stored_len = u32::try_from(stored.len())
            .map_err(|_| Refusal::new(Code::LimitExceeded, "a stored block of more than 4 GiB"))?;
        let row = BlockRow {
            kind,
            plain_len: self.length,
            stored_len,
            plain: Digest::of(plain),
            stored: if kind == BlockKind::Raw {
                Digest::of(plain)
            } else {
                Digest::of(&stored)
            },
            pieces: self.pieces.clone(),
        };
        Ok(StoredBlock { row, stored })
    }
}

fn entry_number(index: usize) -> Result<u32, Refusal> {
    u32::try_from(index).map_err(|_| Refusal::new(Code::LimitExceeded, format!("more than {} entries", u32::MAX)))
}
