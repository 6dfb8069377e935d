//! `fleet init`: a trust domain of its own.
//!
//! The signing keys stay in this operator's home. The kit holds what the controller needs: the first root and targets, the two
//! online keys, its own TLS keys. Nothing appears under its name before all of it is on disk, and one that was killed is gone on with
//! by the next ([`Begun`]).

use std::path::{Path, PathBuf};

use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_crypto::sealed::Cost;
use serde::Serialize;

use crate::client;
use crate::failure::{Failure, Result};
use crate::fleet::begun::{Begun, Note};
use crate::fleet::files;
use crate::fleet::founding::{self, Online};
use crate::home::{self, ContextFile, Home, KeyRole};
use crate::output::{Document, Facts, Paint, Shell};
use crate::passphrase::Passphrase;
use crate::{clock, random};

/// `fleet init`'s words.
#[derive(Clone, Debug)]
pub struct Init {
    pub name: String,
    pub address: String,
    pub kit: PathBuf,
    pub no_passphrase: bool,
}

#[derive(Debug, Serialize)]
pub struct Made {
    id: FleetId,
    name: Ident,
    controller: String,
    kit: PathBuf,
    keys: Vec<MadeKey>,
    lab: bool,
}

#[derive(Debug, Serialize)]
struct MadeKey {
    role: &'static str,
    key: ensign_crypto::KeyId,
    path: PathBuf,
}

pub fn run(shell: &Shell, home: &Home, words: &Init) -> Result<()> {
    let name = Ident::parse(&words.name).map_err(|e| Failure::usage(e.to_string()))?;
    let host = client::host(&words.address)?;
    if home.note_path(&name).exists() && !shell.dry_run {
        let mut begun = Begun::open(home, &name)?;
        let made = begun.recover(home, &name)?;
        begun.finish()?;
        if let Some(note) =
            made.filter(|note| note.address == words.address && Some(&note.kit) == absolute(words).ok().as_ref())
        {
            return show(shell, home, words, &name, note.fleet);
        }
    }
    refuse_existing(home, &name, &words.kit)?;
    if shell.dry_run {
        return shell.would(format!("make the fleet {name} with a kit in {}", words.kit.display()));
    }
    let passphrase = if words.no_passphrase {
        None
    } else {
        Some(Passphrase::new().map_err(|e| match e.code {
            Code::PassphraseMissing => e.hint(
                "ENSIGN_PASSPHRASE_FILE names a file whose first line is the passphrase; --no-passphrase makes a lab fleet",
            ),
            _ => e,
        })?)
    };
    make(shell, home, words, &name, host, passphrase.as_ref())
}

fn make(
    shell: &Shell,
    home: &Home,
    words: &Init,
    name: &Ident,
    host: &str,
    passphrase: Option<&Passphrase>,
) -> Result<()> {
    let signing = KeyRole::ALL
        .into_iter()
        .map(|role| Ok((role, random::key()?)))
        .collect::<Result<Vec<_>>>()?;
    let online = Online::make(host)?;
    let fleet = FleetId(random::bytes()?);
    let now = clock::now();
    let lab = passphrase.is_none();
    let new = founding::new_fleet(&fleet, name, &words.address, lab, &signing, &online)?;
    let root = founding::root(&new, now, &signing)?;
    let targets = founding::targets(&new, now, &signing)?;
    let mut begun = Begun::open(home, name)?;
    begun.write(&Note {
        fleet,
        address: words.address.clone(),
        kit: absolute(words)?,
    })?;
    let api_token = hex::encode(random::bytes::<32>()?);
    let context = ContextFile {
        format: home::FORMAT,
        fleet,
        name: name.clone(),
        address: words.address.clone(),
        root_hash: Digest::of(&root),
    };

    files::write_keys(home, name, &signing, passphrase.map(|p| (p, Cost::RECOMMENDED)))?;
    files::write_kit(&words.kit, &context, &root, &targets, &online, &api_token)?;
    files::write_context(home, &context, &root, &targets, &api_token)?;
    home.select(name)?;
    begun.finish()?;
    show(shell, home, words, name, fleet)
}

/// What was made, as it lies there.
fn show(shell: &Shell, home: &Home, words: &Init, name: &Ident, fleet: FleetId) -> Result<()> {
    let context = home.current()?;
    let stored = |role| Ok((role, context.stored(role)?));
    let keys = KeyRole::ALL.into_iter().map(stored).collect::<Result<Vec<_>>>()?;
    let keys_dir = home.keys_dir(name);
    shell.print(&Made {
        id: fleet,
        name: name.clone(),
        controller: words.address.clone(),
        kit: words.kit.clone(),
        lab: keys.iter().all(|(_, key)| !key.is_encrypted()),
        keys: keys
            .iter()
            .map(|(role, key)| MadeKey {
                role: role.name(),
                key: key.public().id(),
                path: home::key_path(&keys_dir, *role),
            })
            .collect(),
    })?;
    let recovery = home::key_path(&keys_dir, KeyRole::Recovery);
    Shell::warn(&format!(
        "move {} to a place of its own (a stick in a safe): it replaces a lost root key",
        recovery.display()
    ));
    Ok(())
}

impl Document for Made {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts
            .add("fleet", self.name.as_str())
            .add("id", self.id.to_string())
            .add("controller", &self.controller)
            .add("kit", self.kit.to_string_lossy());
        for key in &self.keys {
            facts.add(&format!("{} key", key.role), key.path.to_string_lossy());
        }
        format!(
            "{}\nNext, where the controller runs:\n  {}\n",
            facts.text(paint),
            paint.bold(&format!(
                "ensign-controller serve --data DIR --kit {}",
                self.kit.display()
            ))
        )
    }
}

fn absolute(words: &Init) -> Result<PathBuf> {
    std::path::absolute(&words.kit).map_err(|e| Failure::io("find", &words.kit, &e))
}

fn refuse_existing(home: &Home, name: &Ident, kit: &Path) -> Result<()> {
    for dir in [home.context_dir(name), home.keys_dir(name)] {
        if dir.exists() {
            return Err(Failure::new(
                Code::Conflict,
                format!("the fleet {name} is already there: {}", dir.display()),
            )
            .hint("choose another --name, or another ENSIGN_HOME"));
        }
    }
    if std::fs::read_dir(kit).is_ok_and(|mut dir| dir.next().is_some()) {
        return Err(
            Failure::new(Code::Conflict, format!("the kit folder {} is not empty", kit.display()))
                .hint("choose another --kit"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::durable::SECRET;

    fn shell() -> Shell {
        Shell {
            quiet: true,
            ..Shell::default()
        }
    }

    fn words(dir: &Path) -> Init {
        Init {
            name: "acme".to_owned(),
            address: "127.0.0.1:7443".to_owned(),
            kit: dir.join("kit"),
            no_passphrase: true,
        }
    }

    fn files(dir: &Path, out: &mut Vec<(PathBuf, u32)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, out);
            } else {
                out.push((path.clone(), fs::metadata(&path).unwrap().permissions().mode() & 0o777));
            }
        }
    }

    #[test]
    fn keys_are_private_and_the_kit_holds_no_signing_key() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        run(&shell(), &home, &words(dir.path())).unwrap();

        let context = home.current().unwrap();
        let signing = context.all_keys().unwrap();
        let signing: Vec<_> = signing
            .iter()
            .map(|(role, key)| (role, key.secret().unwrap()))
            .collect();
        assert_eq!(signing.len(), KeyRole::ALL.len());
        let (mut at_home, mut in_kit) = (Vec::new(), Vec::new());
        files(&dir.path().join("home"), &mut at_home);
        files(&dir.path().join("kit"), &mut in_kit);
        for (path, mode) in at_home.iter().chain(&in_kit) {
            let private = path.extension().is_some_and(|e| e == "pem") || path.ends_with("api-token");
            assert!(!private || *mode == SECRET, "{} {mode:o}", path.display());
        }
        for (path, _) in &in_kit {
            let bytes = fs::read(path).unwrap();
            for (role, key) in &signing {
                let pem = key.to_pem();
                let body = pem.lines().nth(1).unwrap().as_bytes();
                assert!(
                    !bytes.windows(body.len()).any(|w| w == body),
                    "{} in {}",
                    role,
                    path.display()
                );
                assert!(!bytes.windows(32).any(|w| w == key.seed().as_slice()));
            }
            let token = context.api_token().unwrap();
            assert!(
                !bytes.windows(token.len()).any(|w| w == token.as_bytes()),
                "{}",
                path.display()
            );
        }
        let mode = fs::metadata(dir.path().join("kit")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let mut names: Vec<_> = in_kit
            .iter()
            .map(|(p, _)| p.strip_prefix(dir.path()).unwrap().to_owned())
            .collect();
        names.sort();
        insta::assert_debug_snapshot!(names);
    }

    #[test]
    fn an_existing_fleet_stays() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        run(&shell(), &home, &words(dir.path())).unwrap();
        let id = home.current().unwrap().file.fleet;
        assert_eq!(run(&shell(), &home, &words(dir.path())).unwrap_err().exit(), 33);
        let other = Init {
            name: "other".to_owned(),
            ..words(dir.path())
        };
        assert_eq!(run(&shell(), &home, &other).unwrap_err().exit(), 33, "the kit is taken");
        assert_eq!(home.current().unwrap().file.fleet, id);
    }

    const HOME: &str = "ENSIGN_TEST_INIT_IN";

    /// Not a test by itself: the process that the next one lets die.
    #[test]
    fn init_in_a_process_of_its_own() {
        if let Some(dir) = std::env::var_os(HOME) {
            let dir = Path::new(&dir);
            run(&shell(), &Home::at(&dir.join("home")), &words(dir)).unwrap();
        }
    }

    /// Killed before and after each change to the disk: the next one makes the fleet, and nothing of the first is left over.
    #[test]
    fn killed_at_any_step_the_next_one_makes_the_fleet() {
        let whole = tempfile::tempdir().unwrap();
        run(&shell(), &Home::at(&whole.path().join("home")), &words(whole.path())).unwrap();
        let names = |dir: &Path| {
            let mut found = Vec::new();
            files(dir, &mut found);
            let mut names: Vec<_> = found
                .iter()
                .map(|(path, _)| path.strip_prefix(dir).unwrap().to_owned())
                .collect();
            names.sort();
            names
        };
        let wanted = names(whole.path());
        let mut deaths = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let ended = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "fleet::init::tests::init_in_a_process_of_its_own"])
                .env(HOME, dir.path())
                .env(crate::durable::tests::DIE_AT, deaths.to_string())
                .output()
                .unwrap();
            let home = Home::at(&dir.path().join("home"));
            if ended.status.success() {
                assert_eq!(names(dir.path()), wanted);
                break;
            }
            let next = run(&shell(), &home, &words(dir.path()));
            assert!(next.is_ok(), "killed at step {deaths}: {next:?}");
            assert_eq!(names(dir.path()), wanted, "killed at step {deaths}");
            let context = home.current().unwrap();
            let kit = files::fleet_of_kit(&dir.path().join("kit"));
            assert_eq!(kit, Some(context.file.fleet), "killed at step {deaths}");
            assert_eq!(context.all_keys().unwrap().len(), KeyRole::ALL.len());
            assert_eq!(run(&shell(), &home, &words(dir.path())).unwrap_err().exit(), 33);
            deaths += 1;
        }
        assert!(deaths > 30, "{deaths} steps");
    }

    #[test]
    fn keys_under_a_passphrase_are_no_lab() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(&dir.path().join("home"));
        let words = Init {
            no_passphrase: false,
            ..words(dir.path())
        };
        let name = Ident::parse("acme").unwrap();
        let passphrase = Passphrase::from("correct horse");
        make(&shell(), &home, &words, &name, "127.0.0.1", Some(&passphrase)).unwrap();
        let context = home.current().unwrap();
        for (role, key) in context.all_keys().unwrap() {
            assert!(key.is_encrypted(), "{role}");
            let pem = fs::read_to_string(context.keys_dir().join(format!("{role}.pem"))).unwrap();
            assert!(!pem.contains("BEGIN PRIVATE KEY"), "{pem}");
        }
        assert!(!crate::trust::Trust::load(&context).unwrap().root().policy.lab);
    }
}
