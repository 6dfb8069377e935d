//! From text to an expression: the grammar at the top of [`super`], read from left to right.

use std::fmt;

use super::{Expr, KEYWORDS, SELECTOR_BYTES, SELECTOR_DEPTH, SELECTOR_TESTS};
use crate::digest::DeviceId;
use crate::ids::Label;
use crate::reason::{Code, Refusal};
use crate::text::printable;

/// The expression in `text`.
pub(super) fn expression(text: &str) -> Result<Expr, Refusal> {
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
        return Ok(Expr::All(Vec::new()));
    }
    let expr = parser.any()?;
    match parser.peek()? {
        (_, Token::End) => Ok(expr),
        (at, token) => Err(usage(text, at, &format!("expected `and` or `or`, found {token}"))),
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
