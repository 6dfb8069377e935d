//! Programs with one mistake: a sync, a rename or a marker that is not there. A cut must show each of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::image::Thing;
use crate::power;
use crate::scenario::Scenario;
use crate::tape::{Op, Recording};

/// Disks on which a device is started to find a mistake that no look at a disk shows, for each scenario.
const STATES: usize = 30;

/// What is missing: a line of the applier, and what it asks of the disk there.
pub(crate) type Mistake = (String, &'static str);

/// Every mistake that these recordings can have.
pub(crate) fn all(recordings: &[(Scenario, Recording)]) -> BTreeSet<Mistake> {
    let recordings = recordings.iter().map(|(_, recording)| recording);
    recordings
        .flat_map(|recording| (0..recording.steps.len()).flat_map(|at| kinds(recording, at)))
        .collect()
}

/// How the mistake shows; `None` = not at all.
pub(crate) fn shows(recordings: &[(Scenario, Recording)], mistake: &Mistake, seed: u64) -> Option<String> {
    recordings.iter().find_map(|(scenario, recording)| {
        let mut wrong = recording.clone();
        wrong.dropped = (0..recording.steps.len())
            .filter(|at| kinds(recording, *at).contains(mistake))
            .collect();
        if wrong.dropped.is_empty() {
            return None;
        }
        let error = power::enumerate(scenario, &wrong, STATES, 0, seed).err()?;
        Some(format!("{}: {}", scenario.name, error.root_cause()))
    })
}

/// What a step is of.
fn kinds(recording: &Recording, at: usize) -> Vec<Mistake> {
    let step = &recording.steps[at];
    let kind = match &step.op {
        Op::Sync(node) if matches!(recording.base.0[*node], Thing::Dir { .. }) => Some("sync of the directory"),
        Op::Sync(_) => Some("sync of the file"),
        Op::SyncData(_) => Some("sync of the data"),
        Op::SyncAll => Some("sync of the file system"),
        Op::Move { .. } => Some("rename"),
        _ => None,
    };
    let marker = step.path.contains(".complete") && step.site.starts_with("tree.rs");
    let marker = (marker && !matches!(step.op, Op::Leave { .. })).then_some("marker");
    [kind, marker]
        .into_iter()
        .flatten()
        .map(|kind| (step.site.clone(), kind))
        .collect()
}

/// Lines of the applier that make something last, `FILE:LINE`, without its tests.
pub(crate) fn lines() -> BTreeSet<String> {
    const CALLS: [&str; 10] = [
        ".sync()",
        ".sync_all()",
        ".sync_data()",
        "disk.write(",
        "disk().write(",
        ".point(",
        ".write_lossy(",
        "disk.remove(",
        "disk().remove(",
        ".rename(",
    ];
    let mut found = BTreeSet::new();
    for (path, text) in sources() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        for (number, line) in text.lines().enumerate() {
            if CALLS.iter().any(|call| line.contains(call)) && !line.trim_start().starts_with("//") {
                found.insert(format!("{name}:{}", number + 1));
            }
        }
    }
    found
}

/// Lines of the applier that change the disk past the interface.
pub(crate) fn bypasses() -> Vec<String> {
    const PAST: [&str; 26] = [
        "fs::write",
        "fs::rename",
        "fs::copy",
        "fs::remove",
        "fs::create_dir",
        "fs::hard_link",
        "fs::set_permissions",
        "unix::fs::symlink",
        "OpenOptions",
        "File::options",
        "File::create",
        "set_len(",
        "durable::write",
        "durable::rename",
        "durable::remove",
        "durable::create_dir",
        "durable::closed_dir",
        "renameat",
        "unlinkat",
        "mkdirat",
        "symlinkat",
        "linkat(",
        "fallocate(",
        "fchmod(",
        "syncfs(",
        "fsync(",
    ];
    let mut found = Vec::new();
    for (path, text) in sources() {
        for line in text.lines().filter(|line| PAST.iter().any(|call| line.contains(call))) {
            // The disk's own call of that name.
            if !line.contains("this.file.set_len(") {
                found.push(format!("{}: {}", path.display(), line.trim()));
            }
        }
    }
    found
}

/// The applier's sources up to their tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/src/applier")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                let shipped = text
                    .split("#[cfg(test)]\nmod tests")
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                found.push((path, shipped));
            }
        }
    }
    found
}
