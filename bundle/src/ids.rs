//! Names that people give: products, components, versions, labels. Parsed once, then valid for ever.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// Text that does not fit its grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{text}` is not {grammar}")]
pub struct BadName {
    pub what: &'static str,
    pub text: String,
    pub grammar: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $grammar:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name in `text`; refused unless it fits the grammar.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(BadName { what: $what, text: crate::text::printable(text, 80), grammar: $grammar })
                }
            }

            /// As it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A product, component, scope or handler: `[a-z0-9][a-z0-9._-]{0,63}`.
    Ident, "name", "[a-z0-9][a-z0-9._-]{0,63}",
    |t| matches(t, 64, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), |c| matches!(c, b'.' | b'_' | b'-'))
);
name!(
    /// A release's version: SemVer, or `[0-9A-Za-z][0-9A-Za-z.+_-]{0,62}`.
    Version, "version", "[0-9A-Za-z][0-9A-Za-z.+_-]{0,62}",
    |t| matches(t, 63, |c| c.is_ascii_alphanumeric(), |c| matches!(c, b'.' | b'+' | b'_' | b'-'))
);
name!(
    /// A label's key or value: `[A-Za-z0-9][A-Za-z0-9._/-]{0,62}`.
    Label, "label", "[A-Za-z0-9][A-Za-z0-9._/-]{0,62}",
    |t| matches(t, 63, |c| c.is_ascii_alphanumeric(), |c| matches!(c, b'.' | b'_' | b'/' | b'-'))
);

/// Labels of a device, as a grant states them.
pub type Labels = BTreeMap<Label, Label>;

impl Version {
    /// The release counter that follows from `major.minor.patch`: major·10^12 + minor·10^6 + patch. `None` for other forms: those
    /// need `--counter`.
    pub fn counter(&self) -> Option<u64> {
        let mut parts = self.0.split('.');
        let mut number = |limit: u64| -> Option<u64> {
            let part = parts.next()?;
            let plain =
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
            if plain {
                part.parse().ok().filter(|n| *n < limit)
            } else {
                None
            }
        };
        let (major, minor, patch) = (number(1_000_000)?, number(1_000_000)?, number(1_000_000)?);
        if parts.next().is_some() {
            return None;
        }
        Some(major * 1_000_000_000_000 + minor * 1_000_000 + patch)
    }
}

fn matches(text: &str, max: usize, first: fn(u8) -> bool, more: fn(u8) -> bool) -> bool {
    let mut bytes = text.bytes();
    text.len() <= max && bytes.next().is_some_and(first) && bytes.all(|b| first(b) || more(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        for good in ["a", "pos-conf", "gateway.os_2"] {
            assert!(Ident::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "../x", "a/b", "a b", &"a".repeat(65)] {
            assert!(Ident::parse(bad).is_err(), "{bad}");
        }
        assert!(Label::parse("eu/fr").is_ok());
        assert!(Version::parse("1.0.0-rc.1+5").is_ok());
        assert!(Version::parse("1/2").is_err());
    }

    #[test]
    fn counter_of_a_version() {
        let counter = |v: &str| Version::parse(v).unwrap().counter();
        assert_eq!(counter("1.2.3"), Some(1_000_002_000_003));
        assert_eq!(counter("0.0.0"), Some(0));
        for other in ["1.2", "1.2.3.4", "1.02.3", "1.2.3-rc1", "2024w7", "1.1000000.0"] {
            assert_eq!(counter(other), None, "{other}");
        }
    }
}
