//! Selectors: which devices are meant. One grammar everywhere.
//!
//! ```text
//! any     = all ( "or" all )*            all = not ( "and" not )*          not = "not" not | "(" any ")" | test
//! test    = key                          present
//!         | key "=" value | key "!=" value | key "in" "(" value ( "," value )* ")"
//! ```
//!
//! Keys are labels, or `name`, or `id` (a device's whole id). Values may stand in quotes, single or double. `!=` holds where the
//! label is missing. Nothing at all, and the one word `all`, select every device.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::digest::DeviceId;
use crate::ids::{Label, Labels};
use crate::reason::Refusal;
use crate::refuse;
use crate::text::printable;

/// Longest selector, bytes.
pub const SELECTOR_BYTES: usize = 4096;
/// Deepest nesting of `not` and parentheses.
pub const SELECTOR_DEPTH: usize = 32;

/// A parsed selector; `Display` gives the text it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    text: String,
    expr: Expr,
}

/// What a selector looks at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub id: &'a DeviceId,
    pub name: &'a str,
    pub labels: &'a Labels,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Present(Label),
    In(Label, Vec<Label>),
}

impl Selector {
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > SELECTOR_BYTES {
            return refuse!(Usage, "the selector has {} bytes, at most {SELECTOR_BYTES}", text.len());
        }
        let tokens = tokens(text)?;
        let expr = match tokens.as_slice() {
            [] => Expr::All(Vec::new()),
            [Token::Word(word)] if word == "all" => Expr::All(Vec::new()),
            _ => {
                let mut parser = Parser {
                    tokens: &tokens,
                    depth: 0,
                };
                let expr = parser.any()?;
                parser.end()?;
                expr
            }
        };
        Ok(Self {
            text: text.to_owned(),
            expr,
        })
    }

    pub fn matches(&self, subject: Subject<'_>) -> bool {
        self.expr.matches(subject)
    }

    /// True when it selects every device whatever its labels.
    pub fn is_all(&self) -> bool {
        self.expr == Expr::All(Vec::new())
    }

    /// The keys it asks about.
    pub fn keys(&self) -> BTreeSet<&Label> {
        let mut keys = BTreeSet::new();
        self.expr.keys(&mut keys);
        keys
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
        f.write_str(&self.text)
    }
}

impl Expr {
    fn matches(&self, subject: Subject<'_>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(subject)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(subject)),
            Self::Not(part) => !part.matches(subject),
            Self::Present(key) => subject.value(key).is_some(),
            Self::In(key, values) => subject
                .value(key)
                .is_some_and(|found| values.iter().any(|value| value.as_str() == found)),
        }
    }

    fn keys<'a>(&'a self, keys: &mut BTreeSet<&'a Label>) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.keys(keys)),
            Self::Not(part) => part.keys(keys),
            Self::Present(key) | Self::In(key, _) => {
                keys.insert(key);
            }
        }
    }
}

impl Subject<'_> {
    fn value(&self, key: &Label) -> Option<String> {
        match key.as_str() {
            "id" => Some(self.id.to_string()),
            "name" => Some(self.name.to_owned()),
            _ => self.labels.get(key).map(ToString::to_string),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// In quotes: a value, never a keyword.
    Quoted(String),
    Open,
    Close,
    Comma,
    Equal,
    NotEqual,
}

struct Parser<'a> {
    tokens: &'a [Token],
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Expr, Refusal> {
        let mut parts = vec![self.all()?];
        while self.takes_word("or") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr, Refusal> {
        let mut parts = vec![self.not()?];
        while self.takes_word("and") {
            parts.push(self.not()?);
        }
        Ok(one_or(parts, Expr::All))
    }

    fn not(&mut self) -> Result<Expr, Refusal> {
        if self.depth >= SELECTOR_DEPTH {
            return refuse!(Usage, "the selector is nested deeper than {SELECTOR_DEPTH}");
        }
        self.depth += 1;
        let expr = if self.takes_word("not") {
            Expr::Not(Box::new(self.not()?))
        } else if self.takes(&Token::Open) {
            let inner = self.any()?;
            self.needs(&Token::Close, "`)`")?;
            inner
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn test(&mut self) -> Result<Expr, Refusal> {
        let key = match self.next() {
            Some(Token::Word(word)) if !matches!(word.as_str(), "and" | "or" | "in" | "not") => label("key", word)?,
            other => return expected("a key", other),
        };
        if self.takes(&Token::Equal) {
            return Ok(Expr::In(key, vec![self.value()?]));
        }
        if self.takes(&Token::NotEqual) {
            return Ok(Expr::Not(Box::new(Expr::In(key, vec![self.value()?]))));
        }
        if !self.takes_word("in") {
            return Ok(Expr::Present(key));
        }
        self.needs(&Token::Open, "`(`")?;
        let mut values = vec![self.value()?];
        while self.takes(&Token::Comma) {
            values.push(self.value()?);
        }
        self.needs(&Token::Close, "`)`")?;
        Ok(Expr::In(key, values))
    }

    fn value(&mut self) -> Result<Label, Refusal> {
        match self.next() {
            Some(Token::Word(text) | Token::Quoted(text)) => label("value", text),
            other => expected("a value", other),
        }
    }

    fn end(&self) -> Result<(), Refusal> {
        match self.tokens.first() {
            None => Ok(()),
            found => expected("`and`, `or` or the end", found),
        }
    }

    fn next(&mut self) -> Option<&Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn takes(&mut self, token: &Token) -> bool {
        let found = self.tokens.first() == Some(token);
        if found {
            self.next();
        }
        found
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let found = matches!(self.tokens.first(), Some(Token::Word(w)) if w == word);
        if found {
            self.next();
        }
        found
    }

    fn needs(&mut self, token: &Token, what: &str) -> Result<(), Refusal> {
        if self.takes(token) {
            return Ok(());
        }
        expected(what, self.tokens.first())
    }
}

fn one_or(mut parts: Vec<Expr>, more: fn(Vec<Expr>) -> Expr) -> Expr {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            more(parts)
        }
        None => more(parts),
    }
}

fn label(what: &str, text: &str) -> Result<Label, Refusal> {
    match Label::parse(text) {
        Ok(label) => Ok(label),
        Err(bad) => refuse!(Usage, "selector: {what}: {bad}"),
    }
}

fn expected<T>(what: &str, found: Option<&Token>) -> Result<T, Refusal> {
    let found = match found {
        None => "the end".to_owned(),
        Some(Token::Word(text) | Token::Quoted(text)) => format!("`{}`", printable(text, 40)),
        Some(Token::Open) => "`(`".to_owned(),
        Some(Token::Close) => "`)`".to_owned(),
        Some(Token::Comma) => "`,`".to_owned(),
        Some(Token::Equal) => "`=`".to_owned(),
        Some(Token::NotEqual) => "`!=`".to_owned(),
    };
    refuse!(Usage, "selector: expected {what}, found {found}")
}

fn tokens(text: &str) -> Result<Vec<Token>, Refusal> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '=' => (Token::Equal, 1),
            '!' if rest.starts_with("!=") => (Token::NotEqual, 2),
            '"' | '\'' => {
                let Some((inside, _)) = rest.get(1..).and_then(|r| r.split_once(first)) else {
                    return refuse!(Usage, "selector: a quote is not closed");
                };
                (Token::Quoted(inside.to_owned()), inside.len() + 2)
            }
            _ => {
                let ends = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '-'));
                let length = rest.find(ends).unwrap_or(rest.len());
                if length == 0 {
                    return refuse!(Usage, "selector: `{}` has no meaning here", printable(rest, 1));
                }
                (Token::Word(rest.get(..length).unwrap_or_default().to_owned()), length)
            }
        };
        tokens.push(token);
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Code;

    fn selects(selector: &str) -> bool {
        let labels: Labels = [("site", "lyon"), ("hw", "pos-3")]
            .map(|(k, v)| (Label::parse(k).unwrap(), Label::parse(v).unwrap()))
            .into();
        let subject = Subject {
            id: &DeviceId([0xab; 32]),
            name: "dev1",
            labels: &labels,
        };
        Selector::parse(selector).unwrap().matches(subject)
    }

    #[test]
    fn what_the_grammar_says() {
        for yes in [
            "",
            "all",
            "site = lyon",
            "site=lyon",
            "site != paris",
            "missing != x",
            "site in (paris, lyon)",
            "hw",
            "not missing",
            "not not hw",
            "site = paris or hw = pos-3",
            "site = lyon and not (hw = a or hw = b)",
            "site = 'lyon' and hw = \"pos-3\"",
            "name = dev1",
            &format!("id = {}", "ab".repeat(32)),
            // `and` binds tighter.
            "site = lyon or hw = x and missing",
        ] {
            assert!(selects(yes), "{yes}");
        }
        for no in [
            "site = paris",
            "missing",
            "site != lyon",
            "site in (a)",
            "(site = lyon or hw) and missing",
            "name = dev2",
        ] {
            assert!(!selects(no), "{no}");
        }
    }

    #[test]
    fn what_is_no_selector() {
        let deep = format!("{}hw{}", "(".repeat(40), ")".repeat(40));
        let long = "a".repeat(SELECTOR_BYTES + 1);
        for bad in [
            "site =",
            "= lyon",
            "site = lyon lyon",
            "(hw",
            "hw)",
            "site in lyon",
            "site in ()",
            "site in (a,)",
            "and",
            "hw and",
            "a == b",
            "a = 'b",
            "a = b;",
            "a = ''",
            "é",
            "!a",
            &deep,
            &long,
        ] {
            assert_eq!(Selector::parse(bad).map_err(|r| r.code), Err(Code::Usage), "{bad}");
        }
    }

    #[test]
    fn the_keys_it_asks_about() {
        let selector = Selector::parse("site = lyon and not (hw in (a, b) or group)").unwrap();
        assert_eq!(
            selector.keys().into_iter().map(Label::as_str).collect::<Vec<_>>(),
            ["group", "hw", "site"]
        );
        assert!(Selector::parse(" all ").unwrap().is_all());
        assert!(!selector.is_all());
    }
}
