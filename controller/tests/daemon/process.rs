//! The daemon as a process: what it ends with, and what a kill leaves behind.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use ensign_api::Missing;
use ensign_bundle::digest::Digest;
use hyper::Method;
use serde_json::json;

use crate::fleet::{Client, Fleet, batch};

const BINARY: &str = env!("CARGO_BIN_EXE_ensign-controller");
const BYTES: &str = "application/octet-stream";

fn serve(program: Command, fleet: &Fleet, listen: SocketAddr) -> Command {
    let mut command = program;
    command
        .args(["serve", "--listen", &listen.to_string()])
        .arg("--data")
        .arg(fleet.data())
        .arg("--kit")
        .arg(fleet.kit())
        .stderr(Stdio::piped());
    command
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Exit code 33, the code's name, the value in the way, a hint.
fn assert_conflict(output: &Output, code: &str, value: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(33), "{text}");
    let error = text
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or_default();
    assert!(error.contains(&format!("({code})")) && error.contains(value), "{text}");
    assert!(text.contains("\nhint: stop the other process"), "{text}");
}

#[test]
fn a_port_that_is_taken_ends_the_start() {
    let fleet = Fleet::new();
    let udp = UdpSocket::bind(any()).unwrap();
    let address = udp.local_addr().unwrap();
    let output = serve(Command::new(BINARY), &fleet, address).output().unwrap();
    assert_conflict(&output, "port-in-use", &format!("{address} (UDP)"));
    let tcp = TcpListener::bind(any()).unwrap();
    let address = tcp.local_addr().unwrap();
    let output = serve(Command::new(BINARY), &fleet, address).output().unwrap();
    assert_conflict(&output, "port-in-use", &format!("{address} (TCP)"));
    let mut monitored = serve(Command::new(BINARY), &fleet, any());
    monitored.args(["--metrics-listen", &address.to_string()]);
    assert_conflict(&monitored.output().unwrap(), "port-in-use", &format!("{address} (TCP)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_another_serves_ends_the_start() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let output = serve(Command::new(BINARY), &fleet, any()).output().unwrap();
    assert_conflict(&output, "in-use", &fleet.data().join("ledger").display().to_string());
    running.stop().await.unwrap();
}

/// A daemon that listens, killed when it is dropped.
struct Daemon {
    child: Child,
    address: SocketAddr,
}

impl Daemon {
    fn start(program: Command, fleet: &Fleet) -> Self {
        let mut child = serve(program, fleet, any()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let address = lines.find_map(|line| {
            let (_, rest) = line.split_once("listening")?;
            let (_, address) = rest.split_once("address=")?;
            address.split_whitespace().next()?.parse().ok()
        });
        // Whoever does not read its log holds it up.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address: address.expect("it listens"),
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// What it writes is its own, whatever the shell that started it allows.
#[test]
fn nobody_else_reads_the_ledger() {
    use std::os::unix::fs::PermissionsExt as _;
    let fleet = Fleet::new();
    let mut open = Command::new("sh");
    open.args(["-c", "umask 000; exec \"$0\" \"$@\"", BINARY]);
    let daemon = Daemon::start(open, &fleet);
    let mut seen = 0;
    for entry in std::fs::read_dir(fleet.data().join("ledger")).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", entry.path().display());
        seen += 1;
    }
    assert!(seen > 1, "the ledger has files");
    daemon.kill();
}

fn blobs(round: u32, count: u32) -> Vec<(Digest, Vec<u8>)> {
    let blob = |n: u32| {
        let bytes = Digest::of(&[round.to_be_bytes(), n.to_be_bytes()].concat())
            .0
            .repeat(300);
        (Digest::of(&bytes), bytes)
    };
    (0..count).map(blob).collect()
}

async fn missing(client: &Client, blobs: &[(Digest, Vec<u8>)]) -> Vec<Digest> {
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let answer = client.post("/v1/blobs/missing", &json!({ "digests": digests })).await;
    answer.json::<Missing>().missing
}

fn stored(fleet: &Fleet, digest: &Digest) -> std::path::PathBuf {
    let name = digest.to_string();
    fleet.data().join("blobs").join(&name[..2]).join(&name[2..])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_an_upload_leaves_whole_blobs_and_the_next_try_ends_it() {
    let fleet = Fleet::new();
    let mut acknowledged = Vec::new();
    for round in 0..5_u32 {
        let daemon = Daemon::start(Command::new(BINARY), &fleet);
        let client = Client::new(daemon.address, &fleet);
        assert_eq!(missing(&client, &acknowledged).await, []);
        let unfinished = fleet.data().join("blobs/incoming");
        assert_eq!(std::fs::read_dir(unfinished).unwrap().count(), 0);
        let done = blobs(2 * round, 5 + round);
        assert_eq!(client.post_bytes("/v1/blobs", &batch(&done)).await.status, 200);
        acknowledged.extend(done);

        let cut = blobs(2 * round + 1, 400);
        let body = batch(&cut);
        let upload = tokio::spawn(async move { client.try_call(Method::POST, "/v1/blobs", BYTES, body).await });
        // Somewhere between its first byte and its answer.
        let first = fleet.data().join("blobs/incoming");
        while !upload.is_finished() && std::fs::read_dir(&first).unwrap().count() < 50 * round as usize {
            tokio::task::yield_now().await;
        }
        daemon.kill();
        let answered = upload.await.unwrap().is_ok();

        let daemon = Daemon::start(Command::new(BINARY), &fleet);
        let client = Client::new(daemon.address, &fleet);
        let left = missing(&client, &cut).await;
        assert!(!answered || left.is_empty(), "round {round}: acknowledged and gone");
        for (digest, bytes) in &cut {
            // What is not asked for again is there as a whole.
            if !left.contains(digest) {
                assert_eq!(std::fs::read(stored(&fleet, digest)).unwrap(), *bytes);
            }
        }
        assert_eq!(client.post_bytes("/v1/blobs", &batch(&cut)).await.status, 200);
        assert_eq!(missing(&client, &cut).await, []);
        acknowledged.extend(cut);
        daemon.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_synced_before_it_is_acknowledged() {
    let fleet = Fleet::new();
    let out = fleet.dir.path().join("trace");
    let strace = |program: &str| {
        let mut command = Command::new("strace");
        let calls =
            "trace=write,pwrite64,writev,sendto,sendmsg,fsync,fdatasync,syncfs,rename,renameat,renameat2,linkat";
        command
            .args(["-f", "-yy", "-qq", "-s", "300", "-e", calls, "-o"])
            .arg(&out)
            .arg(program);
        command
    };
    let probe = strace("true").stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        // Not `eprintln!`, which the harness hides while tests pass.
        let skipped = "SKIPPED: strace is not installed or not permitted; the syncs of uploads were NOT checked\n";
        std::io::stderr().write_all(skipped.as_bytes()).unwrap();
        return;
    }
    let daemon = Daemon::start(strace(BINARY), &fleet);
    let client = Client::new(daemon.address, &fleet);
    // One by one, and together.
    for (round, count) in [(0, 1), (1, 3), (2, 40)] {
        let uploaded = client.post_bytes("/v1/blobs", &batch(&blobs(round, count))).await;
        assert_eq!(uploaded.status, 200);
    }
    nix::sys::signal::kill(traced(&daemon), nix::sys::signal::Signal::SIGTERM).unwrap();
    let mut child = daemon.child;
    assert!(child.wait().unwrap().success());
    check_trace(&std::fs::read_to_string(&out).unwrap(), &fleet.data().join("blobs"), 3);
}

/// The daemon under strace, which hands on no signals of ours.
fn traced(daemon: &Daemon) -> nix::unistd::Pid {
    let children = format!("/proc/{0}/task/{0}/children", daemon.child.id());
    let children = std::fs::read_to_string(children).unwrap();
    nix::unistd::Pid::from_raw(children.split_whitespace().next().unwrap().parse().unwrap())
}

/// Each answer to an upload comes after a sync of what was written and a sync of the names it got.
fn check_trace(trace: &str, blobs: &Path, uploads: usize) {
    let under = blobs.display().to_string();
    // What is not on disk yet: content and names.
    let (mut content, mut names, mut uploaded, mut answers) = (false, false, false, 0);
    let mut begun = std::collections::BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let resumed = call.strip_prefix("<... ").and_then(|_| begun.remove(thread));
        let ended = resumed.is_some();
        let what: &str = resumed.unwrap_or(call);
        if call.ends_with("<unfinished ...>") {
            begun.insert(thread, call);
            // A write counts from its begin, a sync from its end.
            if what.contains("sync") {
                continue;
            }
        } else if ended && !what.contains("sync") {
            continue;
        }
        let is_sync = what.starts_with("fsync(") || what.starts_with("fdatasync(") || what.starts_with("syncfs(");
        if what.starts_with("write(") && what.contains(&format!("<{under}/incoming/")) {
            (content, uploaded) = (true, true);
        } else if what.starts_with("rename") && what.contains(&under) {
            assert!(!content, "a name before the content is synced: {line}");
            names = true;
        } else if is_sync && call.trim_end().ends_with("= 0") && what.contains(&under) {
            if what.starts_with("syncfs(") {
                (content, names) = (false, false);
            } else if what.contains("/incoming/") {
                content = false;
            } else {
                names = false;
            }
        } else if uploaded && what.contains("<TCP:[") {
            assert!(!content && !names, "an answer before its sync: {line}");
            uploaded = false;
            answers += 1;
        }
    }
    assert_eq!(answers, uploads, "{trace}");
}
