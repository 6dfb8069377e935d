//! The device: link, applier and runner. Three binaries of one crate; they share paths, messages and durable files, and nothing else.

pub mod applier;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod durable;
pub mod ipc;
pub mod link;
pub mod log;
pub mod paths;
pub mod runner;
pub mod sandbox;
