//! `token sign` and `token publish`: the grant of a token where one operator's signature is not enough.

use std::path::{Path, PathBuf};

use ensign_api::{Base64, NewToken, Time, Token as Row};
use ensign_bundle::digest::Digest;
use ensign_bundle::plan::membership::Invitation;
use ensign_bundle::plan::statements::{Grant, Subject};
use ensign_bundle::reason::Code;
use ensign_bundle::statement::Signed;
use ensign_bundle::trust::roles::{Root, Scope};
use ensign_crypto::{KeyId, PublicKey};
use serde::Serialize;

use crate::app::{App, Session};
use crate::args::SignFile;
use crate::clock;
use crate::difference::Difference;
use crate::durable::{self, PUBLIC};
use crate::failure::{Failure, Result, fail};
use crate::output::{Document, Facts, Paint};
use crate::scopes::{self, ScopeCount};
use crate::signing;
use crate::token::{TTL_MAX_S, USES_MAX, show_labels};
use crate::units::show_count;

#[derive(Debug, Serialize)]
struct SignedGrant {
    /// Public key of the token.
    token: PublicKey,
    file: PathBuf,
    /// The key of this machine; none where signatures of others were joined.
    key: Option<KeyId>,
    /// Signatures that were not there before.
    added: usize,
    /// The file of a detached signature.
    signature: Option<PathBuf>,
    /// Each scope that a device with these labels is in must reach its threshold.
    scopes: Vec<ScopeCount>,
    /// SHA-256 of what was signed.
    payload: Digest,
}

/// What a token's grant says.
struct Terms {
    token: PublicKey,
    uses: u32,
    expires: u64,
    approve: bool,
}

/// Signs the grant in a file, or joins signatures of others.
pub async fn sign(app: &App, words: &SignFile) -> Result<()> {
    let mut session = app.session()?;
    session.refresh_if_reached().await?;
    let path = &words.file;
    let mut grant = signing::open::<Grant>(path)?;
    let terms = terms(&session, &grant).map_err(|e| e.about(path))?;
    let scopes = touched(session.trust.root(), &grant)?;
    let before = scopes::counts(&session, &scopes, &grant.envelope);
    let (key, added) = if words.by.add.is_empty() {
        let signer = scopes::signer(&session, words.by.key.as_deref(), &scopes, "grants")?;
        let public = signer.public();
        let new = !signing::has_signed(&grant.envelope, &public, &session.fleet());
        if new {
            let mut difference = difference(&terms, &grant);
            for (scope, before, after) in scopes::with_key(&scopes, &before, &public) {
                difference.changed(format!("signatures in scope {scope}"), &before, &after);
            }
            if app.shell.dry_run {
                let what = format!("sign the grant in {} with the key {}", path.display(), public.id());
                return app.shell.would_change(what, &difference);
            }
            app.shell
                .note(&format!("signing the grant of the token {}", terms.token));
            app.shell.block(&difference.text(Paint::of_diagnostics()));
            signing::sign(&mut grant.envelope, &signer.secret()?, &session.fleet());
        }
        (Some(public.id()), usize::from(new))
    } else {
        let added = signing::join_all::<Grant>(&mut grant.envelope, words, &scopes::keys(&scopes), &session.fleet())?;
        (None, added)
    };
    if app.shell.dry_run {
        let signatures = show_count(added as u64, "signature");
        let what = (added > 0).then(|| format!("add {signatures} to {}", path.display()));
        return app.shell.would_all(what.into_iter().collect());
    }
    match (&words.by.out, &key) {
        (Some(out), Some(key)) => signing::write(out, &grant.envelope, key)?,
        _ if added > 0 => store(path, &grant.envelope.encode())?,
        _ => {}
    }
    app.shell.print(&SignedGrant {
        token: terms.token,
        file: path.clone(),
        key,
        added,
        signature: words.by.out.clone(),
        scopes: scopes::counts(&session, &scopes, &grant.envelope),
        payload: grant.digest(),
    })
}

/// Hands a grant that enough people signed to the controller: devices may join with its token then.
pub async fn publish(app: &App, path: &Path) -> Result<()> {
    let session = app.signing_session().await?;
    let grant = signing::open::<Grant>(path)?;
    let terms = terms(&session, &grant).map_err(|e| e.about(path))?;
    let scopes = touched(session.trust.root(), &grant)?;
    let hint = format!("each key holder: `ensign token sign {}`", path.display());
    scopes::require(&session, &scopes, &grant.envelope, &hint).map_err(|e| e.about(path))?;
    if app.shell.dry_run {
        let devices = show_count(u64::from(terms.uses), "device");
        return app
            .shell
            .would(format!("let {devices} join until {}", Time(terms.expires)));
    }
    let body = NewToken {
        grant: Base64(grant.envelope.encode()),
    };
    let row: Row = session.client.post("/v1/tokens", &body).await?;
    app.shell.print(&[row][..])
}

/// Writes a grant for its signers.
pub fn store(path: &Path, bytes: &[u8]) -> Result<()> {
    durable::write(path, bytes, PUBLIC).map_err(|e| Failure::io("write", path, &e))
}

/// Every scope that a device which joins with it is in.
fn touched<'a>(root: &'a Root, grant: &Signed<Grant>) -> Result<Vec<&'a Scope>> {
    Ok(Invitation::scopes(root, &grant.body.labels)?.iter().collect())
}

/// Grants of tokens travel; those of devices are signed where the device's labels are known.
/// What `token create` would have written, so that nobody signs more than that for somebody else.
fn terms(session: &Session, grant: &Signed<Grant>) -> Result<Terms> {
    let Subject::Token {
        key,
        uses,
        expires,
        approve,
    } = grant.body.subject
    else {
        return fail!(Malformed, "this is the grant of a device, not of a token");
    };
    let now = clock::now();
    if expires <= now {
        return Err(Failure::new(
            Code::TokenExpired,
            format!("the token expired at {}, it is {}", Time(expires), Time(now)),
        ));
    }
    session.trust.authority().check_issued(&grant.body)?;
    let again = "make it again: `ensign token create --grant GRANT`";
    if !(1..=USES_MAX).contains(&uses) {
        let text = format!("the token lets {uses} devices join, 1 to {USES_MAX} are possible");
        return Err(Failure::new(Code::LimitExceeded, text).hint(again));
    }
    if expires.saturating_sub(grant.body.issued) > TTL_MAX_S {
        let text = format!(
            "the token lives from {} to {}, at most 400d",
            Time(grant.body.issued),
            Time(expires)
        );
        return Err(Failure::new(Code::LifetimeRefused, text).hint(again));
    }
    if grant.body.label_seq > 0 {
        let text = format!(
            "the grant of a token has no number, this one has {}",
            grant.body.label_seq
        );
        return Err(Failure::new(Code::Malformed, text).hint(again));
    }
    Ok(Terms {
        token: key,
        uses,
        expires,
        approve,
    })
}

fn difference(terms: &Terms, grant: &Signed<Grant>) -> Difference {
    let mut all = Difference::default();
    all.say("lets join", &show_count(u64::from(terms.uses), "device"));
    all.say("until", &Time(terms.expires));
    all.say("with labels", &show_labels(&grant.body.labels));
    let approval = if terms.approve {
        "approved at once"
    } else {
        "wait for `device accept`"
    };
    all.say("and they", &approval);
    all.say("token", &terms.token);
    all
}

impl Document for SignedGrant {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts.add("token", self.token.to_string());
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
        let file = self.file.display();
        let (who, next) = match &self.signature {
            Some(signature) => (
                "Next, whoever holds the file",
                format!("ensign token sign {file} --add {}", signature.display()),
            ),
            None if self.scopes.iter().all(|s| s.count.is_enough()) => ("Next", format!("ensign token publish {file}")),
            None => ("Next, another key holder", format!("ensign token sign {file}")),
        };
        format!("{}\n{who}: {}\n", facts.text(paint), paint.bold(&next))
    }
}
