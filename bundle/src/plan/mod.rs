//! What operators ask and what devices prove: plans, grants, receipts, gates.

pub mod evidence;
pub mod statements;
