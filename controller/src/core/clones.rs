//! Two devices with one identity: noticed by session counters that go back, and no weapon in the hands of the network.
//!
//! Whoever sits between a device and the controller cannot forge a `hello`, but can hold one back until the device has given up and
//! connected anew. So an old counter alone says nothing: its connection is welcomed beside the newer one and gets no rollout. A
//! device sends its first report when it has read `welcome`, which nobody can have recorded before: then somebody lives there.
//!
//! An alarm stops installs on both. One device whose disk was restored raises it once. Only when the newer device comes again and
//! then the older, two of them exist, and the identity is suspended.

use std::sync::Arc;

use ensign_bundle::digest::DeviceId;
use ensign_bundle::reason::Refusal;
use ensign_bundle::text::printable;
use ensign_bundle::wire::Hello;
use tokio::sync::watch;

use super::devices::Verb;
use super::rows::CloneAlarm;
use super::sessions::Live;
use super::state::State;
use super::want::{Session, Welcomed};

/// Connections that alternate within this time are of two devices, seconds.
const ALTERNATE_S: u64 = 3600;
/// Suspensions without an operator in each hour: a farm of machines that is restored from snapshots must not lose its whole fleet.
const SUSPENSIONS_PER_HOUR: usize = 10;
const HOUR_S: u64 = 3600;

/// A connection whose counter went back.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) live: Live,
}

impl State {
    /// Welcomes a connection whose counter went back: with documents, without a rollout, and beside the newer one.
    pub(super) fn suspect(&mut self, id: &DeviceId, connection: u64, hello: &Hello) -> Result<Welcomed, Refusal> {
        let row = self.device(id)?;
        tracing::info!(
            device = %id,
            name = %printable(&row.name, 64),
            session = hello.session,
            before = row.session,
            "the session counter went back"
        );
        let welcome = self.welcome(id, hello)?;
        let mut first = self.documents_only(&hello.held);
        first.desired.generation = self.next_generation();
        let (wants, told) = watch::channel(Arc::new(first));
        let live = Live {
            connection,
            held: hello.held,
            wants,
        };
        // The one before it ends: nobody is left to tell it anything.
        self.sessions.suspects.insert(*id, Suspect { live });
        Ok(Welcomed {
            session: Session {
                device: *id,
                wants: told,
            },
            welcome,
        })
    }

    /// A report came on this connection: if it was suspect, a copy of the device lives there.
    pub(super) fn lives(&mut self, id: &DeviceId, connection: u64) -> Result<(), Refusal> {
        let suspects = &mut self.sessions.suspects;
        if suspects.get(id).is_none_or(|s| s.live.connection != connection) {
            return Ok(());
        }
        let Some(Suspect { live }) = suspects.remove(id) else {
            return Ok(());
        };
        let now = self.now;
        let row = self.device_mut(id)?;
        let alternate = row
            .alarm
            .is_some_and(|alarm| row.session > alarm.above && now.saturating_sub(alarm.at) <= ALTERNATE_S);
        row.alarm = Some(CloneAlarm {
            at: now,
            above: row.session,
        });
        let name = printable(&row.name, 64);
        self.put_device(id)?;
        self.alarm_changed(id);
        self.takes_over(id, live);
        self.device_connected(id);
        tracing::warn!(device = %id, %name, "clone-detected: another copy of this device lives; installs stop on both");
        if alternate && self.may_suspend() {
            self.sessions.suspensions.push_back(now);
            self.set_standing(id, Verb::Suspend, "clone-detected: two devices alternate", "controller")?;
        }
        Ok(())
    }

    fn may_suspend(&mut self) -> bool {
        let now = self.now;
        let recent = &mut self.sessions.suspensions;
        while recent.front().is_some_and(|at| now.saturating_sub(*at) >= HOUR_S) {
            recent.pop_front();
        }
        recent.len() < SUSPENSIONS_PER_HOUR
    }
}
