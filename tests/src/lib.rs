//! Harness for tests, the demo and benchmarks: real processes on loopback, and the simulation.

pub mod bench;
pub mod demo;
pub mod harness;
pub mod hostile;
pub mod mutants;
pub mod python;
pub mod random;
pub mod simulation;
pub mod tuf;
