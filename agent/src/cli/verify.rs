//! `ensign-agent verify FILE`: what this device thinks of a bundle, without changing anything.

use std::path::Path;

use super::admin::open;
use super::output::{Failure, Format, show};
use crate::applier::{Judged, questions};
use crate::paths::Paths;

/// Shows what is in the file and the verdict; fails with the first reason to refuse it.
pub(super) fn run(paths: &Paths, file: &Path, format: Format) -> Result<(), Failure> {
    let Judged { releases, refusal } = questions::verify(paths, open(file)?)?;
    // One release is the document itself; a site's file holds several.
    match releases.as_slice() {
        [] => {}
        [release] => show(format, release)?,
        several => show(format, &several)?,
    }
    refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
}
