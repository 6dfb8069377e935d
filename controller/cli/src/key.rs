//! `ensign key ...`: what this machine can sign with.

use std::path::PathBuf;

use ensign_bundle::reason::Code;
use ensign_crypto::KeyId;
use serde::Serialize;

use crate::app::App;
use crate::args::KeyVerb;
use crate::failure::{Failure, Result};
use crate::home::KeyRole;
use crate::output::{Document, Grid, Mood, Paint};
use crate::trust::Trust;

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
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

pub fn run(app: &App, verb: KeyVerb) -> Result<()> {
    let context = app.home.current()?;
    match verb {
        KeyVerb::Ls => {
            let trust = Trust::load(&context)?;
            let rows: Vec<Row> = context
                .keys()?
                .into_iter()
                .map(|(role, key)| {
                    let public = key.public();
                    let released = trust.targets().products.iter().find(|p| p.role.keys.contains(&public));
                    Row {
                        name: role.name(),
                        key: public.id(),
                        role: trust
                            .root()
                            .role_of(&public)
                            .map(str::to_owned)
                            .or_else(|| released.map(|p| format!("release of {}", p.name))),
                        encrypted: key.is_encrypted(),
                        path: context.key_path(role),
                    }
                })
                .collect();
            app.shell.print(&rows[..])
        }
        KeyVerb::ExportPub { role } => {
            let role = KeyRole::ALL.into_iter().find(|r| r.name() == role).ok_or_else(|| {
                Failure::new(Code::NotFound, format!("there is no key `{role}`")).hint("`ensign key ls`")
            })?;
            let public = context.stored(role)?.public();
            app.shell.print(&Exported {
                key: public.id(),
                pem: public.to_pem(),
            })
        }
    }
}

impl Document for [Row] {
    fn table(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["KEY", "ROLE", "ID", "PASSPHRASE", "FILE"], paint);
        for r in self {
            let path = r.path.to_string_lossy();
            grid.row([
                (r.name, Mood::Plain),
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
