//! What the acceptance function is told: facts of the device, and what is offered to it.

use std::collections::BTreeMap;

use ensign_crypto::PublicKey;

use crate::digest::{DeviceId, Digest, Nonce};
use crate::ids::{Ident, Version};
use crate::plan::evidence::Membership;
use crate::reason::Code;
use crate::trust::Source;

/// How far the answer reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// May fetch and stage. Of a plan that says `prefetch`, before its gate opens too.
    Prepare,
    /// May switch now: also lease, windows and lock.
    Switch,
}

/// What the applier knows of its own device; nothing here comes from the link half.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    pub id: DeviceId,
    pub name: String,
    pub receipt_key: PublicKey,
    /// Of this start of the applier: leases answer it.
    pub nonce: Nonce,
    /// As Rust names it: `x86_64`, `aarch64`, `arm`, ...
    pub arch: String,
    /// From the device's own configuration; empty = none.
    pub hardware: String,
    /// Version of this program.
    pub agent: Version,
    /// What runs, by product.
    pub installed: BTreeMap<Ident, Installed>,
    /// Manifests that failed here.
    pub denied: BTreeMap<Digest, Denial>,
    /// The plan under way that [`crate::trust::Trusted::started`] has recorded already.
    pub attempt: Option<Digest>,
    /// The trust state is the older of two copies: nothing is installed before a fresh refresh.
    pub trust_degraded: bool,
    /// The plan's maintenance windows, evaluated.
    pub window: Window,
    /// Why somebody locked the device.
    pub lock: Option<String>,
}

/// How a release failed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The last time.
    pub code: Code,
    /// How often.
    pub count: u32,
}

/// A product that the device runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    pub version: Version,
    pub counter: u64,
    pub manifest: Digest,
    /// The plan that brought it.
    pub plan: Digest,
    /// Boot-clock time since the switch, summed over boots, seconds.
    pub switched_for_s: u64,
}

/// Maintenance windows now. They protect nothing: they go by the system clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Window {
    #[default]
    Open,
    Closed {
        /// When the next one opens, if that is known.
        opens: Option<u64>,
    },
    /// One of them cannot be evaluated here.
    Unknown(String),
}

/// What is offered. The release document is not part of it: it is in the trust state.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Envelope of the plan.
    pub plan: &'a [u8],
    pub member: &'a Membership,
    /// The gate's bytes.
    pub gate: Option<&'a [u8]>,
    pub lease: Option<HeldLease<'a>>,
    /// Envelope of the plan that a prepared revert undoes; the device has kept it.
    pub forward: Option<&'a [u8]>,
    /// Boot-clock time since this device first verified the plan, summed over boots, seconds.
    pub dwell_s: u64,
    pub source: Source,
}

/// A lease and its age.
#[derive(Clone, Copy, Debug)]
pub struct HeldLease<'a> {
    pub envelope: &'a [u8],
    /// Boot-clock time since the applier first saw exactly these bytes, seconds: showing them again gains nothing.
    pub age_s: u64,
}
