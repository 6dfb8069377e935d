//! `ensign key root ...`: from the root in force to the next one.

use std::path::{Path, PathBuf};

use ensign_api::{Base64, Fleet, Metadata, NewRoot};
use ensign_bundle::reason::Code;
use ensign_bundle::statement::{self, Signed};
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::{Role, Root, Targets};
use ensign_crypto::{Envelope, KeyId, PublicKey, aad};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::change::{self, Keys, Whose};
use super::{Ceremony, Progress, ShownRole, forget, public_key, read, shown, text, write};
use crate::app::{App, Session};
use crate::args::{RootVerb, Rotate};
use crate::client::spki_digest;
use crate::clock;
use crate::difference::{Difference, of_root};
use crate::evidence::Inventory;
use crate::failure::{Failure, Result};
use crate::fleet::said_unheard;
use crate::home::{self, Context};
use crate::output::Shell;
use crate::signing::Count;

pub async fn run(app: &App, verb: RootVerb) -> Result<()> {
    match verb {
        RootVerb::Show { file } => super::show::<Root>(app, file.as_deref(), |session| {
            Ok(statement::open_unverified(session.trust.trusted().root_bytes())?)
        }),
        RootVerb::Rotate(words) => rotate(app, &words).await,
        RootVerb::Sign { file } => super::sign::<Root>(app, file.as_deref()).await,
        RootVerb::Assemble { files, out } => super::assemble::<Root>(app, &files, out.as_deref()),
        RootVerb::Publish { file } => publish(app, file.as_deref()).await,
    }
}

impl Ceremony for Root {
    const BEGIN: &'static str = "key root rotate";
    const SIGN: &'static str = "key root";

    fn own_path(context: &Context) -> PathBuf {
        context.root_draft_path()
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn expires(&self) -> u64 {
        self.expires
    }

    fn check_follows(&self, session: &Session, path: &Path) -> Result<()> {
        let held = session.trust.root().version;
        if self.version != held.saturating_add(1) {
            return Err(Failure::new(
                Code::Conflict,
                format!("{} is root {}, in force is {held}", path.display(), self.version),
            )
            .hint("`ensign key root rotate --anew` begins the next one"));
        }
        Ok(session.trust.trusted().check_next_root(self, clock::now())?)
    }

    /// Those of the root in force, and those of the next one.
    fn signers(&self, session: &Session) -> Vec<PublicKey> {
        let old = &session.trust.root().roles.root;
        old.keys.iter().chain(&self.roles.root.keys).copied().collect()
    }

    fn difference(&self, session: &Session) -> Difference {
        of_root(session.trust.root(), self)
    }

    fn roles(&self) -> Vec<ShownRole> {
        let role = |name: &str, role: &Role| ShownRole {
            role: name.to_owned(),
            threshold: role.threshold,
            keys: role.keys.iter().map(PublicKey::id).collect(),
        };
        let mut roles = vec![
            role("root", &self.roles.root),
            role("targets", &self.roles.targets),
            role("snapshot", &self.roles.snapshot),
            role("timestamp", &self.roles.timestamp),
        ];
        roles.extend(self.scopes.iter().map(|s| role(&format!("deploy:{}", s.name), &s.role)));
        roles.push(ShownRole {
            role: "controller".to_owned(),
            threshold: 1,
            keys: self.controller.keys.clone(),
        });
        roles.push(ShownRole {
            role: "https".to_owned(),
            threshold: 1,
            keys: change::ids(&self.controller.api),
        });
        roles
    }

    fn progress(&self, envelope: &Envelope, session: &Session, draft: bool) -> Vec<Progress> {
        let progress = |by, role: &Role| Progress {
            by,
            count: Count::of(envelope, &role.keys, role.threshold, &session.fleet()),
        };
        let mut signed = vec![progress("new root", &self.roles.root)];
        if draft {
            signed.insert(0, progress("root in force", &session.trust.root().roles.root));
        }
        signed
    }
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
    let is_https = whose == Whose::Https;
    let files = |wanted: bool| words.add.iter().filter(move |_| wanted);
    let keys = Keys {
        add: files(!is_https).map(|file| public_key(file)).collect::<Result<_>>()?,
        add_https: files(is_https).map(|file| certified_key(file)).collect::<Result<_>>()?,
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
    warn_of_unheard(&session, old, &next).await;
    warn_of_deploy_keys(old, &next);
    let draft = Signed { body: next, envelope };
    if app.shell.dry_run {
        return app.shell.would_change(
            format!("write the draft {}", path.display()),
            &of_root(old, &draft.body),
        );
    }
    write(path, &draft.envelope)?;
    app.shell.print(&shown(&session, Some(path), &draft))
}

/// The draft that is there, where it still follows the root in force. Its signatures go with the change.
fn continued(session: &Session, path: &Path, anew: bool) -> Result<Option<Root>> {
    if anew || !path.exists() {
        return Ok(None);
    }
    let draft = read::<Root>(path)?;
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

/// Where a key of the controller goes, devices that have not heard of the one that stays are counted, as far as the controller knows.
async fn warn_of_unheard(session: &Session, old: &Root, next: &Root) {
    let goes = |key: &KeyId| !next.controller.keys.contains(key);
    if !old.controller.keys.iter().any(goes) {
        return;
    }
    let fleet: Result<Fleet> = session.client.get("/v1/fleet").await;
    if let Ok(Fleet {
        unheard: Some(unheard), ..
    }) = fleet
    {
        Shell::warn(&format!(
            "{}: without the old key they cannot connect any more",
            said_unheard(&unheard)
        ));
    }
}

/// The key of the operators' port in a certificate of the controller.
fn certified_key(path: &Path) -> Result<KeyId> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(Code::Malformed, format!("{}: {e}", path.display()))
            .hint("`ensign-controller keys new --role https --data DIR --out .` writes https-next.crt")
    };
    let bytes = home::read(path)?;
    let certificate = CertificateDer::from_pem_slice(&bytes).map_err(|e| failed(&e))?;
    Ok(KeyId(spki_digest(&certificate).map_err(|e| failed(&e))?.0))
}

/// The grant of the token that a device joined with counts by today's deploy keys.
fn warn_of_deploy_keys(old: &Root, next: &Root) {
    let gone = old.scopes.iter().flat_map(|scope| &scope.role.keys).find(|key| {
        let kept = next.scopes.iter().any(|scope| scope.role.keys.contains(key));
        !kept
    });
    if let Some(key) = gone {
        Shell::warn(&format!(
            "root drops the deploy key {}: devices whose join token it signed are in no new plan until `ensign device regrant` signs for them",
            key.id()
        ));
    }
}

async fn publish(app: &App, file: Option<&Path>) -> Result<()> {
    let mut session = app.signing_session().await?;
    let own = session.context.root_draft_path();
    let path = file.unwrap_or(&own);
    let draft = read::<Root>(path)?;
    let bytes = draft.envelope.encode();
    if session.trust.trusted().root_bytes() == bytes {
        // Published before; its answer was lost.
        forget(&own, &draft)?;
        return app.shell.print(&shown(&session, None, &draft));
    }
    draft.body.check_follows(&session, path)?;
    let mut tried = session.trust.trusted().clone();
    tried.update_root(&bytes, clock::now()).map_err(|e| match e.code {
        Code::Unsigned | Code::ThresholdNotMet | Code::RoleNotAuthorised => Failure::from(e).hint(format!(
            "every holder signs a copy (`ensign key root sign {0}`), then `ensign key root assemble COPY...`",
            path.display()
        )),
        _ => Failure::from(e),
    })?;
    let targets = targets_under(&session, &draft.body)?;
    let changes = draft.body.difference(&session);
    if app.shell.dry_run {
        return app
            .shell
            .would_change(format!("publish root {}", draft.body.version), &changes);
    }
    app.shell.block(&text(&changes));
    app.shell.confirm(
        &format!("This will publish root {} to every device. Go on?", draft.body.version),
        "the root in force stays",
    )?;
    remember_members(&session, &draft.body).await;
    let body = NewRoot {
        root: Base64(bytes),
        targets: targets.map(Base64),
    };
    let _: Vec<Metadata> = session.client.post("/v1/metadata/root", &body).await?;
    session.trust.refresh(&session.client).await?;
    forget(&own, &draft)?;
    app.shell.print(&shown(&session, None, &draft))
}

/// Before deploy scopes change, whose grants count now is looked at: `device regrant` signs for those that this machine has verified.
async fn remember_members(session: &Session, next: &Root) {
    if session.trust.root().scopes == next.scopes {
        return;
    }
    if let Err(e) = Inventory::fetch(session).await {
        Shell::warn(&format!(
            "who is in the fleet could not be verified before the change: {e}"
        ));
    }
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
