//! `controller.toml` and its drop-ins: every key has a default, so no file at all is fine. `docs/controller.toml` lists them all; a
//! test compares it with [`Config::default`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Read when `--config` names no other; drop-ins lie beside it in `controller.d/*.toml`, later names win.
pub const DEFAULT_PATH: &str = "/etc/ensign/controller.toml";

/// What the daemon is told. Command-line flags win over the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address of devices (UDP) and operators (TCP); none = the port of the kit's address, on its host if that is loopback, else on
    /// every address.
    pub listen: Option<SocketAddr>,
    /// Address of operators alone; the devices' port then answers no HTTP. None = the same as `listen`.
    pub operator_listen: Option<SocketAddr>,
    /// Plain HTTP with `/metrics` and `/healthz`; none = not served.
    pub metrics_listen: Option<SocketAddr>,
    /// Least level that is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter.
    pub log: String,
    /// Longest silence between two reports that devices are told to keep, seconds.
    pub check_in_s: u64,
    /// Life of a lease, seconds of the device's boot clock; 30 to 900. A halt reaches a device that is cut off within it.
    pub lease_s: u64,
    /// Life of a snapshot, seconds; at most 14 days. Renewed at a third of it.
    pub snapshot_life_s: u64,
    /// Life of a timestamp, seconds; at most 3 days unless root's policy says more. Renewed at a third of it.
    pub timestamp_life_s: u64,
    /// Connections with a valid API token at once; one more takes the place of the one that was used least lately.
    pub operator_connections: usize,
    /// The host's clock is kept right by something that leaves no sign of it (a hypervisor): far jumps ahead are believed.
    pub trust_clock: bool,
}

/// Why the configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    #[error("{path} is not a configuration")]
    Parse {
        path: PathBuf,
        #[source]
        error: Box<toml::de::Error>,
    },
    #[error("{key} is {value}, {least} to {most} are allowed")]
    Range {
        key: &'static str,
        value: u64,
        least: u64,
        most: u64,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            operator_listen: None,
            metrics_listen: None,
            log: "info".to_owned(),
            check_in_s: 300,
            lease_s: 900,
            snapshot_life_s: 7 * 24 * 3600,
            timestamp_life_s: 24 * 3600,
            operator_connections: 256,
            trust_clock: false,
        }
    }
}

impl Config {
    /// The file at `path` (the default one may be missing) with its drop-ins over it.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let main = path.unwrap_or(Path::new(DEFAULT_PATH));
        let mut keys = toml::Table::new();
        if path.is_some() || main.exists() {
            keys.extend(table(main)?);
        }
        for file in drop_ins(&main.with_extension("d"))? {
            keys.extend(table(&file)?);
        }
        let config: Self = keys.try_into().map_err(|error| ConfigError::Parse {
            path: main.to_owned(),
            error: Box::new(error),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Refuses numbers that devices would not accept.
    pub fn check(&self) -> Result<(), ConfigError> {
        use ensign_bundle::limits;
        let ranges = BTreeMap::from([
            ("check_in_s", (self.check_in_s, 5, limits::CLAMP_S)),
            ("lease_s", (self.lease_s, 30, limits::LEASE_S)),
            ("snapshot_life_s", (self.snapshot_life_s, 3600, limits::SNAPSHOT_LIFE_S)),
            (
                "timestamp_life_s",
                (self.timestamp_life_s, 600, limits::AIR_GAPPED_TIMESTAMP_LIFE_S),
            ),
        ]);
        for (key, (value, least, most)) in ranges {
            if !(least..=most).contains(&value) {
                return Err(ConfigError::Range {
                    key,
                    value,
                    least,
                    most,
                });
            }
        }
        Ok(())
    }
}

fn table(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
        path: path.to_owned(),
        error,
    })?;
    text.parse().map_err(|error| ConfigError::Parse {
        path: path.to_owned(),
        error: Box::new(error),
    })
}

/// `*.toml` in `folder`, sorted by name; a folder that is not there has none.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |error| ConfigError::Read {
        path: folder.to_owned(),
        error,
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_says_every_default() {
        let sample = include_str!("../../docs/controller.toml");
        // Keys without a default are shown commented out, with the word `none`.
        let mut text = String::new();
        let mut named = Vec::new();
        for line in sample.lines() {
            if let Some(key) = line.strip_prefix("# ").and_then(|l| l.split_once(" = ")) {
                named.push(key.0.to_owned());
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
        let config: Config = toml::from_str(&text).unwrap();
        assert_eq!(config, Config::default());
        named.extend(text.parse::<toml::Table>().unwrap().keys().cloned());
        for key in [
            "listen",
            "operator_listen",
            "metrics_listen",
            "log",
            "check_in_s",
            "lease_s",
            "snapshot_life_s",
            "timestamp_life_s",
            "operator_connections",
            "trust_clock",
        ] {
            assert!(named.iter().any(|n| n == key), "{key} is not in the sample");
        }
        assert_eq!(named.len(), 10, "{named:?}");
    }

    #[test]
    fn drop_ins_win_and_unknown_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("controller.toml");
        #[expect(clippy::disallowed_methods, reason = "a test's own file needs no durability")]
        let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        write(&main, "lease_s = 60\nlog = \"warn\"\n");
        std::fs::create_dir(folder.path().join("controller.d")).unwrap();
        write(&folder.path().join("controller.d/10-more.toml"), "lease_s = 120\n");
        let config = Config::load(Some(&main)).unwrap();
        assert_eq!((config.lease_s, config.log.as_str()), (120, "warn"));
        write(&main, "lease = 60\n");
        assert!(matches!(Config::load(Some(&main)), Err(ConfigError::Parse { .. })));
        write(&main, "check_in_s = 1\n");
        assert!(matches!(
            Config::load(Some(&main)),
            Err(ConfigError::Range { key: "check_in_s", .. })
        ));
    }
}
