use super::*;
use crate::digest::Digest;
use crate::fixture::{self, Source, file, noise, path, small_source};
use crate::limits::BLOCK_BYTES;
use crate::manifest::{Component, Entry};
use crate::reason::{Code, Refusal};
use crate::trust::roles::FileRef;

/// The small tree's component and rows: one block with `etc/page` cannot stand alone, so a large file joins it.
fn sample() -> (Component, Vec<BlockRow>) {
    let mut source = small_source();
    source.insert("large".to_owned(), file(&noise(1, BLOCK_BYTES + 5)));
    let contents = fixture::release("1.0.0", &[("web", &source)]).0.into_contents();
    (
        contents.manifest.components[0].clone(),
        contents.tables[0].rows().to_vec(),
    )
}

fn parse(mut component: Component, bytes: &[u8]) -> Result<BlockTable, Refusal> {
    component.blocks = FileRef {
        digest: Digest::of(bytes),
        length: bytes.len() as u64,
    };
    BlockTable::parse(bytes, &component)
}

/// The reason for which the sample is refused after `change`, though its digest is right.
fn refused(change: impl FnOnce(&mut Vec<BlockRow>)) -> Refusal {
    let (component, mut rows) = sample();
    change(&mut rows);
    parse(component, &BlockTable::encode(&rows).unwrap()).unwrap_err()
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let (component, rows) = sample();
    let bytes = BlockTable::encode(&rows).unwrap();
    let table = BlockTable::parse(&bytes, &component).unwrap();
    assert_eq!((table.rows(), table.bytes()), (&rows[..], &bytes[..]));
    assert!(BlockTable::rows_of(&bytes).eq(rows.iter().cloned()));
    let kinds: Vec<_> = rows.iter().map(|row| row.kind).collect();
    assert_eq!(kinds, [BlockKind::Raw, BlockKind::Raw, BlockKind::Zstd]);
    let names: Vec<_> = rows[2]
        .pieces
        .iter()
        .map(|piece| {
            component
                .entries()
                .nth(piece.entry as usize)
                .unwrap()
                .path()
                .to_string()
        })
        .collect();
    assert_eq!(
        names,
        ["bin/run", "etc/page", "zero"],
        "no empty file, no copy, no large file"
    );
}

#[test]
fn the_digest_in_the_manifest_comes_first() {
    let (mut component, rows) = sample();
    let bytes = BlockTable::encode(&rows).unwrap();
    for at in 0..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 1;
        assert_eq!(
            BlockTable::parse(&broken, &component).unwrap_err().code,
            Code::ContentMismatch
        );
    }
    component.blocks.length += 1;
    assert_eq!(
        BlockTable::parse(&bytes, &component).unwrap_err().code,
        Code::ContentMismatch
    );
}

#[test]
fn pieces_that_are_not_the_stream_are_refused() {
    // Rows 0 and 1 hold the large file, row 2 has three small ones.
    let refusals = [
        ("gap", refused(|r| r[1].pieces[0].offset += 1)),
        ("overlap", refused(|r| r[1].pieces[0].offset -= 1)),
        ("swapped", refused(|r| r.swap(0, 1))),
        ("interleaved", refused(|r| r.swap(1, 2))),
        ("block twice", refused(|r| r.push(r[2].clone()))),
        ("block missing", refused(|r| drop(r.pop()))),
        ("end missing", refused(|r| drop(r.remove(1)))),
        ("nothing", refused(Vec::clear)),
        (
            "piece twice",
            refused(|r| {
                let piece = r[2].pieces[0];
                r[2].pieces.push(piece);
                r[2].plain_len += piece.length;
            }),
        ),
        (
            "piece missing",
            refused(|r| {
                let piece = r[2].pieces.pop().unwrap();
                r[2].plain_len -= piece.length;
            }),
        ),
        (
            "empty piece",
            refused(|r| {
                let mut piece = r[2].pieces[0];
                piece.length = 0;
                r[2].pieces.insert(0, piece);
            }),
        ),
        (
            "longer than the file",
            refused(|r| {
                r[2].pieces[0].length += 1;
                r[2].plain_len += 1;
            }),
        ),
        (
            "moved border",
            refused(|r| {
                r[2].pieces[0].length += 1;
                r[2].pieces[1].length -= 1;
            }),
        ),
        ("a directory", refused(|r| r[2].pieces[0].entry = 0)),
        ("an empty file", refused(|r| r[2].pieces[0].entry = 3)),
        ("a copy", refused(|r| r[2].pieces[1].entry = 5)),
        ("no entry", refused(|r| r[2].pieces[0].entry = u32::MAX)),
        ("far offset", refused(|r| r[2].pieces[0].offset = u64::MAX)),
        ("wrapping lengths", refused(|r| r[2].pieces[0].length = u32::MAX)),
        ("sum", refused(|r| r[2].plain_len += 1)),
        ("no pieces", refused(|r| r[2].pieces.clear())),
    ];
    for (what, refusal) in &refusals {
        assert_eq!(refusal.code, Code::Malformed, "{what}: {refusal}");
    }
}

#[test]
fn rows_that_contradict_their_kind_are_refused() {
    let refusals = [
        refused(|r| r[0].stored_len -= 1),
        refused(|r| r[0].stored = Digest::of(b"x")),
        refused(|r| r[0].kind = BlockKind::Zero),
        refused(|r| r[2].kind = BlockKind::Raw),
        refused(|r| r[2].stored_len = r[2].plain_len),
        refused(|r| r[2].stored_len = 0),
        refused(|r| (r[2].kind, r[2].stored_len) = (BlockKind::Zero, 0)),
    ];
    for (n, refusal) in refusals.iter().enumerate() {
        assert_eq!(refusal.code, Code::Malformed, "case {n}: {refusal}");
    }
    for length in [0, u32::try_from(BLOCK_BYTES).unwrap() + 1, u32::MAX] {
        assert_eq!(refused(|r| r[2].plain_len = length).code, Code::LimitExceeded);
    }
}

#[test]
fn rows_of_another_shape_are_refused() {
    let (component, rows) = sample();
    let good = BlockTable::encode(&rows).unwrap();
    let mut unknown_kind = good.clone();
    unknown_kind[1] = 3;
    let mut seven = good.clone();
    seven[0] += 1;
    for bad in [
        unknown_kind,
        seven,
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
    ] {
        assert_eq!(parse(component.clone(), &bad).unwrap_err().code, Code::Malformed);
    }
}

#[test]
fn large_files_have_their_own_blocks_and_small_ones_are_sorted_by_extension() {
    let mib = BLOCK_BYTES as u64;
    let entry = |name, size, content: &[u8]| Entry::file(path(name), 0, size, Digest::of(content));
    let entries = [
        entry("a.txt", mib - 1, b"a"),
        entry("b.js", 1, b"b"),
        entry("big", 2 * mib + 1, b"big"),
        entry("c.txt", 2, b"c"),
        entry("d.js", 1, b"b"),
        entry("exact", mib, b"exact"),
        entry("f.zip", mib - 1, b"f"),
        entry("g", 0, b""),
    ];
    let shape: Vec<Vec<(u32, u64)>> = layout(&entries)
        .unwrap()
        .iter()
        .map(|plan| {
            assert_eq!(plan.pieces.iter().map(|p| p.length).sum::<u32>(), plan.length);
            plan.pieces.iter().map(|p| (p.entry, p.offset)).collect()
        })
        .collect();
    assert_eq!(
        shape,
        [
            vec![(2, 0)],
            vec![(2, mib)],
            vec![(2, 2 * mib)],
            vec![(5, 0)],
            vec![(1, 0), (0, 0)],
            vec![(3, 0)],
            vec![(6, 0)],
        ]
    );
}

#[test]
fn one_digest_has_one_size() {
    let entries = [
        Entry::file(path("a"), 0, 1, Digest::of(b"a")),
        Entry::file(path("b"), 0, 2, Digest::of(b"a")),
    ];
    assert_eq!(layout(&entries).unwrap_err().code, Code::Malformed);
    assert_eq!(layout(&[]).unwrap(), []);
    let empty = fixture::release("1.0.0", &[("web", &Source::new())]).0.into_contents();
    assert_eq!(empty.tables[0].rows(), []);
}

#[test]
fn a_file_that_changed_its_length_is_found_when_its_block_is_made() {
    let plan = BlockPlan {
        pieces: Vec::new(),
        length: 3,
    };
    assert_eq!(plan.store(b"four", 3).unwrap_err().code, Code::ContentMismatch);
}
