//! The passphrase of the signing keys: from the file that `ENSIGN_PASSPHRASE_FILE` names, else typed on the terminal without echo.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ensign_bundle::reason::Code;
use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices, Termios};
use zeroize::Zeroizing;

use crate::failure::{Failure, Result, fail};

/// Names a file whose first line is the passphrase.
const FILE: &str = "ENSIGN_PASSPHRASE_FILE";
/// Fewest characters of a new passphrase.
const LEAST: usize = 8;
/// Longest passphrase, bytes.
const MOST: usize = 1024;
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const CTRL_U: u8 = 0x15;
const BACKSPACE: [u8; 2] = [8, 0x7f];

/// Wiped from memory when dropped; never shown.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// That of keys which are there.
    pub fn of_keys() -> Result<Self> {
        match file() {
            Some(path) => from_file(&path),
            None => Quiet::on(&terminal()?)?.ask("Passphrase of the signing keys: "),
        }
    }

    /// That of a key from elsewhere: from this file, else typed.
    pub fn of_file(key: &Path, file: Option<&Path>) -> Result<Self> {
        match file {
            Some(path) => from_file(path),
            None => Quiet::on(&terminal()?)?.ask(&format!(
                "Passphrase of {}: ",
                ensign_bundle::text::printable(&key.to_string_lossy(), 300)
            )),
        }
    }

    /// One for new keys: typed twice.
    pub fn new() -> Result<Self> {
        Self::next(file().as_deref())
    }

    /// One that takes the place of the one there is: from this file, else typed twice.
    pub fn next(file: Option<&Path>) -> Result<Self> {
        if let Some(path) = file {
            let new = from_file(path)?;
            new.check_length()?;
            return Ok(new);
        }
        let terminal = terminal()?;
        // Quiet from the first line to the last, for whoever types ahead or pastes both.
        let quiet = Quiet::on(&terminal)?;
        let new = quiet.ask("New passphrase of the signing keys: ")?;
        // Before it is typed again for nothing.
        new.check_length()?;
        if quiet.ask("The same again: ")?.0 != new.0 {
            return Err(
                Failure::new(Code::Failed, "the two passphrases differ: nothing was done").hint("run it again"),
            );
        }
        Ok(new)
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn check_length(&self) -> Result<()> {
        let length = self.0.chars().count();
        if length < LEAST {
            return Err(Failure::usage(format!(
                "the new passphrase has {length} characters, at least {LEAST} are needed"
            ))
            .hint("several words that nobody else would choose"));
        }
        Ok(())
    }
}

#[cfg(test)]
impl From<&str> for Passphrase {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

fn file() -> Option<PathBuf> {
    std::env::var_os(FILE).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// The first line. What others can read is refused; a pipe (`<(pass show ensign)`) is nobody else's.
fn from_file(path: &Path) -> Result<Passphrase> {
    let failed = |e: io::Error| Failure::io("read", path, &e);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(Failure::new(
            Code::ConfigRefused,
            format!(
                "the passphrase in {} is readable by others (mode {mode:o})",
                path.display()
            ),
        )
        .hint(format!("chmod 600 {}", path.display())));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST + 2));
    file.take(MOST as u64 + 2).read_to_end(&mut bytes).map_err(failed)?;
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > MOST {
        return fail!(
            LimitExceeded,
            "the first line of {} is longer than {MOST} bytes",
            path.display()
        );
    }
    match std::str::from_utf8(line) {
        Ok("") => fail!(ConfigRefused, "the first line of {} is empty", path.display()),
        Ok(text) => Ok(Passphrase(Zeroizing::new(text.to_owned()))),
        Err(_) => fail!(ConfigRefused, "the first line of {} is not UTF-8", path.display()),
    }
}

/// The controlling terminal, so that standard input stays free for other things.
fn terminal() -> Result<File> {
    let missing = || {
        Failure::new(
            Code::PassphraseMissing,
            format!("the signing keys have a passphrase: there is no terminal to ask, and {FILE} is not set"),
        )
    };
    if !io::stderr().is_terminal() {
        return Err(missing());
    }
    let opened = OpenOptions::new().read(true).write(true).open("/dev/tty");
    opened.map_err(|_| missing())
}

/// A terminal that shows nothing of what is typed and hands over each byte, until this is dropped. Keys that would end or stop the
/// program come as bytes too, so the terminal is never left without echo.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn on(terminal: &'a File) -> Result<Self> {
        let failed = |e: nix::Error| Failure::new(Code::Io, format!("the terminal cannot be made quiet: {e}"));
        let before = termios::tcgetattr(terminal).map_err(failed)?;
        let mut quiet = before.clone();
        quiet
            .local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::IEXTEN);
        quiet.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        quiet.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        termios::tcsetattr(terminal, SetArg::TCSADRAIN, &quiet).map_err(failed)?;
        Ok(Self { terminal, before })
    }

    fn ask(&self, prompt: &str) -> Result<Passphrase> {
        match self.read_line(prompt) {
            Ok(text) => Ok(Passphrase(text)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                Err(Failure::new(Code::Interrupted, "interrupted: nothing was done").hint("run it again"))
            }
            Err(e) => fail!(Io, "cannot read the passphrase from the terminal: {e}"),
        }
    }

    /// Ctrl-C, Ctrl-D on an empty line: interrupted.
    fn read_line(&self, prompt: &str) -> io::Result<Zeroizing<String>> {
        let mut terminal = self.terminal;
        terminal.write_all(prompt.as_bytes())?;
        let mut line = Zeroizing::new(Vec::with_capacity(MOST));
        let mut byte = Zeroizing::new([0]);
        loop {
            if terminal.read(byte.as_mut_slice())? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match byte[0] {
                b'\r' | b'\n' => break,
                CTRL_D if !line.is_empty() => {}
                CTRL_C | CTRL_D => {
                    terminal.write_all(b"\r\n")?;
                    return Err(io::ErrorKind::Interrupted.into());
                }
                CTRL_U => line.clear(),
                b if BACKSPACE.contains(&b) => {
                    // The whole character: its continuation bytes are 10xxxxxx.
                    while line.pop().is_some_and(|b| b & 0xc0 == 0x80) {}
                }
                b if line.len() < MOST => line.push(b),
                _ => return Err(io::Error::other(format!("longer than {MOST} bytes"))),
            }
        }
        terminal.write_all(b"\r\n")?;
        let text = std::str::from_utf8(&line).map_err(io::Error::other)?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // The terminal is gone: nobody is left to type.
        let _ = termios::tcsetattr(self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;

    use super::*;
    use crate::durable;

    /// Types `keys` once the prompt stands there; what was read, what was shown, and whether the terminal echoes again.
    fn session(keys: &[u8]) -> (io::Result<(String, String)>, String, bool) {
        let pty = openpty(None, None).unwrap();
        let (mut person, terminal) = (File::from(pty.master), File::from(pty.slave));
        let prompt = "Passphrase: ";
        let read = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let quiet = Quiet::on(&terminal).unwrap();
                let once = quiet.read_line(prompt)?;
                Ok((once.to_string(), quiet.read_line("")?.to_string()))
            });
            let mut shown = vec![0; prompt.len()];
            person.read_exact(&mut shown).unwrap();
            assert_eq!(shown, prompt.as_bytes());
            person.write_all(keys).unwrap();
            reader.join().unwrap()
        });
        let echoes = termios::tcgetattr(&terminal)
            .unwrap()
            .local_flags
            .contains(LocalFlags::ECHO);
        let mut shown = [0; 64];
        let length = person.read(&mut shown).unwrap();
        (read, String::from_utf8_lossy(&shown[..length]).into_owned(), echoes)
    }

    #[test]
    fn what_is_typed_is_read_and_not_shown() {
        for (keys, expected) in [
            (&b"correct horse\rb\r"[..], "correct horse"),
            ("ab☂\u{7f}c\nb\n".as_bytes(), "abc"),
            (b"wrong\x15right\rb\r", "right"),
            (b"\x7f\x08a\rb\r", "a"),
        ] {
            let (read, shown, echoes) = session(keys);
            assert_eq!(read.unwrap(), (expected.to_owned(), "b".to_owned()));
            assert_eq!(shown.trim(), "", "{shown:?}");
            assert!(echoes, "the terminal is as it was");
        }
        for keys in [&b"abc\x03"[..], b"\x04", b"abc\r\x03"] {
            let (read, _, echoes) = session(keys);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::Interrupted);
            assert!(echoes, "the terminal is as it was");
        }
    }

    #[test]
    fn a_file_gives_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        for (text, expected) in [("one two\r\nthree\n", "one two"), (" spaces stay ", " spaces stay ")] {
            durable::write(&path, text.as_bytes(), durable::SECRET).unwrap();
            assert_eq!(from_file(&path).unwrap().bytes(), expected.as_bytes());
        }
        for bad in [&b"\nsecond"[..], b"", &[0xff, 0xfe], &[b'x'; MOST + 1]] {
            durable::write(&path, bad, durable::SECRET).unwrap();
            assert!(from_file(&path).is_err());
        }
        durable::write(&path, b"one two", 0o644).unwrap();
        let failure = from_file(&path).unwrap_err();
        assert!(failure.hint_text().starts_with("chmod 600"), "{failure:?}");
    }

    #[test]
    fn a_short_one_is_refused_and_none_is_shown() {
        let short = Passphrase::from("seven77");
        assert_eq!(short.check_length().unwrap_err().exit(), 2);
        assert!(Passphrase::from("eight888").check_length().is_ok());
        assert_eq!(format!("{short:?}"), "Passphrase(..)");
    }
}
