//! `ensign key root ...`: from the root in force to the next one, by as many holders as the thresholds ask for.
//!
//! ```text
//! rotate ─▶ draft ─▶ sign (each holder, on a copy) ─▶ assemble ─▶ publish
//! ```
//!
//! A draft is the envelope of the next root with the signatures so far. What it changes is said each time, by this machine's own verified
//! root; nothing that anybody else wrote beside it is believed.

pub mod change;

use std::path::{Path, PathBuf};

use ensign_api::{Base64, Metadata, NewRoot};
use ensign_bundle::digest::Digest;
use ensign_bundle::limits;
use ensign_bundle::reason::Code;
use ensign_bundle::statement::{self, Document as _, Signed};
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::{Role, Root, Targets};
use ensign_crypto::{Envelope, KeyId, PublicKey, aad, valid_signers};
use serde::Serialize;

use crate::app::{App, Session};
use crate::args::{RootVerb, Rotate};
use crate::clock;
use crate::durable::{self, PUBLIC};
use crate::failure::{Failure, Result};
use crate::home;
use crate::keyring::Stored;
use crate::output::{Document, Facts, Paint, Shell};
use change::{Keys, Whose};

/// A root and how far its signatures are.
#[derive(Debug, Serialize)]
struct Shown {
    /// None = the root in force.
    file: Option<PathBuf>,
    version: u64,
    expires: ensign_api::Time,
    /// SHA-256 of what is signed: holders compare it.
    payload: Digest,
    /// Against the root in force.
    changes: Vec<String>,
    roles: Vec<ShownRole>,
    /// By the root in force, and by the draft itself.
    signed: Vec<Progress>,
}

#[derive(Debug, Serialize)]
struct ShownRole {
    role: String,
    threshold: u32,
    keys: Vec<KeyId>,
}

/// Valid signatures of a role's keys, and how many are needed.
#[derive(Debug, Serialize)]
struct Progress {
    by: &'static str,
    signatures: usize,
    threshold: u32,
}

pub async fn run(app: &App, verb: RootVerb) -> Result<()> {
    match verb {
        RootVerb::Show { file } => show(app, file.as_deref()),
        RootVerb::Rotate(words) => rotate(app, &words).await,
        RootVerb::Sign { file } => sign(app, file.as_deref()).await,
        RootVerb::Assemble { files, out } => assemble(app, &files, out.as_deref()),
        RootVerb::Publish { file } => publish(app, file.as_deref()).await,
    }
}

fn show(app: &App, file: Option<&Path>) -> Result<()> {
    let session = app.session()?;
    let own = session.context.root_draft_path();
    let path = file.or_else(|| own.exists().then_some(own.as_path()));
    let shown = match path {
        Some(path) => {
            let draft = read(path)?;
            check_follows(&session, path, &draft.body)?;
            shown(&session, Some(path), &draft)
        }
        None => shown(
            &session,
            None,
            &statement::open_unverified(session.trust.trusted().root_bytes())?,
        ),
    };
    app.shell.print(&shown)
}

async fn rotate(app: &App, words: &Rotate) -> Result<()> {
    let session = app.signing_session().await?;
    let own = session.context.root_draft_path();
    let path = words.out.as_deref().unwrap_or(&own);
    let old = session.trust.root();
    let mut next = match continued(&session, path, words.anew)? {
        Some(draft) => draft,
        None => old.next(clock::now())?,
    };
    let whose = Whose::parse(&words.role)?;
    let keys = Keys {
        add: words.add.iter().map(|file| public_key(file)).collect::<Result<_>>()?,
        remove: words.remove.clone(),
        threshold: words.threshold,
    };
    change::keys(&mut next, &whose, &keys)?;
    for (name, value) in &words.floor {
        change::floor(&mut next, name, value)?;
    }
    next.floors.targets_version = words.targets_floor.unwrap_or(next.floors.targets_version);
    if words.reset {
        next.floors.reset_epoch = old.floors.reset_epoch.saturating_add(1);
    }
    if let Some(time) = words.time_reset {
        let now = clock::now();
        if time > now {
            return Err(Failure::usage(format!(
                "--time-reset {time} is in the future, it is {now}"
            )));
        }
        next.time_reset = Some(time);
    }
    // What the machine would refuse at the end is refused before anybody signs.
    let envelope = statement::seal(&next)?;
    session
        .trust
        .trusted()
        .check_next_root(&next, clock::now())
        .map_err(|e| {
            let failure = Failure::from(e);
            match failure.code {
                Code::RollbackRefused => {
                    failure.hint("--reset lets floors fall, and makes every device begin anew from this root")
                }
                _ => failure,
            }
        })?;
    warn_of_controllers(old, &next);
    warn_of_deploy_keys(old, &next);
    let draft = Signed { body: next, envelope };
    if app.shell.dry_run {
        return app
            .shell
            .would_all(change::difference(old, &draft.body).into_iter().collect());
    }
    write(path, &draft.envelope)?;
    app.shell.print(&shown(&session, Some(path), &draft))
}

/// The draft that is there, where it still follows the root in force. Its signatures go with the change.
fn continued(session: &Session, path: &Path, anew: bool) -> Result<Option<Root>> {
    if anew || !path.exists() {
        return Ok(None);
    }
    let draft = read(path)?;
    if draft.body.version != session.trust.root().version.saturating_add(1) {
        Shell::warn(&format!(
            "the draft {} was for root {}; it is begun anew",
            path.display(),
            draft.body.version
        ));
        return Ok(None);
    }
    if !draft.envelope.signatures().is_empty() {
        Shell::warn("what is changed must be signed again: the signatures of the draft are gone");
    }
    Ok(Some(draft.body))
}

/// A controller key that goes in the same step as its successor comes locks out every device that was not connected meanwhile.
fn warn_of_controllers(old: &Root, next: &Root) {
    let overlap = old.controller.keys.iter().any(|key| next.controller.keys.contains(key));
    if !overlap {
        Shell::warn(
            "root drops the controller's key in the step that brings the new one: devices that do not hear of it first cannot connect any more. \
             Add the new key, wait until every device was connected, then remove the old one",
        );
    }
}

/// The grant of the token that a device joined with counts by today's deploy keys.
fn warn_of_deploy_keys(old: &Root, next: &Root) {
    let gone = old.scopes.iter().flat_map(|scope| &scope.role.keys).find(|key| {
        let kept = next.scopes.iter().any(|scope| scope.role.keys.contains(key));
        !kept
    });
    if let Some(key) = gone {
        Shell::warn(&format!(
            "root drops the deploy key {}: devices whose join token it signed are in no new plan until they join anew",
            key.id()
        ));
    }
}

async fn sign(app: &App, file: Option<&Path>) -> Result<()> {
    let session = app.signing_session().await?;
    let own = session.context.root_draft_path();
    let path = file.unwrap_or(&own);
    let mut draft = read(path)?;
    check_follows(&session, path, &draft.body)?;
    let old = &session.trust.root().roles.root;
    let wanted: Vec<PublicKey> = old.keys.iter().chain(&draft.body.roles.root.keys).copied().collect();
    let fleet = aad(&session.fleet().0);
    let done = valid_signers(&draft.envelope, &wanted, &fleet);
    let mine: Vec<(String, Stored)> = session
        .context
        .all_keys()?
        .into_iter()
        .filter(|(_, key)| wanted.contains(&key.public()))
        .collect();
    if mine.is_empty() {
        return Err(Failure::new(
            Code::RoleNotAuthorised,
            format!(
                "no key of this machine is among the {} that old or new root name",
                wanted.len()
            ),
        )
        .hint("sign where such a key is: `ensign key root sign FILE`"));
    }
    let missing: Vec<&(String, Stored)> = mine.iter().filter(|(_, key)| !done.contains(&key.public())).collect();
    app.shell
        .block(&text(&change::difference(session.trust.root(), &draft.body)));
    if app.shell.dry_run {
        return app.shell.would_all(
            missing
                .iter()
                .map(|(name, _)| format!("sign {} with the key {name}", path.display()))
                .collect(),
        );
    }
    for (_, key) in &missing {
        draft.envelope.sign(&key.secret()?, &fleet);
    }
    if !missing.is_empty() {
        write(path, &draft.envelope)?;
    }
    app.shell.print(&shown(&session, Some(path), &draft))
}

fn assemble(app: &App, files: &[PathBuf], out: Option<&Path>) -> Result<()> {
    let session = app.session()?;
    let own = session.context.root_draft_path();
    let path = out.unwrap_or(&own);
    let mut parts = files
        .iter()
        .map(|file| Ok((file, read(file)?)))
        .collect::<Result<Vec<_>>>()?;
    if path.exists() && !files.iter().any(|file| file == path) {
        // What this machine signed counts too, where it is the same draft.
        let there = read(path)?;
        if parts.first().is_some_and(|(_, first)| first.digest() == there.digest()) {
            parts.push((&own, there));
        }
    }
    let Some((first, whole)) = parts.first() else {
        return Err(Failure::usage("no file is named"));
    };
    let mut whole = whole.clone();
    check_follows(&session, first, &whole.body)?;
    let old = &session.trust.root().roles.root;
    let wanted: Vec<PublicKey> = old.keys.iter().chain(&whole.body.roles.root.keys).copied().collect();
    let fleet = aad(&session.fleet().0);
    for (file, part) in &parts[1..] {
        if part.digest() != whole.digest() {
            return Err(Failure::new(
                Code::Conflict,
                format!(
                    "{} holds another draft: payload {}, that of {} is {}",
                    file.display(),
                    part.digest(),
                    first.display(),
                    whole.digest()
                ),
            )
            .hint("let every holder sign a copy of one file"));
        }
    }
    // Signatures that count, and no others.
    let mut gathered = Envelope::new(Root::KIND, whole.envelope.payload().to_vec());
    for (_, part) in &parts {
        for key in valid_signers(&part.envelope, &wanted, &fleet) {
            let id = key.id();
            let signature = part.envelope.signatures().iter().find(|s| s.key == id);
            if let Some(signature) = signature
                && !gathered.signatures().iter().any(|s| s.key == id)
            {
                gathered
                    .add(signature.clone())
                    .map_err(|e| Failure::new(Code::LimitExceeded, e.to_string()))?;
            }
        }
    }
    whole.envelope = gathered;
    if app.shell.dry_run {
        return app.shell.would(format!(
            "write {} with {} signatures",
            path.display(),
            whole.envelope.signatures().len()
        ));
    }
    write(path, &whole.envelope)?;
    app.shell.print(&shown(&session, Some(path), &whole))
}

async fn publish(app: &App, file: Option<&Path>) -> Result<()> {
    let mut session = app.signing_session().await?;
    let own = session.context.root_draft_path();
    let path = file.unwrap_or(&own);
    let draft = read(path)?;
    let bytes = draft.envelope.encode();
    if session.trust.trusted().root_bytes() == bytes {
        // Published before; its answer was lost.
        forget(&own, &draft)?;
        return app.shell.print(&shown(&session, None, &draft));
    }
    check_follows(&session, path, &draft.body)?;
    let mut tried = session.trust.trusted().clone();
    tried.update_root(&bytes, clock::now()).map_err(|e| match e.code {
        Code::Unsigned | Code::ThresholdNotMet | Code::RoleNotAuthorised => Failure::from(e).hint(format!(
            "every holder signs a copy (`ensign key root sign {0}`), then `ensign key root assemble COPY...`",
            path.display()
        )),
        _ => Failure::from(e),
    })?;
    let targets = targets_under(&session, &draft.body)?;
    let changes = change::difference(session.trust.root(), &draft.body);
    app.shell.block(&text(&changes));
    if app.shell.dry_run {
        return app.shell.would(format!("publish root {}", draft.body.version));
    }
    app.shell.confirm(
        &format!("This will publish root {} to every device. Go on?", draft.body.version),
        "the root in force stays",
    )?;
    let body = NewRoot {
        root: Base64(bytes),
        targets: targets.map(Base64),
    };
    let _: Vec<Metadata> = session.client.post("/v1/metadata/root", &body).await?;
    session.trust.refresh(&session.client).await?;
    forget(&own, &draft)?;
    app.shell.print(&shown(&session, None, &draft))
}

/// The next targets, where the ones in force would not count under `next` any more: signed here, with the keys that `next` names.
fn targets_under(session: &Session, next: &Root) -> Result<Option<Vec<u8>>> {
    let role = &next.roles.targets;
    let held = session.trust.trusted().targets_bytes();
    let fleet = session.fleet();
    if held.is_none_or(|bytes| statement::open::<Targets>(bytes, &role.keys, role.threshold, &fleet).is_ok()) {
        return Ok(None);
    }
    let mut targets = session.trust.targets().next(clock::now())?;
    targets.version = targets.version.max(next.floors.targets_version);
    let mut envelope = statement::seal(&targets)?;
    for (_, key) in session.context.all_keys()? {
        if role.keys.contains(&key.public()) {
            envelope.sign(&key.secret()?, &aad(&fleet.0));
        }
    }
    let bytes = envelope.encode();
    statement::open::<Targets>(&bytes, &role.keys, role.threshold, &fleet).map_err(|e| {
        Failure::new(
            e.code,
            format!("the new targets keys must sign targets in the same step: {}", e.text),
        )
        .hint("add the new key first and keep the old one, publish, then remove the old one where the new one is")
    })?;
    Ok(Some(bytes))
}

/// A draft is for the root after the one in force, and made from it.
fn check_follows(session: &Session, path: &Path, draft: &Root) -> Result<()> {
    let held = session.trust.root().version;
    if draft.version != held.saturating_add(1) {
        return Err(Failure::new(
            Code::Conflict,
            format!("{} is root {}, in force is {held}", path.display(), draft.version),
        )
        .hint("`ensign key root rotate --anew` begins the next one"));
    }
    Ok(session.trust.trusted().check_next_root(draft, clock::now())?)
}

fn shown(session: &Session, file: Option<&Path>, draft: &Signed<Root>) -> Shown {
    let fleet = aad(&session.fleet().0);
    let old = session.trust.root();
    let root = &draft.body;
    let progress = |by, role: &Role| Progress {
        by,
        signatures: valid_signers(&draft.envelope, &role.keys, &fleet).len(),
        threshold: role.threshold,
    };
    let role = |name: &str, role: &Role| ShownRole {
        role: name.to_owned(),
        threshold: role.threshold,
        keys: role.keys.iter().map(PublicKey::id).collect(),
    };
    let mut roles = vec![
        role("root", &root.roles.root),
        role("targets", &root.roles.targets),
        role("snapshot", &root.roles.snapshot),
        role("timestamp", &root.roles.timestamp),
    ];
    roles.extend(root.scopes.iter().map(|s| role(&format!("deploy:{}", s.name), &s.role)));
    roles.push(ShownRole {
        role: "controller".to_owned(),
        threshold: 1,
        keys: root.controller.keys.clone(),
    });
    let mut signed = vec![progress("new root", &root.roles.root)];
    if file.is_some() {
        signed.insert(0, progress("root in force", &old.roles.root));
    }
    Shown {
        file: file.map(Path::to_owned),
        version: root.version,
        expires: ensign_api::Time(root.expires),
        payload: draft.digest(),
        changes: if file.is_some() {
            change::difference(old, root)
        } else {
            Vec::new()
        },
        roles,
        signed,
    }
}

fn read(path: &Path) -> Result<Signed<Root>> {
    let bytes = home::read_up_to(path, limits::ROOT_BYTES as u64).map_err(|e| match e.code {
        Code::NotFound => e.hint("`ensign key root rotate` writes the draft"),
        _ => e,
    })?;
    statement::open_unverified(&bytes).map_err(|e| Failure::new(e.code, format!("{}: {}", path.display(), e.text)))
}

fn write(path: &Path, envelope: &Envelope) -> Result<()> {
    durable::write(path, &envelope.encode(), PUBLIC).map_err(|e| Failure::io("write", path, &e))
}

/// The draft of this context is done with once its root is in force.
fn forget(own: &Path, published: &Signed<Root>) -> Result<()> {
    if own.exists() && read(own).is_ok_and(|draft| draft.digest() == published.digest()) {
        std::fs::remove_file(own).map_err(|e| Failure::io("remove", own, &e))?;
    }
    Ok(())
}

fn public_key(path: &Path) -> Result<PublicKey> {
    let bytes = home::read(path)?;
    PublicKey::from_pem(&String::from_utf8_lossy(&bytes)).map_err(|e| {
        Failure::new(Code::Malformed, format!("{}: {e}", path.display()))
            .hint("`ensign key export-pub NAME > FILE` writes one")
    })
}

fn text(changes: &[String]) -> String {
    if changes.is_empty() {
        return "no change but a new date of expiry\n".to_owned();
    }
    changes.join("\n") + "\n"
}

impl Document for Shown {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts.add("root", format!("version {}", self.version));
        if let Some(file) = &self.file {
            facts.add("draft", file.to_string_lossy());
        }
        facts
            .add("expires", self.expires.to_string())
            .add("payload", self.payload.to_string());
        for role in &self.roles {
            facts.add(&role.role, format!("{} of {}", role.threshold, role.keys.len()));
            for key in &role.keys {
                facts.add("", key.to_string());
            }
        }
        for line in &self.changes {
            facts.add("change", line);
        }
        for progress in &self.signed {
            facts.add(
                &format!("signed by {}", progress.by),
                format!("{} of {}", progress.signatures, progress.threshold),
            );
        }
        facts.text(paint)
    }
}
