//! A fleet in one process for tests: its keys, a kit, a controller on loopback, and devices that speak the protocol themselves.

mod device;
mod https;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ensign_api::Member;
use ensign_bundle::digest::{DeviceId, Digest, FleetId};
use ensign_bundle::ids::{Label, Labels, Version};
use ensign_bundle::manifest::Draft;
use ensign_bundle::plan::cohort::{CutWave, Listed};
use ensign_bundle::plan::statements::{Grant, Plan, PlanRelease, Subject};
use ensign_bundle::statement;
use ensign_bundle::trust::issue::{NewFleet, Next as _};
use ensign_bundle::trust::roles::{Controller, FORMAT, Root};
use ensign_controller::config::Config;
use ensign_controller::serve::{self, Options, Running};
use ensign_controller::{clock, durable};
use ensign_crypto::SecretKey;
use ensign_testkit::{ident, one_wave, stop_at};

pub(crate) use device::{Device, Link, client_config, ecdsa_config, keyless_config, within};
pub(crate) use ensign_testkit::key;
pub(crate) use https::{Answer, Client, Kept, stranger};

pub(crate) const FLEET: FleetId = FleetId([7; 32]);
pub(crate) const API_TOKEN: &str = "test-token-of-an-admin";

/// The operator's side: keys that sign, and where kit and data lie.
pub(crate) struct Fleet {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) targets: SecretKey,
    pub(crate) release: SecretKey,
    pub(crate) deploy: SecretKey,
    pub(crate) controller: SecretKey,
    seq: std::sync::atomic::AtomicU64,
}

/// A release, ready to be uploaded.
pub(crate) struct Package {
    pub(crate) document: Vec<u8>,
    pub(crate) blobs: Vec<(Digest, Vec<u8>)>,
    pub(crate) manifest: Digest,
    pub(crate) manifest_length: u64,
    pub(crate) version: Version,
    pub(crate) counter: u64,
    /// Which of the blobs are content.
    pub(crate) blocks: Vec<Digest>,
}

impl Fleet {
    /// Keys, root, targets and the kit of a fleet.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Self {
            dir,
            targets: key(2),
            release: key(3),
            deploy: key(4),
            controller: key(7),
            seq: 1.into(),
        };
        fleet.write_kit();
        fleet
    }

    pub(crate) fn kit(&self) -> PathBuf {
        self.dir.path().join("kit")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn write_kit(&self) {
        let now = clock::unix_now();
        let https = https::certificate();
        let new = NewFleet {
            fleet: FLEET,
            name: "test".to_owned(),
            root: vec![key(1).public()],
            targets: self.targets.public(),
            release: self.release.public(),
            deploy: self.deploy.public(),
            snapshot: key(5).public(),
            timestamp: key(6).public(),
            controller: Controller {
                keys: vec![self.controller.public().id()],
                api: vec![https.id],
                addresses: vec!["127.0.0.1:0".to_owned()],
            },
            lab: true,
        };
        let root = statement::sign(&new.root(now).unwrap(), &[&key(1)], &FLEET).unwrap();
        let targets = statement::sign(&new.targets(now), &[&self.targets], &FLEET).unwrap();
        let kit = self.kit();
        std::fs::create_dir_all(kit.join("keys")).unwrap();
        let put = |name: &str, bytes: &[u8]| durable::write(&kit.join(name), bytes).unwrap();
        put("root.cbor", &root);
        put("targets.cbor", &targets);
        put("keys/snapshot.pem", key(5).to_pem().as_bytes());
        put("keys/timestamp.pem", key(6).to_pem().as_bytes());
        put("keys/controller.pem", self.controller.to_pem().as_bytes());
        put("keys/https.pem", https.key.as_bytes());
        put("https.crt", https.certificate.as_bytes());
        let json = serde_json::json!({
            "format": 1,
            "fleet": FLEET,
            "name": "test",
            "address": "127.0.0.1:0",
            "root_hash": Digest::of(&root),
            "api_tokens": [
                { "name": "admin", "role": "admin", "sha256": Digest::of(API_TOKEN.as_bytes()) },
                { "name": "eve", "role": "viewer", "sha256": Digest::of(b"viewer") },
            ],
        });
        put("kit.json", json.to_string().as_bytes());
    }

    /// Publishes the root after the one in force, as `change` makes it.
    pub(crate) async fn publish_root(
        &self,
        running: &Running,
        change: impl FnOnce(&mut Root),
    ) -> Result<(), ensign_bundle::reason::Refusal> {
        let held = running.core.read(|state| state.roles.root().clone()).await.unwrap();
        let mut next = held.next(clock::unix_now()).unwrap();
        change(&mut next);
        let envelope = statement::sign(&next, &[&key(1)], &FLEET).unwrap();
        running
            .core
            .change(move |state| state.publish_root(envelope, None))
            .await
    }

    /// Where a document lies.
    pub(crate) fn document(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let (folder, file) = name.split_at(2);
        self.data().join("metadata").join(folder).join(file)
    }

    /// Flips a bit of a document on disk; its bytes as they were.
    pub(crate) fn damage(&self, digest: &Digest) -> Vec<u8> {
        let path = self.document(digest);
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        *bytes.last_mut().unwrap() ^= 1;
        durable::write(&path, &bytes).unwrap();
        whole
    }

    /// Starts the controller; the first start imports the kit.
    pub(crate) async fn serve(&self) -> Running {
        self.try_serve(&self.kit()).await.unwrap()
    }

    pub(crate) async fn try_serve(&self, kit: &Path) -> Result<Running, ensign_bundle::reason::Refusal> {
        self.serve_as(kit, Config::default()).await
    }

    pub(crate) async fn serve_as(&self, kit: &Path, config: Config) -> Result<Running, ensign_bundle::reason::Refusal> {
        serve::start(Options {
            data: self.data(),
            kit: Some(kit.to_owned()),
            config,
        })
        .await
    }

    /// The grant of a token with this seed.
    pub(crate) fn grant(&self, token: &SecretKey, uses: u32, expires: u64, approve: bool) -> Vec<u8> {
        let grant = Grant {
            format: FORMAT,
            issued: clock::unix_now(),
            subject: Subject::Token {
                key: token.public(),
                uses,
                expires,
                approve,
            },
            labels: Labels::from([(Label::parse("site").unwrap(), Label::parse("lyon").unwrap())]),
            label_seq: 0,
        };
        statement::sign(&grant, &[&self.deploy], &FLEET).unwrap()
    }

    /// A token for `uses` devices, made known to the controller.
    pub(crate) async fn token(&self, running: &Running, seed: u8, uses: u32) -> SecretKey {
        let token = key(seed);
        let grant = self.grant(&token, uses, clock::unix_now() + 3600, true);
        running
            .core
            .change(move |state| state.create_token(&grant))
            .await
            .unwrap();
        token
    }

    /// A release of one file.
    pub(crate) fn package(&self, version: &str, content: &[u8]) -> Package {
        let version = Version::parse(version).unwrap();
        let made = ensign_testkit::component("web", &ensign_testkit::files(&[("file", content)]), &[]);
        let stored = made.blocks.into_iter().filter(|block| !block.stored.is_empty());
        let mut blobs: Vec<_> = stored.map(|block| (block.row.stored, block.stored)).collect();
        let blocks = blobs.iter().map(|(digest, _)| *digest).collect();
        let mut draft = Draft::new(ident("app"), version.clone(), version.counter().unwrap());
        draft.add(made.tree);
        let mut unsigned = draft.freeze().unwrap();
        unsigned.sign(&self.release, &FLEET, clock::unix_now()).unwrap();
        let signed = unsigned.into_signed(&[self.release.public()], 1, &FLEET).unwrap();
        blobs.extend(signed.blobs().map(|blob| (blob.digest, blob.bytes.to_vec())));
        let release = &signed.contents().release;
        Package {
            document: signed.document(),
            blobs,
            blocks,
            manifest: release.manifest.digest,
            manifest_length: release.manifest.length,
            counter: release.counter,
            version,
        }
    }

    /// Uploads and publishes a package over the API.
    pub(crate) async fn publish(&self, client: &Client, package: &Package) {
        let uploaded = client.post_bytes("/v1/blobs", &batch(&package.blobs)).await;
        assert_eq!(uploaded.status, 200, "{}", uploaded.text());
        let published = client.post_bytes("/v1/releases", &package.document).await;
        assert_eq!(published.status, 200, "{}", published.text());
    }

    /// A plan that brings the package to all devices in one wave, and the lists that go with it.
    pub(crate) fn plan(&self, package: &Package, devices: &[&Device]) -> (Plan, Vec<Vec<Member>>) {
        let members = devices.iter().map(|d| Listed {
            device: d.id(),
            receipt_key: d.receipt.public(),
        });
        let wave = CutWave::new(1, members.collect());
        let list = wave.members.iter().map(|m| Member {
            device: m.device,
            receipt_key: m.receipt_key,
        });
        let release = PlanRelease {
            version: package.version.clone(),
            counter: package.counter,
            manifest: package.manifest,
            length: package.manifest_length,
        };
        let seq = self.seq.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut plan = ensign_testkit::plan(clock::unix_now(), seq, release, one_wave(&wave, 0));
        plan.pace = stop_at(1);
        (plan, vec![list.collect()])
    }
}

/// Blobs as `POST /v1/blobs` takes them.
pub(crate) fn batch(blobs: &[(Digest, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (digest, bytes) in blobs {
        body.extend(digest.0);
        body.extend((bytes.len() as u64).to_be_bytes());
        body.extend(bytes);
    }
    body
}

/// The device's state in the registry.
pub(crate) async fn known(running: &Running, id: DeviceId) -> Option<Arc<ensign_controller::core::rows::DeviceRow>> {
    running
        .core
        .read(move |state| state.devices.get(&id).cloned().map(Arc::new))
        .await
        .unwrap()
}
