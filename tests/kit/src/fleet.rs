//! A fleet of one device without a controller: signs everything that a device is shown.
#![allow(clippy::expect_used, reason = "a test kit: what cannot be set up fails the test")]

use std::collections::{BTreeMap, HashMap};

use ensign_bundle::digest::{DeviceId, Digest, FleetId, Nonce};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::manifest::{Draft, Probe, Unsigned};
use ensign_bundle::path::TreePath;
use ensign_bundle::plan::cohort::{CutWave, Listed as Member};
use ensign_bundle::plan::evidence::{Binding, Lease, TimeAttestation};
use ensign_bundle::plan::statements::{Grant, Plan, PlanRelease, Subject};
use ensign_bundle::statement;
use ensign_bundle::trust::issue::{self, NewFleet};
use ensign_bundle::trust::roles::{Controller, FORMAT, Listed, ListedRelease, Product, Release as ReleaseDocument};
use ensign_bundle::wire::DocKind;
use ensign_crypto::PublicKey;

use crate::{DAY, Files, component, ident, key, one_wave, plan};

pub const FLEET: FleetId = FleetId([3; 32]);

pub fn exec(path: &str) -> Probe {
    Probe::Exec {
        component: ident("web"),
        path: TreePath::parse(path).unwrap(),
        args: Vec::new(),
    }
}

/// A release, signed, with every blob by its digest.
#[derive(Clone)]
pub struct Release {
    pub product: Ident,
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
pub struct Recipe {
    pub product: &'static str,
    pub version: &'static str,
    pub components: Vec<(&'static str, Files, Vec<&'static str>)>,
    pub probes: Vec<Probe>,
    pub window_s: u64,
    pub deadline_s: u64,
    pub security_floor: u64,
    /// Seed of the key that signs it.
    pub signer: u8,
    /// What it is for; empty = everything.
    pub hardware: Vec<String>,
    pub arch: Vec<String>,
    /// Seconds since it was signed.
    pub age_s: u64,
}

impl Recipe {
    pub fn new(version: &'static str, web: Files) -> Self {
        Self {
            product: "app",
            version,
            components: vec![("web", web, Vec::new())],
            probes: Vec::new(),
            window_s: 1,
            deadline_s: 20,
            security_floor: 0,
            signer: 12,
            hardware: Vec::new(),
            arch: Vec::new(),
            age_s: 0,
        }
    }

    #[must_use]
    pub fn unit(mut self, unit: &'static str) -> Self {
        self.components[0].2.push(unit);
        self
    }

    #[must_use]
    pub fn component(mut self, name: &'static str, files: Files, unit: &'static str) -> Self {
        self.components.push((name, files, vec![unit]));
        self
    }

    pub fn build(self) -> Release {
        let version = Version::parse(self.version).unwrap();
        let mut draft = Draft::new(ident(self.product), version.clone(), version.counter().unwrap());
        draft.security_floor = self.security_floor;
        (draft.compatible.hardware, draft.compatible.arch) = (self.hardware, self.arch);
        draft.health.probes = self.probes;
        draft.health.window_s = self.window_s;
        draft.health.deadline_s = self.deadline_s;
        let mut blobs = HashMap::new();
        let mut stored = Vec::new();
        for (name, files, units) in self.components {
            let made = component(name, &files, &units);
            for block in made.blocks {
                blobs.insert(block.row.stored, block.stored.clone());
                stored.push(block.stored);
            }
            draft.add(made.tree);
        }
        let mut unsigned: Unsigned = draft.freeze().unwrap();
        unsigned.sign(&key(self.signer), &FLEET, unix() - self.age_s).unwrap();
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
            product: ident(self.product),
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

impl Release {
    /// The same manifest under a document that says otherwise, signed by who signs releases.
    #[must_use]
    pub fn told_otherwise(mut self, change: impl Fn(&mut ReleaseDocument)) -> Self {
        let mut document = statement::open_unverified::<ReleaseDocument>(&self.document)
            .unwrap()
            .body;
        change(&mut document);
        self.counter = document.counter;
        self.document = statement::sign(&document, &[&key(12)], &FLEET).unwrap();
        self.listed = ListedRelease::of(&document, &self.document);
        self
    }
}

/// The signers of the fleet and what they have said so far.
pub struct Fleet {
    pub root: Vec<u8>,
    targets: Vec<u8>,
    releases: Vec<Release>,
    seq: u64,
    /// Snapshots so far: online versions grow with the clock, and a test has several in one second.
    snapshots: std::cell::Cell<u64>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// A fleet whose product `*` is changed like this.
    pub fn with(change: impl Fn(&mut Product)) -> Self {
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
        let mut targets = fleet.targets(now);
        targets.products.iter_mut().for_each(change);
        Self {
            root: statement::sign(&fleet.root(now).unwrap(), &[&key(10)], &FLEET).unwrap(),
            targets: statement::sign(&targets, &[&key(11)], &FLEET).unwrap(),
            releases: Vec::new(),
            seq: 0,
            snapshots: std::cell::Cell::new(0),
        }
    }

    pub fn publish(&mut self, release: &Release) {
        self.releases.push(release.clone());
    }

    /// Current roles, as `desired` would bring them.
    pub fn roles(&self) -> Vec<(DocKind, Vec<u8>)> {
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
    pub fn plan(&mut self, release: &Release, wave: &CutWave, soak_s: u64) -> Vec<u8> {
        self.plan_with(release, wave, soak_s, |_| {})
    }

    pub fn plan_with(
        &mut self,
        release: &Release,
        wave: &CutWave,
        soak_s: u64,
        change: impl FnOnce(&mut Plan),
    ) -> Vec<u8> {
        self.seq += 1;
        let product = release.product.clone();
        let release = PlanRelease {
            version: release.version.clone(),
            counter: release.counter,
            manifest: release.manifest,
            length: release.manifest_len,
        };
        let mut plan = plan(unix(), self.seq, release, one_wave(wave, soak_s));
        (plan.product, plan.not_before) = (product, 0);
        change(&mut plan);
        statement::sign(&plan, &[&key(13)], &FLEET).unwrap()
    }

    pub fn wave(device: DeviceId, receipt_key: PublicKey) -> CutWave {
        CutWave::new(1, vec![Member { device, receipt_key }])
    }

    pub fn lease(plan: &[u8], device: DeviceId, nonce: Nonce, ttl_s: u64, ahead_s: u64) -> Vec<u8> {
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

    pub fn time(device: DeviceId, nonce: Nonce) -> Vec<u8> {
        let time = TimeAttestation {
            format: FORMAT,
            fleet: FLEET,
            device,
            nonce,
            time: unix(),
        };
        statement::sign(&time, &[&key(15)], &FLEET).unwrap()
    }

    pub fn grant() -> Vec<u8> {
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

    pub fn binding(receipt_key: PublicKey, grant: &[u8]) -> Binding {
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

/// Wall clock, seconds since 1970.
#[allow(clippy::disallowed_methods, reason = "a test kit signs what counts now")]
pub fn unix() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs()
}
