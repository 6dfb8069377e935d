//! The next version of a published release's document: renewed with a new expiry, or withdrawn. The content stays what it is, so no
//! bundle is needed. Where several must sign, the document travels in a file of its own.

use std::path::Path;

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_bundle::limits;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::text::printable;
use ensign_bundle::trust::ReleaseName;
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::{ListedRelease, Release, Role};
use ensign_crypto::{Envelope, PublicKey};

use super::sign::{SignedFile, check_role, dates};
use crate::app::{App, Session};
use crate::args::{SignFile, Signature};
use crate::clock;
use crate::difference::of_document;
use crate::durable::{self, PUBLIC};
use crate::failure::{Failure, Result, fail};
use crate::home::{self, KeyRole};
use crate::keyring::Stored;
use crate::output::Paint;
use crate::signing::{self, Count};

/// Longest reason of a withdrawal, characters.
const REASON: usize = 200;

/// The next document of a release, not signed yet.
struct Draft {
    from: Release,
    to: Release,
    role: Role,
}

/// True for the file of a document, false for a bundle.
pub fn is_one(path: &Path) -> bool {
    let read = home::read_up_to(path, limits::RELEASE_BYTES as u64);
    read.is_ok_and(|bytes| statement::open_unverified::<Release>(&bytes).is_ok())
}

/// Signs the document anew, with a new expiry.
pub async fn renew(app: &App, name: &ReleaseName, by: &Signature) -> Result<()> {
    let mut session = app.signing_session().await?;
    let draft = next(&mut session, name).await?;
    finish(app, &mut session, vec![draft], by).await
}

/// Every release that is not withdrawn, of one product or of all.
pub async fn renew_live(app: &App, product: Option<&Ident>, by: &Signature) -> Result<()> {
    let mut session = app.signing_session().await?;
    let listed: Vec<ListedRelease> = session
        .trust
        .trusted()
        .snapshot()
        .map(|s| s.releases.clone())
        .unwrap_or_default();
    let mut drafts = Vec::new();
    for entry in listed.into_iter().filter(|l| product.is_none_or(|p| l.product == *p)) {
        let name = ReleaseName {
            product: entry.product,
            version: entry.release,
        };
        let draft = next(&mut session, &name).await?;
        if draft.from.yanked.is_none() {
            drafts.push(draft);
        }
    }
    if drafts.is_empty() {
        return fail!(NobodyMatches, "no release is published and not withdrawn");
    }
    finish(app, &mut session, drafts, by).await
}

/// Withdraws a release, for ever.
pub async fn yank(app: &App, name: &ReleaseName, by: &Signature) -> Result<()> {
    let reason = app.shell.reason.trim();
    let length = reason.chars().count();
    if length == 0 || length > REASON {
        return Err(Failure::usage(format!(
            "--reason says why, in 1 to {REASON} characters: devices and operators are shown it; it has {length}"
        )));
    }
    let mut session = app.signing_session().await?;
    let mut draft = next(&mut session, name).await?;
    if let Some(known) = &draft.from.yanked {
        if known != reason {
            app.shell
                .note(&format!("it was withdrawn before: {}", printable(known, REASON)));
        }
        return app.shell.print(&published(&session, name).await?);
    }
    draft.to.yanked = Some(reason.to_owned());
    let named = format!("{}@{}", name.product, name.version);
    app.shell.confirm(
        &format!("Withdraw {named} for ever? No device starts it any more; those that run it keep it."),
        &format!("{named} stays as it is"),
    )?;
    finish(app, &mut session, vec![draft], by).await
}

/// Signs a document that somebody else began, or joins signatures.
pub async fn sign(app: &App, words: &SignFile) -> Result<()> {
    let path = &words.file;
    let mut session = app.session()?;
    session.refresh_if_reached().await?;
    let mut document = signing::open::<Release>(path)?;
    let draft = check(&mut session, &document.body).await.map_err(|e| e.about(path))?;
    let fleet = session.fleet();
    let (key, added) = if words.by.add.is_empty() {
        let signer = signer(&session, &draft, words.by.key.as_deref())?;
        let public = signer.public();
        let new = !signing::has_signed(&document.envelope, &public, &fleet);
        if new {
            let difference = draft.difference(&document.envelope, &session);
            if app.shell.dry_run {
                let what = format!("sign {} with the key {}", path.display(), public.id());
                return app.shell.would_change(what, &difference);
            }
            app.shell.block(&difference.text(Paint::of_diagnostics()));
            signing::sign(&mut document.envelope, &signer.secret()?, &fleet);
        }
        (Some(public.id()), new)
    } else {
        let added = signing::join_all::<Release>(&mut document.envelope, words, &draft.role.keys, &fleet)?;
        (None, added > 0)
    };
    if app.shell.dry_run {
        let what = added.then(|| format!("add signatures to {}", path.display()));
        return app.shell.would_all(what.into_iter().collect());
    }
    match (&words.by.out, &key) {
        (Some(out), Some(key)) => signing::write(out, &document.envelope, key)?,
        _ if added => write(path, &document.envelope)?,
        _ => {}
    }
    app.shell.print(&SignedFile {
        product: draft.to.product.clone(),
        version: draft.to.release.clone(),
        file: path.clone(),
        key,
        added,
        signature: words.by.out.clone(),
        count: draft.count(&document.envelope, &session),
        payload: Digest(document.envelope.payload_digest()),
    })
}

/// Publishes a document that enough people have signed.
pub async fn publish(app: &App, path: &Path) -> Result<()> {
    let mut session = app.signing_session().await?;
    let document = signing::open::<Release>(path)?;
    let name = name_of(&document.body);
    let listed = session.trust.trusted().snapshot().and_then(|s| s.release(&name));
    if listed.is_some_and(|l| l.document.digest == Digest::of(&document.envelope.encode())) {
        // Published before; its answer was lost.
        return app.shell.print(&published(&session, &name).await?);
    }
    let draft = check(&mut session, &document.body).await.map_err(|e| e.about(path))?;
    let role = &draft.role;
    statement::count(&document.envelope, &role.keys, role.threshold, &session.fleet()).map_err(|e| {
        let shown = printable(&path.to_string_lossy(), 300);
        super::named(path, &e).hint(format!("another key holder: `ensign release sign {shown}`"))
    })?;
    if app.shell.dry_run {
        let what = format!("publish document {} of {}", draft.to.version, named(&draft.to));
        return app
            .shell
            .would_change(what, &draft.difference(&document.envelope, &session));
    }
    send(&mut session, &document.envelope).await?;
    app.shell.print(&published(&session, &name).await?)
}

/// Signs each, and publishes it or writes it into a file.
async fn finish(app: &App, session: &mut Session, drafts: Vec<Draft>, by: &Signature) -> Result<()> {
    let mut signed = Vec::new();
    for draft in &drafts {
        let signer = signer(session, draft, by.key.as_deref())?;
        if by.out.is_none() && draft.role.threshold > 1 {
            return Err(Failure::new(
                Code::ThresholdNotMet,
                format!(
                    "{} of {} keys must sign {}, this machine has 1",
                    draft.role.threshold,
                    draft.role.keys.len(),
                    named(&draft.to)
                ),
            )
            .hint("write it into a file with --detached --out FILE; each signs it: `ensign release sign FILE`; then `ensign release publish FILE`"));
        }
        signed.push((draft, signer, statement::seal(&draft.to)?));
    }
    if app.shell.dry_run {
        let would = signed.iter().map(|(draft, signer, _)| {
            let (name, version, key) = (named(&draft.to), draft.to.version, signer.public().id());
            format!("sign document {version} of {name} with the key {key}")
        });
        let mut all = crate::difference::Difference::default();
        for (draft, _, envelope) in &signed {
            all.extend(draft.difference(envelope, session));
        }
        return app.shell.would_change_all(would.collect(), &all);
    }
    for (draft, _, envelope) in &signed {
        app.shell
            .block(&draft.difference(envelope, session).text(Paint::of_diagnostics()));
    }
    let mut rows = Vec::new();
    for (draft, signer, mut envelope) in signed {
        signing::sign(&mut envelope, &signer.secret()?, &session.fleet());
        if let Some(out) = &by.out {
            write(out, &envelope)?;
            return app.shell.print(&SignedFile {
                product: draft.to.product.clone(),
                version: draft.to.release.clone(),
                file: out.clone(),
                key: Some(signer.public().id()),
                added: true,
                signature: None,
                count: draft.count(&envelope, session),
                payload: Digest(envelope.payload_digest()),
            });
        }
        let answer: ensign_api::Release = session.client.post_bytes("/v1/releases", envelope.encode()).await?;
        rows.push(answer);
    }
    session.trust.refresh(&session.client).await?;
    match &rows[..] {
        [one] => app.shell.print(one),
        rows => app.shell.print(rows),
    }
}

/// The document after the published one: nothing but its number and its dates is new.
async fn next(session: &mut Session, name: &ReleaseName) -> Result<Draft> {
    let from = session.trust.listed_release(&session.client, name).await?.body;
    let role = session.trust.product(&name.product)?.role.clone();
    Ok(Draft {
        to: from.next(clock::now())?,
        from,
        role,
    })
}

/// A document that came in a file must follow the published one, and change nothing but dates, patches and a withdrawal.
async fn check(session: &mut Session, body: &Release) -> Result<Draft> {
    let mut draft = next(session, &name_of(body)).await?;
    let expected = Release {
        issued: body.issued,
        expires: body.expires,
        yanked: body.yanked.clone(),
        patch_index: body.patch_index,
        ..draft.to
    };
    if body.version != expected.version {
        return Err(Failure::new(
            Code::Conflict,
            format!(
                "this is document {} of {}, published is {}",
                body.version,
                named(body),
                draft.from.version
            ),
        )
        .hint("begin again: `ensign release sign PRODUCT@VERSION --detached --out FILE`"));
    }
    if *body != expected {
        return fail!(
            AlreadyPublished,
            "{} is published with other content than this document names",
            named(body)
        );
    }
    if draft.from.yanked.is_some() && body.yanked != draft.from.yanked {
        return fail!(Yanked, "{} was withdrawn, and stays so", named(body));
    }
    dates(body, true)?;
    draft.to = expected;
    Ok(draft)
}

impl Draft {
    fn count(&self, envelope: &Envelope, session: &Session) -> Count {
        Count::of(envelope, &self.role.keys, self.role.threshold, &session.fleet())
    }

    /// With one more signature.
    fn difference(&self, envelope: &Envelope, session: &Session) -> crate::difference::Difference {
        let before = self.count(envelope, session);
        let mut after = before;
        after.signatures += 1;
        of_document(&self.from, &self.to, (before, after))
    }
}

fn signer(session: &Session, draft: &Draft, file: Option<&Path>) -> Result<Stored> {
    let signer = match file {
        Some(file) => session.context.keyring().stored(file)?,
        None => session.context.signer(KeyRole::Release, &draft.role.keys)?,
    };
    let public: PublicKey = signer.public();
    check_role(&draft.to.product, &draft.role, &public)?;
    Ok(signer)
}

fn name_of(release: &Release) -> ReleaseName {
    ReleaseName {
        product: release.product.clone(),
        version: release.release.clone(),
    }
}

/// The release as people write it.
fn named(release: &Release) -> String {
    format!("{}@{}", release.product, release.release)
}

fn write(path: &Path, envelope: &Envelope) -> Result<()> {
    durable::write(path, &envelope.encode(), PUBLIC).map_err(|e| Failure::io("write", path, &e))
}

async fn send(session: &mut Session, envelope: &Envelope) -> Result<()> {
    let _: ensign_api::Release = session.client.post_bytes("/v1/releases", envelope.encode()).await?;
    session.trust.refresh(&session.client).await
}

async fn published(session: &Session, name: &ReleaseName) -> Result<ensign_api::Release> {
    let path = format!("/v1/releases/{}/{}", name.product, name.version);
    session.client.get(&path).await
}
