//! Plans as they were signed, with the lists under their Merkle roots.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};

use ensign_bundle::codec;
use ensign_bundle::digest::{DeviceId, Digest, PlanId};
use ensign_bundle::plan::cohort::{CutWave, Listed};
use ensign_bundle::plan::evidence::Membership;
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement;
use ensign_bundle::wire::{DocKind, DocRef};
use ensign_crypto::PublicKey;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::rows::StatementRow;
use super::state::read_document;
use crate::store::blobs::BlobStore;

/// A plan as it came: `plan/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlanRow {
    /// Digest of the plan's payload.
    pub plan: Digest,
    /// The plan's envelope.
    pub document: StatementRow,
    /// Digest of the lists of its waves, a document of their own.
    pub lists: Digest,
    /// Gates that were opened, by wave.
    #[serde(default)]
    pub gates: BTreeMap<u32, StatementRow>,
    /// Promote statements, by wave.
    #[serde(default)]
    pub promotes: BTreeMap<u32, StatementRow>,
    /// The statement that ended it for ever.
    #[serde(default)]
    pub cancel: Option<StatementRow>,
    /// Record bytes that this controller sent for it.
    #[serde(default)]
    pub sent: u64,
    pub started_by: String,
}

/// The newest receipt of a device for a plan: `receipt/<rollout>/<device>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReceiptRow {
    pub seq: u64,
    pub envelope: ByteBuf,
}

/// A plan as the controller keeps it. What it asks for stands in the planner's model too, so a rollout is shown and ended without its
/// documents; devices are shown the documents themselves.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) row: PlanRow,
    /// None: damaged or gone on disk.
    pub(super) signed: Option<SignedPlan>,
}

/// A plan with its lists.
#[derive(Debug)]
pub(super) struct SignedPlan {
    pub(super) body: Plan,
    waves: Vec<CutWave>,
    /// Proofs of every member, made when the first is asked for: a tree is hashed once, not once per device.
    proofs: OnceCell<HashMap<DeviceId, Membership>>,
}

impl Entry {
    /// The plan and its lists, as long as they can be read.
    pub(super) fn signed(&self) -> Result<&SignedPlan, Refusal> {
        self.signed.as_ref().ok_or_else(|| self.lost())
    }

    pub(super) fn lost(&self) -> Refusal {
        let id = PlanId::of(&self.row.plan);
        Refusal::new(
            Code::PlanLost,
            format!("the controller's copy of the plan of rollout {id} cannot be read"),
        )
    }
}

impl SignedPlan {
    pub(super) fn new(body: Plan, waves: Vec<CutWave>) -> Self {
        Self {
            body,
            waves,
            proofs: OnceCell::new(),
        }
    }

    /// From the documents that the row names.
    pub(super) fn read(documents: &dyn BlobStore, row: &PlanRow) -> Result<Self, Refusal> {
        let document = read_document(documents, &row.document.digest)?;
        let body = statement::open_unverified::<Plan>(&document)?.body;
        let waves = decode_lists(&read_document(documents, &row.lists)?)?;
        Ok(Self::new(body, waves))
    }

    /// Who is in which wave.
    pub(super) fn waves(&self) -> &[CutWave] {
        &self.waves
    }

    /// Place of a device, with its proof.
    pub(super) fn membership(&self, device: &DeviceId) -> Option<Membership> {
        let all = || self.waves.iter().flat_map(CutWave::proofs).collect();
        self.proofs.get_or_init(all).get(device).cloned()
    }
}

/// A statement as devices fetch it.
pub(super) const fn doc(kind: DocKind, row: &StatementRow) -> DocRef {
    DocRef {
        kind,
        digest: row.digest,
        length: row.length,
    }
}

/// Waves as a document: `[[[device, receipt key], ...], ...]`.
pub(super) fn encode_lists(waves: &[CutWave]) -> Result<Vec<u8>, Refusal> {
    let lists: Vec<Vec<(DeviceId, PublicKey)>> = waves
        .iter()
        .map(|wave| wave.members.iter().map(|m| (m.device, m.receipt_key)).collect())
        .collect();
    codec::encode(&lists).map_err(|e| Refusal::new(Code::Malformed, e.to_string()))
}

/// What [`encode_lists`] wrote.
fn decode_lists(bytes: &[u8]) -> Result<Vec<CutWave>, Refusal> {
    let lists: Vec<Vec<(DeviceId, PublicKey)>> =
        codec::decode(bytes, bytes.len()).map_err(|e| Refusal::new(Code::Malformed, e.to_string()))?;
    let wave = |(list, number): (Vec<_>, u32)| {
        let members = list
            .into_iter()
            .map(|(device, receipt_key)| Listed { device, receipt_key });
        CutWave::new(number, members.collect())
    };
    Ok(lists.into_iter().zip(1u32..).map(wave).collect())
}
