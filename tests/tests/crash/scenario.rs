//! What a device lives through while the power may fail.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use ensign_agent::ipc::{FromAdmin, State, ToAdmin};
use ensign_agent::paths::Paths;
use ensign_bundle::digest::Digest;
use ensign_bundle::manifest::Manifest;
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::statement;
use ensign_bundle::wire::{DocKind, Phase};
use ensign_testkit::fleet::{Fleet, Recipe, Release, exec};
use ensign_testkit::{Files, files, noise};

use crate::device::{BAD, Device, Rollout};
use crate::image::Image;

/// What a generation consists of: component to tree.
pub(crate) type Set = BTreeMap<String, String>;
/// What is wanted of the device, from whatever it stands at. Said again after each restart.
pub(crate) type Script = Arc<dyn Fn(&mut Device) -> Result<State> + Send + Sync>;

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) base: Image,
    pub(crate) script: Script,
    /// What `current` may show; the last is what it shows in the end. None = there is none.
    pub(crate) sets: Vec<Option<Set>>,
    /// The files of each tree.
    pub(crate) trees: HashMap<String, Files>,
    /// Trees that were compared and are right, by the digest of what lies there.
    pub(crate) exact: Mutex<HashSet<(String, Digest)>>,
    /// A tree that was spoiled before: what runs never shows it, and it is made anew.
    pub(crate) spoiled: Option<String>,
    /// The plan whose attempt ends so.
    pub(crate) end: Option<(Digest, Phase)>,
    /// The identity may change or go.
    pub(crate) changes_identity: bool,
}

struct Made {
    release: Release,
    set: Set,
    trees: HashMap<String, Files>,
}

fn make(recipe: Recipe) -> Made {
    let made: Vec<(String, Files)> = recipe
        .components
        .iter()
        .map(|(name, files, _)| ((*name).to_owned(), files.clone()))
        .collect();
    let release = recipe.build();
    let manifest = Manifest::parse(&release.blobs[&release.manifest]).unwrap();
    let digest = |name: &str| {
        let component = manifest.components.iter().find(|c| c.name.as_str() == name);
        component.unwrap().tree_digest().to_string()
    };
    Made {
        set: made.iter().map(|(name, _)| (name.clone(), digest(name))).collect(),
        trees: made.iter().map(|(name, files)| (digest(name), files.clone())).collect(),
        release,
    }
}

/// Two components: one that changes with each version and keeps some of its files, one that does not.
fn release(version: &'static str, page: &str) -> Made {
    let large = noise(7, 9000);
    let mut recipe = Recipe::new(
        version,
        files(&[
            ("page", page.as_bytes()),
            ("copy", page.as_bytes()),
            ("lib/same", b"the same in all versions"),
            ("lib/large", &large),
            ("empty", b""),
            ("link", b"-> lib/same"),
            ("*check", b"#!/bin/sh\n"),
        ]),
    )
    .unit("web.service");
    recipe
        .components
        .push(("db", files(&[("schema", b"create table")]), Vec::new()));
    if version == BAD {
        recipe.probes = vec![exec("check")];
    }
    make(recipe)
}

/// A device on a disk that is not recorded, as far as its story has come.
struct Story {
    fleet: Fleet,
    dir: tempfile::TempDir,
}

impl Story {
    fn device(&self) -> Device {
        Device::start(Paths::new(self.dir.path())).unwrap()
    }

    /// What is on the disk now.
    fn image(&self) -> Image {
        Image::load(self.dir.path()).0
    }
}

/// Where temporary devices lie: in memory, where that is possible.
pub(crate) fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.unwrap()
}

pub(crate) fn all() -> Vec<Scenario> {
    let (dir, fleet) = (place(), Fleet::new());
    // A data partition of its own is the harder case: what is synced on one file system at once is not on the other.
    std::fs::create_dir_all(dir.path().join("var/lib/ensign/deploy")).unwrap();
    std::fs::create_dir_all(dir.path().join("run/ensign")).unwrap();
    let mut story = Story { fleet, dir };
    let mut all = Vec::new();

    let root = story.fleet.root.clone();
    let joining = move |fresh: bool| -> Script {
        let root = root.clone();
        Arc::new(move |device: &mut Device| {
            if fresh || device.link()?.state.device.is_none() {
                device.enroll(&root, fresh)?;
            }
            let link = device.link()?;
            ensure!(
                link.state.device.is_some(),
                "not in the fleet: {:?}",
                link.state.report.status
            );
            Ok(link.state)
        })
    };
    all.push(Scenario {
        name: "join",
        base: story.image(),
        script: joining(false),
        sets: vec![None],
        trees: HashMap::new(),
        exact: Mutex::default(),
        spoiled: None,
        end: None,
        changes_identity: false,
    });

    let receipt_key = story.device().enroll(&story.fleet.root.clone(), true).unwrap();
    let versions = [
        ("1.0.0", "one"),
        ("2.0.0", "two"),
        (BAD, "bad"),
        ("3.0.0", "three"),
        ("4.0.0", "one"),
    ];
    let made: Vec<Made> = versions.iter().map(|(version, page)| release(version, page)).collect();
    for made in &made {
        story.fleet.publish(&made.release);
    }
    let trees: HashMap<String, Files> = made.iter().flat_map(|m| m.trees.clone()).collect();
    let rollouts: Vec<Rollout> = made
        .iter()
        .map(|made| Rollout::new(&mut story.fleet, &made.release, receipt_key))
        .collect();
    let update = |name, base: Image, from: Option<usize>, to: usize, ends: Phase| {
        let rollout = rollouts[to].clone();
        let plan = statement::open_unverified::<Plan>(&rollout.plan).unwrap().digest();
        let (old, new) = (from.map(|at| made[at].set.clone()), Some(made[to].set.clone()));
        let sets = if ends == Phase::Confirmed {
            vec![old, new]
        } else {
            vec![new, old]
        };
        Scenario {
            name,
            base,
            script: Arc::new(move |device: &mut Device| device.update(&rollout)),
            sets,
            trees: trees.clone(),
            exact: Mutex::default(),
            spoiled: None,
            end: Some((plan, ends)),
            changes_identity: false,
        }
    };
    let quiet = |name, base: Image, set: usize, script: Script| Scenario {
        name,
        base,
        script,
        sets: vec![Some(made[set].set.clone())],
        trees: trees.clone(),
        exact: Mutex::default(),
        spoiled: None,
        end: None,
        changes_identity: false,
    };
    let bring = |story: &Story, at: usize| {
        let mut device = story.device();
        let state = device.update(&rollouts[at]).unwrap();
        assert_eq!(state.report.status.phase, Phase::Confirmed, "{:?}", state.report.status);
        device.acknowledge().unwrap();
    };

    all.push(update("first install", story.image(), None, 0, Phase::Confirmed));
    all.push(update(
        "failed first install",
        story.image(),
        None,
        2,
        Phase::RolledBack,
    ));
    bring(&story, 0);
    all.push(update("update", story.image(), Some(0), 1, Phase::Confirmed));
    all.push(update("failed trial", story.image(), Some(0), 2, Phase::RolledBack));
    let newer: Vec<Vec<(DocKind, Vec<u8>)>> = (0..2).map(|_| story.fleet.roles()).collect();
    all.push(quiet(
        "trust",
        story.image(),
        0,
        Arc::new(move |device: &mut Device| {
            let mut state = None;
            for documents in &newer {
                let mut link = device.link()?;
                device.offer(&mut link, documents, None)?;
                state = Some(device.link()?.state);
            }
            Ok(state.unwrap())
        }),
    ));
    let mut again = quiet("join again", story.image(), 0, joining(true));
    again.changes_identity = true;
    all.push(again);
    let mut leave = quiet(
        "leave",
        story.image(),
        0,
        Arc::new(|device: &mut Device| {
            let answer = device.admin(&ToAdmin::Leave, None)?;
            ensure!(matches!(answer, FromAdmin::Done { .. }), "{answer:?}");
            Ok(device.link()?.state)
        }),
    );
    leave.changes_identity = true;
    all.push(leave);
    all.push(quiet(
        "compaction",
        nearly_full(&story),
        0,
        Arc::new(|device: &mut Device| {
            for n in 0..4 {
                lock(device, n)?;
            }
            Ok(device.link()?.state)
        }),
    ));

    bring(&story, 1);
    let mut second = update("second update", story.image(), Some(1), 3, Phase::Confirmed);
    let rollout = rollouts[3].clone();
    second.script = Arc::new(move |device: &mut Device| {
        let state = device.update(&rollout)?;
        device.acknowledge()?;
        Ok(state)
    });
    all.push(second);
    // The release before runs again, as a new one; its tree stands still, or what is left of it.
    let web = made[0].set["web"].clone();
    assert_eq!(web, made[4].set["web"], "the same tree");
    for (name, path, spoil) in [
        ("changed tree", format!("{web}/page"), Spoil::Change),
        ("tree without its marker", format!("{web}.complete"), Spoil::Remove),
    ] {
        let mut spoiled = update(name, spoil.done(&story, &path), Some(1), 4, Phase::Confirmed);
        spoiled.spoiled = Some(web.clone());
        all.push(spoiled);
    }
    all
}

/// A device that runs the first release, and a rollout to one without units or probes: nothing in it takes time.
pub(crate) fn plain_update() -> Scenario {
    let (dir, fleet) = (place(), Fleet::new());
    let mut story = Story { fleet, dir };
    let receipt_key = story.device().enroll(&story.fleet.root.clone(), true).unwrap();
    let pages = |page: &str| files(&[("page", page.as_bytes()), ("same", b"the same"), ("link", b"-> same")]);
    let plain = |version, page| make(Recipe::new(version, pages(page)));
    let made = [plain("1.0.0", "one"), plain("2.0.0", "two")];
    for made in &made {
        story.fleet.publish(&made.release);
    }
    let rollouts = [0, 1].map(|at: usize| Rollout::new(&mut story.fleet, &made[at].release, receipt_key));
    let mut device = story.device();
    device.update(&rollouts[0]).unwrap();
    device.acknowledge().unwrap();
    drop(device);
    let plan = statement::open_unverified::<Plan>(&rollouts[1].plan).unwrap().digest();
    let rollout = rollouts[1].clone();
    Scenario {
        name: "plain update",
        base: story.image(),
        script: Arc::new(move |device: &mut Device| {
            let state = device.update(&rollout)?;
            device.acknowledge()?;
            Ok(state)
        }),
        sets: made.iter().map(|made| Some(made.set.clone())).collect(),
        trees: made.iter().flat_map(|made| made.trees.clone()).collect(),
        exact: Mutex::default(),
        spoiled: None,
        end: Some((plan, Phase::Confirmed)),
        changes_identity: false,
    }
}

#[derive(Clone, Copy)]
enum Spoil {
    Change,
    Remove,
}

impl Spoil {
    /// The disk of the story with one thing below `trees` spoiled.
    fn done(self, story: &Story, path: &str) -> Image {
        let copy = place();
        story.image().make(copy.path());
        let path = copy.path().join("var/lib/ensign/deploy/trees").join(path);
        std::fs::remove_file(&path).unwrap();
        if let Self::Change = self {
            ensign_agent::durable::write(&path, b"changed", 0o444).unwrap();
        }
        Image::load(copy.path()).0
    }
}

fn lock(device: &mut Device, n: u64) -> Result<()> {
    let command = ToAdmin::Lock {
        reason: "x".repeat(180),
        ttl_s: 3600 + n,
    };
    let answer = device.admin(&command, None)?;
    ensure!(matches!(answer, FromAdmin::Done { .. }), "{answer:?}");
    Ok(())
}

/// The device with a journal that the next steps compact.
fn nearly_full(story: &Story) -> Image {
    let copy = place();
    story.image().make(copy.path());
    std::fs::create_dir_all(copy.path().join("run/ensign")).unwrap();
    let mut device = Device::start(Paths::new(copy.path())).unwrap();
    let journal = device.paths.journal();
    for n in 0..10_000 {
        lock(&mut device, n).unwrap();
        let bytes = std::fs::read(&journal).unwrap();
        let replay = ensign_apply::journal::replay(&bytes).unwrap();
        // A step of this kind has less than 400 bytes.
        if replay.end > (48 << 10) - 800 {
            drop(device);
            return Image::load(copy.path()).0;
        }
    }
    panic!("the journal never fills");
}

/// Directories that follow from the paths of files.
pub(crate) fn directories(files: &Files) -> BTreeSet<String> {
    let above = |path: &String| {
        let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
        ends.into_iter().map(|at| path[..at].to_owned()).collect::<Vec<_>>()
    };
    files.keys().flat_map(above).collect()
}
