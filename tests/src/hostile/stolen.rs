//! What a thief finds in a controller's folder, and what can be made of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ensign_bundle::codec;
use ensign_bundle::digest::{DeviceId, Digest, FleetId};
use ensign_bundle::limits;
use ensign_bundle::plan::cohort::{CutWave, Listed as Member};
use ensign_bundle::plan::evidence::{Binding, Gate, Membership, Receipt};
use ensign_bundle::plan::statements::{Cohort, Plan};
use ensign_bundle::statement::{self, Document, Signed};
use ensign_bundle::trust::issue;
use ensign_bundle::trust::roles::{Listed, ListedRelease, Release, Root, Snapshot, Targets, Timestamp};
use ensign_controller::store::ledger::{self as controller, Ledger as _};
use ensign_controller::store::sled::Sled;
use ensign_crypto::SecretKey;
use serde_bytes::ByteBuf;

use crate::harness::Fleet;

/// The controller's folder, read once.
#[derive(Debug)]
pub struct Stolen {
    pub fleet: FleetId,
    pub timestamp: SecretKey,
    pub snapshot: SecretKey,
    /// The TLS key that devices pin.
    pub tls: SecretKey,
    /// Every signed document, by digest.
    pub documents: BTreeMap<Digest, Vec<u8>>,
    /// The newest receipt of each device for each plan.
    pub receipts: Vec<Vec<u8>>,
    blobs: PathBuf,
    home: PathBuf,
}

impl Stolen {
    /// Takes everything that lies in the folder of the fleet's controller.
    pub fn from(fleet: &Fleet) -> Result<Self> {
        let data = fleet.path("controller");
        let key = |name: &str| key(&data.join("keys").join(name));
        let mut documents = BTreeMap::new();
        for folder in fs::read_dir(data.join("metadata"))? {
            let folder = folder?.path();
            if folder.file_name().is_none_or(|name| name.len() != 2) {
                continue;
            }
            for file in fs::read_dir(&folder)? {
                let bytes = fs::read(file?.path())?;
                documents.insert(Digest::of(&bytes), bytes);
            }
        }
        let mut stolen = Self {
            fleet: FleetId([0; 32]),
            timestamp: key("timestamp.pem")?,
            snapshot: key("snapshot.pem")?,
            tls: key("controller.pem")?,
            documents,
            receipts: receipts(&data)?,
            blobs: data.join("blobs"),
            home: fleet.path("home"),
        };
        stolen.fleet = stolen.newest::<Root>(|root| root.version)?.0.fleet;
        Ok(stolen)
    }

    /// A key that no controller has: what a thief who also sits at the operator's desk could do.
    pub fn operator_key(&self, role: &str) -> Result<SecretKey> {
        key(&self.home.join("keys/acme").join(format!("{role}.pem")))
    }

    /// The document of a kind with the highest number, and its bytes.
    pub fn newest<T: Document>(&self, number: impl Fn(&T) -> u64) -> Result<(T, Vec<u8>)> {
        let all = self.documents.values().filter_map(|bytes| {
            let signed = statement::open_unverified::<T>(bytes).ok()?;
            Some((signed.body, bytes.clone()))
        });
        all.max_by_key(|(body, _)| number(body))
            .with_context(|| format!("no {} was stolen", T::KIND))
    }

    /// The plan of a version of `app`, and its bytes.
    pub fn plan(&self, version: &str) -> Result<(Signed<Plan>, Vec<u8>)> {
        let mut found = self.documents.values().filter_map(|bytes| {
            let signed = statement::open_unverified::<Plan>(bytes).ok()?;
            (signed.body.release.version.as_str() == version).then(|| (signed, bytes.clone()))
        });
        found.next().with_context(|| format!("no plan of {version} was stolen"))
    }

    /// The release document of a version of `app`, and its bytes.
    pub fn release(&self, version: &str) -> Result<(Release, Vec<u8>)> {
        let mut found = self.documents.values().filter_map(|bytes| {
            let signed = statement::open_unverified::<Release>(bytes).ok()?;
            (signed.body.release.as_str() == version).then(|| (signed.body, bytes.clone()))
        });
        found.next().with_context(|| format!("no release {version} was stolen"))
    }

    /// The gate of a wave of the plan with this digest.
    pub fn gate(&self, plan: &Digest, wave: u32) -> Result<Gate> {
        let mut gates = self.documents.values().filter_map(|bytes| Gate::decode(bytes).ok());
        gates
            .find(|gate| gate.plan == *plan && gate.wave == wave)
            .context("no such gate was stolen")
    }

    /// The newest receipt of a device for the plan with this digest.
    pub fn receipt(&self, plan: &Digest, device: &DeviceId) -> Result<Vec<u8>> {
        let of = |bytes: &&Vec<u8>| {
            let receipt = statement::open_unverified::<Receipt>(bytes).map(|signed| signed.body);
            receipt.is_ok_and(|r| r.plan == *plan && r.device == *device)
        };
        self.receipts
            .iter()
            .find(of)
            .cloned()
            .context("no such receipt was stolen")
    }

    /// The bytes of a blob.
    pub fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        let name = digest.to_string();
        let (folder, rest) = name.split_at_checked(2)?;
        fs::read(self.blobs.join(folder).join(rest)).ok()
    }

    /// A snapshot over these targets and releases, one newer than every one there was.
    pub fn forge_snapshot(&self, targets: &[u8], releases: Vec<ListedRelease>) -> Result<Vec<u8>> {
        let (last, _) = self.newest::<Snapshot>(|s| s.version)?;
        let version = statement::open_unverified::<Targets>(targets)?.body.version;
        let mut body = issue::snapshot(Some(&last), Listed::of(version, targets), releases, unix_now())?;
        body.version = last.version + 1;
        Ok(statement::sign(&body, &[&self.snapshot], &self.fleet)?)
    }

    /// A timestamp over this snapshot, one newer than every one there was, and changed as wished before it is signed.
    pub fn forge_timestamp(&self, snapshot: &[u8], change: impl FnOnce(&mut Timestamp)) -> Result<Vec<u8>> {
        let (last, _) = self.newest::<Timestamp>(|t| t.version)?;
        let version = statement::open_unverified::<Snapshot>(snapshot)?.body.version;
        let listed = Listed::of(version, snapshot);
        let mut body = issue::timestamp(Some(&last), listed, unix_now(), limits::TIMESTAMP_LIFE_S)?;
        body.version = last.version + 1;
        change(&mut body);
        Ok(statement::sign(&body, &[&self.timestamp], &self.fleet)?)
    }

    /// The version of the newest timestamp that was stolen. The controller numbers by its clock, so what was forged a few versions
    /// ahead of it is overtaken a few seconds later.
    pub fn last_version(&self) -> Result<u64> {
        Ok(self.newest::<Timestamp>(|t| t.version)?.0.version)
    }

    /// The place of a device in a plan whose cohorts are made of these devices.
    pub fn place(plan: &Plan, all: &[Member], device: &DeviceId) -> Result<Membership> {
        for (wave, number) in plan.waves.iter().zip(1_u32..) {
            let Cohort::Listed { count, .. } = &wave.cohort else {
                continue;
            };
            // Few devices: every subset is tried.
            for chosen in 0_u32..1 << all.len() {
                let members = all.iter().zip(0..).filter(|(_, bit)| chosen & (1 << bit) != 0);
                let cut = CutWave::new(number, members.map(|(member, _)| *member).collect());
                if cut.count() == *count
                    && cut.cohort() == wave.cohort
                    && let Some(proof) = cut.proof(device)
                {
                    return Ok(proof);
                }
            }
        }
        anyhow::bail!("device {device} is in no wave")
    }
}

/// What the ledger holds of receipts, from a copy: the ledger itself stays as it was.
fn receipts(data: &Path) -> Result<Vec<Vec<u8>>> {
    #[derive(serde::Deserialize)]
    struct Row {
        envelope: ByteBuf,
    }
    let copy = tempfile::tempdir()?;
    copy_folder(&data.join("ledger"), copy.path())?;
    let rows = Sled::open(copy.path())?.scan("receipt/")?;
    let envelope = |(_, row): (String, controller::Row)| {
        let row: Row = codec::decode(&row.value, row.value.len())?;
        Ok(row.envelope.into_vec())
    };
    rows.into_iter().map(envelope).collect()
}

/// A folder with all that is in it, files and folders.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, target) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// Id and receipt key of a device, from what it joined with.
pub(super) fn member_of(root: &Path) -> Result<Member> {
    let bytes = fs::read(root.join("var/lib/ensign/applier/binding.cbor"))?;
    let binding = statement::open_unverified::<Binding>(&bytes)?.body;
    Ok(Member {
        device: binding.device,
        receipt_key: binding.receipt_key,
    })
}

impl Fleet {
    /// Id and receipt key of a device: in every binding that a controller keeps, and so in a thief's hands.
    pub fn member(&self, device: &str) -> Result<Member> {
        member_of(&self.root(device))
    }
}

/// Seconds since the epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "a thief's documents are of the same time as the real processes"
)]
pub fn unix_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

fn key(path: &Path) -> Result<SecretKey> {
    let pem = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(SecretKey::from_pem(&pem)?)
}
