//! The bench of most tests: a fleet, a device in it, one release, and the honest rollout of it; and what is no honest word.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use ensign_agent::ipc::{Offer, OfferedRollout, Piece, ToApplier};
use ensign_bundle::digest::Nonce;
use ensign_bundle::wire::{DocKind, Phase};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_bytes::ByteBuf;

use super::device::{Device, Link, Rollout};
use super::{Files, Fleet, Recipe, Release, files};

/// A fleet, a device that joined it, a release and the honest rollout of it.
pub(crate) struct Bed {
    pub fleet: Fleet,
    pub device: Device,
    pub release: Release,
    pub rollout: Rollout,
    /// Of the applier that must outlive it all.
    pub pid: u32,
}

impl Bed {
    /// One page.
    pub(crate) fn new() -> Self {
        Self::of(files(&[("page", b"one")]))
    }

    /// A release 1.0.0 of these files.
    pub(crate) fn of(web: Files) -> Self {
        let mut fleet = Fleet::new();
        let device = Device::enrolled(&fleet);
        let release = Recipe::new("1.0.0", web).build();
        fleet.publish(&release);
        let rollout = device.rollout(&mut fleet, &release);
        let pid = device.pid();
        Self {
            fleet,
            device,
            release,
            rollout,
            pid,
        }
    }

    /// Nothing of the lies was installed, the very same process is there, and does what an honest link half asks.
    pub(crate) fn goes_on(&self) {
        assert!(!self.device.paths.current().exists(), "something was installed");
        let mut link = self.device.link();
        self.installs(&mut link);
    }

    pub(crate) fn installs(&self, link: &mut Link) {
        link.offer(&self.device, &self.fleet, Some(&self.rollout));
        link.provide_all(&self.release.blobs);
        let status = link.until_settled().report.status;
        assert_eq!(status.phase, Phase::Confirmed, "{:?}", status.reason);
        assert_eq!(self.device.live("web"), files(&[("page", b"one")]));
        assert_eq!(self.device.pid(), self.pid);
    }

    /// The honest documents of the rollout, as they are offered.
    pub(crate) fn documents(&self) -> Vec<(DocKind, Vec<u8>)> {
        let mut documents = self.fleet.roles();
        documents.push((DocKind::Plan, self.rollout.plan.clone()));
        documents.push((DocKind::Release, self.release.document.clone()));
        documents
    }

    pub(crate) fn offered(&self, nonce: Nonce) -> OfferedRollout {
        OfferedRollout {
            member: self.rollout.wave.proof(&self.device.id).unwrap(),
            lease: Some(ByteBuf::from(Fleet::lease(
                &self.rollout.plan,
                self.device.id,
                nonce,
                900,
                0,
            ))),
        }
    }
}

pub(crate) fn pieces(documents: &[(DocKind, Vec<u8>)]) -> Vec<Piece> {
    let piece = |(kind, bytes): &(DocKind, Vec<u8>)| Piece {
        kind: *kind,
        length: bytes.len() as u64,
    };
    documents.iter().map(piece).collect()
}

pub(crate) fn joined(documents: &[(DocKind, Vec<u8>)]) -> Vec<u8> {
    documents.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
}

pub(crate) fn bare_offer(documents: Vec<Piece>) -> ToApplier {
    ToApplier::Offer(Offer {
        documents,
        rollout: None,
        cache: None,
    })
}

/// Everything that a descriptor can be beside a file that can be read.
pub(crate) fn no_files(bed: &Bed) -> Vec<(&'static str, File)> {
    let root = bed.device.paths.root();
    let fifo = root.join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let plain = root.join("plain");
    ensign_agent::durable::write(&plain, &vec![7; 100_000], 0o600).unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    vec![
        ("a fifo", File::options().read(true).write(true).open(fifo).unwrap()),
        ("a folder", File::open(root).unwrap()),
        ("a socket", File::from(OwnedFd::from(socket))),
        ("a pipe", File::from(OwnedFd::from(pipe))),
        ("a device without end", File::open("/dev/zero").unwrap()),
        ("an empty device", File::open("/dev/null").unwrap()),
        (
            "a name alone",
            File::from(nix::fcntl::open(&plain, OFlag::O_PATH, Mode::empty()).unwrap()),
        ),
        ("a file for writing", File::options().write(true).open(&plain).unwrap()),
    ]
}
