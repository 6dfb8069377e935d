//! The block table of a component: a CBOR sequence (RFC 8742) of rows
//! `[kind, plain length, stored length, plain digest, stored digest, [[entry, offset, length], ...]]`.

use serde::{Deserialize, Serialize};

use crate::blocks::layout::{StreamFile, stream_files};
use crate::codec;
use crate::digest::Digest;
use crate::limits::{BLOCK_BYTES, BLOCK_TABLE_BYTES, BLOCK_TABLE_ITEMS, BLOCKS};
use crate::manifest::{Component, check_file};
use crate::reason::{Code, Refusal};
use crate::refuse;

/// How the stored bytes of a block stand for its plain ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum BlockKind {
    /// They are the plain bytes.
    Raw,
    /// One zstd frame, shorter than the plain bytes.
    Zstd,
    /// Nothing is stored: the plain bytes are zeros.
    Zero,
}

/// Some bytes of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(u32, u64, u32)", from = "(u32, u64, u32)")]
pub struct Piece {
    /// Index among the component's entries.
    pub entry: u32,
    /// Where in the file, bytes.
    pub offset: u64,
    /// Bytes; not 0.
    pub length: u32,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "RowWire", from = "RowWire")]
pub struct BlockRow {
    pub kind: BlockKind,
    /// 1 to 1 MiB.
    pub plain_len: u32,
    /// As plain for `Raw`, less for `Zstd`, 0 for `Zero`.
    pub stored_len: u32,
    pub plain: Digest,
    pub stored: Digest,
    /// What the plain bytes are, in order.
    pub pieces: Vec<Piece>,
}

type RowWire = (BlockKind, u32, u32, Digest, Digest, Vec<Piece>);

/// The checked rows of one component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockTable {
    bytes: Vec<u8>,
    rows: Vec<BlockRow>,
}

impl BlockTable {
    /// Reads the table that `component` names: length and digest first, then every row, then that the pieces are the files of
    /// the component's stream, each once and whole.
    pub fn parse(bytes: &[u8], component: &Component) -> Result<Self, Refusal> {
        let mut rows = Vec::new();
        Self::check(bytes, component, |row| rows.push(row))?;
        Ok(Self {
            bytes: bytes.to_vec(),
            rows,
        })
    }

    /// As [`Self::parse`] with memory for one row and the list of files: shows each row to `seen` as it is checked. Nothing seen
    /// may be used before this returns `Ok`.
    pub fn check(bytes: &[u8], component: &Component, mut seen: impl FnMut(BlockRow)) -> Result<(), Refusal> {
        let name = &component.name;
        let named = |e: Refusal| Refusal::new(e.code, format!("block table of {name}: {}", e.text));
        if bytes.len() > BLOCK_TABLE_BYTES {
            return refuse!(
                LimitExceeded,
                "the block table of {name} has {} bytes, at most {BLOCK_TABLE_BYTES} are allowed",
                bytes.len()
            );
        }
        check_file(&format!("the block table of {name}"), bytes, &component.blocks)?;
        codec::scan_sequence(bytes, BLOCK_TABLE_ITEMS)
            .map_err(|e| named(Refusal::new(Code::Malformed, e.to_string())))?;
        let mut check = StreamCheck::new(stream_files(component.entries()).map_err(named)?);
        let mut rest = bytes;
        for row in codec::sequence::<BlockRow>(bytes) {
            let malformed = |e: codec::CodecError| named(Refusal::new(Code::Malformed, e.to_string()));
            let row = row.map_err(malformed)?;
            rest = codec::after_exact(rest, &row).map_err(malformed)?;
            check.push(&row).map_err(named)?;
            seen(row);
        }
        check.finish().map_err(named)
    }

    /// The rows of bytes that [`Self::check`] has accepted, decoded one by one.
    pub fn rows_of(bytes: &[u8]) -> impl Iterator<Item = BlockRow> + '_ {
        codec::sequence(bytes).map_while(Result::ok)
    }

    /// The bytes of a table of these rows.
    pub fn encode(rows: &[BlockRow]) -> Result<Vec<u8>, Refusal> {
        let mut bytes = Vec::new();
        for row in rows {
            codec::append(&mut bytes, row).map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?;
        }
        Ok(bytes)
    }

    /// The table as the manifest names it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One row for each block, in stream order; at most 2^20.
    pub fn rows(&self) -> &[BlockRow] {
        &self.rows
    }

    /// Stored bytes of all blocks.
    pub fn stored_len(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.stored_len)).sum()
    }
}

impl BlockRow {
    /// What can be known from the row alone.
    fn check(&self) -> Result<(), Refusal> {
        let (plain, stored) = (self.plain_len, self.stored_len);
        if plain == 0 || plain as usize > BLOCK_BYTES {
            return refuse!(
                LimitExceeded,
                "a block of {plain} bytes, 1 to {BLOCK_BYTES} are possible"
            );
        }
        let fits = match self.kind {
            BlockKind::Raw => stored == plain && self.stored == self.plain,
            BlockKind::Zstd => 0 < stored && stored < plain,
            BlockKind::Zero => stored == 0 && self.stored == Digest::of(b""),
        };
        if !fits {
            return refuse!(
                Malformed,
                "a {:?} block of {plain} plain and {stored} stored bytes, or with digests that contradict its kind",
                self.kind
            );
        }
        let sum = self
            .pieces
            .iter()
            .try_fold(0_u32, |sum, piece| sum.checked_add(piece.length));
        if sum != Some(plain) {
            return refuse!(Malformed, "the pieces of a block do not add up to its {plain} bytes");
        }
        Ok(())
    }
}

/// Follows the stream: each file once, from its start to its end without anything between, so a reader has one file open.
struct StreamCheck {
    /// In path order, so by entry.
    files: Vec<StreamFile>,
    done: Vec<bool>,
    /// The file that is not finished (its place in `files`), and the bytes of it so far.
    open: Option<(usize, u64)>,
    blocks: usize,
}

impl StreamCheck {
    fn new(files: Vec<StreamFile>) -> Self {
        Self {
            done: vec![false; files.len()],
            files,
            open: None,
            blocks: 0,
        }
    }

    fn push(&mut self, row: &BlockRow) -> Result<(), Refusal> {
        self.blocks += 1;
        if self.blocks > BLOCKS {
            return refuse!(LimitExceeded, "more than {BLOCKS} blocks in a component");
        }
        row.check()?;
        row.pieces.iter().try_for_each(|piece| self.piece(piece))
    }

    fn piece(&mut self, piece: &Piece) -> Result<(), Refusal> {
        let Piece { entry, offset, length } = *piece;
        let Ok(place) = self.files.binary_search_by_key(&entry, |file| file.entry) else {
            return refuse!(Malformed, "a piece of entry {entry}, whose bytes are not in the stream");
        };
        let (expected_place, expected_offset) = self.open.unwrap_or((place, 0));
        let finished = self.done.get(place).copied().unwrap_or(true);
        if finished || place != expected_place || offset != expected_offset {
            return refuse!(
                Malformed,
                "the piece of entry {entry} at {offset} is not the next of the stream"
            );
        }
        let size = self.files.get(place).map_or(0, |file| file.size);
        let end = offset.checked_add(u64::from(length)).filter(|end| *end <= size);
        let Some(end) = end.filter(|_| length > 0) else {
            return refuse!(
                Malformed,
                "a piece of {length} bytes at {offset} of entry {entry}, which has {size} bytes"
            );
        };
        self.open = (end < size).then_some((place, end));
        if end == size
            && let Some(done) = self.done.get_mut(place)
        {
            *done = true;
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), Refusal> {
        match self.done.iter().position(|done| !done) {
            Some(place) => refuse!(
                Malformed,
                "the bytes of entry {} are missing",
                self.files.get(place).map_or(0, |file| file.entry)
            ),
            None => Ok(()),
        }
    }
}

impl From<BlockKind> for u8 {
    fn from(kind: BlockKind) -> Self {
        match kind {
            BlockKind::Raw => 0,
            BlockKind::Zstd => 1,
            BlockKind::Zero => 2,
        }
    }
}

impl TryFrom<u8> for BlockKind {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            2 => Ok(Self::Zero),
            other => Err(format!("a block of the unknown kind {other}")),
        }
    }
}

impl From<Piece> for (u32, u64, u32) {
    fn from(piece: Piece) -> Self {
        (piece.entry, piece.offset, piece.length)
    }
}

impl From<(u32, u64, u32)> for Piece {
    fn from((entry, offset, length): (u32, u64, u32)) -> Self {
        Self { entry, offset, length }
    }
}

impl From<BlockRow> for RowWire {
    fn from(row: BlockRow) -> Self {
        (
            row.kind,
            row.plain_len,
            row.stored_len,
            row.plain,
            row.stored,
            row.pieces,
        )
    }
}

impl From<RowWire> for BlockRow {
    fn from((kind, plain_len, stored_len, plain, stored, pieces): RowWire) -> Self {
        Self {
            kind,
            plain_len,
            stored_len,
            plain,
            stored,
            pieces,
        }
    }
}
