//! The TUF roles and their state machine.

pub mod roles;
