//! Who may update now, what stops a rollout, and why a device waits.
//!
//! Pure: no clock, no disk, no network, no randomness. The controller is a loop around four calls:
//!
//! 1. something happened → [`observe`] the [`Event`]; the [`rows`] that it touched are written before anybody is told;
//! 2. [`plan`] → [`Action`]s; each [`Action::event`] is observed like any other;
//! 3. again from 2 until there are no actions (a bounded number of actions comes at a time, so one call stays short);
//! 4. tell the devices what [`desired`] says now; sleep until [`next_wakeup`].
//!
//! Everything follows from state: folding the same events in the same order gives the same [`Fleet`] and the same plan, so a
//! crash between any two lines is harmless, and a lost or repeated message too.
//!
//! The ledger keeps [`rows`], not events: one small row per device and per membership, written when an event touches it, and
//! [`Fleet::from_rows`] counts everything anew. What an event touches is [`Event::subject`].
//!
//! ```text
//! device in a rollout      ┌────────── hold, suspend, newer release ─▶ held
//!                          │
//!   pending ── Offered ─▶ active ── good receipt ─▶ ok ──┐
//!    │   ▲                 │  │                          ├─ silent ─▶ dark ── seen ─▶ back
//!    │   │                 │  └── bad receipt ─▶ failed  │
//!    ▼   └── seen ──┐      └─────────────────────────────┘
//!   unreached ──────┘
//! ```
#![warn(missing_debug_implementations)]

mod action;
mod brakes;
mod check;
mod desired;
mod event;
mod fleet;
mod hints;
mod index;
mod member;
mod observe;
mod planner;
mod rollout;
pub mod rows;
mod rules;
mod status;
mod trouble;
mod waits;
mod wakeup;
mod why;

pub use action::{Action, Planned, Report};
pub use brakes::{WaveBrakes, brakes};
pub use check::check;
pub use desired::{Desired, desired};
pub use event::{DeviceState, Event, Order, RolloutSpec, Subject, WaveSpec};
pub use fleet::{Device, Fleet, Policies};
pub use member::{Counts, Member, Outcome, Standing};
pub use observe::observe;
pub use planner::{ACTIONS_AT_ONCE, plan};
pub use rollout::{Control, Rollout, Stage, Wave};
pub use status::{
    AWAY_SHOWN, Away, RolloutState, RolloutStatus, TransferBytes, Waiting, WaveState, WaveStatus, is_dark, status,
};
pub use trouble::{halted, unwell};
pub use waits::told;
pub use wakeup::next_wakeup;
pub use why::{Why, why};
