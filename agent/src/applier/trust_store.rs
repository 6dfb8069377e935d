//! `trust/{a,b}.cbor`: the trust state in two files, written in turn. Each is `u64 be sequence | SHA-256 of the rest | state`; the
//! valid one with the higher sequence counts.

use std::path::{Path, PathBuf};

use ensign_bundle::digest::{Digest, Hasher};
use ensign_bundle::limits;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::Trusted;

use crate::durable;

const HEADER: usize = 8 + Digest::BYTES;
const MODE: u32 = 0o600;

/// Where the trust state is kept.
#[derive(Debug)]
pub(super) struct TrustStore {
    slots: [PathBuf; 2],
    sequence: u64,
    /// Digest of what is stored: the same again is not written.
    stored: Option<Digest>,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub trusted: Option<Trusted>,
    /// One of the two copies is unusable, so the other may be an old one: nothing is installed before a refresh.
    pub degraded: bool,
}

impl TrustStore {
    /// Opens the store. Nothing there at all = not enrolled; copies that are there and all unusable = `needs-reprovision`.
    pub(super) fn open(dir: &Path) -> Result<(Self, Found), Refusal> {
        let slots = [dir.join("a.cbor"), dir.join("b.cbor")];
        let mut best: Option<(u64, Digest, Trusted)> = None;
        let mut broken = 0;
        for slot in &slots {
            match read(slot) {
                Ok(None) => {}
                Ok(Some((sequence, digest, trusted))) => {
                    if best.as_ref().is_none_or(|b| b.0 < sequence) {
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
            slots,
            sequence,
            stored,
        };
        let degraded = broken > 0;
        Ok((store, Found { trusted, degraded }))
    }

    /// A store whose copies are lost; the next save begins anew.
    pub(super) fn empty(dir: &Path) -> Self {
        Self {
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
        durable::write(slot, &bytes, MODE).map_err(|e| Refusal::new(Code::Io, format!("{}: {e}", slot.display())))?;
        self.sequence = sequence;
        self.stored = Some(digest);
        Ok(true)
    }

    /// Removes both copies.
    pub(super) fn forget(&mut self) -> Result<(), Refusal> {
        for slot in &self.slots {
            durable::remove(slot).map_err(|e| Refusal::new(Code::Io, format!("{}: {e}", slot.display())))?;
        }
        self.stored = None;
        Ok(())
    }
}

fn read(slot: &Path) -> Result<Option<(u64, Digest, Trusted)>, Refusal> {
    let io = |e| Refusal::new(Code::Io, format!("{}: {e}", slot.display()));
    let Some(bytes) = durable::read(slot, HEADER + limits::TRUST_STATE_BYTES).map_err(io)? else {
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
