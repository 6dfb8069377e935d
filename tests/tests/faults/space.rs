//! No space on a device: refused before the download, with numbers, and the release may be tried again.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use ensign_bundle::reason::Code;
use ensign_tests::harness::{ALL_AT_ONCE, Fleet, Profile, build, put, write_tree};
use ensign_tests::random::Random;

/// A release that has no room is refused before its blocks are fetched, and the rollout says why.
fn refused(fleet: &Fleet, bytes: u64, values: &[&str]) -> Result<()> {
    let exit = fleet.rollout("1.1.0", ALL_AT_ONCE)?;
    assert_eq!(exit, 10, "{}", fleet.logs());
    let mut all = values.to_vec();
    all.extend(["are needed", "are free", "are missing"]);
    fleet.wait_for_refusal("dev1", Code::NoSpace, &all)?;
    let why = fleet.json(["device", "why", "dev1"])?;
    assert_eq!(why["reason"]["code"], Code::NoSpace.name(), "{why}");
    assert!(
        why["reason"]["text"]
            .as_str()
            .is_some_and(|t| t.contains("are missing")),
        "{why}"
    );
    assert!(why["hint"].as_str().is_some_and(|h| !h.is_empty()), "{why}");
    let sent = fleet.json(["rollout", "status"])?["bytes"]["sent"]
        .as_u64()
        .unwrap_or(u64::MAX);
    assert!(
        sent < bytes / 10,
        "{sent} bytes were sent of a release of {bytes} that has no room"
    );
    Ok(())
}

#[test]
fn a_release_that_eats_the_reserve_is_refused_with_numbers() -> Result<()> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let config = fleet.root("dev1").join("etc/ensign/agent.toml");
    let reserve = (1_u64 << 60).to_string();
    put(&config, format!("[applier]\nreserve_bytes = {reserve}\n"), 0o644)?;
    fleet.device("dev1")?.stop();
    fleet.start_device("dev1")?;
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "1.1.0")])?;
    put(&tree.join("noise"), Random::new(4).bytes(2 << 20), 0o644)?;
    fleet.release("1.1.0", &[("web", &tree)], &[])?;
    refused(&fleet, 2 << 20, &["1152 PB"])?;
    fleet.unmoved(&standing)?;

    std::fs::remove_file(&config)?;
    fleet.device("dev1")?.stop();
    fleet.start_device("dev1")?;
    assert_eq!(fleet.rollout("1.1.0", ALL_AT_ONCE)?, 0, "{}", fleet.logs());
    fleet.runs("dev1", &tree)?;
    fleet.goes_on("1.2.0")?;
    Ok(())
}

/// A small file system of its own. Unmounted when dropped.
struct Small(PathBuf);

impl Small {
    /// `None` where this user may not mount.
    fn mount(at: &Path, bytes: u64, inodes: u32) -> Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let size = format!("size={bytes},nr_inodes={inodes},mode=755");
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "ensign-small"])
            .arg(at)
            .output()?;
        if out.status.success() {
            return Ok(Some(Self(at.to_owned())));
        }
        // Past the capture of the test's output, so that a run says what it left out.
        writeln!(
            std::io::stderr(),
            "SKIPPED: a device whose file system is full, of bytes and of inodes, was NOT tested; no small file system here: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        )?;
        Ok(None)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_seen_before_the_download() -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let deploy = fleet.root("dev1").join("var/lib/ensign/deploy");
    let Some(_small) = Small::mount(&deploy, 24 << 20, 400)? else {
        return Ok(());
    };
    fleet.join(1)?;
    let first = fleet.goes_on("1.0.0")?;
    let standing = fleet.standing("dev1", &first)?;

    // More bytes than there are.
    let tree = fleet.path("second");
    put(&tree.join("noise"), Random::new(5).bytes(40 << 20), 0o644)?;
    fleet.release("1.1.0", &[("web", &tree)], &["--level", "1"])?;
    refused(&fleet, 40 << 20, &[])?;
    fleet.unmoved(&standing)?;

    // More files than there are inodes.
    let many = fleet.path("many");
    for number in 0..600 {
        put(&many.join(number.to_string()), number.to_string(), 0o644)?;
    }
    fleet.release("1.2.0", &[("web", &many)], &[])?;
    ensure!(fleet.rollout("1.2.0", ALL_AT_ONCE)? == 10, "{}", fleet.logs());
    fleet.wait_for_refusal("dev1", Code::NoSpace, &["inodes are needed", "are free", "are missing"])?;
    fleet.unmoved(&standing)?;
    fleet.goes_on("1.3.0")?;
    fleet.device("dev1")?.stop();
    Ok(())
}

/// What is downloaded and what is staged lie on one disk, which has room for one of them: the download makes way.
#[test]
fn a_release_that_fits_is_not_crowded_out_by_its_own_download() -> Result<()> {
    let mut fleet = Fleet::start(&build(Profile::Dev)?, 0)?;
    let state = fleet.root("dev1").join("var/lib/ensign");
    let Some(_small) = Small::mount(&state, 100 << 20, 4000)? else {
        return Ok(());
    };
    fleet.join(1)?;
    fleet.goes_on("1.0.0")?;
    for (seed, version) in [(6, "1.1.0"), (7, "1.2.0")] {
        let tree = fleet.path(version);
        put(&tree.join("noise"), Random::new(seed).bytes(30 << 20), 0o644)?;
        put(&tree.join("more"), Random::new(seed + 10).bytes(6 << 20), 0o644)?;
        fleet.release(version, &[("web", &tree)], &["--level", "1"])?;
        assert_eq!(fleet.rollout(version, ALL_AT_ONCE)?, 0, "{}", fleet.logs());
        fleet.runs("dev1", &tree)?;
    }
    fleet.device("dev1")?.stop();
    Ok(())
}

/// Not the place of the releases but that of the downloads: the operator hears of it, and nobody has to start anything again.
#[test]
fn a_full_download_cache_is_told_and_goes_on_when_there_is_room() -> Result<()> {
    let (fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 1)?;
    let standing = fleet.standing("dev1", &first)?;
    let cache = fleet.root("dev1").join("var/lib/ensign/link/cache");
    let Some(small) = Small::mount(&cache, 64 << 10, 400)? else {
        return Ok(());
    };
    let tree = fleet.path("second");
    put(&tree.join("noise"), Random::new(6).bytes(4 << 20), 0o644)?;
    fleet.release("1.1.0", &[("web", &tree)], &["--level", "1"])?;
    let start = ["rollout", "start", "--product", "app", "--version", "1.1.0", "--yes"];
    fleet.ensign(start.iter().chain(ALL_AT_ONCE), [""; 0])?;
    fleet.wait_for("the operator hears of it", |fleet| {
        Ok(fleet.json(["device", "ls"])?[0]["reason"]["code"] == Code::NoSpace.name())
    })?;
    fleet.unmoved(&standing)?;
    drop(small);
    fleet.wait_for("it goes on by itself", |fleet| {
        Ok(fleet.versions()?.values().all(|v| v.as_deref() == Some("1.1.0")))
    })?;
    fleet.runs("dev1", &tree)?;
    fleet.goes_on("1.2.0")?;
    Ok(())
}
