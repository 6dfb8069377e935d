//! Selectors: which devices an expression means. One grammar for cohorts, lists, groups and scopes.
//!
//! ```text
//! selector = "" | "all" | any          the first two: every device
//! any     = all { "or" all }
//! all     = unary { "and" unary }
//! unary   = "not" unary | "(" any ")" | test
//! test    = key | key "=" value | key "!=" value | key "in" "(" value { "," value } ")"
//! key     = [A-Za-z0-9][A-Za-z0-9._/-]{0,62}, but none of: and or not in
//! value   = the same or "quoted" or 'quoted'
//! ```
//!
//! `name` and `id` are keys too. A key that a device lacks is equal to nothing, so `key != v` holds for it.

mod parse;
#[cfg(test)]
mod tests;
mod written;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::DeviceId;
use crate::ids::{Label, Labels};
use crate::reason::Refusal;

/// Longest expression, bytes.
pub const SELECTOR_BYTES: usize = 4096;
/// Deepest nesting of parentheses and `not`.
pub const SELECTOR_DEPTH: usize = 32;
/// Most tests (each value of `in` counts) in one expression: what one device costs.
pub const SELECTOR_TESTS: usize = 512;

pub(crate) const KEYWORDS: [&str; 4] = ["and", "or", "not", "in"];

/// A parsed expression. `Display` writes one that parses to the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Expr);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    Present(Label),
    Equal(Label, String),
    NotEqual(Label, String),
    In(Label, Vec<String>),
    Not(Box<Self>),
    /// None (every device), or two or more.
    All(Vec<Self>),
    /// Two or more.
    Any(Vec<Self>),
}

/// What a selector looks at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub id: &'a DeviceId,
    pub name: &'a str,
    pub labels: &'a Labels,
}

impl Selector {
    /// The expression in `text`. A refusal names the column, from 1.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        parse::expression(text).map(Self)
    }

    /// Whether it means this device. Costs at most 512 tests.
    pub fn matches(&self, subject: Subject<'_>) -> bool {
        self.0.matches(subject)
    }

    /// The keys it asks about.
    pub fn keys(&self) -> BTreeSet<&Label> {
        let mut keys = BTreeSet::new();
        self.0.keys(&mut keys);
        keys
    }
}

impl Subject<'_> {
    fn holds(&self, key: &Label, test: impl Fn(&str) -> bool) -> bool {
        match key.as_str() {
            "name" => test(self.name),
            "id" => test(&self.id.to_string()),
            _ => self.labels.get(key).is_some_and(|value| test(value.as_str())),
        }
    }
}

impl Expr {
    fn matches(&self, subject: Subject<'_>) -> bool {
        match self {
            Self::Present(key) => subject.holds(key, |_| true),
            Self::Equal(key, value) => subject.holds(key, |v| v == value),
            Self::NotEqual(key, value) => !subject.holds(key, |v| v == value),
            Self::In(key, values) => subject.holds(key, |v| values.iter().any(|value| value == v)),
            Self::Not(expr) => !expr.matches(subject),
            Self::All(exprs) => exprs.iter().all(|expr| expr.matches(subject)),
            Self::Any(exprs) => exprs.iter().any(|expr| expr.matches(subject)),
        }
    }

    fn keys<'a>(&'a self, keys: &mut BTreeSet<&'a Label>) {
        match self {
            Self::Present(key) | Self::Equal(key, _) | Self::NotEqual(key, _) | Self::In(key, _) => {
                keys.insert(key);
            }
            Self::Not(expr) => expr.keys(keys),
            Self::All(exprs) | Self::Any(exprs) => exprs.iter().for_each(|expr| expr.keys(keys)),
        }
    }
}

impl FromStr for Selector {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
