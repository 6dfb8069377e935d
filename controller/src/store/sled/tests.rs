use std::io::Write as _;
use std::process::Command;

use ensign_bundle::reason::{Code, Refusal};

use super::super::ledger::Expect;
use super::*;

fn put(key: &str, value: &[u8]) -> Change {
    Change {
        key: key.to_owned(),
        expect: Expect::Any,
        value: Some(value.to_vec()),
    }
}

#[test]
fn reopening_keeps_rows_versions_and_the_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut newest = 0;
    for round in 0_u8..4 {
        let ledger = Sled::open(dir.path()).unwrap();
        assert_eq!(ledger.scan("").unwrap().len(), usize::from(round));
        let key = format!("row/{round}");
        ledger.commit(vec![put(&key, &[round]), put("gone", b"")]).unwrap();
        ledger.commit(vec![Change::delete("gone", Expect::Any)]).unwrap();
        let row = ledger.read(&key).unwrap().unwrap();
        assert!(row.version > newest);
        newest = row.version + 1;
    }
}

#[test]
fn a_second_opening_is_refused_until_the_first_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let first = Sled::open(dir.path()).unwrap();
    assert!(matches!(Sled::open(dir.path()), Err(LedgerError::InUse { .. })));
    drop(first);
    Sled::open(dir.path()).unwrap();
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Sled::open(dir.path()).unwrap();
    ledger.rows.insert(FORMAT_KEY, &(FORMAT + 1).to_be_bytes()).unwrap();
    drop(ledger);
    for _ in 0..2 {
        match Sled::open(dir.path()) {
            Err(LedgerError::VersionUnknown { found, known, .. }) => {
                assert_eq!((found, known), (FORMAT + 1, FORMAT));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_snapshot_that_a_full_disk_cut_short_is_no_damage() {
    for content in [&b""[..], b"the first bytes"] {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Sled::open(dir.path()).unwrap();
        ledger.commit(vec![put("row", b"value")]).unwrap();
        drop(ledger);
        let half = dir.path().join("snap.FFFFFFFFFFFFFF00.generating");
        durable::write(&half, content).unwrap();
        let ledger = Sled::open(dir.path()).unwrap();
        assert_eq!(ledger.read("row").unwrap().unwrap().value, b"value");
        assert!(!half.exists());
    }
}

/// A small file system of its own. Unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    /// `None` where this user may not mount.
    fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=700"), "ensign-small"])
            .arg(dir.path())
            .output();
        match out {
            Ok(out) if out.status.success() => Some(Self(dir)),
            _ => {
                // Past the capture of the test's output, so that a run says what it left out.
                let line = b"SKIPPED: a ledger on a full disk was NOT tested; no small file system here\n";
                io::stderr().write_all(line).unwrap();
                None
            }
        }
    }

    /// Takes every free byte; given back when the file is removed.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("ballast");
        let mut ballast = File::create(&path).unwrap();
        for bytes in [1 << 16, 1] {
            while ballast.write_all(&vec![7; bytes]).is_ok() {}
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// Commits until the disk is full. What was acknowledged is there when there is room again, whatever was tried meanwhile.
#[test]
fn a_full_disk_is_said_so_and_over_when_there_is_room_again() {
    let Some(small) = Small::mount(24 << 20) else { return };
    let dir = small.0.path().join("ledger");
    let ledger = Sled::open(&dir).unwrap();
    ledger.commit(vec![put("first", b"value")]).unwrap();
    let ballast = small.fill();
    let mut kept = 0;
    let refused = loop {
        match ledger.commit(vec![put(&format!("row/{kept:04}"), &[1; 4000])]) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 10_000, "the disk is never full");
    };
    let refusal = Refusal::from(refused);
    assert_eq!(refusal.code, Code::NoSpace, "{refusal}");
    assert!(refusal.text.contains("bytes are free"), "{refusal}");
    drop(ledger);
    // Starts on a full disk fail and say why, or succeed; none of them does harm.
    for _ in 0..3 {
        if let Err(error) = Sled::open(&dir) {
            let refusal = Refusal::from(error);
            assert_eq!(refusal.code, Code::NoSpace, "{refusal}");
            assert!(refusal.text.contains("bytes are free"), "{refusal}");
        }
    }
    fs::remove_file(ballast).unwrap();
    let ledger = Sled::open(&dir).unwrap();
    assert_eq!(ledger.read("first").unwrap().unwrap().value, b"value");
    assert!(ledger.scan("row/").unwrap().len() >= kept);
    ledger.commit(vec![put("last", b"value")]).unwrap();
}

#[test]
fn a_foreign_sled_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = sled::open(dir.path()).unwrap();
    foreign.insert("key", "value").unwrap();
    foreign.flush().unwrap();
    drop(foreign);
    // Its own threads may hold the files for a moment longer.
    let end = crate::clock::monotonic() + std::time::Duration::from_secs(10);
    let refused = loop {
        match Sled::open(dir.path()) {
            Err(corrupt @ LedgerError::Corrupt { .. }) => break Some(corrupt),
            Ok(_) => break None,
            Err(_) if crate::clock::monotonic() > end => break None,
            Err(_) => std::thread::yield_now(),
        }
    };
    assert!(refused.is_some());
}

/// The newest row of a ledger of several segments is gone or unreadable: that must not look like an older ledger.
#[test]
fn a_log_that_lost_acknowledged_commits_is_refused() {
    for damage in [forget_everything as fn(&Path), cut_the_log, overwrite_the_log] {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Sled::open(dir.path()).unwrap();
        for i in 0..200 {
            ledger.commit(vec![put(&format!("row/{i:03}"), &[1; 4000])]).unwrap();
        }
        drop(ledger);
        damage(dir.path());
        match Sled::open(dir.path()) {
            Err(LedgerError::Corrupt { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn forget_everything(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with(ACKNOWLEDGED) {
            fs::remove_file(path).unwrap();
        }
    }
}

fn remove_snapshots(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().as_encoded_bytes().starts_with(b"snap.") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn cut_the_log(dir: &Path) {
    remove_snapshots(dir);
    let db = File::options().write(true).open(dir.join("db")).unwrap();
    db.set_len(db.metadata().unwrap().len() / 2).unwrap();
}

fn overwrite_the_log(dir: &Path) {
    remove_snapshots(dir);
    let db = File::options().write(true).open(dir.join("db")).unwrap();
    let len = db.metadata().unwrap().len();
    let garbage = vec![0xA5; usize::try_from(len / 2).unwrap()];
    db.write_all_at(&garbage, len - len / 2).unwrap();
}

#[test]
fn an_acknowledged_file_of_somebody_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Sled::open(dir.path()).unwrap());
    for content in ["hello", "not sixteen digits", "zzzzzzzzzzzzzzzz\n"] {
        durable::write(&dir.path().join(ACKNOWLEDGED), content.as_bytes()).unwrap();
        assert!(
            matches!(Sled::open(dir.path()), Err(LedgerError::Corrupt { .. })),
            "{content}"
        );
    }
}

#[test]
fn an_acknowledged_file_that_lost_its_number_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Sled::open(dir.path()).unwrap();
    ledger.commit(vec![put("row", b"value")]).unwrap();
    drop(ledger);
    durable::write(&dir.path().join(ACKNOWLEDGED), b"").unwrap();
    assert!(matches!(Sled::open(dir.path()), Err(LedgerError::Corrupt { .. })));
}

#[test]
fn large_rows_survive_and_their_pages_are_synced() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Sled::open(dir.path()).unwrap();
    for i in 0..40 {
        ledger
            .commit(vec![put(&format!("large/{i}"), &vec![7; 60_000])])
            .unwrap();
    }
    let large = fs::read_dir(dir.path().join("blobs")).unwrap().count();
    assert!(large > 0, "rows this large make pages of their own files");
    assert!(!ledger.disk.synced_blobs.lock().unwrap().is_empty());
    drop(ledger);
    let rows = Sled::open(dir.path()).unwrap().scan("large/").unwrap();
    assert_eq!(rows.len(), 40);
    assert!(rows.iter().all(|(_, row)| row.value == vec![7; 60_000]));
}
