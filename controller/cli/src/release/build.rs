//! `release build`: folders in, a bundle with frozen bytes out. Same input, same bytes.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use ensign_bundle::container::{self, Writer};
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::manifest::{Draft, Entry, Probe};
use ensign_bundle::text::printable;
use serde::Serialize;

use crate::args::Build;
use crate::durable::{PUBLIC, Pending};
use crate::failure::{Failure, Result};
use crate::output::{Document, Facts, Grid, Mood, Paint, Shell};
use crate::progress::Progress;
use crate::release::pack::{self, Place, Spool};
use crate::release::walk::{self, Found};
use crate::release::words::{ComponentWords, Words};
use crate::{clock, units};

/// Bytes written at once.
const BUFFER: usize = 1 << 20;

#[derive(Debug, Serialize)]
struct Built {
    product: Ident,
    version: Version,
    counter: u64,
    file: PathBuf,
    /// Of the bundle.
    file_bytes: u64,
    /// Plain size of all components.
    bytes: u64,
    components: Vec<BuiltComponent>,
    manifest: Digest,
}

#[derive(Debug, Serialize)]
struct BuiltComponent {
    name: Ident,
    files: u64,
    bytes: u64,
    units: Vec<String>,
}

pub fn run(shell: &Shell, flags: &Build) -> Result<()> {
    let began = clock::monotonic();
    let words = Words::of(flags)?;
    if shell.dry_run {
        return preview(shell, &words);
    }
    let built = build(shell, &words, &flags.out)?;
    shell.detail(&format!("built in {:.1} s", began.elapsed().as_secs_f64()));
    shell.print(&built)
}

fn build(shell: &Shell, words: &Words, out: &Path) -> Result<Built> {
    let created = source_date_epoch()?;
    let spool = Spool::beside(out)?;
    let mut draft = Draft::new(words.product.clone(), words.version.clone(), words.counter);
    draft.health = words.health.clone();
    draft.compatible = words.compatible.clone();
    draft.provenance.created = created;
    let mut places: Vec<Place> = Vec::new();
    let mut components = Vec::new();
    for component in &words.components {
        let found = walk::walk(&component.dir)?;
        let total = bytes_of(&found);
        let progress = Progress::bytes(shell, "hashing", total);
        let entries = pack::hash(&component.dir, &found, &progress)?;
        progress.done();
        check_probes(words, component, &found)?;
        let files = entries.iter().filter(|e| matches!(e, Entry::File { .. })).count() as u64;
        let tree = pack::draft(&component.name, &component.units, entries)?;
        for (one, other) in tree.case_clashes() {
            Shell::warn(&format!(
                "{}: {} and {} differ in case only: a device whose file system ignores case refuses them",
                component.name,
                one.path(),
                other.path()
            ));
        }
        let stored: u64 = tree.plans().iter().map(|p| u64::from(p.length)).sum();
        let progress = Progress::bytes(shell, "compressing", stored);
        let (tree, its_places) = pack::pack(tree, &component.dir, words.level, &spool, &progress)?;
        progress.done();
        draft.add(tree);
        places.extend(its_places);
        components.push(BuiltComponent {
            name: component.name.clone(),
            files,
            bytes: total,
            units: component.units.clone(),
        });
    }
    let contents = draft.freeze()?.into_contents();
    let mut pending = Pending::create(out, PUBLIC).map_err(|e| Failure::io("write", out, &e))?;
    let releases = [contents];
    write(&mut pending.file, &releases, &spool, &places)?;
    let [contents] = releases;
    let file_bytes = check(shell, &mut pending.file)?;
    pending.commit().map_err(|e| Failure::io("write", out, &e))?;
    Ok(Built {
        product: words.product.clone(),
        version: words.version.clone(),
        counter: words.counter,
        file: out.to_owned(),
        file_bytes,
        bytes: contents.manifest.totals.bytes,
        components,
        manifest: contents.release.manifest.digest,
    })
}

/// Whoever reads the bundle refuses a probe that cannot run; here there is more to say about it.
fn check_probes(words: &Words, component: &ComponentWords, found: &[Found]) -> Result<()> {
    for probe in &words.health.probes {
        let Probe::Exec {
            component: of, path, ..
        } = probe
        else {
            continue;
        };
        if *of != component.name {
            continue;
        }
        let file = component.dir.join(path.as_str());
        let shown = printable(&file.to_string_lossy(), 300);
        let what = match found.iter().find(|f| f.path() == path) {
            Some(Found::File { mode, .. }) if mode & 0o111 != 0 => continue,
            Some(Found::File { mode, .. }) => {
                return Err(Failure::usage(format!(
                    "--health exec:{path}: {shown} is not executable (mode {:o})",
                    mode & 0o777
                ))
                .hint(format!("chmod +x {shown}, and build again")));
            }
            Some(Found::Dir { .. }) => "is a folder",
            Some(Found::Symlink { .. }) => "is a symbolic link: name the file that it leads to",
            None => "is not there",
        };
        return Err(
            Failure::usage(format!("--health exec:{path}: {shown} {what}")).hint(format!(
                "the path is that of an executable file inside --tree {}=...",
                component.name
            )),
        );
    }
    Ok(())
}

fn write(file: &mut File, releases: &[container::Contents], spool: &Spool, places: &[Place]) -> Result<()> {
    let mut writer = Writer::new(BufWriter::with_capacity(BUFFER, file), &[], releases)?;
    for place in places {
        writer.block(&spool.read(*place)?)?;
    }
    writer.finish()?;
    Ok(())
}

/// Reads the whole file back as its readers do: finds what changed between hashing and compressing. Returns its length.
fn check(shell: &Shell, file: &mut File) -> Result<u64> {
    let bundle = container::read(file)?;
    let progress = Progress::bytes(shell, "checking", bundle.len());
    bundle
        .check_content(file, &mut |done| progress.set(done))
        .map_err(|e| {
            Failure::from(e).hint("a file changed while it was read: build again when nothing writes to the folders")
        })?;
    progress.done();
    Ok(bundle.len())
}

fn preview(shell: &Shell, words: &Words) -> Result<()> {
    let would = words.components.iter().map(|component| {
        let found = walk::walk(&component.dir)?;
        check_probes(words, component, &found)?;
        Ok(format!(
            "put {} files and folders, {}, into {}",
            found.len(),
            units::show_bytes(bytes_of(&found)),
            component.name
        ))
    });
    shell.would_all(would.collect::<Result<_>>()?)
}

fn bytes_of(found: &[Found]) -> u64 {
    found.iter().fold(0, |sum: u64, f| match f {
        Found::File { size, .. } => sum.saturating_add(*size),
        Found::Dir { .. } | Found::Symlink { .. } => sum,
    })
}

/// The only time that a build knows (reproducible-builds.org/specs/source-date-epoch).
fn source_date_epoch() -> Result<Option<u64>> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) if !text.is_empty() => text
            .parse()
            .map(Some)
            .map_err(|_| Failure::usage(format!("SOURCE_DATE_EPOCH=`{text}` is no number of seconds"))),
        _ => Ok(None),
    }
}

impl Document for Built {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts
            .add(
                "release",
                format!("{}@{} (counter {})", self.product, self.version, self.counter),
            )
            .add("manifest", self.manifest.to_string())
            .add(
                "bundle",
                format!(
                    "{}, {} of {} plain",
                    self.file.display(),
                    units::show_bytes(self.file_bytes),
                    units::show_bytes(self.bytes)
                ),
            );
        let mut grid = Grid::new(&["COMPONENT", "FILES", "SIZE", "UNITS"], paint).right(&[1, 2]);
        for c in &self.components {
            let (files, bytes, of_units) = (c.files.to_string(), units::show_bytes(c.bytes), c.units.join(" "));
            grid.row([
                (c.name.as_str(), Mood::Plain),
                (&files, Mood::Plain),
                (&bytes, Mood::Plain),
                (&of_units, Mood::Plain),
            ]);
        }
        format!(
            "{}\n{}\nNext: {}\n",
            facts.text(paint),
            grid.text(),
            paint.bold(&format!("ensign release sign {}", self.file.display()))
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn shell() -> Shell {
        Shell {
            quiet: true,
            ..Shell::default()
        }
    }

    fn put(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        crate::durable::write(path, bytes, 0o644).unwrap();
    }

    fn tree(top: &Path, order: impl Iterator<Item = usize>) {
        for i in order {
            put(
                &top.join(format!("many/{}/file-{i}", i % 7)),
                format!("content {}", i % 90).repeat(i).as_bytes(),
            );
        }
        put(&top.join("big"), &vec![7; 3 << 20]);
        put(&top.join("bin/tool"), b"#!/bin/sh\n");
        fs::set_permissions(top.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        put(&top.join("with space ☂"), b"");
        symlink("bin/tool", top.join("link")).unwrap();
    }

    fn words(dir: &Path) -> Words {
        Words::of(&Build {
            product: Some("app".to_owned()),
            version: Some("1.0.0".to_owned()),
            tree: vec![("web".to_owned(), dir.to_string_lossy().into_owned())],
            health: vec!["exec:bin/tool".to_owned()],
            level: Some(3),
            ..Build::default()
        })
        .unwrap()
    }

    #[test]
    fn the_same_input_makes_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        tree(&dir.path().join("a"), 0..300);
        tree(&dir.path().join("b"), (0..300).rev());
        for name in ["a", "b"] {
            let out = dir.path().join(format!("{name}.bundle"));
            build(&shell(), &words(&dir.path().join(name)), &out).unwrap();
        }
        let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read("a.bundle"), read("b.bundle"));
        put(&dir.path().join("b/many/0/file-7"), b"changed");
        build(&shell(), &words(&dir.path().join("b")), &dir.path().join("b.bundle")).unwrap();
        assert_ne!(read("a.bundle"), read("b.bundle"));
    }

    #[test]
    fn a_probe_that_cannot_run_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("tree");
        put(&top.join("bin/tool"), b"#!/bin/sh\n");
        let out = dir.path().join("out.bundle");
        let refused = || build(&shell(), &words(&top), &out).unwrap_err();
        let failure = refused();
        assert_eq!(failure.exit(), 2);
        assert!(failure.text.contains("not executable (mode 644)"), "{failure}");
        assert!(failure.hint_text().starts_with("chmod +x ") && failure.hint_text().contains("bin/tool"));
        fs::remove_file(top.join("bin/tool")).unwrap();
        let failure = refused();
        assert!(failure.text.contains("bin/tool is not there"), "{failure}");
        assert!(failure.hint_text().contains("--tree web="), "{failure:?}");
        symlink("other", top.join("bin/tool")).unwrap();
        assert!(refused().text.contains("symbolic link"));
    }

    #[test]
    fn a_failed_build_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("tree");
        put(&top.join("file"), b"x");
        let failure = build(&shell(), &words(&top), &dir.path().join("out.bundle")).unwrap_err();
        assert!(failure.text.contains("bin/tool"), "the probe is not there: {failure}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
