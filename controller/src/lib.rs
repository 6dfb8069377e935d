//! The controller: registry, ledger, blobs, sessions, operators' API.

pub mod clock;
pub mod durable;
pub mod store;
