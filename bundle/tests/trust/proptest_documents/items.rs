//! Other bytes that a lenient decoder would take for the same, or nearly the same, document.

use super::drawn::Draw;

/// One change at some of the items, and each optional field spelled out as one that says nothing.
pub(super) fn others(bytes: &[u8], optional: &[&str], draw: &mut Draw) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (major, number, head) = head(bytes, at);
        let content = if matches!(major, 2 | 3) {
            usize::try_from(number).unwrap()
        } else {
            0
        };
        let end = at + head + content;
        let put = |new: &[u8]| [&bytes[..at], new, &bytes[end..]].concat();
        match major {
            // A byte string for a text and the other way round.
            2 | 3 => {
                let mut other = bytes.to_vec();
                other[at] ^= 0x20;
                all.push(other);
            }
            // Null, false and true for each other.
            7 => all.extend([0xf4, 0xf5, 0xf6].map(|simple| put(&[simple]))),
            _ => {}
        }
        if !matches!(major, 4 | 5) && draw.one_in(8) {
            all.extend([&b"\xf6"[..], b"\x00", b"\x20", b"\x40", b"\x60", b"\x80", b"\xa0"].map(put));
        }
        at = end;
    }
    for name in optional {
        for nothing in [&b"\xf6"[..], b"\x80", b"\xa0", b"\x60", b"\x40"] {
            all.extend(with_field(bytes, name, nothing));
        }
    }
    // Not in the order of the bytes: whoever tries some of them tries some of each.
    let mut mixed: Vec<_> = all.into_iter().map(|other| (draw.below(1 << 16), other)).collect();
    mixed.sort();
    mixed.into_iter().map(|(_, other)| other).collect()
}

/// The map `bytes` with a field more, where its order wants it; `None` where it has one of this name.
fn with_field(bytes: &[u8], name: &str, value: &[u8]) -> Option<Vec<u8>> {
    let (major, fields, mut at) = head(bytes, 0);
    assert_eq!(major, 5, "a document is a map");
    let field = [&[0x60 + u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
    let mut place = None;
    for _ in 0..fields {
        let end = skip(bytes, at);
        let key = &bytes[at..end];
        if key == field {
            return None;
        }
        if key > &field[..] && place.is_none() {
            place = Some(at);
        }
        at = skip(bytes, end);
    }
    let place = place.unwrap_or(at);
    let count = u8::try_from(fields + 1).ok().filter(|count| *count < 24)?;
    Some([&[0xa0 | count], &bytes[1..place], &field, value, &bytes[place..]].concat())
}

/// Major type, number, and length of the head at `at`.
fn head(bytes: &[u8], at: usize) -> (u8, u64, usize) {
    let (major, info) = (bytes[at] >> 5, bytes[at] & 0x1f);
    let width = match info {
        24..=27 => 1 << (info - 24),
        _ => return (major, u64::from(info), 1),
    };
    let number = &bytes[at + 1..=at + width];
    (
        major,
        number.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
        1 + width,
    )
}

/// Behind the item at `at`.
fn skip(bytes: &[u8], at: usize) -> usize {
    let (major, number, head) = head(bytes, at);
    let behind = at + head;
    match major {
        2 | 3 => behind + usize::try_from(number).unwrap(),
        4 => (0..number).fold(behind, |at, _| skip(bytes, at)),
        5 => (0..2 * number).fold(behind, |at, _| skip(bytes, at)),
        _ => behind,
    }
}
