//! The controller: registry, ledger, blobs, sessions, operators' API.
//!
//! A reader's path: [`serve`] opens the folder and listens; [`server`] is the devices' side, [`http`] the operators'; both hand jobs
//! to [`core`], which alone changes state, commits it to the [`store`] and tells sessions what is wanted of their devices.

pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod durable;
pub mod http;
pub mod https;
pub mod keys;
pub mod kit;
pub mod logs;
pub mod metrics;
pub mod paths;
pub mod places;
pub mod roles;
pub mod serve;
pub mod server;
pub mod store;
