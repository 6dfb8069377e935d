//! The link half: the only process of a device that talks to the network. Nothing it says is believed.
//!
//! ```text
//! controller ══ QUIC ══ session ─┐
//!                                ├─ engine ── cache ── applier.sock ══ applier
//! supervisor (under --root) ─────┘     └───── agent.sock (status)
//! ```
//!
//! [`engine`] is level-triggered: every event ends in the same question, what does each side lack now?

pub mod applier;
pub mod backoff;
pub mod cache;
pub mod controller;
mod counter;
pub mod engine;
pub mod enroll;
#[cfg(test)]
mod fake;
pub mod fetch;
#[cfg(test)]
mod flow;
pub mod identity;
pub mod rotation;
pub mod run;
pub mod session;
pub mod status;
pub mod supervisor;
pub mod tls;
