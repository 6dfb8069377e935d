//! A controller in a thief's hands, second part: lies about what exists.

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Version;
use ensign_bundle::limits;
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::evidence::Membership;
use ensign_bundle::plan::statements::Evidence;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::{ListedRelease, Release, Root, Snapshot, Targets, Timestamp};
use ensign_bundle::wire::DocKind;
use ensign_tests::harness::{ALL_AT_ONCE, Fleet, Profile, Standing, build, put, write_tree};
use ensign_tests::hostile::{Hostile, Offer, Stolen, Wish, unix_now};

/// One device on 1.0.0, the release 2.0.0 published and planned for nobody; then the controller is stolen.
fn robbed() -> Result<(Fleet, Arc<Stolen>, Standing)> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "2.0.0"), ("new", "new")])?;
    fleet.release("2.0.0", &[("web", &tree)], &[])?;
    // Everything published has reached the device before the controller changes hands.
    let published = fleet.json(["fleet", "show"])?;
    assert!(published.is_object(), "{published}");
    fleet.controller()?.stop();
    let stolen = Arc::new(Stolen::from(&fleet)?);
    let newest = stolen.newest::<Timestamp>(|t| t.version)?.0.version;
    let met = Hostile::start(&stolen, fleet.address(), Wish::new(&stolen, None)?)?;
    fleet.wait_for("the device holds the newest timestamp", |f| {
        Ok(f.status("dev1")?["trust"]["timestamp"] == newest)
    })?;
    fleet.device("dev1")?.stop();
    drop(met);
    let standing = fleet.standing("dev1", &first)?;
    Ok((fleet, stolen, standing))
}

fn lie(fleet: &mut Fleet, stolen: &Arc<Stolen>, wish: Wish, code: Code, values: &[&str]) -> Result<()> {
    let thief = Hostile::start(stolen, fleet.address(), wish)?;
    fleet.start_device("dev1")?;
    fleet.wait_for_refusal("dev1", code, values)?;
    fleet.device("dev1")?.stop();
    drop(thief);
    Ok(())
}

/// Versions that a test forges ahead of what was stolen, at most.
const AHEAD: u64 = 4;

fn honest_again(fleet: Fleet, stolen: &Stolen, standing: &Standing) -> Result<()> {
    honest_again_after(fleet, stolen, standing, None)
}

/// What a snapshot once listed must not disappear again, so a version that a thief listed is published by its owner.
fn honest_again_after(mut fleet: Fleet, stolen: &Stolen, standing: &Standing, listed: Option<&str>) -> Result<()> {
    fleet.unmoved(standing)?;
    let forged = stolen.last_version()? + AHEAD;
    fleet.wait_for("the clock passes the forged versions", |_| Ok(unix_now() > forged))?;
    fleet.start_controller()?;
    fleet.start_device("dev1")?;
    if let Some(version) = listed {
        fleet.release(version, &[("web", &fleet.path("second"))], &[])?;
    }
    fleet.goes_on("3.0.0")?;
    Ok(())
}

/// An offer of a release to everybody at once, with a plan that the operator's own deploy key signed.
fn planned(fleet: &Fleet, stolen: &Stolen, release: &Release, document: Vec<u8>) -> Result<Offer> {
    let mut plan = stolen.plan("1.0.0")?.0.body;
    plan.seq += 10;
    (plan.issued, plan.not_before, plan.expires) = (unix_now(), unix_now(), unix_now() + 3600);
    plan.release.version = release.release.clone();
    plan.release.counter = release.counter;
    (plan.release.manifest, plan.release.length) = (release.manifest.digest, release.manifest.length);
    let wave = CutWave::new(1, vec![fleet.member("dev1")?]);
    plan.waves.truncate(1);
    plan.waves[0].cohort = wave.cohort();
    plan.waves[0].evidence = Evidence::Receipts(0);
    let member: Membership = wave.proof(&fleet.member("dev1")?.device).context("a place")?;
    Ok(Offer {
        plan: statement::sign(&plan, &[&stolen.operator_key("deploy")?], &stolen.fleet)?,
        release: document,
        gate: None,
        member,
        lease: Some(|_| ()),
    })
}

/// The stolen roles with one more release, as good as the thief can make them.
fn listing(stolen: &Stolen, release: &Release, document: &[u8]) -> Result<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let targets = stolen.newest::<Targets>(|t| t.version)?.1;
    let mut releases = stolen.newest::<Snapshot>(|s| s.version)?.0.releases;
    releases.retain(|r| r.release != release.release);
    releases.push(ListedRelease::of(release, document));
    let snapshot = stolen.forge_snapshot(&targets, releases)?;
    let timestamp = stolen.forge_timestamp(&snapshot, |_| ())?;
    Ok((timestamp, snapshot, targets))
}

#[test]
fn metadata_past_its_expiry_installs_nothing() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let (release, document) = stolen.release("2.0.0")?;
    let offer = planned(&fleet, &stolen, &release, document)?;
    let (_, snapshot) = stolen.newest::<Snapshot>(|s| s.version)?;
    let targets = stolen.newest::<Targets>(|t| t.version)?.1;
    // The newest timestamp that the thief can make, about to expire; then nothing newer comes.
    let expires = unix_now() + 10;
    let short = stolen.forge_timestamp(&snapshot, |t| t.expires = expires)?;
    let waiting = Offer {
        lease: None,
        ..offer.clone()
    };
    let wish = Wish::with_roles(short.clone(), snapshot.clone(), targets.clone(), Some(waiting));
    lie(&mut fleet, &stolen, wish, Code::LeaseMissing, &["no permission"])?;
    fleet.wait_for("the clock passes its expiry", |_| Ok(unix_now() > expires))?;
    let wish = Wish::with_roles(short, snapshot, targets, Some(offer));
    lie(
        &mut fleet,
        &stolen,
        wish,
        Code::MetadataExpired,
        &["timestamp", &expires.to_string()],
    )?;
    honest_again(fleet, &stolen, &standing)
}

#[test]
fn metadata_that_goes_back_is_refused() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let (last, _) = stolen.newest::<Timestamp>(|t| t.version)?;
    let (_, snapshot) = stolen.newest::<Snapshot>(|s| s.version)?;
    let targets = stolen.newest::<Targets>(|t| t.version)?.1;
    let old = stolen.forge_timestamp(&snapshot, |t| t.version = last.version - 1)?;
    let values = [(last.version - 1).to_string(), last.version.to_string()];
    let wish = Wish::with_roles(old, snapshot.clone(), targets.clone(), None);
    lie(
        &mut fleet,
        &stolen,
        wish,
        Code::RollbackRefused,
        &["timestamp", &values[0], &values[1]],
    )?;
    // A newer timestamp over a snapshot without the newest release: what was there must not disappear.
    let mut releases = stolen.newest::<Snapshot>(|s| s.version)?.0.releases;
    releases.retain(|r| r.release.as_str() != "2.0.0");
    let fewer = stolen.forge_snapshot(&targets, releases)?;
    let timestamp = stolen.forge_timestamp(&fewer, |_| ())?;
    let wish = Wish::with_roles(timestamp, fewer, targets, None);
    lie(&mut fleet, &stolen, wish, Code::RollbackRefused, &["app/2.0.0"])?;
    honest_again(fleet, &stolen, &standing)
}

#[test]
fn metadata_of_the_future_or_for_ever_is_refused() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let (_, snapshot) = stolen.newest::<Snapshot>(|s| s.version)?;
    let targets = stolen.newest::<Targets>(|t| t.version)?.1;
    let long = limits::TIMESTAMP_LIFE_S * 10;
    let eternal = stolen.forge_timestamp(&snapshot, |t| t.expires = t.issued + long)?;
    let wish = Wish::with_roles(eternal, snapshot, targets, None);
    let values = [long.to_string(), limits::TIMESTAMP_LIFE_S.to_string()];
    lie(
        &mut fleet,
        &stolen,
        wish,
        Code::LifetimeRefused,
        &[&values[0], &values[1]],
    )?;
    honest_again(fleet, &stolen, &standing)
}

#[test]
fn online_keys_make_no_release_no_targets_and_no_root() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let thieves = [&stolen.timestamp, &stolen.snapshot, &stolen.tls];
    // A release of its own.
    let (mut release, _) = stolen.release("2.0.0")?;
    release.release = Version::parse("2.6.6")?;
    release.counter = 2_000_006_000_006;
    let document = statement::sign(&release, &thieves, &stolen.fleet)?;
    let offer = planned(&fleet, &stolen, &release, document.clone())?;
    let (timestamp, snapshot, targets) = listing(&stolen, &release, &document)?;
    let wish = Wish::with_roles(timestamp, snapshot, targets.clone(), Some(offer));
    lie(
        &mut fleet,
        &stolen,
        wish,
        Code::MetadataMissing,
        &["release", "0 ", "1 "],
    )?;

    // Targets that name the thief's key.
    let (body, _) = stolen.newest::<Targets>(|t| t.version)?;
    let mut own = body.next(unix_now())?;
    own.products[0].role.keys = vec![ensign_crypto::SecretKey::from_seed([3; 32]).public()];
    let own = statement::sign(&own, &thieves, &stolen.fleet)?;
    let releases = stolen.newest::<Snapshot>(|s| s.version)?.0.releases;
    let snapshot = stolen.forge_snapshot(&own, releases)?;
    let timestamp = stolen.forge_timestamp(&snapshot, |t| t.version += 1)?;
    let wish = Wish::with_roles(timestamp, snapshot, own, None);
    lie(
        &mut fleet,
        &stolen,
        wish,
        Code::RoleNotAuthorised,
        &["targets", "0 ", "1 "],
    )?;

    // A root of its own.
    let (root, _) = stolen.newest::<Root>(|r| r.version)?;
    let own = statement::sign(&root.next(unix_now())?, &thieves, &stolen.fleet)?;
    let mut wish = Wish::new(&stolen, None)?;
    wish.documents.insert(0, (DocKind::Root, own));
    lie(
        &mut fleet,
        &stolen,
        wish,
        Code::RoleNotAuthorised,
        &["root", "0 ", "1 "],
    )?;
    honest_again_after(fleet, &stolen, &standing, Some("2.6.6"))
}

#[test]
fn blocks_that_are_not_what_was_signed_never_run() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let (release, document) = stolen.release("2.0.0")?;
    let offer = planned(&fleet, &stolen, &release, document)?;
    let mut wish = Wish::new(&stolen, Some(offer))?;
    // Every blob but the manifest is as long as it should be and something else.
    let blobs = std::process::Command::new("find")
        .args([
            fleet.path("controller/blobs").as_os_str(),
            "-type".as_ref(),
            "f".as_ref(),
        ])
        .output()?;
    for path in String::from_utf8(blobs.stdout)?.lines() {
        let bytes = fs::read(path)?;
        let digest = Digest::of(&bytes);
        if digest != release.manifest.digest && !bytes.is_empty() {
            wish.lies.insert(digest, vec![b'x'; bytes.len()]);
        }
    }
    assert!(!wish.lies.is_empty());
    lie(&mut fleet, &stolen, wish, Code::ContentMismatch, &[])?;
    fleet.unmoved(&standing)?;
    // The same release with honest bytes goes through: nothing false was kept.
    fleet.start_controller()?;
    fleet.start_device("dev1")?;
    assert_eq!(fleet.rollout("2.0.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    fleet.runs("dev1", &fleet.path("second"))?;
    fleet.goes_on("3.0.0")?;
    Ok(())
}

#[test]
fn a_manifest_with_a_path_that_leaves_the_component_is_refused_by_the_device_itself() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let tree = fleet.path("third");
    write_tree(&tree, &[("xx_pwned", "outside")])?;
    let file = fleet.bundle("app", "2.5.0", &[("web", &tree)], &[])?;
    // Release key and deploy key are the thief's too: what is left is what the device itself insists on.
    let bytes = super::content::hostile_path(&fleet, &file)?;
    let bad = fleet.path("bad.bundle");
    put(&bad, &bytes, 0o644)?;
    let contents = super::content::parts(&bytes)?;
    let offer = planned(&fleet, &stolen, &contents.release, contents.document.clone())?;
    let (timestamp, snapshot, targets) = listing(&stolen, &contents.release, &contents.document)?;
    let mut wish = Wish::with_roles(timestamp, snapshot, targets, Some(offer));
    wish.lies.insert(contents.release.manifest.digest, contents.manifest);
    lie(&mut fleet, &stolen, wish, Code::PathRefused, &["../pwned"])?;
    let found = std::process::Command::new("find")
        .arg(fleet.path(""))
        .args(["-name", "pwned"])
        .output()?;
    assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    honest_again_after(fleet, &stolen, &standing, Some("2.5.0"))
}
