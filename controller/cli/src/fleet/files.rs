//! What `fleet init` writes: keys, kit, context. Each folder appears whole or not at all.

use std::path::{Path, PathBuf};

use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_crypto::sealed::Cost;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::durable::{self, PUBLIC, SECRET};
use crate::failure::{Failure, Result};
use crate::fleet::founding::{Online, Signing};
use crate::home::{ContextFile, Home, key_path};
use crate::keyring;
use crate::passphrase::Passphrase;
use crate::trust;

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

/// Under the passphrase, where there is one.
pub fn write_keys(home: &Home, name: &Ident, signing: &Signing, passphrase: Option<(&Passphrase, Cost)>) -> Result<()> {
    into_place(&home.keys_dir(name), |dir| {
        signing.iter().try_for_each(|(role, key)| {
            let pem = match passphrase {
                Some((passphrase, cost)) => Zeroizing::new(keyring::seal(key, passphrase, cost)?),
                None => key.to_pem(),
            };
            put(&key_path(dir, *role), pem.as_bytes(), SECRET)
        })
    })
}

pub fn write_kit(
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

pub fn write_context(home: &Home, context: &ContextFile, root: &[u8], targets: &[u8], api_token: &str) -> Result<()> {
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
    let new = unfinished(dir);
    // Of an earlier run that was killed: nobody else makes such names.
    remove_unfinished(dir)?;
    make_dir(&new)?;
    let moved = fill(&new).and_then(|()| durable::move_dir(&new, dir).map_err(|e| Failure::io("make", dir, &e)));
    if moved.is_err() {
        // Best effort: the next run removes it as well.
        let _ = durable::remove_dir(&new);
    }
    moved
}

/// Removes a folder of this module, finished or not.
pub fn remove(dir: &Path) -> Result<()> {
    remove_unfinished(dir)?;
    durable::remove_dir(dir).map_err(|e| Failure::io("remove", dir, &e))
}

/// Removes what was not moved to `dir` yet.
pub fn remove_unfinished(dir: &Path) -> Result<()> {
    let new = unfinished(dir);
    durable::remove_dir(&new).map_err(|e| Failure::io("remove", &new, &e))
}

/// Where `dir` is filled: its name says what made it.
fn unfinished(dir: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(dir.file_name().unwrap_or_default());
    name.push(".ensign-init");
    dir.with_file_name(name)
}

/// The fleet that a kit is of.
pub fn fleet_of_kit(dir: &Path) -> Option<FleetId> {
    #[derive(serde::Deserialize)]
    struct Named {
        fleet: FleetId,
    }
    let bytes = crate::home::read(&dir.join("kit.json")).ok()?;
    serde_json::from_slice::<Named>(&bytes).ok().map(|kit| kit.fleet)
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
