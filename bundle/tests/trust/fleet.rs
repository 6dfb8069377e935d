//! A fleet on paper: keys with fixed seeds, and the documents that their owners sign.

use std::collections::BTreeMap;

use ensign_bundle::codec::Ext;
use ensign_bundle::digest::{CutSeed, DeviceId, Digest, FleetId};
use ensign_bundle::ids::{Label, Labels, Version};
use ensign_bundle::plan::cohort::{Candidate, CutWave, Waves, cut, evidence};
use ensign_bundle::plan::evidence::{Binding, Receipt, ReceiptState};
use ensign_bundle::plan::statements::{GateKind, Grant, Plan, PlanRelease, Subject, Wave};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement;
use ensign_bundle::trust::format::Meta;
use ensign_bundle::trust::issue::{self, NewFleet, Next};
use ensign_bundle::trust::roles::{
    Compatible, Controller, FORMAT, FileRef, Listed, ListedRelease, Release, Root, Snapshot, Targets, Timestamp,
};
use ensign_bundle::trust::{Authority, ReleaseName, Source, Step, TrustState, Trusted, Want};
use ensign_crypto::{PublicKey, SecretKey};

pub(crate) use ensign_testkit::{DAY, ident, key};

pub(crate) const FLEET: FleetId = FleetId([0xf1; 32]);
/// 2026-01-01.
pub(crate) const START: u64 = 1_767_225_600;

pub(crate) fn public(seed: u8) -> PublicKey {
    key(seed).public()
}

pub(crate) fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

pub(crate) fn name(product: &str, release: &str) -> ReleaseName {
    ReleaseName {
        product: ident(product),
        version: version(release),
    }
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    let label = |text: &str| Label::parse(text).unwrap();
    pairs.iter().map(|(k, v)| (label(k), label(v))).collect()
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Code {
    result.unwrap_err().code
}

/// Seeds of the keys by role.
#[derive(Clone, Debug)]
pub(crate) struct Seeds {
    pub(crate) root: Vec<u8>,
    pub(crate) targets: Vec<u8>,
    pub(crate) release: Vec<u8>,
    pub(crate) snapshot: Vec<u8>,
    pub(crate) timestamp: Vec<u8>,
}

impl Default for Seeds {
    fn default() -> Self {
        Self {
            root: vec![1],
            targets: vec![3],
            release: vec![4],
            snapshot: vec![6],
            timestamp: vec![7],
        }
    }
}

/// Everything that is published, and what its signers have in hand.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    pub(crate) seeds: Seeds,
    pub(crate) now: u64,
    pub(crate) root: Root,
    pub(crate) targets: Targets,
    pub(crate) releases: BTreeMap<ReleaseName, Release>,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) timestamp: Option<Timestamp>,
    pub(crate) roots: Vec<Vec<u8>>,
    pub(crate) targets_bytes: Vec<u8>,
    pub(crate) release_bytes: BTreeMap<ReleaseName, Vec<u8>>,
    pub(crate) snapshot_bytes: Vec<u8>,
    pub(crate) timestamp_bytes: Vec<u8>,
}

impl Fleet {
    /// What `fleet init` makes, for trees alone, with a first snapshot and timestamp.
    pub(crate) fn new() -> Self {
        let init = NewFleet {
            fleet: FLEET,
            name: "acme".into(),
            root: vec![public(1), public(2)],
            targets: public(3),
            release: public(4),
            deploy: public(5),
            snapshot: public(6),
            timestamp: public(7),
            controller: Controller {
                keys: vec![public(8).id()],
                api: vec![Digest([9; 32])],
                addresses: vec!["127.0.0.1:7443".into()],
            },
            lab: true,
        };
        let root = init.root(START).unwrap();
        let mut targets = init.targets(START);
        targets.products[0].kinds = vec!["tree".into()];
        let mut fleet = Self {
            seeds: Seeds::default(),
            now: START,
            roots: Vec::new(),
            targets,
            root,
            releases: BTreeMap::new(),
            snapshot: None,
            timestamp: None,
            targets_bytes: Vec::new(),
            release_bytes: BTreeMap::new(),
            snapshot_bytes: Vec::new(),
            timestamp_bytes: Vec::new(),
        };
        fleet.roots.push(sign(&fleet.root, &fleet.seeds.root));
        fleet.targets_bytes = sign(&fleet.targets, &fleet.seeds.targets);
        fleet.publish();
        fleet
    }

    /// A device that has just joined.
    pub(crate) fn trust(&self) -> Trusted {
        TrustState::new(&self.roots[0], &Digest::of(&self.roots[0]), &FLEET).unwrap()
    }

    /// A device with everything current.
    pub(crate) fn fresh(&self) -> Trusted {
        let mut trusted = self.trust();
        self.refresh(&mut trusted).unwrap();
        trusted
    }

    /// What somebody who has everything current and no clock judges by.
    pub(crate) fn authority(&self) -> Authority<'_> {
        Authority {
            root: &self.root,
            targets: Some(&self.targets),
            fleet: &FLEET,
            latest_issue: None,
        }
    }

    pub(crate) fn refresh(&self, trusted: &mut Trusted) -> Result<Step, Refusal> {
        trusted.refresh(&mut |want| self.find(&want), self.now, Source::Online)
    }

    pub(crate) fn find(&self, want: &Want<'_>) -> Option<Vec<u8>> {
        use ensign_bundle::trust::ensign::DocName;
        match want {
            Want::Root(version) => self.roots.get(usize::try_from(*version).unwrap() - 1).cloned(),
            Want::Timestamp => Some(self.timestamp_bytes.clone()),
            Want::Snapshot(_) => Some(self.snapshot_bytes.clone()),
            Want::Targets(DocName::Targets, _) => Some(self.targets_bytes.clone()),
            Want::Targets(DocName::Release(name), _) => self.release_bytes.get(name).cloned(),
        }
    }

    /// Signs the next root by the current root keys and by `and`.
    pub(crate) fn next_root(&mut self, change: impl FnOnce(&mut Root), and: &[u8]) {
        let mut root = self.root.next(self.now).unwrap();
        change(&mut root);
        let signers: Vec<u8> = self.seeds.root.iter().chain(and).copied().collect();
        self.roots.push(sign(&root, &signers));
        self.root = root;
    }

    pub(crate) fn next_targets(&mut self, change: impl FnOnce(&mut Targets)) {
        let mut targets = self.targets.next(self.now).unwrap();
        change(&mut targets);
        self.targets_bytes = sign(&targets, &self.seeds.targets);
        self.targets = targets;
    }

    /// Signs a release document, or the next version of one.
    pub(crate) fn release(&mut self, product: &str, release: &str, change: impl FnOnce(&mut Release)) -> ReleaseName {
        let name = name(product, release);
        let mut document = match self.releases.get(&name) {
            Some(before) => before.next(self.now).unwrap(),
            None => Release {
                format: FORMAT,
                version: 1,
                issued: self.now,
                expires: self.now + issue::OFFLINE_LIFE_S,
                product: name.product.clone(),
                release: name.version.clone(),
                counter: name.version.counter().unwrap(),
                security_floor: 0,
                manifest: FileRef {
                    digest: Digest::of(name.to_string().as_bytes()),
                    length: 1000,
                },
                compatible: Compatible::default(),
                yanked: None,
                patch_index: None,
                ext: Ext::default(),
            },
        };
        change(&mut document);
        self.release_bytes
            .insert(name.clone(), sign(&document, &self.seeds.release));
        self.releases.insert(name.clone(), document);
        name
    }

    /// Signs the next snapshot and timestamp over what is there.
    pub(crate) fn publish(&mut self) {
        let listed = self
            .releases
            .iter()
            .map(|(name, release)| ListedRelease::of(release, &self.release_bytes[name]))
            .collect();
        let targets = Listed::of(self.targets.version(), &self.targets_bytes);
        let snapshot = issue::snapshot(self.snapshot.as_ref(), targets, listed, self.now).unwrap();
        self.publish_snapshot(snapshot);
    }

    pub(crate) fn publish_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshot_bytes = sign(&snapshot, &self.seeds.snapshot);
        self.snapshot = Some(snapshot);
        self.publish_timestamp();
    }

    pub(crate) fn publish_timestamp(&mut self) {
        let listed = Listed::of(self.snapshot.as_ref().unwrap().version, &self.snapshot_bytes);
        let timestamp = issue::timestamp(self.timestamp.as_ref(), listed, self.now, issue::TIMESTAMP_LIFE_S).unwrap();
        self.timestamp_bytes = sign(&timestamp, &self.seeds.timestamp);
        self.timestamp = Some(timestamp);
    }

    /// A plan for `devices` in `waves`, with its waves.
    pub(crate) fn plan(&self, release: &ReleaseName, devices: &[Device], waves: &str) -> (Plan, Vec<CutWave>) {
        let candidates: Vec<_> = devices.iter().map(Device::candidate).collect();
        let seed = CutSeed([9; 16]);
        let cut = cut(&candidates, &Waves::parse(waves).unwrap(), &seed).unwrap();
        let document = &self.releases[release];
        let waves = cut.iter().zip(evidence(&cut)).map(|(wave, evidence)| Wave {
            cohort: wave.cohort(),
            min_soak_s: 600,
            gate: GateKind::Auto,
            evidence,
        });
        let offered = PlanRelease {
            version: release.version.clone(),
            counter: document.counter,
            manifest: document.manifest.digest,
            length: document.manifest.length,
        };
        let mut plan = ensign_testkit::plan(self.now, 1, offered, waves.collect());
        plan.product = release.product.clone();
        plan.cut_seed = seed;
        plan.expires = self.now + 7 * DAY;
        (plan, cut)
    }
}

/// A device and its keys.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) tls: SecretKey,
    pub(crate) receipt: SecretKey,
}

impl Device {
    pub(crate) fn new(n: u8) -> Self {
        let seed = |what: u8| Digest::of(&[what, n]).0;
        Self {
            tls: SecretKey::from_seed(seed(0)),
            receipt: SecretKey::from_seed(seed(1)),
        }
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.tls.public().id().into()
    }

    pub(crate) fn candidate(&self) -> Candidate {
        Candidate {
            device: self.id(),
            receipt_key: self.receipt.public(),
            canary: false,
            unit: None,
        }
    }

    pub(crate) fn receipt(
        &self,
        plan: Digest,
        release: Digest,
        state: ReceiptState,
        healthy_for_s: u64,
        seq: u64,
    ) -> Vec<u8> {
        let receipt = Receipt {
            format: FORMAT,
            issued: START,
            plan,
            release,
            device: self.id(),
            state,
            healthy_for_s,
            seq,
        };
        statement::sign(&receipt, &[&self.receipt], &FLEET).unwrap()
    }

    /// Joins with the token of this seed.
    pub(crate) fn binding(&self, token: u8, grant: Digest) -> Vec<u8> {
        let binding = self.binding_body(token, grant);
        statement::sign(&binding, &[&self.tls, &self.receipt, &key(token)], &FLEET).unwrap()
    }

    pub(crate) fn binding_body(&self, token: u8, grant: Digest) -> Binding {
        Binding {
            format: FORMAT,
            issued: START,
            device: self.id(),
            key: self.tls.public(),
            receipt_key: self.receipt.public(),
            token: public(token),
            grant,
            name: "dev1".into(),
            claims: BTreeMap::new(),
        }
    }
}

pub(crate) fn token_grant(token: u8, of: &[(&str, &str)]) -> Grant {
    Grant {
        format: FORMAT,
        issued: START,
        subject: Subject::Token {
            key: public(token),
            uses: 3,
            expires: START + 3600,
            approve: true,
        },
        labels: labels(of),
        label_seq: 0,
    }
}

pub(crate) fn device_grant(device: DeviceId, label_seq: u64, of: &[(&str, &str)]) -> Grant {
    Grant {
        format: FORMAT,
        issued: START,
        subject: Subject::Device(device),
        labels: labels(of),
        label_seq,
    }
}

/// Signs for the fleet with the keys of these seeds.
pub(crate) fn sign<T: statement::Document>(body: &T, seeds: &[u8]) -> Vec<u8> {
    sign_for(body, seeds, &FLEET)
}

pub(crate) fn sign_for<T: statement::Document>(body: &T, seeds: &[u8], fleet: &FleetId) -> Vec<u8> {
    let keys: Vec<_> = seeds.iter().map(|seed| key(*seed)).collect();
    statement::sign(body, &keys.iter().collect::<Vec<_>>(), fleet).unwrap()
}
