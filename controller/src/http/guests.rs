//! Connections of operators: without a valid token they have a small room of their own, with one they have another.
//!
//! So whoever floods the port shares places with other strangers alone; and an operator who waits behind a flood gets a place at
//! once, because the stranger who waits longest loses his.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::places::{Place, Places, Room, Source};

/// Connections without a valid token yet: each costs some 40 KiB while its handshake runs.
const STRANGERS: usize = 512;
/// ... from one address: an office behind one NAT that starts its day; a flood from there displaces itself.
const STRANGERS_EACH: usize = 32;

/// The rooms of one listener.
#[derive(Clone, Debug)]
pub struct Guests {
    strangers: Places<Source>,
    operators: Places<Source>,
}

/// One connection: who makes a request on it, says so here.
#[derive(Clone, Debug)]
pub struct Guest(Arc<Seat>);

#[derive(Debug)]
struct Seat {
    source: Source,
    operators: Places<Source>,
    at: Mutex<At>,
    moved: Notify,
}

#[derive(Debug)]
struct At {
    place: Arc<Place<Source>>,
    proven: bool,
}

/// The room of strangers.
pub const fn strangers() -> Room {
    Room {
        most: STRANGERS,
        each: STRANGERS_EACH,
    }
}

impl Guests {
    /// `operators`: connections with a valid token at once; one more takes the place of the one that was used least lately.
    pub fn new(strangers: Room, operators: usize) -> Self {
        Self {
            strangers: Places::new(strangers),
            operators: Places::new(Room {
                most: operators.max(1),
                each: usize::MAX,
            }),
        }
    }

    pub(super) fn enter(&self, source: Source) -> Guest {
        let place = Arc::new(self.strangers.enter(source));
        Guest(Arc::new(Seat {
            source,
            operators: self.operators.clone(),
            at: Mutex::new(At { place, proven: false }),
            moved: Notify::new(),
        }))
    }
}

impl Guest {
    /// A request with a valid token came on this connection.
    pub(super) fn proven(&self) {
        let mut at = self.at();
        if at.proven {
            at.place.used();
            return;
        }
        *at = At {
            place: Arc::new(self.0.operators.enter(self.0.source)),
            proven: true,
        };
        drop(at);
        self.0.moved.notify_one();
    }

    /// Resolves when the connection's place was given to another.
    pub(super) async fn lost(&self) {
        loop {
            let place = Arc::clone(&self.at().place);
            tokio::select! {
                () = place.lost() => return,
                () = self.0.moved.notified() => {}
            }
        }
    }

    /// Whole after every statement.
    fn at(&self) -> MutexGuard<'_, At> {
        self.0.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
