//! `release sign`: this operator's signature on the release document of a bundle.

use std::fs::File;
use std::path::{Path, PathBuf};

use ensign_api::Time;
use ensign_bundle::accept::check_manifest;
use ensign_bundle::container::{self, Contents};
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::limits::ISSUED_AHEAD_S;
use ensign_bundle::manifest::{RELEASE_LIFE_S, Unsigned};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::ReleaseName;
use ensign_bundle::trust::roles::{ListedRelease, Release, Role};
use ensign_crypto::{Envelope, KeyId, PublicKey};
use serde::Serialize;

use crate::app::{App, Session};
use crate::args::SignFile;
use crate::clock;
use crate::difference::of_release;
use crate::durable::{PUBLIC, Pending};
use crate::failure::{Failure, Result, fail};
use crate::home::KeyRole;
use crate::output::{Document, Facts, Paint};
use crate::progress::Progress;
use crate::release;
use crate::signing::{self, Count};
use crate::units::{show_count, show_seconds};

#[derive(Debug, Serialize)]
pub(super) struct SignedFile {
    pub product: Ident,
    pub version: Version,
    pub file: PathBuf,
    /// The key of this machine; none where signatures of others were joined.
    pub key: Option<KeyId>,
    /// False: these signatures were there already.
    pub added: bool,
    /// The file of a detached signature.
    pub signature: Option<PathBuf>,
    /// Valid signatures of the product's keys, and how many are needed.
    #[serde(flatten)]
    pub count: Count,
    /// SHA-256 of what was signed.
    pub payload: Digest,
}

pub async fn run(app: &App, words: &SignFile) -> Result<()> {
    let path = &words.file;
    let mut session = app.session()?;
    let online = session.refresh_if_reached().await?;
    let (mut file, bundle) = release::open(path)?;
    let contents = bundle.single().map_err(|e| release::named(path, &e))?.clone();
    let product = session.trust.product(&contents.release.product)?.clone();
    // What devices would refuse is not signed.
    check_manifest(&contents.release, &product, &contents.manifest).map_err(|e| release::named(path, &e))?;
    let fleet = session.fleet();
    let count = |document: &Envelope| Count::of(document, &product.role.keys, product.role.threshold, &fleet);
    let mut unsigned = Unsigned::from(contents.clone());
    let mut key = None;
    let added = if words.by.add.is_empty() {
        let signer = match &words.by.key {
            Some(file) => session.context.keyring().stored(file)?,
            None => session.context.signer(KeyRole::Release, &product.role.keys)?,
        };
        let public = signer.public();
        check_role(&contents.release.product, &product.role, &public)?;
        key = Some(public.id());
        let new = !signing::has_signed(&contents.document, &public, &fleet);
        if new {
            let published = judge(&mut session, &contents, online)
                .await
                .map_err(|e| e.about(path))?;
            check_content(app, path, &mut file, &bundle)?;
            let (now, before) = (clock::now(), count(&contents.document));
            let mut after = before;
            after.signatures += 1;
            let difference = of_release(
                newest(&session, &contents),
                published.as_ref(),
                &contents,
                expires(&contents, now),
                (before, after),
            );
            let what = format!("{}@{}", contents.release.product, contents.release.release);
            if app.shell.dry_run {
                let what = format!("sign {what} in {} with the key {}", path.display(), public.id());
                return app.shell.would_change(what, &difference);
            }
            app.shell.note(&format!("signing {what}"));
            app.shell.block(&difference.text(Paint::of_diagnostics()));
            unsigned.sign(&signer.secret()?, &fleet, now)?;
        }
        new
    } else {
        let before = contents.document.signatures().len();
        join(&mut unsigned, words, &product.role, &session)?;
        judge(&mut session, unsigned.contents(), online)
            .await
            .map_err(|e| e.about(path))?;
        let new = unsigned.contents().document.signatures().len() - before;
        if app.shell.dry_run && new > 0 {
            let signatures = show_count(new as u64, "signature");
            return app.shell.would(format!("add {signatures} to {}", path.display()));
        }
        new > 0
    };
    if app.shell.dry_run {
        return app.shell.would_all(Vec::new());
    }
    let contents = unsigned.contents();
    match (&words.by.out, &key) {
        (Some(out), Some(key)) => signing::write(out, &contents.document, key)?,
        _ if added => write(path, &mut file, &contents.document)?,
        _ => {}
    }
    app.shell.print(&SignedFile {
        product: contents.release.product.clone(),
        version: contents.release.release.clone(),
        file: path.clone(),
        key,
        added,
        signature: words.by.out.clone(),
        count: count(&contents.document),
        payload: Digest(contents.document.payload_digest()),
    })
}

/// Replaces the release document of a bundle; everything behind it stays as it is.
fn write(path: &Path, file: &mut File, document: &Envelope) -> Result<()> {
    let mut pending = Pending::create(path, PUBLIC).map_err(|e| Failure::io("write", path, &e))?;
    container::resign(file, &mut pending.file, document).map_err(|e| release::named(path, &e))?;
    pending.commit().map_err(|e| Failure::io("write", path, &e))
}

/// Takes detached signatures. An unsigned bundle takes the dates of the first one.
fn join(unsigned: &mut Unsigned, words: &SignFile, role: &Role, session: &Session) -> Result<()> {
    let mut document = unsigned.contents().document.clone();
    if document.signatures().is_empty()
        && let Some(first) = words.by.add.first()
    {
        let dated = signing::read::<Release>(first)?.envelope;
        document = Envelope::new(dated.kind(), dated.payload().to_vec());
    }
    signing::join_all::<Release>(&mut document, words, &role.keys, &session.fleet())?;
    unsigned.replace_document(document).map_err(|e| {
        let sigs: Vec<String> = words.by.add.iter().map(|sig| sig.display().to_string()).collect();
        let (sigs, file) = (sigs.join(", "), words.file.display());
        Failure::new(e.code, format!("{sigs} is not for {file}: {}", e.text))
    })
}

pub(super) fn check_role(product: &Ident, role: &Role, key: &PublicKey) -> Result<()> {
    if role.keys.contains(key) {
        return Ok(());
    }
    Err(Failure::new(
        Code::RoleNotAuthorised,
        format!(
            "key {} is none of the {} that sign releases of {product}",
            key.id(),
            role.keys.len()
        ),
    ))
}

/// Whether this release may follow what this machine has verified. Returns the document of the same version, if it is published.
async fn judge(session: &mut Session, contents: &Contents, online: bool) -> Result<Option<Release>> {
    let release = &contents.release;
    let named = format!("{}@{}", release.product, release.release);
    let floor = session.trust.trusted().security_floor(&release.product);
    if release.counter < floor {
        return fail!(
            BelowFloor,
            "counter {} of {named} is below the floor {floor}",
            release.counter
        );
    }
    dates(release, !contents.document.signatures().is_empty())?;
    let name = ReleaseName {
        product: release.product.clone(),
        version: release.release.clone(),
    };
    let listed = session.trust.trusted().snapshot().and_then(|s| s.release(&name));
    let Some(listed) = listed.map(|l| l.document.digest) else {
        return Ok(None);
    };
    let held = session.trust.trusted().release_bytes(&name).map(Digest::of) == Some(listed);
    let published = if online {
        session
            .trust
            .release(&session.client, &name.product, &name.version)
            .await?
    } else if let Some(published) = session.trust.trusted().release(&name).filter(|_| held) {
        published.clone()
    } else {
        return Err(Failure::new(
            Code::MetadataMissing,
            format!("{named} is published as {listed}, and this machine has not seen that document"),
        )
        .hint("sign where the controller can be reached"));
    };
    if published.manifest != release.manifest {
        return Err(Failure::new(
            Code::AlreadyPublished,
            format!(
                "{named} is published with manifest {}, this file holds manifest {}",
                published.manifest.digest, release.manifest.digest
            ),
        ));
    }
    Ok(Some(published))
}

/// A document that somebody else dated lives no longer than one of this machine would, and not in the future.
pub(super) fn dates(release: &Release, dated: bool) -> Result<()> {
    let now = clock::now();
    if !dated {
        return Ok(());
    }
    if release.expires <= now {
        return Err(Failure::new(
            Code::MetadataExpired,
            format!(
                "the release document expired at {}, it is {}",
                Time(release.expires),
                Time(now)
            ),
        )
        .hint("build the release again"));
    }
    let life = release.expires.saturating_sub(release.issued);
    if life > RELEASE_LIFE_S || release.issued > now.saturating_add(ISSUED_AHEAD_S) {
        return Err(Failure::new(
            Code::LifetimeRefused,
            format!(
                "the release document is of {} and lives {}, at most {} from now on are signed",
                Time(release.issued),
                show_seconds(life),
                show_seconds(RELEASE_LIFE_S)
            ),
        )
        .hint("build the release again, and check the clocks of its signers"));
    }
    Ok(())
}

/// The product's highest release but this one, as this machine has verified it.
fn newest<'a>(session: &'a Session, contents: &Contents) -> Option<&'a ListedRelease> {
    let release = &contents.release;
    let listed = &session.trust.trusted().snapshot()?.releases;
    let of_product = listed
        .iter()
        .filter(|l| l.product == release.product && l.release != release.release);
    of_product.max_by_key(|l| l.counter)
}

fn expires(contents: &Contents, now: u64) -> u64 {
    if contents.document.signatures().is_empty() {
        now.saturating_add(RELEASE_LIFE_S)
    } else {
        contents.release.expires
    }
}

/// Whoever signs vouches for the bytes, so they are looked at.
fn check_content(app: &App, path: &Path, file: &mut File, bundle: &container::Bundle) -> Result<()> {
    let progress = Progress::bytes(&app.shell, "checking", bundle.len());
    let checked = bundle.check_content(file, &mut |done| progress.set(done));
    progress.done();
    checked.map_err(|e| release::named(path, &e))
}

impl Document for SignedFile {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts.add("release", format!("{}@{}", self.product, self.version));
        if let Some(key) = &self.key {
            facts.add("key", key.to_string());
        }
        let again = if self.added { "" } else { "; nothing new" };
        facts
            .add("payload", format!("sha256 {}", self.payload))
            .add("signatures", format!("{}{again}", self.count));
        let file = self.file.display();
        let (who, next) = match &self.signature {
            Some(signature) => (
                "Next, whoever holds the file",
                format!("ensign release sign {file} --add {}", signature.display()),
            ),
            None if self.count.is_enough() => ("Next", format!("ensign release publish {file}")),
            None => ("Next, another key holder", format!("ensign release sign {file}")),
        };
        format!("{}\n{who}: {}\n", facts.text(paint), paint.bold(&next))
    }
}
