//! Ceremonies: from a role in force to its next version, by as many holders as the thresholds ask for.
//!
//! ```text
//! draft (rotate, set) ─▶ sign (each holder, on a copy) ─▶ assemble ─▶ publish
//! ```
//!
//! A draft is the envelope of the next version with the signatures so far. What it changes is said each time, by this machine's own
//! verified state; nothing that anybody else wrote beside it is believed.

pub mod change;
pub mod root;

use std::path::{Path, PathBuf};

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::Code;
use ensign_bundle::statement::{self, Document as Statement, Signed};
use ensign_crypto::{Envelope, KeyId, PublicKey, aad, valid_signers};
use serde::Serialize;

use crate::app::{App, Session};
use crate::difference::Difference;
use crate::durable::{self, PUBLIC};
use crate::failure::{Failure, Result};
use crate::home::{self, Context};
use crate::keyring::Stored;
use crate::output::{Document, Facts, Paint};
use crate::signing::Count;

/// A role that people sign in a ceremony of its own.
pub trait Ceremony: Statement + Clone {
    /// What begins a draft, and what signs and assembles one: for hints.
    const BEGIN: &'static str;
    const SIGN: &'static str;

    /// Where this context keeps the draft.
    fn own_path(context: &Context) -> PathBuf;
    fn version(&self) -> u64;
    fn expires(&self) -> u64;
    /// A draft is for the version after the one in force, and devices would take it once it is signed.
    fn check_follows(&self, session: &Session, path: &Path) -> Result<()>;
    /// Whose signatures count.
    fn signers(&self, session: &Session) -> Vec<PublicKey>;
    /// Against what this machine has verified.
    fn difference(&self, session: &Session) -> Difference;
    /// Every role that it names.
    fn roles(&self) -> Vec<ShownRole>;
    /// How far the signatures are; `draft`: it is not in force yet.
    fn progress(&self, envelope: &Envelope, session: &Session, draft: bool) -> Vec<Progress>;
}

/// A role and how far its signatures are.
#[derive(Debug, Serialize)]
pub struct Shown {
    #[serde(skip)]
    kind: &'static str,
    /// None = the one in force.
    file: Option<PathBuf>,
    version: u64,
    expires: ensign_api::Time,
    /// SHA-256 of what is signed: holders compare it.
    payload: Digest,
    /// Against the one in force.
    changes: Difference,
    roles: Vec<ShownRole>,
    signed: Vec<Progress>,
}

#[derive(Debug, Serialize)]
pub struct ShownRole {
    pub role: String,
    pub threshold: u32,
    pub keys: Vec<KeyId>,
}

/// Valid signatures of a role's keys, and how many are needed.
#[derive(Debug, Serialize)]
pub struct Progress {
    pub by: &'static str,
    #[serde(flatten)]
    pub count: Count,
}

/// The draft in a file, or that of this context; without one, what is in force.
pub fn show<T: Ceremony>(
    app: &App,
    file: Option<&Path>,
    in_force: impl Fn(&Session) -> Result<Signed<T>>,
) -> Result<()> {
    let session = app.session()?;
    let own = T::own_path(&session.context);
    let path = file.or_else(|| own.exists().then_some(own.as_path()));
    let shown = match path {
        Some(path) => {
            let draft = read::<T>(path)?;
            draft.body.check_follows(&session, path)?;
            shown(&session, Some(path), &draft)
        }
        None => shown(&session, None, &in_force(&session)?),
    };
    app.shell.print(&shown)
}

/// Signs a draft with every key of this machine that counts.
pub async fn sign<T: Ceremony>(app: &App, file: Option<&Path>) -> Result<()> {
    let session = app.signing_session().await?;
    let own = T::own_path(&session.context);
    let path = file.unwrap_or(&own);
    let mut draft = read::<T>(path)?;
    draft.body.check_follows(&session, path)?;
    let missing = missing(&session, &draft)?;
    let difference = draft.body.difference(&session);
    if app.shell.dry_run {
        let each = missing.iter();
        let would = each.map(|(name, _)| format!("sign {} with the key {name}", path.display()));
        return app.shell.would_change_all(would.collect(), &difference);
    }
    app.shell.block(&text(&difference));
    if !missing.is_empty() {
        add(&session, &mut draft, &missing)?;
        write(path, &draft.envelope)?;
    }
    app.shell.print(&shown(&session, Some(path), &draft))
}

/// The keys of this machine that count and have not signed. None counts at all: refused.
pub fn missing<T: Ceremony>(session: &Session, draft: &Signed<T>) -> Result<Vec<(String, Stored)>> {
    let wanted = draft.body.signers(session);
    let done = valid_signers(&draft.envelope, &wanted, &aad(&session.fleet().0));
    let mine: Vec<(String, Stored)> = session
        .context
        .all_keys()?
        .into_iter()
        .filter(|(_, key)| wanted.contains(&key.public()))
        .collect();
    if mine.is_empty() {
        let text = format!(
            "no key of this machine is among the {} that sign the next {}",
            wanted.len(),
            T::KIND
        );
        return Err(Failure::new(Code::RoleNotAuthorised, text)
            .hint(format!("sign where such a key is: `ensign {} sign FILE`", T::SIGN)));
    }
    Ok(mine
        .into_iter()
        .filter(|(_, key)| !done.contains(&key.public()))
        .collect())
}

/// Adds the signatures of these keys.
pub fn add<T: Ceremony>(session: &Session, draft: &mut Signed<T>, keys: &[(String, Stored)]) -> Result<()> {
    for (_, key) in keys {
        crate::signing::sign(&mut draft.envelope, &key.secret()?, &session.fleet());
    }
    Ok(())
}

/// Puts the signatures of several copies of one draft together.
pub fn assemble<T: Ceremony>(app: &App, files: &[PathBuf], out: Option<&Path>) -> Result<()> {
    let session = app.session()?;
    let own = T::own_path(&session.context);
    let path = out.unwrap_or(&own);
    let parts = copies::<T>(files, path)?;
    let Some((first, whole)) = parts.first() else {
        return Err(Failure::usage("no file is named"));
    };
    whole.body.check_follows(&session, first)?;
    let mut gathered = whole.clone();
    gathered.envelope = gather(&parts, &whole.body.signers(&session), &session)?;
    if app.shell.dry_run {
        return app.shell.would(format!(
            "write {} with {} signatures",
            path.display(),
            gathered.envelope.signatures().len()
        ));
    }
    write(path, &gathered.envelope)?;
    app.shell.print(&shown(&session, Some(path), &gathered))
}

/// The copies that are named, and what lies where they are put together: what this machine signed counts too, where it is the same draft.
fn copies<'a, T: Ceremony>(files: &'a [PathBuf], path: &'a Path) -> Result<Vec<(&'a Path, Signed<T>)>> {
    let mut parts = files
        .iter()
        .map(|file| Ok((file.as_path(), read::<T>(file)?)))
        .collect::<Result<Vec<_>>>()?;
    if path.exists() && !files.iter().any(|file| file == path) {
        let there = read::<T>(path)?;
        if parts.first().is_some_and(|(_, first)| first.digest() == there.digest()) {
            parts.push((path, there));
        }
    }
    Ok(parts)
}

/// Signatures that count, and no others. All parts are copies of the first.
fn gather<T: Ceremony>(parts: &[(&Path, Signed<T>)], wanted: &[PublicKey], session: &Session) -> Result<Envelope> {
    let Some((first, whole)) = parts.first() else {
        return Err(Failure::usage("no file is named"));
    };
    let fleet = aad(&session.fleet().0);
    let mut gathered = Envelope::new(T::KIND, whole.envelope.payload().to_vec());
    for (file, part) in parts {
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
        for key in valid_signers(&part.envelope, wanted, &fleet) {
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
    Ok(gathered)
}

pub fn shown<T: Ceremony>(session: &Session, file: Option<&Path>, draft: &Signed<T>) -> Shown {
    Shown {
        kind: T::KIND,
        file: file.map(Path::to_owned),
        version: draft.body.version(),
        expires: ensign_api::Time(draft.body.expires()),
        payload: draft.digest(),
        changes: file.map_or_else(Difference::default, |_| draft.body.difference(session)),
        roles: draft.body.roles(),
        signed: draft.body.progress(&draft.envelope, session, file.is_some()),
    }
}

pub fn read<T: Ceremony>(path: &Path) -> Result<Signed<T>> {
    let bytes = home::read_up_to(path, T::MAX_BYTES as u64).map_err(|e| match e.code {
        Code::NotFound => e.hint(format!("`ensign {}` writes the draft", T::BEGIN)),
        _ => e,
    })?;
    statement::open_unverified(&bytes).map_err(|e| Failure::new(e.code, e.text).about(path))
}

pub fn write(path: &Path, envelope: &Envelope) -> Result<()> {
    durable::write(path, &envelope.encode(), PUBLIC).map_err(|e| Failure::io("write", path, &e))
}

/// The draft of this context is done with once what it says is in force.
pub fn forget<T: Ceremony>(own: &Path, published: &Signed<T>) -> Result<()> {
    if own.exists() && read::<T>(own).is_ok_and(|draft| draft.digest() == published.digest()) {
        durable::remove_file(own).map_err(|e| Failure::io("remove", own, &e))?;
    }
    Ok(())
}

/// The public half of a key, in a file.
pub fn public_key(path: &Path) -> Result<PublicKey> {
    let bytes = home::read(path)?;
    PublicKey::from_pem(&String::from_utf8_lossy(&bytes)).map_err(|e| {
        Failure::new(Code::Malformed, format!("{}: {e}", path.display()))
            .hint("`ensign key export-pub NAME > FILE` writes one")
    })
}

pub fn text(changes: &Difference) -> String {
    if changes.is_empty() {
        return "nothing changes\n".to_owned();
    }
    changes.text(Paint::of_diagnostics())
}

impl Document for Shown {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts.add(self.kind, format!("version {}", self.version));
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
        for progress in &self.signed {
            facts.add(
                &format!("signed by {}", progress.by),
                format!("{} of {}", progress.count.signatures, progress.count.threshold),
            );
        }
        if self.changes.is_empty() {
            return facts.text(paint);
        }
        format!("{}changes\n{}", facts.text(paint), self.changes.text(paint))
    }
}

#[cfg(test)]
mod tests {
    use ensign_bundle::trust::roles::Root;

    use super::*;
    use crate::rollout::draft_tests as fixture;

    #[test]
    fn what_lies_where_copies_are_put_together_is_one_of_them_under_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, version| {
            let mut root: Root = fixture::root(None);
            root.version = version;
            let path = dir.path().join(name);
            write(&path, &statement::seal(&root).unwrap()).unwrap();
            path
        };
        let files = [put("copy", 2)];
        let names = |there: &Path| -> Vec<PathBuf> {
            let parts = copies::<Root>(&files, there).unwrap();
            parts.iter().map(|(path, _)| path.to_path_buf()).collect()
        };
        let same = put("same", 2);
        assert_eq!(names(&same), [files[0].clone(), same]);
        assert_eq!(names(&put("other", 3)), files, "another draft is not mixed in");
    }
}
