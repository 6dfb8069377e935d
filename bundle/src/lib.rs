//! What crosses machines: trust, manifests, blocks, bundles, plans, receipts and wire messages.
//!
//! Pure: no clock, no file, no socket. Bytes go in, typed values or a [`reason::Refusal`] come out.
#![warn(missing_debug_implementations)]

pub mod accept;
pub mod blocks;
pub mod codec;
pub mod container;
pub mod digest;
pub mod effect;
#[cfg(test)]
mod fixture;
pub mod ids;
mod kinds;
pub mod limits;
pub mod manifest;
pub mod path;
pub mod plan;
pub mod reason;
pub mod selector;
pub mod statement;
pub mod text;
pub mod trust;
pub mod wire;
pub mod words;
