//! Blocks: a component's files as pieces of at most 1 MiB that any cache or peer can serve without being trusted.
//!
//! [`layout`] decides which bytes stand in which block, [`BlockPlan::store`] makes a block, the [`BlockTable`] lists them with the
//! digests that the manifest vouches for, and [`decode_block`] turns stored bytes back into plain ones, checking both sides.

mod frame;
mod layout;
mod table;
#[cfg(test)]
mod tests;

pub use frame::{LEVELS, decode_block, encode_block};
pub use layout::{BlockPlan, StoredBlock, StreamFile, layout, stream_files};
pub use table::{BlockKind, BlockRow, BlockTable, Piece};
