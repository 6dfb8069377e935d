//! What time it is, and how far that can be trusted.

use std::time::Duration;

use ensign_apply::Now;
use ensign_bundle::trust::{Clock, Trusted};
use ensign_crypto::PublicKey;

use crate::clock;

/// The wall clock, and the controller's where that vouches for one.
#[derive(Debug, Default)]
pub(super) struct Wall {
    attested: Option<Attested>,
    boot_id: String,
}

/// A time that the controller attested.
#[derive(Debug)]
struct Attested {
    time: u64,
    /// The boot clock then.
    at: Duration,
    /// The timestamp keys of that moment.
    keys: Vec<PublicKey>,
}

impl Wall {
    pub(super) fn new() -> Self {
        Self {
            attested: None,
            boot_id: clock::boot_id(),
        }
    }

    /// Takes an attestation that `trusted` accepted. It never sets the time back: an old one shown again gains nothing.
    /// `at` is the boot clock at its first sight. True = none was known before.
    pub(super) fn attest(&mut self, time: u64, at: Duration, trusted: &Trusted) -> bool {
        let first = self.attested.is_none();
        if self.attested.as_ref().is_none_or(|known| known.carried_to(at) < time) {
            self.attested = Some(Attested {
                time,
                at,
                keys: trusted.root().roles.timestamp.keys.clone(),
            });
        }
        first
    }

    /// Forgets what was attested by keys that are timestamp keys no more; with no trust left, whatever it was. True = something was.
    pub(super) fn follow(&mut self, trusted: Option<&Trusted>) -> bool {
        let before = self.attested.is_some();
        let vouched = |known: &Attested| trusted.is_some_and(|trusted| trusted.vouches(&known.keys));
        self.attested = self.attested.take().filter(vouched);
        before && self.attested.is_none()
    }

    /// Seconds since 1970.
    pub(super) fn unix(&self) -> u64 {
        self.clock().wall()
    }

    pub(super) fn clock(&self) -> Clock {
        let boot = clock::boot();
        Clock {
            now: clock::unix(),
            synchronised: clock::synchronised(),
            attested: self.attested.as_ref().map(|known| known.carried_to(boot)),
        }
    }

    pub(super) fn now(&self) -> Now {
        Now {
            unix_s: self.unix(),
            boot: self.boot_id.clone(),
            boot_ms: u64::try_from(clock::boot().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Attested {
    fn carried_to(&self, boot: Duration) -> u64 {
        self.time.saturating_add(boot.saturating_sub(self.at).as_secs())
    }
}

#[cfg(test)]
mod tests {
    use ensign_bundle::trust::issue::Next as _;

    use super::*;
    use crate::applier::testkit::{key, signed, trusted};

    #[test]
    fn what_was_attested_goes_with_the_key_and_never_back() {
        let (root, mut trusted) = trusted();
        let mut wall = Wall::new();
        assert!(wall.attest(9_000_000_000, clock::boot(), &trusted));
        assert!(!wall.attest(1000, clock::boot(), &trusted), "said once");
        assert!(wall.clock().attested >= Some(9_000_000_000), "an older one again");
        let mut next = root.next(1000).unwrap();
        next.name = "renamed".to_owned();
        trusted.update_root(&signed(&next), 1000).unwrap();
        wall.follow(Some(&trusted));
        assert!(wall.clock().attested.is_some());
        let mut next = next.next(1000).unwrap();
        next.roles.timestamp.keys = vec![key(8).public()];
        trusted.update_root(&signed(&next), 1000).unwrap();
        wall.follow(Some(&trusted));
        assert_eq!(wall.clock().attested, None);
        assert!(wall.attest(2000, clock::boot(), &trusted));
        wall.follow(None);
        assert_eq!(wall.clock().attested, None, "the device left its fleet");
    }
}
