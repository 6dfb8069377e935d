//! `product publish`: the next targets, and with them the releases that would not be valid under them otherwise.

use std::path::Path;

use ensign_api::{Base64, Metadata, NewTargets};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::ReleaseName;
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::{ListedRelease, Product, Targets};

use crate::app::{App, Session};
use crate::ceremony::{self, Ceremony as _};
use crate::clock;
use crate::failure::{Failure, Result};
use crate::signing::{self, Count};

pub async fn run(app: &App, file: Option<&Path>) -> Result<()> {
    let mut session = app.signing_session().await?;
    let own = Targets::own_path(&session.context);
    let path = file.unwrap_or(&own);
    let mut draft = ceremony::read::<Targets>(path)?;
    let held = session.trust.trusted().targets_bytes();
    let held = held.and_then(|bytes| statement::open_unverified::<Targets>(bytes).ok());
    if held.is_some_and(|held| held.digest() == draft.digest()) {
        // Published before; its answer was lost.
        ceremony::forget(&own, &draft)?;
        return app.shell.print(&ceremony::shown(&session, None, &draft));
    }
    draft.body.check_follows(&session, path)?;
    let role = session.trust.root().roles.targets.clone();
    let fleet = session.fleet();
    let count = |draft: &statement::Signed<Targets>| Count::of(&draft.envelope, &role.keys, role.threshold, &fleet);
    let missing = if count(&draft).is_enough() {
        Vec::new()
    } else {
        ceremony::missing(&session, &draft)?
    };
    let renewals = renewals(&mut session, &draft.body).await?;
    let difference = draft.body.difference(&session);
    if app.shell.dry_run {
        let mut would: Vec<String> = missing
            .iter()
            .map(|(name, _)| format!("sign with the key {name}"))
            .collect();
        would.extend(renewals.iter().map(|r| format!("sign {} anew", r.named())));
        would.push(format!("publish targets {}", draft.body.version));
        return app.shell.would_change_all(would, &difference);
    }
    app.shell.block(&ceremony::text(&difference));
    ceremony::add(&session, &mut draft, &missing)?;
    if !missing.is_empty() {
        ceremony::write(path, &draft.envelope)?;
    }
    if !count(&draft).is_enough() {
        return Err(Failure::new(
            Code::ThresholdNotMet,
            format!("targets {}: {}", draft.body.version, count(&draft)),
        )
        .about(path)
        .hint(format!(
            "every holder signs a copy (`ensign product sign {}`), then `ensign product assemble COPY...`",
            path.display()
        )));
    }
    let mut releases = Vec::new();
    for renewal in &renewals {
        app.shell.note(&format!("signing {} anew", renewal.named()));
        releases.push(Base64(renewal.sign(&session)?));
    }
    let body = NewTargets {
        targets: Base64(draft.envelope.encode()),
        releases,
    };
    let _: Vec<Metadata> = session.client.post("/v1/metadata/targets", &body).await?;
    session.trust.refresh(&session.client).await?;
    ceremony::forget(&own, &draft)?;
    app.shell.print(&ceremony::shown(&session, None, &draft))
}

/// Published releases that the next targets let go: below the lowest counter of their product.
pub fn leaving(session: &Session, next: &Targets) -> Vec<String> {
    let listed = session.trust.trusted().snapshot();
    let listed = listed.iter().flat_map(|s| &s.releases);
    let gone = listed.filter(|l| next.product(&l.product).is_some_and(|p| l.counter < p.lowest));
    gone.map(|l| format!("{}@{}", l.product, l.release)).collect()
}

/// A published release that is signed anew, for the keys that the next targets give its product.
struct Renewal {
    name: ReleaseName,
    next: ensign_bundle::trust::roles::Release,
    product: Product,
}

impl Renewal {
    fn named(&self) -> String {
        format!("{}@{}", self.name.product, self.name.version)
    }

    fn sign(&self, session: &Session) -> Result<Vec<u8>> {
        let role = &self.product.role;
        let mut envelope = statement::seal(&self.next)?;
        for (_, key) in session.context.all_keys()? {
            if role.keys.contains(&key.public()) {
                signing::sign(&mut envelope, &key.secret()?, &session.fleet());
            }
        }
        Ok(envelope.encode())
    }
}

/// What is listed and would not be valid under `next`. Refused (33) where the keys of this machine cannot make it valid.
async fn renewals(session: &mut Session, next: &Targets) -> Result<Vec<Renewal>> {
    let listed: Vec<ListedRelease> = session
        .trust
        .trusted()
        .snapshot()
        .map(|s| s.releases.clone())
        .unwrap_or_default();
    let mut all = Vec::new();
    for entry in listed {
        let Some(product) = next.product(&entry.product) else {
            let text = format!("no entry would cover {}@{}", entry.product, entry.release);
            return Err(Failure::new(Code::Conflict, text).hint("`ensign product set PRODUCT` gives it one"));
        };
        let same = session
            .trust
            .product(&entry.product)
            .is_ok_and(|old| old.role == product.role);
        if same || entry.counter < product.lowest {
            continue;
        }
        let name = ReleaseName {
            product: entry.product,
            version: entry.release,
        };
        let held = session.trust.listed_release(&session.client, &name).await?;
        let role = &product.role;
        // The controller does not ask it of documents that are over.
        if held.body.expires <= clock::now()
            || statement::count(&held.envelope, &role.keys, role.threshold, &session.fleet()).is_ok()
        {
            continue;
        }
        let keys = session.context.all_keys()?;
        let mine = keys.iter().filter(|(_, key)| role.keys.contains(&key.public())).count();
        if mine < role.threshold as usize {
            let text = format!(
                "{}@{} would no longer be valid: {} of its new keys must sign it, this machine has {mine}",
                name.product, name.version, role.threshold
            );
            let product = &name.product;
            return Err(Failure::new(Code::Conflict, text).hint(format!(
                "add the new keys first and keep the old ones, publish, `ensign release sign --live --product {product}` where the new keys are, then remove the old ones"
            )));
        }
        all.push(Renewal {
            next: held.body.next(clock::now())?,
            product: product.clone(),
            name,
        });
    }
    Ok(all)
}
