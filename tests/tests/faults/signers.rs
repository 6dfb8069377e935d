//! A controller in a thief's hands, fourth part: what it tells to people who sign. The thief edits the ledger and the documents and
//! runs the real controller on them; `ensign` signs on top of what it verified itself, or not at all.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::ids::Label;
use ensign_bundle::plan::evidence::Binding;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::Snapshot;
use ensign_controller::core::rows::{DeviceRow, key};
use ensign_controller::store::ledger::{Change, Expect, Ledger as _, Typed as _};
use ensign_controller::store::sled::Sled;
use ensign_crypto::SecretKey;
use ensign_tests::harness::{ALL_AT_ONCE, Fleet, Profile, build, put, write_tree};
use ensign_tests::hostile::{Stolen, copy_folder, unix_now};

const START: [&str; 6] = ["rollout", "start", "--product", "app", "--version", "1.0.0"];
const LABEL: [&str; 5] = ["device", "label", "dev1", "--label", "site=paris"];
const TOKEN: [&str; 2] = ["token", "create"];
const HOLD: [&str; 3] = ["device", "hold", "dev1"];
const UNHOLD: [&str; 3] = ["device", "unhold", "dev1"];
const PROMOTE: [&str; 2] = ["rollout", "promote"];
const ABORT: [&str; 4] = ["rollout", "abort", "--keep", "--yes"];
const ROOT: [&str; 5] = ["key", "root", "rotate", "--floor", "app.counter=1"];

/// Two devices on 1.0.0, and 2.0.0 published: the operator has seen that.
fn fleet() -> Result<Fleet> {
    let (fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 2)?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "2.0.0")])?;
    fleet.release("2.0.0", &[("web", &tree)], &[])?;
    Ok(fleet)
}

fn ledger(fleet: &Fleet) -> Result<Sled> {
    Ok(Sled::open(&fleet.path("controller/ledger"))?)
}

/// Where a document lies.
fn place(fleet: &Fleet, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    let (folder, rest) = name.split_at(2);
    fleet.path("controller/metadata").join(folder).join(rest)
}

/// Keeps a document as the controller does.
fn keep(fleet: &Fleet, bytes: &[u8]) -> Result<Digest> {
    let digest = Digest::of(bytes);
    put(&place(fleet, &digest), bytes, 0o600)?;
    Ok(digest)
}

/// None of the verbs that sign does, whatever it is asked for.
fn nothing_is_signed(fleet: &Fleet, code: Code, values: &[&str]) -> Result<()> {
    for verb in [&START[..], &LABEL, &TOKEN, &HOLD, &UNHOLD, &PROMOTE, &ABORT, &ROOT] {
        fleet.fails("ensign", verb, code, values)?;
    }
    Ok(())
}

/// The folder as it was before the newest release, and one from which that release was struck.
#[test]
fn nothing_is_signed_on_top_of_a_past_that_the_operator_knows_better() -> Result<()> {
    let (mut fleet, _) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let (data, old, new) = (fleet.path("controller"), fleet.path("old"), fleet.path("new"));
    fleet.controller()?.stop();
    copy_folder(&data, &old)?;
    fleet.start_controller()?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "2.0.0")])?;
    fleet.release("2.0.0", &[("web", &tree)], &[])?;
    assert_eq!(fleet.rollout("2.0.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    fleet.controller()?.stop();
    copy_folder(&data, &new)?;

    replace(&data, &old)?;
    fleet.start_controller()?;
    nothing_is_signed(&fleet, Code::RollbackRefused, &["the controller's metadata is refused"])?;

    // A newer snapshot than any before, by the stolen keys, without the release.
    fleet.controller()?.stop();
    replace(&data, &new)?;
    sign_anew(&fleet)?;
    ledger(&fleet)?.commit(vec![Change::delete("release/app/2.0.0", Expect::Any)])?;
    fleet.start_controller()?;
    nothing_is_signed(&fleet, Code::RollbackRefused, &["app/2.0.0"])?;

    // The owner's controller numbers by its clock, and so passes what was forged.
    fleet.controller()?.stop();
    let forged = Stolen::from(&fleet)?.last_version()?;
    replace(&data, &new)?;
    fleet.wait_for("the clock passes the forged versions", |_| Ok(unix_now() > forged))?;
    sign_anew(&fleet)?;
    fleet.start_controller()?;
    fleet.goes_on("3.0.0")?;
    Ok(())
}

/// Damages the newest snapshot on disk: the next start signs another.
fn sign_anew(fleet: &Fleet) -> Result<()> {
    let snapshot = Stolen::from(fleet)?.newest::<Snapshot>(|s| s.version)?.1;
    put(&place(fleet, &Digest::of(&snapshot)), b"damaged", 0o600)
}

fn replace(data: &Path, by: &Path) -> Result<()> {
    std::fs::remove_dir_all(data)?;
    copy_folder(by, data)
}

/// A device that nobody invited, and one whose labels are others in the ledger than in what operators signed.
#[test]
fn ghosts_and_labels_of_the_ledger_are_signed_for_by_nobody() -> Result<()> {
    let mut fleet = fleet()?;
    fleet.controller()?.stop();
    let stolen = Stolen::from(&fleet)?;
    let rows = ledger(&fleet)?;
    let (two, one) = (fleet.member("dev2")?.device, fleet.member("dev1")?.device);
    let mut moved: DeviceRow = rows.read_as(&key::device(&two))?.context("dev2")?.value;
    moved.labels = [(Label::parse("site")?, Label::parse("paris")?)].into();
    let mut ghost: DeviceRow = rows.read_as(&key::device(&one))?.context("dev1")?.value;
    let (own, receipt) = (SecretKey::from_seed([71; 32]), SecretKey::from_seed([72; 32]));
    let binding = stolen.documents.get(&ghost.binding).context("the binding of dev1")?;
    let binding = Binding {
        device: DeviceId::from(own.public().id()),
        key: own.public(),
        receipt_key: receipt.public(),
        name: "ghost".to_owned(),
        ..statement::open_unverified::<Binding>(binding)?.body
    };
    let binding = statement::sign(&binding, &[&own, &receipt, &stolen.timestamp], &stolen.fleet)?;
    ghost.binding = keep(&fleet, &binding)?;
    (ghost.id, ghost.name) = (DeviceId::from(own.public().id()), "ghost".to_owned());
    (ghost.key, ghost.receipt_key) = (own.public(), receipt.public());
    rows.commit(vec![
        Change::put(key::device(&two), &moved, Expect::Any)?,
        Change::put(key::device(&ghost.id), &ghost, Expect::Absent)?,
    ])?;
    drop(rows);
    fleet.start_controller()?;
    assert_eq!(fleet.versions()?.len(), 3, "the controller shows the ghost");

    let plan = |select: &str| {
        let words = [
            "rollout",
            "plan",
            "--product",
            "app",
            "--version",
            "2.0.0",
            "--print-devices",
            "--select",
            select,
        ];
        fleet.json(words)
    };
    let preview = plan("site = lyon")?;
    assert_eq!(preview["devices"], 2, "{preview}");
    assert!(!preview["waves"].to_string().contains("ghost"), "{preview}");
    let refused = preview["refused"].to_string();
    assert!(refused.contains("ghost") && refused.contains("evidence"), "{preview}");
    let words = [
        "rollout",
        "plan",
        "--product",
        "app",
        "--version",
        "2.0.0",
        "--select",
        "site = paris",
    ];
    fleet.fails("ensign", &words, Code::NobodyMatches, &[])?;
    fleet.goes_on("3.0.0")?;
    Ok(())
}
