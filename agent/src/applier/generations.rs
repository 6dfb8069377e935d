//! `deploy/generations/N/<component>` and the one pointer, `deploy/current`.

use std::io;

use ensign_apply::Generation;
use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};

use super::journal;
use crate::paths::Paths;

/// The generation that `current` points at; 0 = none, or nothing of ours.
pub(super) fn current(paths: &Paths) -> u64 {
    std::fs::read_link(paths.current())
        .ok()
        .and_then(|target| target.to_str()?.strip_prefix("generations/")?.parse().ok())
        .unwrap_or(0)
}

/// Why the journal cannot be believed that knows generations up to `newest`: the step to a generation is on disk before its directory
/// is made and before the pointer shows it, so one with a higher number proves that steps are lost. Acting on what is left would take
/// down what runs.
pub(super) fn beyond(paths: &Paths, newest: u64) -> Result<Option<Refusal>, Refusal> {
    let pointed = current(paths);
    let io = |e: io::Error| Refusal::new(Code::Io, format!("{}: {e}", paths.generations().display()));
    let entries = match std::fs::read_dir(paths.generations()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(io)?,
    };
    // Where nothing at all is known, the pointer alone will do; otherwise one that leads nowhere was only moved.
    let mut highest = if newest == 0 { pointed } else { 0 };
    for entry in entries {
        let name = entry.map_err(io)?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok()).unwrap_or(0);
        highest = highest.max(number);
    }
    if highest <= newest {
        return Ok(None);
    }
    Ok(Some(journal::lost(&format!(
        "steps are lost: the journal knows generations up to {newest}, but {highest} is there{}",
        if pointed == highest { " and runs" } else { "" }
    ))))
}

/// Makes the directory of a generation, durable. Making it again changes nothing.
pub(super) fn make(paths: &Paths, generation: &Generation) -> io::Result<()> {
    let all = paths.disk().dir(&paths.generations())?;
    let name = generation.number.to_string();
    match all.mkdir(&name, 0o755) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let dir = all.dir(&name)?;
    for component in &generation.components {
        let target = target(&component.tree);
        let name = component.name.as_str();
        if dir.target(name).is_ok_and(|found| found == target) {
            continue;
        }
        dir.remove(name)?;
        dir.symlink(&target, name)?;
    }
    for (name, _) in dir.entries()? {
        if !generation.components.iter().any(|c| c.name.as_str() == name) {
            dir.remove(&name)?;
        }
    }
    dir.sync()?;
    all.sync()
}

/// Lets the pointer show a generation, durable; 0 = nothing runs.
pub(super) fn point(paths: &Paths, number: u64) -> io::Result<()> {
    let current = paths.current();
    if number == 0 {
        return paths.disk().remove(&current);
    }
    paths.disk().point(&current, &format!("generations/{number}"))
}

/// Where a component's link leads.
fn target(tree: &Digest) -> String {
    format!("../../trees/{tree}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use ensign_apply::Component;
    use ensign_bundle::ids::Ident;

    use super::*;

    /// Where the journal knows nothing, a pointer alone shows that it once did; where it knows something, one that leads nowhere was moved.
    #[test]
    fn a_pointer_alone_shows_that_steps_are_lost() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::new(temp.path());
        std::fs::create_dir_all(paths.generations()).unwrap();
        let lost = |newest| beyond(&paths, newest).unwrap().map(|loss| loss.code);
        assert_eq!(lost(0), None);
        point(&paths, 3).unwrap();
        assert_eq!((lost(0), lost(2)), (Some(Code::JournalLost), None));
        std::fs::create_dir(paths.generations().join("3")).unwrap();
        assert_eq!((lost(2), lost(3)), (Some(Code::JournalLost), None));
    }

    #[test]
    fn the_pointer_moves_whole() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::new(temp.path());
        std::fs::create_dir_all(paths.generations()).unwrap();
        assert_eq!(current(&paths), 0);
        let ident = |text| Ident::parse(text).unwrap();
        let generation = |number, names: &[&'static str]| Generation {
            number,
            components: names
                .iter()
                .map(|name| Component {
                    product: ident("app"),
                    name: ident(name),
                    tree: Digest([u8::try_from(number).unwrap(); 32]),
                    units: Vec::new(),
                })
                .collect(),
            ..Generation::default()
        };
        make(&paths, &generation(1, &["a", "b"])).unwrap();
        // Half made before a crash, with something that does not belong there.
        std::fs::remove_file(paths.generations().join("1/a")).unwrap();
        symlink("elsewhere", paths.generations().join("1/c")).unwrap();
        make(&paths, &generation(1, &["a", "b"])).unwrap();
        assert!(!paths.generations().join("1/c").is_symlink());
        point(&paths, 1).unwrap();
        assert_eq!(current(&paths), 1);
        let link = std::fs::read_link(paths.live("a")).unwrap();
        assert_eq!(link.to_str().unwrap(), target(&Digest([1; 32])));
        make(&paths, &generation(2, &["a"])).unwrap();
        point(&paths, 2).unwrap();
        assert_eq!(current(&paths), 2);
        point(&paths, 0).unwrap();
        assert_eq!(current(&paths), 0);
    }
}
