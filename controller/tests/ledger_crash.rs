//! The embedded ledger against kills, and its syncs as the kernel sees them.
//!
//! The process that commits is this test binary itself, started again to run [`committer`] alone.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ensign_controller::store::ledger::{Change, Expect, Ledger as _, Typed as _};
use ensign_controller::store::sled::Sled;

const DIR: &str = "ENSIGN_TEST_LEDGER";
const THREADS: &str = "ENSIGN_TEST_THREADS";
const COMMITS: &str = "ENSIGN_TEST_COMMITS";

const KILLS: u32 = 20;
/// Rows of its log that each thread keeps: older ones are deleted, so that sled has something to collect.
const KEPT: u64 = 50;

/// Commits from several threads, and says `ack THREAD NUMBER` on standard output after each.
#[test]
#[ignore = "run as a process of its own by the tests below"]
fn committer() {
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let ledger = Sled::open(Path::new(&std::env::var_os(DIR).unwrap())).unwrap();
    let (threads, commits) = (number(THREADS), number(COMMITS));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let ledger = &ledger;
            scope.spawn(move || {
                let last = ledger.read_as::<u64>(&format!("last/{thread}")).unwrap();
                let first = last.map_or(0, |last| last.value) + 1;
                for i in first..first + commits {
                    ledger.commit(changes(thread, i)).unwrap();
                    // One write call, so that the trace shows it whole.
                    std::io::stdout()
                        .write_all(format!("ack {thread} {i}\n").as_bytes())
                        .unwrap();
                }
            });
        }
    });
}

/// The commit `i` of a thread: its number, a row of its log, and the end of an old one.
fn changes(thread: u64, i: u64) -> Vec<Change> {
    let log = |i| format!("log/{thread}/{i:08}");
    let mut changes = vec![
        Change::put(format!("last/{thread}"), &i, Expect::Any).unwrap(),
        Change::put(log(i), &vec![i; 20], Expect::Absent).unwrap(),
    ];
    if i > KEPT {
        changes.push(Change::delete(log(i - KEPT), Expect::Any));
    }
    changes
}

fn start(mut command: Command, dir: &Path, threads: u64, commits: u64) -> Child {
    command
        .args(["--exact", "committer", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(THREADS, threads.to_string())
        .env(COMMITS, commits.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn parse_ack(line: &str) -> Option<(u64, u64)> {
    // The harness writes the test's name without a newline before the first.
    let (_, ack) = line.rsplit_once("ack ")?;
    let (thread, i) = ack.split_once(' ')?;
    Some((thread.parse().ok()?, i.trim_end().parse().ok()?))
}

#[test]
fn every_acknowledged_commit_survives_a_kill() {
    const THREADS: u64 = 4;
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::<u64, u64>::new();
    for kill in 0..KILLS {
        let mut child = start(
            Command::new(std::env::current_exe().unwrap()),
            dir.path(),
            THREADS,
            1 << 40,
        );
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acks_until_kill = getrandom::u32().unwrap() % 200;
        let mut newest = |line: &str| {
            let ack = parse_ack(line);
            if let Some((thread, i)) = ack {
                acknowledged.insert(thread, i);
            }
            ack.is_some()
        };
        while acks_until_kill > 0 {
            let line = lines.next().expect("the child commits until it is killed").unwrap();
            acks_until_kill -= u32::from(newest(&line));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts too; a line that the kill cut short does not parse or is an older number.
        for line in lines.map_while(Result::ok) {
            newest(&line);
        }
        check(dir.path(), &acknowledged, kill);
    }
    assert!(!acknowledged.is_empty());
}

fn check(dir: &Path, acknowledged: &BTreeMap<u64, u64>, kill: u32) {
    let ledger = Sled::open(dir).unwrap();
    for (thread, acknowledged) in acknowledged {
        let last = ledger
            .read_as::<u64>(&format!("last/{thread}"))
            .unwrap()
            .map(|last| last.value);
        let last = last.unwrap_or(0);
        assert!(
            last >= *acknowledged,
            "kill {kill}: {last} is there, {acknowledged} was acknowledged"
        );
        // Whole commits: the log is exactly what the number says.
        let log = ledger.scan_as::<Vec<u64>>(&format!("log/{thread}/")).unwrap();
        let found: Vec<_> = log.iter().map(|(_, row)| row.value[0]).collect();
        let expected: Vec<_> = (last.saturating_sub(KEPT) + 1..=last).collect();
        assert_eq!(found, expected, "kill {kill}");
    }
}

#[test]
fn each_acknowledgement_comes_after_a_sync_of_the_log() {
    const COMMITS: u64 = 40;
    let Some(calls) = trace(1, COMMITS) else { return };
    // A sync covers what was written before it began.
    let (mut written, mut covered, mut synced, mut acks) = (false, false, false, 0);
    for call in &calls {
        match call {
            Call::Write => (written, covered, synced) = (true, false, false),
            Call::SyncBegan => covered = written,
            Call::Sync => synced = covered,
            Call::Ack => {
                assert!(synced, "acknowledgement {acks} came before its sync: {calls:?}");
                acks += 1;
                (written, covered, synced) = (false, false, false);
            }
        }
    }
    assert_eq!(acks, COMMITS);
}

#[test]
fn commits_that_wait_share_a_sync() {
    const THREADS: u64 = 8;
    const COMMITS: u64 = 40;
    let Some(calls) = trace(THREADS, COMMITS) else { return };
    let count = |wanted| calls.iter().filter(|call| **call == wanted).count() as u64;
    let (acks, syncs) = (count(Call::Ack), count(Call::Sync));
    assert_eq!(acks, THREADS * COMMITS);
    assert!(
        syncs > 0 && syncs < acks / 2,
        "{syncs} syncs for {acks} commits of {THREADS} threads"
    );
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// Something was written to the file `db`.
    Write,
    SyncBegan,
    /// A sync of the file `db` has succeeded.
    Sync,
    Ack,
}

/// What a committer asks of the kernel, in order; nothing if this machine cannot trace.
fn trace(threads: u64, commits: u64) -> Option<Vec<Call>> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("trace");
    let strace = |program: &Path| {
        let mut command = Command::new("strace");
        command
            .args([
                "-f",
                "-y",
                "-qq",
                "-e",
                "trace=fsync,fdatasync,sync_file_range,write,pwrite64",
                "-o",
            ])
            .arg(&out)
            .arg(program);
        command
    };
    let probe = strace(Path::new("true")).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        // Not `eprintln!`, which the harness hides while tests pass.
        let skipped = "SKIPPED: strace is not installed or not permitted; the syncs of the ledger were NOT checked\n";
        std::io::stderr().write_all(skipped.as_bytes()).unwrap();
        return None;
    }
    let ledger = dir.path().join("ledger");
    let child = start(strace(&std::env::current_exe().unwrap()), &ledger, threads, commits);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(parse_trace(&std::fs::read_to_string(&out).unwrap(), &ledger.join("db")))
}

/// Calls when they ended; a sync also when it began, an acknowledgement only then.
fn parse_trace(text: &str, db: &Path) -> Vec<Call> {
    let of_db = format!("<{}>", db.display());
    let mut unfinished = BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let (begun, result) = if let Some(resumed) = call.strip_prefix("<... ") {
            match unfinished.remove(thread) {
                Some(begun) => (begun, resumed),
                None => continue,
            }
        } else {
            if call.starts_with("write(1<") && call.contains("\"ack ") {
                calls.push(Call::Ack);
                continue;
            }
            if call.contains(&of_db) && is_sync(call) {
                calls.push(Call::SyncBegan);
            }
            if call.ends_with("<unfinished ...>") {
                unfinished.insert(thread, call);
                continue;
            }
            (call, call)
        };
        if !begun.contains(&of_db) {
            continue;
        }
        if is_sync(begun) && result.trim_end().ends_with("= 0") {
            calls.push(Call::Sync);
        } else if begun.starts_with("pwrite64(") {
            calls.push(Call::Write);
        }
    }
    calls
}

fn is_sync(call: &str) -> bool {
    call.starts_with("fsync(") || call.starts_with("fdatasync(")
}
