//! `ensign release ...`

mod build;
mod diff;
mod document;
mod pack;
mod publish;
mod show;
mod sign;
mod walk;
mod words;

use std::fs::File;
use std::path::Path;

use ensign_bundle::container::{self, Bundle};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;
use ensign_bundle::trust::ReleaseName;

use crate::app::App;
use crate::args::{ReleaseVerb, SignFile, SignRelease, Signature};
use crate::failure::{Failure, Result};

/// What to do about a file that is no bundle, or not the whole of one.
const NO_BUNDLE: &str = "give the whole file that `release build` wrote to --out";

pub async fn run(app: &App, verb: ReleaseVerb) -> Result<()> {
    match verb {
        ReleaseVerb::Build(words) => build::run(&app.shell, &words),
        ReleaseVerb::Sign(words) => sign(app, words).await,
        ReleaseVerb::Publish { file } if document::is_one(&file) => document::publish(app, &file).await,
        ReleaseVerb::Publish { file } => publish::run(app, &file).await,
        ReleaseVerb::Yank {
            release,
            key,
            out,
            detached: _,
        } => {
            document::yank(
                app,
                &name(&release)?,
                &Signature {
                    key,
                    out,
                    ..Signature::default()
                },
            )
            .await
        }
        ReleaseVerb::Ls { product } => show::list(app, product.as_deref()).await,
        ReleaseVerb::Show { release } => show::show(app, &release).await,
        ReleaseVerb::Diff { old, new } => diff::run(&app.shell, &old, &new),
        ReleaseVerb::Verify { file } => show::verify(app, &file),
    }
}

/// A bundle, a document in a file, or what is published.
async fn sign(app: &App, words: SignRelease) -> Result<()> {
    let Some(release) = words.release else {
        return document::renew_live(app, words.product.as_ref(), &words.by).await;
    };
    let file = SignFile {
        file: release.clone().into(),
        by: words.by,
    };
    if document::is_one(&file.file) {
        return document::sign(app, &file).await;
    }
    if !file.file.exists() && release.contains('@') {
        if !file.by.add.is_empty() {
            return Err(Failure::usage("--add joins signatures to a file")
                .hint("`ensign release sign PRODUCT@VERSION --detached --out FILE` writes one"));
        }
        return document::renew(app, &name(&release)?, &file.by).await;
    }
    sign::run(app, &file).await
}

/// `PRODUCT@VERSION`.
fn name(text: &str) -> Result<ReleaseName> {
    let bad = |e: ensign_bundle::ids::BadName| Failure::usage(e.to_string());
    let Some((product, version)) = text.split_once('@') else {
        return Err(
            Failure::usage(format!("{} is not PRODUCT@VERSION", printable(text, 200)))
                .hint("`ensign release ls` lists what is published"),
        );
    };
    Ok(ReleaseName {
        product: Ident::parse(product).map_err(bad)?,
        version: Version::parse(version).map_err(bad)?,
    })
}

/// A bundle file and what it says.
fn open(path: &Path) -> Result<(File, Bundle)> {
    let shown = printable(&path.to_string_lossy(), 300);
    if path.is_dir() {
        return Err(Failure::new(Code::Malformed, format!("{shown} is a folder, no bundle")).hint(NO_BUNDLE));
    }
    let mut file = File::open(path).map_err(|e| {
        let failure = Failure::io("read", path, &e);
        match failure.code {
            Code::NotFound if shown.contains('@') => failure.hint(
                "a published release is shown by `ensign release show PRODUCT@VERSION`; this verb reads a bundle file",
            ),
            Code::NotFound => failure.hint(NO_BUNDLE),
            _ => failure,
        }
    })?;
    let bundle = container::read(&mut file).map_err(|e| {
        let failure = named(path, &e);
        if e.code == Code::Malformed {
            failure.hint(NO_BUNDLE)
        } else {
            failure
        }
    })?;
    Ok((file, bundle))
}

/// A refusal with the file it is about.
fn named(path: &Path, refusal: &ensign_bundle::reason::Refusal) -> Failure {
    Failure::new(refusal.code, format!("{}: {}", path.display(), refusal.text))
}
