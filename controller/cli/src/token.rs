//! `ensign token ...`: the token's text is made here; the controller sees its signed grant and never the seed.

use std::path::{Path, PathBuf};

use ensign_api::{Base64, Change, NewToken, Time, Token as Row};
use ensign_bundle::ids::{Label, Labels};
use ensign_bundle::plan::membership::Invitation;
use ensign_bundle::plan::statements::{Grant, Subject};
use ensign_bundle::plan::token::Token;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::text::printable;
use ensign_bundle::trust::roles::{FORMAT, Scope};
use ensign_bundle::words::{DEVICE_PREFIX, Fits, by_prefix};
use serde::Serialize;

use crate::app::App;
use crate::args::TokenVerb;
use crate::failure::{Failure, Result, fail};
use crate::output::{Document, Grid, Mood, Paint};
use crate::{clock, durable, grant, random, scopes, units};

/// What to do where a token's grant needs several signatures.
const SEVERAL: &str = "write it as a file: `ensign token create --grant GRANT --out TOKEN`; each signs it: `ensign token sign GRANT`; then `ensign token publish GRANT`";
/// Longest life of a token, seconds: 400 days.
pub const TTL_MAX_S: u64 = 400 * 24 * 3600;
/// Most devices that one token lets join.
pub const USES_MAX: u32 = 1_000_000;
/// Digits of a key in the list: enough to name it.
const SHOWN_DIGITS: usize = 16;

/// `token create`.
#[derive(Debug, Serialize)]
struct Created {
    token: String,
    expires: Time,
    uses: u32,
    key: ensign_crypto::PublicKey,
}

/// `token create --out FILE`: the token is in the file alone.
#[derive(Debug, Serialize)]
struct CreatedFile {
    file: PathBuf,
    expires: Time,
    uses: u32,
    key: ensign_crypto::PublicKey,
}

pub async fn run(app: &App, verb: TokenVerb) -> Result<()> {
    match verb {
        TokenVerb::Create {
            uses,
            ttl,
            label,
            approve,
            out,
            grant,
        } => {
            let approve = approve == "auto";
            create(app, uses, ttl, &label, approve, out.as_deref(), grant.as_deref()).await
        }
        TokenVerb::Sign(words) => grant::sign(app, &words).await,
        TokenVerb::Publish { file } => grant::publish(app, &file).await,
        TokenVerb::Ls => {
            let session = app.session()?;
            let mut rows: Vec<Row> = session.client.get("/v1/tokens").await?;
            rows.sort_by_key(|r| r.expires);
            app.shell.print(&rows[..])
        }
        TokenVerb::Revoke { key } => revoke(app, &key).await,
    }
}

async fn create(
    app: &App,
    uses: u32,
    ttl: u64,
    label: &[(String, String)],
    approve: bool,
    out: Option<&Path>,
    file: Option<&Path>,
) -> Result<()> {
    if ttl == 0 || ttl > TTL_MAX_S {
        return Err(Failure::usage(format!(
            "--ttl {}: 1s to 400d are possible",
            units::show_seconds(ttl)
        )));
    }
    let labels = labels(label)?;
    let session = app.signing_session().await?;
    let root = session.trust.root();
    let Some(controller) = root.controller.keys.first().copied() else {
        return fail!(MetadataMissing, "root names no controller key");
    };
    let key = random::key()?;
    let public = key.public();
    let expires = clock::now().saturating_add(ttl);
    if app.shell.dry_run {
        return app.shell.would(format!(
            "make a token for {} until {}",
            units::show_count(u64::from(uses), "device"),
            Time(expires)
        ));
    }
    let grant = Grant {
        format: FORMAT,
        issued: clock::now(),
        subject: Subject::Token {
            key: public,
            uses,
            expires,
            approve,
        },
        labels,
        label_seq: 0,
    };
    let token = Token {
        addresses: root.controller.addresses.clone(),
        fleet: session.fleet(),
        root: session.context.file.root_hash,
        controller,
        key,
    }
    .to_text()?;
    if let Some(file) = file {
        grant::store(file, &statement::seal(&grant)?.encode())?;
        let next = format!("each key holder: `ensign token sign {}`", file.display());
        app.shell
            .note(&format!("nobody joins before enough have signed; {next}"));
    } else {
        let scopes: Vec<&Scope> = Invitation::scopes(root, &grant.labels)?.iter().collect();
        scopes::alone(&session, &scopes, "the grant", SEVERAL)?;
        let grant = session.sign_deploy(&grant)?;
        let _: Row = session
            .client
            .post("/v1/tokens", &NewToken { grant: Base64(grant) })
            .await?;
    }
    match out {
        None => {
            app.shell.print(&Created {
                token,
                expires: Time(expires),
                uses,
                key: public,
            })?;
            app.shell
                .note("next, on the device, with the token in a file: `ensign-agent enroll --token-file FILE`");
            Ok(())
        }
        Some(file) => {
            durable::write(file, format!("{token}\n").as_bytes(), durable::SECRET)
                .map_err(|e| Failure::io("write", file, &e))?;
            app.shell.print(&CreatedFile {
                file: file.to_owned(),
                expires: Time(expires),
                uses,
                key: public,
            })?;
            app.shell.note(&format!(
                "next, on the device: `ensign-agent enroll --token-file {}`",
                printable(&file.to_string_lossy(), 300)
            ));
            Ok(())
        }
    }
}

async fn revoke(app: &App, prefix: &str) -> Result<()> {
    let session = app.session()?;
    let rows: Vec<Row> = session.client.get("/v1/tokens").await?;
    let shown = printable(prefix, 80);
    let row = match by_prefix(&rows, |r| r.key.to_string(), prefix, DEVICE_PREFIX) {
        Fits::One(row) => row,
        Fits::Nothing => {
            return Err(Failure::new(Code::NotFound, format!("there is no token {shown}")).hint("`ensign token ls`"));
        }
        Fits::Several(n) => {
            return Err(
                Failure::new(Code::Conflict, format!("{n} token keys start with {shown}"))
                    .hint("write more digits of the key: `ensign token ls`"),
            );
        }
    };
    if app.shell.dry_run {
        return app.shell.would(format!("revoke the token {}", row.key));
    }
    let change = Change {
        reason: app.shell.reason.clone(),
    };
    let row: Row = session
        .client
        .post(&format!("/v1/tokens/{}/revoke", row.key), &change)
        .await?;
    app.shell.print(&[row][..])
}

/// Labels as typed; a key given twice is refused.
pub fn labels(pairs: &[(String, String)]) -> Result<Labels> {
    let bad = |e: ensign_bundle::ids::BadName| Failure::usage(e.to_string());
    let mut labels = Labels::new();
    for (key, value) in pairs {
        let (key, value) = (Label::parse(key).map_err(bad)?, Label::parse(value).map_err(bad)?);
        if labels.insert(key.clone(), value).is_some() {
            return Err(Failure::usage(format!("the label {key} is given twice")));
        }
    }
    Ok(labels)
}

/// `k=v k=v`.
pub fn show_labels(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(" ")
}

impl Document for Created {
    /// The token alone, so that it can be piped.
    fn table(&self, _: Paint) -> String {
        format!("{}\n", self.token)
    }
}

impl Document for CreatedFile {
    fn table(&self, _: Paint) -> String {
        format!("{} (until {})\n", self.file.display(), self.expires)
    }
}

impl Document for [Row] {
    fn table(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["TOKEN", "USED", "OF", "EXPIRES", "LABELS", "STATE"], paint).right(&[1, 2]);
        for r in self {
            let (state, mood) = match () {
                () if r.revoked => ("revoked", Mood::Bad),
                () if r.used >= r.uses => ("used up", Mood::Faint),
                () if r.expires.0 <= clock::now() => ("expired", Mood::Faint),
                () => ("open", Mood::Good),
            };
            grid.row([
                (&r.key.to_string()[..SHOWN_DIGITS], Mood::Plain),
                (&*r.used.to_string(), Mood::Plain),
                (&r.uses.to_string(), Mood::Plain),
                (&r.expires.to_string(), Mood::Plain),
                (&show_labels(&r.labels), Mood::Plain),
                (state, mood),
            ]);
        }
        grid.or("no tokens: `ensign token create`")
    }
}
