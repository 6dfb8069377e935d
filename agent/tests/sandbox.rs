//! What each process may no longer do, tried in a process that confines itself as the real one does. Each attempt is first made in one
//! that does not, where it must work: an attempt that could not succeed anyway proves nothing.
#![expect(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::UdpSocket;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use ensign_agent::ipc::socket::{Socket, SocketError};
use ensign_agent::ipc::{FromRunner, ToRunner, UnitVerb};
use ensign_agent::paths::{Paths, sockets};
use ensign_agent::sandbox;
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};

/// The child that the other tests start; without its orders it has nothing to do.
const CHILD: &str = "child";
const ORDERS: &str = "ENSIGN_SANDBOX_TEST";
const UNIT: &str = "ENSIGN_SANDBOX_UNIT";
const PLACE: &str = "ENSIGN_SANDBOX_PLACE";

/// Exit codes of the child.
const WORKED: i32 = 40;
const ACCESS: i32 = 41;
const PERMISSION: i32 = 42;
const OTHERWISE: i32 = 43;

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Worked,
    /// EACCES: Landlock's word.
    Access,
    /// EPERM: that of a filter with a list of what is refused, and of Landlock about signals.
    Permission,
    /// SIGSYS: that of a filter with a list of what is allowed.
    Killed,
    Otherwise,
}

/// A device's folders, with something outside of them.
struct Bed {
    dir: tempfile::TempDir,
}

type Attempt = fn(&Place) -> io::Result<()>;
/// What is tried, and how it has to end.
type List = &'static [(&'static str, End, Attempt)];

/// What an attempt is made with.
struct Place {
    root: PathBuf,
    trees: OwnedFd,
    staging: OwnedFd,
}

impl Place {
    fn at(root: &Path) -> Self {
        let paths = Paths::new(root);
        let open = |path: &Path| File::open(path).map(OwnedFd::from);
        let trees = || open(&paths.trees()).unwrap();
        Self {
            trees: trees(),
            // Closed to other users than the applier's.
            staging: open(&paths.staging()).unwrap_or_else(|_| trees()),
            root: root.to_owned(),
        }
    }

    fn own(&self) -> PathBuf {
        Paths::new(&self.root).applier()
    }

    fn outside(&self) -> PathBuf {
        self.root.join("outside")
    }
}

fn open(dir: &OwnedFd, path: &str, flags: OFlags) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    let made = if flags.contains(OFlags::CREATE) {
        mode
    } else {
        Mode::empty()
    };
    Ok(rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, made, ResolveFlags::BENEATH)?.into())
}

fn open_path(path: &Path, flags: OFlags) -> io::Result<()> {
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::empty())?;
    Ok(())
}

/// Nobody has this number: the kernel says so to whoever may ask.
fn trace() -> io::Result<()> {
    match nix::sys::ptrace::attach(nix::unistd::Pid::from_raw(i32::MAX)) {
        Err(nix::Error::ESRCH) => Ok(()),
        other => Ok(other?),
    }
}

const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL);

/// What the worker must not be able to do, and what keeps it from that.
const WORKER: List = &[
    ("read outside", End::Access, |p| {
        open_path(&p.outside().join("file"), OFlags::RDONLY)
    }),
    ("write outside", End::Access, |p| {
        open_path(&p.outside().join("file"), OFlags::WRONLY)
    }),
    ("list outside", End::Access, |p| {
        std::fs::read_dir(p.outside()).map(drop)
    }),
    ("write its own memory", End::Access, |_| {
        open_path(Path::new("/proc/self/mem"), OFlags::RDWR)
    }),
    ("make a file in the trees", End::Access, |p| {
        open(&p.trees, "new", NEW).map(drop)
    }),
    ("make a file in a tree", End::Access, |p| {
        open(&p.trees, "old/new", NEW).map(drop)
    }),
    ("write a file of a tree", End::Access, |p| {
        open(&p.trees, "old/file", OFlags::WRONLY).map(drop)
    }),
    ("cut a file of a tree", End::Access, |p| {
        open(&p.trees, "old/file", OFlags::TRUNC).map(drop)
    }),
    ("make a folder in a tree", End::Access, |p| {
        Ok(rustix::fs::mkdirat(&p.trees, "old/d", Mode::RWXU)?)
    }),
    ("make a link in a tree", End::Access, |p| {
        Ok(rustix::fs::symlinkat("x", &p.trees, "old/l")?)
    }),
    ("remove a file of a tree", End::Access, |p| {
        Ok(rustix::fs::unlinkat(&p.trees, "old/file", AtFlags::empty())?)
    }),
    ("give a file of a tree a name in staging", End::Killed, |p| {
        Ok(rustix::fs::linkat(
            &p.trees,
            "old/file",
            &p.staging,
            "here",
            AtFlags::empty(),
        )?)
    }),
    ("move a file of a tree into staging", End::Killed, |p| {
        Ok(rustix::fs::renameat(&p.trees, "old/file", &p.staging, "here")?)
    }),
    ("let a file of a tree be written", End::Killed, |p| {
        open(&p.trees, "old/file", OFlags::RDONLY)?.set_permissions(PermissionsExt::from_mode(0o644))
    }),
    ("make a file run as its owner", End::Killed, |p| {
        open(&p.staging, "suid", NEW)?.set_permissions(PermissionsExt::from_mode(0o4555))
    }),
    ("make a folder for everybody", End::Killed, |p| {
        Ok(rustix::fs::mkdirat(&p.staging, "d", 0o777.into())?)
    }),
    ("make a pipe", End::Killed, |p| {
        let kind = rustix::fs::FileType::Fifo;
        Ok(rustix::fs::mknodat(&p.staging, "pipe", kind, Mode::RWXU, 0)?)
    }),
    ("a socket of the internet", End::Killed, |_| {
        UdpSocket::bind("127.0.0.1:0").map(drop)
    }),
    ("a local socket", End::Killed, |_| UnixDatagram::unbound().map(drop)),
    ("become a program", End::Killed, |_| {
        Err(Command::new("/bin/true").exec())
    }),
    ("start a program", End::Killed, |_| {
        Command::new("/bin/true").status().map(drop)
    }),
    ("a thread", End::Killed, |_| {
        std::thread::Builder::new().spawn(|| ()).map(drop)
    }),
    ("trace another", End::Killed, |_| trace()),
    ("reach its parent", End::Killed, |_| {
        Ok(kill(nix::unistd::getppid(), None)?)
    }),
    ("leave its folder tree", End::Killed, |_| std::env::set_current_dir("/")),
    ("namespaces", End::Killed, |_| {
        Ok(nix::sched::unshare(CloneFlags::CLONE_FS)?)
    }),
    ("other limits", End::Killed, |_| {
        let kind = nix::sys::resource::Resource::RLIMIT_NOFILE;
        let (_, hard) = nix::sys::resource::getrlimit(kind)?;
        Ok(nix::sys::resource::setrlimit(kind, hard, hard)?)
    }),
];

/// What the applier must not be able to do.
const APPLIER: List = &[
    ("write outside", End::Access, |p| {
        open_path(&p.outside().join("file"), OFlags::WRONLY)
    }),
    ("make a file outside", End::Access, |p| {
        File::create(p.outside().join("new")).map(drop)
    }),
    ("move something out", End::Access, |p| {
        move_to(&p.own().join("file"), &p.outside().join("moved"))
    }),
    ("start another program", End::Access, |_| {
        Command::new("/bin/true").status().map(drop)
    }),
    ("a program of its own making", End::Access, |p| {
        let path = p.own().join("script");
        ensign_agent::durable::write(&path, b"#!/bin/sh\n", 0o755)?;
        Command::new(path).status().map(drop)
    }),
    ("a socket of the internet", End::Permission, |_| {
        UdpSocket::bind("127.0.0.1:0").map(drop)
    }),
    ("trace another", End::Permission, |_| trace()),
    ("namespaces", End::Permission, |_| {
        Ok(nix::sched::unshare(CloneFlags::CLONE_FS)?)
    }),
];

/// What the link half must not be able to do, where systemd starts the others.
const LINK: List = &[
    ("write the applier's", End::Access, |p| {
        File::create(p.own().join("new")).map(drop)
    }),
    ("write a tree", End::Access, |p| {
        open(&p.trees, "old/file", OFlags::WRONLY).map(drop)
    }),
    ("write outside", End::Access, |p| {
        open_path(&p.outside().join("file"), OFlags::WRONLY)
    }),
    ("start a program", End::Permission, |_| {
        Command::new("/bin/true").status().map(drop)
    }),
    ("its own program", End::Permission, |_| {
        Command::new("/proc/self/exe").arg("--list").status().map(drop)
    }),
    ("trace another", End::Permission, |_| trace()),
    ("sockets to the kernel", End::Permission, |_| {
        use rustix::net::{AddressFamily, SocketType, socket};
        Ok(socket(AddressFamily::NETLINK, SocketType::DGRAM, None).map(drop)?)
    }),
    ("namespaces", End::Permission, |_| {
        Ok(nix::sched::unshare(CloneFlags::CLONE_FS)?)
    }),
];

/// What whoever only answers a question must not be able to do.
const READER: List = &[
    ("write anything", End::Access, |p| {
        open_path(&p.own().join("file"), OFlags::WRONLY)
    }),
    ("make anything", End::Access, |p| {
        File::create(p.own().join("new")).map(drop)
    }),
    ("start a program", End::Permission, |_| {
        Command::new("/bin/true").status().map(drop)
    }),
    ("a socket of the internet", End::Permission, |_| {
        UdpSocket::bind("127.0.0.1:0").map(drop)
    }),
];

/// What each has to be able to do.
const NEEDED: &[(&str, &str, Attempt)] = &[
    ("worker", "all that unpacking takes", unpacking),
    ("worker", "memory", |_| {
        let large = vec![1_u8; 200 << 20];
        drop(std::hint::black_box(large));
        Ok(())
    }),
    ("worker", "a panic that is none of the filter's business", |_| {
        std::panic::set_hook(Box::new(|_| ()));
        let caught = std::panic::catch_unwind(|| assert!(std::hint::black_box(false)));
        caught.map_or(Ok(()), |()| Err(io::Error::other("no panic")))
    }),
    ("applier", "keep its folders", keeping),
    ("applier", "start itself", |_| {
        let status = Command::new("/proc/self/exe")
            .arg("--list")
            .stdout(std::process::Stdio::null())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(status.to_string()))
        }
    }),
    ("applier", "listen", |p| {
        let path = Paths::new(&p.root).run().join("s");
        drop(UnixListener::bind(&path)?);
        std::fs::remove_file(path)
    }),
    ("applier", "know users", |_| {
        nix::unistd::User::from_name("root").map(drop).map_err(io::Error::from)
    }),
    ("link", "keep its folder", |p| {
        let own = Paths::new(&p.root).link();
        ensign_agent::durable::write(&own.join("x"), b"x", 0o600)?;
        tempfile::tempfile_in(own)?.write_all(b"x")
    }),
    ("link", "say that it is ready", |p| {
        ensign_agent::durable::write(&p.root.join("ready/file"), b"{}", 0o644)
    }),
    ("link", "the network", |_| {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.send_to(b"x", socket.local_addr()?).map(drop)?;
        std::net::TcpListener::bind("127.0.0.1:0").map(drop)
    }),
    ("link", "threads", |_| {
        std::thread::Builder::new()
            .spawn(|| ())
            .map(|thread| thread.join().unwrap())
    }),
    ("reader", "read", |p| std::fs::read(p.own().join("file")).map(drop)),
];

fn unpacking(p: &Place) -> io::Result<()> {
    let mut seeds = HashMap::new();
    seeds.insert(1, 1);
    rustix::fs::mkdirat(&p.staging, "tree", Mode::RWXU)?;
    rustix::fs::mkdirat(&p.staging, "tree/d", 0o755.into())?;
    let file = open(&p.staging, "tree/d/file", NEW)?;
    file.write_all_at(b"bytes", 3)?;
    let again = open(&p.staging, "tree/d/file", OFlags::RDONLY | OFlags::NONBLOCK)?;
    let mut read = [0; 8];
    again.read_exact_at(&mut read, 0)?;
    assert_eq!(&read, b"\0\0\0bytes");
    let old = open(&p.trees, "old/file", OFlags::RDONLY)?;
    old.read_at(&mut read, 0)?;
    // Not every file system has it: then it says so.
    let _ = rustix::fs::ioctl_ficlone(&file, &old);
    assert!(old.metadata()?.is_file());
    file.set_permissions(PermissionsExt::from_mode(0o444))?;
    rustix::fs::symlinkat("file", &p.staging, "tree/d/link")?;
    assert_eq!(
        rustix::fs::readlinkat(&p.staging, "tree/d/link", Vec::new())?.as_bytes(),
        b"file"
    );
    rustix::fs::statat(&p.staging, "tree/d/link", AtFlags::SYMLINK_NOFOLLOW)?;
    let tree: OwnedFd = open(&p.staging, "tree/d", OFlags::DIRECTORY)?.into();
    assert_eq!(rustix::fs::Dir::read_from(&tree)?.count(), 4);
    for name in ["tree/d/link", "tree/d/file"] {
        rustix::fs::unlinkat(&p.staging, name, AtFlags::empty())?;
    }
    rustix::fs::unlinkat(&p.staging, "tree/d", AtFlags::REMOVEDIR)?;
    io::stderr().write_all(b"a line\n")?;
    Ok(())
}

/// In the applier's folders: replace, move between them, link, remove.
fn keeping(p: &Place) -> io::Result<()> {
    let paths = Paths::new(&p.root);
    ensign_agent::durable::write(&paths.labels(), b"{}", 0o644)?;
    ensign_agent::durable::write(&p.own().join("journal"), b"x", 0o600)?;
    std::fs::create_dir(paths.staging().join("t"))?;
    move_to(&paths.staging().join("t"), &paths.trees().join("t"))?;
    std::fs::hard_link(paths.trees().join("old/file"), paths.trees().join("t/file"))?;
    std::os::unix::fs::symlink("generations/1", paths.deploy().join("next"))?;
    std::fs::remove_dir_all(paths.trees().join("t"))
}

#[expect(clippy::disallowed_methods, reason = "what lasts is not the matter here")]
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

fn lists() -> [(&'static str, List); 4] {
    [
        ("worker", WORKER),
        ("applier", APPLIER),
        ("link", LINK),
        ("reader", READER),
    ]
}

/// Does as it is ordered: `ROLE/NAME`, confined as ROLE, or not at all where that is `free`.
#[test]
fn child() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let (role, name) = orders.split_once('/').unwrap();
    let root = PathBuf::from(std::env::var(PLACE).unwrap());
    let (place, paths) = (Place::at(&root), Paths::new(&root));
    let forbidden = lists()
        .into_iter()
        .flat_map(|(of, list)| list.iter().map(move |(name, _, run)| (of, *name, *run)));
    let needed = NEEDED.iter().copied();
    let found = |(of, known, _): &(&str, &str, Attempt)| format!("{of} {known}") == name;
    let (_, _, attempt) = forbidden.chain(needed).find(found).unwrap();
    match role {
        "worker" => sandbox::unpack(place.staging.as_fd(), place.trees.as_fd())
            .map(drop)
            .unwrap(),
        "applier" => sandbox::applier(&paths).map(drop).unwrap(),
        "link" => {
            let ready = root.join("ready/file");
            sandbox::link_without_children(&paths, Some(&ready)).map(drop).unwrap();
        }
        "reader" => sandbox::reader().map(drop).unwrap(),
        _ => {}
    }
    let code = match attempt(&place) {
        Ok(()) => WORKED,
        Err(e) if e.raw_os_error() == Some(nix::libc::EACCES) => ACCESS,
        Err(e) if e.raw_os_error() == Some(nix::libc::EPERM) => PERMISSION,
        Err(e) => {
            let _ = writeln!(io::stderr(), "{orders}: {e}");
            OTHERWISE
        }
    };
    std::process::exit(code);
}

/// Under systemd (`tests/systemd`): asks the machine's own runner to start a unit.
#[test]
fn ask_the_runner() {
    let Ok(name) = std::env::var(UNIT) else { return };
    let paths = Paths::new("/");
    let ask = || -> Result<FromRunner, SocketError> {
        let socket = Socket::connect(&paths.run(), sockets::RUNNER)?;
        let verb = UnitVerb::Start;
        socket.send(&ToRunner::Unit { verb, name }, &[])?;
        let answer = socket
            .receive::<FromRunner>()?
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(answer.0)
    };
    let answer = ask();
    let _ = writeln!(io::stderr(), "{answer:?}");
    std::process::exit(match answer {
        Ok(FromRunner::Ok) => WORKED,
        Ok(FromRunner::Refused(_)) => PERMISSION,
        Err(SocketError::Connect { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => ACCESS,
        _ => OTHERWISE,
    });
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        for folder in [
            paths.trees().join("old"),
            paths.staging(),
            paths.applier(),
            paths.link(),
            paths.run(),
            dir.path().join("outside"),
            dir.path().join("ready"),
        ] {
            std::fs::create_dir_all(folder).unwrap();
        }
        for file in [
            paths.trees().join("old/file"),
            paths.applier().join("file"),
            dir.path().join("outside/file"),
        ] {
            ensign_agent::durable::write_lossy(&file, b"content", 0o644).unwrap();
        }
        Self { dir }
    }

    fn end(&self, role: &str, name: &str) -> End {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD, "--nocapture", "--test-threads=1"])
            .env(ORDERS, format!("{role}/{name}"))
            .env(PLACE, self.dir.path())
            .env("RUST_BACKTRACE", "0")
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        match (status.code(), status.signal()) {
            (Some(WORKED), _) => End::Worked,
            (Some(ACCESS), _) => End::Access,
            (Some(PERMISSION), _) => End::Permission,
            (_, Some(signal)) if signal == Signal::SIGSYS as i32 => End::Killed,
            // It became another program, which ended well.
            (Some(0), _) => End::Worked,
            _ => End::Otherwise,
        }
    }
}

/// False where this kernel has less than what is tested.
fn whole() -> bool {
    let out = Command::new(env!("CARGO_BIN_EXE_ensign-applier"))
        .arg("sandbox")
        .output()
        .unwrap();
    let level: Result<sandbox::Level, ensign_bundle::reason::Refusal> =
        ensign_bundle::codec::decode(&out.stdout, 64).unwrap();
    let level = level.unwrap();
    // The sixth version is the first that knows all that is asked for.
    let enough = level.seccomp && level.landlock >= 6;
    if !enough {
        println!("SKIPPED: confinement of processes: {level}");
    }
    enough
}

fn refuses(role: &str) {
    if !whole() {
        return;
    }
    let (_, list) = lists().into_iter().find(|(name, _)| *name == role).unwrap();
    let mut wrong = Vec::new();
    for (name, expected, _) in list {
        let order = format!("{role} {name}");
        let free = Bed::new().end("free", &order);
        if free != End::Worked {
            wrong.push(format!("{name}: {free:?} where nothing keeps it from that"));
        }
        let bed = Bed::new();
        let found = bed.end(role, &order);
        if found != *expected {
            wrong.push(format!("{name}: {found:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_worker_writes_in_staging_alone_and_reaches_nobody() {
    refuses("worker");
}

#[test]
fn the_applier_writes_its_own_and_starts_itself_alone() {
    refuses("applier");
}

#[test]
fn the_link_half_writes_its_own_and_starts_nothing() {
    refuses("link");
}

#[test]
fn who_only_answers_changes_nothing() {
    refuses("reader");
}

#[test]
fn each_can_do_its_work() {
    let wrong: Vec<_> = NEEDED
        .iter()
        .map(|(role, name, _)| (role, name, Bed::new().end(role, &format!("{role} {name}"))))
        .filter(|(_, _, end)| *end != End::Worked)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
