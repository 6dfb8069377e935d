//! `release sign`: this operator's signature on the release document of a bundle.

use std::path::{Path, PathBuf};

use ensign_bundle::accept::check_manifest;
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::manifest::Unsigned;
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;
use ensign_bundle::{container, statement};
use ensign_crypto::{KeyId, PublicKey, aad, valid_signers};
use serde::Serialize;

use crate::app::{App, Session};
use crate::clock;
use crate::durable::{PUBLIC, Pending};
use crate::failure::{Failure, Result};
use crate::home::KeyRole;
use crate::output::{Document, Facts, Paint, Shell};
use crate::progress::Progress;
use crate::release;

#[derive(Debug, Serialize)]
struct SignedFile {
    product: Ident,
    version: Version,
    file: PathBuf,
    key: KeyId,
    /// False: this key's signature was there already.
    added: bool,
    /// Valid signatures of the product's keys, and how many are needed.
    signatures: usize,
    threshold: u32,
    /// SHA-256 of what was signed.
    payload: Digest,
}

pub async fn run(app: &App, path: &Path, key_file: Option<&Path>) -> Result<()> {
    let mut session = app.session()?;
    match session.trust.refresh(&session.client).await {
        Ok(()) => {}
        // Release keys may live where no controller can be reached; what is held is still verified and never goes back.
        Err(e) if e.code == Code::ControllerUnreachable => {
            Shell::warn(&format!("{e}; signing by the metadata that was last seen"));
        }
        Err(e) => return Err(e),
    }
    let signer = match key_file {
        Some(file) => session.context.keyring().stored(file)?,
        None => session.context.stored(KeyRole::Release)?,
    };
    let public = signer.public();
    let public_id = public.id();
    let (mut file, bundle) = release::open(path)?;
    let contents = bundle.single().map_err(|e| release::named(path, &e))?;
    let product = contents.release.product.clone();
    let keys = role_keys(&session, &product, &public)?;
    // What devices would refuse is not signed.
    check_manifest(&contents.release, session.trust.product(&product)?, &contents.manifest)
        .map_err(|e| release::named(path, &e))?;
    let signed_by_me = signers(contents, &keys.0, &session).contains(&public);
    let mut unsigned = Unsigned::from(contents.clone());
    if !signed_by_me {
        check_content(app, path, &mut file, &bundle)?;
        announce(app, contents);
        let issued_before = contents.document.signatures().first().map(|_| contents.release.expires);
        let now = clock::now();
        if issued_before.is_some_and(|expires| expires <= now) {
            return Err(Failure::new(
                Code::MetadataExpired,
                format!("the release document in {} has expired", path.display()),
            )
            .hint("build the release again"));
        }
        if app.shell.dry_run {
            let release = &contents.release;
            return app.shell.would(format!(
                "sign {product}@{} in {} with the key {public_id}",
                release.release,
                path.display()
            ));
        }
        unsigned.sign(&signer.secret()?, &session.fleet(), now)?;
        let document = unsigned.contents().document.clone();
        let mut pending = Pending::create(path, PUBLIC).map_err(|e| Failure::io("write", path, &e))?;
        container::resign(&mut file, &mut pending.file, &document).map_err(|e| release::named(path, &e))?;
        pending.commit().map_err(|e| Failure::io("write", path, &e))?;
    } else if app.shell.dry_run {
        return app.shell.would_all(Vec::new());
    }
    let contents = unsigned.contents();
    app.shell.print(&SignedFile {
        product,
        version: contents.release.release.clone(),
        file: path.to_owned(),
        key: public_id,
        added: !signed_by_me,
        signatures: signers(contents, &keys.0, &session).len(),
        threshold: keys.1,
        payload: Digest(contents.document.payload_digest()),
    })
}

/// The keys and threshold of the product, if this key is one of them.
fn role_keys(session: &Session, product: &Ident, key: &PublicKey) -> Result<(Vec<PublicKey>, u32)> {
    let role = &session.trust.product(product)?.role;
    if !role.keys.contains(key) {
        return Err(Failure::new(
            Code::RoleNotAuthorised,
            format!(
                "key {} is none of the {} that sign releases of {product}",
                key.id(),
                role.keys.len()
            ),
        ));
    }
    Ok((role.keys.clone(), role.threshold))
}

fn signers(contents: &container::Contents, keys: &[PublicKey], session: &Session) -> Vec<PublicKey> {
    valid_signers(&contents.document, keys, &aad(&session.fleet().0))
}

/// Whoever signs vouches for the bytes, so they are looked at.
fn check_content(app: &App, path: &Path, file: &mut std::fs::File, bundle: &container::Bundle) -> Result<()> {
    let progress = Progress::bytes(&app.shell, "checking", bundle.len());
    let checked = bundle.check_content(file, &mut |done| progress.set(done));
    progress.done();
    checked.map_err(|e| release::named(path, &e))
}

fn announce(app: &App, contents: &container::Contents) {
    let release = &contents.release;
    let components: Vec<&str> = contents.manifest.components.iter().map(|c| c.name.as_str()).collect();
    app.shell.note(&format!(
        "signing {}@{}, counter {}, components {}, manifest {}",
        release.product,
        release.release,
        release.counter,
        printable(&components.join(" "), 200),
        release.manifest.digest
    ));
    if let Ok(same) = statement::seal(release) {
        app.shell.detail(&format!(
            "payload SHA-256 before dating: {}",
            Digest(same.payload_digest())
        ));
    }
}

impl Document for SignedFile {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        let enough = self.signatures >= self.threshold as usize;
        facts
            .add("release", format!("{}@{}", self.product, self.version))
            .add("key", self.key.to_string())
            .add("payload", format!("sha256 {}", self.payload))
            .add(
                "signatures",
                format!(
                    "{} of {} needed{}",
                    self.signatures,
                    self.threshold,
                    if self.added {
                        ""
                    } else {
                        "; this key's was there already"
                    }
                ),
            );
        let next = if enough {
            format!("ensign release publish {}", self.file.display())
        } else {
            format!("ensign release sign {}", self.file.display())
        };
        let who = if enough { "Next" } else { "Next, another key holder" };
        format!("{}\n{who}: {}\n", facts.text(paint), paint.bold(&next))
    }
}
