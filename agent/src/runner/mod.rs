//! The runner: the few verbs that need privileges, and nothing else. One small synchronous process without network.
//!
//! It believes only its own configuration: which units it may touch stands in root's `agent.toml`, paths are resolved inside the
//! live component, and whatever it starts ends with its time.

mod child;
mod exec;
mod net;
mod orphans;
mod unit;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use ensign_bundle::reason::{Code, Refusal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::chain::chain;
use crate::config::{Config, ConfigError, Reader};
use crate::ipc::socket::{Listener, Socket, SocketError};
use crate::ipc::{FromRunner, ToRunner};
use crate::paths::{Paths, sockets};

/// `FileDescriptorName=` of the socket unit.
const INHERITED: &str = "runner";

#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the user {uid} may not connect, only {allowed}")]
    Peer { uid: u32, allowed: u32 },
    #[error("waiting failed")]
    Wait(#[from] nix::Error),
    #[error("run/ensign cannot be made")]
    Directory(#[source] io::Error),
}

/// What the runner does, whoever asks.
#[derive(Debug)]
pub struct Runner {
    paths: Paths,
    units: Vec<String>,
    probe_hosts: Vec<String>,
    /// `unit-not-managed` was logged.
    said_not_managed: bool,
}

impl Runner {
    pub fn new(paths: Paths, config: &Config) -> Self {
        Self {
            paths,
            units: config.runner.units.clone(),
            probe_hosts: config.runner.probe_hosts.clone(),
            said_not_managed: false,
        }
    }

    /// Performs one verb. Bounded in time by the verb's own limit, and by the end of `parent`.
    pub fn perform(&mut self, request: &ToRunner, parent: Option<BorrowedFd<'_>>) -> FromRunner {
        match request {
            ToRunner::Unit { verb, name } => {
                let answer = unit::perform(&self.paths, &self.units, *verb, name, parent);
                if answer == FromRunner::NotManaged && !self.said_not_managed {
                    self.said_not_managed = true;
                    tracing::warn!(
                        code = "unit-not-managed",
                        unit = name,
                        "no hook manages units under this root"
                    );
                }
                answer
            }
            ToRunner::Exec {
                component,
                args,
                product,
                version,
                timeout_s,
            } => exec::perform(
                &self.paths,
                &exec::Probe {
                    component,
                    args,
                    product,
                    version,
                    timeout_s: *timeout_s,
                },
                parent,
            ),
            ToRunner::Tcp { address, timeout_s } => net::tcp(&self.probe_hosts, address, *timeout_s),
            ToRunner::Http { url, timeout_s } => net::http(&self.probe_hosts, url, *timeout_s),
            ToRunner::LabelsChanged => unit::labels_changed(&self.paths, parent),
        }
    }
}

/// `ensign-runner`: serves until its parent's end of standard input closes.
pub fn main(paths: &Paths) -> ExitCode {
    match serve(paths) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(&error), "the runner ends");
            ExitCode::FAILURE
        }
    }
}

fn serve(paths: &Paths) -> Result<(), RunnerError> {
    let config = Config::load(paths, Reader::Runner)?;
    crate::durable::create_dir(&paths.run(), 0o755).map_err(RunnerError::Directory)?;
    let listener = match Listener::inherited(INHERITED)? {
        Some(listener) => listener,
        None => Listener::bind(&paths.run(), sockets::RUNNER)?,
    };
    crate::sandbox::runner();
    let mut runner = Runner::new(paths.clone(), &config);
    let parent = (!paths.is_system()).then(io::stdin);
    while ready(listener.as_fd(), parent.as_ref().map(AsFd::as_fd))? {
        let (socket, peer) = listener.accept()?;
        let answered = allowed(paths, peer.uid)
            .and_then(|()| conversation(&socket, &mut runner, parent.as_ref().map(AsFd::as_fd)));
        match answered {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => tracing::warn!(error = %chain(&error), "a connection to the runner ended"),
        }
    }
    Ok(())
}

/// Answers one connection until it closes. False = the parent is gone.
fn conversation(socket: &Socket, runner: &mut Runner, parent: Option<BorrowedFd<'_>>) -> Result<bool, RunnerError> {
    while ready(socket.as_fd(), parent)? {
        let Some((request, _)) = socket.receive::<ToRunner>()? else {
            return Ok(true);
        };
        tracing::debug!(?request, "asked");
        let answer = runner.perform(&request, parent);
        if is_over(parent)? {
            // Whatever ran was stopped by this process: that it did not succeed says nothing, and must not be taken for an answer.
            break;
        }
        socket.send(&answer, &[])?;
    }
    Ok(false)
}

/// Whether the parent's end is closed.
fn is_over(parent: Option<BorrowedFd<'_>>) -> Result<bool, RunnerError> {
    let Some(parent) = parent else { return Ok(false) };
    let mut polled = [PollFd::new(parent, PollFlags::POLLIN)];
    loop {
        match poll(&mut polled, PollTimeout::ZERO) {
            Err(nix::Error::EINTR) => {}
            done => return Ok(done? > 0),
        }
    }
}

/// Waits for `fd`. False when the parent's end closed first.
fn ready(fd: BorrowedFd<'_>, parent: Option<BorrowedFd<'_>>) -> Result<bool, RunnerError> {
    let mut polled = vec![PollFd::new(fd, PollFlags::POLLIN)];
    polled.extend(parent.map(|p| PollFd::new(p, PollFlags::POLLIN)));
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            done => done?,
        };
        if polled.get(1).and_then(PollFd::any).unwrap_or(false) {
            return Ok(false);
        }
        if polled.first().and_then(PollFd::any).unwrap_or(false) {
            return Ok(true);
        }
    }
}

/// Only the applier's user: under `--root` everybody is the invoking user; on the machine's own root the socket's mode and group
/// let in the applier alone (systemd sets them), so that root and it remain.
fn allowed(paths: &Paths, uid: u32) -> Result<(), RunnerError> {
    let own = nix::unistd::geteuid().as_raw();
    let may = if paths.is_system() {
        uid == 0
            || nix::unistd::User::from_name("ensign-applier")
                .ok()
                .flatten()
                .is_some_and(|user| user.uid.as_raw() == uid)
    } else {
        uid == own
    };
    may.then_some(()).ok_or(RunnerError::Peer { uid, allowed: own })
}

fn failed(text: impl Into<String>) -> FromRunner {
    FromRunner::Failed { text: text.into() }
}

fn refused(code: Code, text: impl Into<String>) -> FromRunner {
    FromRunner::Refused(Refusal::new(code, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::UnitVerb;

    /// What was stopped in the middle did not fail: an answer that says so would count against the release.
    #[test]
    fn nothing_is_answered_once_the_parent_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::create_dir_all(paths.unit_hook().parent().unwrap()).unwrap();
        let hook = b"#!/bin/sh\n: > \"$ENSIGN_ROOT/hangs\"\nexec sleep 1000\n";
        crate::durable::write(&paths.unit_hook(), hook, 0o755).unwrap();
        let mut runner = Runner::new(paths, &Config::default());
        let (parent, other_end) = io::pipe().unwrap();
        let hangs = dir.path().join("hangs");
        let stop = std::thread::spawn(move || {
            while !hangs.exists() {
                std::thread::yield_now();
            }
            drop(other_end);
        });
        let (applier, served) = Socket::pair().unwrap();
        let request = ToRunner::Unit {
            verb: UnitVerb::Start,
            name: "web.service".to_owned(),
        };
        applier.send(&request, &[]).unwrap();
        assert!(!conversation(&served, &mut runner, Some(parent.as_fd())).unwrap());
        stop.join().unwrap();
        drop(served);
        assert!(applier.receive::<FromRunner>().unwrap().is_none());
    }
}
