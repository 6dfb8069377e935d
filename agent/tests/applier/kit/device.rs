//! One real applier process under a temporary root, and the link half's side of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ensign_agent::ipc::socket::{Socket, SocketError};
use ensign_agent::ipc::{FromAdmin, FromApplier, Need, Offer, OfferedRollout, Piece, State, ToAdmin, ToApplier};
use ensign_agent::paths::{Paths, sockets};
use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::evidence::Receipt;
use ensign_bundle::reason::Refusal;
use ensign_bundle::statement::{self, seal};
use ensign_bundle::wire::{DocKind, Phase};
use ensign_crypto::{PublicKey, Signature, aad};
use serde_bytes::ByteBuf;

use super::runner::FakeRunner;
use super::{FLEET, Fleet, Release, key, scratch};

/// No step of a test takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Device {
    pub paths: Paths,
    pub id: DeviceId,
    pub receipt_key: PublicKey,
    pub runner: FakeRunner,
    process: Option<Child>,
    _dir: tempfile::TempDir,
}

/// A connected link half.
pub(crate) struct Link {
    socket: Socket,
    pub state: State,
}

/// What a rollout consists of, as the link half would have fetched it.
pub(crate) struct Rollout {
    pub plan: Vec<u8>,
    pub release: Release,
    pub wave: CutWave,
    pub lease_s: Option<u64>,
    /// How far the clock goes ahead that the lease is issued by, seconds.
    pub lease_ahead_s: u64,
}

impl Device {
    /// A device that has joined.
    pub(crate) fn enrolled(fleet: &Fleet) -> Self {
        let mut device = Self::new();
        device.start();
        device.enroll(fleet);
        device
    }

    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::create_dir_all(paths.run()).unwrap();
        let runner = FakeRunner::listen(&paths.run());
        Self {
            paths,
            id: DeviceId::from(key(21).public().id()),
            receipt_key: key(21).public(),
            runner,
            process: None,
            _dir: dir,
        }
    }

    pub(crate) fn config(&self, text: &str) {
        std::fs::create_dir_all(self.paths.etc()).unwrap();
        ensign_agent::durable::write(&self.paths.etc().join("agent.toml"), text.as_bytes(), 0o644).unwrap();
    }

    pub(crate) fn start(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_ensign-applier"))
            .arg("--root")
            .arg(self.paths.root())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    pub(crate) fn start_with_umask(&mut self, umask: &str) {
        let child = Command::new("/bin/sh")
            .args([
                "-c",
                "umask $0; exec \"$@\"",
                umask,
                env!("CARGO_BIN_EXE_ensign-applier"),
                "--root",
            ])
            .arg(self.paths.root())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// As on a kernel that has not these calls.
    pub(crate) fn start_lacking(&mut self, calls: &[i64]) {
        use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
        let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
        let missing = SeccompAction::Errno(nix::libc::ENOSYS.unsigned_abs());
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, arch).unwrap();
        let filter: seccompiler::BpfProgram = filter.try_into().unwrap();
        // A filter holds for the thread that takes it and for what that starts.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                apply_filter(&filter).unwrap();
                self.start();
            });
        });
    }

    /// The one worker.
    pub(crate) fn worker(&self) -> nix::unistd::Pid {
        let children = self.children();
        assert_eq!(children.len(), 1, "{children:?}");
        nix::unistd::Pid::from_raw(children[0].parse().unwrap())
    }

    /// How a process ended that ends by itself.
    pub(crate) fn ended(&mut self) -> std::process::ExitStatus {
        let deadline = ensign_agent::clock::boot() + PATIENCE;
        loop {
            // Its input stays open meanwhile: it must not end because of that.
            if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                return status;
            }
            assert!(ensign_agent::clock::boot() < deadline, "it goes on");
            std::thread::yield_now();
        }
    }

    /// Starts a second applier on the same root, and waits for its end.
    pub(crate) fn another(&self) -> std::process::ExitStatus {
        let mut second = Command::new(env!("CARGO_BIN_EXE_ensign-applier"))
            .arg("--root")
            .arg(self.paths.root())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let _input = second.stdin.take();
        second.wait().unwrap()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Closes the parent's end; the exit status must follow.
    pub(crate) fn end_input(&mut self) -> std::process::ExitStatus {
        let mut process = self.process.take().unwrap();
        drop(process.stdin.take());
        process.wait().unwrap()
    }

    pub(crate) fn admin(&self, command: &ToAdmin, file: Option<&File>) -> FromAdmin {
        let socket = connect(&self.paths, sockets::ADMIN);
        let descriptors: Vec<_> = file.iter().map(|f| f.as_fd()).collect();
        socket.send(command, &descriptors).unwrap();
        socket.receive::<FromAdmin>().unwrap().unwrap().0
    }

    pub(crate) fn refusal(&self, command: &ToAdmin, file: Option<&File>) -> Refusal {
        match self.admin(command, file) {
            FromAdmin::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub(crate) fn enroll(&mut self, fleet: &Fleet) {
        self.try_enroll(fleet).unwrap();
    }

    pub(crate) fn try_enroll(&mut self, fleet: &Fleet) -> Result<(), Refusal> {
        let begin = ToAdmin::BeginEnroll {
            fleet: FLEET,
            fresh: true,
        };
        let FromAdmin::ReceiptKey { key: receipt_key } = self.admin(&begin, None) else {
            panic!("no receipt key");
        };
        self.receipt_key = receipt_key;
        let grant = Fleet::grant();
        let binding = Fleet::binding(receipt_key, &grant);
        let mut envelope = seal(&binding).unwrap();
        for signer in [key(20), key(21)] {
            envelope.sign(&signer, &aad(&FLEET.0));
        }
        let payload = ByteBuf::from(envelope.payload().to_vec());
        let FromAdmin::Signature { key, bytes } = self.admin(&ToAdmin::SignBinding { payload }, None) else {
            panic!("not signed");
        };
        envelope
            .add(Signature {
                key: key.id(),
                bytes: bytes.as_slice().try_into().unwrap(),
            })
            .unwrap();
        let binding = envelope.encode();
        let command = ToAdmin::FinishEnroll {
            root_hash: Digest::of(&fleet.root),
            fleet: FLEET,
            roots: vec![fleet.root.len() as u64],
            grant: grant.len() as u64,
            binding: binding.len() as u64,
        };
        let file = scratch(&[fleet.root.clone(), grant, binding].concat());
        match self.admin(&command, Some(&file)) {
            FromAdmin::Done { .. } => Ok(()),
            FromAdmin::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Descriptors that the applier holds.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Sockets of the applier with O_NONBLOCK.
    pub(crate) fn sockets_that_never_wait(&self) -> usize {
        let own = format!("/proc/{}", self.pid());
        let entries = std::fs::read_dir(format!("{own}/fd")).unwrap();
        let never_waits = |name: &str| {
            let target = std::fs::read_link(format!("{own}/fd/{name}")).unwrap_or_default();
            let info = std::fs::read_to_string(format!("{own}/fdinfo/{name}")).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok());
            let nonblock = nix::fcntl::OFlag::O_NONBLOCK.bits();
            target.to_string_lossy().starts_with("socket:") && flags.is_some_and(|flags| flags & nonblock != 0)
        };
        let names = entries.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        names.filter(|name| never_waits(name)).count()
    }

    /// The applier's worker, while there is one.
    pub(crate) fn children(&self) -> Vec<String> {
        let pid = self.process.as_ref().unwrap().id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(str::to_owned).collect()
    }

    /// Anonymous memory of the applier and its worker, KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let own = self.process.as_ref().unwrap().id().to_string();
        self.children()
            .into_iter()
            .chain([own])
            .map(|pid| anonymous(&pid))
            .sum()
    }

    /// Connects as the link half does, and tells the time.
    pub(crate) fn link(&self) -> Link {
        let mut link = self.link_without_time();
        if link.state.device.is_some() {
            self.tell_time(&mut link);
        }
        link
    }

    /// Connects as a link half does that has heard of no time.
    pub(crate) fn link_without_time(&self) -> Link {
        let socket = connect(&self.paths, sockets::APPLIER);
        Link {
            state: hello(&socket),
            socket,
        }
    }

    /// What the controller attests.
    pub(crate) fn tell_time(&self, link: &mut Link) -> FromApplier {
        let attestation = ByteBuf::from(Fleet::time(self.id, link.state.nonce));
        link.ask(&ToApplier::Time { attestation }, &[])
    }

    /// The plan for this device alone.
    pub(crate) fn rollout(&self, fleet: &mut Fleet, release: &Release) -> Rollout {
        let wave = Fleet::wave(self.id, self.receipt_key);
        Rollout {
            plan: fleet.plan(release, &wave, 0),
            release: release.clone(),
            wave,
            lease_s: Some(900),
            lease_ahead_s: 0,
        }
    }

    /// Publishes, offers, hands over everything, and waits for the end of it.
    pub(crate) fn update(&self, fleet: &mut Fleet, release: &Release) -> State {
        fleet.publish(release);
        let rollout = self.rollout(fleet, release);
        let mut link = self.link();
        link.offer(self, fleet, Some(&rollout));
        link.provide_all(&release.blobs);
        link.until_settled()
    }

    /// The live tree of a component, as the files it was made of.
    pub(crate) fn live(&self, component: &str) -> super::Files {
        let mut found = BTreeMap::new();
        walk(&self.paths.live(component), "", &mut found);
        found
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Link {
    /// Sends one request and returns its answer; news in between updates the state.
    pub(crate) fn ask(&mut self, message: &ToApplier, files: &[&File]) -> FromApplier {
        let descriptors: Vec<_> = files.iter().map(|f| f.as_fd()).collect();
        self.socket.send(message, &descriptors).unwrap();
        self.answer()
    }

    /// Says exactly this, and waits for nothing.
    pub(crate) fn say(&self, bytes: &[u8], files: &[&File]) -> Result<(), SocketError> {
        let descriptors: Vec<_> = files.iter().map(|f| f.as_fd()).collect();
        self.socket.send_bytes(bytes, &descriptors)
    }

    /// For what [`Self::say`] would not send.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The refusal that a request must get.
    pub(crate) fn refused(&mut self, message: &ToApplier, files: &[&File]) -> Refusal {
        match self.ask(message, files) {
            FromApplier::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// What is still said before the applier ends this connection; it must.
    pub(crate) fn ended(self) -> Option<Refusal> {
        let mut last = None;
        loop {
            match self.socket.receive::<FromApplier>() {
                Ok(None) => return last,
                Ok(Some((FromApplier::Refused(refusal), _))) => last = Some(refusal),
                Ok(Some(_)) => {}
                Err(SocketError::Io(e)) if e.kind() == std::io::ErrorKind::ConnectionReset => return last,
                Err(e) => panic!("the connection goes on: {e}"),
            }
        }
    }

    pub(crate) fn answer(&mut self) -> FromApplier {
        loop {
            match self
                .socket
                .receive::<FromApplier>()
                .unwrap()
                .expect("the applier is gone")
                .0
            {
                FromApplier::Changed(state) => self.state = *state,
                FromApplier::State(state) => {
                    self.state = (*state).clone();
                    return FromApplier::State(state);
                }
                answer => return answer,
            }
        }
    }

    pub(crate) fn offer(&mut self, device: &Device, fleet: &Fleet, rollout: Option<&Rollout>) -> FromApplier {
        self.offer_with(fleet.roles(), device, rollout)
    }

    /// Offers a rollout with these documents before it.
    pub(crate) fn offer_with(
        &mut self,
        mut documents: Vec<(DocKind, Vec<u8>)>,
        device: &Device,
        rollout: Option<&Rollout>,
    ) -> FromApplier {
        if let Some(rollout) = rollout {
            documents.push((DocKind::Plan, rollout.plan.clone()));
            documents.push((DocKind::Release, rollout.release.document.clone()));
        }
        let offered = rollout.map(|rollout| OfferedRollout {
            member: rollout.wave.proof(&device.id).unwrap(),
            lease: rollout
                .lease_s
                .map(|ttl| Fleet::lease(&rollout.plan, device.id, self.state.nonce, ttl, rollout.lease_ahead_s))
                .map(ByteBuf::from),
        });
        self.offer_documents(&documents, offered)
    }

    pub(crate) fn offer_documents(
        &mut self,
        documents: &[(DocKind, Vec<u8>)],
        rollout: Option<OfferedRollout>,
    ) -> FromApplier {
        let offer = Offer {
            documents: documents
                .iter()
                .map(|(kind, bytes)| Piece {
                    kind: *kind,
                    length: bytes.len() as u64,
                })
                .collect(),
            rollout,
            cache: None,
        };
        let bytes: Vec<u8> = documents.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        self.ask(&ToApplier::Offer(offer), &[&scratch(&bytes)])
    }

    /// What the applier lacks right now: an empty hand-over asks.
    pub(crate) fn need(&mut self) -> Need {
        match self.ask(&ToApplier::Provide { blobs: Vec::new() }, &[]) {
            FromApplier::Need(need) => need,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn provide(&mut self, blobs: &[(Digest, Vec<u8>)]) -> Need {
        let files: Vec<File> = blobs.iter().map(|(_, bytes)| scratch(bytes)).collect();
        let digests = blobs.iter().map(|(digest, _)| *digest).collect();
        match self.ask(
            &ToApplier::Provide { blobs: digests },
            &files.iter().collect::<Vec<_>>(),
        ) {
            FromApplier::Need(need) => need,
            other => panic!("{other:?}"),
        }
    }

    /// Hands over what is lacking until nothing is; returns how many bytes that were. Stops after `limit` blobs.
    pub(crate) fn provide_some(&mut self, store: &HashMap<Digest, Vec<u8>>, limit: usize) -> usize {
        let mut sent = 0;
        let mut count = 0;
        let mut need = self.need();
        while let Need::Blobs { blobs, .. } = &need {
            if count >= limit {
                break;
            }
            // Backwards, so that blocks arrive in another order than they are written in.
            let batch: Vec<_> = blobs
                .iter()
                .take(7.min(limit - count))
                .rev()
                .map(|b| (b.digest, store[&b.digest].clone()))
                .collect();
            sent += batch.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
            count += batch.len();
            need = self.provide(&batch);
        }
        sent
    }

    pub(crate) fn provide_all(&mut self, store: &HashMap<Digest, Vec<u8>>) -> usize {
        self.provide_some(store, usize::MAX)
    }

    /// Waits for news until the device is in this phase.
    pub(crate) fn until(&mut self, wanted: impl Fn(&State) -> bool) -> State {
        while !wanted(&self.state) {
            match self
                .socket
                .receive::<FromApplier>()
                .unwrap()
                .expect("the applier is gone")
                .0
            {
                FromApplier::Changed(state) => self.state = *state,
                other => panic!("{other:?}"),
            }
        }
        self.state.clone()
    }

    pub(crate) fn until_phase(&mut self, phase: Phase) -> State {
        self.until(|state| state.report.status.phase == phase)
    }

    /// Until the attempt is over, one way or the other.
    pub(crate) fn until_settled(&mut self) -> State {
        self.until(|state| {
            matches!(
                state.report.status.phase,
                Phase::Confirmed | Phase::RolledBack | Phase::Rejected
            )
        })
    }
}

/// The receipts in a state, their signatures checked.
pub(crate) fn receipts(device: &Device, state: &State) -> Vec<Receipt> {
    let open = |bytes: &ByteBuf| {
        statement::open::<Receipt>(bytes, &[device.receipt_key], 1, &FLEET)
            .unwrap()
            .body
    };
    state.report.receipts.iter().map(open).collect()
}

fn connect(paths: &Paths, name: &str) -> Socket {
    let deadline = ensign_agent::clock::boot() + PATIENCE;
    loop {
        if let Ok(socket) = Socket::connect(&paths.run(), name) {
            socket.timeout(Some(PATIENCE)).unwrap();
            return socket;
        }
        assert!(ensign_agent::clock::boot() < deadline, "nobody listens on {name}");
        std::thread::yield_now();
    }
}

fn hello(socket: &Socket) -> State {
    socket.send(&ToApplier::Hello, &[]).unwrap();
    match socket.receive::<FromApplier>().unwrap().unwrap().0 {
        FromApplier::State(state) => *state,
        other => panic!("{other:?}"),
    }
}

fn walk(dir: &Path, above: &str, found: &mut super::Files) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if above.is_empty() {
            name
        } else {
            format!("{above}/{name}")
        };
        let meta = entry.path().symlink_metadata().unwrap();
        if meta.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            found.insert(path, (false, format!("-> {}", target.display()).into_bytes()));
        } else if meta.is_dir() {
            walk(&entry.path(), &path, found);
        } else {
            let mode = meta.permissions().mode();
            assert_eq!(mode & 0o222, 0, "{path} can be written");
            found.insert(path, (mode & 0o111 != 0, std::fs::read(entry.path()).unwrap()));
        }
    }
}

fn anonymous(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
