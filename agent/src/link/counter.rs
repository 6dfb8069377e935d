//! A counter that never goes back and needs no room once it exists: a full disk must not keep a device from its controller.
//!
//! The file has two slots, each on a page of its own: u64 number · u32 CRC32C of it, big-endian. The higher whole one counts; the
//! next number overwrites the other in place. A torn write spoils at most the number that was not handed out yet.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::durable;

/// Bytes from one slot to the next: no page, and no sector of any disk, holds both.
const SLOT: usize = 4096;
/// Number and checksum.
const RECORD: usize = 8 + 4;
/// Decimal digits of the form without slots that the first programs wrote.
const DIGITS: usize = 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum CounterError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Neither slot is whole: guessing could repeat a number.
    #[error("neither of its two slots is whole")]
    Damaged,
}

/// Takes the room for the counter, unless it is there. Written out: a file with holes takes its blocks when it is full elsewhere.
pub(super) fn create(path: &Path, mode: u32) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    durable::write(path, &slots(0), mode)
}

/// The next number, on disk before it is returned. The first is 1.
pub(super) fn next(path: &Path, mode: u32) -> Result<u64, CounterError> {
    if let Some(number) = decimal(path)? {
        durable::write(path, &slots(number), mode)?;
    }
    create(path, mode)?;
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let (at, last) = newest(&file)?;
    let next = last.saturating_add(1);
    let other = if at == 0 { SLOT as u64 } else { 0 };
    file.write_all_at(&record(next), other)?;
    file.sync_data()?;
    Ok(next)
}

/// Offset and number of the slot that counts.
fn newest(file: &File) -> Result<(u64, u64), CounterError> {
    let mut found = None;
    for at in [0, SLOT as u64] {
        let mut bytes = [0; RECORD];
        match file.read_exact_at(&mut bytes, at) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => continue,
            Err(e) => return Err(e.into()),
        }
        if let Some(number) = whole(&bytes)
            && found.is_none_or(|(_, best)| number > best)
        {
            found = Some((at, number));
        }
    }
    found.ok_or(CounterError::Damaged)
}

fn record(number: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let (head, tail) = record.split_at_mut(8);
    head.copy_from_slice(&number.to_be_bytes());
    tail.copy_from_slice(&crc32c::crc32c(head).to_be_bytes());
    record
}

fn whole(bytes: &[u8; RECORD]) -> Option<u64> {
    let number = u64::from_be_bytes(*bytes.first_chunk()?);
    // Of zeros the checksum is not zero: a slot that was never written is none.
    (record(number) == *bytes).then_some(number)
}

/// A whole file whose first slot has this number.
fn slots(number: u64) -> Vec<u8> {
    let mut bytes = record(number).to_vec();
    bytes.resize(2 * SLOT, 0);
    bytes
}

fn decimal(path: &Path) -> io::Result<Option<u64>> {
    let bytes = durable::read(path, 2 * SLOT)?.unwrap_or_default();
    let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= DIGITS);
    Ok(text.and_then(|text| text.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn counts_up_in_place_taking_no_more_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session");
        create(&path, 0o600).unwrap();
        let file = File::open(&path).unwrap();
        let before = file.metadata().unwrap();
        assert!(before.blocks() * 512 >= 2 * SLOT as u64, "it has holes");
        for number in 1..10 {
            assert_eq!(next(&path, 0o600).unwrap(), number);
        }
        let after = file.metadata().unwrap();
        // Another file in its place, or a longer one, would need room that a full disk has not.
        assert_eq!((after.nlink(), after.blocks()), (1, before.blocks()));
    }

    /// Whatever a power cut leaves of the last write, no number comes twice.
    #[test]
    fn a_torn_write_repeats_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session");
        for last in [5, 8] {
            while next(&path, 0o600).unwrap() < last - 1 {}
            let before = std::fs::read(&path).unwrap();
            next(&path, 0o600).unwrap();
            let after = std::fs::read(&path).unwrap();
            for cut in 0..=RECORD {
                let mut torn = before.clone();
                for at in [0, SLOT] {
                    torn[at..at + cut].copy_from_slice(&after[at..at + cut]);
                }
                durable::write(&path, &torn, 0o600).unwrap();
                // `last` itself was not handed out while its write was under way.
                let next = next(&path, 0o600).unwrap();
                assert_eq!(next, if cut == RECORD { last + 1 } else { last }, "{cut}");
            }
            durable::write(&path, &after, 0o600).unwrap();
        }
    }

    #[test]
    fn is_never_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session");
        for damaged in [&b"garbage"[..], b"", &[0; 2 * SLOT], &[0xff; 2 * SLOT]] {
            durable::write(&path, damaged, 0o600).unwrap();
            assert!(matches!(next(&path, 0o600), Err(CounterError::Damaged)));
        }
        durable::write(&path, b"41", 0o600).unwrap();
        assert_eq!(next(&path, 0o600).unwrap(), 42);
        assert_eq!(next(&path, 0o600).unwrap(), 43);
    }
}
