//! Reading and verifying a bundle.

use std::io::{Read, Seek, SeekFrom};

use crate::blocks::{BlockTable, decode_block};
use crate::container::{ChainDocument, Contents, Header, Sections, fill, io};
use crate::digest::{Digest, Hasher};
use crate::limits::{BLOCK_TABLE_BYTES, MANIFEST_BYTES, RELEASE_BYTES};
use crate::manifest::{Component, Entry};
use crate::reason::Refusal;
use crate::refuse;

/// What a bundle file says, without its blocks. Everything is parsed and belongs together; no signature has been looked at.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The metadata chain of an exported bundle; empty in one that was only built.
    pub chain: Vec<ChainDocument>,
    /// At least one.
    pub releases: Vec<Contents>,
    /// For each release and component, where its blocks start, and where each one does from there.
    starts: Vec<Vec<Vec<u64>>>,
    /// Bytes of the file.
    length: u64,
}

/// Reads everything but the blocks, and checks that header, sections and the file's length agree.
pub fn read<R: Read + Seek>(reader: &mut R) -> Result<Bundle, Refusal> {
    let length = reader.seek(SeekFrom::End(0)).map_err(|e| io(&e))?;
    reader.seek(SeekFrom::Start(0)).map_err(|e| io(&e))?;
    let (header, header_len) = Header::read(reader)?;
    let expected = header.sections_len()?.checked_add(header_len);
    if expected != Some(length) {
        return refuse!(
            Malformed,
            "the bundle has {length} bytes, its header speaks of {}",
            expected.unwrap_or(u64::MAX)
        );
    }
    let mut chain = Vec::new();
    for (kind, length) in &header.chain {
        let bytes = section(reader, *length, ChainDocument::MAX_BYTES, "the metadata chain")?;
        chain.push(ChainDocument::parse(kind, bytes)?);
    }
    let mut releases = Vec::new();
    let mut starts = Vec::new();
    for sections in &header.releases {
        let contents = read_release(reader, sections)?;
        let mut at = reader.stream_position().map_err(|e| io(&e))?;
        let mut components = Vec::new();
        for (table, blocks) in contents.tables.iter().zip(&sections.blocks) {
            components.push(block_starts(table, at));
            at = at.saturating_add(*blocks);
        }
        reader.seek(SeekFrom::Start(at)).map_err(|e| io(&e))?;
        releases.push(contents);
        starts.push(components);
    }
    Ok(Bundle {
        chain,
        releases,
        starts,
        length,
    })
}

impl Bundle {
    /// The release, where the file holds exactly one.
    pub fn single(&self) -> Result<&Contents, Refusal> {
        match &self.releases[..] {
            [only] => Ok(only),
            many => refuse!(Conflict, "the bundle holds {} releases: name one", many.len()),
        }
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Never: a bundle holds at least one release.
    pub fn is_empty(&self) -> bool {
        self.releases.is_empty()
    }

    /// The stored bytes of one block, not checked against anything but their length: [`decode_block`] does that, and so does
    /// who stores them by their digest.
    pub fn block<R: Read + Seek>(
        &self,
        reader: &mut R,
        release: usize,
        component: usize,
        index: usize,
    ) -> Result<Vec<u8>, Refusal> {
        let row = || self.releases.get(release)?.tables.get(component)?.rows().get(index);
        let start = || self.starts.get(release)?.get(component)?.get(index);
        let (Some(row), Some(start)) = (row(), start()) else {
            return refuse!(
                NotFound,
                "the bundle has no block {index} of component {component} of release {release}"
            );
        };
        reader.seek(SeekFrom::Start(*start)).map_err(|e| io(&e))?;
        let mut stored = vec![0; row.stored_len as usize];
        fill(reader, &mut stored, "a block")?;
        Ok(stored)
    }

    /// Verifies every stored block, every plain block and every file in one pass. `progress` gets the stored bytes done so far.
    /// Needs memory for one block.
    pub fn check_content<R: Read + Seek>(&self, reader: &mut R, progress: &mut dyn FnMut(u64)) -> Result<(), Refusal> {
        let mut done = 0_u64;
        for (contents, starts) in self.releases.iter().zip(&self.starts) {
            let components = contents.manifest.components.iter().zip(&contents.tables).zip(starts);
            for ((component, table), starts) in components {
                if let Some(start) = starts.first() {
                    reader.seek(SeekFrom::Start(*start)).map_err(|e| io(&e))?;
                }
                check_component(reader, component, table, &mut |stored| {
                    done = done.saturating_add(stored);
                    progress(done);
                })?;
            }
        }
        Ok(())
    }
}

fn check_component(
    reader: &mut impl Read,
    component: &Component,
    table: &BlockTable,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Refusal> {
    let named = |e: Refusal| Refusal::new(e.code, format!("{}: {}", component.name, e.text));
    // By index; what is no file is never asked for.
    let files: Vec<Option<(u64, Digest)>> = component
        .entries()
        .map(|entry| match entry {
            Entry::File { size, digest, .. } => Some((size, digest)),
            Entry::Dir { .. } | Entry::Symlink { .. } => None,
        })
        .collect();
    let (mut stored, mut plain) = (Vec::new(), Vec::new());
    // The table was checked: the pieces of a file follow each other, so one hasher is enough.
    let mut hasher = Hasher::new();
    for row in table.rows() {
        stored.resize(row.stored_len as usize, 0);
        fill(reader, &mut stored, "a block")?;
        decode_block(row, &stored, &mut plain).map_err(named)?;
        let mut rest = &plain[..];
        for piece in &row.pieces {
            let Some((bytes, after)) = rest.split_at_checked(piece.length as usize) else {
                return refuse!(Malformed, "a block is shorter than its pieces");
            };
            rest = after;
            let file = files.get(piece.entry as usize).copied().flatten();
            let Some((size, expected)) = file else {
                return refuse!(Malformed, "a piece of what is no file");
            };
            hasher.update(bytes);
            if piece.offset.saturating_add(u64::from(piece.length)) < size {
                continue;
            }
            let found = std::mem::take(&mut hasher).finish();
            if found != expected {
                let path = component.entries().nth(piece.entry as usize);
                let path = path.map(|entry| entry.path().to_string()).unwrap_or_default();
                return refuse!(
                    ContentMismatch,
                    "{}: the file {path} has the digest {found}, the manifest says {expected}",
                    component.name
                );
            }
        }
        progress(u64::from(row.stored_len));
    }
    Ok(())
}

fn read_release(reader: &mut impl Read, sections: &Sections) -> Result<Contents, Refusal> {
    let document = section(reader, sections.document, RELEASE_BYTES, "the release document")?;
    let manifest = section(reader, sections.manifest, MANIFEST_BYTES, "the manifest")?;
    let tables = sections
        .tables
        .iter()
        .map(|length| section(reader, *length, BLOCK_TABLE_BYTES, "a block table"))
        .collect::<Result<Vec<_>, _>>()?;
    let contents = Contents::parse(&document, manifest, &tables)?;
    if !contents
        .tables
        .iter()
        .map(BlockTable::stored_len)
        .eq(sections.blocks.iter().copied())
    {
        return refuse!(
            Malformed,
            "the header and the block tables disagree about the blocks' lengths"
        );
    }
    Ok(contents)
}

/// Reads a section whose length the header gives. It is not more than the file has: the sum was compared.
fn section(reader: &mut impl Read, length: u64, limit: usize, what: &str) -> Result<Vec<u8>, Refusal> {
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= limit) else {
        return refuse!(LimitExceeded, "{what} has {length} bytes, at most {limit} are allowed");
    };
    let mut bytes = vec![0; length];
    fill(reader, &mut bytes, what)?;
    Ok(bytes)
}

fn block_starts(table: &BlockTable, from: u64) -> Vec<u64> {
    let next = |at: &mut u64, length: u32| {
        let start = *at;
        *at = at.saturating_add(u64::from(length));
        Some(start)
    };
    table.rows().iter().map(|row| row.stored_len).scan(from, next).collect()
}
