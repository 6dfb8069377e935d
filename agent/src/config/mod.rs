//! `agent.toml`: what an administrator may set on a device. `docs/agent.toml` lists every key with its unit and default.
//!
//! Read from `usr/lib/ensign`, `run/ensign` and `etc/ensign`, each `agent.toml` before `agent.d/*.toml` by name; later wins.

mod files;

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use files::Reader;
pub(crate) use files::require_owned;

use crate::paths::Paths;

/// Most streams on which bytes are fetched at once.
const MAX_STREAMS: usize = 64;
/// Longest keep-alive and idle time: beyond it a dead path would go unnoticed for hours.
const MAX_TIMEOUT_S: u64 = 3600;

/// The configuration in force. The defaults are those of an absent file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub controller: Controller,
    pub link: Link,
    pub applier: Applier,
    pub runner: Runner,
}

/// `[controller]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controller {
    /// `HOST:PORT`s used instead of those in the fleet's root. The pinned keys stay those of the root.
    pub addresses: Vec<String>,
}

/// `[link]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Streams on which blocks are fetched at once.
    pub streams: usize,
    /// Downloaded blocks kept on disk for a resume, bytes.
    pub cache_bytes: u64,
    /// Fetched ahead of what the applier took, bytes.
    pub ahead_bytes: u64,
    pub keep_alive: Duration,
    pub idle_timeout: Duration,
}

/// `[applier]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applier {
    /// Takes part in a fleet whose keys have no passphrase although this is the machine's own root.
    pub allow_lab: bool,
    /// What `--hardware` of a release is compared with; empty = only releases for any hardware.
    pub hardware: String,
    pub sandbox: Sandbox,
    /// Left free on the file system of the deployments, bytes.
    pub reserve_bytes: u64,
}

/// How well the process that unpacks must be confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// What this kernel offers; logged.
    #[default]
    BestAvailable,
    /// Landlock and seccomp, or nothing is unpacked.
    Required,
}

/// `[runner]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runner {
    /// Exact names of units that may be started, stopped and restarted through systemd.
    pub units: Vec<String>,
    /// Hosts beyond loopback that HTTP and TCP probes may ask, as they stand in the probe.
    pub probe_hosts: Vec<String>,
}

/// Why the configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{} line {line}: {text}", path.display())]
    Syntax { path: PathBuf, line: usize, text: String },
    #[error("{}: `{key}` is {found}, it must be {expected}", path.display())]
    Range {
        path: PathBuf,
        key: &'static str,
        found: String,
        expected: String,
    },
    #[error("{}: `{key}` may only stand in etc/ensign or usr/lib/ensign", path.display())]
    Place { path: PathBuf, key: &'static str },
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controller: Controller::default(),
            link: Link {
                streams: 4,
                cache_bytes: 256 << 20,
                ahead_bytes: 32 << 20,
                keep_alive: Duration::from_secs(25),
                idle_timeout: Duration::from_secs(60),
            },
            applier: Applier {
                allow_lab: false,
                hardware: String::new(),
                sandbox: Sandbox::default(),
                reserve_bytes: 16 << 20,
            },
            runner: Runner::default(),
        }
    }
}

impl Config {
    /// The configuration under this root, as `reader` may read it.
    pub fn load(paths: &Paths, reader: Reader) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for file in files::list(paths, reader)? {
            config.apply(&file)?;
        }
        Ok(config)
    }

    /// What one file says, over what earlier ones said. A list replaces the earlier list.
    fn apply(&mut self, file: &files::File) -> Result<(), ConfigError> {
        let layer: Layer = toml::from_str(&file.text).map_err(|e| syntax(file, &e))?;
        if !file.privileged {
            let misplaced = [
                ("runner.units", layer.runner.units.is_some()),
                ("runner.probe_hosts", layer.runner.probe_hosts.is_some()),
                ("applier.hardware", layer.applier.hardware.is_some()),
                ("applier.sandbox", layer.applier.sandbox.is_some()),
                ("applier.allow_lab", layer.applier.allow_lab.is_some()),
            ];
            if let Some((key, _)) = misplaced.into_iter().find(|(_, there)| *there) {
                return Err(ConfigError::Place {
                    path: file.path.clone(),
                    key,
                });
            }
        }
        let range = |key, found: &dyn std::fmt::Display, expected: String| ConfigError::Range {
            path: file.path.clone(),
            key,
            found: found.to_string(),
            expected,
        };
        let seconds = |key, value: u64| {
            (1..=MAX_TIMEOUT_S)
                .contains(&value)
                .then_some(Duration::from_secs(value))
                .ok_or_else(|| range(key, &value, format!("1 to {MAX_TIMEOUT_S} s")))
        };
        set(&mut self.controller.addresses, layer.controller.addresses);
        if let Some(streams) = layer.link.streams {
            if !(1..=MAX_STREAMS).contains(&streams) {
                return Err(range("link.streams", &streams, format!("1 to {MAX_STREAMS}")));
            }
            self.link.streams = streams;
        }
        set(&mut self.link.cache_bytes, layer.link.cache_bytes);
        set(&mut self.link.ahead_bytes, layer.link.ahead_bytes);
        if let Some(value) = layer.link.keep_alive_s {
            self.link.keep_alive = seconds("link.keep_alive_s", value)?;
        }
        if let Some(value) = layer.link.idle_timeout_s {
            self.link.idle_timeout = seconds("link.idle_timeout_s", value)?;
        }
        set(&mut self.applier.allow_lab, layer.applier.allow_lab);
        set(&mut self.applier.hardware, layer.applier.hardware);
        set(&mut self.applier.sandbox, layer.applier.sandbox);
        set(&mut self.applier.reserve_bytes, layer.applier.reserve_bytes);
        set(&mut self.runner.units, layer.runner.units);
        set(&mut self.runner.probe_hosts, layer.runner.probe_hosts);
        Ok(())
    }
}

fn set<T>(field: &mut T, layer: Option<T>) {
    if let Some(value) = layer {
        *field = value;
    }
}

fn syntax(file: &files::File, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| file.text.get(..span.start)).unwrap_or("");
    ConfigError::Syntax {
        path: file.path.clone(),
        line: before.matches('\n').count() + 1,
        text: ensign_bundle::text::printable(error.message(), 200),
    }
}

/// One file: every key may be left out, none may be unknown.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Layer {
    controller: ControllerLayer,
    link: LinkLayer,
    applier: ApplierLayer,
    runner: RunnerLayer,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ControllerLayer {
    addresses: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LinkLayer {
    streams: Option<usize>,
    cache_bytes: Option<u64>,
    ahead_bytes: Option<u64>,
    keep_alive_s: Option<u64>,
    idle_timeout_s: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ApplierLayer {
    allow_lab: Option<bool>,
    hardware: Option<String>,
    sandbox: Option<Sandbox>,
    reserve_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RunnerLayer {
    units: Option<Vec<String>>,
    probe_hosts: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn root(files: &[(&str, &str)]) -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            #[expect(clippy::disallowed_methods, reason = "a test's input")]
            fs::write(path, text).unwrap();
        }
        let paths = Paths::new(dir.path());
        (dir, paths)
    }

    /// The commented sample, read as if every line were in force, is the built-in default, and names every key.
    #[test]
    fn the_sample_file_shows_the_defaults() {
        let sample = include_str!("../../../docs/agent.toml");
        let text: String = sample
            .lines()
            .map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n")
            .collect();
        let file = files::File {
            path: "docs/agent.toml".into(),
            text: text.clone(),
            privileged: true,
        };
        let blank = Duration::from_secs(3599);
        let mut config = Config {
            controller: Controller {
                addresses: vec!["x".into()],
            },
            link: Link {
                streams: 63,
                cache_bytes: 1,
                ahead_bytes: 1,
                keep_alive: blank,
                idle_timeout: blank,
            },
            applier: Applier {
                allow_lab: true,
                hardware: "x".into(),
                sandbox: Sandbox::Required,
                reserve_bytes: 1,
            },
            runner: Runner {
                units: vec!["x".into()],
                probe_hosts: vec!["x".into()],
            },
        };
        config.apply(&file).unwrap();
        assert_eq!(config, Config::default());
    }

    #[test]
    fn later_files_win() {
        let (_dir, paths) = root(&[
            ("usr/lib/ensign/agent.toml", "link.streams = 1\nlink.cache_bytes = 1"),
            ("run/ensign/agent.toml", "link.streams = 2"),
            ("etc/ensign/agent.toml", "link.streams = 3"),
            ("etc/ensign/agent.d/20.toml", "link.streams = 5"),
            ("etc/ensign/agent.d/10.toml", "link.streams = 4"),
            ("etc/ensign/agent.d/30.conf", "no toml at all ["),
        ]);
        let config = Config::load(&paths, Reader::Link).unwrap();
        assert_eq!((config.link.streams, config.link.cache_bytes), (5, 1));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_file_and_line() {
        let (_dir, paths) = root(&[("etc/ensign/agent.toml", "\n[link]\nstreams = 2\nstreems = 3\n")]);
        let error = Config::load(&paths, Reader::Link).unwrap_err().to_string();
        assert!(error.contains("etc/ensign/agent.toml line 4"), "{error}");
        assert!(error.contains("streems"), "{error}");
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for text in [
            "link.streams = 0",
            "link.streams = 65",
            "link.keep_alive_s = 0",
            "link.idle_timeout_s = 3601",
        ] {
            let (_dir, paths) = root(&[("etc/ensign/agent.toml", text)]);
            let error = Config::load(&paths, Reader::Link).unwrap_err();
            assert!(matches!(error, ConfigError::Range { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn what_grants_rights_may_not_come_from_run() {
        for text in [
            "runner.units = [\"a.service\"]",
            "applier.hardware = \"x\"",
            "applier.allow_lab = true",
            "applier.sandbox = \"best-available\"",
        ] {
            let (_dir, paths) = root(&[("run/ensign/agent.toml", text)]);
            let error = Config::load(&paths, Reader::Applier).unwrap_err();
            assert!(matches!(error, ConfigError::Place { .. }), "{text}: {error}");
        }
    }
}
