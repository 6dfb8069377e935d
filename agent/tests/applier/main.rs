//! The real applier process, driven as the link half, the runner and root drive it.

mod bounds;
mod cases;
mod crashes;
mod hostile;
mod install;
mod kit;
mod link;
mod permission;
mod state;
mod trial;
mod units;
