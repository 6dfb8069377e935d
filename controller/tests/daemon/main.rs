//! The daemon in one process: real sockets, a real ledger, devices and operators that speak the protocols themselves.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its setting fails"
)]
#![expect(
    clippy::match_wildcard_for_single_variants,
    reason = "a test names the one message that it waits for"
)]

mod clones;
mod delegation;
mod enrolment;
mod fleet;
mod floods;
mod hostile;
mod kit;
mod lost_plans;
mod names;
mod process;
mod publishing;
mod rollout;
mod rotation;
mod sessions;
mod time;
