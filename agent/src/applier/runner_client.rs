//! The applier's end of `runner.sock`: one question at a time, asked again until somebody answers.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use crate::clock;
use crate::ipc::socket::{Socket, SocketError};
use crate::ipc::{FromRunner, ToRunner};
use crate::paths::{Paths, sockets};

/// Between two tries to reach the runner: it starts within tens of milliseconds, or again after at most a second.
const RETRY: Duration = Duration::from_millis(200);
/// Longest wait for an answer: the runner's own longest verb takes 180 s. One that hangs longer counts as not there.
const LONGEST: Duration = Duration::from_secs(200);

/// The question being asked.
#[derive(Debug)]
pub(super) struct RunnerClient {
    run: PathBuf,
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    question: ToRunner,
    /// Since when nobody has been reached, boot clock.
    since: Duration,
    /// How often whoever worked on it went away instead of answering.
    losses: u32,
    state: State,
}

/// What came instead of silence.
#[derive(Debug)]
pub(super) enum Heard {
    Answer(FromRunner),
    /// The runner went away over the question, so many times by now. It is asked again unless that is cancelled.
    Lost(u32),
}

#[derive(Debug)]
enum State {
    /// For the answer, until this time.
    Waiting(Socket, Duration),
    /// Not to be tried before this time.
    Unreachable(Duration),
}

impl RunnerClient {
    pub(super) fn new(paths: &Paths) -> Self {
        Self {
            run: paths.run(),
            asked: None,
        }
    }

    pub(super) fn ask(&mut self, question: ToRunner) {
        let state = self.try_send(&question);
        self.asked = Some(Asked {
            question,
            since: clock::boot(),
            losses: 0,
            state,
        });
    }

    /// Forgets the question.
    pub(super) fn cancel(&mut self) {
        self.asked = None;
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Where to wait for the answer.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.asked.as_ref()?.state {
            State::Waiting(socket, _) => Some(socket.as_fd()),
            State::Unreachable(_) => None,
        }
    }

    /// When to try again.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        match &self.asked.as_ref()?.state {
            State::Waiting(_, until) | State::Unreachable(until) => Some(*until),
        }
    }

    /// How long nobody has been reachable.
    pub(super) fn unreachable_for(&self) -> Option<Duration> {
        let asked = self.asked.as_ref()?;
        match asked.state {
            State::Waiting(..) => None,
            State::Unreachable(_) => Some(clock::boot().saturating_sub(asked.since)),
        }
    }

    /// Tries again where nobody was reached.
    pub(super) fn retry(&mut self) {
        if self.retry_at().is_some_and(|at| at <= clock::boot())
            && let Some(mut asked) = self.asked.take()
        {
            asked.state = match asked.state {
                // Hung: its silence is counted from when it was asked.
                State::Waiting(..) => State::Unreachable(clock::boot() + RETRY),
                State::Unreachable(_) => self.try_send(&asked.question),
            };
            self.asked = Some(asked);
        }
    }

    /// The answer, once the descriptor is readable. A runner that went away is asked again.
    pub(super) fn take(&mut self) -> Option<Heard> {
        let asked = self.asked.as_mut()?;
        let State::Waiting(socket, _) = &asked.state else {
            return None;
        };
        if let Ok(Some((answer, _))) = socket.receive::<FromRunner>() {
            self.asked = None;
            return Some(Heard::Answer(answer));
        }
        asked.since = clock::boot();
        asked.losses += 1;
        asked.state = State::Unreachable(clock::boot() + RETRY);
        Some(Heard::Lost(asked.losses))
    }

    fn try_send(&self, question: &ToRunner) -> State {
        let send = || -> Result<Socket, SocketError> {
            let socket = Socket::connect(&self.run, sockets::RUNNER)?;
            socket.send(question, &[])?;
            Ok(socket)
        };
        match send() {
            Ok(socket) => State::Waiting(socket, clock::boot() + LONGEST),
            Err(error) => {
                tracing::debug!(%error, "the runner is not there");
                State::Unreachable(clock::boot() + RETRY)
            }
        }
    }
}
