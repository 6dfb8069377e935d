//! The journaled state machine that brings a release onto a device and takes it back.
//!
//! Pure: no clock, no disk, no process. The shell says what happened ([`Event`]), appends the returned [`Record`]s to the journal, and
//! only then performs the [`Action`]s. A [`Device`] is what its records amount to, so a restart is: read the journal, look where the
//! machine really stands ([`Reality`]), go on ([`Device::resume`]).
//!
//! docs/states.md shows the states; it is generated from [`Stage`] by a test.

mod device;
mod event;
mod generation;
pub mod journal;
mod record;
mod resume;
mod stage;
mod step;
mod trial;
mod uptime;

pub use device::{Denied, Device, Known, Lock, REPORT_RECEIPTS, Soak, Statement};
pub use event::{Action, Event};
pub use generation::{Component, Generation, Product};
pub use record::Record;
pub use resume::Reality;
pub use stage::{
    Confirmed, Fetching, Policy, Prepared, Rejected, RolledBack, RollingBack, Stage, Staged, Switching, Target, Trial,
    Waiting,
};
pub use step::Step;
pub use trial::{Outlook, Watch};
pub use uptime::{Now, Uptime};

#[cfg(test)]
mod diagram;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod testkit;
