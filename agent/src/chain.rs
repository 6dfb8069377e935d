//! An error with its causes in one line.

pub use ensign_bundle::text::chain;
