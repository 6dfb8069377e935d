//! The daemon in one process: real sockets, a real ledger, devices and operators that speak the protocols themselves.

mod enrolment;
mod fleet;
mod kit;
mod publishing;
mod rollout;
mod sessions;
