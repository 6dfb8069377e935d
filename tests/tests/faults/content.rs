//! Bundles that are not what somebody signed: refused by the operator's program and by the device, for its own reason each.

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ensign_bundle::container;
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::{Product, Release, Role, Root, Targets};
use ensign_crypto::SecretKey;
use ensign_tests::harness::{Fleet, Profile, build, put, write_tree};
use ensign_tests::hostile::unix_now;
use ensign_tests::random::Random;

/// Positions that are flipped through the programs; every single one is flipped in memory.
const FLIPS: usize = 40;

/// `release verify`, `release publish`, `verify` and `apply` on the device: all must fail with this code.
fn refused_everywhere(fleet: &Fleet, file: &Path, code: Code, values: &[&str]) -> Result<()> {
    let (file, root) = (file.display().to_string(), fleet.root("dev1").display().to_string());
    fleet.fails("ensign", &["release", "verify", &file], code, values)?;
    fleet.fails("ensign", &["release", "publish", &file], code, values)?;
    fleet.fails("ensign-agent", &["verify", "--root", &root, &file], code, values)?;
    fleet.fails("ensign-agent", &["apply", "--root", &root, &file], code, values)?;
    Ok(())
}

fn key(fleet: &Fleet, role: &str) -> Result<SecretKey> {
    let pem = fs::read_to_string(fleet.path("home/keys/acme").join(format!("{role}.pem")))?;
    Ok(SecretKey::from_pem(&pem)?)
}

/// The bundle with a release document that is changed as wished and signed by these keys.
fn resigned(fleet: &Fleet, file: &Path, keys: &[&SecretKey], change: impl FnOnce(&mut Release)) -> Result<Vec<u8>> {
    let mut bundle = Cursor::new(fs::read(file)?);
    let mut release = container::read(&mut bundle)?.releases.remove(0).release;
    (release.issued, release.expires) = (unix_now(), unix_now() + 3600);
    change(&mut release);
    let root = statement::open_unverified::<Root>(&fs::read(fleet.path("kit/root.cbor"))?)?;
    let mut document = statement::seal(&release)?;
    for key in keys {
        document.sign(key, &ensign_crypto::aad(&root.body.fleet.0));
    }
    let mut out = Vec::new();
    container::resign(&mut bundle, &mut out, &document)?;
    Ok(out)
}

fn second_release(fleet: &Fleet) -> Result<(std::path::PathBuf, std::path::PathBuf)> {
    let tree = fleet.path("second");
    write_tree(
        &tree,
        &[
            ("version", "2.0.0"),
            ("xx_pwned", "outside"),
            ("bin/run!", "#!/bin/sh\n"),
        ],
    )?;
    Ok((fleet.bundle("app", "2.0.0", &[("web", &tree)], &[])?, tree))
}

#[test]
fn a_bundle_with_any_byte_changed_is_refused() -> Result<()> {
    let seed = 23;
    eprintln!("seed {seed}");
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let (file, _) = second_release(&fleet)?;
    fleet.ensign(["release", "sign"], [&file])?;
    let good = fs::read(&file)?;
    let root = statement::open_unverified::<Root>(&fs::read(fleet.path("kit/root.cbor"))?)?.body;
    let release = key(&fleet, "release")?.public();
    let accepted = |bytes: &[u8]| {
        let mut reader = Cursor::new(bytes);
        let Ok(bundle) = container::read(&mut reader) else {
            return false;
        };
        bundle.check_content(&mut reader, &mut |_| ()).is_ok()
            && statement::count(&bundle.releases[0].document, &[release], 1, &root.fleet).is_ok()
    };
    assert!(accepted(&good), "the honest bundle is good");
    let mut flipped = good.clone();
    for at in 0..good.len() {
        for bit in 0..8 {
            flipped[at] ^= 1 << bit;
            assert!(
                !accepted(&flipped),
                "bit {bit} of byte {at} of {} may be anything",
                good.len()
            );
            flipped[at] ^= 1 << bit;
        }
    }

    let mut random = Random::new(seed);
    let (agent, path) = (fleet.root("dev1").display().to_string(), file.display().to_string());
    let writable = File::options().write(true).open(&file)?;
    for turn in 0..FLIPS {
        let at = if turn < 16 { turn } else { random.below(good.len()) };
        writable.write_all_at(&[good[at] ^ (1 << random.below(8))], at as u64)?;
        let runs: [(&str, &[&str]); 3] = [
            ("ensign", &["release", "verify", &path]),
            ("ensign-agent", &["verify", "--root", &agent, &path]),
            ("ensign-agent", &["apply", "--root", &agent, &path]),
        ];
        let mut exits = Vec::new();
        for (program, args) in runs {
            let (exit, errors) = fleet.exit(program, args)?;
            ensure!(
                [20, 23].contains(&exit),
                "byte {at}: {program} {args:?} ended with {exit}: {errors}"
            );
            ensure!(
                errors.contains("error: ") && errors.contains("hint: "),
                "byte {at}: {errors}"
            );
            exits.push(exit);
        }
        ensure!(exits.iter().all(|e| *e == exits[0]), "byte {at}: {exits:?}");
        writable.write_all_at(&[good[at]], at as u64)?;
    }
    fleet.unmoved(&standing)?;
    fleet.ensign(["release", "verify"], [&file])?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

#[test]
fn a_bundle_that_is_cut_or_goes_on_is_refused() -> Result<()> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let (file, _) = second_release(&fleet)?;
    fleet.ensign(["release", "sign"], [&file])?;
    let good = fs::read(&file)?;
    let bad = fleet.path("bad.bundle");
    for length in [0, 1, 15, 16, 40, good.len() / 2, good.len() - 1] {
        put(&bad, &good[..length], 0o644)?;
        refused_everywhere(&fleet, &bad, Code::Malformed, &["bundle"])?;
    }
    put(&bad, [&good[..], b"x"].concat(), 0o644)?;
    let (had, has) = (good.len().to_string(), (good.len() + 1).to_string());
    refused_everywhere(&fleet, &bad, Code::Malformed, &[&had, &has])?;
    fleet.unmoved(&standing)?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

#[test]
fn a_bundle_that_nobody_signed_is_refused() -> Result<()> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let (file, _) = second_release(&fleet)?;
    refused_everywhere(&fleet, &file, Code::Unsigned, &["no signature"])?;
    fleet.unmoved(&standing)?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

#[test]
fn a_bundle_signed_by_another_role_is_refused() -> Result<()> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let (file, _) = second_release(&fleet)?;
    for role in ["deploy", "targets", "root"] {
        let bad = fleet.path(format!("{role}.bundle"));
        put(&bad, resigned(&fleet, &file, &[&key(&fleet, role)?], |_| ())?, 0o644)?;
        refused_everywhere(&fleet, &bad, Code::RoleNotAuthorised, &["0 ", "1 "])?;
    }
    // The online keys stand in the controller's folder; they decide nothing about content.
    for role in ["timestamp", "snapshot", "controller"] {
        let pem = fs::read_to_string(fleet.path("controller/keys").join(format!("{role}.pem")))?;
        let bad = fleet.path(format!("{role}.bundle"));
        put(
            &bad,
            resigned(&fleet, &file, &[&SecretKey::from_pem(&pem)?], |_| ())?,
            0o644,
        )?;
        refused_everywhere(&fleet, &bad, Code::RoleNotAuthorised, &["0 ", "1 "])?;
    }
    fleet.unmoved(&standing)?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

/// A fleet whose product `strict` needs two of two keys and may only have the component `web` and units `web-*`.
fn with_strict_product() -> Result<(Fleet, SecretKey)> {
    let mut fleet = Fleet::empty(&build(Profile::Dev)?)?;
    let second = SecretKey::from_seed([77; 32]);
    let old = fs::read(fleet.path("kit/targets.cbor"))?;
    let mut targets = statement::open_unverified::<Targets>(&old)?.body;
    let every = targets.products.first().context("an entry for every product")?.clone();
    targets.products.push(Product {
        name: Ident::parse("strict")?.to_string(),
        role: Role {
            keys: vec![every.role.keys[0], second.public()],
            threshold: 2,
        },
        components: vec!["web".to_owned()],
        units: vec!["web-*".to_owned()],
        ..every
    });
    let root = statement::open_unverified::<Root>(&fs::read(fleet.path("kit/root.cbor"))?)?.body;
    let new = statement::sign(&targets, &[&key(&fleet, "targets")?], &root.fleet)?;
    put(&fleet.path("kit/targets.cbor"), &new, 0o600)?;
    put(&fleet.path("home/contexts/acme/targets.cbor"), &new, 0o600)?;
    fleet.start_controller()?;
    fleet.join(1)?;
    Ok((fleet, second))
}

#[test]
fn a_bundle_below_its_threshold_is_refused_until_enough_have_signed() -> Result<()> {
    let (fleet, second) = with_strict_product()?;
    let tree = fleet.path("tree");
    write_tree(&tree, &[("version", "1.0.0")])?;
    let file = fleet.bundle("strict", "1.0.0", &[("web", &tree)], &[])?;
    // The device learns the product's delegation with its first plan.
    fleet.goes_on("1.0.0")?;
    let half = fleet.path("half.bundle");
    put(
        &half,
        resigned(&fleet, &file, &[&key(&fleet, "release")?], |_| ())?,
        0o644,
    )?;
    refused_everywhere(&fleet, &half, Code::ThresholdNotMet, &["1 ", "2 "])?;
    let whole = fleet.path("whole.bundle");
    put(
        &whole,
        resigned(&fleet, &file, &[&key(&fleet, "release")?, &second], |_| ())?,
        0o644,
    )?;
    fleet.ensign(["release", "publish"], [&whole])?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}

#[test]
fn what_lies_outside_the_products_delegation_is_refused() -> Result<()> {
    let (fleet, second) = with_strict_product()?;
    fleet.goes_on("1.0.0")?;
    let tree = fleet.path("tree");
    write_tree(&tree, &[("version", "1.0.0")])?;
    let keys = [&key(&fleet, "release")?, &second];
    let cases: [(&str, &str, &[&str], &[&str]); 2] = [
        ("1.0.0", "other", &[], &["other", "strict"]),
        (
            "1.0.1",
            "web",
            &["--unit", "web=ssh.service"],
            &["ssh.service", "strict"],
        ),
    ];
    for (version, component, more, values) in cases {
        let file = fleet.bundle("strict", version, &[(component, &tree)], more)?;
        let bad = fleet.path("outside.bundle");
        put(&bad, resigned(&fleet, &file, &keys, |_| ())?, 0o644)?;
        refused_everywhere(&fleet, &bad, Code::OutsideDelegation, values)?;
    }
    fleet.goes_on("1.1.0")?;
    Ok(())
}

#[test]
fn an_older_version_is_refused() -> Result<()> {
    let (fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let new = fleet.goes_on("2.0.0")?;
    let standing = fleet.standing("dev1", &new)?;
    let old = fleet.path("app-1.0.0.bundle").display().to_string();
    let root = fleet.root("dev1").display().to_string();
    let counters = ["1000000000000", "2000000000000"];
    fleet.fails(
        "ensign-agent",
        &["apply", "--root", &root, &old],
        Code::DowngradeRefused,
        &counters,
    )?;
    let start = ["rollout", "start", "--product", "app", "--version", "1.0.0", "--yes"];
    fleet.fails("ensign", &start, Code::DowngradeRefused, &["1.0.0", "2.0.0"])?;
    fleet.unmoved(&standing)?;
    fleet.goes_on("2.1.0")?;
    Ok(())
}

/// The bundle with the path `xx_pwned` replaced by `../pwned` everywhere, the manifest's digest with it, and signed again.
pub(super) fn hostile_path(fleet: &Fleet, file: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(file)?;
    let old = container::read(&mut Cursor::new(&bytes))?.releases.remove(0);
    let mut manifest = old.manifest_bytes.clone();
    replace(&mut manifest, b"xx_pwned", b"../pwned")?;
    let (from, to) = (Digest::of(&old.manifest_bytes), Digest::of(&manifest));
    replace(&mut bytes, b"xx_pwned", b"../pwned")?;
    replace(&mut bytes, &from.0, &to.0)?;
    // Signed anew: the thief of the release key, with a manifest that no honest program writes.
    let mut release = old.release;
    release.manifest.digest = to;
    (release.issued, release.expires) = (unix_now(), unix_now() + 3600);
    let root = statement::open_unverified::<Root>(&fs::read(fleet.path("kit/root.cbor"))?)?;
    let mut document = statement::seal(&release)?;
    document.sign(&key(fleet, "release")?, &ensign_crypto::aad(&root.body.fleet.0));
    let mut out = Vec::new();
    container::resign(&mut Cursor::new(bytes), &mut out, &document)?;
    Ok(out)
}

/// A release as it lies in a bundle that no honest program would read.
pub(super) struct Parts {
    pub(super) release: Release,
    pub(super) document: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

/// Finds document and manifest in a bundle with a hostile path, by what the document says.
pub(super) fn parts(bundle: &[u8]) -> Result<Parts> {
    for from in 0..bundle.len() {
        for to in (from + 1..=bundle.len().min(from + 2048)).filter(|_| bundle[from] == 0xd8) {
            let Ok(signed) = statement::open_unverified::<Release>(&bundle[from..to]) else {
                continue;
            };
            let length = usize::try_from(signed.body.manifest.length)?;
            let manifest = bundle[to..to + length].to_vec();
            ensure!(
                Digest::of(&manifest) == signed.body.manifest.digest,
                "the manifest follows its document"
            );
            return Ok(Parts {
                release: signed.body,
                document: bundle[from..to].to_vec(),
                manifest,
            });
        }
    }
    anyhow::bail!("no release document")
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) -> Result<()> {
    let mut found = 0;
    for at in 0..=bytes.len().saturating_sub(from.len()) {
        if &bytes[at..at + from.len()] == from {
            bytes[at..at + from.len()].copy_from_slice(to);
            found += 1;
        }
    }
    ensure!(found > 0, "{from:?} is not in the bundle");
    Ok(())
}

#[test]
fn a_path_that_leaves_the_component_is_refused() -> Result<()> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let (file, _) = second_release(&fleet)?;
    let bad = fleet.path("path.bundle");
    put(&bad, hostile_path(&fleet, &file)?, 0o644)?;
    refused_everywhere(&fleet, &bad, Code::PathRefused, &["../pwned"])?;
    let found = std::process::Command::new("find")
        .arg(fleet.path(""))
        .args(["-name", "pwned"])
        .output()?;
    assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    fleet.unmoved(&standing)?;
    fleet.goes_on("1.1.0")?;
    Ok(())
}
