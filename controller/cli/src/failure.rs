//! How a command ends when it does not succeed: a reason code (and with it the exit code), a text, and what to type next.

use std::fmt;
use std::path::Path;

use ensign_api::{ErrorBody, ErrorDocument};
use ensign_bundle::reason::{Code, Refusal};

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A reason, and a hint where the code's own is not the best one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub text: String,
    hint: Option<String>,
}

impl Failure {
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            hint: None,
        }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with the file it is about.
    #[must_use]
    pub fn about(mut self, path: &Path) -> Self {
        let path = ensign_bundle::text::printable(&path.to_string_lossy(), 300);
        self.text = format!("{path}: {}", self.text);
        self
    }

    /// The words of the command do not fit together: exit 2.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Code::Usage, text)
    }

    /// A flag or value that is reserved, and that this version does not have.
    pub fn not_in_this_version(what: &str) -> Self {
        Self::usage(format!("{what} is not in this version"))
    }

    /// `verb` (read, write, make) failed on a path.
    pub fn io(verb: &str, path: &Path, error: &std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => Code::NotFound,
            std::io::ErrorKind::StorageFull => Code::NoSpace,
            _ => Code::Io,
        };
        let path = ensign_bundle::text::printable(&path.to_string_lossy(), 300);
        Self::new(code, format!("cannot {verb} {path}: {error}"))
    }

    /// Words that do not fit together are looked up in the help of their verb, unless something better was said.
    #[must_use]
    pub fn of_verb(self, path: &str) -> Self {
        if self.code == Code::Usage && self.hint_text() == Code::Usage.hint() {
            return self.hint(format!("`{path} --help`"));
        }
        self
    }

    pub fn exit(&self) -> u8 {
        self.code.exit()
    }

    pub fn hint_text(&self) -> &str {
        self.hint.as_deref().unwrap_or_else(|| self.code.hint())
    }

    /// The shape of `-o json`.
    pub fn document(&self) -> ErrorDocument {
        ErrorDocument {
            error: ErrorBody {
                code: self.code,
                exit: self.exit(),
                message: self.text.clone(),
                hint: self.hint_text().to_owned(),
            },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code, refusal.text)
    }
}

impl From<ErrorDocument> for Failure {
    /// What a controller answered: foreign text.
    fn from(document: ErrorDocument) -> Self {
        let body = document.error;
        // Whoever answers says that it failed; no code of its choice makes that a success.
        let code = if body.code.exit() == 0 { Code::Failed } else { body.code };
        Self {
            code,
            text: ensign_bundle::text::printable(&body.message, 2000),
            hint: Some(ensign_bundle::text::printable(&body.hint, 500)).filter(|h| !h.is_empty()),
        }
    }
}

/// `fail!(Code, "text {value}")`: an `Err` with the code and the text.
macro_rules! fail {
    ($code:ident, $($text:tt)+) => {
        Err($crate::failure::Failure::new(ensign_bundle::reason::Code::$code, format!($($text)+)))
    };
}
pub(crate) use fail;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_something_failed_is_no_success_whatever_its_code() {
        let answer = |code| ErrorDocument {
            error: ErrorBody {
                code,
                exit: 0,
                message: "all is well".to_owned(),
                hint: String::new(),
            },
        };
        assert_eq!(Failure::from(answer(Code::UpToDate)).exit(), 1);
        assert_eq!(Failure::from(answer(Code::InProgress)).exit(), 1);
        assert_eq!(Failure::from(answer(Code::Held)).code, Code::Held);
    }
}
