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

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::DeviceId;
use crate::ids::{Label, Labels};
use crate::reason::{Code, Refusal};
use crate::text::printable;

/// Longest expression, bytes.
pub const SELECTOR_BYTES: usize = 4096;
/// Deepest nesting of parentheses and `not`.
pub const SELECTOR_DEPTH: usize = 32;
/// Most tests (each value of `in` counts) in one expression: what one device costs.
pub const SELECTOR_TESTS: usize = 512;

const KEYWORDS: [&str; 4] = ["and", "or", "not", "in"];

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
        if text.len() > SELECTOR_BYTES {
            return Err(usage(
                text,
                0,
                &format!("{} bytes, at most {SELECTOR_BYTES} are allowed", text.len()),
            ));
        }
        let mut parser = Parser {
            text,
            at: 0,
            depth: 0,
            tests: 0,
        };
        if parser.is_everyone()? {
            return Ok(Self(Expr::All(Vec::new())));
        }
        let expr = parser.any()?;
        match parser.peek()? {
            (_, Token::End) => Ok(Self(expr)),
            (at, token) => Err(usage(text, at, &format!("expected `and` or `or`, found {token}"))),
        }
    }

    pub fn matches(&self, subject: Subject<'_>) -> bool {
        self.0.matches(subject)
    }

    /// True when it selects every device whatever its labels.
    pub fn is_all(&self) -> bool {
        self.0 == Expr::All(Vec::new())
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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Comma,
    Equal,
    NotEqual,
    Word(String),
    Quoted(String),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("`(`"),
            Self::Close => f.write_str("`)`"),
            Self::Comma => f.write_str("`,`"),
            Self::Equal => f.write_str("`=`"),
            Self::NotEqual => f.write_str("`!=`"),
            Self::Word(word) | Self::Quoted(word) => write!(f, "`{}`", printable(word, 64)),
            Self::End => f.write_str("the end"),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Byte offset of what is not read yet.
    at: usize,
    depth: usize,
    tests: usize,
}

impl Parser<'_> {
    /// Nothing at all, or the one word `all`.
    fn is_everyone(&mut self) -> Result<bool, Refusal> {
        let start = self.at;
        let everyone = match self.next()?.1 {
            Token::End => true,
            Token::Word(word) => word == "all" && self.next()?.1 == Token::End,
            _ => false,
        };
        self.at = start;
        Ok(everyone)
    }

    fn any(&mut self) -> Result<Expr, Refusal> {
        let mut exprs = vec![self.all()?];
        while self.eat_word("or")? {
            exprs.push(self.all()?);
        }
        Ok(one_or(exprs, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr, Refusal> {
        let mut exprs = vec![self.unary()?];
        while self.eat_word("and")? {
            exprs.push(self.unary()?);
        }
        Ok(one_or(exprs, Expr::All))
    }

    fn unary(&mut self) -> Result<Expr, Refusal> {
        let (at, token) = self.next()?;
        match token {
            Token::Open => {
                self.enter(at)?;
                let expr = self.any()?;
                self.expect(&Token::Close)?;
                self.depth -= 1;
                Ok(expr)
            }
            Token::Word(word) if word == "not" => {
                self.enter(at)?;
                let expr = self.unary()?;
                self.depth -= 1;
                Ok(Expr::Not(Box::new(expr)))
            }
            Token::Word(word) if !KEYWORDS.contains(&word.as_str()) => {
                let key = label(self.text, at, &word)?;
                self.test(at, key)
            }
            other => Err(usage(
                self.text,
                at,
                &format!("expected a key, `not` or `(`, found {other}"),
            )),
        }
    }

    fn test(&mut self, at: usize, key: Label) -> Result<Expr, Refusal> {
        self.count(at)?;
        match self.peek()?.1 {
            Token::Equal => {
                self.next()?;
                Ok(Expr::Equal(key, self.value()?))
            }
            Token::NotEqual => {
                self.next()?;
                Ok(Expr::NotEqual(key, self.value()?))
            }
            Token::Word(word) if word == "in" => {
                self.next()?;
                self.expect(&Token::Open)?;
                let mut values = vec![self.value()?];
                loop {
                    match self.next()? {
                        (at, Token::Comma) => {
                            self.count(at)?;
                            values.push(self.value()?);
                        }
                        (_, Token::Close) => return Ok(Expr::In(key, values)),
                        (at, other) => {
                            return Err(usage(self.text, at, &format!("expected `,` or `)`, found {other}")));
                        }
                    }
                }
            }
            _ => Ok(Expr::Present(key)),
        }
    }

    fn value(&mut self) -> Result<String, Refusal> {
        match self.next()? {
            (at, Token::Quoted(text)) => value(self.text, at, text),
            (at, Token::Word(word)) if !KEYWORDS.contains(&word.as_str()) => value(self.text, at, word),
            (at, other) => Err(usage(self.text, at, &format!("expected a value, found {other}"))),
        }
    }

    fn enter(&mut self, at: usize) -> Result<(), Refusal> {
        self.depth += 1;
        if self.depth > SELECTOR_DEPTH {
            return Err(usage(
                self.text,
                at,
                &format!("nested deeper than {SELECTOR_DEPTH} levels"),
            ));
        }
        Ok(())
    }

    fn count(&mut self, at: usize) -> Result<(), Refusal> {
        self.tests += 1;
        if self.tests > SELECTOR_TESTS {
            return Err(usage(self.text, at, &format!("more than {SELECTOR_TESTS} tests")));
        }
        Ok(())
    }

    fn expect(&mut self, wanted: &Token) -> Result<(), Refusal> {
        let (at, token) = self.next()?;
        if token == *wanted {
            return Ok(());
        }
        Err(usage(self.text, at, &format!("expected {wanted}, found {token}")))
    }

    fn eat_word(&mut self, word: &str) -> Result<bool, Refusal> {
        let found = matches!(self.peek()?.1, Token::Word(w) if w == word);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn peek(&mut self) -> Result<(usize, Token), Refusal> {
        let before = self.at;
        let token = self.next();
        self.at = before;
        token
    }

    /// The next token and where it starts.
    fn next(&mut self) -> Result<(usize, Token), Refusal> {
        let rest = &self.text[self.at..];
        let start = self.at + (rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_whitespace()).len());
        let rest = &self.text[start..];
        let Some(first) = rest.chars().next() else {
            self.at = start;
            return Ok((start, Token::End));
        };
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '=' => (Token::Equal, 1),
            '!' if rest.starts_with("!=") => (Token::NotEqual, 2),
            '"' | '\'' => match rest[1..].find(first) {
                Some(end) => (Token::Quoted(rest[1..=end].to_owned()), end + 2),
                None => return Err(usage(self.text, start, &format!("no closing {first}"))),
            },
            _ => {
                let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
                if length == 0 {
                    let what = printable(&first.to_string(), 1);
                    return Err(usage(self.text, start, &format!("`{what}` has no meaning here")));
                }
                (Token::Word(rest[..length].to_owned()), length)
            }
        };
        self.at = start + length;
        Ok((start, token))
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-')
}

fn one_or(mut exprs: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    match (exprs.pop(), exprs.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            exprs.extend(last);
            many(exprs)
        }
    }
}

fn label(text: &str, at: usize, word: &str) -> Result<Label, Refusal> {
    Label::parse(word).map_err(|e| usage(text, at, &e.to_string()))
}

/// A value: as long as a label's, or a whole device id (one character longer).
fn value(text: &str, at: usize, word: String) -> Result<String, Refusal> {
    if word.parse::<DeviceId>().is_err() {
        label(text, at, &word)?;
    }
    Ok(word)
}

fn usage(text: &str, at: usize, what: &str) -> Refusal {
    let column = text.get(..at).map_or(0, |before| before.chars().count()) + 1;
    Refusal::new(
        Code::Usage,
        format!("selector `{}`, column {column}: {what}", printable(text, 120)),
    )
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

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present(key) => write!(f, "{key}"),
            Self::Equal(key, value) => write!(f, "{key} = {}", Value(value)),
            Self::NotEqual(key, value) => write!(f, "{key} != {}", Value(value)),
            Self::In(key, values) => {
                write!(f, "{key} in (")?;
                for (i, value) in values.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", Value(value))?;
                }
                f.write_str(")")
            }
            Self::Not(expr) => match **expr {
                Self::All(_) | Self::Any(_) => write!(f, "not ({expr})"),
                _ => write!(f, "not {expr}"),
            },
            Self::All(exprs) if exprs.is_empty() => f.write_str("all"),
            Self::All(exprs) => join(f, exprs, " and ", |e| matches!(e, Self::All(_) | Self::Any(_))),
            Self::Any(exprs) => join(f, exprs, " or ", |e| matches!(e, Self::Any(_))),
        }
    }
}

/// A value, quoted where it would read as a keyword.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if KEYWORDS.contains(&self.0) {
            write!(f, "\"{}\"", self.0)
        } else {
            write!(f, "{}", self.0)
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, exprs: &[Expr], word: &str, wrap: fn(&Expr) -> bool) -> fmt::Result {
    for (i, expr) in exprs.iter().enumerate() {
        if i > 0 {
            f.write_str(word)?;
        }
        if wrap(expr) {
            write!(f, "({expr})")?;
        } else {
            write!(f, "{expr}")?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(k, v)| (Label::parse(k).unwrap(), Label::parse(v).unwrap()))
            .collect()
    }

    fn matches(expr: &str, pairs: &[(&str, &str)]) -> bool {
        Selector::parse(expr).unwrap().matches(Subject {
            id: &DeviceId([7; 32]),
            name: "till-1",
            labels: &labels(pairs),
        })
    }

    #[test]
    fn every_form_matches_what_it_says() {
        let device = &[
            ("site", "lyon"),
            ("hardware", "pos-3"),
            ("pilot", "yes"),
            ("note", "or"),
        ];
        for yes in [
            "site = lyon",
            "site=lyon",
            "site != paris",
            "absent != x",
            "site in (paris, lyon)",
            "pilot",
            "not absent",
            "site = lyon and hardware = pos-3",
            "site = paris or pilot",
            "site = paris and pilot or hardware",
            "not (site = paris or absent)",
            "not not pilot",
            "note = \"or\"",
            "note = 'or'",
            "name = till-1",
            "name in (till-1)",
            "id = 0707070707070707070707070707070707070707070707070707070707070707",
            "  site\t=\nlyon  ",
        ] {
            assert!(matches(yes, device), "{yes}");
        }
        for no in [
            "site = paris",
            "site != lyon",
            "absent",
            "absent = x",
            "not pilot",
            "site in (paris, nice)",
            "pilot and site = paris",
            "(site = paris or pilot) and absent",
            "name = till-2",
        ] {
            assert!(!matches(no, device), "{no}");
        }
    }

    #[test]
    fn the_keys_it_asks_about() {
        let selector = Selector::parse("site = lyon and not (hw in (a, b) or group)").unwrap();
        assert_eq!(
            selector.keys().into_iter().map(Label::as_str).collect::<Vec<_>>(),
            ["group", "hw", "site"]
        );
        for everyone in ["", " ", "all", " all "] {
            assert!(Selector::parse(everyone).unwrap().is_all(), "{everyone}");
        }
        assert!(!selector.is_all());
        assert!(!Selector::parse("all = x").unwrap().is_all());
    }

    #[test]
    fn a_refusal_names_the_column() {
        for (text, column, says) in [
            ("(", 2, "found the end"),
            ("site =", 7, "expected a value, found the end"),
            ("site = a b", 10, "expected `and` or `or`, found `b`"),
            ("(site = a", 10, "expected `)`, found the end"),
            ("site in a", 9, "expected `(`, found `a`"),
            ("site in (a b)", 12, "expected `,` or `)`"),
            ("site in ()", 10, "expected a value"),
            ("and", 1, "expected a key"),
            ("site = or", 8, "expected a value"),
            ("site ~ x", 6, "`~` has no meaning"),
            ("site ! x", 6, "`!` has no meaning"),
            ("é = x", 1, "has no meaning"),
            ("site = 'x", 8, "no closing '"),
            ("site = 'a b'", 8, "is not"),
            ("-a = x", 1, "is not"),
            ("a = b)", 6, "found `)`"),
        ] {
            let refusal = Selector::parse(text).unwrap_err();
            assert_eq!(refusal.code, Code::Usage);
            assert!(
                refusal.text.contains(&format!("column {column}:")) && refusal.text.contains(says),
                "{text}: {refusal}"
            );
        }
    }

    #[test]
    fn limits_hold_one_step_before_and_refuse_one_step_after() {
        let nested = |n: usize| format!("{}a{}", "(".repeat(n), ")".repeat(n));
        assert!(Selector::parse(&nested(SELECTOR_DEPTH)).is_ok());
        assert!(Selector::parse(&nested(SELECTOR_DEPTH + 1)).is_err());
        assert!(Selector::parse(&format!("{}a", "not ".repeat(SELECTOR_DEPTH))).is_ok());
        assert!(Selector::parse(&format!("{}a", "not ".repeat(SELECTOR_DEPTH + 1))).is_err());
        let values = |n: usize| format!("a in ({})", vec!["b"; n].join(","));
        assert!(Selector::parse(&values(SELECTOR_TESTS)).is_ok());
        assert!(Selector::parse(&values(SELECTOR_TESTS + 1)).is_err());
        let long = |n: usize| format!("a{}", " ".repeat(n - 1));
        assert!(Selector::parse(&long(SELECTOR_BYTES)).is_ok());
        assert!(Selector::parse(&long(SELECTOR_BYTES + 1)).is_err());
    }

    fn word() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("or".to_owned()),
            Just("in".to_owned()),
            "[A-Za-z0-9][A-Za-z0-9._/-]{0,5}",
            "[a-c]",
        ]
    }

    fn key() -> impl Strategy<Value = Label> {
        word()
            .prop_filter("not a keyword", |w| !KEYWORDS.contains(&w.as_str()))
            .prop_map(|w| Label::parse(&w).unwrap())
    }

    fn expr() -> impl Strategy<Value = Expr> {
        let test = prop_oneof![
            key().prop_map(Expr::Present),
            (key(), word()).prop_map(|(k, v)| Expr::Equal(k, v)),
            (key(), word()).prop_map(|(k, v)| Expr::NotEqual(k, v)),
            (key(), prop::collection::vec(word(), 1..4)).prop_map(|(k, v)| Expr::In(k, v)),
        ];
        test.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|e| Expr::Not(Box::new(e))),
                prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::All),
                prop::collection::vec(inner, 2..4).prop_map(Expr::Any),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_parses_to_the_same(expr in expr()) {
            let selector = Selector(expr);
            let written = selector.to_string();
            prop_assert_eq!(Selector::parse(&written).unwrap(), selector, "{}", written);
        }

        #[test]
        fn not_turns_every_answer_round(expr in expr(), pairs in prop::collection::btree_map(key(), key(), 0..4)) {
            let subject = Subject { id: &DeviceId([1; 32]), name: "a", labels: &pairs };
            let (plain, negated) = (Selector(expr.clone()), Selector(Expr::Not(Box::new(expr))));
            prop_assert_ne!(plain.matches(subject), negated.matches(subject));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,40}|[a-c() =!,'\"andornoti]{0,40}") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
            }
        }
    }
}
