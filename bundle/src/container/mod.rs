//! The file `.bundle`: whole releases in one file, verified offline exactly as online.
//!
//! ```text
//! "ENSIGN\r\n\x1a\n" | format u16 be | header length u32 be | header (CBOR)
//! | metadata chain | per release: document, manifest, block tables, stored blocks of every component |  end
//! ```
//!
//! The header says how long each section is and nothing else, so each of its numbers is checked against the sections and the
//! file's length: no byte of the file is without a check.

use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::limits::HEADER_BYTES;
use crate::reason::{Code, Refusal};
use crate::refuse;

mod contents;
#[cfg(test)]
mod golden;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use contents::{ChainDocument, Contents, Member};
pub use reader::{Bundle, read};
pub use writer::{Writer, resign};

/// The first bytes of a bundle. Line ends and a control character, so that whatever mangles text shows at once.
pub const MAGIC: [u8; 10] = *b"ENSIGN\r\n\x1a\n";
/// The format that this version writes and the only one that it reads.
pub const FORMAT: u16 = 1;
/// Magic, format and header length, bytes.
const PREAMBLE_BYTES: usize = 16;
/// CBOR items in a header.
const HEADER_ITEMS: usize = 16 << 10;

/// Lengths of all sections, bytes, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Kind and length of each document of the metadata chain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chain: Vec<(String, u64)>,
    /// At least one.
    releases: Vec<Sections>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sections {
    document: u64,
    manifest: u64,
    /// One per component.
    tables: Vec<u64>,
    /// Stored bytes of all blocks, one number per component.
    blocks: Vec<u64>,
}

impl Header {
    /// Magic, format, length and header.
    fn encode(&self) -> Result<Vec<u8>, Refusal> {
        let header = codec::encode(self).map_err(|e| Refusal::new(Code::Malformed, format!("header: {e}")))?;
        if header.len() > HEADER_BYTES {
            return refuse!(
                LimitExceeded,
                "the header has {} bytes, at most {HEADER_BYTES} are allowed: fewer releases in one file",
                header.len()
            );
        }
        let length = u32::try_from(header.len()).unwrap_or(u32::MAX);
        Ok([&MAGIC[..], &FORMAT.to_be_bytes(), &length.to_be_bytes(), &header].concat())
    }

    /// Reads from the start of a file. Returns also the bytes read.
    fn read(reader: &mut impl Read) -> Result<(Self, u64), Refusal> {
        let mut preamble = [0; PREAMBLE_BYTES];
        fill(reader, &mut preamble, "the first 16 bytes")?;
        let (magic, rest) = preamble.split_at(MAGIC.len());
        if magic != MAGIC {
            return refuse!(Malformed, "this is no bundle: it does not start with {:?}", "ENSIGN");
        }
        let (format, length) = rest.split_at(2);
        let format = format.iter().fold(0_u16, |n, byte| (n << 8) | u16::from(*byte));
        if format != FORMAT {
            return refuse!(
                VersionUnknown,
                "the bundle has format {format}, this program knows {FORMAT}"
            );
        }
        let length = length.iter().fold(0_usize, |n, byte| (n << 8) | usize::from(*byte));
        if length > HEADER_BYTES {
            return refuse!(
                LimitExceeded,
                "the header has {length} bytes, at most {HEADER_BYTES} are allowed"
            );
        }
        let mut bytes = vec![0; length];
        fill(reader, &mut bytes, "the header")?;
        let header: Self = codec::decode_exact(&bytes, HEADER_ITEMS)
            .map_err(|e| Refusal::new(Code::Malformed, format!("header: {e}")))?;
        if header.releases.is_empty() {
            return refuse!(Malformed, "the bundle holds no release");
        }
        Ok((header, (PREAMBLE_BYTES + length) as u64))
    }

    /// Bytes of all sections.
    fn sections_len(&self) -> Result<u64, Refusal> {
        let chain = self.chain.iter().map(|(_, length)| *length);
        let releases = self.releases.iter().flat_map(|sections| {
            let lists = sections.tables.iter().chain(&sections.blocks).copied();
            [sections.document, sections.manifest].into_iter().chain(lists)
        });
        chain
            .chain(releases)
            .try_fold(0_u64, u64::checked_add)
            .ok_or_else(|| Refusal::new(Code::LimitExceeded, "the sections of the bundle do not fit 64 bits"))
    }
}

/// Fills `bytes` from `reader`; a file that ends too early is malformed.
fn fill(reader: &mut impl Read, bytes: &mut [u8], what: &str) -> Result<(), Refusal> {
    reader.read_exact(bytes).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Refusal::new(Code::Malformed, format!("the bundle ends inside {what}")),
        _ => io(&e),
    })
}

fn io(error: &std::io::Error) -> Refusal {
    Refusal::new(Code::Io, format!("the bundle: {error}"))
}
