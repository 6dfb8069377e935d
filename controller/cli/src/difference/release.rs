//! What a release document changes.

use ensign_api::Time;
use ensign_bundle::container::Contents;
use ensign_bundle::manifest::Entry;
use ensign_bundle::trust::roles::{ListedRelease, Release};

use super::Difference;
use crate::signing::Count;
use crate::units::{show_bytes, show_count};

/// From what this machine has verified to what would be signed: `newest` is the product's highest published release, `published` the
/// document of this very version, where there is one.
pub fn of_release(
    newest: Option<&ListedRelease>,
    published: Option<&Release>,
    contents: &Contents,
    expires: u64,
    signatures: (Count, Count),
) -> Difference {
    let release = &contents.release;
    let mut all = Difference::default();
    let named = |version: &dyn std::fmt::Display| format!("{}@{version}", release.product);
    if let Some(before) = published {
        all.changed("document", &before.version, &release.version);
        all.changed("expires", &Time(before.expires), &Time(expires));
    } else {
        all.add(
            "release",
            newest.map(|n| named(&n.release)),
            Some(named(&release.release)),
        );
        all.add(
            "counter",
            newest.map(|n| n.counter.to_string()),
            Some(release.counter.to_string()),
        );
        all.say("manifest", &release.manifest.digest);
        components(&mut all, contents);
        all.say("expires", &Time(expires));
    }
    let fits = &release.compatible;
    for (what, list) in [("for architecture", &fits.arch), ("for hardware", &fits.hardware)] {
        if !list.is_empty() {
            all.say(what, &list.join(" "));
        }
    }
    all.add("needs agent", None, fits.min_agent.as_ref().map(ToString::to_string));
    all.add("comes from counter", None, fits.min_from.map(|c| c.to_string()));
    if release.security_floor > 0 {
        all.say("security floor", &release.security_floor);
    }
    let withdrawn = published.and_then(|p| p.yanked.clone());
    all.add("withdrawn", withdrawn, release.yanked.clone());
    let patches = |r: &Release| r.patch_index.map(|index| index.digest.to_string());
    all.add("patches", published.and_then(patches), patches(release));
    all.changed("signatures", &signatures.0, &signatures.1);
    all
}

/// The next version of the document of a published release.
pub fn of_document(from: &Release, to: &Release, signatures: (Count, Count)) -> Difference {
    let mut all = Difference::default();
    let what = format!("{}@{} document", to.product, to.release);
    all.changed(what, &from.version, &to.version);
    all.changed("expires", &Time(from.expires), &Time(to.expires));
    all.add("withdrawn", from.yanked.clone(), to.yanked.clone());
    let patches = |r: &Release| r.patch_index.map(|index| index.digest.to_string());
    all.add("patches", patches(from), patches(to));
    all.changed("signatures", &signatures.0, &signatures.1);
    all
}

fn components(all: &mut Difference, contents: &Contents) {
    for component in &contents.manifest.components {
        let files = component.entries().filter(|e| matches!(e, Entry::File { .. })).count();
        let bytes: u64 = component.entries().map(|e: Entry| e.size()).sum();
        let mut text = format!("{}, {}", show_count(files as u64, "file"), show_bytes(bytes));
        if !component.units.is_empty() {
            text.push_str(", restarts ");
            text.push_str(&component.units.join(" "));
        }
        all.say(format!("component {}", component.name), &text);
    }
}
