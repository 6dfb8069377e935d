//! A program run to its end or to the end of its time, whatever it does meanwhile.

use std::fs::File;
use std::io::{self, PipeReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ensign_bundle::text::printable;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::orphans::Orphans;
use crate::clock;

/// Held while a program runs.
static ONE: Mutex<()> = Mutex::new(());
/// Added to the score by which the kernel chooses whom to end; 1000 is all memory there is.
const OOM_SCORE: &str = "500";
/// Output that is kept, bytes: the end of it.
const TAIL_BYTES: usize = 4 << 10;
/// Characters of the last line that is reported.
const LINE_CHARS: usize = 300;

/// Tries to start a program whose file is still open for writing somewhere, and the pause between them.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What happens to processes that the program left behind when it ends in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftovers {
    /// A probe leaves nothing behind.
    Kill,
    /// A hook starts services.
    Keep,
}

/// How long a program may run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'a> {
    pub time: Duration,
    /// Closed by the other side when this process is to end: the program ends at once then.
    pub parent: Option<BorrowedFd<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Exited(ExitStatus),
    /// It and its process group were killed.
    TimedOut,
    /// They were killed because this process is to end.
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub ended: Ended,
    /// Harmless to print; empty if it said nothing.
    pub last_line: String,
}

/// Runs `command` in a process group of its own, without input, within `bounds`.
///
/// Output goes to a pipe where leftovers are killed, so that it is bounded, and to a nameless file where they stay, so that they
/// do not die of a closed pipe.
pub(super) fn run(command: &mut Command, bounds: Bounds<'_>, leftovers: Leftovers) -> io::Result<Outcome> {
    command.stdin(Stdio::null()).process_group(0);
    // One at a time: who inherits orphans is a property of the whole process.
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    match leftovers {
        Leftovers::Kill => run_piped(command, bounds),
        Leftovers::Keep => run_filed(command, bounds),
    }
}

fn run_piped(command: &mut Command, bounds: Bounds<'_>) -> io::Result<Outcome> {
    let (mut reader, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    command.stdout(writer.try_clone()?).stderr(writer);
    // Who leaves the group (setsid) is inherited by this process when its parent ends, and found.
    let orphans = Orphans::inherit()?;
    let mut child = spawn(command)?;
    put_in_front(&child);
    // The command keeps its ends of the pipe: without them gone the end of output would never come.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = Tail::default();
    let ended = wait(&child, bounds, Some(&mut reader), &mut tail);
    // Before the leader is reaped, while nobody else can have its number.
    kill_group(&child);
    let status = child.wait()?;
    orphans.kill();
    tail.drain(&mut reader);
    Ok(outcome(ended?, status, tail.last_line()))
}

fn run_filed(command: &mut Command, bounds: Bounds<'_>) -> io::Result<Outcome> {
    let mut output = tempfile::tempfile()?;
    command.stdout(output.try_clone()?).stderr(output.try_clone()?);
    let mut child = spawn(command)?;
    let ended = wait(&child, bounds, None, &mut Tail::default());
    if !matches!(ended, Ok(None)) {
        kill_group(&child);
    }
    let status = child.wait()?;
    Ok(outcome(ended?, status, last_line_of(&mut output)?))
}

/// Starts it. A file that was just written may for a moment still be open in a process that forked meanwhile (ETXTBSY).
fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            done => return done,
        }
    }
}

fn outcome(early: Option<Ended>, status: ExitStatus, last_line: String) -> Outcome {
    Outcome {
        ended: early.unwrap_or(Ended::Exited(status)),
        last_line,
    }
}

/// Waits until the child is a zombie (None) or must be killed, reading its output meanwhile.
fn wait(
    child: &Child,
    bounds: Bounds<'_>,
    mut reader: Option<&mut PipeReader>,
    tail: &mut Tail,
) -> io::Result<Option<Ended>> {
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = clock::boot() + bounds.time;
    loop {
        let left = deadline.saturating_sub(clock::boot());
        if left.is_zero() {
            return Ok(Some(Ended::TimedOut));
        }
        let ready = {
            let mut descriptors = vec![pidfd.as_fd()];
            descriptors.extend(bounds.parent);
            descriptors.extend(reader.as_ref().map(|r| r.as_fd()));
            ready(&descriptors, left)?
        };
        if ready.first() == Some(&true) {
            return Ok(None);
        }
        if bounds.parent.is_some() && ready.get(1) == Some(&true) {
            return Ok(Some(Ended::Stopped));
        }
        if let Some(open) = &mut reader
            && !tail.drain(open)
        {
            // All writers are gone; a closed pipe is always ready and would spin.
            reader = None;
        }
    }
}

/// Which of the descriptors became ready within `left`; nothing where a signal came in between.
fn ready(descriptors: &[BorrowedFd<'_>], left: Duration) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = descriptors
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    // Rounded up, so that the last millisecond does not spin.
    let millis = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
    match poll(&mut polled, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
        Err(nix::Error::EINTR) => return Ok(Vec::new()),
        done => done?,
    };
    Ok(polled.iter().map(|p| p.any().unwrap_or(false)).collect())
}

/// Where memory runs out, the program goes, not the runner that judges it (`oom_score_adj`, proc(5)).
fn put_in_front(child: &Child) {
    let path = format!("/proc/{}/oom_score_adj", child.id());
    let raised = File::options()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(OOM_SCORE.as_bytes()));
    if let Err(error) = raised {
        tracing::debug!(%error, "a program stays as dear as the runner");
    }
}

fn kill_group(child: &Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // ESRCH: nobody is left.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

/// The last bytes of some output.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    /// Takes what is there without waiting. False at the end of the output.
    fn drain(&mut self, reader: &mut PipeReader) -> bool {
        let mut buffer = [0; TAIL_BYTES];
        // Bounded: a program that prints faster than this reads must not keep the deadline from being looked at.
        for _ in 0..64 {
            match reader.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => self.push(buffer.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..surplus);
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("");
        printable(line.trim(), LINE_CHARS)
    }
}

fn last_line_of(file: &mut File) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES as u64)))?;
    let mut tail = Tail::default();
    file.take(TAIL_BYTES as u64).read_to_end(&mut tail.0)?;
    Ok(tail.last_line())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Killed: gone, or a zombie that its new parent has not yet reaped.
    pub(in crate::runner) fn gone(pid: &str) -> bool {
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(") ").next()?.chars().next()
        };
        let deadline = clock::boot() + Duration::from_secs(20);
        while !matches!(state(), None | Some('Z' | 'X')) {
            if clock::boot() > deadline {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }
}
