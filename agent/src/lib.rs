//! The device: link, applier and runner. Three binaries of one crate; they share paths, messages and durable files, and nothing else.

pub mod clock;
pub mod durable;
pub mod ipc;
pub mod paths;
