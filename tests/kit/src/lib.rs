//! What tests of several crates build alike: keys, trees, plans. A dev-dependency of those crates and never more: the test of
//! the arrows fails where anything that ships depends on it.

#![allow(clippy::unwrap_used, reason = "a test kit: what cannot be set up fails the test")]

pub mod fleet;
mod plan;
mod tree;

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_crypto::SecretKey;

pub use plan::{one_wave, pace, plan, stop_at};
pub use tree::{Component, Files, component, files};

/// One day, seconds.
pub const DAY: u64 = 24 * 3600;

/// The key whose seed is 32 times this byte.
pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub fn ident(text: &str) -> Ident {
    Ident::parse(text).unwrap()
}

/// Bytes that do not compress, the same on every run.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let digests = (0_u64..).flat_map(|n| Digest::of(&[seed.to_be_bytes(), n.to_be_bytes()].concat()).0);
    digests.take(length).collect()
}
