//! `release diff A B`: what a device that runs A would see change.

use std::collections::BTreeMap;
use std::path::Path;

use ensign_bundle::container::Contents;
use ensign_bundle::manifest::Entry;
use serde::Serialize;

use crate::failure::Result;
use crate::output::{Document, Grid, Mood, Paint, Shell};
use crate::{release, units};

#[derive(Debug, Serialize)]
struct Diff {
    old: String,
    new: String,
    changes: Vec<Change>,
    /// Plain bytes of files that are new or other than before.
    changed_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Change {
    component: String,
    path: String,
    #[serde(rename = "change")]
    what: What,
    /// Plain size after the change.
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Added,
    Changed,
    Removed,
}

type Entries = BTreeMap<(String, String), Entry>;

pub fn run(shell: &Shell, old: &Path, new: &Path) -> Result<()> {
    let read = |path: &Path| {
        let (_, bundle) = release::open(path)?;
        bundle.single().cloned().map_err(|e| release::named(path, &e))
    };
    let (old, new) = (read(old)?, read(new)?);
    shell.print(
        &Diff {
            old: name(&old),
            new: name(&new),
            changes: changes(&entries(&old), &entries(&new)),
            changed_bytes: 0,
        }
        .summed(),
    )
}

impl Diff {
    fn summed(mut self) -> Self {
        self.changed_bytes = self.changes.iter().fold(0, |sum: u64, c| sum.saturating_add(c.bytes));
        self
    }
}

fn name(contents: &Contents) -> String {
    format!("{}@{}", contents.release.product, contents.release.release)
}

fn entries(contents: &Contents) -> Entries {
    let components = contents.manifest.components.iter();
    components
        .flat_map(|c| {
            c.entries()
                .map(move |e| ((c.name.to_string(), e.path().as_str().to_owned()), e))
        })
        .collect()
}

fn changes(old: &Entries, new: &Entries) -> Vec<Change> {
    let mut out = Vec::new();
    let mut push = |(component, path): &(String, String), what, bytes| {
        out.push(Change {
            component: component.clone(),
            path: path.clone(),
            what,
            bytes,
        });
    };
    for (at, entry) in new {
        match old.get(at) {
            None => push(at, What::Added, entry.size()),
            Some(before) if before != entry => push(at, What::Changed, entry.size()),
            Some(_) => {}
        }
    }
    for at in old.keys().filter(|at| !new.contains_key(*at)) {
        push(at, What::Removed, 0);
    }
    out.sort_by(|a, b| (&a.component, &a.path).cmp(&(&b.component, &b.path)));
    out
}

impl Document for Diff {
    fn table(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["", "COMPONENT", "PATH", "SIZE"], paint).right(&[3]);
        for c in &self.changes {
            let (sign, mood) = match c.what {
                What::Added => ("+", Mood::Good),
                What::Changed => ("~", Mood::Busy),
                What::Removed => ("-", Mood::Bad),
            };
            let size = if c.what == What::Removed {
                String::new()
            } else {
                units::show_bytes(c.bytes)
            };
            grid.row([
                (sign, mood),
                (&*c.component, Mood::Plain),
                (&c.path, Mood::Plain),
                (&size, Mood::Plain),
            ]);
        }
        let summary = format!(
            "{} → {}: {}, {} of new content\n",
            self.old,
            self.new,
            units::show_count(self.changes.len() as u64, "change"),
            units::show_bytes(self.changed_bytes)
        );
        grid.or("the trees are the same") + &summary
    }
}

#[cfg(test)]
mod tests {
    use ensign_bundle::digest::Digest;
    use ensign_bundle::path::TreePath;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> Entries {
        files
            .iter()
            .map(|(path, text)| {
                let entry = Entry::file(
                    TreePath::parse(path).unwrap(),
                    0o644,
                    text.len() as u64,
                    Digest::of(text.as_bytes()),
                );
                (("web".to_owned(), (*path).to_owned()), entry)
            })
            .collect()
    }

    #[test]
    fn names_what_was_added_changed_and_removed() {
        let (old, new) = (
            tree(&[("a", "1"), ("b", "2"), ("c", "3")]),
            tree(&[("a", "1"), ("b", "22"), ("d", "4444")]),
        );
        let diff = Diff {
            old: "app@1.0.0".to_owned(),
            new: "app@1.1.0".to_owned(),
            changes: changes(&old, &new),
            changed_bytes: 0,
        };
        insta::assert_snapshot!(diff.summed().table(Paint(false)));
    }
}
