//! From an expression to text that parses to the same.

use std::fmt;

use super::{Expr, KEYWORDS};

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
