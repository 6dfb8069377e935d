//! Under `--root` the link half starts applier and runner itself, and starts them again when they die.
//!
//! Each child's standard input is a pipe whose other end is here: when this process ends, however it ends, the children see the end of
//! their input and end as well.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::watch;

/// Pause before a child that died is started again, doubled up to [`PAUSE_MAX`] while it dies young.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A child that lived this long was not dying young.
const GROWN: Duration = Duration::from_secs(10);
/// How long a child may take to end after the end of its input.
const FAREWELL: Duration = Duration::from_secs(3);

/// The programs of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Applier,
    Runner,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Self::Applier => "ensign-applier",
            Self::Runner => "ensign-runner",
        }
    }

    /// Beside this process's own executable, else found by PATH.
    pub fn path(self) -> PathBuf {
        std::env::current_exe()
            .ok()
            .and_then(|own| own.parent().map(|dir| dir.join(self.name())))
            .filter(|beside| beside.is_file())
            .unwrap_or_else(|| self.name().into())
    }
}

/// Keeps `program` running until told to stop, then until it has ended.
pub async fn keep_running(program: Program, root: PathBuf, mut stop: watch::Receiver<bool>) {
    let mut pause = PAUSE;
    while !*stop.borrow() {
        let started = crate::clock::boot();
        match spawn(program, &root) {
            Ok(mut child) => {
                // Waiting for a child closes its input if it has it still.
                let lifeline = child.stdin.take();
                tokio::select! {
                    ended = child.wait() => match ended {
                        Ok(status) => tracing::warn!(program = program.name(), %status, "ended; starting it again"),
                        Err(error) => tracing::warn!(program = program.name(), %error, "lost; starting it again"),
                    },
                    () = told(&mut stop) => {
                        drop(lifeline);
                        end(program, child).await;
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::error!(program = %program.path().display(), %error, "cannot be started");
            }
        }
        if crate::clock::boot().saturating_sub(started) >= GROWN {
            pause = PAUSE;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = told(&mut stop) => return,
        }
        pause = PAUSE_MAX.min(pause * 2);
    }
}

/// Waits until this process is to end; the sender being gone means the same.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

fn spawn(program: Program, root: &Path) -> std::io::Result<Child> {
    Command::new(program.path())
        .arg("--root")
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // A group of its own: Ctrl-C reaches this process alone, which ends its children in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Waits for the end of a child whose input has ended.
async fn end(program: Program, mut child: Child) {
    if tokio::time::timeout(FAREWELL, child.wait()).await.is_err() {
        tracing::warn!(program = program.name(), "did not end by itself; killed");
        if let Err(error) = child.kill().await {
            tracing::warn!(program = program.name(), %error, "cannot be killed");
        }
    }
}
