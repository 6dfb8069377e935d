//! What Ensign trusts rests on: Ed25519 keys, the signed envelope, thresholds, and the strict CBOR scanner.
//!
//! Pure: no clock, no disk, no randomness (seeds are arguments). It knows nothing of updates.
//!
//! The order in which a reader of foreign bytes uses it, each step only after the one before it:
//!
//! 1. [`Envelope::parse`]: size cap, then a fixed-shape parser;
//! 2. [`require_threshold`]: signatures over the payload exactly as received;
//! 3. [`cbor::scan`]: the payload is deterministic CBOR (RFC 8949 §4.2.1);
//! 4. decoding and the meaning of the fields: elsewhere.

#![warn(missing_docs)]

pub mod cbor;
#[cfg(feature = "counted")]
mod counted;
mod envelope;
mod key;
#[cfg(feature = "sealed")]
pub mod sealed;
mod threshold;

#[cfg(feature = "counted")]
pub use counted::counted;
pub use envelope::{AddError, Envelope, EnvelopeError, MAX_SIGNATURES, Signature, aad};
pub use key::{KEY_BYTES, KeyError, KeyId, PublicKey, SIGNATURE_BYTES, SecretKey, verify};
pub use threshold::{Shortfall, ThresholdError, meet_threshold, require_threshold, valid_signers};
