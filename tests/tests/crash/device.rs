//! A whole device in one thread: the shell, its worker, its runner, and the link half that drives it. Nothing waits: when nobody has
//! anything to do, the boot clock goes ahead.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ensign_agent::applier::unpack::Worker;
use ensign_agent::applier::{Shell, Surroundings, Turn, Unpacking};
use ensign_agent::chain::chain;
use ensign_agent::clock;
use ensign_agent::config::{Config, Reader};
use ensign_agent::disk::Disk;
use ensign_agent::ipc::socket::{Listener, Socket, SocketError};
use ensign_agent::ipc::{
    FromAdmin, FromApplier, FromRunner, Need, Offer, OfferedRollout, Piece, State, ToAdmin, ToApplier, ToRunner,
};
use ensign_agent::paths::{Paths, sockets};
use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::statement::seal;
use ensign_bundle::wire::{DocKind, Phase};
use ensign_crypto::{PublicKey, Signature, aad};
use ensign_testkit::fleet::{FLEET, Fleet, Release};
use ensign_testkit::key;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use crate::tape::Tape;

/// Turns of the shell until something must have come of it.
const TURNS: usize = 20_000;
/// Connections of the link half until an update must be over.
const SESSIONS: usize = 8;
/// How long the real program may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Probes of this version fail.
pub(crate) const BAD: &str = "9.0.0";

/// A rollout as the controller brings it.
#[derive(Clone)]
pub(crate) struct Rollout {
    pub(crate) documents: Vec<(DocKind, Vec<u8>)>,
    pub(crate) plan: Vec<u8>,
    pub(crate) wave: CutWave,
    pub(crate) blobs: HashMap<Digest, Vec<u8>>,
}

pub(crate) struct Device {
    pub(crate) paths: Paths,
    /// Where it is noted what its driver does.
    pub(crate) tape: Option<Arc<Tape>>,
    applier: Applier,
    runner: Listener,
    asking: Vec<Socket>,
    turns: usize,
}

enum Applier {
    Here(Box<Here>),
    /// The real program.
    Process(Child),
}

struct Here {
    shell: Shell,
    disk: Disk,
    handed: Receiver<Socket>,
    workers: Vec<Worker>,
}

pub(crate) struct Link {
    socket: Socket,
    pub(crate) state: State,
}

impl Device {
    /// Starts on what is there.
    pub(crate) fn start(paths: Paths) -> Result<Self> {
        let runner = listen(&paths)?;
        let (to, handed) = channel();
        let around = Surroundings {
            parent: None,
            unpacking: Unpacking::Handed(to),
        };
        let config = Config::load(&paths, Reader::Applier)?.applier;
        let shell = Shell::start_in(around, paths.clone(), config).map_err(|e| anyhow::anyhow!(chain(&e)))?;
        let here = Here {
            shell,
            disk: paths.disk().clone(),
            handed,
            workers: Vec::new(),
        };
        Ok(Self::of(paths, Applier::Here(Box::new(here)), runner))
    }

    /// Starts the real program with this command.
    pub(crate) fn spawn(paths: Paths, command: &mut Command) -> Result<Self> {
        let runner = listen(&paths)?;
        let child = command.stdin(Stdio::piped()).spawn()?;
        Ok(Self::of(paths, Applier::Process(child), runner))
    }

    fn of(paths: Paths, applier: Applier, runner: Listener) -> Self {
        Self {
            paths,
            tape: None,
            applier,
            runner,
            asking: Vec::new(),
            turns: 0,
        }
    }

    /// Lets the real program end.
    pub(crate) fn end(self) -> Result<()> {
        if let Applier::Process(mut child) = self.applier {
            drop(child.stdin.take());
            ensure!(child.wait()?.success(), "the applier failed");
        }
        Ok(())
    }

    /// Everybody does what they can do now. Where that is nothing, time passes.
    fn turn(&mut self) -> Result<()> {
        let asked = self.serve_runner()?;
        let here = match &mut self.applier {
            Applier::Here(here) => here,
            Applier::Process(child) => {
                ensure!(child.try_wait()?.is_none(), "the applier is gone");
                std::thread::yield_now();
                return Ok(());
            }
        };
        self.turns += 1;
        ensure!(self.turns < TURNS, "the device comes to no end");
        let served = here.serve_workers()? | asked;
        let turn = here
            .shell
            .turn(Some(Duration::ZERO))
            .map_err(|e| anyhow::anyhow!(chain(&e)))?;
        match turn {
            Turn::Idle(Some(time)) if !served => clock::go_ahead(time),
            Turn::Idle(None) if !served => bail!("nothing will ever happen"),
            _ => {}
        }
        Ok(())
    }

    fn serve_runner(&mut self) -> Result<bool> {
        let mut served = false;
        while let Some((socket, _)) = unless_waiting(self.runner.accept())? {
            socket.nonblocking(true)?;
            self.asking.push(socket);
        }
        let mut open = Vec::new();
        for socket in self.asking.drain(..) {
            match unless_waiting(unless_gone(socket.receive::<ToRunner>()))? {
                None => open.push(socket),
                Some(None) => {}
                Some(Some((question, _))) => {
                    let answer = match &question {
                        ToRunner::Exec { version, .. } if version == BAD => FromRunner::Failed {
                            text: "exit 1".to_owned(),
                        },
                        _ => FromRunner::Ok,
                    };
                    // Who asked may be gone.
                    if socket.send(&answer, &[]).is_ok() {
                        open.push(socket);
                    }
                    served = true;
                }
            }
        }
        self.asking = open;
        Ok(served)
    }

    /// The next message; `None` where the other end closed.
    fn hear<T: DeserializeOwned>(&mut self, socket: &Socket) -> Result<Option<T>> {
        loop {
            match unless_waiting(unless_gone(socket.receive::<T>()))? {
                Some(message) => return Ok(message.map(|(message, _)| message)),
                None => self.turn()?,
            }
        }
    }

    fn connect(&self, name: &str) -> Result<Socket> {
        let deadline = clock::boot() + PATIENCE;
        loop {
            match Socket::connect(&self.paths.run(), name) {
                Err(_) if matches!(self.applier, Applier::Process(_)) && clock::boot() < deadline => {
                    std::thread::yield_now();
                }
                connected => {
                    let socket = connected?;
                    socket.nonblocking(true)?;
                    return Ok(socket);
                }
            }
        }
    }

    /// One command of root.
    pub(crate) fn admin(&mut self, command: &ToAdmin, file: Option<&File>) -> Result<FromAdmin> {
        let socket = self.connect(sockets::ADMIN)?;
        let descriptors: Vec<_> = file.iter().map(|f| f.as_fd()).collect();
        socket.send(command, &descriptors)?;
        self.hear(&socket)?.context("no answer to a command")
    }

    /// Connects as the link half does, and tells the time where there is somebody to tell.
    pub(crate) fn link(&mut self) -> Result<Link> {
        let socket = self.connect(sockets::APPLIER)?;
        socket.send(&ToApplier::Hello, &[])?;
        let state = loop {
            match self.hear(&socket)?.context("no answer to hello")? {
                FromApplier::State(state) => break *state,
                FromApplier::Changed(_) => {}
                other => bail!("{other:?}"),
            }
        };
        let mut link = Link { socket, state };
        if let Some(device) = link.state.device {
            let attestation = ByteBuf::from(Fleet::time(device, link.state.nonce));
            self.ask(&mut link, &ToApplier::Time { attestation }, &[])?;
        }
        Ok(link)
    }

    /// One question of the link half; `None` where it is to come again.
    fn ask(&mut self, link: &mut Link, message: &ToApplier, files: &[File]) -> Result<Option<FromApplier>> {
        let descriptors: Vec<_> = files.iter().map(|f| f.as_fd()).collect();
        if link.socket.send(message, &descriptors).is_err() {
            return Ok(None);
        }
        loop {
            match self.hear(&link.socket)? {
                None => return Ok(None),
                Some(FromApplier::Changed(state)) => link.state = *state,
                Some(FromApplier::State(state)) => {
                    link.state = (*state).clone();
                    return Ok(Some(FromApplier::State(state)));
                }
                Some(answer) => return Ok(Some(answer)),
            }
        }
    }

    /// Joins the fleet, as far as that is not done.
    pub(crate) fn enroll(&mut self, root: &[u8], fresh: bool) -> Result<PublicKey> {
        let begin = ToAdmin::BeginEnroll { fleet: FLEET, fresh };
        let FromAdmin::ReceiptKey { key: receipt_key } = self.admin(&begin, None)? else {
            bail!("no receipt key");
        };
        let grant = Fleet::grant();
        let mut envelope = seal(&Fleet::binding(receipt_key, &grant))?;
        for signer in [key(20), key(21)] {
            envelope.sign(&signer, &aad(&FLEET.0));
        }
        let payload = ByteBuf::from(envelope.payload().to_vec());
        let FromAdmin::Signature { key, bytes } = self.admin(&ToAdmin::SignBinding { payload }, None)? else {
            bail!("not signed");
        };
        envelope.add(Signature {
            key: key.id(),
            bytes: bytes.as_slice().try_into()?,
        })?;
        let binding = envelope.encode();
        let command = ToAdmin::FinishEnroll {
            root_hash: Digest::of(root),
            fleet: FLEET,
            roots: vec![root.len() as u64],
            grant: grant.len() as u64,
            binding: binding.len() as u64,
        };
        let file = scratch(&[root.to_vec(), grant, binding].concat())?;
        match self.admin(&command, Some(&file))? {
            FromAdmin::Done { .. } => Ok(receipt_key),
            other => bail!("not joined: {other:?}"),
        }
    }

    /// Offers these documents, and the rollout among them.
    pub(crate) fn offer(
        &mut self,
        link: &mut Link,
        documents: &[(DocKind, Vec<u8>)],
        rollout: Option<&Rollout>,
    ) -> Result<Option<FromApplier>> {
        let device = link.state.device.context("the device is in no fleet")?;
        let offered = rollout.map(|rollout| OfferedRollout {
            member: rollout.wave.proof(&device).unwrap(),
            lease: Some(ByteBuf::from(Fleet::lease(
                &rollout.plan,
                device,
                link.state.nonce,
                900,
                0,
            ))),
        });
        let piece = |(kind, bytes): &(DocKind, Vec<u8>)| Piece {
            kind: *kind,
            length: bytes.len() as u64,
        };
        let offer = Offer {
            documents: documents.iter().map(piece).collect(),
            rollout: offered,
            cache: None,
        };
        let bytes: Vec<u8> = documents.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        self.ask(link, &ToApplier::Offer(offer), &[scratch(&bytes)?])
    }

    /// Offers the rollout and hands over what is lacking until it is settled. The last state.
    pub(crate) fn update(&mut self, rollout: &Rollout) -> Result<State> {
        let plan = ensign_bundle::statement::open_unverified::<ensign_bundle::plan::statements::Plan>(&rollout.plan)?;
        let plan = plan.digest();
        for _ in 0..SESSIONS {
            let mut link = self.link()?;
            let mut answer = self.offer(&mut link, &rollout.documents, Some(rollout))?;
            while let Some(FromApplier::Need(Need::Blobs { blobs, .. })) = &answer {
                let batch: Vec<Digest> = blobs.iter().take(3).rev().map(|b| b.digest).collect();
                let files: Result<Vec<File>> = batch.iter().map(|digest| scratch(&rollout.blobs[digest])).collect();
                answer = self.ask(&mut link, &ToApplier::Provide { blobs: batch }, &files?)?;
            }
            match answer {
                None => continue,
                Some(FromApplier::Need(Need::Nothing)) => {}
                Some(other) => bail!("the offer: {other:?}"),
            }
            loop {
                let status = &link.state.report.status;
                let over = matches!(status.phase, Phase::Confirmed | Phase::RolledBack | Phase::Rejected);
                if over && status.plan == Some(plan) {
                    return Ok(link.state);
                }
                match self.hear(&link.socket)? {
                    Some(FromApplier::Changed(state)) => link.state = *state,
                    Some(other) => bail!("{other:?}"),
                    None => break,
                }
            }
        }
        bail!("{SESSIONS} connections did not bring the update to an end")
    }

    /// What the controller says that has everything.
    pub(crate) fn acknowledge(&mut self) -> Result<State> {
        let mut link = self.link()?;
        let seq = link.state.report.seq;
        if let Some(tape) = &self.tape {
            tape.acknowledged();
        }
        self.ask(&mut link, &ToApplier::Acknowledged { seq }, &[])?;
        Ok(link.state)
    }
}

impl Here {
    fn serve_workers(&mut self) -> Result<bool> {
        while let Ok(socket) = self.handed.try_recv() {
            let worker = Worker::unconfined(socket, &self.disk).map_err(|e| anyhow::anyhow!(chain(&e)))?;
            worker.nonblocking()?;
            self.workers.push(worker);
        }
        let mut served = false;
        let mut open = Vec::new();
        for mut worker in self.workers.drain(..) {
            match unless_waiting(unless_gone(worker.turn().map(Some)))? {
                None => open.push(worker),
                Some(Some(true)) => {
                    served = true;
                    open.push(worker);
                }
                Some(_) => {}
            }
        }
        self.workers = open;
        Ok(served)
    }
}

impl Rollout {
    /// A plan that brings `release` to this one device.
    pub(crate) fn new(fleet: &mut Fleet, release: &Release, receipt_key: PublicKey) -> Self {
        let wave = Fleet::wave(DeviceId::from(key(21).public().id()), receipt_key);
        let plan = fleet.plan(release, &wave, 0);
        let mut documents = fleet.roles();
        documents.push((DocKind::Plan, plan.clone()));
        documents.push((DocKind::Release, release.document.clone()));
        Self {
            documents,
            plan,
            wave,
            blobs: release.blobs.clone(),
        }
    }
}

fn listen(paths: &Paths) -> Result<Listener> {
    std::fs::create_dir_all(paths.run())?;
    let runner = Listener::bind(&paths.run(), sockets::RUNNER)?;
    runner.nonblocking(true)?;
    Ok(runner)
}

/// A file with these bytes and no name.
fn scratch(bytes: &[u8]) -> Result<File> {
    let mut file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile())?;
    file.write_all(bytes)?;
    Ok(file)
}

/// An end that closed without reading everything is an end that closed.
fn unless_gone<T>(result: Result<Option<T>, SocketError>) -> Result<Option<T>, SocketError> {
    match result {
        Err(SocketError::Io(e)) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(None),
        other => other,
    }
}

/// `None` where there is nothing yet.
fn unless_waiting<T>(result: Result<T, SocketError>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_timeout() => Ok(None),
        Err(e) => bail!(chain(&e)),
    }
}
