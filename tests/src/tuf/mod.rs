//! A client of The Update Framework as everybody else speaks it: JSON over HTTP, OLPC canonical JSON, Ed25519, ECDSA P-256 and
//! RSA-PSS. It drives [`ensign_bundle::trust::machine`], the state machine that ships, without Ensign's own profile, so that
//! suites and repositories made by others can judge that machine. It is itself no part of what ships.
//!
//! The command line is the one that TUF's conformance suite asks for; `bin/tuf_adapter.rs` has it.

pub mod client;
mod delegation;
mod format;
mod http;
mod json;
mod key;
mod metadata;
mod store;
