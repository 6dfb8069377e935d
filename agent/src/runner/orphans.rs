//! What a probe leaves behind outside of its process group: inherited by this process when its parent ends (PR_SET_CHILD_SUBREAPER,
//! prctl(2)), and killed. Any user may do that; no cgroup is needed.

use std::fs;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::clock;

/// How long they may take to be gone, all together. Nothing survives SIGKILL but what hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(2);

/// While this lives, orphans below this process become its children. What a hook started before stays with whoever has it: it is
/// nobody's orphan, or another process's by now.
#[derive(Debug)]
pub(super) struct Orphans {
    /// This process: whose children they become.
    heir: u32,
}

impl Orphans {
    pub(super) fn inherit() -> io::Result<Self> {
        set_child_subreaper(true)?;
        Ok(Self {
            heir: std::process::id(),
        })
    }

    /// Kills and reaps every child of this process's first thread, and what those leave behind, until there is none. The caller has
    /// reaped its own.
    pub(super) fn kill(self) {
        let deadline = clock::boot() + PATIENCE;
        loop {
            let children = children(self.heir);
            if children.is_empty() {
                return;
            }
            for child in &children {
                // A child that was not reaped keeps its number: nobody else is hit.
                let _ = kill(*child, Signal::SIGKILL);
            }
            for child in children {
                reap(child, deadline);
            }
            if clock::boot() >= deadline {
                tracing::warn!("what a probe left behind does not end");
                return;
            }
        }
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        if let Err(error) = set_child_subreaper(false) {
            tracing::warn!(%error, "orphans go on coming here");
        }
    }
}

fn reap(child: Pid, deadline: Duration) {
    let pid = rustix::process::Pid::from_raw(child.as_raw());
    if let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        let left = deadline.saturating_sub(clock::boot()).as_millis();
        let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(&pidfd), PollFlags::POLLIN)];
        // Whatever this says, the next look finds what is left.
        let _ = poll(&mut polled, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    }
    while waitpid(child, Some(WaitPidFlag::WNOHANG)) == Err(Errno::EINTR) {}
}

/// Children of a process's first thread: orphans come to it, and the runner has no other.
fn children(parent: u32) -> Vec<Pid> {
    match fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")) {
        Ok(list) => list.split_whitespace().filter_map(number).collect(),
        // A kernel without CONFIG_PROC_CHILDREN.
        Err(_) => all_with_parent(parent),
    }
}

fn all_with_parent(parent: u32) -> Vec<Pid> {
    let is_child = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // PID (COMMAND) STATE PARENT ..., and a command may hold anything (proc_pid_stat(5)).
        let found = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        found.and_then(|text| text.parse().ok()) == Some(parent)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| number(entry.file_name().to_str()?))
        .filter(is_child)
        .collect()
}

fn number(text: &str) -> Option<Pid> {
    text.parse().ok().map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn children_are_found_without_the_list_of_the_kernel() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(all_with_parent(std::process::id()).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!all_with_parent(std::process::id()).contains(&pid));
    }
}
