//! Who talks to the applier: the link half on one socket, root's commands on another, the worker and the runner on theirs.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;
use serde::Serialize;

use super::pace::Pace;
use super::shell::{Shell, ShellError};
use super::{admin, intake, report};
use crate::chain::chain;
use crate::clock;
use crate::disk::Disk;
use crate::ipc::socket::{Listener, Peer, Socket, SocketError};
use crate::ipc::{FromApplier, ToAdmin, ToApplier};
use crate::paths::{Paths, sockets};

/// How long a command of root may take to read its answer before it is let go.
const SEND: Duration = Duration::from_secs(5);
/// Commands of root that are connected at once.
const ADMINS: usize = 8;
/// `FileDescriptorName=` of the socket units.
const INHERITED: [&str; 2] = ["applier", "admin"];
/// User of the link half on the machine's own root.
const LINK_USER: &str = "ensign";

#[derive(Debug)]
pub(super) struct Sockets {
    applier: Listener,
    admin: Listener,
    link: Option<Link>,
    pace: Pace,
    admins: Vec<Socket>,
    /// Its end is the parent's.
    parent: Option<OwnedFd>,
}

#[derive(Debug)]
struct Link {
    socket: Socket,
    /// A `Need` is owed, as soon as it is known.
    owed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Applier,
    Admin,
    Link,
    Command(usize),
    Worker,
    Runner,
    Parent,
}

impl Sockets {
    pub(super) fn listen(paths: &Paths, parent: Option<OwnedFd>) -> Result<Self, SocketError> {
        let open = |inherited: &str, name| match Listener::inherited(inherited)? {
            Some(listener) => Ok(listener),
            None => Listener::bind(&paths.run(), name),
        };
        let [applier, admin] = INHERITED;
        Ok(Self {
            applier: open(applier, sockets::APPLIER)?,
            admin: open(admin, sockets::ADMIN)?,
            link: None,
            pace: Pace::new(),
            admins: Vec::new(),
            parent,
        })
    }

    /// How long the link half is not heard.
    pub(super) fn rest(&mut self) -> Option<Duration> {
        self.pace.rest(clock::boot())
    }
}

/// Waits until something happens or the time is over, and takes it. How many things were taken; `None` = the parent is gone.
pub(super) fn wait_and_take(shell: &mut Shell, pause: Option<Duration>) -> Result<Option<usize>, ShellError> {
    let all = wait(shell, pause)?;
    let count = all.len();
    for ready in all {
        match ready {
            Ready::Parent => return Ok(None),
            Ready::Applier => accept_link(shell),
            Ready::Admin => accept_command(shell),
            Ready::Link => take_link(shell)?,
            Ready::Command(at) => take_command(shell, at)?,
            Ready::Worker => shell.take_worker()?,
            Ready::Runner => shell.take_runner()?,
        }
    }
    Ok(Some(count))
}

fn wait(shell: &mut Shell, pause: Option<Duration>) -> Result<Vec<Ready>, ShellError> {
    let rest = shell.sockets.rest();
    let sockets = &shell.sockets;
    let mut watched = vec![
        (Ready::Applier, sockets.applier.as_fd()),
        (Ready::Admin, sockets.admin.as_fd()),
    ];
    watched.extend(sockets.parent.iter().map(|fd| (Ready::Parent, fd.as_fd())));
    // A second request is not read before the first one is answered.
    watched.extend(
        sockets
            .link
            .iter()
            .filter(|l| !l.owed && rest.is_none())
            .map(|l| (Ready::Link, l.socket.as_fd())),
    );
    watched.extend(
        sockets
            .admins
            .iter()
            .enumerate()
            // From the back, so that taking one does not move those before it.
            .rev()
            .map(|(at, socket)| (Ready::Command(at), socket.as_fd())),
    );
    watched.extend(
        shell
            .staging
            .iter()
            .filter(|s| s.need().is_none())
            .map(|s| (Ready::Worker, s.as_fd())),
    );
    watched.extend(shell.runner.fd().map(|fd| (Ready::Runner, fd)));
    let mut polled: Vec<_> = watched
        .iter()
        .map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    // Rounded up: waking a moment early would only mean to wait again.
    let timeout = match pause {
        None => PollTimeout::NONE,
        Some(pause) => {
            PollTimeout::try_from(pause.as_millis().saturating_add(1).min(i32::MAX as u128)).unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(&mut polled, timeout) {
        Ok(_) => {}
        Err(nix::Error::EINTR) => return Ok(Vec::new()),
        Err(e) => return Err(ShellError::Wait(e.into())),
    }
    let ready = polled.iter().zip(&watched).filter(|(p, _)| p.any().unwrap_or(false));
    Ok(ready.map(|(_, (ready, _))| *ready).collect())
}

fn accept_link(shell: &mut Shell) {
    match shell.sockets.applier.accept() {
        Ok((socket, peer)) if may_connect(&shell.paths, peer) => {
            // One that does not read must not keep the trial waiting that is watched meanwhile: it is let go.
            if let Err(error) = socket.nonblocking(true) {
                tracing::warn!(error = %chain(&error), "the link half's connection");
                return;
            }
            // There is one link half; a new connection is its new one.
            shell.sockets.link = Some(Link { socket, owed: false });
        }
        Ok((_, peer)) => tracing::warn!(
            uid = peer.uid,
            pid = peer.pid,
            "a stranger at applier.sock was sent away"
        ),
        Err(error) => tracing::warn!(error = %chain(&error), "accepting on applier.sock"),
    }
}

fn accept_command(shell: &mut Shell) {
    match shell.sockets.admin.accept() {
        Ok((socket, peer)) if may_command(&shell.paths, peer) => {
            if shell.sockets.admins.len() >= ADMINS {
                shell.sockets.admins.remove(0);
            }
            if socket.timeout(Some(SEND)).is_ok() {
                shell.sockets.admins.push(socket);
            }
        }
        Ok((_, peer)) => tracing::warn!(uid = peer.uid, pid = peer.pid, "a stranger at admin.sock was sent away"),
        Err(error) => tracing::warn!(error = %chain(&error), "accepting on admin.sock"),
    }
}

/// Under `--root` the invoking user, else root and the link half's own user.
fn may_connect(paths: &Paths, peer: Peer) -> bool {
    may_command(paths, peer)
        || paths.is_system()
            && nix::unistd::User::from_name(LINK_USER)
                .ok()
                .flatten()
                .is_some_and(|user| user.uid.as_raw() == peer.uid)
}

fn may_command(paths: &Paths, peer: Peer) -> bool {
    if paths.is_system() {
        peer.uid == 0
    } else {
        peer.uid == geteuid().as_raw()
    }
}

fn take_link(shell: &mut Shell) -> Result<(), ShellError> {
    let Some(link) = &mut shell.sockets.link else {
        return Ok(());
    };
    let (message, descriptors) = match link.socket.receive::<ToApplier>() {
        Ok(Some(message)) => message,
        Ok(None) => {
            shell.sockets.link = None;
            return Ok(());
        }
        Err(error) if error.is_timeout() => return Ok(()),
        Err(error) => {
            let refusal = error.refusal();
            tracing::warn!(code = %refusal.code, error = %refusal.text, "the link half's connection ends");
            send(shell, &FromApplier::Refused(refusal));
            shell.sockets.link = None;
            return Ok(());
        }
    };
    link.owed = matches!(message, ToApplier::Offer(_) | ToApplier::Provide { .. });
    if !matches!(message, ToApplier::Hello | ToApplier::Provide { .. }) {
        shell.sockets.pace.took(clock::boot());
    }
    match intake::take(shell, message, descriptors)? {
        // The answer is the state, or a need that may take a while to know.
        Ok(()) if shell.sockets.link.as_ref().is_some_and(|l| l.owed) => {}
        Ok(()) => {
            let state = FromApplier::State(Box::new(report::state(shell)));
            send(shell, &state);
        }
        Err(refusal) => {
            tracing::warn!(code = %refusal.code, error = %refusal.text, "an offer was refused");
            if let Some(link) = &mut shell.sockets.link {
                link.owed = false;
            }
            send(shell, &FromApplier::Refused(refusal));
        }
    }
    Ok(())
}

/// Answers what was asked, once it is known what is lacking. True = it is answered now.
pub(super) fn answer_owed(shell: &mut Shell) -> bool {
    if !shell.sockets.link.as_ref().is_some_and(|l| l.owed) {
        return false;
    }
    let Some(need) = intake::need(shell) else { return false };
    if let Some(link) = &mut shell.sockets.link {
        link.owed = false;
    }
    send(shell, &FromApplier::Need(need));
    true
}

/// Tells the link half that there is something to report.
pub(super) fn tell_link(shell: &mut Shell) {
    if shell.sockets.link.is_some() {
        let state = FromApplier::Changed(Box::new(report::state(shell)));
        send(shell, &state);
    }
}

/// Lets the link half come again: it then offers anew what it has. Not needed where it waits for an answer just now.
pub(super) fn ask_link_again(shell: &mut Shell) {
    if shell.sockets.link.as_ref().is_some_and(|l| !l.owed) {
        shell.sockets.link = None;
    }
}

fn send(shell: &mut Shell, message: &FromApplier) {
    let Some(link) = &shell.sockets.link else { return };
    if let Err(error) = tell(shell.paths.disk(), &link.socket, message) {
        tracing::warn!(error = %chain(&error), "the link half does not listen");
        shell.sockets.link = None;
    }
}

/// Sends what somebody may act on; noted where the order of changes is.
fn tell<T: Serialize>(disk: &Disk, socket: &Socket, message: &T) -> Result<(), SocketError> {
    let bytes = ensign_bundle::codec::encode(message)?;
    disk.told(&bytes);
    socket.send_bytes(&bytes, &[])
}

fn take_command(shell: &mut Shell, at: usize) -> Result<(), ShellError> {
    if at >= shell.sockets.admins.len() {
        return Ok(());
    }
    // Out of the list while it is answered: the command may take a while and change much.
    let socket = shell.sockets.admins.remove(at);
    let answer = match socket.receive::<ToAdmin>() {
        Ok(Some((message, descriptors))) => admin::take(shell, message, descriptors)?,
        Ok(None) => return Ok(()),
        Err(error) => crate::ipc::FromAdmin::Refused(error.refusal()),
    };
    match tell(shell.paths.disk(), &socket, &answer) {
        Ok(()) => shell.sockets.admins.push(socket),
        Err(error) => tracing::debug!(error = %chain(&error), "a command did not wait for its answer"),
    }
    Ok(())
}
