//! Connections of operators: before the TLS handshake they have a small room, then another of that size, and with a valid token a third.
//!
//! So whoever floods the port shares places with other strangers alone, and who does not even finish handshakes with others of that
//! kind; and an operator who waits behind a flood gets a place at once, because a stranger of those from where most have come loses
//! his.

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
    arriving: Places<Source>,
    strangers: Places<Source>,
    operators: Places<Source>,
}

/// One connection: who makes a request on it, says so here.
#[derive(Clone, Debug)]
pub struct Guest(Arc<Seat>);

#[derive(Debug)]
struct Seat {
    source: Source,
    strangers: Places<Source>,
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
            arriving: Places::new(strangers),
            strangers: Places::new(strangers),
            operators: Places::new(Room {
                most: operators.max(1),
                each: usize::MAX,
            }),
        }
    }

    pub(super) fn enter(&self, source: Source) -> Guest {
        let place = Arc::new(self.arriving.enter(source));
        Guest(Arc::new(Seat {
            source,
            strangers: self.strangers.clone(),
            operators: self.operators.clone(),
            at: Mutex::new(At { place, proven: false }),
            moved: Notify::new(),
        }))
    }
}

impl Guest {
    /// The TLS handshake is finished: an address that answers, and work done.
    pub(super) fn shaken(&self) {
        self.at().place = Arc::new(self.0.strangers.enter(self.0.source));
        self.0.moved.notify_one();
    }

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

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::net::IpAddr;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_lost(guest: &Guest) -> bool {
        let lost = pin!(guest.lost());
        lost.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// From as many addresses as there are connections, so that no limit per address helps.
    #[test]
    fn a_finished_handshake_is_not_displaced_by_those_that_only_connect() {
        let guests = Guests::new(Room { most: 8, each: 2 }, 8);
        let flood = || -> Vec<Guest> {
            let sources = (0..50).map(|n| Source::from(IpAddr::from([198, 51, 100, n])));
            sources.map(|source| guests.enter(source)).collect()
        };
        let operator = guests.enter(Source::from(IpAddr::from([192, 0, 2, 1])));
        operator.shaken();
        let others = flood();
        assert!(!is_lost(&operator));
        assert_eq!(others.iter().filter(|guest| !is_lost(guest)).count(), 8);
        operator.proven();
        let finished = flood();
        finished.iter().for_each(Guest::shaken);
        assert!(!is_lost(&operator));
        assert_eq!(finished.iter().filter(|guest| !is_lost(guest)).count(), 8);
    }
}
