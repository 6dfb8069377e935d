//! Root's commands to the applier, over `admin.sock`.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};

use super::output::Failure;
use crate::chain::chain;
use crate::clock;
use crate::durable;
use crate::ipc::socket::Socket;
use crate::ipc::{FromAdmin, State, ToAdmin};
use crate::link::supervisor::Program;
use crate::paths::{Paths, sockets};

/// How long a quick verb may take: the applier may be writing a large tree between two looks at its sockets, or be stopped.
const ANSWER: Duration = Duration::from_secs(10);
/// How long an applier that was started here may take to listen.
const START: Duration = Duration::from_secs(10);
/// What is read of the log of a process that did not start, bytes.
const LOG_BYTES: u64 = 64 << 10;
const START_PAUSE: Duration = Duration::from_millis(20);

/// A connection to the applier; one that was started for this command ends with it.
#[derive(Debug)]
pub(super) struct Admin {
    socket: Socket,
    _started: Vec<Started>,
}

impl Admin {
    /// Connects. Where no applier runs, systemd starts it by its socket, and under `--root` this does.
    pub(super) fn connect(paths: &Paths) -> Result<Self, Failure> {
        match Socket::connect(&paths.run(), sockets::ADMIN) {
            Ok(socket) => {
                return Ok(Self {
                    socket,
                    _started: Vec::new(),
                });
            }
            Err(error) if error.is_timeout() => return Err(silent()),
            Err(_) => {}
        }
        if paths.is_system() {
            return Err(Failure::new(
                Code::AgentNotRunning,
                "the applier does not answer on run/ensign/admin.sock",
            )
            .hint("run as root; systemctl status ensign-applier.socket"));
        }
        durable::create_dir(&paths.run(), 0o755).map_err(|e| Failure::new(Code::Io, format!("run/ensign: {e}")))?;
        let mut started = vec![
            Started::spawn(Program::Runner, paths.root())?,
            Started::spawn(Program::Applier, paths.root())?,
        ];
        let deadline = clock::boot() + START;
        loop {
            if let Ok(socket) = Socket::connect(&paths.run(), sockets::ADMIN) {
                return Ok(Self {
                    socket,
                    _started: started,
                });
            }
            if let Some(applier) = started.last_mut() {
                applier.require_alive()?;
            }
            if clock::boot() > deadline {
                return Err(Failure::new(
                    Code::AgentNotRunning,
                    format!("the applier does not listen after {} s", START.as_secs()),
                ));
            }
            std::thread::sleep(START_PAUSE);
        }
    }

    /// Asks one thing and waits for its answer.
    pub(super) fn ask(&self, request: &ToAdmin) -> Result<FromAdmin, Failure> {
        self.ask_with(request, None, Some(ANSWER))
    }

    /// Asks with a file beside the question. Without a limit it waits for ever.
    pub(super) fn ask_with(
        &self,
        request: &ToAdmin,
        file: Option<&File>,
        limit: Option<Duration>,
    ) -> Result<FromAdmin, Failure> {
        let trouble = |e: crate::ipc::socket::SocketError| {
            if e.is_timeout() {
                silent()
            } else {
                Failure::new(Code::Failed, chain(&e))
            }
        };
        self.socket.timeout(limit).map_err(trouble)?;
        let descriptors: Vec<_> = file.iter().map(|f| f.as_fd()).collect();
        self.socket.send(request, &descriptors).map_err(trouble)?;
        match self.socket.receive::<FromAdmin>().map_err(trouble)? {
            Some((FromAdmin::Refused(refusal), _)) => Err(refusal.into()),
            Some((answer, _)) => Ok(answer),
            None => Err(Failure::new(
                Code::AgentNotRunning,
                "the applier ended before it answered",
            )),
        }
    }

    /// Asks for something that is done or refused.
    pub(super) fn command(&self, request: &ToAdmin) -> Result<String, Failure> {
        done(self.ask(request)?)
    }

    pub(super) fn state(&self) -> Result<State, Failure> {
        match self.ask(&ToAdmin::Status)? {
            FromAdmin::State(state) => Ok(*state),
            other => Err(unexpected(&other)),
        }
    }
}

/// A process that is there, and busy or stopped.
fn silent() -> Failure {
    Failure::new(
        Code::TimedOut,
        "the applier did not answer in time; it may still do what it was asked",
    )
    .hint("try again later; `ensign-agent status`; where it stays so, start the agent again")
}

/// What the applier says it did.
pub(super) fn done(answer: FromAdmin) -> Result<String, Failure> {
    match answer {
        FromAdmin::Done { text } => Ok(text),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn unexpected(answer: &FromAdmin) -> Failure {
    tracing::debug!(?answer, "unexpected");
    Failure::new(Code::Failed, "the applier answered something else than was asked")
}

/// Hands a bundle to the applier and waits until it runs, or is refused.
pub(super) fn apply(paths: &Paths, file: &Path) -> Result<String, Failure> {
    let bundle = open(file)?;
    let admin = Admin::connect(paths)?;
    // It takes as long as it takes; only a process that works is waited for.
    admin.state()?;
    done(admin.ask_with(&ToAdmin::Apply, Some(&bundle), None)?)
}

/// A release's manifest by its digest, or every one.
pub(super) fn clear_denied(paths: &Paths, manifest: Option<Digest>) -> Result<String, Failure> {
    Admin::connect(paths)?.command(&ToAdmin::ClearDenied { manifest })
}

/// The file, or standard input copied to a nameless one: descriptors are read more than once.
pub(super) fn open(path: &Path) -> Result<File, Failure> {
    let fail = |e: io::Error| {
        let code = if e.kind() == io::ErrorKind::NotFound {
            Code::NotFound
        } else {
            Code::Io
        };
        Failure::new(code, format!("{}: {e}", path.display()))
    };
    if path != Path::new("-") {
        let file = File::open(path).map_err(fail)?;
        let regular = file.metadata().map_err(fail)?.is_file();
        return if regular {
            Ok(file)
        } else {
            Err(Failure::new(
                Code::Malformed,
                format!("{} is not a file", path.display()),
            ))
        };
    }
    let mut file = tempfile::tempfile().map_err(fail)?;
    io::copy(&mut io::stdin().lock(), &mut file).map_err(fail)?;
    Ok(file)
}

/// A process started for this command: the end of its input is its end.
#[derive(Debug)]
struct Started {
    child: Child,
    program: Program,
    /// Its log. A file: nobody reads it while it runs, and a full pipe would stop it.
    said: File,
}

impl Started {
    fn spawn(program: Program, root: &Path) -> Result<Self, Failure> {
        let said = tempfile::tempfile().map_err(|e| Failure::new(Code::Io, format!("no temporary file: {e}")))?;
        let stderr = said
            .try_clone()
            .map_err(|e| Failure::new(Code::Io, format!("no temporary file: {e}")))?;
        let child = Command::new(program.path())
            .arg("--root")
            .arg(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(|e| {
                Failure::new(
                    Code::Failed,
                    format!("{} cannot be started: {e}", program.path().display()),
                )
            })?;
        Ok(Self { child, program, said })
    }

    /// Refuses with the last thing it said, if it has ended.
    fn require_alive(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let mut text = String::new();
                // What it said only explains; that it ended is what counts.
                let _ = self
                    .said
                    .rewind()
                    .and_then(|()| (&self.said).take(LOG_BYTES).read_to_string(&mut text));
                let said = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("");
                Err(Failure::new(
                    Code::Failed,
                    format!("{} ended with {status}: {said}", self.program.name()),
                ))
            }
            Err(e) => Err(Refusal::new(Code::Failed, format!("{}: {e}", self.program.name())).into()),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends by itself now; waiting keeps its lock from outliving this command.
        let _ = self.child.wait();
    }
}
