//! A fleet of one device without a controller: signs everything, plays the link half and the runner, and drives the real applier.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test kit: what cannot be set up fails the test"
)]

pub(crate) mod device;
pub(crate) mod runner;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;

use ensign_bundle::blocks::StoredBlock;
use ensign_bundle::codec::Ext;
use ensign_bundle::digest::{CutSeed, DeviceId, Digest, FleetId, Nonce};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::manifest::{Draft, Entry, Kind, Probe, TreeDraft, Unsigned};
use ensign_bundle::path::TreePath;
use ensign_bundle::plan::cohort::{CutWave, Listed as Member};
use ensign_bundle::plan::evidence::{Binding, Lease, TimeAttestation};
use ensign_bundle::plan::statements::{
    Bound, Evidence, GateKind, Grant, OnBreach, Pace, Plan, PlanRelease, Stop, Subject, Wave,
};
use ensign_bundle::statement;
use ensign_bundle::trust::issue::{self, NewFleet};
use ensign_bundle::trust::roles::{Controller, FORMAT, Listed, ListedRelease};
use ensign_bundle::wire::DocKind;
use ensign_crypto::{PublicKey, SecretKey};

pub(crate) const FLEET: FleetId = FleetId([3; 32]);
const DAY: u64 = 24 * 3600;

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub(crate) fn exec(path: &str) -> Probe {
    Probe::Exec {
        component: ident("web"),
        path: TreePath::parse(path).unwrap(),
        args: Vec::new(),
    }
}

pub(crate) fn ident(text: &str) -> Ident {
    Ident::parse(text).unwrap()
}

/// What a tree holds: path to executable flag and bytes. Directories follow from the paths; `-> target` is a symlink.
pub(crate) type Files = BTreeMap<String, (bool, Vec<u8>)>;

pub(crate) fn files(list: &[(&str, &[u8])]) -> Files {
    list.iter()
        .map(|(path, bytes)| {
            let plain = path.trim_start_matches('*');
            (plain.to_owned(), (path.starts_with('*'), bytes.to_vec()))
        })
        .collect()
}

/// Bytes that do not compress, the same on every run.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let digests = (0_u64..).flat_map(|n| Digest::of(&[seed.to_be_bytes(), n.to_be_bytes()].concat()).0);
    digests.take(length).collect()
}

/// A release, signed, with every blob by its digest.
#[derive(Clone)]
pub(crate) struct Release {
    pub version: Version,
    pub counter: u64,
    pub manifest: Digest,
    pub manifest_len: u64,
    pub document: Vec<u8>,
    pub listed: ListedRelease,
    pub blobs: HashMap<Digest, Vec<u8>>,
    pub bundle: Vec<u8>,
}

/// What a release is made of.
pub(crate) struct Recipe {
    pub version: &'static str,
    pub components: Vec<(&'static str, Files, Vec<&'static str>)>,
    pub probes: Vec<Probe>,
    pub window_s: u64,
    pub deadline_s: u64,
}

impl Recipe {
    pub(crate) fn new(version: &'static str, web: Files) -> Self {
        Self {
            version,
            components: vec![("web", web, Vec::new())],
            probes: Vec::new(),
            window_s: 1,
            deadline_s: 20,
        }
    }

    pub(crate) fn unit(mut self, unit: &'static str) -> Self {
        self.components[0].2.push(unit);
        self
    }

    pub(crate) fn component(mut self, name: &'static str, files: Files, unit: &'static str) -> Self {
        self.components.push((name, files, vec![unit]));
        self
    }

    pub(crate) fn build(self) -> Release {
        let version = Version::parse(self.version).unwrap();
        let mut draft = Draft::new(ident("app"), version.clone(), version.counter().unwrap());
        draft.health.probes = self.probes;
        draft.health.window_s = self.window_s;
        draft.health.deadline_s = self.deadline_s;
        let mut blobs = HashMap::new();
        let mut stored = Vec::new();
        for (name, files, units) in self.components {
            let mut tree = TreeDraft::new(ident(name), Kind::Tree, entries(&files)).unwrap();
            tree.units = units.into_iter().map(str::to_owned).collect();
            let blocks: Vec<StoredBlock> = tree
                .plans()
                .iter()
                .map(|plan| {
                    let mut plain = Vec::new();
                    for piece in &plan.pieces {
                        let path = tree.entries()[piece.entry as usize].path().as_str();
                        let from = usize::try_from(piece.offset).unwrap();
                        plain.extend_from_slice(&files[path].1[from..from + piece.length as usize]);
                    }
                    plan.store(&plain, 3).unwrap()
                })
                .collect();
            for block in &blocks {
                blobs.insert(block.row.stored, block.stored.clone());
                stored.push(block.stored.clone());
            }
            let rows: Vec<_> = blocks.into_iter().map(|b| b.row).collect();
            draft.add(tree.finish(&rows).unwrap());
        }
        let mut unsigned: Unsigned = draft.freeze().unwrap();
        unsigned.sign(&key(12), &FLEET, unix()).unwrap();
        let contents = unsigned.contents();
        for table in &contents.tables {
            blobs.insert(Digest::of(table.bytes()), table.bytes().to_vec());
        }
        let manifest = Digest::of(&contents.manifest_bytes);
        blobs.insert(manifest, contents.manifest_bytes.clone());
        let document = contents.document.encode();
        let mut writer =
            ensign_bundle::container::Writer::new(Vec::new(), &[], std::slice::from_ref(contents)).unwrap();
        for block in &stored {
            writer.block(block).unwrap();
        }
        Release {
            version,
            counter: contents.release.counter,
            manifest,
            manifest_len: contents.manifest_bytes.len() as u64,
            listed: ListedRelease::of(&contents.release, &document),
            document,
            blobs,
            bundle: writer.finish().unwrap(),
        }
    }
}

fn entries(files: &Files) -> Vec<Entry> {
    let path = |text: &str| TreePath::parse(text).unwrap();
    let mut dirs = std::collections::BTreeSet::new();
    for name in files.keys() {
        let mut rest = name.as_str();
        while let Some((parent, _)) = rest.rsplit_once('/') {
            dirs.insert(parent.to_owned());
            rest = parent;
        }
    }
    let mut entries: Vec<Entry> = dirs.iter().map(|dir| Entry::dir(path(dir))).collect();
    for (name, (executable, bytes)) in files {
        let link = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.strip_prefix("-> "));
        entries.push(if let Some(target) = link {
            Entry::symlink(path(name), target).unwrap()
        } else {
            let mode = if *executable { 0o755 } else { 0o644 };
            Entry::file(path(name), mode, bytes.len() as u64, Digest::of(bytes))
        });
    }
    entries
}

/// The signers of the fleet and what they have said so far.
pub(crate) struct Fleet {
    pub root: Vec<u8>,
    targets: Vec<u8>,
    releases: Vec<Release>,
    seq: u64,
    /// Snapshots so far: online versions grow with the clock, and a test has several in one second.
    snapshots: std::cell::Cell<u64>,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let fleet = NewFleet {
            fleet: FLEET,
            name: "test".to_owned(),
            root: vec![key(10).public()],
            targets: key(11).public(),
            release: key(12).public(),
            deploy: key(13).public(),
            snapshot: key(14).public(),
            timestamp: key(15).public(),
            controller: Controller {
                keys: vec![key(16).public().id()],
                api: Vec::new(),
                addresses: vec!["127.0.0.1:1".to_owned()],
            },
            lab: true,
        };
        let now = unix();
        Self {
            root: statement::sign(&fleet.root(now).unwrap(), &[&key(10)], &FLEET).unwrap(),
            targets: statement::sign(&fleet.targets(now), &[&key(11)], &FLEET).unwrap(),
            releases: Vec::new(),
            seq: 0,
            snapshots: std::cell::Cell::new(0),
        }
    }

    pub(crate) fn publish(&mut self, release: &Release) {
        self.releases.push(release.clone());
    }

    /// Current roles, as `desired` would bring them.
    pub(crate) fn roles(&self) -> Vec<(DocKind, Vec<u8>)> {
        self.snapshots.set(self.snapshots.get() + 1);
        let now = unix() + self.snapshots.get();
        let listed = self.releases.iter().map(|r| r.listed.clone()).collect();
        let snapshot = issue::snapshot(None, Listed::of(1, &self.targets), listed, now).unwrap();
        let version = snapshot.version;
        let snapshot = statement::sign(&snapshot, &[&key(14)], &FLEET).unwrap();
        let timestamp = issue::timestamp(None, Listed::of(version, &snapshot), now, DAY).unwrap();
        let timestamp = statement::sign(&timestamp, &[&key(15)], &FLEET).unwrap();
        vec![
            (DocKind::Timestamp, timestamp),
            (DocKind::Snapshot, snapshot),
            (DocKind::Targets, self.targets.clone()),
        ]
    }

    /// A plan that brings `release` to these devices in one wave.
    pub(crate) fn plan(&mut self, release: &Release, wave: &CutWave, soak_s: u64) -> Vec<u8> {
        self.seq += 1;
        let now = unix();
        let plan = Plan {
            format: FORMAT,
            issued: now,
            product: ident("app"),
            seq: self.seq,
            cut_seed: CutSeed([1; 16]),
            release: PlanRelease {
                version: release.version.clone(),
                counter: release.counter,
                manifest: release.manifest,
                length: release.manifest_len,
            },
            waves: vec![Wave {
                cohort: wave.cohort(),
                min_soak_s: soak_s,
                gate: GateKind::Auto,
                evidence: Evidence::Receipts(0),
            }],
            not_before: 0,
            expires: now + DAY,
            windows: Vec::new(),
            health: None,
            reverts: None,
            downgrade: None,
            offline: None,
            emergency: false,
            pace: Pace {
                max_parallel: None,
                one_per: None,
                rate_per_h: None,
                prefetch: false,
                priority: 0,
                stop: Stop {
                    failed: Bound::Count(1),
                    dark: Bound::Count(1),
                    min_sample: 20,
                    dark_after_s: None,
                    quorum_bp: 9000,
                    reach_s: 3600,
                    on_breach: OnBreach::Halt,
                },
            },
            select: "all".to_owned(),
            exclude: Vec::new(),
            reason: String::new(),
            ext: Ext::default(),
        };
        statement::sign(&plan, &[&key(13)], &FLEET).unwrap()
    }

    pub(crate) fn wave(device: DeviceId, receipt_key: PublicKey) -> CutWave {
        CutWave::new(1, vec![Member { device, receipt_key }])
    }

    pub(crate) fn lease(plan: &[u8], device: DeviceId, nonce: Nonce, ttl_s: u64, ahead_s: u64) -> Vec<u8> {
        let lease = Lease {
            format: FORMAT,
            issued: unix() + ahead_s,
            plan: statement::open_unverified::<Plan>(plan).unwrap().digest(),
            device,
            nonce,
            ttl_s,
        };
        statement::sign(&lease, &[&key(15)], &FLEET).unwrap()
    }

    pub(crate) fn time(device: DeviceId, nonce: Nonce) -> Vec<u8> {
        let time = TimeAttestation {
            format: FORMAT,
            fleet: FLEET,
            device,
            nonce,
            time: unix(),
        };
        statement::sign(&time, &[&key(15)], &FLEET).unwrap()
    }

    pub(crate) fn grant() -> Vec<u8> {
        let grant = Grant {
            format: FORMAT,
            issued: unix(),
            subject: Subject::Token {
                key: key(20).public(),
                uses: 1,
                expires: unix() + DAY,
                approve: true,
            },
            labels: [("site".parse().unwrap(), "lyon".parse().unwrap())].into(),
            label_seq: 0,
        };
        statement::sign(&grant, &[&key(13)], &FLEET).unwrap()
    }

    pub(crate) fn binding(receipt_key: PublicKey, grant: &[u8]) -> Binding {
        let tls = key(21).public();
        Binding {
            format: FORMAT,
            issued: unix(),
            device: DeviceId::from(tls.id()),
            key: tls,
            receipt_key,
            token: key(20).public(),
            grant: statement::open_unverified::<Grant>(grant).unwrap().digest(),
            name: "dev1".to_owned(),
            claims: BTreeMap::new(),
        }
    }
}

pub(crate) fn unix() -> u64 {
    ensign_agent::clock::unix()
}

/// A file with these bytes and no name.
pub(crate) fn scratch(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}
