//! `ensign key ...`: what this machine can sign with.

use std::path::{Path, PathBuf};

use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_crypto::sealed::Cost;
use ensign_crypto::{KeyId, SecretKey};
use serde::Serialize;

use crate::app::App;
use crate::args::KeyVerb;
use crate::failure::{Failure, Result};
use crate::home::Context;
use crate::keyring::{self, Stored};
use crate::output::{Document, Facts, Grid, Mood, Paint};
use crate::passphrase::Passphrase;
use crate::trust::Trust;
use crate::units::show_count;
use crate::{ceremony, random};

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    key: KeyId,
    /// Where the fleet's metadata names it; none = nobody listens to it.
    role: Option<String>,
    /// Under a passphrase.
    encrypted: bool,
    path: PathBuf,
}

#[derive(Debug, Serialize)]
struct Exported {
    key: KeyId,
    pem: String,
}

/// `key passwd`.
#[derive(Debug, Serialize)]
struct Rewrapped {
    /// Files that are under the new passphrase now and were not before.
    encrypted: Vec<PathBuf>,
}

pub async fn run(app: &App, verb: KeyVerb) -> Result<()> {
    let verb = match verb {
        KeyVerb::Root(verb) => return ceremony::root::run(app, verb).await,
        verb => verb,
    };
    let context = app.home.current()?;
    match verb {
        KeyVerb::Ls => app.shell.print(&rows(&context)?[..]),
        KeyVerb::Gen { name } => generate(app, &context, &name),
        KeyVerb::Import {
            file,
            name,
            passphrase_file,
        } => import(app, &context, &file, name.as_deref(), passphrase_file.as_deref()),
        KeyVerb::Passwd { new_passphrase_file } => passwd(app, &context, new_passphrase_file.as_deref()),
        KeyVerb::ExportPub { role } => app.shell.print(&exported(&context.named(&role)?)),
        KeyVerb::Root(_) => Ok(()),
    }
}

fn rows(context: &Context) -> Result<Vec<Row>> {
    let trust = Trust::load(context)?;
    let row = |(name, key): (String, Stored)| {
        let public = key.public();
        let released = trust.targets().products.iter().find(|p| p.role.keys.contains(&public));
        Row {
            path: context.keys_dir().join(format!("{name}.pem")),
            name,
            key: public.id(),
            role: trust
                .root()
                .role_of(&public)
                .map(str::to_owned)
                .or_else(|| released.map(|p| format!("release of {}", p.name))),
            encrypted: key.is_encrypted(),
        }
    };
    Ok(context.all_keys()?.into_iter().map(row).collect())
}

/// A new key, under the same passphrase as those that are there; plain in a lab.
fn generate(app: &App, context: &Context, name: &str) -> Result<()> {
    let path = free_path(context, name)?;
    if app.shell.dry_run {
        return app.shell.would(format!("make the key {}", path.display()));
    }
    keep(context, &path, &random::key()?)?;
    app.shell.print(&exported(&context.keyring().stored(&path)?))
}

/// A key from elsewhere. The same one again changes nothing.
fn import(app: &App, context: &Context, file: &Path, name: Option<&str>, passphrase: Option<&Path>) -> Result<()> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name = name.unwrap_or(&stem);
    let stored = context.keyring().stored(file)?;
    if let Ok(known) = context.named(name)
        && known.public() == stored.public()
    {
        return app.shell.print(&exported(&known));
    }
    let path = free_path(context, name)?;
    if app.shell.dry_run {
        return app
            .shell
            .would(format!("keep the key {} as {}", stored.public().id(), path.display()));
    }
    let own = context.all_keys()?;
    let key = if !stored.is_encrypted() {
        stored.secret()?
    } else if passphrase.is_none() && own.iter().any(|(_, known)| known.is_encrypted()) {
        match stored.secret() {
            Err(e) if e.code == Code::PassphraseWrong => stored.secret_with(&Passphrase::of_file(file, None)?)?,
            other => other?,
        }
    } else {
        stored.secret_with(&Passphrase::of_file(file, passphrase)?)?
    };
    keep(context, &path, &key)?;
    app.shell
        .note(&format!("{} stays: destroy it, or lock it away", file.display()));
    app.shell.print(&exported(&context.keyring().stored(&path)?))
}

/// Another passphrase for every key of this machine.
fn passwd(app: &App, context: &Context, new: Option<&Path>) -> Result<()> {
    let keys = context.all_keys()?;
    if !keys.iter().any(|(_, key)| key.is_encrypted()) {
        return Err(
            Failure::new(Code::Conflict, "the keys of this machine have no passphrase")
                .hint("`ensign fleet set lab=false` gives them one"),
        );
    }
    if app.shell.dry_run {
        return app.shell.would(format!(
            "encrypt {} in {} under another passphrase",
            show_count(keys.len() as u64, "key"),
            context.keys_dir().display()
        ));
    }
    // The one before first: whoever does not know it types no new one.
    context.keyring().passphrase()?;
    let new = Passphrase::next(new)?;
    let changed = context
        .keyring()
        .rewrap_all(context.keys_dir(), &new, Cost::RECOMMENDED, keyring::replace)?;
    app.shell
        .note("copies elsewhere (the recovery key, backups) keep the passphrase that they have");
    app.shell.print(&Rewrapped { encrypted: changed })
}

fn free_path(context: &Context, name: &str) -> Result<PathBuf> {
    let name = Ident::parse(name).map_err(|e| Failure::usage(e.to_string()))?;
    let path = context.keys_dir().join(format!("{name}.pem"));
    if path.exists() {
        return Err(
            Failure::new(Code::Conflict, format!("the key {name} is there: {}", path.display()))
                .hint("choose another name"),
        );
    }
    Ok(path)
}

fn keep(context: &Context, path: &Path, key: &SecretKey) -> Result<()> {
    let lab = Trust::load(context)?.root().policy.lab;
    let pem = context.keyring().wrap(key, &context.all_keys()?, lab)?;
    keyring::replace(path, pem.as_bytes()).map_err(|e| Failure::io("write", path, &e))
}

fn exported(key: &Stored) -> Exported {
    let public = key.public();
    Exported {
        key: public.id(),
        pem: public.to_pem(),
    }
}

impl Document for [Row] {
    fn table(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["KEY", "ROLE", "ID", "PASSPHRASE", "FILE"], paint);
        for r in self {
            let path = r.path.to_string_lossy();
            grid.row([
                (&*r.name, Mood::Plain),
                (
                    r.role.as_deref().unwrap_or("none"),
                    if r.role.is_some() { Mood::Good } else { Mood::Bad },
                ),
                (&r.key.to_string()[..16], Mood::Plain),
                (
                    if r.encrypted { "yes" } else { "no" },
                    if r.encrypted { Mood::Good } else { Mood::Busy },
                ),
                (&path, Mood::Faint),
            ]);
        }
        grid.or("no keys on this machine")
    }
}

impl Document for Exported {
    fn table(&self, _: Paint) -> String {
        self.pem.clone()
    }
}

impl Document for Rewrapped {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        if self.encrypted.is_empty() {
            facts.add("encrypted", "nothing: every key has this passphrase already");
        }
        for path in &self.encrypted {
            facts.add("encrypted", path.to_string_lossy());
        }
        facts.text(paint)
    }
}
