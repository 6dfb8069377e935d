//! Deterministic CBOR (RFC 8949 §4.2.1): a scanner that accepts nothing else, and the little that the envelope writes.
//!
//! The scanner runs before any decoder sees foreign bytes, so that what a decoder would forgive (a key twice, long forms of
//! a number, tags that it drops) never reaches it. It copies nothing and trusts no claimed length.

use std::ops::Range;

/// Unsigned integer (RFC 8949 §3.1).
const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;

/// Additional information: the number follows in so many bytes.
const ONE_BYTE: u8 = 24;
const TWO_BYTES: u8 = 25;
const FOUR_BYTES: u8 = 26;
const EIGHT_BYTES: u8 = 27;
const INDEFINITE: u8 = 31;

/// How much nesting and how many items a document may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arrays and maps inside each other; a document that is one flat map has depth 1. The scanner recurses this deep, so
    /// keep it in the hundreds at most. Default 12.
    pub max_depth: usize,
    /// Items in all: each number, string, key, array and map counts as one. Default 100 000.
    pub max_items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_depth: 12,
            max_items: 100_000,
        }
    }
}

/// Why bytes are not deterministic CBOR. Offsets are in bytes from the start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The bytes end inside an item.
    #[error("the bytes end inside the item at offset {offset}")]
    Truncated {
        /// Start of the item.
        offset: usize,
    },
    /// Bytes after the end of the document.
    #[error("bytes follow the end of the document at offset {offset}")]
    TrailingBytes {
        /// The first of them.
        offset: usize,
    },
    /// A number or length not in its shortest form (RFC 8949 §4.2.1).
    #[error("not the shortest form of a number at offset {offset}")]
    NotShortest {
        /// Start of the item.
        offset: usize,
    },
    /// A string, array or map of indefinite length, or a stray break.
    #[error("indefinite length at offset {offset}")]
    Indefinite {
        /// Start of the item.
        offset: usize,
    },
    /// Additional information 28 to 30: not well-formed (RFC 8949 §3).
    #[error("reserved encoding at offset {offset}")]
    Reserved {
        /// Start of the item.
        offset: usize,
    },
    /// A tag.
    #[error("tag at offset {offset}")]
    Tag {
        /// Start of the item.
        offset: usize,
    },
    /// A float, undefined, or a simple value other than false, true and null.
    #[error("float or simple value at offset {offset}")]
    Simple {
        /// Start of the item.
        offset: usize,
    },
    /// A text string that is not UTF-8.
    #[error("text that is not UTF-8 at offset {offset}")]
    NotUtf8 {
        /// Start of the item.
        offset: usize,
    },
    /// A map key that sorts before the one in front of it.
    #[error("map key out of order at offset {offset}")]
    KeyOrder {
        /// Start of the key.
        offset: usize,
    },
    /// A map key that is there already.
    #[error("map key twice at offset {offset}")]
    DuplicateKey {
        /// Start of the second one.
        offset: usize,
    },
    /// Nested too deeply.
    #[error("nested deeper than {limit} at offset {offset}")]
    TooDeep {
        /// Start of the array or map.
        offset: usize,
        /// [`Limits::max_depth`].
        limit: usize,
    },
    /// Too many items.
    #[error("more than {limit} items, at offset {offset}")]
    TooManyItems {
        /// Start of the item that is too much.
        offset: usize,
        /// [`Limits::max_items`].
        limit: usize,
    },
}

/// Accepts exactly one item of deterministic CBOR and nothing after it.
pub fn scan(bytes: &[u8], limits: Limits) -> Result<(), ScanError> {
    let mut scanner = Scanner::new(bytes, limits);
    scanner.item(0)?;
    scanner.reader.end()
}

/// Accepts a sequence (RFC 8742) of any number of items, each deterministic CBOR, and returns how many there are. The item
/// limit holds for all of them together.
pub fn scan_sequence(bytes: &[u8], limits: Limits) -> Result<usize, ScanError> {
    let mut scanner = Scanner::new(bytes, limits);
    let mut count: usize = 0;
    while scanner.reader.end().is_err() {
        scanner.item(0)?;
        count = count.saturating_add(1);
    }
    Ok(count)
}

struct Scanner<'a> {
    reader: Reader<'a>,
    limits: Limits,
    items: usize,
}

impl<'a> Scanner<'a> {
    fn new(bytes: &'a [u8], limits: Limits) -> Self {
        Self {
            reader: Reader::new(bytes),
            limits,
            items: 0,
        }
    }

    /// One item inside `depth` arrays and maps.
    fn item(&mut self, depth: usize) -> Result<(), ScanError> {
        let offset = self.reader.offset;
        if self.items >= self.limits.max_items {
            return Err(ScanError::TooManyItems {
                offset,
                limit: self.limits.max_items,
            });
        }
        self.items = self.items.saturating_add(1);
        let head = self.reader.head()?;
        match head.major {
            BYTES => self.reader.take(offset, head.value).map(drop),
            TEXT => self.reader.utf8(offset, head.value).map(drop),
            ARRAY => {
                let depth = self.enter(offset, depth)?;
                (0..head.value).try_for_each(|_| self.item(depth))
            }
            MAP => {
                let depth = self.enter(offset, depth)?;
                self.map(head.value, depth)
            }
            // Numbers, false, true and null are all in the head.
            _ => Ok(()),
        }
    }

    /// Keys must increase bytewise in their encoded form (RFC 8949 §4.2.1), which also makes them unique.
    fn map(&mut self, entries: u64, depth: usize) -> Result<(), ScanError> {
        let mut previous: Option<Range<usize>> = None;
        for _ in 0..entries {
            let offset = self.reader.offset;
            self.item(depth)?;
            let key = offset..self.reader.offset;
            if let Some(previous) = previous {
                let (previous, key) = (self.reader.slice(previous), self.reader.slice(key.clone()));
                if previous == key {
                    return Err(ScanError::DuplicateKey { offset });
                }
                if previous > key {
                    return Err(ScanError::KeyOrder { offset });
                }
            }
            previous = Some(key);
            self.item(depth)?;
        }
        Ok(())
    }

    fn enter(&self, offset: usize, depth: usize) -> Result<usize, ScanError> {
        if depth >= self.limits.max_depth {
            return Err(ScanError::TooDeep {
                offset,
                limit: self.limits.max_depth,
            });
        }
        Ok(depth.saturating_add(1))
    }
}

/// The head of an item: its major type and number (RFC 8949 §3).
struct Head {
    major: u8,
    value: u64,
}

/// Reads items of known shape; refuses what the scanner refuses.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    pub(crate) offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Whether everything has been read.
    pub(crate) fn end(&self) -> Result<(), ScanError> {
        if self.offset < self.bytes.len() {
            return Err(ScanError::TrailingBytes { offset: self.offset });
        }
        Ok(())
    }

    /// Moves past `literal` if it comes next.
    pub(crate) fn skip(&mut self, literal: &[u8]) -> bool {
        let found = self.rest().starts_with(literal);
        if found {
            self.offset = self.offset.saturating_add(literal.len());
        }
        found
    }

    /// The byte string that comes next; `None` if something else does.
    pub(crate) fn byte_string(&mut self) -> Result<Option<&'a [u8]>, ScanError> {
        let offset = self.offset;
        let head = self.head()?;
        (head.major == BYTES).then(|| self.take(offset, head.value)).transpose()
    }

    /// The text string that comes next; `None` if something else does.
    pub(crate) fn text(&mut self) -> Result<Option<&'a str>, ScanError> {
        let offset = self.offset;
        let head = self.head()?;
        (head.major == TEXT).then(|| self.utf8(offset, head.value)).transpose()
    }

    /// The length of the array that comes next; `None` if something else does.
    pub(crate) fn array(&mut self) -> Result<Option<u64>, ScanError> {
        let head = self.head()?;
        Ok((head.major == ARRAY).then_some(head.value))
    }

    fn head(&mut self) -> Result<Head, ScanError> {
        let offset = self.offset;
        let [first, ..] = *self.take(offset, 1)? else {
            return Err(ScanError::Truncated { offset });
        };
        let (major, info) = (first >> 5, first & 0x1f);
        if info == INDEFINITE {
            return Err(ScanError::Indefinite { offset });
        }
        if info > EIGHT_BYTES {
            return Err(ScanError::Reserved { offset });
        }
        match major {
            UNSIGNED | NEGATIVE | BYTES | TEXT | ARRAY | MAP => {}
            TAG => return Err(ScanError::Tag { offset }),
            // False, true, null (RFC 8949 §3.3).
            _ if (20..=22).contains(&info) => {
                return Ok(Head {
                    major,
                    value: u64::from(info),
                });
            }
            _ => return Err(ScanError::Simple { offset }),
        }
        // Shortest: what the next smaller form could not hold.
        let (width, least) = match info {
            ONE_BYTE => (1, 24),
            TWO_BYTES => (2, 1 << 8),
            FOUR_BYTES => (4, 1 << 16),
            EIGHT_BYTES => (8, 1 << 32),
            _ => {
                return Ok(Head {
                    major,
                    value: u64::from(info),
                });
            }
        };
        let value = self
            .take(offset, width)?
            .iter()
            .fold(0, |value: u64, byte| (value << 8) | u64::from(*byte));
        if value < least {
            return Err(ScanError::NotShortest { offset });
        }
        Ok(Head { major, value })
    }

    /// The next `length` bytes, of the item that starts at `offset`.
    fn take(&mut self, offset: usize, length: u64) -> Result<&'a [u8], ScanError> {
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest().get(..length))
            .ok_or(ScanError::Truncated { offset })?;
        self.offset = self.offset.saturating_add(taken.len());
        Ok(taken)
    }

    fn utf8(&mut self, offset: usize, length: u64) -> Result<&'a str, ScanError> {
        std::str::from_utf8(self.take(offset, length)?).map_err(|_| ScanError::NotUtf8 { offset })
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.offset..).unwrap_or_default()
    }

    fn slice(&self, range: Range<usize>) -> &'a [u8] {
        self.bytes.get(range).unwrap_or_default()
    }
}

/// Appends a byte string.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_head(out, BYTES, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a text string.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_head(out, TEXT, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Appends the head of an array of `length` items.
pub(crate) fn put_array(out: &mut Vec<u8>, length: usize) {
    put_head(out, ARRAY, length);
}

/// Always the shortest form.
fn put_head(out: &mut Vec<u8>, major: u8, number: usize) {
    let major = major << 5;
    let [.., d3, d2, d1, d0] = (number as u64).to_be_bytes();
    match number {
        0..=23 => out.push(major | d0),
        24..=0xff => out.extend([major | ONE_BYTE, d0]),
        0x100..=0xffff => out.extend([major | TWO_BYTES, d1, d0]),
        0x1_0000..=0xffff_ffff => out.extend([major | FOUR_BYTES, d3, d2, d1, d0]),
        _ => {
            out.push(major | EIGHT_BYTES);
            out.extend((number as u64).to_be_bytes());
        }
    }
}
