//! Every fault that a fleet must survive, one test each, with the real processes: the exit code, the reason, words that name both
//! values and a hint; the device still runs exactly what it ran, and takes the next honest release.

mod content;
mod device;
mod plans;
mod probes;
mod processes;
mod quorum;
mod signed;
mod signers;
mod space;
mod stale;
mod stolen;
mod thief;
mod tokens;
