//! The bytes of format 1, kept for ever: every later version reads them, and this one still writes them.
//!
//! `ENSIGN_BLESS=1 cargo test -p ensign-bundle golden` writes the files where they are missing.

use std::io::{Cursor, Write};
use std::path::Path;

use crate::codec::{self, Ext};
use crate::container::{ChainDocument, Contents, Member, Writer, read};
use crate::fixture::{self, FLEET, NOW, key, noise, small_source, verify};
use crate::ids::Version;
use crate::limits::BLOCK_BYTES;
use crate::manifest::{Handler, Kind, Probe, Restart, TreeDraft, Unsigned};
use crate::plan::evidence::Gate;
use crate::statement;
use crate::trust::roles::FileRef;
use crate::{digest::Digest, ids::Ident};

/// Two components, every kind of entry, probe and block; signed by the keys of seeds 32 × 1 and 32 × 2 for the fleet 32 × 3.
fn golden_release() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let mut source = small_source();
    source.insert("noise".to_owned(), fixture::file(&noise(7, 200)));
    source.insert(
        "large".to_owned(),
        fixture::file(&b"0123456789abcdef".repeat(BLOCK_BYTES / 16 + 1)),
    );
    let (web, mut blocks) = fixture::tree("web", &source, fixture::entries(&source));
    let firmware = [("firmware.bin".to_owned(), fixture::file(&[0; 5000]))].into();
    let mut mcu = TreeDraft::new(Ident::parse("mcu").unwrap(), Kind::Handler, fixture::entries(&firmware)).unwrap();
    mcu.handler = Some(Handler {
        id: Ident::parse("stm32").unwrap(),
        protocol: 1,
    });
    mcu.units = vec!["mcu.service".to_owned()];
    let block = mcu.plans()[0].store(&[0; 5000], 3).unwrap();
    blocks.push(block.stored);
    let mut draft = fixture::draft("1.2.3");
    draft.add(web);
    draft.add(mcu.finish(&[block.row]).unwrap());
    draft.security_floor = 1_000_000_000_000;
    draft.compatible.arch.push("aarch64".to_owned());
    draft.health.probes = vec![
        Probe::Exec {
            component: Ident::parse("web").unwrap(),
            path: fixture::path("bin/run"),
            args: vec!["--check".to_owned()],
        },
        Probe::Unit {
            unit: "mcu.service".to_owned(),
        },
        Probe::Http {
            url: "http://127.0.0.1:8080/health".to_owned(),
        },
        Probe::Tcp {
            address: "127.0.0.1:8080".to_owned(),
        },
        Probe::Controller { within_s: 600 },
    ];
    draft.restart = Some(Restart { timeout_s: 90 });
    draft.data_epoch = 2;
    draft.provenance.sbom = Some(Digest::of(b"sbom"));
    draft.provenance.created = Some(NOW);
    let mut unsigned = draft.freeze().unwrap();
    for seed in [1, 2] {
        unsigned.sign(&key(seed), &FLEET, NOW).unwrap();
    }
    let contents = unsigned.contents();
    let (manifest, table) = (contents.manifest_bytes.clone(), contents.tables[0].bytes().to_vec());
    (manifest, table, fixture::write(&unsigned, &blocks))
}

fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    if std::env::var_os("ENSIGN_BLESS").is_some() && !path.exists() {
        std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    }
    std::fs::read(&path).unwrap()
}

#[test]
fn golden_bytes_are_written_and_read() {
    let (manifest, table, bundle) = golden_release();
    assert_eq!(golden("manifest-v1.cbor", &manifest), manifest, "manifest");
    assert_eq!(golden("table-v1.cborseq", &table), table, "block table");
    let kept = golden("bundle-v1.bin", &bundle);
    assert_eq!(kept, bundle, "bundle file");
    verify(&kept).unwrap();
    let read = read(&mut Cursor::new(&kept)).unwrap();
    let contents = read.single().unwrap();
    assert_eq!(
        (&contents.manifest_bytes, contents.tables[0].bytes()),
        (&manifest, &table[..])
    );
    let digest = contents.manifest.components[0].tree_digest().to_string();
    assert_eq!(
        digest,
        "9afd7f5592e3e2afa13f1609d247eae9a7ea0d57571b7a9f8ea55d99e0878a77"
    );
}

/// What the others leave out: the other kinds of components, a manifest with fields of a later version, everything said about its origin.
#[test]
fn golden_bytes_of_the_rest_are_written_and_read() {
    let mut draft = fixture::draft("1.2.3");
    let mut blocks = Vec::new();
    for (name, kind) in [("disk", Kind::Image), ("web", Kind::Oci), ("ensign", Kind::Agent)] {
        let source = [("file".to_owned(), fixture::file(name.as_bytes()))].into();
        let tree = TreeDraft::new(Ident::parse(name).unwrap(), kind, fixture::entries(&source)).unwrap();
        let block = tree.plans()[0].store(name.as_bytes(), 3).unwrap();
        blocks.push(block.stored);
        draft.add(tree.finish(&[block.row]).unwrap());
    }
    draft.compatible.hardware = vec!["pos-3".to_owned()];
    draft.compatible.min_agent = Some(Version::parse("1.2.0").unwrap());
    draft.compatible.min_from = Some(u64::MAX);
    draft.provenance.source = Some("git:0123".to_owned());
    draft.provenance.builder = Some(String::new());
    let Contents {
        mut release,
        mut manifest,
        tables,
        ..
    } = draft.freeze().unwrap().into_contents();
    let ext: Ext = codec::decode(b"\xa1\x63new\x85\x00\xf4\xf6\x20\xa1\x62in\x64text", 10).unwrap();
    (manifest.ext, release.ext) = (ext.clone(), ext.clone());
    let bytes = codec::encode(&manifest).unwrap();
    release.manifest = FileRef {
        digest: Digest::of(&bytes),
        length: bytes.len() as u64,
    };
    let document = statement::seal(&release).unwrap().encode();
    let tables: Vec<_> = tables.iter().map(|table| table.bytes().to_vec()).collect();
    let mut unsigned = Unsigned::from(Contents::parse(&document, bytes, &tables).unwrap());
    unsigned.sign(&key(1), &FLEET, NOW).unwrap();
    let bundle = fixture::write(&unsigned, &blocks);
    let kept = golden("bundle-more-v1.bin", &bundle);
    assert_eq!(kept, bundle);
    let read = verify(&kept).unwrap();
    let contents = read.single().unwrap();
    assert_eq!((&contents.manifest.ext, &contents.release.ext), (&ext, &ext));
    let kinds = contents.manifest.components.iter().map(|component| component.kind);
    assert_eq!(kinds.collect::<Vec<_>>(), [Kind::Image, Kind::Oci, Kind::Agent]);
}

/// What a stick carries: the metadata chain, a plan with the place of one device in it, and a release.
#[test]
fn golden_bytes_of_a_chain_are_written_and_read() {
    let kept = |name: &str| golden(name, &[]);
    let gate = Gate::decode(&kept("gate-v1.cbor")).unwrap();
    let mut chain = ["root", "timestamp", "snapshot", "targets", "plan"]
        .map(|kind| ChainDocument::parse(kind, kept(&format!("{kind}-v1.cose"))).unwrap())
        .to_vec();
    let member = Member {
        device: gate.receipts[0].device,
        member: gate.receipts[0].member.clone(),
    };
    chain.push(ChainDocument::member(&member).unwrap());
    let (mut unsigned, blocks) = fixture::release("1.2.3", &[("web", &small_source())]);
    unsigned.sign(&key(1), &FLEET, NOW).unwrap();
    let contents = [unsigned.into_contents()];
    let mut writer = Writer::new(Vec::new(), &chain, &contents).unwrap();
    for block in &blocks {
        writer.block(block).unwrap();
    }
    let bytes = writer.finish().unwrap();
    let kept = golden("bundle-chain-v1.bin", &bytes);
    assert_eq!(kept, bytes);
    verify(&kept).unwrap();
    assert_eq!(read(&mut Cursor::new(&kept)).unwrap().chain, chain);
}
