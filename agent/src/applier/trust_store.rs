//! `trust/{a,b}.cbor`: the trust state in two files, written in turn. Each is `u64 be sequence | SHA-256 of the rest | state`; the
//! valid one with the higher sequence counts.

use std::path::{Path, PathBuf};

use ensign_bundle::digest::{Digest, Hasher};
use ensign_bundle::limits;
use ensign_bundle::reason::Refusal;
use ensign_bundle::refuse;
use ensign_bundle::trust::Trusted;

use crate::disk::{self, Disk};
use crate::durable;

const HEADER: usize = 8 + Digest::BYTES;
const MODE: u32 = 0o600;

/// Where the trust state is kept.
#[derive(Debug)]
pub(super) struct TrustStore {
    disk: Disk,
    slots: [PathBuf; 2],
    sequence: u64,
    /// Digest of what is stored: the same again is not written.
    stored: Option<Digest>,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub trusted: Option<Trusted>,
    /// One of the two copies is unusable or not the one before, so the other may be an old one: nothing is installed before a refresh.
    pub degraded: bool,
}

impl TrustStore {
    /// Opens the store. Nothing there at all = not enrolled; copies that are there and all unusable = `needs-reprovision`.
    pub(super) fn open(disk: &Disk, dir: &Path) -> Result<(Self, Found), Refusal> {
        let slots = [dir.join("a.cbor"), dir.join("b.cbor")];
        let mut best: Option<(u64, Digest, Trusted)> = None;
        let (mut broken, mut before) = (0, 0);
        for slot in &slots {
            match read(slot) {
                Ok(None) => {}
                Ok(Some((sequence, digest, trusted))) => {
                    let newest = best.as_ref().map_or(0, |b| b.0);
                    before = newest.min(sequence);
                    if newest < sequence {
                        best = Some((sequence, digest, trusted));
                    }
                }
                Err(refusal) => {
                    tracing::error!(file = %slot.display(), code = %refusal.code, error = %refusal.text, "a copy of the trust state is unusable");
                    broken += 1;
                }
            }
        }
        if best.is_none() && broken > 0 {
            return refuse!(
                NeedsReprovision,
                "no copy of the trust state in {} is usable",
                dir.display()
            );
        }
        let (sequence, stored, trusted) = match best {
            Some((sequence, digest, trusted)) => (sequence, Some(digest), Some(trusted)),
            None => (0, None, None),
        };
        let store = Self {
            disk: disk.clone(),
            slots,
            sequence,
            stored,
        };
        // They are written in turn: from the second state on there are two, one behind the other.
        let degraded = broken > 0 || sequence > 1 && before != sequence - 1;
        Ok((store, Found { trusted, degraded }))
    }

    /// A store whose copies are lost; the next save begins anew.
    pub(super) fn empty(disk: &Disk, dir: &Path) -> Self {
        Self {
            disk: disk.clone(),
            slots: [dir.join("a.cbor"), dir.join("b.cbor")],
            sequence: 0,
            stored: None,
        }
    }

    /// Stores the state, over the older copy, unless it is what is stored. True = written.
    pub(super) fn save(&mut self, trusted: &Trusted) -> Result<bool, Refusal> {
        let state = trusted.encode()?;
        let digest = Digest::of(&state);
        if self.stored == Some(digest) {
            return Ok(false);
        }
        let sequence = self.sequence + 1;
        let [a, b] = &self.slots;
        let slot = if sequence % 2 == 1 { a } else { b };
        let number = sequence.to_be_bytes();
        let sum = Hasher::new().update(&number).update(&state).clone().finish();
        let bytes = [&number[..], &sum.0, &state].concat();
        let written = self.disk.write(slot, &bytes, MODE);
        written.map_err(|e| durable::refusal(slot.display(), &e))?;
        self.sequence = sequence;
        self.stored = Some(digest);
        Ok(true)
    }

    /// Removes both copies.
    pub(super) fn forget(&mut self) -> Result<(), Refusal> {
        for slot in &self.slots {
            let gone = self.disk.remove(slot);
            gone.map_err(|e| durable::refusal(slot.display(), &e))?;
        }
        (self.sequence, self.stored) = (0, None);
        Ok(())
    }
}

fn read(slot: &Path) -> Result<Option<(u64, Digest, Trusted)>, Refusal> {
    let io = |e| durable::refusal(slot.display(), &e);
    let Some(bytes) = disk::read(slot, HEADER + limits::TRUST_STATE_BYTES).map_err(io)? else {
        return Ok(None);
    };
    let Some((header, state)) = bytes.split_at_checked(HEADER) else {
        return refuse!(Malformed, "{} is cut off", slot.display());
    };
    let (number, sum) = header.split_at(8);
    if Hasher::new().update(number).update(state).clone().finish().0 != sum {
        return refuse!(ContentMismatch, "{} is damaged", slot.display());
    }
    let sequence = number.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte));
    Ok(Some((sequence, Digest::of(state), Trusted::decode(state)?)))
}

#[cfg(test)]
mod tests {
    use ensign_bundle::reason::Code;
    use ensign_bundle::trust::issue::Next as _;

    use super::*;
    use crate::applier::testkit;

    /// A state at root 1, and the second root.
    fn trusted() -> (Trusted, Vec<u8>) {
        let (root, trusted) = testkit::trusted();
        (trusted, testkit::signed(&root.next(1000).unwrap()))
    }

    #[test]
    fn e13_what_cannot_be_stored_is_an_error_and_what_was_stored_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (mut trusted, next) = trusted();
        let (mut store, _) = TrustStore::open(&Disk::default(), dir.path()).unwrap();
        assert!(store.save(&trusted).unwrap());
        // A directory with something in it stands where the next copy has to go.
        std::fs::create_dir_all(dir.path().join("b.cbor/in-the-way")).unwrap();
        trusted.update_root(&next, 1000).unwrap();
        assert_eq!(store.save(&trusted).unwrap_err().code, Code::Io);
        assert_eq!(store.save(&trusted).unwrap_err().code, Code::Io, "not forgotten");
        std::fs::remove_dir_all(dir.path().join("b.cbor")).unwrap();
        let (_, found) = TrustStore::open(&Disk::default(), dir.path()).unwrap();
        assert_eq!(found.trusted.unwrap().root().version, 1);
        assert!(store.save(&trusted).unwrap());
        assert!(!store.save(&trusted).unwrap(), "the same again is not written");
        let (_, found) = TrustStore::open(&Disk::default(), dir.path()).unwrap();
        assert_eq!((found.trusted.unwrap().root().version, found.degraded), (2, false));
    }

    #[test]
    fn e63_one_damaged_copy_degrades_and_two_are_no_trust() {
        let dir = tempfile::tempdir().unwrap();
        let (mut trusted, next) = trusted();
        let (mut store, _) = TrustStore::open(&Disk::default(), dir.path()).unwrap();
        store.save(&trusted).unwrap();
        trusted.update_root(&next, 1000).unwrap();
        store.save(&trusted).unwrap();
        let spoil = |name: &str| {
            let path = dir.path().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            durable::write(&path, &bytes, MODE).unwrap();
        };
        spoil("b.cbor");
        let (_, found) = TrustStore::open(&Disk::default(), dir.path()).unwrap();
        assert_eq!((found.trusted.unwrap().root().version, found.degraded), (1, true));
        spoil("a.cbor");
        assert_eq!(
            TrustStore::open(&Disk::default(), dir.path()).unwrap_err().code,
            Code::NeedsReprovision
        );
    }
}
