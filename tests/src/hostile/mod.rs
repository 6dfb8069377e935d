//! A stolen controller: a thief with every online key of a real fleet (timestamp, snapshot, TLS) and everything that the ledger
//! held, who speaks the real protocol to real devices.

mod liar;
mod server;
mod stolen;

pub use liar::{Liar, Posted};
pub use server::{Hostile, Manner, Offer, Wish};
pub use stolen::{Stolen, copy_folder, unix_now};
