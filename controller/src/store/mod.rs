//! What the controller keeps: the [`ledger`] (small, transactional) and the [`blobs`] (large, named by their digest).
//!
//! Blobs first, ledger last: a row never names a blob that is not on disk.

pub mod blobs;
pub mod files;
mod group_commit;
pub mod ledger;
pub mod memory;
pub mod room;
pub mod sled;

#[cfg(test)]
mod conformance;
