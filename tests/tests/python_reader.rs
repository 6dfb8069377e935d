//! The readers in `docs/reader`, written in another language from `docs/formats.md`, agree with this library about bundles and
//! about the golden bytes of every signed format.
//!
//! Needs python3 with venv. Its packages come from the registry once and stay in `target`; only where the registry cannot be
//! reached is the test left out, and says `SKIPPED`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use ensign_bundle::container::Writer;
use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::each_document;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::manifest::Draft;
use ensign_bundle::plan::evidence::Gate;
use ensign_bundle::plan::file::PlanFile;
use ensign_bundle::plan::token::Token;
use ensign_bundle::statement::{self, Document};
use ensign_crypto::{PublicKey, SecretKey, aad, valid_signers};
use ensign_testkit::key;
use ensign_tests::python::{interpreter, skipped};
use serde_json::Value;

const FLEET: FleetId = FleetId([0x0f; 32]);

#[test]
fn a_reader_written_from_the_docs_accepts_what_is_written_and_refuses_what_is_not() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-reader");
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("reader/requirements.txt");
    let Some(python) = interpreter(&venv, &requirements)? else {
        return skipped("the registry of Python packages cannot be reached: the readers were not run");
    };
    golden_bundles(&python)?;
    golden_documents(&python, folder.path())?;
    let keys = [key(1), key(2)];
    let bundle = bundle(&keys)?;
    let file = folder.path().join("app.bundle");
    let read = |bytes: &[u8], threshold: u32| -> Result<Output> {
        std::fs::File::create(&file)?.write_all(bytes)?;
        let mut command = reader(&python, "ensign_reader.py");
        command.arg(&file).arg(FLEET.to_string()).arg(threshold.to_string());
        for key in &keys {
            command.arg(Digest(*key.public().as_bytes()).to_string());
        }
        command.output().context("starting the reader")
    };

    let good = read(&bundle, 2)?;
    ensure!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let found: Value = serde_json::from_slice(&good.stdout)?;
    assert_eq!(
        found,
        serde_json::json!([{
            "product": "app", "version": "1.0.0", "signatures": 2,
            "bytes": 3_000_000 + 12 + 12 + 4000, "inodes": 6, "peak_staging": 3_002_368 + 3 * 4096 + 2 * 4096,
        }])
    );

    assert!(!read(&bundle, 3)?.status.success(), "a threshold above the signatures");
    let mut longer = bundle.clone();
    longer.push(0);
    assert!(!read(&longer, 2)?.status.success(), "a byte after the end");
    // One byte in each part of the file: preamble, header, document, ..., the last block.
    for part in 0..12 {
        let mut flipped = bundle.clone();
        let at = part * (flipped.len() - 1) / 11;
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 1;
        }
        assert!(!read(&flipped, 2)?.status.success(), "byte {at} flipped");
    }
    Ok(())
}

/// The bundles of format 1 that are kept for ever, as every later version must read them.
fn golden_bundles(python: &Path) -> Result<()> {
    for (file, signatures) in [
        ("bundle-v1.bin", 2),
        ("bundle-chain-v1.bin", 1),
        ("bundle-more-v1.bin", 1),
    ] {
        let mut command = reader(python, "ensign_reader.py");
        command
            .arg(golden(file))
            .args([hex::encode([3; 32]), signatures.to_string()]);
        command.args([1, 2].map(|seed| hex::encode(key(seed).public().as_bytes())));
        let [found] = &lines(&mut command)?[..] else {
            bail!("{file}: not one line");
        };
        assert_eq!(found[0]["version"], "1.2.3", "{file}");
        assert_eq!(found[0]["signatures"], signatures, "{file}");
    }
    Ok(())
}

/// Every role, statement, gate and token: the same fields with the same values as in this library, signed by as many keys.
fn golden_documents(python: &Path, folder: &Path) -> Result<()> {
    let device = |what: u8| SecretKey::from_seed(Digest::of(&[what, 0]).0);
    let signers = (1..=8)
        .chain([15, 17, 60, 61, 62])
        .map(key)
        .chain([device(0), device(1)]);
    let signers: Vec<PublicKey> = signers.map(|key| key.public()).collect();
    let keys: Vec<String> = signers.iter().map(|key| hex::encode(key.as_bytes())).collect();
    let read = |files: &[PathBuf]| {
        let mut command = reader(python, "ensign_documents.py");
        command.arg(hex::encode([0xf1; 32])).arg(keys.join(",")).args(files);
        command
    };
    let (mut files, mut expected) = (Vec::new(), Vec::new());
    let mut kinds = kinds();
    for entry in std::fs::read_dir(golden(""))? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_envelope = file.extension().is_some_and(|end| end == "cose");
        if let Some((kind, _)) = name.split_once("-v1").filter(|_| is_envelope) {
            let found = kinds.iter_mut().find(|(known, ..)| *known == kind);
            let (_, said, files_of_kind) = found.with_context(|| format!("{name} is of no kind"))?;
            *files_of_kind += 1;
            expected.push(said(&std::fs::read(&file)?, &signers)?);
            files.push(file);
        }
    }
    for (kind, _, files) in kinds {
        ensure!(
            files >= 2,
            "{kind}: {files} golden files, a usual one and one with the rest"
        );
    }
    let text = std::fs::read_to_string(golden("token-v1.txt"))?;
    let token: Token = text.parse()?;
    expected.push(serde_json::json!({"kind": "token", "body": {
        "addresses": token.addresses, "fleet": token.fleet, "root": token.root, "controller": hex::encode(token.controller.0),
    }}));
    files.push(golden("token-v1.txt"));
    let file = PlanFile::parse(&std::fs::read(golden("plan-file-v1.bin"))?)?;
    expected.push(serde_json::json!({"kind": "plan-file", "signatures": 1, "body": file.plan.body}));
    files.push(golden("plan-file-v1.bin"));
    // With the signatures of their promotions.
    for (name, promoted) in [("gate-v1.cbor", 1), ("gate-v1-more.cbor", 0)] {
        let gate = Gate::decode(&std::fs::read(golden(name))?)?;
        expected.push(serde_json::json!({"kind": "gate", "signatures": promoted, "body": shown(&gate)?}));
        files.push(golden(name));
    }
    assert_eq!(lines(&mut read(&files))?, expected);

    // One bit of each file: refused, or a signature less.
    for (file, whole) in files.iter().zip(&expected) {
        let mut bytes = std::fs::read(file)?;
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        let flipped = folder.join(file.file_name().context("a name")?);
        std::fs::File::create(&flipped)?.write_all(&bytes)?;
        let output = read(&[flipped]).output()?;
        let less =
            serde_json::from_slice::<Value>(&output.stdout).is_ok_and(|f| f["signatures"] != whole["signatures"]);
        ensure!(
            !output.status.success() || less,
            "{} with a flipped bit",
            file.display()
        );
    }
    Ok(())
}

/// What a reader must find in a golden file of a kind.
type Said = fn(&[u8], &[PublicKey]) -> Result<Value>;

/// Every kind of document there is, how it is read, and how many files were.
fn kinds() -> Vec<(&'static str, Said, u32)> {
    macro_rules! all {
        ($($document:ty),* $(,)?) => { vec![$((<$document>::KIND, said::<$document> as Said, 0)),*] };
    }
    each_document!(all)
}

fn said<T: Document>(bytes: &[u8], keys: &[PublicKey]) -> Result<Value> {
    let opened = statement::open_unverified::<T>(bytes)?;
    let signatures = valid_signers(&opened.envelope, keys, &aad(&[0xf1; 32])).len();
    ensure!(
        signatures == opened.envelope.signatures().len(),
        "{}: a signature by a key that this test does not know",
        T::KIND
    );
    Ok(serde_json::json!({"kind": T::KIND, "signatures": signatures, "body": opened.body}))
}

/// A gate as the reader prints it: byte strings in hexadecimal.
fn shown(gate: &Gate) -> Result<Value> {
    let mut body = serde_json::to_value(gate)?;
    let envelopes = gate.receipts.iter().map(|shown| hex::encode(&shown.receipt));
    for (at, envelope) in envelopes.enumerate() {
        body["receipts"][at]["receipt"] = envelope.into();
    }
    if let Some(promote) = &gate.promote {
        body["promote"] = hex::encode(promote).into();
    }
    Ok(body)
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../bundle/testdata")
        .join(file)
}

fn reader(python: &Path, program: &str) -> Command {
    let mut command = Command::new(python);
    command.arg("-B");
    command.arg(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../docs/reader")
            .join(program),
    );
    command
}

/// The lines that the program prints, as JSON.
fn lines(command: &mut Command) -> Result<Vec<Value>> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// A tree with a large file, a copy, an empty stretch and a symlink, in two components; signed by all `keys`.
fn bundle(keys: &[SecretKey]) -> Result<Vec<u8>> {
    let large: Vec<u8> = (0_u32..750_000).flat_map(u32::to_be_bytes).collect();
    let web = ensign_testkit::files(&[
        ("assets/app.js", &large),
        ("assets/copy", b"hello world\n"),
        ("assets/link", b"-> ../readme"),
        ("readme", b"hello world\n"),
    ]);
    let zeros = ensign_testkit::files(&[("zeros", &[0; 4000])]);
    let mut draft = Draft::new(Ident::parse("app")?, Version::parse("1.0.0")?, 1_000_000_000_000);
    let mut blocks = Vec::new();
    for (name, files) in [("web", web), ("zeros", zeros)] {
        let made = ensign_testkit::component(name, &files, &[]);
        blocks.extend(made.blocks.into_iter().map(|block| block.stored));
        draft.add(made.tree);
    }
    let mut release = draft.freeze()?;
    for key in keys {
        release.sign(key, &FLEET, 1_700_000_000)?;
    }
    let contents = [release.into_contents()];
    let mut writer = Writer::new(Vec::new(), &[], &contents)?;
    for block in &blocks {
        writer.block(block)?;
    }
    Ok(writer.finish()?)
}
