//! What the commands of a device ask of the applier's files when nothing needs to run: `ensign-applier state`, `verify` and `sandbox`.
//!
//! Processes of their own, so that the link half, whose program the commands are, holds no code that decodes what it fetched.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Command, ExitCode, Stdio};

use ensign_bundle::codec;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Judged, state_from_files, verify_file};
use crate::ipc::State;
use crate::link::supervisor::Program;
use crate::paths::Paths;
use crate::sandbox::{self, Level};

/// Largest answer, bytes: a row per release and component.
const ANSWER_BYTES: u64 = 4 << 20;
/// CBOR items of an answer.
const ANSWER_ITEMS: usize = 1 << 18;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    State,
    /// The file is standard input.
    Verify,
    /// What confines the unpack worker on this machine.
    Sandbox,
}

/// `ensign-applier state|verify`: the answer on standard output, CBOR, a refusal included.
pub fn main(paths: &Paths, question: Question) -> ExitCode {
    let answer = match question {
        Question::Sandbox => encode(&sandbox::offered().map_err(|e| limits(&e))),
        Question::State | Question::Verify => sandbox::reader()
            .map_err(|e| limits(&e))
            .and_then(|_| look(paths, question)),
    };
    match answer.and_then(|bytes| {
        io::stdout()
            .write_all(&bytes)
            .map_err(|e| Refusal::new(Code::Io, e.to_string()))
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the answer cannot be given");
            ExitCode::FAILURE
        }
    }
}

fn look(paths: &Paths, question: Question) -> Result<Vec<u8>, Refusal> {
    if question == Question::State {
        return encode(&state_from_files(paths));
    }
    encode(
        &io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Refusal::new(Code::Io, format!("standard input: {e}")))
            .and_then(|file| verify_file(paths, &File::from(file))),
    )
}

/// The applier's state from its files; `None` where there is none.
pub fn state(paths: &Paths) -> Result<Option<State>, Refusal> {
    ask(paths, "state", Stdio::null())?
}

/// What the device thinks of the bundle in `file`.
pub fn verify(paths: &Paths, file: File) -> Result<Judged, Refusal> {
    ask(paths, "verify", Stdio::from(file))?
}

/// What confines the unpacking here.
pub fn sandbox(paths: &Paths) -> Result<Level, Refusal> {
    ask(paths, "sandbox", Stdio::null())?
}

fn ask<T: DeserializeOwned>(paths: &Paths, question: &str, input: Stdio) -> Result<T, Refusal> {
    let program = Program::Applier.path();
    let failed = |e: io::Error| Refusal::new(Code::Failed, format!("{}: {e}", program.display()));
    let mut child = Command::new(&program)
        .arg("--root")
        .arg(paths.root())
        .arg(question)
        .stdin(input)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut answer = Vec::new();
    let read = match child.stdout.take() {
        Some(output) => output.take(ANSWER_BYTES).read_to_end(&mut answer),
        None => Ok(0),
    };
    let status = child.wait().map_err(failed)?;
    read.map_err(failed)?;
    if !status.success() {
        return refuse!(Failed, "{} {question} ended with {status}", program.display());
    }
    codec::decode(&answer, ANSWER_ITEMS).map_err(|e| Refusal::new(Code::Malformed, format!("{question}: {e}")))
}

fn limits(error: &io::Error) -> Refusal {
    Refusal::new(Code::Io, format!("limits of this process: {error}"))
}

fn encode<T: Serialize>(answer: &T) -> Result<Vec<u8>, Refusal> {
    codec::encode(answer).map_err(|e| Refusal::new(Code::Malformed, e.to_string()))
}
