//! What a `fleet init` that was killed leaves, and how the next one goes on.
//!
//! The note `.init-NAME` in the operator's home lies there from before the first change until after the last one, locked by the process
//! that works on it. The fleet's context comes last but one, so it decides what the next `fleet init` does with a note that it finds:
//! - no context: the fleet was never anybody's. Its keys and its kit are removed, and it begins anew;
//! - a context: keys and kit are whole. What is left is to make it the current one.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use ensign_bundle::digest::FleetId;
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use serde::{Deserialize, Serialize};

use super::files;
use crate::durable::{self, SECRET};
use crate::failure::{Failure, Result};
use crate::home::Home;

/// Largest note, bytes.
const NOTE_BYTES: u64 = 16 << 10;

/// What is being made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub fleet: FleetId,
    pub address: String,
    /// Absolute.
    pub kit: PathBuf,
}

/// A `fleet init` that has begun. Dropped, it leaves the note for the next one.
#[derive(Debug)]
pub struct Begun {
    path: PathBuf,
    /// Locked.
    file: File,
}

impl Begun {
    /// Takes the place of whoever makes this fleet.
    pub fn open(home: &Home, name: &Ident) -> Result<Self> {
        let path = home.note_path(name);
        if let Some(dir) = path.parent() {
            durable::private_dir(dir).map_err(|e| Failure::io("make", dir, &e))?;
        }
        let opened = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(SECRET)
            .open(&path);
        let file = opened.map_err(|e| Failure::io("open", &path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, file }),
            Err(TryLockError::WouldBlock) => Err(Failure::new(
                Code::InUse,
                format!("another `fleet init` makes the fleet {name} now"),
            )),
            Err(TryLockError::Error(e)) => Err(Failure::io("lock", &path, &e)),
        }
    }

    /// Puts right what an earlier run left. What it made, where that turned out whole.
    pub fn recover(&mut self, home: &Home, name: &Ident) -> Result<Option<Note>> {
        let failed = |e| Failure::io("read", &self.path, &e);
        let mut text = String::new();
        (&self.file).rewind().map_err(failed)?;
        (&self.file)
            .take(NOTE_BYTES)
            .read_to_string(&mut text)
            .map_err(failed)?;
        // One that is cut short was written before anything else was.
        let Ok(note) = serde_json::from_str::<Note>(&text) else {
            return Ok(None);
        };
        home.forget_half_selected()?;
        if home.context_dir(name).exists() {
            home.select(name)?;
            return Ok(Some(note));
        }
        files::remove(&home.context_dir(name))?;
        files::remove(&home.keys_dir(name))?;
        files::remove_unfinished(&note.kit)?;
        if files::fleet_of_kit(&note.kit) == Some(note.fleet) {
            files::remove(&note.kit)?;
        }
        Ok(None)
    }

    /// Says what is made from here on.
    pub fn write(&mut self, note: &Note) -> Result<()> {
        let text = serde_json::to_vec(note).map_err(|e| Failure::new(Code::Failed, e.to_string()))?;
        let file = &mut self.file;
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write(file).map_err(|e| Failure::io("write", &self.path, &e))
    }

    /// There is nothing left to do for a next run.
    pub fn finish(self) -> Result<()> {
        durable::remove_file(&self.path).map_err(|e| Failure::io("remove", &self.path, &e))
    }
}
