//! A daemon of the product as a child process, with its children.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{PATIENCE, now, pause};

/// How long a daemon may take to stop (5 s at most), doubled for loaded machines.
const STOP: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Process {
    child: Child,
    leave: bool,
}

impl Process {
    /// Starts `command --ready-file READY` in a process group of its own and waits until the file appears.
    pub fn start(mut command: Command, ready: &Path, log: &Path) -> Result<Self> {
        if ready.exists() {
            fs::remove_file(ready)?;
        }
        let log_file = File::options().create(true).append(true).open(log)?;
        command
            .arg("--ready-file")
            .arg(ready)
            .process_group(0)
            .stdin(Stdio::null());
        command.stdout(log_file.try_clone()?).stderr(log_file);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut process = Self { child, leave: false };
        let end = now() + PATIENCE;
        while !ready.exists() {
            if let Some(status) = process.child.try_wait()? {
                bail!(
                    "{command:?} ended with {status}\n{}",
                    fs::read_to_string(log).unwrap_or_default()
                );
            }
            if now() > end {
                bail!(
                    "{command:?} was not ready in {PATIENCE:?}\n{}",
                    fs::read_to_string(log).unwrap_or_default()
                );
            }
            pause(Duration::from_millis(5));
        }
        Ok(process)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// This process and everything below it.
    pub fn tree(&self) -> Vec<u32> {
        tree_of(self.child.id())
    }

    /// SIGKILL to one process of the tree; true when it was this one itself (then it is waited for).
    pub fn kill_one(&mut self, id: u32) -> bool {
        let _ = i32::try_from(id).map(|id| kill(Pid::from_raw(id), Signal::SIGKILL));
        let own = id == self.child.id();
        if own {
            let _ = self.child.wait();
        }
        own
    }

    /// SIGKILL to the whole group.
    pub fn kill_all(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    /// A signal to the whole group.
    pub fn signal(&self, signal: Signal) {
        let _ = i32::try_from(self.child.id()).map(|id| killpg(Pid::from_raw(id), signal));
    }

    /// SIGTERM, and SIGKILL if that does not end it. The exit code where there is one.
    pub fn stop(&mut self) -> Option<i32> {
        let _ = i32::try_from(self.child.id()).map(|id| kill(Pid::from_raw(id), Signal::SIGTERM));
        let end = now() + STOP;
        while now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            pause(Duration::from_millis(10));
        }
        self.kill_all();
        None
    }

    /// Asks the process to end without waiting for it.
    pub fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    /// Leaves it running when dropped.
    pub fn leave(&mut self) {
        self.leave = true;
    }
}

/// A process and everything below it.
pub fn tree_of(id: u32) -> Vec<u32> {
    let (mut all, mut todo) = (Vec::new(), vec![id]);
    while let Some(id) = todo.pop() {
        all.push(id);
        let Ok(tasks) = fs::read_dir(format!("/proc/{id}/task")) else {
            continue;
        };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            todo.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
    }
    all
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.leave && matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
            self.signal(Signal::SIGKILL);
        }
    }
}
