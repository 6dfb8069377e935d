//! A plan on its way between the machines of its signers: the plan, the evidence of every device in it, and the metadata that leads to
//! its release. Nobody signs the file, and nothing in it counts but what somebody signed.
//!
//! ```text
//! magic (12 bytes) | map { format, plan, chain, tokens, devices }
//! ```

use std::collections::BTreeSet;

use ensign_crypto::Envelope;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::cohort::{CutWave, Listed};
use super::membership::Member;
use super::statements::{Cohort, Plan};
use crate::codec;
use crate::limits;
use crate::reason::{Code, Refusal};
use crate::refuse;
use crate::statement::{self, Signed};
use crate::trust::roles::FORMAT;
use crate::words::show_count;

/// How a plan file begins: a transfer that changes line ends or cuts at an end-of-file mark is noticed.
pub const MAGIC: [u8; 12] = *b"ENSIGNPL\r\n\x1a\n";

/// A plan that travels. None of its signatures is checked.
#[derive(Clone, Debug)]
pub struct PlanFile {
    pub plan: Signed<Plan>,
    /// Envelopes: the roots after the first in order, then timestamp, snapshot, targets, and the document of the plan's release.
    pub chain: Vec<Envelope>,
    /// Grants of the tokens that the devices joined with.
    pub tokens: Vec<Vec<u8>>,
    pub devices: Vec<PlanDevice>,
}

/// What a device's place in a plan rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanDevice {
    /// From 1.
    pub wave: u32,
    /// Index of the grant of its token.
    pub token: u32,
    /// Envelope of the binding that it joined with.
    pub binding: ByteBuf,
    /// Envelope of the newest grant of its own, if it was ever labelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<ByteBuf>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    format: u16,
    plan: ByteBuf,
    chain: Vec<ByteBuf>,
    tokens: Vec<ByteBuf>,
    devices: Vec<PlanDevice>,
}

impl PlanFile {
    /// Reads a file of at most [`limits::PLAN_FILE_BYTES`]. Accepts exactly what [`Self::encode`] writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > limits::PLAN_FILE_BYTES {
            return refuse!(
                LimitExceeded,
                "the plan file has {} bytes, at most {} are allowed",
                bytes.len(),
                limits::PLAN_FILE_BYTES
            );
        }
        let Some(rest) = bytes.strip_prefix(&MAGIC) else {
            return refuse!(Malformed, "this is no plan file");
        };
        let body: Body = codec::decode_exact(rest, limits::PLAN_FILE_ITEMS)
            .map_err(|e| Refusal::new(Code::Malformed, format!("plan file: {e}")))?;
        if body.format != FORMAT {
            return refuse!(
                VersionUnknown,
                "the plan file has format {}, this program knows {FORMAT}",
                body.format
            );
        }
        let plan = statement::open_unverified::<Plan>(&body.plan)?;
        let chain = body.chain.iter().map(|bytes| {
            Envelope::parse(bytes, limits::TARGETS_BYTES)
                .map_err(|e| Refusal::new(Code::Malformed, format!("the plan file's metadata: {e}")))
        });
        let chain = chain.collect::<Result<_, _>>()?;
        for device in &body.devices {
            let waves = plan.body.waves.len();
            if device.wave == 0 || device.wave as usize > waves {
                return refuse!(
                    Malformed,
                    "the plan file puts a device into wave {}, the plan has {waves}",
                    device.wave
                );
            }
            if device.token as usize >= body.tokens.len() {
                return refuse!(
                    Malformed,
                    "the plan file names token {} of {}",
                    device.token,
                    body.tokens.len()
                );
            }
        }
        Ok(Self {
            plan,
            chain,
            tokens: body.tokens.into_iter().map(ByteBuf::into_vec).collect(),
            devices: body.devices,
        })
    }

    /// The bytes that [`Self::parse`] reads.
    pub fn encode(&self) -> Result<Vec<u8>, Refusal> {
        let body = Body {
            format: FORMAT,
            plan: ByteBuf::from(self.plan.envelope.encode()),
            chain: self.chain.iter().map(|e| ByteBuf::from(e.encode())).collect(),
            tokens: self.tokens.iter().cloned().map(ByteBuf::from).collect(),
            devices: self.devices.clone(),
        };
        let body = codec::encode(&body).map_err(|e| Refusal::new(Code::Malformed, format!("plan file: {e}")))?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&body);
        if bytes.len() > limits::PLAN_FILE_BYTES {
            return refuse!(
                LimitExceeded,
                "the plan file has {} bytes, at most {} are allowed",
                bytes.len(),
                limits::PLAN_FILE_BYTES
            );
        }
        Ok(bytes)
    }

    /// The waves that the verified devices make: exactly those under the roots that the plan signs. `members` stand in the order of
    /// [`Self::devices`].
    pub fn cut(&self, members: &[&Member]) -> Result<Vec<CutWave>, Refusal> {
        if members.len() != self.devices.len() {
            return refuse!(
                Malformed,
                "the evidence of {} was verified, the plan file lists {}",
                show_count(members.len() as u64, "device"),
                self.devices.len()
            );
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = members.iter().find(|m| !seen.insert(m.device)) {
            return refuse!(Conflict, "device {} is in the plan file twice", twice.device);
        }
        let waves = self.plan.body.waves.iter().zip(1u32..).map(|(wave, number)| {
            let Cohort::Listed { root, count } = &wave.cohort else {
                return refuse!(Usage, "wave {number} has a selector; a plan file lists its devices");
            };
            let listed = self
                .devices
                .iter()
                .zip(members)
                .filter(|(device, _)| device.wave == number);
            let listed = listed.map(|(_, member)| Listed {
                device: member.device,
                receipt_key: member.receipt_key,
            });
            let cut = CutWave::new(number, listed.collect());
            if cut.root != *root || cut.count() != *count {
                return refuse!(
                    ContentMismatch,
                    "the file lists {} with root {} in wave {number}, the plan signs {count} with {root}",
                    show_count(u64::from(cut.count()), "device"),
                    cut.root
                );
            }
            Ok(cut)
        });
        waves.collect()
    }
}
