//! What to build: the flags of `release build` and the file of `--manifest`, parsed and checked together.

use std::path::{Path, PathBuf};

use ensign_bundle::blocks::LEVELS;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::manifest::{CONTROLLER_WITHIN_S, Health, Probe, check_unit};
use ensign_bundle::path::TreePath;
use ensign_bundle::trust::roles::Compatible;
use serde::Deserialize;

use crate::args::Build;
use crate::failure::{Failure, Result};
use crate::{home, units};

/// Compression of an everyday build.
const LEVEL: i32 = 12;

/// A release to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub product: Ident,
    pub version: Version,
    pub counter: u64,
    /// In the order given: that in which units are restarted.
    pub components: Vec<ComponentWords>,
    pub health: Health,
    pub compatible: Compatible,
    pub level: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentWords {
    pub name: Ident,
    pub dir: PathBuf,
    pub units: Vec<String>,
}

/// `release.toml`: the flags' names with `_` for `-`. Folders are relative to the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    product: Option<String>,
    version: Option<String>,
    #[serde(default)]
    tree: Vec<String>,
    #[serde(default)]
    unit: Vec<String>,
    #[serde(default)]
    health: Vec<String>,
    health_window: Option<String>,
    health_deadline: Option<String>,
    #[serde(default)]
    hardware: Vec<String>,
    counter: Option<u64>,
    level: Option<i32>,
}

impl Words {
    pub fn of(flags: &Build) -> Result<Self> {
        let flags = match &flags.manifest {
            Some(path) => merge(flags, path)?,
            None => flags.clone(),
        };
        let bad = |e: ensign_bundle::ids::BadName| Failure::usage(e.to_string());
        let product = Ident::parse(&required(flags.product, "--product")?).map_err(bad)?;
        let version = Version::parse(&required(flags.version, "--version")?).map_err(bad)?;
        let counter = flags.counter.or_else(|| version.counter()).ok_or_else(|| {
            Failure::usage(format!(
                "the version {version} is not MAJOR.MINOR.PATCH: it has no counter of its own"
            ))
            .hint("add --counter N, higher than that of the release before")
        })?;
        let components = components(&flags.tree, &flags.unit)?;
        let health = Health {
            probes: flags
                .health
                .iter()
                .map(|text| probe(text, &components))
                .collect::<Result<_>>()?,
            window_s: flags.health_window.unwrap_or(Health::default().window_s),
            deadline_s: flags.health_deadline.unwrap_or(Health::default().deadline_s),
        };
        if health.window_s > health.deadline_s {
            return Err(Failure::usage(format!(
                "the health window of {} is longer than the deadline of {}",
                units::show_seconds(health.window_s),
                units::show_seconds(health.deadline_s)
            )));
        }
        let level = flags.level.unwrap_or(LEVEL);
        if !LEVELS.contains(&level) {
            return Err(Failure::usage(format!("--level {level}: 1 to 19 are possible")));
        }
        Ok(Self {
            product,
            version,
            counter,
            components,
            health,
            compatible: Compatible {
                hardware: flags.hardware,
                ..Compatible::default()
            },
            level,
        })
    }
}

/// The file's words, each replaced by the flag of its name where that is given.
fn merge(flags: &Build, path: &Path) -> Result<Build> {
    let bad = |e: String| Failure::usage(format!("{}: {e}", path.display()));
    let text = String::from_utf8_lossy(&home::read(path)?).into_owned();
    let file: File = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let pairs = |texts: &[String]| {
        texts
            .iter()
            .map(|t| units::key_value(t))
            .collect::<Result<Vec<_>, _>>()
            .map_err(bad)
    };
    let time = |text: Option<&String>| text.map(|t| units::seconds(t)).transpose().map_err(bad);
    let base = path.parent().unwrap_or(Path::new(""));
    let tree = pairs(&file.tree)?
        .into_iter()
        .map(|(name, dir)| (name, base.join(dir).to_string_lossy().into_owned()))
        .collect();
    let list = |flag: &Vec<String>, file: Vec<String>| if flag.is_empty() { file } else { flag.clone() };
    Ok(Build {
        product: flags.product.clone().or(file.product),
        version: flags.version.clone().or(file.version),
        tree: if flags.tree.is_empty() {
            tree
        } else {
            flags.tree.clone()
        },
        unit: if flags.unit.is_empty() {
            pairs(&file.unit)?
        } else {
            flags.unit.clone()
        },
        health: list(&flags.health, file.health),
        health_window: flags.health_window.or(time(file.health_window.as_ref())?),
        health_deadline: flags.health_deadline.or(time(file.health_deadline.as_ref())?),
        hardware: list(&flags.hardware, file.hardware),
        counter: flags.counter.or(file.counter),
        level: flags.level.or(file.level),
        manifest: None,
        out: flags.out.clone(),
    })
}

fn required(value: Option<String>, flag: &str) -> Result<String> {
    value.ok_or_else(|| Failure::usage(format!("{flag} is missing, in the flags and in the file")))
}

fn components(trees: &[(String, String)], of_units: &[(String, String)]) -> Result<Vec<ComponentWords>> {
    let mut components: Vec<ComponentWords> = Vec::new();
    for (name, dir) in trees {
        let name = Ident::parse(name).map_err(|e| Failure::usage(e.to_string()))?;
        if components.iter().any(|c| c.name == name) {
            return Err(Failure::usage(format!("two components are called {name}")));
        }
        components.push(ComponentWords {
            name,
            dir: PathBuf::from(dir),
            units: Vec::new(),
        });
    }
    if components.is_empty() {
        return Err(Failure::usage("a release needs at least one component").hint("add --tree NAME=DIR"));
    }
    for (name, unit) in of_units {
        check_unit(unit).map_err(|e| Failure::usage(e.text))?;
        component(&mut components, name)?.units.push(unit.clone());
    }
    Ok(components)
}

fn component<'a>(components: &'a mut [ComponentWords], name: &str) -> Result<&'a mut ComponentWords> {
    let known: Vec<String> = components.iter().map(|c| c.name.to_string()).collect();
    components
        .iter_mut()
        .find(|c| c.name.as_str() == name)
        .ok_or_else(|| Failure::usage(format!("there is no component `{name}`, only {}", known.join(", "))))
}

/// `[NAME=]` and one of `exec:PATH ARGS`, `unit:UNIT`, `http:URL`, `tcp:HOST:PORT`, `controller[:TIME]`.
fn probe(text: &str, components: &[ComponentWords]) -> Result<Probe> {
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) if !name.contains(':') => (Some(name), rest),
        _ => (None, text),
    };
    let known = |name: &str| component(&mut components.to_vec(), name).map(|c| c.name.clone());
    let owner = name.map(known).transpose()?;
    let (kind, value) = rest.split_once(':').unwrap_or((rest, ""));
    let checked = |probe: Probe| match probe.check() {
        Ok(()) => Ok(probe),
        Err(e) => Err(Failure::usage(format!("--health {text}: {}", e.text))),
    };
    match kind {
        "exec" => {
            let component = match (owner, components) {
                (Some(name), _) => name,
                (None, [only]) => only.name.clone(),
                (None, _) => {
                    return Err(Failure::usage(format!("--health {text}: which component?"))
                        .hint(format!("write --health NAME={rest}")));
                }
            };
            let mut words = argv(value)?.into_iter();
            let program = words
                .next()
                .ok_or_else(|| Failure::usage(format!("--health {text}: a path inside the component is missing")))?;
            let path = TreePath::parse(program.strip_prefix("./").unwrap_or(&program))
                .map_err(|e| Failure::usage(format!("--health {text}: {}", e.text)))?;
            Ok(Probe::Exec {
                component,
                path,
                args: words.collect(),
            })
        }
        "unit" => checked(Probe::Unit { unit: value.to_owned() }),
        "http" => checked(Probe::Http { url: rest.to_owned() }),
        "https" => Err(Failure::usage(format!("--health {text}: devices ask over http alone"))
            .hint("ask what listens on loopback over http:, or tcp:HOST:PORT")),
        "tcp" => checked(Probe::Tcp {
            address: value.to_owned(),
        }),
        "controller" => {
            let within_s = match value {
                "" => CONTROLLER_WITHIN_S,
                time => units::seconds(time).map_err(|e| Failure::usage(format!("--health {text}: {e}")))?,
            };
            checked(Probe::Controller { within_s })
        }
        _ => Err(Failure::usage(format!(
            "--health {text}: write [NAME=]exec:'PATH ARGS', unit:UNIT, http://HOST[:PORT]/PATH, tcp:HOST:PORT or controller[:TIME]"
        ))),
    }
}

/// Words of a command line; `'` and `"` keep spaces together. No shell ever sees it.
fn argv(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote): (Vec<String>, Option<String>, Option<char>) = (Vec::new(), None, None);
    for c in text.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            Some(_) | None => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Failure::usage(format!("the quote in `{text}` is not closed")));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(trees: &[&str]) -> Build {
        Build {
            product: Some("app".to_owned()),
            version: Some("1.2.3".to_owned()),
            tree: trees.iter().map(|t| units::key_value(t).unwrap()).collect(),
            ..Build::default()
        }
    }

    #[test]
    fn defaults() {
        let words = Words::of(&flags(&["web=./web"])).unwrap();
        assert_eq!(words.counter, 1_000_002_000_003);
        assert_eq!(
            (words.health.window_s, words.health.deadline_s, words.level),
            (5, 60, LEVEL)
        );
    }

    #[test]
    fn what_does_not_fit_together_is_exit_2() {
        let web = || flags(&["web=./web"]);
        let two = || flags(&["web=./web", "api=./api"]);
        let unit = vec![("api".to_owned(), "api.service".to_owned())];
        let cases = [
            flags(&["web=./a", "web=./b"]),
            flags(&["Web=./a"]),
            flags(&[]),
            Build { unit, ..web() },
            Build {
                health: vec!["exec:check".to_owned()],
                ..two()
            },
            Build {
                health: vec!["db=exec:check".to_owned()],
                ..two()
            },
            Build {
                health: vec!["exec:".to_owned()],
                ..web()
            },
            Build {
                health: vec!["exec:/bin/true".to_owned()],
                ..web()
            },
            Build {
                health: vec!["exec:'check".to_owned()],
                ..web()
            },
            Build {
                health: vec!["http:localhost/?a=b".to_owned()],
                ..web()
            },
            Build {
                health_window: Some(90),
                ..web()
            },
            Build {
                version: Some("2024w7".to_owned()),
                ..web()
            },
            Build { version: None, ..web() },
        ];
        for case in cases {
            assert_eq!(Words::of(&case).map_err(|e| e.exit()), Err(2), "{case:?}");
        }
    }

    #[test]
    fn probes() {
        let build = Build {
            health: vec![
                "api=exec:./bin/check --name 'a b'".to_owned(),
                "unit:api.service".to_owned(),
                "http://127.0.0.1:8080/health?deep=1".to_owned(),
                "web=tcp:localhost:80".to_owned(),
                "controller".to_owned(),
                "controller:90s".to_owned(),
            ],
            ..flags(&["web=./web", "api=./api"])
        };
        let words = Words::of(&build).unwrap();
        let exec = Probe::Exec {
            component: Ident::parse("api").unwrap(),
            path: TreePath::parse("bin/check").unwrap(),
            args: vec!["--name".to_owned(), "a b".to_owned()],
        };
        let unit = Probe::Unit {
            unit: "api.service".to_owned(),
        };
        let http = Probe::Http {
            url: "http://127.0.0.1:8080/health?deep=1".to_owned(),
        };
        let tcp = Probe::Tcp {
            address: "localhost:80".to_owned(),
        };
        let controller = |within_s| Probe::Controller { within_s };
        assert_eq!(
            words.health.probes,
            [exec, unit, http, tcp, controller(600), controller(90)]
        );
        for wrong in [
            "https://localhost/",
            "http://a@b/",
            "http:/x",
            "tcp:localhost",
            "controller:0s",
            "controller:soon",
            "ping:localhost",
            "other=tcp:localhost:80",
        ] {
            let build = Build {
                health: vec![wrong.to_owned()],
                ..flags(&["web=./web", "api=./api"])
            };
            assert_eq!(Words::of(&build).map_err(|e| e.exit()), Err(2), "{wrong}");
        }
    }

    #[test]
    fn a_file_gives_what_flags_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("release.toml");
        let text = "product = 'app'\nversion = '1.0.0'\ntree = ['web=web']\nhealth_window = '2s'\nlevel = 3\n";
        crate::durable::write(&path, text.as_bytes(), 0o644).unwrap();
        let build = Build {
            version: Some("1.1.0".to_owned()),
            manifest: Some(path.clone()),
            ..Build::default()
        };
        let words = Words::of(&build).unwrap();
        assert_eq!(words.version.as_str(), "1.1.0");
        assert_eq!(words.components[0].dir, dir.path().join("web"));
        assert_eq!((words.health.window_s, words.level), (2, 3));
        crate::durable::write(&path, b"tres = []", 0o644).unwrap();
        assert_eq!(Words::of(&build).unwrap_err().exit(), 2);
    }
}
