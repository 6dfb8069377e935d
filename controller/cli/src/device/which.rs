//! Which device is meant: an id, a unique prefix of 8 or more, or a name.

use std::io::Read as _;

use ensign_bundle::digest::DeviceId;
use ensign_bundle::ids::Labels;
use ensign_bundle::reason::Code;
use ensign_bundle::selector::{Selector, Subject};
use ensign_bundle::text::printable;
use ensign_bundle::words::{DEVICE_PREFIX, Fits, by_prefix, show_count};

use crate::args::Devices;
use crate::failure::{Failure, Result, fail};

/// Most bytes of names read from standard input.
const INPUT_BYTES: u64 = 16 << 20;

/// What can be looked up: a row of the registry, or verified evidence.
pub trait Named {
    fn id(&self) -> &DeviceId;
    fn name(&self) -> &str;
    fn labels(&self) -> &Labels;
    /// Revoked devices give their name away.
    fn is_living(&self) -> bool;
}

/// The one device that `text` names. None: 32; several: 33.
pub fn find<'a, T: Named>(rows: &'a [T], text: &str) -> Result<&'a T> {
    let shown = printable(text, 80);
    if let Some(row) = rows.iter().find(|row| row.id().to_string() == text) {
        return Ok(row);
    }
    let mut named: Vec<&T> = rows.iter().filter(|row| row.name() == text).collect();
    if named.iter().any(|row| row.is_living()) {
        named.retain(|row| row.is_living());
    }
    let starts = by_prefix(rows, |row| row.id().to_string(), text, DEVICE_PREFIX);
    match named[..] {
        [row] => {
            return match starts {
                Fits::One(other) if other.id() != row.id() => Err(ambiguous(&shown, row, Some(other))),
                Fits::Several(_) => Err(ambiguous(&shown, row, None)),
                _ => Ok(row),
            };
        }
        [] => {}
        _ => {
            return Err(
                Failure::new(Code::Conflict, format!("{} devices are called {shown}", named.len()))
                    .hint("use an id: `ensign device ls -o json`"),
            );
        }
    }
    match starts {
        Fits::One(row) => Ok(row),
        Fits::Nothing => {
            Err(Failure::new(Code::NotFound, format!("there is no device {shown}")).hint("`ensign device ls`"))
        }
        Fits::Several(n) => Err(
            Failure::new(Code::Conflict, format!("{n} device ids start with {shown}"))
                .hint("write more digits of the id: `ensign device ls -o json`"),
        ),
    }
}

/// A name that is also the beginning of another's id means neither.
fn ambiguous<T: Named>(shown: &str, named: &T, other: Option<&T>) -> Failure {
    let (other, type_) = match other {
        Some(other) => (
            format!("the id of {} ({})", printable(other.name(), 64), other.id()),
            format!("write a whole id: {} or {}", named.id(), other.id()),
        ),
        None => (
            "the ids of several devices".to_owned(),
            format!(
                "write a whole id: {}, or another of `ensign device ls -o json`",
                named.id()
            ),
        ),
    };
    Failure::new(
        Code::Conflict,
        format!(
            "{shown} is the name of device {}, and {other} starts with it",
            named.id()
        ),
    )
    .hint(type_)
}

/// Every device that the words name, each once, in the order of `rows`. Nobody: 32.
pub fn several<'a, T: Named>(rows: &'a [T], which: &Devices) -> Result<Vec<&'a T>> {
    if which.devices.is_empty() && which.select.is_none() {
        return Err(Failure::usage("no device is named")
            .hint("name devices, or select them: --select EXPR; `ensign device ls`"));
    }
    let mut ids = Vec::new();
    for text in expand(&which.devices)? {
        ids.push(*find(rows, &text)?.id());
    }
    if let Some(select) = &which.select {
        let selector = selector(select)?;
        let selected = rows.iter().filter(|row| row.is_living() && matches(&selector, *row));
        ids.extend(selected.map(|row| *row.id()));
    }
    if ids.is_empty() {
        return match &which.select {
            Some(select) => Err(nobody(select, &selector(select)?, rows.len())),
            None => fail!(
                NobodyMatches,
                "none of {} is named",
                show_count(rows.len() as u64, "device")
            ),
        };
    }
    Ok(rows.iter().filter(|row| ids.contains(row.id())).collect())
}

pub fn selector(text: &str) -> Result<Selector> {
    Selector::parse(text).map_err(|e| {
        Failure::usage(format!("`{}`: {}", printable(text, 80), e.text)).hint(
            "for example 'site = lyon' or 'site in (lyon, paris) and not pilot'; the grammar: `ensign device ls --help`",
        )
    })
}

/// The selector, written so, is well written and means none of `all` devices.
pub fn nobody(text: &str, selector: &Selector, all: usize) -> Failure {
    let matches = if all == 1 { "does not match" } else { "matches" };
    let who = if all == 1 {
        "the only device".to_owned()
    } else {
        format!("none of {all} devices")
    };
    let failure = Failure::new(
        Code::NobodyMatches,
        format!("{who} {matches} `{}`", printable(text, 80)),
    );
    if selector.keys().iter().any(|key| key.as_str() == "status") {
        return failure.hint(
            "status is no label: `ensign device ls --status rolled-back,rejected`; keys are labels, name and id",
        );
    }
    failure.hint("keys are labels, name and id: `ensign device ls` shows them")
}

pub fn matches<T: Named>(selector: &Selector, row: &T) -> bool {
    selector.matches(Subject {
        id: row.id(),
        name: row.name(),
        labels: row.labels(),
    })
}

/// `-` stands for the words on standard input.
fn expand(words: &[String]) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for word in words {
        if word == "-" {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .take(INPUT_BYTES)
                .read_to_string(&mut text)
                .map_err(|e| Failure::new(Code::Io, format!("cannot read standard input: {e}")))?;
            out.extend(text.split_whitespace().map(str::to_owned));
        } else {
            out.push(word.clone());
        }
    }
    Ok(out)
}

impl Named for ensign_api::Device {
    fn id(&self) -> &DeviceId {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn labels(&self) -> &Labels {
        &self.labels
    }

    fn is_living(&self) -> bool {
        self.state != ensign_api::DeviceState::Revoked
    }
}

impl Named for crate::evidence::Known {
    fn id(&self) -> &DeviceId {
        &self.member.device
    }

    fn name(&self) -> &str {
        &self.member.name
    }

    fn labels(&self) -> &Labels {
        &self.member.labels
    }

    fn is_living(&self) -> bool {
        self.state != ensign_api::DeviceState::Revoked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Row(DeviceId, &'static str, Labels, bool);

    impl Named for Row {
        fn id(&self) -> &DeviceId {
            &self.0
        }

        fn name(&self) -> &str {
            self.1
        }

        fn labels(&self) -> &Labels {
            &self.2
        }

        fn is_living(&self) -> bool {
            self.3
        }
    }

    fn rows() -> Vec<Row> {
        let row = |byte, name, living| Row(DeviceId([byte; 32]), name, Labels::new(), living);
        let mut twin = row(0xab, "abababab", true);
        twin.0.0[31] = 0;
        vec![
            row(1, "dev1", true),
            row(2, "dev1", false),
            row(0xab, "till", true),
            twin,
            row(4, "dup", true),
            row(5, "dup", true),
            row(6, "070707070707", true),
            row(7, "seven", true),
            row(8, "080808080808", true),
        ]
    }

    fn named(text: &str) -> Result<u8, u8> {
        find(&rows(), text).map(|r| r.0.0[31]).map_err(|e| e.exit())
    }

    #[test]
    fn ids_names_and_prefixes() {
        assert_eq!(named("dev1"), Ok(1), "the revoked one gave its name away");
        assert_eq!(named(&"02".repeat(32)), Ok(2));
        assert_eq!(named("02020202"), Ok(2));
        assert_eq!(named("abababab"), Err(33), "a name, and how other ids start");
        assert_eq!(named("0202020"), Err(32), "too short a prefix");
        assert_eq!(named("ababababab"), Err(33));
        assert_eq!(named("080808080808"), Ok(8), "its own id");
        let rows = rows();
        let failure = find(&rows, "070707070707").err().unwrap();
        assert_eq!(
            failure.exit(),
            33,
            "neither the one called so nor the one whose id starts so"
        );
        for id in [[6; 32], [7; 32]] {
            let id = DeviceId(id).to_string();
            assert!(
                failure.text.contains(&id) && failure.hint_text().contains(&id),
                "{failure:?}"
            );
        }
        assert_eq!(named("dup"), Err(33));
        assert_eq!(named("nobody"), Err(32));
    }

    #[test]
    fn several_in_order_each_once() {
        let rows = rows();
        let which = |words: &[&str], select: Option<&str>| Devices {
            devices: words.iter().map(|w| (*w).to_owned()).collect(),
            select: select.map(str::to_owned),
        };
        let names = |which: &Devices| several(&rows, which).map(|r| r.iter().map(|r| r.1).collect::<Vec<_>>());
        assert_eq!(
            names(&which(&["till", "dev1", "dev1"], None)).unwrap(),
            ["dev1", "till"]
        );
        assert_eq!(
            names(&which(&[], Some("name in (dup, till)"))).unwrap(),
            ["till", "dup", "dup"]
        );
        assert_eq!(names(&which(&[], Some("name = nobody"))).unwrap_err().exit(), 32);
        assert_eq!(names(&which(&[], Some("name ="))).unwrap_err().exit(), 2);
        assert_eq!(names(&which(&[], None)).unwrap_err().exit(), 2);
    }
}
