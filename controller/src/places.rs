//! Places for connections that have proven nothing yet: so many in all, so many for one peer, and who waits longest goes first.
//!
//! A room that is full makes the oldest guest leave of those from where most have come, and a peer that is at its limit its own oldest
//! one. So a flood from one address, or from one network, only ever displaces itself, and whoever comes last always gets a place: long
//! enough to prove who he is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Places in all.
    pub most: usize,
    /// Places of one peer.
    pub each: usize,
}

/// Where a connection comes from, as far as limits per address go: an IPv4 address, or an IPv6 /64, which is what one subscriber
/// gets at least (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// This very machine: limited by the room alone.
    Local,
    V4([u8; 4]),
    /// Its first half.
    V6(u128),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            local if local.is_loopback() => Self::Local,
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => Self::V6(v6.to_bits() >> 64),
        }
    }
}

/// Whose connection it is.
pub trait Peer: Copy + Ord + Send + 'static {
    /// Not limited one by one.
    fn is_trusted(&self) -> bool {
        false
    }

    /// Those that count as one where a room is full.
    #[must_use]
    fn group(self) -> Self {
        self
    }
}

impl Peer for Source {
    fn is_trusted(&self) -> bool {
        *self == Self::Local
    }

    /// A site gets an IPv6 /48 at most (RFC 6177), which is 65,536 of what is limited one by one.
    fn group(self) -> Self {
        match self {
            Self::V6(half) => Self::V6(half >> 16 << 16),
            other => other,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Places<P: Peer>(Arc<Shared<P>>);

#[derive(Debug)]
struct Shared<P: Peer> {
    room: Room,
    taken: Mutex<Taken<P>>,
}

#[derive(Debug)]
struct Taken<P> {
    /// Grows with every arrival and every sign of life: the smallest number is the one that waits longest.
    clock: u64,
    guests: BTreeMap<u64, Guest<P>>,
    /// The same guests, peer by peer.
    by_peer: BTreeSet<(P, u64)>,
    /// The same guests, group by group.
    by_group: BTreeMap<P, BTreeSet<u64>>,
    /// The groups: how many are in it, and who of them waits longest. The last one gives a place.
    by_size: BTreeSet<(usize, Reverse<u64>, P)>,
}

#[derive(Debug)]
struct Guest<P> {
    peer: P,
    leave: Arc<Notify>,
}

/// A connection's place; free again when this is dropped.
#[derive(Debug)]
pub struct Place<P: Peer> {
    shared: Arc<Shared<P>>,
    number: Mutex<u64>,
    leave: Arc<Notify>,
}

impl<P: Peer> Clone for Places<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Peer> Places<P> {
    pub fn new(room: Room) -> Self {
        Self(Arc::new(Shared {
            room,
            taken: Mutex::new(Taken {
                clock: 0,
                guests: BTreeMap::new(),
                by_peer: BTreeSet::new(),
                by_group: BTreeMap::new(),
                by_size: BTreeSet::new(),
            }),
        }))
    }

    /// A place for one more, whoever must leave for it.
    pub fn enter(&self, peer: P) -> Place<P> {
        let mut taken = self.0.taken();
        if !peer.is_trusted() && taken.count(peer) >= self.0.room.each {
            taken.dismiss_oldest_of(peer);
        }
        if taken.guests.len() >= self.0.room.most {
            taken.dismiss_of_most();
        }
        self.place(taken, peer)
    }

    /// A place for one more, if there is one.
    pub fn try_enter(&self, peer: P) -> Option<Place<P>> {
        let taken = self.0.taken();
        let full = taken.guests.len() >= self.0.room.most;
        if full || (!peer.is_trusted() && taken.count(peer) >= self.0.room.each) {
            return None;
        }
        Some(self.place(taken, peer))
    }

    /// Places that are taken.
    pub fn count(&self) -> usize {
        self.0.taken().guests.len()
    }

    fn place(&self, mut taken: MutexGuard<'_, Taken<P>>, peer: P) -> Place<P> {
        let leave = Arc::new(Notify::new());
        let number = taken.seat(Guest {
            peer,
            leave: Arc::clone(&leave),
        });
        drop(taken);
        Place {
            shared: Arc::clone(&self.0),
            number: Mutex::new(number),
            leave,
        }
    }
}

impl<P: Peer> Place<P> {
    /// Resolves when somebody else needs the place. Who is told so must go: the place is given away already.
    pub async fn lost(&self) {
        self.leave.notified().await;
    }

    /// A sign of life: whoever is silent for longer goes first.
    pub fn used(&self) {
        let mut number = self.number();
        let mut taken = self.shared.taken();
        if let Some(guest) = taken.unseat(*number) {
            *number = taken.seat(guest);
        }
    }

    fn number(&self) -> MutexGuard<'_, u64> {
        self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Peer> Drop for Place<P> {
    fn drop(&mut self) {
        let number = *self.number();
        self.shared.taken().unseat(number);
    }
}

impl<P: Peer> Shared<P> {
    /// Whole after every statement.
    fn taken(&self) -> MutexGuard<'_, Taken<P>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Peer> Taken<P> {
    fn seat(&mut self, guest: Guest<P>) -> u64 {
        self.clock += 1;
        let number = self.clock;
        self.by_peer.insert((guest.peer, number));
        self.regroup(guest.peer, |group| group.insert(number));
        self.guests.insert(self.clock, guest);
        self.clock
    }

    fn unseat(&mut self, number: u64) -> Option<Guest<P>> {
        let guest = self.guests.remove(&number)?;
        self.by_peer.remove(&(guest.peer, number));
        self.regroup(guest.peer, |group| group.remove(&number));
        Some(guest)
    }

    fn of(&self, peer: P) -> impl Iterator<Item = u64> {
        self.by_peer
            .range((peer, 0)..=(peer, u64::MAX))
            .map(|(_, number)| *number)
    }

    fn count(&self, peer: P) -> usize {
        self.of(peer).count()
    }

    fn dismiss_oldest_of(&mut self, peer: P) {
        let oldest = self.of(peer).next();
        self.dismiss(oldest);
    }

    fn dismiss_of_most(&mut self) {
        let oldest = self.by_size.last().map(|(_, Reverse(oldest), _)| *oldest);
        self.dismiss(oldest);
    }

    fn regroup(&mut self, peer: P, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let name = peer.group();
        let mut group = self.by_group.remove(&name).unwrap_or_default();
        if let Some(oldest) = group.first() {
            self.by_size.remove(&(group.len(), Reverse(*oldest), name));
        }
        change(&mut group);
        if let Some(oldest) = group.first() {
            self.by_size.insert((group.len(), Reverse(*oldest), name));
            self.by_group.insert(name, group);
        }
    }

    fn dismiss(&mut self, number: Option<u64>) {
        if let Some(guest) = number.and_then(|number| self.unseat(number)) {
            // Kept for a guest who does not listen yet.
            guest.leave.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::net::Ipv6Addr;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_lost(place: &Place<Source>) -> bool {
        let lost = pin!(place.lost());
        lost.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn from(last: u8) -> Source {
        Source::from(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn a_full_room_gives_the_place_of_whoever_waits_longest() {
        let places = Places::new(Room { most: 3, each: 3 });
        let (a, b, c) = (places.enter(from(1)), places.enter(from(2)), places.enter(from(3)));
        a.used();
        let d = places.enter(from(4));
        assert!(is_lost(&b));
        assert!(!is_lost(&a) && !is_lost(&c) && !is_lost(&d));
        assert_eq!(places.count(), 3);
        // The place of one who was told to leave is not given back twice.
        drop(b);
        assert_eq!(places.count(), 3);
        drop((a, c, d));
        assert_eq!(places.count(), 0);
    }

    #[test]
    fn an_address_at_its_limit_displaces_itself_alone() {
        let places = Places::new(Room { most: 100, each: 2 });
        let operator = places.enter(from(1));
        let flood: Vec<_> = (0..50).map(|_| places.enter(from(2))).collect();
        assert!(!is_lost(&operator));
        assert_eq!(flood.iter().filter(|place| !is_lost(place)).count(), 2);
        assert!(places.try_enter(from(2)).is_none());
        assert!(places.try_enter(from(3)).is_some());
    }

    /// Each address below its limit, all of them together from one network: the room is full, and nobody else pays for it.
    #[test]
    fn a_network_that_fills_the_room_displaces_itself() {
        let places = Places::new(Room { most: 10, each: 2 });
        let operator = places.enter(from(1));
        let other = places.enter(from(2));
        let flood: Vec<_> = (0..100)
            .map(|n| {
                places.enter(Source::from(IpAddr::from(Ipv6Addr::new(
                    0x2001, 0xdb8, 1, n, 0, 0, 0, 1,
                ))))
            })
            .collect();
        assert!(!is_lost(&operator) && !is_lost(&other));
        let left = flood.iter().filter(|place| !is_lost(place)).count();
        assert_eq!((left, places.count()), (8, 10));
        drop(flood);
        assert_eq!(places.count(), 2);
    }

    #[test]
    fn addresses_are_counted_as_subscribers_have_them() {
        let v6 = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff:2"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:192.0.2.1"), from(1));
        for local in [IpAddr::from([127, 0, 0, 9]), Ipv6Addr::LOCALHOST.into()] {
            assert_eq!(Source::from(local), Source::Local);
        }
        let places = Places::new(Room { most: 5, each: 1 });
        let local: Vec<_> = (0..5).map(|_| places.enter(Source::Local)).collect();
        assert!(
            local.iter().all(|place| !is_lost(place)),
            "this machine is limited by the room alone"
        );
    }
}
