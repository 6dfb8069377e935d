//! Fifty random `kill -9` of controller, link, applier and runner while a rollout runs: it still completes, and at every look
//! `current` is one whole release.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use ensign_tests::harness::{Fleet, Profile, build, difference, now, pause};
use ensign_tests::random::Random;

const KILLS: usize = 50;
const DEVICES: usize = 4;
const FILES: usize = 400;

/// A tree in which every file names the release it belongs to, with a few megabytes that change as a whole.
fn tree(root: &Path, version: &str) -> Result<()> {
    let mut noise = Random::new(version.bytes().map(u64::from).sum());
    for number in 0..FILES {
        let folder = root.join(format!("f{:02}", number % 20));
        fs::create_dir_all(&folder)?;
        let mut content = format!("{version}\n").into_bytes();
        content.extend(noise.bytes(20_000));
        std::io::Write::write_all(&mut fs::File::create(folder.join(format!("{number}")))?, &content)?;
    }
    Ok(())
}

/// What one look through `current` saw: the versions named by the files of the generation that the link pointed at, or why a file
/// could not be read.
fn look(deploy: &Path) -> Option<BTreeSet<String>> {
    let generation = fs::read_link(deploy.join("current")).ok()?;
    let root = deploy.join(&generation).join("web");
    let mut seen = BTreeSet::new();
    for number in (0..FILES).step_by(7) {
        match fs::read(root.join(format!("f{:02}/{number}", number % 20))) {
            Ok(content) => {
                let first = content.split(|b| *b == b'\n').next().unwrap_or_default();
                seen.insert(String::from_utf8_lossy(first).into_owned())
            }
            Err(e) => seen.insert(e.to_string()),
        };
    }
    // A generation may be collected after the pointer moved on: such a look says nothing.
    (fs::read_link(deploy.join("current")).ok()? == generation).then_some(seen)
}

#[test]
fn fifty_kills_neither_stop_a_rollout_nor_mix_a_tree() -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(11);
    eprintln!("SEED={seed}");
    let mut random = Random::new(seed);
    let mut fleet = Fleet::start(&build(Profile::Dev)?, DEVICES)?;
    let (old, new) = (fleet.path("old"), fleet.path("new"));
    tree(&old, "1.0.0")?;
    tree(&new, "1.1.0")?;
    fleet.release("1.0.0", &[("web", &old)], &[])?;
    assert_eq!(
        fleet.rollout("1.0.0", &["--waves", "100%", "--soak", "0s"])?,
        0,
        "{}",
        fleet.logs()
    );
    fleet.release("1.1.0", &[("web", &new)], &[])?;

    let deploys: Vec<PathBuf> = fleet
        .device_names()
        .iter()
        .map(|d| fleet.root(d).join("var/lib/ensign/deploy"))
        .collect();
    let (stop, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mixed, whole) = std::thread::scope(|scope| -> Result<_> {
        let watcher = scope.spawn(|| {
            let (mut mixed, mut whole) = (Vec::new(), BTreeSet::new());
            loop {
                // Asked before the looks: the last round sees how everything ended.
                let last = stop.load(Ordering::SeqCst);
                for deploy in &deploys {
                    let Some(seen) = look(deploy) else { continue };
                    looks.fetch_add(1, Ordering::Relaxed);
                    if seen.len() == 1 && (seen.contains("1.0.0") || seen.contains("1.1.0")) {
                        whole.extend(seen);
                    } else {
                        mixed.push(seen);
                    }
                }
                if last {
                    return (mixed, whole);
                }
                pause(Duration::from_millis(5));
            }
        });
        let killed = kill_at_random(&mut fleet, &mut random);
        stop.store(true, Ordering::SeqCst);
        let seen = watcher.join().unwrap_or_default();
        killed.map(|()| seen)
    })?;
    assert!(
        mixed.is_empty(),
        "{} of {} looks were mixed: {:?}",
        mixed.len(),
        looks.into_inner(),
        mixed.first()
    );
    assert_eq!(
        whole,
        BTreeSet::from(["1.0.0", "1.1.0"].map(str::to_owned)),
        "the watcher saw the old release and the new one"
    );
    for device in fleet.device_names() {
        assert_eq!(difference(&new, &fleet.live(&device, "web"))?, None, "{device}");
    }
    Ok(())
}

fn kill_at_random(fleet: &mut Fleet, random: &mut Random) -> Result<()> {
    let rollout = [
        "rollout",
        "start",
        "--product",
        "app",
        "--version",
        "1.1.0",
        "--waves",
        "50%,100%",
        "--soak",
        "0s",
        "--yes",
    ];
    fleet.ensign(rollout, [""; 0])?;
    let devices = fleet.device_names();
    let began = now();
    for _ in 0..KILLS {
        pause(Duration::from_millis(random.below(250) as u64));
        if random.below(4) == 0 {
            fleet.controller()?.kill_all();
            fleet.start_controller()?;
            continue;
        }
        let name = devices[random.below(devices.len())].clone();
        let tree = fleet.device(&name)?.tree();
        let victim = tree[random.below(tree.len())];
        if fleet.device(&name)?.kill_one(victim) {
            fleet.start_device(&name)?;
        }
    }
    eprintln!("{KILLS} kills in {:?}", began.elapsed());
    fleet.wait_for("every device runs 1.1.0", |f| {
        Ok(f.versions()?.values().all(|v| v.as_deref() == Some("1.1.0")))
    })?;
    fleet.wait_for("the rollout is done", |f| {
        let list = f.json(["rollout", "ls"])?;
        Ok(list
            .as_array()
            .into_iter()
            .flatten()
            .any(|r| r["version"] == "1.1.0" && r["state"] == "done"))
    })
}
