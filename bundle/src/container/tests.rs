use std::io::Cursor;

use ensign_crypto::aad;
use proptest::prelude::*;

use super::*;
use crate::blocks::decode_block;
use crate::codec;
use crate::digest::{DeviceId, Digest};
use crate::fixture::{self, FLEET, NOW, Node, Source, file, key, noise, small_source, verify};
use crate::manifest::{Entry, MODE_EXECUTABLE, Unsigned};
use crate::plan::evidence::Membership;
use crate::reason::Code;

/// The source again, from nothing but the file.
fn reassemble(bytes: &[u8], component: usize) -> Source {
    let mut reader = Cursor::new(bytes);
    let bundle = read(&mut reader).unwrap();
    let contents = bundle.single().unwrap();
    let entries: Vec<Entry> = contents.manifest.components[component].entries().collect();
    let mut files: Vec<Vec<u8>> = vec![Vec::new(); entries.len()];
    let mut plain = Vec::new();
    for (index, row) in contents.tables[component].rows().iter().enumerate() {
        let stored = bundle.block(&mut reader, 0, component, index).unwrap();
        decode_block(row, &stored, &mut plain).unwrap();
        let mut rest = &plain[..];
        for piece in &row.pieces {
            let (bytes, after) = rest.split_at(piece.length as usize);
            assert_eq!(files[piece.entry as usize].len() as u64, piece.offset);
            files[piece.entry as usize].extend_from_slice(bytes);
            rest = after;
        }
    }
    let mut by_digest = std::collections::HashMap::new();
    for (entry, bytes) in entries.iter().zip(&files) {
        if let Entry::File { digest, .. } = entry
            && (!bytes.is_empty() || !by_digest.contains_key(digest))
        {
            by_digest.insert(*digest, bytes.clone());
        }
    }
    let node = |entry: &Entry| match entry {
        Entry::File { mode, digest, .. } => Node::File {
            executable: *mode == MODE_EXECUTABLE,
            bytes: by_digest[digest].clone(),
        },
        Entry::Dir { .. } => Node::Dir,
        Entry::Symlink { target, .. } => Node::Link(target.clone()),
    };
    entries
        .iter()
        .map(|entry| (entry.path().as_str().to_owned(), node(entry)))
        .collect()
}

fn refused(bytes: &[u8]) -> Code {
    verify(bytes).map(|_| ()).unwrap_err().code
}

#[test]
fn every_flipped_byte_is_refused() {
    let good = fixture::signed_small_bundle();
    verify(&good).unwrap();
    for at in 0..good.len() {
        for bit in [1, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            assert!(
                verify(&bad).is_err(),
                "byte {at} of {} with {bit:#x} flipped",
                good.len()
            );
        }
    }
}

#[test]
fn every_truncation_and_anything_after_the_end_is_refused() {
    let good = fixture::signed_small_bundle();
    for length in 0..good.len() {
        assert_eq!(refused(&good[..length]), Code::Malformed, "{length} bytes");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(refused(&longer), Code::Malformed);
    let mut twice = good.clone();
    twice.extend(&good);
    assert_eq!(refused(&twice), Code::Malformed);
}

#[test]
fn an_unsigned_bundle_says_so() {
    let (unsigned, blocks) = fixture::release("1.0.0", &[("web", &small_source())]);
    let bytes = fixture::write(&unsigned, &blocks);
    assert_eq!(refused(&bytes), Code::Unsigned);
    let mut reader = Cursor::new(&bytes[..]);
    let bundle = read(&mut reader).unwrap();
    let mut done = 0;
    bundle.check_content(&mut reader, &mut |stored| done = stored).unwrap();
    assert_eq!(done, blocks.iter().map(|b| b.len() as u64).sum::<u64>());
}

#[test]
fn other_formats_and_hostile_headers_are_refused() {
    let good = fixture::signed_small_bundle();
    let mut newer = good.clone();
    newer[11] = 2;
    assert_eq!(refused(&newer), Code::VersionUnknown);
    let mut huge_header = good.clone();
    huge_header[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(refused(&huge_header), Code::LimitExceeded);

    let (header, start) = Header::read(&mut &good[..]).unwrap();
    let rest = &good[usize::try_from(start).unwrap()..];
    let with = |change: &dyn Fn(&mut Header)| {
        let mut header = header.clone();
        change(&mut header);
        [&header.encode().unwrap()[..], rest].concat()
    };
    assert!(verify(&with(&|_| ())).is_ok());
    // The sum stays, the borders move.
    let shifted = [
        with(&|h| move_byte(h, |s| (&mut s.document, &mut s.manifest))),
        with(&|h| move_byte(h, |s| (&mut s.manifest, &mut s.document))),
        with(&|h| move_byte(h, |s| (&mut s.manifest, &mut s.tables[0]))),
        with(&|h| move_byte(h, |s| (&mut s.tables[0], &mut s.manifest))),
        with(&|h| move_byte(h, |s| (&mut s.tables[0], &mut s.blocks[0]))),
        with(&|h| move_byte(h, |s| (&mut s.blocks[0], &mut s.tables[0]))),
        with(&|h| h.releases[0].tables.push(0)),
        with(&|h| h.releases[0].blocks.push(0)),
        with(&|h| h.chain.push(("root".to_owned(), 0))),
        with(&|h| h.releases.push(Sections::default())),
        with(&|h| h.releases.clear()),
        with(&|h| h.releases[0].blocks[0] += 1),
    ];
    for (n, bad) in shifted.iter().enumerate() {
        let code = refused(bad);
        assert!(
            matches!(code, Code::Malformed | Code::ContentMismatch),
            "case {n}: {code}"
        );
    }
    let wrapping = with(&|h| h.releases[0].blocks = vec![u64::MAX, 2]);
    assert_eq!(refused(&wrapping), Code::LimitExceeded);
    let greedy = with(&|h| {
        h.releases[0].document += h.releases[0].manifest;
        h.releases[0].manifest = 0;
    });
    assert_eq!(refused(&greedy), Code::Malformed);
}

fn move_byte(header: &mut Header, between: impl Fn(&mut Sections) -> (&mut u64, &mut u64)) {
    let (from, to) = between(&mut header.releases[0]);
    *from -= 1;
    *to += 1;
}

#[test]
fn a_file_that_is_not_what_the_manifest_says_is_found_by_its_path() {
    let source = small_source();
    let mut entries = fixture::entries(&source);
    for entry in &mut entries {
        if let Entry::File { path, digest, .. } = entry
            && path.as_str() == "bin/run"
        {
            *digest = Digest::of(b"before it changed");
        }
    }
    let (tree, blocks) = fixture::tree("web", &source, entries);
    let mut draft = fixture::draft("1.0.0");
    draft.add(tree);
    let mut unsigned = draft.freeze().unwrap();
    unsigned.sign(&key(1), &FLEET, NOW).unwrap();
    let refusal = verify(&fixture::write(&unsigned, &blocks)).unwrap_err();
    assert_eq!(refusal.code, Code::ContentMismatch);
    assert!(refusal.text.contains("bin/run"), "{refusal}");
}

#[test]
fn several_people_sign_one_after_the_other() {
    let (unsigned, blocks) = fixture::release("1.0.0", &[("web", &small_source())]);
    let mut file = fixture::write(&unsigned, &blocks);
    for (n, seed) in [1, 2].into_iter().enumerate() {
        let bundle = read(&mut Cursor::new(&file[..])).unwrap();
        let mut release = Unsigned::from(bundle.single().unwrap().clone());
        release.sign(&key(seed), &FLEET, NOW + n as u64).unwrap();
        let mut next = Vec::new();
        resign(&mut Cursor::new(&file[..]), &mut next, &release.contents().document).unwrap();
        file = next;
    }
    let bundle = verify(&file).unwrap();
    let release = Unsigned::from(bundle.single().unwrap().clone());
    let body = &release.contents().release;
    assert_eq!(
        (body.issued, body.expires),
        (NOW, NOW + 365 * 24 * 3600),
        "the first signature dates it"
    );
    let keys = [key(1).public(), key(2).public()];
    let signed = release.into_signed(&keys, 2, &FLEET).unwrap();
    assert_eq!(signed.signers().len(), 2);
    assert_eq!(signed.blobs().count(), 2);
    assert_eq!(reassemble(&file, 0), small_source());
}

#[test]
fn a_document_of_another_release_is_not_put_into_a_bundle() {
    let file = fixture::signed_small_bundle();
    let other_version = fixture::release("2.0.0", &[("web", &small_source())]).0;
    let mut source = small_source();
    source.insert("more".to_owned(), fixture::file(b"more"));
    let other_content = fixture::release("1.0.0", &[("web", &source)]).0;
    for (other, code) in [(other_version, Code::NotFound), (other_content, Code::ManifestMismatch)] {
        let document = &other.contents().document;
        let refusal = resign(&mut Cursor::new(&file[..]), &mut Vec::new(), document).unwrap_err();
        assert_eq!(refusal.code, code);
        let mut own = Unsigned::from(verify(&file).unwrap().releases.remove(0));
        assert_eq!(
            own.replace_document(document.clone()).unwrap_err().code,
            Code::ManifestMismatch
        );
    }
}

#[test]
fn a_file_may_hold_a_metadata_chain_and_several_releases() {
    let mut targets = ensign_crypto::Envelope::new("targets", vec![0xa0]);
    targets.sign(&key(9), &aad(&FLEET.0));
    let member = Member {
        device: DeviceId([4; 32]),
        member: Membership {
            wave: 1,
            index: 0,
            receipt_key: key(5).public(),
            path: vec![Digest([6; 32])],
        },
    };
    let chain = [
        ChainDocument::parse("targets", targets.encode()).unwrap(),
        ChainDocument::member(&member).unwrap(),
    ];
    assert_eq!(Member::parse(&chain[1].bytes), Ok(member));
    for at in 0..chain[1].bytes.len() {
        // A byte string where a text should be, the one slip that decoders forgive.
        let mut other = chain[1].bytes.clone();
        other[at] ^= 0x20;
        let read = ChainDocument::parse(Member::KIND, other.clone());
        assert!(read.is_err() || Member::parse(&other).is_ok_and(|m| codec::encode(&m).unwrap() == other));
    }
    let extra: Source = [("extra".to_owned(), file(b"extra"))].into();
    let empty = Source::new();
    let parts = [
        fixture::release("1.0.0", &[("web", &small_source()), ("none", &empty)]),
        fixture::release("1.1.0", &[("none", &empty), ("web", &extra)]),
    ];
    let (contents, blocks): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .map(|(mut unsigned, blocks)| {
            unsigned.sign(&key(1), &FLEET, NOW).unwrap();
            (unsigned.into_contents(), blocks)
        })
        .unzip();
    let mut writer = Writer::new(Vec::new(), &chain, &contents).unwrap();
    for block in blocks.iter().flatten() {
        writer.block(block).unwrap();
    }
    assert_eq!(writer.block(b"x").unwrap_err().code, Code::Malformed);
    let bytes = writer.finish().unwrap();
    let bundle = verify(&bytes).unwrap();
    assert_eq!(bundle.chain, chain);
    assert_eq!(bundle.len(), bytes.len() as u64);
    assert_eq!(bundle.single().unwrap_err().code, Code::Conflict);
    let last = bundle.block(&mut Cursor::new(&bytes[..]), 1, 1, 0).unwrap();
    assert_eq!(last, b"extra");
    let nothing = bundle.block(&mut Cursor::new(&bytes[..]), 1, 1, 1).unwrap_err();
    assert_eq!(nothing.code, Code::NotFound);

    let mut renewed = Unsigned::from(contents[1].clone());
    renewed.sign(&key(2), &FLEET, NOW).unwrap();
    let mut resigned = Vec::new();
    resign(
        &mut Cursor::new(&bytes[..]),
        &mut resigned,
        &renewed.contents().document,
    )
    .unwrap();
    let signatures: Vec<usize> = verify(&resigned)
        .unwrap()
        .releases
        .iter()
        .map(|c| c.document.signatures().len())
        .collect();
    assert_eq!(signatures, [1, 2]);
    assert_eq!(
        ChainDocument::parse("root", targets.encode()).unwrap_err().code,
        Code::Malformed
    );
}

#[test]
fn the_writer_refuses_wrong_missing_and_further_blocks() {
    let (unsigned, blocks) = fixture::release("1.0.0", &[("web", &small_source())]);
    let contents = [unsigned.into_contents()];
    let mut writer = Writer::new(Vec::new(), &[], &contents).unwrap();
    assert_eq!(writer.block(b"wrong").unwrap_err().code, Code::ContentMismatch);
    assert_eq!(writer.finish().unwrap_err().code, Code::Malformed);
    let mut writer = Writer::new(Vec::new(), &[], &contents).unwrap();
    for block in &blocks {
        writer.block(block).unwrap();
    }
    assert_eq!(writer.block(&blocks[0]).unwrap_err().code, Code::Malformed);
    assert!(Writer::new(Vec::new(), &[], &[]).is_err());
}

fn any_content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..60),
        2 => (0..200_000_usize).prop_map(|n| vec![0; n]),
        2 => (0..300_000_usize, 0..3_u64).prop_map(|(n, seed)| noise(seed, n)),
        1 => (1_000_000..2_500_000_usize).prop_map(|n| b"a large file that compresses ".iter().copied().cycle().take(n).collect()),
    ]
}

fn any_node() -> impl Strategy<Value = Node> {
    prop_oneof![
        6 => (any::<bool>(), any_content()).prop_map(|(executable, bytes)| Node::File { executable, bytes }),
        1 => Just(Node::Dir),
        1 => "[a-z.]{1,8}".prop_filter("stays inside", |t| t != "..").prop_map(Node::Link),
    ]
}

prop_compose! {
    /// Names that differ in case, sort before `/`, repeat, and hold other scripts.
    fn any_source()(nodes in prop::collection::vec(
        (prop::collection::vec(prop_oneof!["[abA]", "[a-c]{1,3}[.]txt", Just("a-b".to_owned()), Just("é".to_owned())], 1..4), any_node()),
        0..14,
    )) -> Source {
        let mut source = Source::new();
        for (names, node) in nodes {
            let mut above = String::new();
            let mut fits = true;
            for name in &names[..names.len() - 1] {
                above.push_str(name);
                fits &= *source.entry(above.clone()).or_insert(Node::Dir) == Node::Dir;
                if !fits { break; }
                above.push('/');
            }
            if fits {
                source.entry(above + &names[names.len() - 1]).or_insert(node);
            }
        }
        source
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_comes_out_as_it_went_in_whatever_the_listing_order(source in any_source(), turn in 0..20_usize) {
        let (mut unsigned, blocks) = fixture::release("1.0.0", &[("web", &source)]);
        let mut shuffled = fixture::entries(&source);
        shuffled.reverse();
        let turn = turn.min(shuffled.len());
        shuffled.rotate_left(turn);
        let (tree, shuffled_blocks) = fixture::tree("web", &source, shuffled);
        let mut draft = fixture::draft("1.0.0");
        draft.add(tree);
        let shuffled = draft.freeze().unwrap();
        prop_assert_eq!(fixture::write(&unsigned, &blocks), fixture::write(&shuffled, &shuffled_blocks));

        unsigned.sign(&key(1), &FLEET, NOW).unwrap();
        let bytes = fixture::write(&unsigned, &blocks);
        prop_assert!(verify(&bytes).is_ok());
        prop_assert_eq!(reassemble(&bytes, 0), source);
    }
}
