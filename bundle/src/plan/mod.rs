//! What operators ask and what devices prove: plans, grants, receipts, gates.

pub mod cohort;
pub mod evidence;
pub mod file;
pub mod gate;
pub mod membership;
pub mod merkle;
pub mod rotation;
pub mod scope;
pub mod statements;
pub mod token;
