//! Paths inside a component: what may stand in a release, decided byte by byte before any of it reaches a file system.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::{NAME_BYTES, PATH_BYTES, PATH_DEPTH};
use crate::reason::Refusal;
use crate::refuse;
use crate::text::printable;

/// Characters of a refused path that a message shows.
const SHOWN: usize = 120;

/// A relative path of UTF-8 names separated by `/`.
///
/// No empty name, `.` or `..`, no NUL, no control character (C0, DEL, C1), names of at most 255 bytes, at most 1024 bytes in all,
/// at most 32 directories above the last name. Nothing is normalised: two paths are equal when their bytes are.
///
/// Ordered name by name (as if `/` sorted before every other byte), so that whatever lies in a directory follows it directly.
#[derive(Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct TreePath(String);

impl TreePath {
    /// Refuses what breaks a rule above with `path-refused`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        check(text)?;
        Ok(Self(text.to_owned()))
    }

    /// With `/` between the names; 1 to 1,024 bytes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names, outermost first; at least one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The last name.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The directory it lies in; empty at the component's top.
    pub fn parent(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    /// What follows the last dot of the name; empty for none and for dot files.
    pub fn extension(&self) -> &str {
        match self.name().rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() => extension,
            _ => "",
        }
    }

    /// Directories above the last name.
    pub fn depth(&self) -> usize {
        self.0.bytes().filter(|b| *b == b'/').count()
    }
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0, PATH_BYTES))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl AsRef<str> for TreePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Refuses the target of the symlink at `link` unless it is relative and stays inside the component. It may point at nothing.
///
/// `..` may only stand in front: behind a name it could climb out through another symlink, which no check of the text sees.
pub fn check_target(link: &TreePath, target: &str) -> Result<(), Refusal> {
    if target.is_empty() {
        return refuse!(PathRefused, "the symlink {link} has an empty target");
    }
    if target.len() > PATH_BYTES {
        let (bytes, most) = (target.len(), PATH_BYTES);
        return refuse!(
            PathRefused,
            "the target of {link} has {bytes} bytes, at most {most} are allowed"
        );
    }
    let shown = printable(target, SHOWN);
    if target.starts_with('/') {
        return refuse!(PathRefused, "the symlink {link} points to the absolute path `{shown}`");
    }
    if target.chars().any(char::is_control) {
        return refuse!(PathRefused, "the target `{shown}` of {link} has a control character");
    }
    let mut above = link.depth();
    let mut named = false;
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." if named => {
                return refuse!(PathRefused, "the target `{shown}` of {link} has `..` behind a name");
            }
            ".." => match above.checked_sub(1) {
                Some(rest) => above = rest,
                None => return refuse!(PathRefused, "the symlink {link} leaves the component: `{shown}`"),
            },
            name if name.len() > NAME_BYTES => return too_long(name),
            _ => named = true,
        }
    }
    Ok(())
}

fn check(text: &str) -> Result<(), Refusal> {
    let (bytes, shown) = (text.len(), printable(text, SHOWN));
    if bytes > PATH_BYTES {
        return refuse!(
            PathRefused,
            "the path `{shown}` has {bytes} bytes, at most {PATH_BYTES} are allowed"
        );
    }
    if text.starts_with('/') {
        return refuse!(PathRefused, "the path `{shown}` is absolute");
    }
    if text.chars().any(char::is_control) {
        return refuse!(PathRefused, "the path `{shown}` has a control character");
    }
    for name in text.split('/') {
        if matches!(name, "" | "." | "..") {
            return refuse!(PathRefused, "the path `{shown}` has the name `{name}`");
        }
        if name.len() > NAME_BYTES {
            return too_long(name);
        }
    }
    let depth = text.bytes().filter(|b| *b == b'/').count();
    if depth > PATH_DEPTH {
        return refuse!(
            PathRefused,
            "the path `{shown}` lies {depth} directories deep, at most {PATH_DEPTH} are allowed"
        );
    }
    Ok(())
}

fn too_long(name: &str) -> Result<(), Refusal> {
    refuse!(
        PathRefused,
        "the name `{}` has {} bytes, at most {NAME_BYTES} are allowed",
        printable(name, 40),
        name.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Code;

    #[test]
    fn e38_hostile_paths_are_refused() {
        let deep = "a/".repeat(33) + "a";
        let long_name = "n".repeat(256);
        let long = ["n".repeat(250).as_str(); 5].join("/");
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            ".",
            "a/..",
            "a/../b",
            "../a",
            "a/./b",
            "a//b",
            "a/",
            "//a",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            "a\u{85}b",
            "\u{1b}[2J",
            &deep,
            &long_name,
            &long,
        ] {
            let refusal = TreePath::parse(bad).unwrap_err();
            assert_eq!(refusal.code, Code::PathRefused, "{bad:?}");
            assert!(!refusal.text.contains(char::is_control), "{bad:?}");
        }
    }

    #[test]
    fn what_real_trees_hold_is_allowed() {
        let deep = "a/".repeat(32) + "a";
        for good in [
            "a", "a/b.c", "...", "..a", "a b", "-rf", "é/ü", "A", "a\\b", "a:b", &deep,
        ] {
            assert!(TreePath::parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_directory_is_followed_by_what_lies_in_it() {
        let path = |text| TreePath::parse(text).unwrap();
        assert!(path("a") < path("a/b"));
        assert!(path("a/b") < path("a-b"), "though - sorts before / bytewise");
        assert_eq!(
            (path("a/b.tar.gz").extension(), path(".bashrc").extension()),
            ("gz", "")
        );
        assert_eq!((path("a/b").parent(), path("a").parent()), ("a", ""));
    }

    #[test]
    fn targets_stay_inside() {
        let link = TreePath::parse("lib/x/link").unwrap();
        for good in ["a", "../a", "../../a", "../..", ".", "./a/", "nowhere/at/all", "../y/z"] {
            assert!(check_target(&link, good).is_ok(), "{good}");
        }
        let long = "a/".repeat(600);
        for bad in [
            "",
            "/a",
            "../../../a",
            "../../..",
            "a/../b",
            "./../../../a",
            "a\0",
            "a\nb",
            &long,
        ] {
            assert_eq!(check_target(&link, bad).unwrap_err().code, Code::PathRefused, "{bad}");
        }
    }
}
