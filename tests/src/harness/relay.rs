//! A bad line on loopback: a UDP relay that loses, delays and doubles packets, and that can be cut. The same seed makes the same
//! choices packet by packet; which packets there are is up to both ends.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::now;
use crate::random::Random;

/// Longest wait of a relaying thread before it looks whether it should end.
const LOOK: Duration = Duration::from_millis(2);
/// Largest UDP packet.
const PACKET: usize = 65_536;

/// How bad the line is, in each direction.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Packets of a thousand that are lost.
    pub loss: usize,
    /// Packets of a thousand that come twice.
    pub twice: usize,
    /// Every packet waits up to this long, so that some overtake others.
    pub delay: Duration,
}

/// A relay to one address. Ends when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    cut: AtomicBool,
    /// Bytes that came back from the far end.
    back: AtomicU64,
    /// After so many bytes from the far end the line goes dead by itself; 0 = never.
    cut_after: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Relay {
    /// Listens on a free port of loopback and passes on what comes to `to`.
    pub fn start(to: SocketAddr, line: Line, seed: u64) -> Result<Self> {
        let near = UdpSocket::bind("127.0.0.1:0")?;
        near.set_nonblocking(true)?;
        let address = near.local_addr()?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            if let Err(error) = carry(&near, to, line, Random::new(seed), &theirs) {
                *theirs.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
            }
        });
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the line, or mends it; a mended line stays whole.
    pub fn cut(&self, cut: bool) {
        if !cut {
            self.shared.cut_after.store(0, Ordering::SeqCst);
        }
        self.shared.cut.store(cut, Ordering::SeqCst);
    }

    /// The line goes dead once so many more bytes have come from the far end.
    pub fn cut_after(&self, bytes: u64) {
        let at = self.back().saturating_add(bytes.max(1));
        self.shared.cut_after.store(at, Ordering::SeqCst);
    }

    pub fn is_cut(&self) -> bool {
        self.shared.cut.load(Ordering::SeqCst)
    }

    /// Bytes that came back from the far end so far.
    pub fn back(&self) -> u64 {
        self.shared.back.load(Ordering::SeqCst)
    }

    /// What ended the relay early, if anything did.
    pub fn trouble(&self) -> Option<String> {
        self.shared
            .trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet on its way, by the time it is due and a number that keeps equal times apart.
type Waiting = BTreeMap<(Instant, u64), (Vec<u8>, Way)>;

#[derive(Clone, Copy, Debug)]
enum Way {
    /// To the far end, for this client.
    Out(SocketAddr),
    /// Back to this client.
    Back(SocketAddr),
}

fn carry(near: &UdpSocket, to: SocketAddr, line: Line, mut random: Random, shared: &Shared) -> Result<()> {
    let mut far: BTreeMap<SocketAddr, UdpSocket> = BTreeMap::new();
    let (mut waiting, mut number) = (Waiting::new(), 0);
    let mut buffer = vec![0; PACKET];
    while !shared.stop.load(Ordering::SeqCst) {
        let mut busy = false;
        while let Ok((length, client)) = near.recv_from(&mut buffer) {
            busy = true;
            if let Entry::Vacant(place) = far.entry(client) {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                socket.connect(to)?;
                socket.set_nonblocking(true)?;
                place.insert(socket);
            }
            queue(
                &mut waiting,
                &mut number,
                &mut random,
                line,
                &buffer[..length],
                Way::Out(client),
            );
        }
        for (client, socket) in &far {
            // A far end that is not there answers with an error, which is a lost packet here.
            while let Ok(length) = socket.recv(&mut buffer) {
                busy = true;
                let back = shared.back.fetch_add(length as u64, Ordering::SeqCst) + length as u64;
                let at = shared.cut_after.load(Ordering::SeqCst);
                if at > 0 && back >= at {
                    shared.cut.store(true, Ordering::SeqCst);
                }
                queue(
                    &mut waiting,
                    &mut number,
                    &mut random,
                    line,
                    &buffer[..length],
                    Way::Back(*client),
                );
            }
        }
        let at = now();
        while let Some(entry) = waiting.first_entry().filter(|entry| entry.key().0 <= at) {
            let (packet, way) = entry.remove();
            if shared.cut.load(Ordering::SeqCst) {
                continue;
            }
            // A full buffer or an absent peer loses the packet, as any network does.
            let _ = match way {
                Way::Out(client) => far.get(&client).map(|socket| socket.send(&packet)),
                Way::Back(client) => Some(near.send_to(&packet, client)),
            };
        }
        if !busy {
            let next = waiting
                .first_key_value()
                .map_or(LOOK, |((due, _), _)| due.saturating_duration_since(now()));
            std::thread::sleep(next.min(LOOK / 4));
        }
    }
    Ok(())
}

fn queue(waiting: &mut Waiting, number: &mut u64, random: &mut Random, line: Line, packet: &[u8], way: Way) {
    if random.below(1000) < line.loss {
        return;
    }
    let copies = if random.below(1000) < line.twice { 2 } else { 1 };
    for _ in 0..copies {
        let most = usize::try_from(line.delay.as_micros()).unwrap_or(0);
        let delay = Duration::from_micros(random.below(most + 1) as u64);
        *number += 1;
        waiting.insert((now() + delay, *number), (packet.to_vec(), way));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: Line = Line {
        loss: 0,
        twice: 0,
        delay: Duration::ZERO,
    };

    fn echo() -> (SocketAddr, JoinHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if &buffer[..length] == b"end" {
                    return;
                }
                socket.send_to(&buffer[..length], from).unwrap();
            }
        });
        (address, thread)
    }

    /// Packets that come back of `count` sent one after the other.
    fn returned(line: Line, seed: u64, count: u8) -> Vec<u8> {
        let (far, thread) = echo();
        let relay = Relay::start(far, line, seed).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(60))).unwrap();
        let mut got = Vec::new();
        for number in 0..count {
            socket.send_to(&[number], relay.address()).unwrap();
            let mut buffer = [0; 8];
            while let Ok(length) = socket.recv(&mut buffer) {
                got.extend_from_slice(&buffer[..length]);
                if line.twice == 0 {
                    break;
                }
            }
        }
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"end", far).unwrap();
        thread.join().unwrap();
        assert_eq!(relay.trouble(), None);
        got
    }

    #[test]
    fn a_clean_line_passes_everything_once() {
        assert_eq!(returned(CLEAN, 1, 20), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn loss_and_doubles_follow_the_seed() {
        let bad = Line { loss: 300, ..CLEAN };
        let got = returned(bad, 5, 30);
        assert!(got.len() < 30 && !got.is_empty(), "{got:?}");
        let twice = Line { twice: 1000, ..CLEAN };
        assert_eq!(returned(twice, 5, 2), [0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn a_cut_line_is_silent_until_it_is_mended() {
        let (far, thread) = echo();
        let relay = Relay::start(far, CLEAN, 1).unwrap();
        relay.cut_after(1);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut buffer = [0; 8];
        socket.send_to(b"one", relay.address()).unwrap();
        assert!(socket.recv(&mut buffer).is_err());
        assert!(relay.is_cut());
        relay.cut(false);
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.send_to(b"two", relay.address()).unwrap();
        assert_eq!(socket.recv(&mut buffer).unwrap(), 3);
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"end", far).unwrap();
        thread.join().unwrap();
    }
}
