//! `ensign key ...`: what this machine can sign with.

use std::path::PathBuf;

use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_crypto::KeyId;
use ensign_crypto::sealed::Cost;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::app::App;
use crate::args::KeyVerb;
use crate::failure::{Failure, Result};
use crate::home::Context;
use crate::keyring::{self, Stored};
use crate::output::{Document, Grid, Mood, Paint};
use crate::trust::Trust;
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

pub async fn run(app: &App, verb: KeyVerb) -> Result<()> {
    let verb = match verb {
        KeyVerb::Root(verb) => return ceremony::root::run(app, verb).await,
        verb => verb,
    };
    let context = app.home.current()?;
    match verb {
        KeyVerb::Ls => app.shell.print(&rows(&context)?[..]),
        KeyVerb::Gen { name } => generate(app, &context, &name),
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
    let name = Ident::parse(name).map_err(|e| Failure::usage(e.to_string()))?;
    let path = context.keys_dir().join(format!("{name}.pem"));
    if path.exists() {
        return Err(
            Failure::new(Code::Conflict, format!("the key {name} is there: {}", path.display()))
                .hint("choose another name"),
        );
    }
    if app.shell.dry_run {
        return app.shell.would(format!("make the key {}", path.display()));
    }
    let key = random::key()?;
    let like = context.all_keys()?.into_iter().find(|(_, known)| known.is_encrypted());
    let pem = match like {
        Some((_, known)) => {
            // Only whoever can open the others gets one more: two passphrases in one folder help nobody.
            known.secret()?;
            keyring::seal(&key, context.keyring().passphrase()?, Cost::RECOMMENDED)?
        }
        None => key.to_pem().as_str().to_owned(),
    };
    let pem = Zeroizing::new(pem);
    keyring::replace(&path, pem.as_bytes()).map_err(|e| Failure::io("write", &path, &e))?;
    app.shell.print(&exported(&context.named(name.as_str())?))
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
