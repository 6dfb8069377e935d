//! `ensign release ...`

mod build;
mod diff;
mod pack;
mod publish;
mod show;
mod sign;
mod walk;
mod words;

use std::fs::File;
use std::path::Path;

use ensign_bundle::container::{self, Bundle};

use crate::app::App;
use crate::args::ReleaseVerb;
use crate::failure::{Failure, Result};

pub async fn run(app: &App, verb: ReleaseVerb) -> Result<()> {
    match verb {
        ReleaseVerb::Build(words) => build::run(&app.shell, &words),
        ReleaseVerb::Sign { file, key } => sign::run(app, &file, key.as_deref()).await,
        ReleaseVerb::Publish { file } => publish::run(app, &file).await,
        ReleaseVerb::Ls { product } => show::list(app, product.as_deref()).await,
        ReleaseVerb::Show { release } => show::show(app, &release).await,
        ReleaseVerb::Diff { old, new } => diff::run(&app.shell, &old, &new),
        ReleaseVerb::Verify { file } => show::verify(app, &file),
    }
}

/// A bundle file and what it says.
fn open(path: &Path) -> Result<(File, Bundle)> {
    let mut file = File::open(path).map_err(|e| Failure::io("read", path, &e))?;
    let bundle = container::read(&mut file).map_err(|e| named(path, &e))?;
    Ok((file, bundle))
}

/// A refusal with the file it is about.
fn named(path: &Path, refusal: &ensign_bundle::reason::Refusal) -> Failure {
    Failure::new(refusal.code, format!("{}: {}", path.display(), refusal.text))
}
