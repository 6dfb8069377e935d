//! `rollout sign`: this operator's signature on a plan file, or those of others.

use std::path::{Path, PathBuf};

use ensign_bundle::digest::{Digest, PlanId};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::plan::statements::Plan;
use ensign_crypto::{Envelope, KeyId};
use serde::Serialize;

use crate::app::{App, Session};
use crate::args::SignFile;
use crate::difference::{Difference, of_plan};
use crate::failure::Result;
use crate::output::{Document, Facts, Paint};
use crate::rollout::preview::{Preview, Seen};
use crate::rollout::start;
use crate::rollout::travel::{self, Verified};
use crate::scopes::{self, ScopeCount};
use crate::seen::{self, How};
use crate::signing;
use crate::units::show_count;

#[derive(Debug, Serialize)]
struct SignedPlan {
    id: PlanId,
    product: Ident,
    version: Version,
    devices: usize,
    file: PathBuf,
    /// The key of this machine; none where signatures of others were joined.
    key: Option<KeyId>,
    /// Signatures that were not there before.
    added: usize,
    /// The file of a detached signature.
    signature: Option<PathBuf>,
    /// Each scope that a device of the plan is in must reach its threshold.
    scopes: Vec<ScopeCount>,
    /// SHA-256 of what was signed.
    payload: Digest,
}

pub async fn run(app: &App, words: &SignFile) -> Result<()> {
    let mut session = app.session()?;
    let mut verified = travel::open(&mut session, &words.file).await?;
    let scopes = verified.scopes(session.trust.root())?;
    let keys = scopes::keys(&scopes);
    let mut envelope = verified.file.plan.envelope.clone();
    let before = scopes::counts(&session, &scopes, &envelope);
    let (key, added) = if words.by.add.is_empty() {
        let signer = scopes::signer(&session, words.by.key.as_deref(), &scopes, "plans")?;
        let public = signer.public();
        let new = !signing::has_signed(&envelope, &public, &session.fleet());
        if new {
            let counts = scopes::with_key(&scopes, &before, &public);
            let difference = of_plan(verified.plan(), &verified.names(), &verified.cut, &counts);
            show(app, &session, &verified, &difference).await?;
            if !app.shell.dry_run {
                verified.check_canaries(session.trust.root())?;
            }
            // Shown is known.
            seen::remember(&session, &verified.inventory.known, How::Named)?;
            if app.shell.dry_run {
                let what = format!("sign {} with the key {}", named(&verified, words), public.id());
                return app.shell.would_change(what, &difference);
            }
            signing::sign(&mut envelope, &signer.secret()?, &session.fleet());
        }
        (Some(public.id()), usize::from(new))
    } else {
        let added = signing::join_all::<Plan>(&mut envelope, words, &keys, &session.fleet())?;
        (None, added)
    };
    if app.shell.dry_run {
        let signatures = show_count(added as u64, "signature");
        let what = (added > 0).then(|| format!("add {signatures} to {}", named(&verified, words)));
        return app.shell.would_all(what.into_iter().collect());
    }
    let payload = verified.file.plan.digest();
    let after = scopes::counts(&session, &scopes, &envelope);
    store(&mut verified, envelope, words, key.as_ref(), added)?;
    let plan = verified.plan();
    app.shell.print(&SignedPlan {
        id: PlanId::of(&payload),
        product: plan.product.clone(),
        version: plan.release.version.clone(),
        devices: verified.inventory.known.len(),
        file: words.file.clone(),
        key,
        added,
        signature: words.by.out.clone(),
        scopes: after,
        payload,
    })
}

/// Writes what changed: the plan file, or the file of the one signature.
fn store(
    verified: &mut Verified,
    envelope: Envelope,
    words: &SignFile,
    key: Option<&KeyId>,
    added: usize,
) -> Result<()> {
    if let (Some(out), Some(key)) = (&words.by.out, key) {
        return signing::write(out, &envelope, key);
    }
    verified.file.plan.envelope = envelope;
    if added > 0 {
        travel::write(&words.file, &verified.file)?;
    }
    Ok(())
}

/// The preview, and what the signature stands for.
async fn show(app: &App, session: &Session, verified: &Verified, difference: &Difference) -> Result<()> {
    let draft = verified.draft();
    let preview = if verified.online {
        start::preview(session, &draft, &verified.inventory, false, false).await?
    } else {
        Preview::of(&draft, &verified.inventory, &Seen::default(), false)
    };
    let paint = Paint::of_diagnostics();
    app.shell.block(&preview.table(paint));
    app.shell.block(&format!(
        "signing the plan {}, sha256 {}\n{}",
        PlanId::of(&verified.file.plan.digest()),
        verified.file.plan.digest(),
        difference.text(paint)
    ));
    Ok(())
}

/// The plan as a sentence names it.
fn named(verified: &Verified, words: &SignFile) -> String {
    let plan = verified.plan();
    format!(
        "the plan for {}@{} in {}",
        plan.product,
        plan.release.version,
        display(&words.file)
    )
}

fn display(path: &Path) -> String {
    ensign_bundle::text::printable(&path.to_string_lossy(), 300)
}

impl Document for SignedPlan {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        let devices = show_count(self.devices as u64, "device");
        facts
            .add("plan", self.id.to_string())
            .add("brings", format!("{}@{} to {devices}", self.product, self.version));
        if let Some(key) = &self.key {
            facts.add("key", key.to_string());
        }
        facts.add("payload", format!("sha256 {}", self.payload));
        for scope in &self.scopes {
            facts.add(&format!("scope {}", scope.scope), format!("{} signatures", scope.count));
        }
        if self.added == 0 {
            facts.add("new", "nothing: these signatures were there already");
        }
        let file = display(&self.file);
        let (who, next) = match &self.signature {
            Some(signature) => (
                "Next, whoever holds the file",
                format!("ensign rollout sign {file} --add {}", display(signature)),
            ),
            None if self.scopes.iter().all(|s| s.count.is_enough()) => ("Next", format!("ensign rollout start {file}")),
            None => ("Next, another key holder", format!("ensign rollout sign {file}")),
        };
        format!("{}\n{who}: {}\n", facts.text(paint), paint.bold(&next))
    }
}
