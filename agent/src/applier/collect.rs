//! Removing what nothing needs any more.

use std::collections::HashSet;
use std::io;

use ensign_apply::{Event, Stage};
use ensign_bundle::digest::Digest;

use super::shell::{Shell, ShellError};
use super::tree;
use crate::disk::Dir;

/// Removes generations, trees, staging and manifests that neither run nor are gone back to nor are being staged. What cannot be
/// removed is tried again the next time.
pub(super) fn run(shell: &mut Shell) -> Result<(), ShellError> {
    let gone: Vec<u64> = shell
        .device
        .generations
        .iter()
        .map(|g| g.number)
        .filter(|n| !shell.device.needs(*n))
        .collect();
    if !gone.is_empty() {
        shell.step(Event::Forgotten { generations: gone })?;
    }
    if let Err(error) = sweep(shell) {
        tracing::warn!(%error, "what is no longer needed cannot be removed");
    }
    Ok(())
}

fn sweep(shell: &Shell) -> io::Result<()> {
    let (device, paths) = (&shell.device, &shell.paths);
    let generations: HashSet<String> = device.generations.iter().map(|g| g.number.to_string()).collect();
    let disk = paths.disk();
    remove_but(&disk.dir(&paths.generations())?, |name| generations.contains(name))?;

    let staged = device.stage.prepared().into_iter().flat_map(|p| &p.components);
    let trees: HashSet<Digest> = device
        .generations
        .iter()
        .flat_map(|g| &g.components)
        .chain(staged)
        .map(|c| c.tree)
        .collect();
    let fetching = matches!(device.stage, Stage::Fetching(_));
    let keep: HashSet<String> = trees.iter().flat_map(|t| [t.to_string(), tree::marker(t)]).collect();
    let all = disk.dir(&paths.trees())?;
    // While something is being staged, a tree that stood already may be part of it.
    if !fetching {
        // Markers first: a tree that is half removed is not complete.
        remove_but(&all, |name| {
            keep.contains(name) || name == ".staging" || !name.ends_with(".complete")
        })?;
        remove_but(&all, |name| keep.contains(name) || name == ".staging")?;
        remove_but(&disk.dir(&paths.staging())?, |_| false)?;
    }

    let products = device.generations.iter().flat_map(|g| &g.products);
    let mut documents: HashSet<String> = products.map(|p| p.manifest.to_string()).collect();
    documents.extend(device.stage.target().map(|t| t.manifest.digest.to_string()));
    remove_but(&disk.dir(&paths.manifests())?, |name| documents.contains(name))
}

fn remove_but(dir: &Dir, keep: impl Fn(&str) -> bool) -> io::Result<()> {
    for (name, _) in dir.entries()? {
        if !keep(&name) {
            dir.remove(&name)?;
        }
    }
    Ok(())
}
