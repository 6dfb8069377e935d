//! The TUF roles and their state machine: what software exists, as release signers say it.
//!
//! [`mod@format`] is what the machine asks of a codec, [`machine`] the workflow, [`ensign`] the codec and [`profile`] the extra rules of
//! what ships; [`Trusted`] ties them to what a device remembers, [`TrustState`] is its stored form.

mod asked;
mod authority;
pub mod ensign;
pub mod format;
pub mod issue;
pub mod machine;
mod memory;
pub mod profile;
pub mod roles;
mod state;
mod time;
mod trusted;

pub use authority::Authority;
pub use ensign::ReleaseName;
pub use machine::Step;
pub use memory::Started;
pub use state::TrustState;
pub use time::{CLOCK_SLACK_S, Clock};
pub use trusted::{Source, Trusted, Want};
