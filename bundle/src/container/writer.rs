//! Writing a bundle, and replacing the release document of one.

use std::io::{Read, Seek, SeekFrom, Write};

use ensign_crypto::Envelope;

use crate::container::{ChainDocument, Contents, Header, Sections, fill, io};
use crate::digest::Digest;
use crate::reason::Refusal;
use crate::refuse;
use crate::statement;
use crate::trust::roles::Release;

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Writes a bundle front to back: everything but the blocks at once, then each block as it is handed over. Refuses a block that is
/// not the next one of the tables.
#[derive(Debug)]
pub struct Writer<'a, W> {
    out: W,
    releases: &'a [Contents],
    /// Where the next block belongs: release, component, row.
    next: (usize, usize, usize),
}

impl<'a, W: Write> Writer<'a, W> {
    /// Writes header, metadata chain, and the first release up to its blocks.
    pub fn new(out: W, chain: &[ChainDocument], releases: &'a [Contents]) -> Result<Self, Refusal> {
        let header = Header {
            chain: chain
                .iter()
                .map(|document| (document.kind.clone(), document.bytes.len() as u64))
                .collect(),
            releases: releases.iter().map(sections).collect(),
        };
        if releases.is_empty() {
            return refuse!(Malformed, "a bundle holds at least one release");
        }
        let mut writer = Self {
            out,
            releases,
            next: (0, 0, 0),
        };
        writer.put(&header.encode()?)?;
        for document in chain {
            writer.put(&document.bytes)?;
        }
        writer.start_release()?;
        writer.settle()?;
        Ok(writer)
    }

    /// The next block, in manifest order.
    pub fn block(&mut self, stored: &[u8]) -> Result<(), Refusal> {
        let (release, component, row) = self.next;
        let contents = self.releases.get(release);
        let Some(expected) = contents.and_then(|c| c.tables.get(component)?.rows().get(row)) else {
            return refuse!(Malformed, "a block after the last one");
        };
        if stored.len() != expected.stored_len as usize || Digest::of(stored) != expected.stored {
            return refuse!(
                ContentMismatch,
                "block {row} of component {component} is not the one of its table"
            );
        }
        self.put(stored)?;
        self.next = (release, component, row.saturating_add(1));
        self.settle()
    }

    /// Ends the file. Refuses one that lacks blocks. The caller makes it durable.
    pub fn finish(mut self) -> Result<W, Refusal> {
        let (release, component, row) = self.next;
        if release < self.releases.len() {
            return refuse!(
                Malformed,
                "the bundle lacks block {row} of component {component} of release {release}"
            );
        }
        self.out.flush().map_err(|e| io(&e))?;
        Ok(self.out)
    }

    /// Moves past components without further blocks, and writes the parts of a release that begins.
    fn settle(&mut self) -> Result<(), Refusal> {
        while let Some(contents) = self.releases.get(self.next.0) {
            let (release, component, row) = self.next;
            match contents.tables.get(component) {
                Some(table) if row < table.rows().len() => return Ok(()),
                Some(_) => self.next = (release, component.saturating_add(1), 0),
                None => {
                    self.next = (release.saturating_add(1), 0, 0);
                    self.start_release()?;
                }
            }
        }
        Ok(())
    }

    fn start_release(&mut self) -> Result<(), Refusal> {
        let Some(contents) = self.releases.get(self.next.0) else {
            return Ok(());
        };
        self.put(&contents.document.encode())?;
        self.put(&contents.manifest_bytes)?;
        contents.tables.iter().try_for_each(|table| self.put(table.bytes()))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.out.write_all(bytes).map_err(|e| io(&e))
    }
}

/// Copies a bundle with another release document for the release that `document` names: the same content with more signatures,
/// or a newer version of the document. Only the header and the document change.
pub fn resign<R: Read + Seek, W: Write>(reader: &mut R, writer: &mut W, document: &Envelope) -> Result<(), Refusal> {
    let bytes = document.encode();
    let new = statement::open_unverified::<Release>(&bytes)?.body;
    reader.seek(SeekFrom::Start(0)).map_err(|e| io(&e))?;
    let (mut header, start) = Header::read(reader)?;
    let total = start.checked_add(header.sections_len()?);
    let length = reader.seek(SeekFrom::End(0)).map_err(|e| io(&e))?;
    if total != Some(length) {
        return refuse!(Malformed, "the bundle has {length} bytes, its header speaks of others");
    }
    let mut at = header
        .chain
        .iter()
        .try_fold(start, |at, (_, length)| at.checked_add(*length));
    let mut found = None;
    for (index, sections) in header.releases.iter().enumerate() {
        let Some(from) = at else { break };
        let length = sections.document;
        if length > crate::limits::RELEASE_BYTES as u64 {
            return refuse!(LimitExceeded, "a release document of {length} bytes");
        }
        reader.seek(SeekFrom::Start(from)).map_err(|e| io(&e))?;
        let mut old = vec![0; usize::try_from(length).unwrap_or(0)];
        fill(reader, &mut old, "a release document")?;
        let old = statement::open_unverified::<Release>(&old)?.body;
        if (&old.product, &old.release) == (&new.product, &new.release) {
            if old.manifest != new.manifest {
                return refuse!(
                    ManifestMismatch,
                    "the document names the manifest {}, the bundle holds {}",
                    new.manifest.digest,
                    old.manifest.digest
                );
            }
            found = Some((index, from, length));
            break;
        }
        at = sections_len(sections).and_then(|length| from.checked_add(length));
    }
    let (Some((index, from, length)), Some(total)) = (found, total) else {
        return refuse!(NotFound, "the bundle does not hold {} {}", new.product, new.release);
    };
    if let Some(sections) = header.releases.get_mut(index) {
        sections.document = bytes.len() as u64;
    }
    writer.write_all(&header.encode()?).map_err(|e| io(&e))?;
    copy(reader, writer, start, from)?;
    writer.write_all(&bytes).map_err(|e| io(&e))?;
    copy(reader, writer, from.saturating_add(length), total)?;
    writer.flush().map_err(|e| io(&e))
}

fn copy<R: Read + Seek, W: Write>(reader: &mut R, writer: &mut W, from: u64, to: u64) -> Result<(), Refusal> {
    reader.seek(SeekFrom::Start(from)).map_err(|e| io(&e))?;
    let mut left = to.saturating_sub(from);
    let mut buffer = vec![0; COPY_BYTES];
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let Some(part) = buffer.get_mut(..length) else { break };
        fill(reader, part, "its sections")?;
        writer.write_all(part).map_err(|e| io(&e))?;
        left = left.saturating_sub(length as u64);
    }
    Ok(())
}

fn sections(contents: &Contents) -> Sections {
    Sections {
        document: contents.document.encode().len() as u64,
        manifest: contents.manifest_bytes.len() as u64,
        tables: contents.tables.iter().map(|table| table.bytes().len() as u64).collect(),
        blocks: contents
            .tables
            .iter()
            .map(crate::blocks::BlockTable::stored_len)
            .collect(),
    }
}

fn sections_len(sections: &Sections) -> Option<u64> {
    let mut lists = sections.tables.iter().chain(&sections.blocks);
    lists.try_fold(sections.document.checked_add(sections.manifest)?, |sum, n| {
        sum.checked_add(*n)
    })
}
