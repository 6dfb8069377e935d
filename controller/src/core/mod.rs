//! The one place where state changes: a thread that owns it, takes jobs in batches, and keeps the order of the house — persist,
//! then act, then tell.
//!
//! ```text
//! jobs of a batch ─▶ state in memory ─▶ plan ─▶ one commit ─▶ sessions are told ─▶ answers of the batch
//! ```
//!
//! Nobody sees memory that is not in the ledger: answers and pushes leave after the commit. When a commit fails, memory and ledger
//! differ and the process ends; its next start begins with what is durable.

mod clones;
mod desired;
mod devices;
mod doubt;
mod enroll;
mod keys;
pub mod load;
mod metadata;
mod online;
mod orders;
mod plans;
mod progress;
mod reconcile;
mod releases;
mod resign;
mod rollouts;
pub mod rows;
mod sessions;
mod start;
mod state;
mod tokens;
mod views;
mod want;

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use ensign_bundle::reason::{Code, Refusal};
use tokio::sync::{oneshot, watch};

use self::rows::key;
use crate::clock;
use crate::store::ledger::{COMMIT_CHANGES, Change, Ledger};

pub use self::devices::Verb;
pub use self::enroll::Asked;
pub use self::online::{Online, listed, timestamp_life};
pub use self::releases::Complete;

pub use self::state::{Parts, State, read_document};
pub use self::want::{Fetch, Leave, Session, Want, Welcomed};

/// Jobs that share one commit.
const BATCH: usize = 512;

type Reply = Box<dyn FnOnce() + Send>;
type Job = Box<dyn FnOnce(&mut State) -> Reply + Send>;

enum Message {
    Job { job: Job, changes: bool },
    Stop,
}

/// Handle of the thread; cheap to clone.
#[derive(Clone)]
pub struct Core {
    jobs: mpsc::Sender<Message>,
    /// Turns true when the thread has ended, for whatever reason.
    ended: watch::Receiver<bool>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Core")
    }
}

impl Core {
    /// Starts the thread. The handle to join gives what the thread ended with.
    pub fn start(state: State, ledger: Arc<dyn Ledger>) -> std::io::Result<(Self, JoinHandle<Result<(), Refusal>>)> {
        let (jobs, inbox) = mpsc::channel();
        let (ending, ended) = watch::channel(false);
        let thread = std::thread::Builder::new().name("core".to_owned()).spawn(move || {
            let result = Keeper { state, ledger, inbox }.run();
            ending.send_replace(true);
            result
        })?;
        Ok((Self { jobs, ended }, thread))
    }

    /// What `look` sees; only what is durable.
    pub async fn read<T, F>(&self, look: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&State) -> T + Send + 'static,
    {
        self.ask(false, move |state| look(state)).await
    }

    /// Performs a change. `change` refuses before it touches anything, or succeeds; its answer arrives once it is durable.
    pub async fn change<T, F>(&self, change: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut State) -> Result<T, Refusal> + Send + 'static,
    {
        self.ask(true, change).await?
    }

    /// Tells something that needs no answer.
    pub fn tell(&self, job: impl FnOnce(&mut State) + Send + 'static) {
        let job: Job = Box::new(move |state| {
            job(state);
            Box::new(|| {})
        });
        // A stopped core has nobody left to tell.
        let _ = self.jobs.send(Message::Job { job, changes: true });
    }

    /// Ends the thread after the jobs that are under way.
    pub fn stop(&self) {
        let _ = self.jobs.send(Message::Stop);
    }

    /// Resolves when the thread has ended.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error means that the sender is gone: ended as well.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    async fn ask<T, F>(&self, changes: bool, job: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&mut State) -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |state| {
            let value = job(state);
            Box::new(move || {
                // Whoever asked may have hung up.
                let _ = answer.send(value);
            })
        });
        let stopping = || Refusal::new(Code::ControllerUnreachable, "the controller is stopping");
        self.jobs.send(Message::Job { job, changes }).map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())
    }
}

/// What the thread owns.
struct Keeper {
    state: State,
    ledger: Arc<dyn Ledger>,
    inbox: mpsc::Receiver<Message>,
}

impl Keeper {
    fn run(mut self) -> Result<(), Refusal> {
        // What was due while nothing ran is due now.
        let mut wake = self.settle(Vec::new())?;
        loop {
            let mut replies = Vec::new();
            let mut changed = false;
            let mut stop = false;
            match self.next(wake) {
                Ok(message) => stop |= self.take(message, &mut replies, &mut changed),
                Err(RecvTimeoutError::Timeout) => changed = true,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            while replies.len() < BATCH && !stop {
                let Ok(message) = self.inbox.try_recv() else { break };
                stop |= self.take(message, &mut replies, &mut changed);
            }
            if changed {
                wake = self.settle(replies)?;
            } else {
                for reply in replies {
                    reply();
                }
            }
            if stop {
                self.state.persist_lazy();
                self.settle(Vec::new())?;
                return Ok(());
            }
        }
    }

    fn next(&self, wake: Option<u64>) -> Result<Message, RecvTimeoutError> {
        match wake {
            Some(at) => {
                // At least a moment: a rule that is due at once and changes nothing must not spin.
                let wait = Duration::from_secs(at.saturating_sub(clock::unix_now())).max(Duration::from_millis(250));
                self.inbox.recv_timeout(wait)
            }
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn take(&mut self, message: Message, replies: &mut Vec<Reply>, changed: &mut bool) -> bool {
        match message {
            Message::Job { job, changes } => {
                self.state.look_at_the_clock();
                replies.push(job(&mut self.state));
                *changed |= changes;
                false
            }
            Message::Stop => true,
        }
    }

    /// Plans, commits, tells: in this order. Returns when to wake up without a message.
    fn settle(&mut self, replies: Vec<Reply>) -> Result<Option<u64>, Refusal> {
        self.state.look_at_the_clock();
        let wake = self.state.reconcile()?;
        for changes in in_commits(self.state.take_changes()) {
            self.ledger.commit(changes).map_err(Refusal::from)?;
            self.state.commits += 1;
        }
        self.state.tell_sessions();
        self.state.rollouts.announce();
        for reply in replies {
            reply();
        }
        Ok(wake)
    }
}

/// One commit, but where a rollout over a very large fleet starts: then its memberships go first and what names them last, so that a
/// crash between two commits leaves rows that nothing refers to.
fn in_commits(changes: Vec<Change>) -> Vec<Vec<Change>> {
    if changes.len() <= COMMIT_CHANGES {
        return if changes.is_empty() { Vec::new() } else { vec![changes] };
    }
    let first = |change: &Change| [key::SLOTS, key::DEVICES].iter().any(|p| change.key.starts_with(p));
    let (members, rest): (Vec<_>, Vec<_>) = changes.into_iter().partition(first);
    let mut commits: Vec<Vec<Change>> = members.chunks(COMMIT_CHANGES).map(<[Change]>::to_vec).collect();
    commits.extend(rest.chunks(COMMIT_CHANGES).map(<[Change]>::to_vec));
    commits
}
