//! Transport between the processes of a device: one CBOR message per SEQPACKET packet, descriptors beside it.
//!
//! Sockets are reached through the descriptor of their directory (`/proc/self/fd/N/NAME`), so a root of any depth stays below the
//! 108 bytes of an address (unix(7)).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use ensign_bundle::reason::{Code, Refusal};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen, socket, sockopt,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::DESCRIPTORS;
use crate::chain::chain;

/// Largest message, bytes.
pub const MESSAGE_BYTES: usize = 64 << 10;
/// CBOR items in a message.
pub(super) const ITEMS: usize = 16_384;
/// Waiting connections.
const BACKLOG: i32 = 16;
/// Longest wait for a place among them: a stopped process never makes room.
const CONNECT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot reach {name}")]
    Connect { name: String, source: io::Error },
    #[error("cannot listen on {name}")]
    Listen { name: String, source: io::Error },
    #[error("a message of {bytes} bytes, at most {MESSAGE_BYTES} are allowed")]
    TooLong { bytes: usize },
    #[error("{count} descriptors beside one message, at most {DESCRIPTORS} are allowed")]
    TooManyDescriptors { count: usize },
    #[error("a message or its descriptors were cut off")]
    Truncated,
    #[error("not a message of this socket: {0}")]
    Malformed(#[from] ensign_bundle::codec::CodecError),
    #[error("socket")]
    Io(#[from] io::Error),
}

impl SocketError {
    /// True where a non-blocking or timed call would have had to wait.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Io(e) | Self::Connect { source: e, .. } if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// The reason as the other side and scripts see it.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::TooLong { .. } | Self::TooManyDescriptors { .. } | Self::Truncated => Code::LimitExceeded,
            Self::Malformed(_) => Code::Malformed,
            Self::Connect { .. } | Self::Listen { .. } | Self::Io(_) => Code::Io,
        };
        Refusal::new(code, chain(self))
    }
}

/// Who is at the other end (SO_PEERCRED), as the kernel saw it when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
}

/// Bytes and the descriptors beside them.
pub type Packet = (Vec<u8>, Vec<OwnedFd>);

/// One end of a connection. Blocking unless told otherwise.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Connects to `dir/name`.
    pub fn connect(dir: &Path, name: &str) -> Result<Self, SocketError> {
        let fail = |source: io::Error| SocketError::Connect {
            name: name.to_owned(),
            source,
        };
        let (_directory, address) = address(dir, name).map_err(fail)?;
        let fd = seqpacket().map_err(fail)?;
        let this = Self { fd };
        this.timeout(Some(CONNECT))?;
        connect(this.fd.as_raw_fd(), &address).map_err(|e| fail(e.into()))?;
        this.timeout(None)?;
        Ok(this)
    }

    /// Two connected ends.
    pub fn pair() -> Result<(Self, Self), SocketError> {
        let (a, b) =
            nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(io::Error::from)?;
        Ok((Self { fd: a }, Self { fd: b }))
    }

    /// A socket that someone else made: from the service manager, or a child's standard input.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// For a child's standard input.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends one message. The descriptors are duplicated into the receiver.
    pub fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), SocketError> {
        self.send_bytes(&ensign_bundle::codec::encode(message)?, descriptors)
    }

    /// The next message and its descriptors; `None` when the other end closed.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, SocketError> {
        let Some((bytes, descriptors)) = self.receive_bytes()? else {
            return Ok(None);
        };
        Ok(Some((ensign_bundle::codec::decode(&bytes, ITEMS)?, descriptors)))
    }

    /// Sends one packet as it is.
    pub fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), SocketError> {
        if bytes.is_empty() || bytes.len() > MESSAGE_BYTES {
            return Err(SocketError::TooLong { bytes: bytes.len() });
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = descriptors.len() <= DESCRIPTORS
            && (descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
        if !fits {
            return Err(SocketError::TooManyDescriptors {
                count: descriptors.len(),
            });
        }
        retry(|| rustix::net::sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// The next packet as it is; `None` when the other end closed.
    pub fn receive_bytes(&self) -> Result<Option<Packet>, SocketError> {
        let mut bytes = vec![0; MESSAGE_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry(|| {
            rustix::net::recvmsg(
                &self.fd,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        })?;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(SocketError::Truncated);
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        bytes.truncate(received.bytes);
        bytes.shrink_to_fit();
        Ok(Some((bytes, descriptors)))
    }

    /// How long a call may wait; `None` = for ever. Runs out as [`SocketError::is_timeout`].
    pub fn timeout(&self, limit: Option<Duration>) -> Result<(), SocketError> {
        for direction in [rustix::net::sockopt::Timeout::Recv, rustix::net::sockopt::Timeout::Send] {
            rustix::net::sockopt::set_socket_timeout(&self.fd, direction, limit).map_err(io::Error::from)?;
        }
        Ok(())
    }

    pub fn nonblocking(&self, on: bool) -> Result<(), SocketError> {
        Ok(rustix::io::ioctl_fionbio(&self.fd, on).map_err(io::Error::from)?)
    }

    pub fn peer(&self) -> Result<Peer, SocketError> {
        let credentials = getsockopt(&self.fd, sockopt::PeerCredentials).map_err(io::Error::from)?;
        Ok(Peer {
            pid: credentials.pid(),
            uid: credentials.uid(),
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::os::fd::AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// Listens on `dir/name` (mode 0600), in place of what an earlier process left there. The caller holds the lock that says it may.
    pub fn bind(dir: &Path, name: &str) -> Result<Self, SocketError> {
        let fail = |source: io::Error| SocketError::Listen {
            name: name.to_owned(),
            source,
        };
        let (directory, address) = address(dir, name).map_err(fail)?;
        match rustix::fs::unlinkat(&directory, name, rustix::fs::AtFlags::empty()) {
            Err(e) if e != rustix::io::Errno::NOENT => return Err(fail(e.into())),
            _ => {}
        }
        let fd = seqpacket().map_err(fail)?;
        bind(fd.as_raw_fd(), &address).map_err(|e| fail(e.into()))?;
        rustix::fs::chmodat(
            &directory,
            name,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            rustix::fs::AtFlags::empty(),
        )
        .map_err(|e| fail(e.into()))?;
        let backlog = Backlog::new(BACKLOG).map_err(|e| fail(e.into()))?;
        listen(&fd, backlog).map_err(|e| fail(e.into()))?;
        Ok(Self { fd })
    }

    /// The listener that the service manager passed under this name (sd_listen_fds(3), `FileDescriptorName=`), if it did.
    pub fn inherited(name: &str) -> Result<Option<Self>, SocketError> {
        for (raw, given) in sd_notify::listen_fds_with_names()? {
            if given == name {
                return Ok(Some(Self { fd: own(raw)? }));
            }
        }
        Ok(None)
    }

    /// The inherited listener, or a new one.
    pub fn open(dir: &Path, name: &str) -> Result<Self, SocketError> {
        match Self::inherited(name)? {
            Some(listener) => Ok(listener),
            None => Self::bind(dir, name),
        }
    }

    /// The next connection and who made it.
    pub fn accept(&self) -> Result<(Socket, Peer), SocketError> {
        let fd = retry(|| rustix::net::accept_with(&self.fd, rustix::net::SocketFlags::CLOEXEC))?;
        let socket = Socket { fd };
        let peer = socket.peer()?;
        Ok((socket, peer))
    }

    pub fn nonblocking(&self, on: bool) -> Result<(), SocketError> {
        Ok(rustix::io::ioctl_fionbio(&self.fd, on).map_err(io::Error::from)?)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::os::fd::AsRawFd for Listener {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// A [`Socket`] in a tokio program.
#[derive(Debug)]
pub struct AsyncSocket(tokio::io::unix::AsyncFd<Socket>);

impl AsyncSocket {
    pub fn new(socket: Socket) -> Result<Self, SocketError> {
        socket.nonblocking(true)?;
        Ok(Self(watch(socket)?))
    }

    pub async fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), SocketError> {
        let bytes = ensign_bundle::codec::encode(message)?;
        loop {
            let mut ready = self.0.writable().await?;
            match self.0.get_ref().send_bytes(&bytes, descriptors) {
                Err(e) if e.is_timeout() => ready.clear_ready(),
                done => return done,
            }
        }
    }

    /// See [`Socket::receive`]. Cancel safe: a message is taken whole or not at all.
    pub async fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, SocketError> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.0.get_ref().receive() {
                Err(e) if e.is_timeout() => ready.clear_ready(),
                done => return done,
            }
        }
    }

    pub fn peer(&self) -> Result<Peer, SocketError> {
        self.0.get_ref().peer()
    }
}

/// A [`Listener`] in a tokio program.
#[derive(Debug)]
pub struct AsyncListener(tokio::io::unix::AsyncFd<Listener>);

impl AsyncListener {
    pub fn new(listener: Listener) -> Result<Self, SocketError> {
        listener.nonblocking(true)?;
        Ok(Self(watch(listener)?))
    }

    pub async fn accept(&self) -> Result<(AsyncSocket, Peer), SocketError> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.0.get_ref().accept() {
                Err(e) if e.is_timeout() => ready.clear_ready(),
                Err(e) => return Err(e),
                Ok((socket, peer)) => return Ok((AsyncSocket::new(socket)?, peer)),
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "sound here: Socket and Listener own their descriptor until they are dropped; its successor is an unsafe fn"
)]
fn watch<T: std::os::fd::AsRawFd>(inner: T) -> io::Result<tokio::io::unix::AsyncFd<T>> {
    tokio::io::unix::AsyncFd::new(inner)
}

/// An owned duplicate of a descriptor that this process inherited by number: sent to itself, which needs no call beyond what a
/// confined service has.
fn own(raw: std::os::fd::RawFd) -> Result<OwnedFd, SocketError> {
    let (a, b) = Socket::pair()?;
    let numbers = [raw];
    let rights = [nix::sys::socket::ControlMessage::ScmRights(&numbers)];
    let flags = nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
    nix::sys::socket::sendmsg::<UnixAddr>(a.as_raw_fd(), &[IoSlice::new(b"fd")], &rights, flags, None)
        .map_err(io::Error::from)?;
    match b.receive_bytes()? {
        Some((_, mut descriptors)) if descriptors.len() == 1 => Ok(descriptors.remove(0)),
        _ => Err(SocketError::Truncated),
    }
}

/// The directory, to be kept open while the address is used, and the short address of `name` in it.
fn address(dir: &Path, name: &str) -> io::Result<(File, UnixAddr)> {
    let directory = File::open(dir)?;
    let short = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    Ok((directory, UnixAddr::new(short.as_str())?))
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;
    use crate::ipc::{ToAdmin, ToApplier};

    #[test]
    fn a_message_and_its_descriptor_arrive_under_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let listener = Listener::bind(&deep, "a.sock").unwrap();
        let client = Socket::connect(&deep, "a.sock").unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
        assert_eq!(peer.pid, nix::unistd::getpid().as_raw());

        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"bundle").unwrap();
        client.send(&ToAdmin::Apply, &[file.as_fd()]).unwrap();
        let (message, mut descriptors) = server.receive::<ToAdmin>().unwrap().unwrap();
        assert_eq!(message, ToAdmin::Apply);
        let mut received = File::from(descriptors.remove(0));
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "bundle");

        drop(client);
        assert!(server.receive::<ToAdmin>().unwrap().is_none());
    }

    #[test]
    fn another_listener_takes_the_place_of_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        drop(Listener::bind(dir.path(), "a.sock").unwrap());
        assert!(Socket::connect(dir.path(), "a.sock").is_err());
        let _listener = Listener::bind(dir.path(), "a.sock").unwrap();
        Socket::connect(dir.path(), "a.sock").unwrap();
    }

    #[test]
    fn e74_refuses_what_is_too_long_cut_or_of_another_shape() {
        let (a, b) = Socket::pair().unwrap();
        let long = vec![0; MESSAGE_BYTES + 1];
        assert!(matches!(a.send_bytes(&long, &[]), Err(SocketError::TooLong { .. })));
        rustix::net::send(&a, &long, SendFlags::empty()).unwrap();
        assert!(matches!(b.receive_bytes(), Err(SocketError::Truncated)));
        a.send_bytes(&[0xff; 8], &[]).unwrap();
        assert!(matches!(b.receive::<ToApplier>(), Err(SocketError::Malformed(_))));
        let file = tempfile::tempfile().unwrap();
        let many = vec![file.as_fd(); DESCRIPTORS + 1];
        assert!(matches!(
            a.send_bytes(b"x", &many),
            Err(SocketError::TooManyDescriptors { .. })
        ));
    }

    #[test]
    fn an_inherited_number_becomes_an_owned_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(dir.path(), "a.sock").unwrap();
        let again = Listener {
            fd: own(listener.as_raw_fd()).unwrap(),
        };
        drop(listener);
        let client = Socket::connect(dir.path(), "a.sock").unwrap();
        again.accept().unwrap().0.send_bytes(b"x", &[]).unwrap();
        assert_eq!(client.receive_bytes().unwrap().unwrap().0, b"x");
    }

    #[test]
    fn a_listener_that_never_accepts_is_not_waited_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = Listener::bind(dir.path(), "deaf.sock").unwrap();
        let mut waiting = Vec::new();
        let refused = loop {
            match Socket::connect(dir.path(), "deaf.sock") {
                Ok(socket) => waiting.push(socket),
                Err(error) => break error,
            }
        };
        assert!(refused.is_timeout(), "{refused}");
    }

    #[test]
    fn waits_no_longer_than_told() {
        let (_a, b) = Socket::pair().unwrap();
        b.timeout(Some(Duration::from_millis(1))).unwrap();
        assert!(b.receive_bytes().unwrap_err().is_timeout());
    }

    #[tokio::test]
    async fn works_inside_tokio() {
        let dir = tempfile::tempdir().unwrap();
        let listener = AsyncListener::new(Listener::bind(dir.path(), "a.sock").unwrap()).unwrap();
        let client = AsyncSocket::new(Socket::connect(dir.path(), "a.sock").unwrap()).unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (sent, received) = tokio::join!(client.send(&ToApplier::Hello, &[]), server.receive::<ToApplier>());
        sent.unwrap();
        assert_eq!(received.unwrap().unwrap().0, ToApplier::Hello);
    }
}
