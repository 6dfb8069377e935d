//! What every ledger and every blob store must do: one suite, run against each of them.

use std::collections::BTreeSet;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Barrier;

use ensign_bundle::digest::Digest;
use serde::{Deserialize, Serialize};

use super::blobs::{Blob, BlobError, BlobStore};
use super::files::Files;
use super::ledger::{COMMIT_CHANGES, Change, Expect, KEY_BYTES, Ledger, LedgerError, Row, Typed, VALUE_BYTES};
use super::memory::{MemoryBlobs, MemoryLedger};
use super::sled::Sled;

/// Makes a test of each function for each backend; `$open` gets an empty directory.
macro_rules! suite {
    ($backend:ident, $open:expr, $($test:ident),* $(,)?) => {
        mod $backend {
            use super::*;
            $(
                #[test]
                fn $test() {
                    let dir = tempfile::tempdir().unwrap();
                    super::$test(&$open(dir.path()));
                }
            )*
        }
    };
}

macro_rules! ledgers {
    ($($backend:ident: $open:expr;)*) => {
        $(suite!($backend, $open,
            a_row_is_written_only_over_the_version_expected,
            a_commit_is_all_or_nothing,
            a_conflict_names_the_first_row_that_differs,
            versions_never_come_back,
            rows_of_one_commit_share_its_version,
            keys_are_ordered_by_their_bytes,
            a_prefix_finds_its_keys_alone,
            limits_hold,
            an_empty_commit_is_nothing,
            typed_rows_round_trip,
            concurrent_counters_lose_nothing,
            readers_see_whole_commits,
        );)*
    };
}

macro_rules! blob_stores {
    ($($backend:ident: $open:expr;)*) => {
        $(suite!($backend, $open,
            a_blob_comes_back_as_it_went_in,
            content_with_another_digest_is_refused,
            one_wrong_blob_of_many_stores_none,
            an_upload_is_stored_under_its_digest,
            an_upload_that_is_dropped_or_too_long_leaves_nothing,
            missing_keeps_the_order,
            removed_blobs_are_missing,
            reading_has_a_limit,
            many_writers_of_one_blob_agree,
        );)*
    };
}

ledgers! {
    memory_ledger: |_| MemoryLedger::new();
    sled_ledger: |dir| Sled::open(dir).unwrap();
}

blob_stores! {
    memory_blobs: |_| MemoryBlobs::new();
    file_blobs: |dir| Files::open(dir).unwrap();
}

fn put(key: &str, value: &[u8], expect: Expect) -> Change {
    Change {
        key: key.to_owned(),
        expect,
        value: Some(value.to_vec()),
    }
}

fn version(ledger: &dyn Ledger, key: &str) -> Option<u64> {
    ledger.read(key).unwrap().map(|row| row.version)
}

fn a_row_is_written_only_over_the_version_expected(ledger: &dyn Ledger) {
    let conflict = |expect| {
        let result = ledger.commit(vec![put("k", b"x", expect)]);
        assert!(
            matches!(result, Err(LedgerError::Conflict { .. })),
            "{expect}: {result:?}"
        );
    };
    assert_eq!(ledger.read("k").unwrap(), None);
    conflict(Expect::Version(1));
    ledger.commit(vec![put("k", b"1", Expect::Absent)]).unwrap();
    let first = version(ledger, "k").unwrap();
    conflict(Expect::Absent);
    conflict(Expect::Version(first + 1));
    ledger.commit(vec![put("k", b"2", Expect::Version(first))]).unwrap();
    conflict(Expect::Version(first));
    ledger.commit(vec![put("k", b"3", Expect::Any)]).unwrap();
    assert_eq!(ledger.read("k").unwrap().unwrap().value, b"3");
    ledger.commit(vec![Change::delete("k", Expect::Any)]).unwrap();
    assert_eq!(ledger.read("k").unwrap(), None);
    ledger.commit(vec![Change::delete("k", Expect::Absent)]).unwrap();
}

fn a_commit_is_all_or_nothing(ledger: &dyn Ledger) {
    ledger
        .commit(vec![put("b", b"old", Expect::Absent), put("c", b"old", Expect::Absent)])
        .unwrap();
    let before = ledger.scan("").unwrap();
    let result = ledger.commit(vec![
        put("a", b"new", Expect::Absent),
        put("b", b"new", Expect::Any),
        Change::delete("c", Expect::Any),
        put("d", b"new", Expect::Version(7)),
    ]);
    assert!(matches!(result, Err(LedgerError::Conflict { .. })));
    assert_eq!(ledger.scan("").unwrap(), before);
}

fn a_conflict_names_the_first_row_that_differs(ledger: &dyn Ledger) {
    ledger.commit(vec![put("z", b"", Expect::Absent)]).unwrap();
    let result = ledger.commit(vec![
        put("a", b"", Expect::Absent),
        put("z", b"", Expect::Absent),
        put("b", b"", Expect::Version(3)),
    ]);
    match result {
        Err(LedgerError::Conflict { key, expected, found }) => {
            assert_eq!(
                (key.as_str(), expected, found),
                ("z", Expect::Absent, version(ledger, "z"))
            );
        }
        other => panic!("{other:?}"),
    }
}

fn versions_never_come_back(ledger: &dyn Ledger) {
    let mut newest = 0;
    for round in 0_u8..5 {
        ledger.commit(vec![put("k", &[round], Expect::Absent)]).unwrap();
        let version = version(ledger, "k").unwrap();
        assert!(version > newest, "{version} after {newest}");
        newest = version;
        ledger
            .commit(vec![Change::delete("k", Expect::Version(version))])
            .unwrap();
    }
}

fn rows_of_one_commit_share_its_version(ledger: &dyn Ledger) {
    ledger
        .commit(vec![put("a", b"", Expect::Absent), put("b", b"", Expect::Absent)])
        .unwrap();
    ledger.commit(vec![put("c", b"", Expect::Absent)]).unwrap();
    assert_eq!(version(ledger, "a"), version(ledger, "b"));
    assert!(version(ledger, "c") > version(ledger, "b"));
}

fn keys_are_ordered_by_their_bytes(ledger: &dyn Ledger) {
    let keys = ["a", "a/", "a/1", "a/10", "a/2", "a0", "b", "é", "日"];
    let changes = keys.iter().rev().map(|key| put(key, b"", Expect::Absent)).collect();
    ledger.commit(changes).unwrap();
    let found: Vec<_> = ledger.scan("").unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, keys);
}

fn a_prefix_finds_its_keys_alone(ledger: &dyn Ledger) {
    let keys = [
        "device",
        "device/1",
        "device/2",
        "device0",
        "devices/1",
        "devic",
        "rollout/1",
    ];
    ledger
        .commit(
            keys.iter()
                .map(|key| put(key, key.as_bytes(), Expect::Absent))
                .collect(),
        )
        .unwrap();
    let found = ledger.scan("device/").unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|(key, row)| (key.as_str(), row.value.as_slice()))
        .collect();
    assert_eq!(found, [("device/1", &b"device/1"[..]), ("device/2", b"device/2")]);
    assert!(ledger.scan("x").unwrap().is_empty());
    assert_eq!(
        ledger.scan("").unwrap().len(),
        keys.len(),
        "nothing of the ledger's own"
    );
    assert!(ledger.scan("\0").unwrap().is_empty());
    assert_eq!(ledger.read("\0commit").unwrap(), None);
}

fn limits_hold(ledger: &dyn Ledger) {
    let longest = "k".repeat(KEY_BYTES);
    let largest = vec![7; VALUE_BYTES];
    ledger.commit(vec![put(&longest, &largest, Expect::Absent)]).unwrap();
    assert_eq!(ledger.read(&longest).unwrap().unwrap().value, largest);

    for key in ["", "a\0b", "\0", "a\nb", &"k".repeat(KEY_BYTES + 1)] {
        let result = ledger.commit(vec![put(key, b"", Expect::Any)]);
        assert!(matches!(result, Err(LedgerError::KeyRefused { .. })), "{key:?}");
    }
    let result = ledger.commit(vec![put("k", &[0; VALUE_BYTES + 1], Expect::Any)]);
    assert!(matches!(result, Err(LedgerError::ValueTooLarge { bytes, .. }) if bytes == VALUE_BYTES + 1));
    let result = ledger.commit(vec![put("k", b"", Expect::Any), Change::delete("k", Expect::Any)]);
    assert!(matches!(result, Err(LedgerError::KeyTwice { .. })));
    let many = (0..=COMMIT_CHANGES)
        .map(|i| put(&i.to_string(), b"", Expect::Any))
        .collect();
    assert!(matches!(ledger.commit(many), Err(LedgerError::TooManyChanges { .. })));
    assert_eq!(ledger.scan("").unwrap().len(), 1);
}

fn an_empty_commit_is_nothing(ledger: &dyn Ledger) {
    ledger.commit(Vec::new()).unwrap();
    assert!(ledger.scan("").unwrap().is_empty());
}

fn typed_rows_round_trip(ledger: &dyn Ledger) {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Device {
        name: String,
        seen: Option<u64>,
    }
    let device = Device {
        name: "door-7".to_owned(),
        seen: Some(3),
    };
    ledger
        .commit(vec![Change::put("device/1", &device, Expect::Absent).unwrap()])
        .unwrap();
    let stored = ledger.read_as::<Device>("device/1").unwrap().unwrap();
    assert_eq!(
        (Some(stored.version), &stored.value),
        (version(ledger, "device/1"), &device)
    );
    let all = ledger.scan_as::<Device>("device/").unwrap();
    assert_eq!(all, [("device/1".to_owned(), stored)]);
    assert_eq!(ledger.read_as::<Device>("device/2").unwrap(), None);
    let other = ledger.read_as::<Vec<u64>>("device/1");
    assert!(matches!(other, Err(LedgerError::Value { key, .. }) if key == "device/1"));
}

/// Each of 8 threads adds to the same two counters with compare-and-set; both hold the sum, and each row of the log is there.
fn concurrent_counters_lose_nothing(ledger: &dyn Ledger) {
    const THREADS: u64 = 8;
    const EACH: u64 = 25;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for i in 0..EACH {
                    while !add_one(ledger, &format!("log/{thread}/{i}")) {}
                }
            });
        }
    });
    for counter in ["left", "right"] {
        assert_eq!(ledger.read_as::<u64>(counter).unwrap().unwrap().value, THREADS * EACH);
    }
    assert_eq!(ledger.scan("log/").unwrap().len() as u64, THREADS * EACH);
}

fn add_one(ledger: &dyn Ledger, log: &str) -> bool {
    let mut changes = vec![put(log, b"", Expect::Absent)];
    for counter in ["left", "right"] {
        let stored = ledger.read_as::<u64>(counter).unwrap();
        let value = stored.as_ref().map_or(0, |stored| stored.value) + 1;
        let expect = Expect::unchanged(stored.map(|stored| stored.version));
        changes.push(Change::put(counter, &value, expect).unwrap());
    }
    match ledger.commit(changes) {
        Ok(()) => true,
        Err(LedgerError::Conflict { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A scan sees each commit of many rows whole, while commits go on.
fn readers_see_whole_commits(ledger: &dyn Ledger) {
    const ROWS: usize = 40;
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            for round in 0_u8..40 {
                let rows = (0..ROWS).map(|i| put(&format!("row/{i:02}"), &[round], Expect::Any));
                ledger.commit(rows.collect()).unwrap();
            }
        });
        start.wait();
        loop {
            let rows = ledger.scan("row/").unwrap();
            let values: BTreeSet<_> = rows.iter().map(|(_, Row { value, .. })| value).collect();
            assert!(values.len() <= 1, "rows of several commits: {values:?}");
            assert!(rows.is_empty() || rows.len() == ROWS);
            if values.first() == Some(&&vec![39]) {
                break;
            }
        }
    });
}

const KIB: usize = 1 << 10;

fn some_blobs(count: u8) -> Vec<(Digest, Vec<u8>)> {
    (0..count)
        .map(|i| vec![i; usize::from(i) * KIB])
        .map(|bytes| (Digest::of(&bytes), bytes))
        .collect()
}

fn borrowed(blobs: &[(Digest, Vec<u8>)]) -> Vec<(Digest, &[u8])> {
    blobs
        .iter()
        .map(|(digest, bytes)| (*digest, bytes.as_slice()))
        .collect()
}

fn a_blob_comes_back_as_it_went_in(store: &dyn BlobStore) {
    // Few are synced one by one, many together.
    for count in [3, 30] {
        let blobs = some_blobs(count);
        store.put_many(&borrowed(&blobs)).unwrap();
        for (digest, bytes) in &blobs {
            assert_eq!(store.read(*digest, u64::MAX).unwrap().as_ref(), Some(bytes));
            let Blob { len, mut content } = store.get(*digest).unwrap().unwrap();
            assert_eq!(len, bytes.len() as u64);
            let from = len / 2;
            content.seek(SeekFrom::Start(from)).unwrap();
            let mut rest = Vec::new();
            content.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, bytes[usize::try_from(from).unwrap()..]);
        }
        let mut digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        digests.sort_unstable();
        assert_eq!(store.list().unwrap(), digests);
    }
}

fn content_with_another_digest_is_refused(store: &dyn BlobStore) {
    let named = Digest::of(b"announced");
    let put = store.put(named, b"sent");
    let mut upload = store.begin(100).unwrap();
    upload.write(b"sent").unwrap();
    for result in [put, upload.finish(named).map(drop)] {
        match result {
            Err(BlobError::Mismatch { expected, found }) => {
                assert_eq!((expected, found), (named, Digest::of(b"sent")));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(store.list().unwrap().is_empty());
}

fn one_wrong_blob_of_many_stores_none(store: &dyn BlobStore) {
    let mut blobs = some_blobs(12);
    blobs[11].1[0] ^= 1;
    assert!(matches!(
        store.put_many(&borrowed(&blobs)),
        Err(BlobError::Mismatch { .. })
    ));
    assert!(store.list().unwrap().is_empty());
}

fn an_upload_is_stored_under_its_digest(store: &dyn BlobStore) {
    let bytes = vec![9; 100 * KIB];
    let digest = Digest::of(&bytes);
    for _ in 0..2 {
        let mut upload = store.begin(bytes.len() as u64).unwrap();
        for piece in bytes.chunks(7 * KIB) {
            upload.write(piece).unwrap();
        }
        assert_eq!(upload.finish(digest).unwrap(), bytes.len() as u64);
        assert_eq!(store.read(digest, u64::MAX).unwrap().as_ref(), Some(&bytes));
        assert!(store.contains(digest).unwrap());
    }
}

fn an_upload_that_is_dropped_or_too_long_leaves_nothing(store: &dyn BlobStore) {
    let mut upload = store.begin(4).unwrap();
    upload.write(b"1234").unwrap();
    assert!(matches!(upload.write(b"5"), Err(BlobError::TooLarge { max: 4 })));
    drop(upload);
    assert!(store.list().unwrap().is_empty());
    assert!(!store.contains(Digest::of(b"1234")).unwrap());
}

fn missing_keeps_the_order(store: &dyn BlobStore) {
    let blobs = some_blobs(6);
    store.put_many(&borrowed(&blobs[2..4])).unwrap();
    let asked: Vec<_> = blobs.iter().rev().map(|(digest, _)| *digest).collect();
    let missing: Vec<_> = [5, 4, 1, 0].iter().map(|i: &usize| blobs[*i].0).collect();
    assert_eq!(store.missing(&asked).unwrap(), missing);
}

fn removed_blobs_are_missing(store: &dyn BlobStore) {
    let digest = Digest::of(b"blob");
    assert!(!store.remove(digest).unwrap());
    store.put(digest, b"blob").unwrap();
    assert!(store.remove(digest).unwrap());
    assert!(!store.contains(digest).unwrap());
    assert!(store.get(digest).unwrap().is_none());
    assert_eq!(store.read(digest, 100).unwrap(), None);
    store.put(digest, b"blob").unwrap();
    assert!(store.contains(digest).unwrap());
}

fn reading_has_a_limit(store: &dyn BlobStore) {
    let digest = Digest::of(b"12345");
    store.put(digest, b"12345").unwrap();
    assert!(matches!(store.read(digest, 4), Err(BlobError::TooLarge { max: 4 })));
    assert_eq!(store.read(digest, 5).unwrap().unwrap(), b"12345");
}

fn many_writers_of_one_blob_agree(store: &dyn BlobStore) {
    let blobs = some_blobs(10);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                store.put_many(&borrowed(&blobs)).unwrap();
                let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
                for digest in digests {
                    assert!(store.read(digest, u64::MAX).unwrap().is_some());
                }
            });
        }
    });
    let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
    assert!(store.missing(&digests).unwrap().is_empty());
}
