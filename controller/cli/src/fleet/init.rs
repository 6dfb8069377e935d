//! `fleet init`: a trust domain of its own.
//!
//! The signing keys stay in this operator's home. The kit holds what the controller needs: the first root and targets, the two
//! online keys, its own TLS keys. Nothing appears under its name before all of it is on disk.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::{Controller, FORMAT, Floors, Policy, Product, Role, Root, RootRoles, Scope, Targets};
use ensign_crypto::SecretKey;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Serialize;

use crate::client;
use crate::durable::{self, PUBLIC, SECRET};
use crate::failure::{Failure, Result};
use crate::home::{self, ContextFile, Home, KeyRole};
use crate::output::{Document, Facts, Paint, Shell};
use crate::{clock, random, trust};

/// Life of the first root and targets, seconds: a year.
const LIFE_S: u64 = 365 * 24 * 3600;
/// What every release may hold unless a product says otherwise.
const KINDS: [&str; 2] = ["tree", "oci"];

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

/// `kit.json`.
#[derive(Debug, Serialize)]
struct Kit<'a> {
    format: u16,
    fleet: FleetId,
    name: &'a Ident,
    address: &'a str,
    root_hash: Digest,
    api_tokens: [ApiToken; 1],
}

#[derive(Debug, Serialize)]
struct ApiToken {
    name: &'static str,
    role: &'static str,
    /// Of the token's text.
    sha256: Digest,
}

/// The controller's keys: they go into the kit and nowhere else.
struct Online {
    timestamp: SecretKey,
    snapshot: SecretKey,
    controller: SecretKey,
    https_key: String,
    https_certificate: String,
    https_spki: Digest,
}

pub fn run(shell: &Shell, home: &Home, words: &Init) -> Result<()> {
    let name = Ident::parse(&words.name).map_err(|e| Failure::usage(e.to_string()))?;
    let host = client::host(&words.address)?;
    if !words.no_passphrase {
        return Err(Failure::usage("encrypted keys are not available in this version")
            .hint("add --no-passphrase (a lab fleet)"));
    }
    refuse_existing(home, &name, &words.kit)?;
    if shell.dry_run {
        shell.note(&format!(
            "would make the fleet {name} with a kit in {}",
            words.kit.display()
        ));
        return Ok(());
    }
    let signing = KeyRole::ALL
        .into_iter()
        .map(|role| Ok((role, random::key()?)))
        .collect::<Result<Vec<_>>>()?;
    let online = Online::make(host)?;
    let fleet = FleetId(random::bytes()?);
    let now = clock::now();
    let root = sign_root(
        &root(fleet, &name, &words.address, now, &signing, &online),
        &signing,
        &fleet,
    )?;
    let targets = statement::sign(&targets(now, &signing)?, &[key(&signing, KeyRole::Targets)?], &fleet)?;
    let api_token = hex::encode(random::bytes::<32>()?);
    let context = ContextFile {
        format: home::FORMAT,
        fleet,
        name: name.clone(),
        address: words.address.clone(),
        root_hash: Digest::of(&root),
    };

    write_keys(home, &name, &signing)?;
    write_kit(&words.kit, &context, &root, &targets, &online, &api_token)?;
    write_context(home, &context, &root, &targets, &api_token)?;
    home.select(&name)?;

    let keys_dir = home.keys_dir(&name);
    shell.print(&Made {
        id: fleet,
        name,
        controller: words.address.clone(),
        kit: words.kit.clone(),
        keys: signing
            .iter()
            .map(|(role, key)| MadeKey {
                role: role.name(),
                key: key.public().id(),
                path: key_file(&keys_dir, *role),
            })
            .collect(),
        lab: true,
    })?;
    let recovery = key_file(&keys_dir, KeyRole::Recovery);
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

impl Online {
    fn make(host: &str) -> Result<Self> {
        let failed = |e: rcgen::Error| Failure::new(Code::Failed, format!("the https certificate: {e}"));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::new([host.to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, "ensign-controller");
        let certificate = params.self_signed(&key).map_err(failed)?;
        let https_spki = client::spki_digest(certificate.der())
            .map_err(|e| Failure::new(Code::Failed, format!("the https certificate: {e}")))?;
        Ok(Self {
            timestamp: random::key()?,
            snapshot: random::key()?,
            controller: random::key()?,
            https_key: key.serialize_pem(),
            https_certificate: certificate.pem(),
            https_spki,
        })
    }
}

fn key(signing: &[(KeyRole, SecretKey)], wanted: KeyRole) -> Result<&SecretKey> {
    signing
        .iter()
        .find_map(|(role, key)| (*role == wanted).then_some(key))
        .ok_or_else(|| Failure::new(Code::Failed, format!("no {} key was made", wanted.name())))
}

fn one_of(keys: &[&SecretKey]) -> Role {
    Role {
        keys: keys.iter().map(|k| k.public()).collect(),
        threshold: 1,
    }
}

fn root(
    fleet: FleetId,
    name: &Ident,
    address: &str,
    now: u64,
    signing: &[(KeyRole, SecretKey)],
    online: &Online,
) -> Root {
    let role = |wanted: &[KeyRole]| {
        let keys: Vec<&SecretKey> = signing
            .iter()
            .filter(|(role, _)| wanted.contains(role))
            .map(|(_, key)| key)
            .collect();
        one_of(&keys)
    };
    Root {
        format: FORMAT,
        version: 1,
        issued: now,
        expires: now + LIFE_S,
        fleet,
        name: name.to_string(),
        roles: RootRoles {
            root: role(&[KeyRole::Root, KeyRole::Recovery]),
            targets: role(&[KeyRole::Targets]),
            snapshot: one_of(&[&online.snapshot]),
            timestamp: one_of(&[&online.timestamp]),
        },
        scopes: Ident::parse("all")
            .map(|name| Scope {
                name,
                select: String::new(),
                role: role(&[KeyRole::Deploy]),
            })
            .into_iter()
            .collect(),
        protected: Vec::new(),
        policy: Policy {
            lab: true,
            ..Policy::default()
        },
        controller: Controller {
            keys: vec![online.controller.public().id()],
            api: vec![online.https_spki],
            addresses: vec![address.to_owned()],
        },
        floors: Floors::default(),
        time_reset: None,
        min_protocol: 1,
        ext: ensign_bundle::codec::Ext::default(),
    }
}

fn sign_root(root: &Root, signing: &[(KeyRole, SecretKey)], fleet: &FleetId) -> Result<Vec<u8>> {
    Ok(statement::sign(root, &[key(signing, KeyRole::Root)?], fleet)?)
}

fn targets(now: u64, signing: &[(KeyRole, SecretKey)]) -> Result<Targets> {
    Ok(Targets {
        format: FORMAT,
        version: 1,
        issued: now,
        expires: now + LIFE_S,
        products: vec![Product {
            name: "*".to_owned(),
            role: one_of(&[key(signing, KeyRole::Release)?]),
            components: vec!["*".to_owned()],
            kinds: KINDS.map(str::to_owned).to_vec(),
            handlers: Vec::new(),
            units: vec!["*".to_owned()],
            security_floor: 0,
            lowest: 0,
            network: false,
            ext: ensign_bundle::codec::Ext::default(),
        }],
        ext: ensign_bundle::codec::Ext::default(),
    })
}

fn key_file(dir: &Path, role: KeyRole) -> PathBuf {
    dir.join(format!("{}.pem", role.name()))
}

fn write_keys(home: &Home, name: &Ident, signing: &[(KeyRole, SecretKey)]) -> Result<()> {
    into_place(&home.keys_dir(name), |dir| {
        signing
            .iter()
            .try_for_each(|(role, key)| put(&key_file(dir, *role), key.to_pem().as_bytes(), SECRET))
    })
}

fn write_kit(
    dir: &Path,
    context: &ContextFile,
    root: &[u8],
    targets: &[u8],
    online: &Online,
    api_token: &str,
) -> Result<()> {
    let kit = Kit {
        format: context.format,
        fleet: context.fleet,
        name: &context.name,
        address: &context.address,
        root_hash: context.root_hash,
        api_tokens: [ApiToken {
            name: "admin",
            role: "admin",
            sha256: Digest::of(api_token.as_bytes()),
        }],
    };
    into_place(dir, |dir| {
        let keys = dir.join("keys");
        make_dir(&keys)?;
        for (name, key) in [
            ("timestamp", &online.timestamp),
            ("snapshot", &online.snapshot),
            ("controller", &online.controller),
        ] {
            put(&keys.join(format!("{name}.pem")), key.to_pem().as_bytes(), SECRET)?;
        }
        put(&keys.join("https.pem"), online.https_key.as_bytes(), SECRET)?;
        put(&dir.join("https.crt"), online.https_certificate.as_bytes(), PUBLIC)?;
        put(&dir.join("root.cbor"), root, PUBLIC)?;
        put(&dir.join("targets.cbor"), targets, PUBLIC)?;
        put_json(&dir.join("kit.json"), &kit)
    })
}

fn write_context(home: &Home, context: &ContextFile, root: &[u8], targets: &[u8], api_token: &str) -> Result<()> {
    into_place(&home.context_dir(&context.name), |dir| {
        put(&dir.join("api-token"), format!("{api_token}\n").as_bytes(), SECRET)?;
        put(
            &dir.join("trust.cbor"),
            &trust::first_state(root, &context.fleet)?,
            SECRET,
        )?;
        put(&dir.join("targets.cbor"), targets, PUBLIC)?;
        put_json(&dir.join("context.json"), context)
    })
}

/// Fills a folder beside `dir` and moves it into place when it is whole.
fn into_place(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = dir
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    make_dir(parent)?;
    let new = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(|e| Failure::io("make a folder in", parent, &e))?;
    fill(new.path())?;
    durable::move_dir(new.path(), dir).map_err(|e| Failure::io("make", dir, &e))?;
    // Moved away: there is nothing left to remove under its old name.
    let _ = new.keep();
    Ok(())
}

fn make_dir(dir: &Path) -> Result<()> {
    durable::private_dir(dir).map_err(|e| Failure::io("make", dir, &e))
}

fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    durable::write(path, bytes, mode).map_err(|e| Failure::io("write", path, &e))
}

fn put_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new(Code::Failed, e.to_string()))?;
    put(path, format!("{text}\n").as_bytes(), PUBLIC)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::output::Format;

    fn shell() -> Shell {
        Shell {
            format: Format::Json,
            yes: false,
            dry_run: false,
            reason: String::new(),
            verbose: false,
            quiet: true,
            controller: None,
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
        let signing = context.keys().unwrap();
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
                    role.name(),
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

    #[test]
    fn encrypted_keys_are_refused_plainly() {
        let dir = tempfile::tempdir().unwrap();
        let words = Init {
            no_passphrase: false,
            ..words(dir.path())
        };
        let failure = run(&shell(), &Home::at(dir.path()), &words).unwrap_err();
        assert_eq!(failure.exit(), 2);
        assert!(!dir.path().join("keys").exists() && !dir.path().join("kit").exists());
    }
}
