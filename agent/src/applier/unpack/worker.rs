//! The worker's process: limits, socket, messages.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;

use ensign_bundle::limits::{BLOCK_TABLE_BYTES, MANIFEST_BYTES};
use ensign_bundle::manifest::Manifest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::roles::FileRef;
use rustix::fs::FileType;

use super::stage::Stage;
use super::{FromWorker, ToWorker};
use crate::chain::chain;
use crate::disk::{Dir, Disk};
use crate::ipc::socket::{Socket, SocketError};
use crate::sandbox;

/// `ensign-applier unpack`; `required` = Landlock and seccomp, or nothing is unpacked.
pub fn main(required: bool) -> ExitCode {
    let run = || -> Result<(), SocketError> {
        let socket = Socket::from_fd(std::io::stdin().as_fd().try_clone_to_owned()?);
        let Some((_, places)) = socket.receive_bytes()? else {
            return Ok(());
        };
        let Ok([staging, trees]) = <[OwnedFd; 2]>::try_from(places) else {
            return Err(std::io::Error::other("the two places are missing").into());
        };
        // Before the first byte that anybody else wrote.
        let level = sandbox::unpack(staging.as_fd(), trees.as_fd())?;
        if required && let Err(refusal) = level.require() {
            return socket.send(&FromWorker::Failed(refusal), &[]);
        }
        socket.send(&FromWorker::Confined(level), &[])?;
        let disk = Disk::default();
        let mut worker = Worker {
            socket,
            places: Some((disk.dir_of(staging), disk.dir_of(trees))),
            stage: None,
        };
        while worker.turn()? {}
        Ok(())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(&error), "unpacking ends");
            ExitCode::FAILURE
        }
    }
}

/// One end of a socket, served.
pub struct Worker {
    socket: Socket,
    /// The staging directory, the directory of trees.
    places: Option<(Dir, Dir)>,
    stage: Option<Stage>,
}

impl Worker {
    /// One that nothing confines, in the process of a test. The first packet waits in the socket.
    pub fn unconfined(socket: Socket, disk: &Disk) -> Result<Self, SocketError> {
        let places = socket
            .receive_bytes()?
            .map(|(_, places)| <[OwnedFd; 2]>::try_from(places));
        let Some(Ok([staging, trees])) = places else {
            return Err(std::io::Error::other("the two places are missing").into());
        };
        Ok(Self {
            socket,
            places: Some((disk.dir_of(staging), disk.dir_of(trees))),
            stage: None,
        })
    }

    /// Lets [`Self::turn`] wait for nothing.
    pub fn nonblocking(&self) -> Result<(), SocketError> {
        self.socket.nonblocking(true)
    }

    /// Waits for the next message, does what it says and answers. False = the other end closed.
    pub fn turn(&mut self) -> Result<bool, SocketError> {
        let Some((message, descriptors)) = self.socket.receive::<ToWorker>()? else {
            return Ok(false);
        };
        let answer = self.answer(message, descriptors).unwrap_or_else(FromWorker::Failed);
        for links in self.stage.iter_mut().flat_map(Stage::take_links) {
            self.socket.send(&FromWorker::Links(links), &[])?;
        }
        self.socket.send(&answer, &[])?;
        Ok(true)
    }

    fn answer(&mut self, message: ToWorker, descriptors: Vec<OwnedFd>) -> Result<FromWorker, Refusal> {
        match message {
            ToWorker::Begin {
                manifest,
                skip,
                sources,
            } => {
                let begun = begin(&manifest, &skip, &sources, descriptors, &mut self.places)?;
                let survey = begun.survey();
                self.stage = Some(begun);
                Ok(FromWorker::Surveyed(survey))
            }
            ToWorker::Go => {
                let stage = running(&mut self.stage)?;
                stage.prepare()?;
                next(stage)
            }
            ToWorker::Blobs { digests } => {
                let stage = running(&mut self.stage)?;
                for (digest, file) in digests.iter().zip(descriptors) {
                    stage.take(digest, &File::from(file))?;
                }
                next(stage)
            }
        }
    }
}

fn running(stage: &mut Option<Stage>) -> Result<&mut Stage, Refusal> {
    stage
        .as_mut()
        .ok_or_else(|| Refusal::new(Code::Malformed, "the unpack worker was not begun"))
}

fn next(stage: &mut Stage) -> Result<FromWorker, Refusal> {
    let blobs = stage.need()?;
    Ok(if blobs.is_empty() {
        FromWorker::Staged
    } else {
        FromWorker::Need {
            blobs,
            left: stage.left(),
        }
    })
}

fn begin(
    manifest: &FileRef,
    skip: &[ensign_bundle::ids::Ident],
    sources: &[FileRef],
    descriptors: Vec<OwnedFd>,
    places: &mut Option<(Dir, Dir)>,
) -> Result<Stage, Refusal> {
    let Some((staging, trees)) = places.take() else {
        return refuse!(Malformed, "the unpack worker was begun twice");
    };
    let mut descriptors = descriptors.into_iter();
    let mut next = || {
        descriptors
            .next()
            .ok_or_else(|| Refusal::new(Code::Malformed, "a descriptor is missing"))
    };
    let own = parse(&File::from(next()?), manifest)?;
    let mut stage = Stage::new(own, skip, staging, trees);
    for source in sources {
        // One source at a time in memory.
        stage.offer_source(&parse(&File::from(next()?), source)?);
    }
    stage.take_stock();
    Ok(stage)
}

fn parse(file: &File, expected: &FileRef) -> Result<Manifest, Refusal> {
    Manifest::parse(&read(file, expected, MANIFEST_BYTES)?)
}

/// Exactly the named bytes, read once into memory and hashed there.
pub(in crate::applier) fn read(file: &File, expected: &FileRef, limit: usize) -> Result<Vec<u8>, Refusal> {
    let io = |e: std::io::Error| Refusal::new(Code::Io, format!("{}: {e}", expected.digest));
    let Some(length) = usize::try_from(expected.length).ok().filter(|length| *length <= limit) else {
        return refuse!(
            LimitExceeded,
            "{} has {} bytes, at most {limit} are allowed",
            expected.digest,
            expected.length
        );
    };
    let stat = rustix::fs::fstat(file).map_err(|e| io(e.into()))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return refuse!(ContentMismatch, "{} is no file but {kind:?}", expected.digest);
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Refusal::new(
            Code::ContentMismatch,
            format!("{} is shorter than {length} bytes", expected.digest),
        ),
        _ => io(e),
    })?;
    let found = ensign_bundle::digest::Digest::of(&bytes);
    if found != expected.digest {
        return refuse!(ContentMismatch, "{} has the digest {found}", expected.digest);
    }
    Ok(bytes)
}

/// The largest block table.
pub(super) const TABLE: usize = BLOCK_TABLE_BYTES;
