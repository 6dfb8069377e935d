//! `fleet set lab=false`: the keys of this machine get a passphrase, and the next root says that the fleet is no lab.
//!
//! Keys first, root last: a fleet that calls itself no lab while keys lie plain would be a lie, the other way round is a command to
//! run again.

use std::path::PathBuf;

use ensign_api::Metadata;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::Root;
use ensign_crypto::sealed::Cost;
use serde::Serialize;

use crate::app::{App, Session};
use crate::clock;
use crate::difference::{Difference, of_root};
use crate::failure::{Failure, Result, fail};
use crate::home::KeyRole;
use crate::keyring;
use crate::output::{Document, Facts, Paint, Shell};
use crate::units::show_count;

/// What was changed.
#[derive(Debug, Serialize)]
struct Changed {
    lab: bool,
    root_version: u64,
    /// Files of keys that got the passphrase now.
    encrypted: Vec<PathBuf>,
}

pub async fn run(app: &App, key: &str, value: &str) -> Result<()> {
    match (key, value) {
        ("lab", "false") => leave_lab(app).await,
        ("lab", "true") => Err(Failure::usage("a fleet does not become a lab")
            .hint("labs are made: `ensign fleet init --name NAME --controller HOST:PORT --kit DIR --no-passphrase`")),
        ("lab", _) => {
            Err(Failure::usage(format!("lab is true or false, not `{value}`")).hint("`ensign fleet set lab=false`"))
        }
        _ => Err(Failure::not_in_this_version(&format!("to set `{key}`")).hint("`ensign fleet set lab=false`")),
    }
}

async fn leave_lab(app: &App) -> Result<()> {
    let mut session = app.signing_session().await?;
    let lab = session.trust.root().policy.lab;
    let context = &session.context;
    let plain: Vec<PathBuf> = context
        .all_keys()?
        .into_iter()
        .filter(|(_, stored)| !stored.is_encrypted())
        .map(|(name, _)| context.keys_dir().join(format!("{name}.pem")))
        .collect();
    let mut changes = Difference::default();
    let next = if lab {
        can_sign_root(&session)?;
        let next = next_root(&session)?;
        changes = of_root(session.trust.root(), &next);
        Some(next)
    } else {
        None
    };
    let mut would = Vec::new();
    if !plain.is_empty() {
        would.push(format!(
            "encrypt {} in {}",
            show_count(plain.len() as u64, "key"),
            context.keys_dir().display()
        ));
    }
    if let Some(next) = &next {
        would.push(format!("sign and publish root {}: lab true → false", next.version));
    }
    if app.shell.dry_run {
        return app.shell.would_change_all(would, &changes);
    }
    if !would.is_empty() {
        app.shell.block(&changes.text(Paint::of_diagnostics()));
        app.shell.confirm(
            &format!("This will {}. Go on?", would.join(", and ")),
            "the fleet's root and the keys of this machine are as they were",
        )?;
    }
    // The root key is opened before anything is changed, so that a wrong passphrase changes nothing.
    if plain.is_empty() && lab {
        context
            .signer(KeyRole::Root, &session.trust.root().roles.root.keys)?
            .secret()?;
    }
    let encrypted = context
        .keyring()
        .encrypt_all(context.keys_dir(), Cost::RECOMMENDED, keyring::replace)?;
    if let Some(next) = next {
        publish(&mut session, &next).await?;
    }
    if !session.context.key_path(KeyRole::Recovery).exists() {
        Shell::warn("the recovery key is not here: where it is, it has no passphrase but its own safe");
    }
    app.shell.print(&Changed {
        lab: session.trust.root().policy.lab,
        root_version: session.trust.root().version,
        encrypted,
    })
}

/// Whether the root key of this machine alone makes the next root.
fn can_sign_root(session: &Session) -> Result<()> {
    let role = &session.trust.root().roles.root;
    let public = session.context.signer(KeyRole::Root, &role.keys)?.public();
    if !role.keys.contains(&public) {
        return fail!(
            RoleNotAuthorised,
            "the root key {} of this machine is none of root's",
            public.id()
        );
    }
    if role.threshold > 1 {
        return Err(Failure::new(
            Code::ThresholdNotMet,
            format!("root needs {} signatures, this machine makes 1", role.threshold),
        )
        .hint("`ensign key root rotate`, `sign` on each holder's machine, `assemble`, `publish`"));
    }
    Ok(())
}

/// The root that this machine has verified, and the one change.
fn next_root(session: &Session) -> Result<Root> {
    let mut next = session.trust.root().next(clock::now())?;
    next.policy.lab = false;
    Ok(next)
}

async fn publish(session: &mut Session, next: &Root) -> Result<()> {
    let key = session.context.signer(KeyRole::Root, &next.roles.root.keys)?.secret()?;
    let envelope = statement::sign(next, &[&key], &session.fleet())?;
    let _: Vec<Metadata> = session.client.post_bytes("/v1/metadata/root", envelope).await?;
    session.trust.refresh(&session.client).await
}

impl Document for Changed {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts
            .add("lab", if self.lab { "yes" } else { "no" })
            .add("root", format!("version {}", self.root_version));
        for path in &self.encrypted {
            facts.add("encrypted", path.to_string_lossy());
        }
        facts.text(paint)
    }
}
