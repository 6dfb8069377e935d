//! The applier's process: one loop that waits, asks the state machine what follows, makes that last, and does it.

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use ensign_apply::{Action, Device, Event, Reality, Stage, Step, Target};
use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::trust::Trusted;
use ensign_bundle::wire::{Phase, Transfer};

use super::checks::Check;
use super::course::{Course, Errand};
use super::identity::{self, Identity};
use super::journal::{self, Journal, Trouble};
use super::offer::{HeldOffer, Leases};
use super::runner_client::RunnerClient;
use super::sockets::Sockets;
use super::staging::{Staging, Unpacking};
use super::trust_store::TrustStore;
use super::wall::Wall;
use super::{collect, generations, labels, sockets};
use crate::clock;
use crate::config;
use crate::ipc::socket::SocketError;
use crate::paths::Paths;

/// Between two questions whether a staged release may switch, while something that passes keeps it from that.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Why the applier ends. It is started again and goes on from its journal.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    #[error(transparent)]
    Journal(#[from] Trouble),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("waiting failed")]
    Wait(#[source] std::io::Error),
    #[error("the pointer {} cannot be moved", path.display())]
    Pointer {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
}

/// What the process gives the shell. A test that runs one in a thread gives other things.
#[derive(Debug)]
pub struct Surroundings {
    /// When its other end closes, the shell ends.
    pub parent: Option<OwnedFd>,
    pub unpacking: Unpacking,
}

/// What a turn of the loop came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something happened.
    Taken,
    /// Nothing did; by itself something will after this time (`None` = nothing will).
    Idle(Option<Duration>),
    /// The parent is gone.
    Over,
}

/// Everything the process knows.
#[derive(Debug)]
pub struct Shell {
    pub(super) paths: Paths,
    pub(super) config: config::Applier,
    pub(super) wall: Wall,
    /// `Err` = it lost steps: nothing is done, nothing is written, what runs goes on running.
    pub(super) journal: Result<Journal, Refusal>,
    pub(super) device: Device,
    pub(super) store: TrustStore,
    /// `None` before enrolment, or where it is lost.
    pub(super) trusted: Option<Trusted>,
    pub(super) degraded: bool,
    pub(super) identity: Option<Identity>,
    /// Why the trust state cannot be used, or who this device is cannot be told.
    pub(super) lost: Option<Refusal>,
    /// The fleet that is being joined.
    pub(super) joining: Option<ensign_bundle::digest::FleetId>,
    pub(super) leases: Leases,
    /// What the link half offered last; gone with a restart, offered again then.
    pub(super) offer: Option<HeldOffer>,
    pub(super) unpacking: Unpacking,
    pub(super) staging: Option<Staging>,
    /// Bytes of the release staged last, without what the worker at work has taken.
    pub(super) transfer: (Digest, Transfer),
    /// Workers of the release being staged that ended on their own.
    pub(super) workers_lost: u32,
    pub(super) prepared: Option<ensign_apply::Prepared>,
    /// Trees that this process staged and verified itself.
    pub(super) fresh: HashSet<Digest>,
    pub(super) course: Option<(Course, Option<Errand>)>,
    pub(super) checks: Option<Vec<Check>>,
    /// When the next round of probes starts, boot clock.
    pub(super) round_at: Option<Duration>,
    /// When to ask again whether to switch.
    pub(super) ask_at: Option<Duration>,
    pub(super) runner: RunnerClient,
    pub(super) labels_changed: bool,
    /// When the link half last showed what the controller signed for this nonce, boot clock. In the trial of a release that asks for the
    /// controller: since the switch.
    pub(super) contact: Option<Duration>,
    pub(super) sockets: Sockets,
    pub(super) todo: VecDeque<Action>,
}

impl Surroundings {
    /// Under a root other than `/`, standard input is the parent's.
    fn of_process(paths: &Paths) -> std::io::Result<Self> {
        let parent = if paths.is_system() {
            None
        } else {
            Some(std::io::stdin().as_fd().try_clone_to_owned()?)
        };
        Ok(Self {
            parent,
            unpacking: Unpacking::Process,
        })
    }
}

impl Shell {
    /// Reads everything, mends what a crash left, and listens.
    pub fn start(paths: Paths, config: config::Applier) -> Result<Self, ShellError> {
        let surroundings = Surroundings::of_process(&paths).map_err(ShellError::Wait)?;
        Self::start_in(surroundings, paths, config)
    }

    /// The same, in other surroundings.
    pub fn start_in(around: Surroundings, paths: Paths, config: config::Applier) -> Result<Self, ShellError> {
        super::directories(&paths)?;
        let sockets = Sockets::listen(&paths, around.parent)?;
        let (journal, device) = match journal::judge(&paths)? {
            (_, None) => {
                let (journal, device) = Journal::open(paths.disk(), &paths.journal())?;
                (Ok(journal), device)
            }
            (known, Some(loss)) => {
                tracing::error!(code = %loss.code, error = %loss.text, "nothing is changed on this device");
                (Err(loss), known)
            }
        };
        let pointed = generations::current(&paths);
        let (store, found, mut lost) = match TrustStore::open(paths.disk(), &paths.trust()) {
            Ok((store, found)) => (store, Some(found), None),
            Err(refusal) => {
                tracing::error!(code = %refusal.code, error = %refusal.text, "the trust state is lost");
                (TrustStore::empty(paths.disk(), &paths.trust()), None, Some(refusal))
            }
        };
        let fleet = found.as_ref().and_then(|f| f.trusted.as_ref()).map(Trusted::fleet);
        let identity = identity::load(&paths, fleet).unwrap_or_else(|refusal| {
            let text = format!("who this device is cannot be read: {}", refusal.text);
            tracing::error!(code = %refusal.code, error = text, "the identity is lost");
            lost.get_or_insert_with(|| Refusal::new(Code::NeedsReprovision, text));
            None
        });
        let degraded = found.as_ref().is_some_and(|f| f.degraded);
        let trusted = found.and_then(|f| f.trusted).filter(|_| identity.is_some());
        let leases = Leases::new().map_err(|e| Refusal::new(Code::Failed, format!("no randomness: {e}")))?;
        let mut shell = Self {
            runner: RunnerClient::new(&paths),
            wall: Wall::new(),
            paths,
            config,
            journal,
            device,
            store,
            trusted,
            degraded,
            identity,
            lost,
            joining: None,
            leases,
            offer: None,
            unpacking: around.unpacking,
            staging: None,
            transfer: (Digest([0; Digest::BYTES]), Transfer::default()),
            workers_lost: 0,
            prepared: None,
            fresh: HashSet::new(),
            course: None,
            checks: None,
            round_at: None,
            ask_at: None,
            labels_changed: false,
            contact: None,
            sockets,
            todo: VecDeque::new(),
        };
        let reality = Reality { current: pointed };
        if shell.journal.is_err() {
            return Ok(shell);
        }
        let before = shell.device.stage.phase();
        let step = std::mem::take(&mut shell.device).resume(reality, &shell.wall.now());
        shell.commit(step, before)?;
        labels::write(&mut shell);
        Ok(shell)
    }

    /// Until the parent is gone, or for ever.
    pub fn run(&mut self) -> Result<(), ShellError> {
        while self.turn(None)? != Turn::Over {}
        Ok(())
    }

    /// Does what is to be done, waits for what happens next, at most so long, and takes it.
    pub fn turn(&mut self, most: Option<Duration>) -> Result<Turn, ShellError> {
        let acted = !self.todo.is_empty();
        self.settle()?;
        let answered = sockets::answer_owed(self);
        let pause = self.pause().into_iter().chain(self.sockets.rest()).min();
        let Some(taken) = sockets::wait_and_take(self, pause.into_iter().chain(most).min())? else {
            return Ok(Turn::Over);
        };
        self.take_time()?;
        Ok(if taken == 0 && !acted && !answered && self.todo.is_empty() {
            Turn::Idle(self.pause().into_iter().chain(self.sockets.rest()).min())
        } else {
            Turn::Taken
        })
    }

    /// Tells the state machine, and notes what it wants done.
    pub(super) fn step(&mut self, event: Event) -> Result<(), ShellError> {
        if self.journal.is_err() {
            return Ok(());
        }
        let now = self.wall.now();
        let before = self.device.stage.phase();
        let step = std::mem::take(&mut self.device).step(event, &now);
        self.commit(step, before)
    }

    /// Persist, then act: the records are on disk before anything is done about them.
    fn commit(&mut self, step: Step, before: Phase) -> Result<(), ShellError> {
        if let Ok(journal) = &mut self.journal {
            journal.append(&step.records, &step.device)?;
        }
        self.device = step.device;
        self.log(&step.records, before);
        self.todo.extend(step.actions);
        Ok(())
    }

    /// Does what is to be done, until nothing is.
    fn settle(&mut self) -> Result<(), ShellError> {
        while let Some(action) = self.todo.pop_front() {
            match action {
                Action::Fetch => self.begin_staging()?,
                Action::AskAgain => self.ask_again()?,
                Action::Switch { from, to } => self.begin_switch(from, to)?,
                Action::Watch => self.begin_watch(),
                Action::SwitchBack { from, to } => self.begin_switch_back(from, to)?,
                Action::Repoint { to } => self.repoint(to)?,
                Action::Report => sockets::tell_link(self),
                Action::Collect => collect::run(self)?,
            }
        }
        self.tell_labels();
        self.forget_what_is_over();
        Ok(())
    }

    /// What belonged to a stage that is over goes with it.
    fn forget_what_is_over(&mut self) {
        if !matches!(self.device.stage, Stage::Fetching(_)) {
            self.staging = None;
            self.prepared = None;
        }
        if !matches!(self.device.stage, Stage::Trial(_)) {
            self.checks = None;
            self.round_at = None;
        }
        if self.device.stage.prepared().is_none() {
            self.ask_at = None;
        }
    }

    /// Timers that have run out.
    fn take_time(&mut self) -> Result<(), ShellError> {
        if self.journal.is_err() {
            return Ok(());
        }
        let now = clock::boot();
        self.runner.retry();
        self.take_silence()?;
        if self.trial_left().is_some_and(|left| left.is_zero()) {
            return self.end_trial();
        }
        if self.round_at.is_some_and(|at| at <= now) && self.course.is_none() {
            self.round_at = None;
            self.begin_round()?;
        }
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_at = None;
            self.ask_again()?;
        }
        if self.device.next_tick_ms(&self.wall.now()) == Some(0) || self.lock_is_over() {
            self.step(Event::Tick)?;
        }
        Ok(())
    }

    /// How long nothing happens by itself.
    fn pause(&self) -> Option<Duration> {
        if self.journal.is_err() {
            return None;
        }
        let now = clock::boot();
        let until = |at: Option<Duration>| at.map(|at| at.saturating_sub(now));
        let tick = self.device.next_tick_ms(&self.wall.now()).map(Duration::from_millis);
        let lock = self
            .device
            .lock
            .as_ref()
            .map(|lock| Duration::from_secs(lock.until.saturating_sub(self.wall.unix())));
        let round = if self.course.is_none() {
            until(self.round_at)
        } else {
            None
        };
        let trial = self.trial_left();
        [
            round,
            until(self.ask_at),
            until(self.runner.retry_at()),
            tick,
            lock,
            trial,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn lock_is_over(&self) -> bool {
        self.device
            .lock
            .as_ref()
            .is_some_and(|lock| lock.until <= self.wall.unix())
    }

    pub(super) fn ask_later(&mut self) {
        self.ask_at = Some(clock::boot() + ASK_AGAIN);
    }

    /// The target of the stage, where the held offer is for it.
    pub(super) fn offered_target(&self) -> Option<(&HeldOffer, &Target)> {
        let offer = self.offer.as_ref()?;
        let target = self.device.stage.target()?;
        (offer.digest == target.plan).then_some((offer, target))
    }

    fn repoint(&mut self, to: u64) -> Result<(), ShellError> {
        tracing::warn!(generation = to, "the pointer was moved; it is mended");
        if let Some(generation) = self.device.generation(to) {
            generations::make(&self.paths, generation).map_err(|e| self.pointer(e))?;
        }
        generations::point(&self.paths, to).map_err(|e| self.pointer(e))
    }

    pub(super) fn pointer(&self, source: std::io::Error) -> ShellError {
        ShellError::Pointer {
            path: self.paths.current(),
            source,
        }
    }

    /// One line for each change of state, with the same field names everywhere.
    fn log(&self, records: &[ensign_apply::Record], before: Phase) {
        let stage = &self.device.stage;
        let phase = stage.phase();
        let moved = phase != before
            || records
                .iter()
                .any(|r| matches!(r, ensign_apply::Record::Waiting { .. }));
        if !moved || records.is_empty() {
            return;
        }
        let target = stage.target();
        tracing::info!(
            state = %Lower(phase),
            product = target.map(|t| tracing::field::display(&t.product)),
            version = target.map(|t| tracing::field::display(&t.version)),
            plan = target.map(|t| tracing::field::display(t.plan)),
            generation = self.device.current,
            code = stage.reason().map(|r| tracing::field::display(r.code)),
            reason = stage.reason().map(|r| r.text.as_str()),
            "state"
        );
    }
}

/// A phase as operators see it.
struct Lower(Phase);

impl std::fmt::Display for Lower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = format!("{:?}", self.0);
        for (at, c) in name.char_indices() {
            if c.is_ascii_uppercase() && at > 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", c.to_ascii_lowercase())?;
        }
        Ok(())
    }
}
