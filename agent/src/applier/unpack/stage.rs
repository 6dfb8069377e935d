//! Trees made from blocks and from what stands on the device already.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use ensign_bundle::blocks::{BlockRow, BlockTable, decode_block};
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_bundle::limits::STORED_BLOCK_BYTES;
use ensign_bundle::manifest::{Component, Entry, Manifest};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::trust::roles::FileRef;
use rustix::fs::FileType;

use super::worker::{TABLE, read};
use super::{Links, Survey};
use crate::applier::tree::{MODE_DIR, live_mode};
use crate::disk::{self, Dir, hash};
use crate::ipc::NEED_DIGESTS;

/// Files are given room in units of this, bytes.
const PAGE: u64 = 4096;
/// Mode of a tree while it is written.
const MODE_STAGING: u32 = 0o700;

/// All components of a release on their way.
pub(super) struct Stage {
    manifest: Manifest,
    skip: Vec<Ident>,
    staging: Dir,
    trees: Dir,
    survey: Survey,
    /// Content that is needed and where it already is: a tree and a path in it, not yet checked.
    sources: HashMap<Digest, Option<Source>>,
    /// The component being written.
    open: Option<Open>,
    /// Index of the next component.
    next: usize,
    /// What the applier is to link; the last one may still grow.
    links: Vec<Links>,
    /// Reused for every block.
    plain: Vec<u8>,
}

#[derive(Clone)]
struct Source {
    tree: Digest,
    path: String,
}

/// One component being written.
struct Open {
    tree: Digest,
    dir: Dir,
    /// Content that the applier links from a standing tree: no bytes of it are here.
    linked: HashMap<Digest, Source>,
    /// By entry: bytes that are still to be written; `None` = nothing (whole, or no file).
    left: Vec<Option<u64>>,
    entries: Vec<Entry>,
    /// Rows of blocks that are lacking, by the digest of their stored bytes. `None` = the table is lacking.
    rows: Option<Rows>,
    /// The file written last, kept open: its next piece follows.
    file: Option<(u32, disk::File)>,
}

#[derive(Default)]
struct Rows {
    order: Vec<FileRef>,
    by_digest: HashMap<Digest, Vec<BlockRow>>,
    /// Rows before this one are all taken.
    taken: usize,
}

impl Stage {
    pub(super) fn new(manifest: Manifest, skip: &[Ident], staging: Dir, trees: Dir) -> Self {
        let mut sources = HashMap::new();
        for component in manifest.components.iter().filter(|c| !skip.contains(&c.name)) {
            for entry in component.entries() {
                if let Entry::File { digest, size, .. } = entry
                    && size > 0
                {
                    sources.insert(digest, None);
                }
            }
        }
        Self {
            manifest,
            skip: skip.to_vec(),
            staging,
            trees,
            survey: Survey::default(),
            sources,
            open: None,
            next: 0,
            links: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// The links that came up since this was asked last.
    pub(super) fn take_links(&mut self) -> Vec<Links> {
        std::mem::take(&mut self.links)
    }

    fn link(&mut self, to: Digest, from: Option<Digest>, path: &str, source: &str) {
        let source = if path == source { "" } else { source };
        let pair = (path.to_owned(), source.to_owned());
        match self.links.last_mut() {
            Some(last)
                if (last.to, last.from) == (to, from) && last.bytes() + path.len() + source.len() < Links::BYTES =>
            {
                last.paths.push(pair);
            }
            _ => self.links.push(Links {
                to,
                from,
                paths: vec![pair],
            }),
        }
    }

    /// Notes which needed content a release that runs here has.
    pub(super) fn offer_source(&mut self, manifest: &Manifest) {
        for component in &manifest.components {
            let tree = component.tree_digest();
            for entry in component.entries() {
                if let Entry::File { path, digest, .. } = entry
                    && let Some(place @ None) = self.sources.get_mut(&digest)
                {
                    *place = Some(Source {
                        tree,
                        path: path.as_str().to_owned(),
                    });
                }
            }
        }
    }

    /// Adds up what staging takes. Nothing is written.
    pub(super) fn take_stock(&mut self) {
        let mut survey = Survey {
            plain: self.manifest.totals.bytes,
            ..Survey::default()
        };
        let mut counted = HashSet::new();
        for component in &self.manifest.components {
            if self.skip.contains(&component.name) {
                survey.reused += component.entries().map(|e| e.size()).sum::<u64>();
                continue;
            }
            let name = component.tree_digest().to_string();
            let staged = self.staging.dir(&name).ok();
            for entry in component.entries() {
                let there = staged.as_ref().and_then(|dir| dir.stat(entry.path().as_str()).ok());
                if there.is_none() {
                    survey.inodes += 1;
                }
                let Entry::File { size, digest, mode, .. } = entry else {
                    continue;
                };
                let known = matches!(self.sources.get(&digest), Some(Some(_)));
                // Whole files have their mode already; their bytes are hashed later.
                let written = there.is_some_and(|stat| {
                    u64::try_from(stat.st_size) == Ok(size) && stat.st_mode & 0o777 == live_mode(mode)
                });
                if known || written || size == 0 {
                    survey.reused += size;
                } else if counted.insert(digest) {
                    // A piece of it that an earlier try left gives its room back before it is written anew.
                    let kept = there.map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
                    survey.bytes = survey.bytes.saturating_add(pages(size).saturating_sub(kept));
                }
            }
        }
        self.survey = survey;
    }

    /// Room for what is still to be written: of the component at hand exactly, of those after it as the survey counts.
    pub(super) fn left(&self) -> u64 {
        let open = self.open.iter().flat_map(|open| open.left.iter().flatten());
        let later = self.manifest.components.iter().skip(self.next);
        let mut counted = HashSet::new();
        let later = later
            .filter(|component| !self.skip.contains(&component.name))
            .flat_map(Component::entries)
            .filter_map(|entry| match entry {
                Entry::File { size, digest, .. }
                    if counted.insert(digest) && !matches!(self.sources.get(&digest), Some(Some(_))) =>
                {
                    Some(pages(size))
                }
                _ => None,
            });
        open.map(|left| pages(*left)).chain(later).fold(0, u64::saturating_add)
    }

    pub(super) fn survey(&self) -> Survey {
        self.survey
    }

    /// Begins to write.
    pub(super) fn prepare(&mut self) -> Result<(), Refusal> {
        self.open_next()
    }

    /// The next blobs that are lacking, in the order in which they are written best. Empty = everything is staged.
    pub(super) fn need(&mut self) -> Result<Vec<FileRef>, Refusal> {
        loop {
            let Some(open) = &mut self.open else {
                return Ok(Vec::new());
            };
            let Some(rows) = &mut open.rows else {
                let component = component(&self.manifest, self.next - 1)?;
                return Ok(vec![component.blocks]);
            };
            while rows
                .order
                .get(rows.taken)
                .is_some_and(|r| !rows.by_digest.contains_key(&r.digest))
            {
                rows.taken += 1;
            }
            let lacking: Vec<FileRef> = rows
                .order
                .iter()
                .skip(rows.taken)
                .filter(|r| rows.by_digest.contains_key(&r.digest))
                .take(NEED_DIGESTS)
                .copied()
                .collect();
            if !lacking.is_empty() {
                return Ok(lacking);
            }
            self.finish_open()?;
            self.open_next()?;
        }
    }

    /// Takes a block table or a block. Bytes that are not the named ones are left out: they are needed still. What was not asked for
    /// is ignored.
    pub(super) fn take(&mut self, digest: &Digest, file: &File) -> Result<(), Refusal> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(rows) = &mut open.rows else {
            let component = component(&self.manifest, self.next - 1)?;
            if component.blocks.digest == *digest
                && let Some(bytes) = damaged_is_none(read(file, &component.blocks, TABLE))?
            {
                open.take_table(&bytes, component)?;
            }
            return Ok(());
        };
        let Some(wanted) = rows.by_digest.get(digest).and_then(|r| r.first()) else {
            return Ok(());
        };
        let expected = FileRef {
            digest: *digest,
            length: u64::from(wanted.stored_len),
        };
        let Some(stored) = damaged_is_none(read(file, &expected, STORED_BLOCK_BYTES))? else {
            return Ok(());
        };
        for row in rows.by_digest.remove(digest).unwrap_or_default() {
            decode_block(&row, &stored, &mut self.plain)?;
            open.write(&row, &self.plain)?;
        }
        Ok(())
    }

    /// Opens the next component that has to be staged, with everything in place that needs no block.
    fn open_next(&mut self) -> Result<(), Refusal> {
        while let Some(component) = self.manifest.components.get(self.next) {
            self.next += 1;
            if self.skip.contains(&component.name) {
                continue;
            }
            let tree = component.tree_digest();
            let name = tree.to_string();
            ensure_dir(&self.staging, &name, MODE_STAGING).map_err(|e| io_at(&name, &e))?;
            let dir = self.staging.dir(&name).map_err(|e| io_at(&name, &e))?;
            let entries: Vec<Entry> = component.entries().collect();
            let mut left = vec![None; entries.len()];
            let mut first: HashSet<Digest> = HashSet::new();
            let mut linked = HashMap::new();
            for (entry, left) in entries.iter().zip(&mut left) {
                let path = entry.path().as_str();
                place(&dir, entry).map_err(|e| io_at(path, &e))?;
                let Entry::File { size, digest, .. } = entry else {
                    continue;
                };
                // Copies of the same content come last, from the first.
                if *size == 0 || !first.insert(*digest) {
                    continue;
                }
                if is_whole(&dir, entry) {
                    continue;
                }
                match self.reuse(&dir, entry).map_err(|e| io_at(path, &e))? {
                    Reused::Written => {}
                    Reused::ToLink => {
                        if let Some(Some(source)) = self.sources.get(digest) {
                            linked.insert(*digest, source.clone());
                        }
                    }
                    Reused::Not => {
                        dir.remove(path).map_err(|e| io_at(path, &e))?;
                        *left = Some(*size);
                    }
                }
            }
            let complete = left.iter().all(Option::is_none);
            self.open = Some(Open {
                tree,
                dir,
                linked,
                left,
                entries,
                // Nothing lacking: the table is not needed either.
                rows: complete.then(Rows::default),
                file: None,
            });
            return Ok(());
        }
        self.open = None;
        Ok(())
    }

    /// Takes a file's content from a tree that stands, checked.
    fn reuse(&self, dir: &Dir, entry: &Entry) -> io::Result<Reused> {
        let Entry::File {
            path,
            mode,
            size,
            digest,
            ..
        } = entry
        else {
            return Ok(Reused::Not);
        };
        let Some(Some(source)) = self.sources.get(digest) else {
            return Ok(Reused::Not);
        };
        let Ok(tree) = self.trees.dir(&source.tree.to_string()) else {
            return Ok(Reused::Not);
        };
        materialise(&tree, &source.path, dir, path.as_str(), *mode, (*digest, *size))
    }

    /// Copies within the component, and links.
    fn finish_open(&mut self) -> Result<(), Refusal> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let mut first: HashMap<Digest, &str> = HashMap::new();
        for entry in &open.entries {
            let Entry::File {
                path,
                mode,
                size,
                digest,
            } = entry
            else {
                continue;
            };
            let path = path.as_str();
            let fail = |e: io::Error| io_at(path, &e);
            if *size == 0 {
                open.dir.remove(path).map_err(fail)?;
                set_mode(&open.dir.create(path).map_err(fail)?, *mode).map_err(fail)?;
                continue;
            }
            let source = open.linked.get(digest);
            let from = source.map(|source| source.tree);
            let earlier = match (first.get(digest), source) {
                (None, None) => {
                    first.insert(*digest, path);
                    continue;
                }
                (None, Some(source)) => {
                    first.insert(*digest, path);
                    self.link(open.tree, from, path, &source.path);
                    continue;
                }
                (Some(_), Some(source)) => source.path.as_str(),
                (Some(first), None) => *first,
            };
            if is_whole(&open.dir, entry) {
                continue;
            }
            let standing = from.map(|tree| self.trees.dir(&tree.to_string())).transpose();
            let standing = standing.map_err(fail)?;
            let place = standing.as_ref().unwrap_or(&open.dir);
            match materialise(place, earlier, &open.dir, path, *mode, (*digest, *size)).map_err(fail)? {
                Reused::Written => {}
                Reused::ToLink => self.link(open.tree, from, path, earlier),
                Reused::Not => return refuse!(ContentMismatch, "{path}: its first copy changed while it was read"),
            }
        }
        Ok(())
    }
}

impl Open {
    fn take_table(&mut self, bytes: &[u8], component: &Component) -> Result<(), Refusal> {
        BlockTable::check(bytes, component, |_| {})?;
        let mut rows = Rows::default();
        for row in BlockTable::rows_of(bytes) {
            let lacking = row
                .pieces
                .iter()
                .any(|p| self.left.get(p.entry as usize).copied().flatten().is_some());
            if !lacking {
                continue;
            }
            if row.stored_len == 0 {
                // Zeros: nothing is stored, nothing has to be fetched.
                let mut plain = Vec::new();
                decode_block(&row, &[], &mut plain)?;
                self.write(&row, &plain)?;
                continue;
            }
            let reference = FileRef {
                digest: row.stored,
                length: u64::from(row.stored_len),
            };
            let same = rows.by_digest.entry(row.stored).or_default();
            if same.is_empty() {
                rows.order.push(reference);
            }
            same.push(row);
        }
        self.rows = Some(rows);
        Ok(())
    }

    /// Writes the pieces of a checked block.
    fn write(&mut self, row: &BlockRow, plain: &[u8]) -> Result<(), Refusal> {
        let mut rest = plain;
        for piece in &row.pieces {
            let Some((bytes, after)) = rest.split_at_checked(piece.length as usize) else {
                return refuse!(Malformed, "a block is shorter than its pieces");
            };
            rest = after;
            let at = piece.entry as usize;
            let (Some(entry), Some(Some(left))) = (self.entries.get(at), self.left.get(at).copied()) else {
                continue;
            };
            let path = entry.path().as_str();
            let fail = |e: io::Error| io_at(path, &e);
            let file = match self.file.take() {
                Some((number, file)) if number == piece.entry => file,
                _ if left == entry.size() => self.dir.create(path).map_err(fail)?,
                _ => self.dir.write(path).map_err(fail)?,
            };
            file.write_all_at(bytes, piece.offset).map_err(fail)?;
            let left = left.saturating_sub(u64::from(piece.length));
            if left > 0 {
                self.file = Some((piece.entry, file));
            } else {
                self.close(entry, &file)?;
            }
            if let Some(slot) = self.left.get_mut(at) {
                *slot = (left > 0).then_some(left);
            }
        }
        Ok(())
    }

    /// A file's last piece is written: its bytes are read back and compared with what was signed.
    fn close(&self, entry: &Entry, file: &disk::File) -> Result<(), Refusal> {
        let Entry::File { path, mode, digest, .. } = entry else {
            return Ok(());
        };
        let fail = |e: io::Error| io_at(path.as_str(), &e);
        let (found, _) = hash(&self.dir.read(path.as_str()).map_err(fail)?).map_err(fail)?;
        if found != *digest {
            return refuse!(
                ContentMismatch,
                "the file {path} has the digest {found}, {digest} was signed for"
            );
        }
        set_mode(file, *mode).map_err(fail)
    }
}

/// The room that a file of so many bytes takes.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE).saturating_mul(PAGE)
}

/// Directories and links in their place, and nothing else of another kind.
fn place(dir: &Dir, entry: &Entry) -> io::Result<()> {
    let path = entry.path().as_str();
    match entry {
        Entry::Dir { .. } => ensure_dir(dir, path, MODE_DIR),
        Entry::Symlink { target, .. } => {
            if dir.target(path).is_ok_and(|found| found == *target) {
                return Ok(());
            }
            dir.remove(path)?;
            dir.symlink(target, path)
        }
        Entry::File { .. } => Ok(()),
    }
}

/// A directory at `path`, in place of anything else that stands there.
fn ensure_dir(dir: &Dir, path: &str, mode: u32) -> io::Result<()> {
    match dir.stat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => return Ok(()),
        Ok(_) => dir.remove(path)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    dir.mkdir(path, mode)
}

/// True where an earlier attempt left the file, with the signed bytes and its mode.
fn is_whole(dir: &Dir, entry: &Entry) -> bool {
    let Entry::File {
        path,
        mode,
        size,
        digest,
    } = entry
    else {
        return false;
    };
    let wanted = dir.stat(path.as_str()).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size) == Ok(*size)
            && stat.st_mode & 0o777 == live_mode(*mode)
    });
    wanted
        && dir
            .read(path.as_str())
            .and_then(|file| hash(&file))
            .is_ok_and(|(found, _)| found == *digest)
}

/// What became of content that is there already.
enum Reused {
    /// It is in its place.
    Written,
    /// It is a link's turn: nothing stands in its place.
    ToLink,
    /// It is not there, or not what it was.
    Not,
}

/// A file's content under another name: reflink, else hard link, else a copy where the modes differ. The source's bytes are hashed first,
/// and a copy's again where it was written.
fn materialise(
    from: &Dir,
    source: &str,
    to: &Dir,
    path: &str,
    mode: u16,
    content: (Digest, u64),
) -> io::Result<Reused> {
    let Ok(file) = from.read(source) else {
        return Ok(Reused::Not);
    };
    if hash(&file)? != content {
        return Ok(Reused::Not);
    }
    to.remove(path)?;
    let copy = to.create(path)?;
    if copy.clone_of(&file).is_ok() {
        set_mode(&copy, mode)?;
        return Ok(Reused::Written);
    }
    // A hard link shares the mode.
    if file.metadata()?.permissions().mode() & 0o777 == live_mode(mode) {
        drop(copy);
        to.remove(path)?;
        return Ok(Reused::ToLink);
    }
    disk::copy(&file, &copy)?;
    if hash(&to.read(path)?)? != content {
        return Ok(Reused::Not);
    }
    set_mode(&copy, mode)?;
    Ok(Reused::Written)
}

fn set_mode(file: &disk::File, mode: u16) -> io::Result<()> {
    file.set_mode(live_mode(mode))
}

fn component(manifest: &Manifest, index: usize) -> Result<&Component, Refusal> {
    manifest
        .components
        .get(index)
        .ok_or_else(|| Refusal::new(Code::Failed, "a component is missing"))
}

/// Bytes that are not the named ones are as good as none.
fn damaged_is_none(bytes: Result<Vec<u8>, Refusal>) -> Result<Option<Vec<u8>>, Refusal> {
    match bytes {
        Ok(bytes) => Ok(Some(bytes)),
        // What cannot be read either: a descriptor that says so proves nothing against the release.
        Err(refusal) if matches!(refusal.code, Code::ContentMismatch | Code::Io) => {
            tracing::warn!(code = %refusal.code, error = %refusal.text, "handed-over bytes are refused");
            Ok(None)
        }
        Err(refusal) => Err(refusal),
    }
}

fn io_at(path: &str, error: &io::Error) -> Refusal {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let code = if full { Code::NoSpace } else { Code::Io };
    let path = ensign_bundle::text::printable(path, 120);
    Refusal::new(code, format!("staging {path}: {error}"))
}
