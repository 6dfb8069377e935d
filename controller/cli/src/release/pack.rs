//! Hashing and compressing a folder on all cores, with memory for one block per core.

use std::fs::File;
use std::io::Read as _;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ensign_bundle::blocks::{BlockPlan, BlockRow, StoredBlock};
use ensign_bundle::digest::Hasher;
use ensign_bundle::ids::Ident;
use ensign_bundle::limits::BLOCK_BYTES;
use ensign_bundle::manifest::{Entry, Kind, Tree, TreeDraft};
use ensign_bundle::reason::Code;

use crate::failure::{Failure, Result, fail};
use crate::progress::Progress;
use crate::release::walk::{self, Found};

/// Where finished blocks wait until the bundle is written: a file, in the order in which they were finished.
#[derive(Debug)]
pub struct Spool {
    file: File,
    end: Mutex<u64>,
}

/// Where one block lies in the spool.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    offset: u64,
    length: usize,
}

impl Spool {
    /// A nameless file beside the bundle.
    pub fn beside(path: &Path) -> Result<Self> {
        let dir = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let file = tempfile::tempfile_in(dir).map_err(|e| Failure::io("write in", dir, &e))?;
        Ok(Self {
            file,
            end: Mutex::new(0),
        })
    }

    pub fn read(&self, place: Place) -> Result<Vec<u8>> {
        let mut bytes = vec![0; place.length];
        self.file
            .read_exact_at(&mut bytes, place.offset)
            .map_err(|e| io("read the blocks back", &e))?;
        Ok(bytes)
    }

    fn append(&self, bytes: &[u8]) -> Result<Place> {
        let offset = {
            let mut end = self.end.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let offset = *end;
            *end = offset.saturating_add(bytes.len() as u64);
            offset
        };
        self.file
            .write_all_at(bytes, offset)
            .map_err(|e| io("write blocks", &e))?;
        Ok(Place {
            offset,
            length: bytes.len(),
        })
    }
}

/// The entries of a folder: every file hashed.
pub fn hash(top: &Path, found: &[Found], progress: &Progress) -> Result<Vec<Entry>> {
    on_all_cores(found, |found| match found {
        Found::Dir { path } => Ok(Entry::dir(path.clone())),
        Found::Symlink { path, target } => Ok(Entry::symlink(path.clone(), target)?),
        Found::File { path, mode, .. } => {
            let mut file = walk::open(top, path)?;
            let (mut hasher, mut size, mut buffer) = (Hasher::new(), 0u64, vec![0; BLOCK_BYTES]);
            loop {
                let n = file
                    .read(&mut buffer)
                    .map_err(|e| Failure::io("read", &top.join(path.as_str()), &e))?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                size = size.saturating_add(n as u64);
                progress.add(n as u64);
            }
            Ok(Entry::file(path.clone(), *mode, size, hasher.finish()))
        }
    })
}

/// The component: every block stored in the spool, where each one lies, in manifest order.
pub fn pack(
    draft: TreeDraft,
    top: &Path,
    level: i32,
    spool: &Spool,
    progress: &Progress,
) -> Result<(Tree, Vec<Place>)> {
    let blocks = on_all_cores(draft.plans(), |plan| -> Result<(BlockRow, Place)> {
        let plain = read(top, draft.entries(), plan)?;
        let StoredBlock { row, stored } = plan.store(&plain, level)?;
        let place = spool.append(&stored)?;
        progress.add(u64::from(plan.length));
        Ok((row, place))
    })?;
    let (rows, places): (Vec<BlockRow>, Vec<Place>) = blocks.into_iter().unzip();
    Ok((draft.finish(&rows)?, places))
}

/// A component of kind `tree`.
pub fn draft(name: &Ident, units: &[String], entries: Vec<Entry>) -> Result<TreeDraft> {
    let mut draft = TreeDraft::new(name.clone(), Kind::Tree, entries)?;
    draft.units = units.to_vec();
    Ok(draft)
}

/// The plain bytes of a block.
fn read(top: &Path, entries: &[Entry], plan: &BlockPlan) -> Result<Vec<u8>> {
    let mut plain = vec![0; plan.length as usize];
    let mut at = 0;
    for piece in &plan.pieces {
        let end = at + piece.length as usize;
        let (Some(entry), Some(part)) = (entries.get(piece.entry as usize), plain.get_mut(at..end)) else {
            return fail!(Failed, "a block names bytes that are not there");
        };
        let path = entry.path();
        walk::open(top, path)?
            .read_exact_at(part, piece.offset)
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Failure::new(
                    Code::ContentMismatch,
                    format!("{path} became shorter while it was read"),
                ),
                _ => Failure::io("read", &top.join(path.as_str()), &e),
            })?;
        at = end;
    }
    Ok(plain)
}

/// `work` on every item, in any order; the results in the order of the items. The first failure ends it all.
fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let share = || -> Result<Vec<(usize, R)>> {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            match work(item) {
                Ok(result) => done.push((index, result)),
                Err(e) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
        Ok(done)
    };
    let cores = std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(items.len().max(1));
    let shares = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(share)).collect();
        workers
            .into_iter()
            .map(|worker| match worker.join() {
                Ok(share) => share,
                Err(_) => fail!(Failed, "a worker of the build stopped"),
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let mut all: Vec<(usize, R)> = shares.into_iter().flatten().collect();
    all.sort_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

fn io(verb: &str, error: &std::io::Error) -> Failure {
    Failure::io(verb, Path::new("beside the bundle"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_and_a_failure_ends_the_work() {
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(on_all_cores(&items, |n| Ok(n * 2)).unwrap()[999], 1998);
        let seen = AtomicUsize::new(0);
        let failed = on_all_cores(&items, |n| {
            seen.fetch_add(1, Ordering::Relaxed);
            if *n == 3 { fail!(Failed, "three") } else { Ok(()) }
        });
        assert_eq!(failed.unwrap_err().text, "three");
        assert!(seen.load(Ordering::Relaxed) <= items.len());
        assert!(on_all_cores(&[0u8; 0], |_| Ok(())).unwrap().is_empty());
    }
}
