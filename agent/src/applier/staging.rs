//! The applier's end of the unpack worker.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::roles::FileRef;

use super::links::Pending;
use super::tree::{self, Room};
use super::unpack::{FromWorker, PLACES, Survey, ToWorker};
use crate::chain::chain;
use crate::config::Sandbox;
use crate::ipc::socket::Socket;
use crate::ipc::{CacheSize, DESCRIPTORS, FETCH_BYTES};
use crate::paths::Paths;

/// How a process ends that makes a call which its filter has not.
const SIGSYS: i32 = nix::sys::signal::Signal::SIGSYS as i32;
/// Manifests of other releases that one message carries beside the one at hand.
const SOURCES: usize = DESCRIPTORS - 1;

/// A release being staged.
#[derive(Debug)]
pub(super) struct Staging {
    pub manifest: Digest,
    pub survey: Survey,
    /// Bytes of blobs taken.
    pub received: u64,
    /// Room for what is still to be written, bytes.
    left: u64,
    child: Option<Child>,
    socket: Socket,
    /// What is lacking; `None` = the worker is at work.
    need: Option<Vec<FileRef>>,
    links: Pending,
}

/// Who unpacks.
#[derive(Debug)]
pub enum Unpacking {
    /// A confined process for each release.
    Process,
    /// Whoever takes the ends of sockets from here and serves them with [`super::unpack::Worker`]: a test, in its own process.
    Handed(std::sync::mpsc::Sender<Socket>),
}

impl Unpacking {
    /// Somebody who serves this end of a socket.
    fn begin(&self, theirs: Socket, sandbox: Sandbox) -> io::Result<Option<Child>> {
        match self {
            // This very program, whatever has become of its file since.
            Self::Process => Command::new("/proc/self/exe")
                .arg0("ensign-applier")
                .arg("unpack")
                .args((sandbox == Sandbox::Required).then_some("--required"))
                .current_dir("/")
                .stdin(Stdio::from(theirs.into_fd()))
                .stdout(Stdio::null())
                .spawn()
                .map(Some),
            Self::Handed(to) => to.send(theirs).map(|()| None).map_err(io::Error::other),
        }
    }
}

/// What the worker's answer means.
#[derive(Debug)]
pub(super) enum Progress {
    /// At work still.
    Working,
    /// More blobs are needed.
    Lacking,
    /// Every tree is whole but for these; not yet synced.
    Whole(Pending),
    /// Refused: another worker would say the same.
    Failed(Refusal),
    /// The worker ended on its own: another one goes on where it stood.
    Lost(Refusal),
}

impl Staging {
    /// Starts a worker. `sources` are manifests (in `manifests/`) of releases whose trees stand.
    pub(super) fn start(
        paths: &Paths,
        (unpacking, sandbox): (&Unpacking, Sandbox),
        manifest: FileRef,
        skip: Vec<Ident>,
        mut sources: Vec<FileRef>,
    ) -> Result<Self, Refusal> {
        let begin = || -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
            sources.truncate(SOURCES);
            let (socket, theirs) = Socket::pair()?;
            let child = unpacking.begin(theirs, sandbox)?;
            let (staging, trees) = (paths.disk().dir(&paths.staging())?, paths.disk().dir(&paths.trees())?);
            socket.send_bytes(PLACES, &[staging.as_fd(), trees.as_fd()])?;
            let mut files = vec![File::open(paths.manifests().join(manifest.digest.to_string()))?];
            for source in &sources {
                files.push(File::open(paths.manifests().join(source.digest.to_string()))?);
            }
            let descriptors: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
            let message = ToWorker::Begin {
                manifest,
                skip,
                sources,
            };
            socket.send(&message, &descriptors)?;
            Ok(Self {
                manifest: manifest.digest,
                survey: Survey::default(),
                received: 0,
                left: 0,
                child,
                socket,
                need: None,
                links: Pending::default(),
            })
        };
        begin().map_err(|e| Refusal::new(Code::Io, format!("the unpack worker cannot be started: {}", chain(&*e))))
    }

    /// What is lacking; `None` while the worker is at work.
    pub(super) fn need(&self) -> Option<&[FileRef]> {
        self.need.as_deref()
    }

    /// Hands over blobs. Only files are passed on; the worker reads and hashes its own copy.
    pub(super) fn give(&mut self, digests: Vec<Digest>, files: &[OwnedFd]) -> Result<(), Refusal> {
        let Some(need) = self.need.take() else {
            return refuse!(InProgress, "the blobs before these are still being unpacked");
        };
        self.received += need
            .iter()
            .filter(|file| digests.contains(&file.digest))
            .map(|file| file.length + 4)
            .sum::<u64>();
        let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        self.say(&ToWorker::Blobs { digests }, &descriptors)
    }

    /// Free room that staging will not take, beside the reserve, bytes.
    pub(super) fn spare(&self, room: Room, reserve: u64) -> u64 {
        room.bytes.saturating_sub(self.left.saturating_add(reserve))
    }

    /// Takes the worker's answer, once its socket is readable. What is in `cache` counts as free.
    pub(super) fn take(&mut self, paths: &Paths, reserve: u64, cache: Option<CacheSize>) -> Progress {
        match self.answer(paths, reserve, cache) {
            Ok(progress) => progress,
            Err(Ended::Refused(refusal)) => Progress::Failed(refusal),
            Err(Ended::Lost(refusal)) => Progress::Lost(refusal),
        }
    }

    fn answer(&mut self, paths: &Paths, reserve: u64, cache: Option<CacheSize>) -> Result<Progress, Ended> {
        let received = self.socket.receive::<FromWorker>();
        let received = received.map_err(|e| Ended::Lost(Refusal::new(Code::Io, chain(&e))))?;
        let Some((answer, _)) = received else {
            let ended = self.child.as_mut().map(Child::wait).transpose();
            let ended = ended.map_or_else(|e| e.to_string(), |status| status.unwrap_or_default().to_string());
            let reason = Refusal::new(Code::Io, format!("the unpack worker ended: {ended}"));
            return Err(Ended::Lost(reason));
        };
        match answer {
            FromWorker::Confined(level) => {
                tracing::info!(process = "unpack worker", %level, "confined by");
                Ok(Progress::Working)
            }
            FromWorker::Links(links) => {
                self.links.note(links)?;
                Ok(Progress::Working)
            }
            FromWorker::Surveyed(survey) => {
                self.survey = survey;
                self.left = survey.bytes;
                let mut room = tree::room(paths)?;
                if let Some(cache) = cache.filter(|cache| cache.device == room.device) {
                    room.bytes = room.bytes.saturating_add(cache.bytes);
                }
                let fetched = if survey.bytes > 0 { FETCH_BYTES } else { 0 };
                tree::require_room(room, survey.bytes.saturating_add(fetched), survey.inodes, reserve)?;
                self.say(&ToWorker::Go, &[]).map_err(Ended::Lost)?;
                Ok(Progress::Working)
            }
            FromWorker::Need { blobs, left } => {
                self.need = Some(blobs);
                self.left = left;
                Ok(Progress::Lacking)
            }
            FromWorker::Staged => Ok(Progress::Whole(std::mem::take(&mut self.links))),
            FromWorker::Failed(refusal) => Err(Ended::Refused(refusal)),
        }
    }

    /// Ends the worker. True = the kernel had ended it, for a call that it may not make.
    pub(super) fn broke_out(&mut self) -> bool {
        let Some(child) = &mut self.child else { return false };
        // One that is dead already keeps what it died of.
        let _ = child.kill();
        let ended = child.wait();
        ended.is_ok_and(|status| status.signal() == Some(SIGSYS))
    }

    fn say(&self, message: &ToWorker, descriptors: &[BorrowedFd<'_>]) -> Result<(), Refusal> {
        self.socket
            .send(message, descriptors)
            .map_err(|e| Refusal::new(Code::Io, format!("the unpack worker: {}", chain(&e))))
    }
}

/// Why a worker gives no more answers.
enum Ended {
    Refused(Refusal),
    Lost(Refusal),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl AsFd for Staging {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // It ends with its socket; killing it only makes that quick, and a dead one is no trouble.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Makes every byte of the staged trees last.
pub(super) fn sync(paths: &Paths) -> io::Result<()> {
    paths.disk().dir(&paths.staging())?.sync_all()
}
