//! One document on standard output, everything else on standard error.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::ValueEnum;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::printable;
use serde::Serialize;
use serde_yaml::Value;

/// Longest text that is shown of something foreign, characters.
const TEXT_CHARS: usize = 1000;

/// How the document is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Table,
    Json,
    Yaml,
}

/// Why a command failed, and what to do about it.
#[derive(Debug)]
pub(super) struct Failure {
    pub refusal: Refusal,
    /// In place of the code's own hint.
    pub hint: Option<String>,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, hint: None }
    }
}

impl Failure {
    pub(super) fn new(code: Code, text: impl Into<String>) -> Self {
        Refusal::new(code, text).into()
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints it to standard error in the form asked for.
    pub(super) fn report(&self, format: Format, root: &Path) -> ExitCode {
        let code = self.refusal.code;
        let hint = rooted(self.hint.as_deref().unwrap_or(code.hint()), root);
        let message = printable(&self.refusal.text, TEXT_CHARS);
        let document = serde_json::json!({
            "error": { "code": code.name(), "exit": code.exit(), "message": message, "hint": hint }
        });
        // Nobody is left to tell when standard error is closed.
        let _ = match format {
            Format::Table => writeln!(io::stderr(), "error: {message} ({})\nhint: {hint}", code.name()),
            Format::Json => writeln!(io::stderr(), "{document}"),
            // JSON is YAML: what cannot be written the one way is written the other.
            Format::Yaml => {
                let text = serde_yaml::to_string(&document).unwrap_or_else(|_| format!("{document}\n"));
                write!(io::stderr(), "{text}")
            }
        };
        ExitCode::from(code.exit())
    }
}

/// A hint whose commands name the root that was given: without it they are about another device.
pub(super) fn rooted(hint: &str, root: &Path) -> String {
    if root == Path::new("/") {
        return hint.to_owned();
    }
    let root = printable(&root.display().to_string(), TEXT_CHARS);
    let root = if root.contains(char::is_whitespace) {
        format!("'{root}'")
    } else {
        root
    };
    let mut text = String::new();
    // What stands between backticks is every other part.
    for (part, at) in hint.split('`').zip(0_usize..) {
        if at > 0 {
            text.push('`');
        }
        text.push_str(part);
        if at % 2 == 1 && part.starts_with("ensign-agent ") {
            let _ = write!(text, " --root {root}");
        }
    }
    text
}

/// Prints `document`; for people as `KEY  VALUE` lines.
pub(super) fn show<T: Serialize>(format: Format, document: &T) -> Result<(), Failure> {
    let text = match format {
        // Keeps the order of the keys, which JSON's values do not.
        Format::Table => serde_yaml::to_value(document)
            .map(|value| lines(&value))
            .map_err(|e| e.to_string()),
        Format::Json => serde_json::to_string_pretty(document)
            .map(|text| text + "\n")
            .map_err(|e| e.to_string()),
        Format::Yaml => serde_yaml::to_string(document).map_err(|e| e.to_string()),
    };
    print(&text.map_err(|text| Failure::new(Code::Failed, text))?)
}

/// Writes to standard output. A reader that stopped reading has what it wanted.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match io::stdout()
        .write_all(text.as_bytes())
        .and_then(|()| io::stdout().flush())
    {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(Code::Io, format!("standard output: {e}"))),
        _ => Ok(()),
    }
}

/// Nested keys joined by dots, one line each, empty values left out.
fn lines(value: &Value) -> String {
    let mut rows = Vec::new();
    flatten("", value, &mut rows);
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in &rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key:width$}  {}", printable(value, TEXT_CHARS));
    }
    text
}

fn flatten(key: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let nested = |inner: &str| {
        if key.is_empty() {
            inner.to_owned()
        } else {
            format!("{key}.{inner}")
        }
    };
    match value {
        Value::Null => {}
        Value::Mapping(map) => {
            for (inner, value) in map {
                flatten(&nested(inner.as_str().unwrap_or("?")), value, rows);
            }
        }
        Value::Sequence(items) => {
            for (value, number) in items.iter().zip(1..) {
                flatten(&nested(&number.to_string()), value, rows);
            }
        }
        Value::String(text) => rows.push((key.to_owned(), text.clone())),
        Value::Bool(b) => rows.push((key.to_owned(), if *b { "yes" } else { "no" }.to_owned())),
        Value::Number(n) => rows.push((key.to_owned(), n.to_string())),
        Value::Tagged(tagged) => flatten(key, &tagged.value, rows),
    }
}

/// RFC 3339 in UTC; out of range as the number.
pub(super) fn time(unix: u64) -> String {
    i64::try_from(unix)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| unix.to_string(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_nested_keys_and_leave_out_what_is_null() {
        let value: Value = serde_yaml::from_str("{z: {b: 1, c: null}, long: [x, true]}").unwrap();
        assert_eq!(lines(&value), "z.b     1\nlong.1  x\nlong.2  yes\n");
    }

    #[test]
    fn hints_name_the_root_that_was_given() {
        let hint = "`ensign-agent leave`, then `ensign-agent run`; the operator: `ensign token create`";
        assert_eq!(rooted(hint, Path::new("/")), hint);
        assert_eq!(
            rooted(hint, Path::new("/srv/d1")),
            "`ensign-agent leave --root /srv/d1`, then `ensign-agent run --root /srv/d1`; the operator: `ensign token create`"
        );
        assert_eq!(
            rooted("`ensign-agent run`", Path::new("/a b")),
            "`ensign-agent run --root '/a b'`"
        );
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
    }
}
