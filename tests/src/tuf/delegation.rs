//! Which role a targets role lets speak of a path (TUF §4.5, TAP 15).

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::key::Keys;
use super::metadata::Role;

/// The delegations of one targets role.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Delegations {
    pub(super) keys: Keys,
    #[serde(default)]
    pub(super) roles: Option<Vec<Delegated>>,
    #[serde(default)]
    pub(super) succinct_roles: Option<Bins>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Delegated {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) role: Role,
    pub(super) terminating: bool,
    #[serde(default)]
    paths: Option<Vec<String>>,
    #[serde(default)]
    path_hash_prefixes: Option<Vec<String>>,
}

/// Succinct hash bins: 2^`bit_length` roles with the same keys, chosen by the first bits of the path's SHA-256.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Bins {
    #[serde(flatten)]
    pub(super) role: Role,
    bit_length: u32,
    name_prefix: String,
}

/// Names that no delegation may take: they are the top-level roles' own.
const TOP_LEVEL: [&str; 4] = ["root", "targets", "snapshot", "timestamp"];

impl Delegations {
    /// What the types alone do not say.
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.roles, &self.succinct_roles) {
            (Some(roles), None) => roles.iter().try_for_each(Delegated::check),
            (None, Some(bins)) => bins.check(),
            _ => Err("delegations have either roles or bins".to_owned()),
        }
    }

    /// The keys of a role that is delegated to.
    pub(super) fn role(&self, name: &str) -> Option<&Role> {
        if let Some(bins) = &self.succinct_roles {
            return bins.has(name).then_some(&bins.role);
        }
        let mut roles = self.roles.iter().flatten();
        roles
            .find(|delegated| delegated.name == name)
            .map(|delegated| &delegated.role)
    }

    /// The roles that may speak of `path`, in order, and whether each ends the search.
    pub(super) fn for_path(&self, path: &str) -> Vec<(String, bool)> {
        if let Some(bins) = &self.succinct_roles {
            return vec![(bins.name_of(path), true)];
        }
        let roles = self.roles.iter().flatten().filter(|delegated| delegated.covers(path));
        roles
            .map(|delegated| (delegated.name.clone(), delegated.terminating))
            .collect()
    }
}

impl Delegated {
    fn check(&self) -> Result<(), String> {
        self.role.check(&self.name)?;
        if TOP_LEVEL.contains(&self.name.as_str()) {
            return Err(format!("a delegation takes the name {}", self.name));
        }
        if self.paths.is_some() == self.path_hash_prefixes.is_some() {
            return Err(format!("{} has either paths or hash prefixes", self.name));
        }
        Ok(())
    }

    fn covers(&self, path: &str) -> bool {
        let digest = hex::encode(Sha256::digest(path));
        let by_path = self.paths.iter().flatten().any(|pattern| matches(pattern, path));
        let mut prefixes = self.path_hash_prefixes.iter().flatten();
        by_path || prefixes.any(|prefix| digest.starts_with(prefix.as_str()))
    }
}

impl Bins {
    fn check(&self) -> Result<(), String> {
        self.role.check(&self.name_prefix)?;
        if !(1..=32).contains(&self.bit_length) {
            return Err(format!("bins with {} bits", self.bit_length));
        }
        Ok(())
    }

    fn name_of(&self, path: &str) -> String {
        let digest: [u8; 32] = Sha256::digest(path).into();
        let [a, b, c, d, ..] = digest;
        self.name_at(
            u32::from_be_bytes([a, b, c, d])
                .checked_shr(32 - self.bit_length)
                .unwrap_or(0),
        )
    }

    /// As many hexadecimal digits as the last bin needs.
    fn name_at(&self, bin: u32) -> String {
        let digits = self.bit_length.div_ceil(4) as usize;
        format!("{}-{bin:0digits$x}", self.name_prefix)
    }

    fn has(&self, name: &str) -> bool {
        let number = name
            .strip_prefix(self.name_prefix.as_str())
            .and_then(|rest| rest.strip_prefix('-'));
        let bin = number.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        bin.is_some_and(|bin| u64::from(bin) >> self.bit_length == 0 && self.name_at(bin) == name)
    }
}

/// Whether a pattern covers a path: `*` any run of characters and `?` any one, neither of them a `/`. Case matters.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut names) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), names.next()) {
            (None, None) => return true,
            (Some(pattern), Some(name)) if matches_name(pattern, name) => {}
            _ => return false,
        }
    }
}

fn matches_name(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // `reached[n]`: the pattern so far covers the first `n` characters.
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for token in pattern {
        let mut next = vec![false; name.len() + 1];
        for at in 0..=name.len() {
            next[at] = match token {
                '*' => reached[at] || (at > 0 && next[at - 1]),
                '?' => at > 0 && reached[at - 1],
                c => at > 0 && reached[at - 1] && name[at - 1] == c,
            };
        }
        reached = next;
    }
    reached[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stay_within_a_name() {
        for (pattern, path, covered) in [
            ("*", "file", true),
            ("*", "dir/file", false),
            ("dir/*", "dir/file", true),
            ("*.md", "readme.md", true),
            ("*.md", "readme.MD", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("?", "ab", false),
            ("*a*b*", "xxayybz", true),
            ("*a*b*", "xxbyya", false),
            ("", "", true),
            ("*", "", true),
            ("?", "é", true),
        ] {
            assert_eq!(matches(pattern, path), covered, "{pattern} {path}");
        }
    }

    #[test]
    fn bins_are_chosen_by_the_first_bits() {
        let bins = |bit_length| Bins {
            role: Role::default(),
            bit_length,
            name_prefix: "bin".to_owned(),
        };
        // The SHA-256 of `abc` starts with ba7816bf.
        for (bits, name) in [
            (1, "bin-1"),
            (4, "bin-b"),
            (5, "bin-17"),
            (8, "bin-ba"),
            (32, "bin-ba7816bf"),
        ] {
            assert_eq!(bins(bits).name_of("abc"), name);
            assert!(bins(bits).has(name));
        }
        for name in ["bin-2", "bin-01", "bin-", "bin", "other-1", "bin-+1"] {
            assert!(!bins(1).has(name), "{name}");
        }
    }
}
