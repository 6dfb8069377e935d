//! Every limit on bytes that come from outside, with its unit. `docs/formats.md` lists them.

/// Largest root document, bytes.
pub const ROOT_BYTES: usize = 64 << 10;
/// Largest targets document, bytes.
pub const TARGETS_BYTES: usize = 1 << 20;
/// Largest release document, bytes.
pub const RELEASE_BYTES: usize = 64 << 10;
/// Largest snapshot, bytes.
pub const SNAPSHOT_BYTES: usize = 1 << 20;
/// Largest timestamp, bytes.
pub const TIMESTAMP_BYTES: usize = 16 << 10;
/// Largest plan, bytes (cohorts are Merkle roots, so a plan does not grow with the fleet).
pub const PLAN_BYTES: usize = 64 << 10;
/// Largest plan file, bytes: a plan on its way between signers, with the evidence of every device in it, about 1 KiB each.
pub const PLAN_FILE_BYTES: usize = 256 << 20;
/// CBOR items in a plan file: at most 9 for each device.
pub const PLAN_FILE_ITEMS: usize = 16 << 20;
/// Largest gate, bytes.
pub const GATE_BYTES: usize = 64 << 10;
/// Largest stored trust state, bytes.
pub const TRUST_STATE_BYTES: usize = 256 << 20;
/// Largest grant, cancel, hold, promote, binding, receipt, lease or time attestation, bytes.
pub const STATEMENT_BYTES: usize = 4 << 10;
/// CBOR items in a role or statement.
pub const ROLE_ITEMS: usize = 100_000;
/// Root versions followed in one refresh; the next refresh goes on from there.
pub const ROOT_STEPS: usize = 256;

/// Largest manifest, bytes.
pub const MANIFEST_BYTES: usize = 64 << 20;
/// CBOR items in a manifest.
pub const MANIFEST_ITEMS: usize = 16 << 20;
/// Files, directories and symlinks in a component.
pub const FILES: usize = 1 << 20;
/// Components in a release.
pub const COMPONENTS: usize = 256;
/// Blocks in a component.
pub const BLOCKS: usize = 1 << 20;
/// Uncompressed bytes of a block.
pub const BLOCK_BYTES: usize = 1 << 20;
/// Stored (compressed or raw) bytes of a block: what cannot be compressed is stored raw, so never more than the plain block.
pub const STORED_BLOCK_BYTES: usize = BLOCK_BYTES;
/// Largest block table, bytes.
pub const BLOCK_TABLE_BYTES: usize = 256 << 20;
/// CBOR items in a block table: 7 for a block and 4 for a piece, with as many files as there may be.
pub const BLOCK_TABLE_ITEMS: usize = 16 << 20;
/// Header of a bundle file, bytes.
pub const HEADER_BYTES: usize = 64 << 10;
/// Path inside a component, bytes.
pub const PATH_BYTES: usize = 1024;
/// One name of a path, bytes.
pub const NAME_BYTES: usize = 255;
/// Directories above a file.
pub const PATH_DEPTH: usize = 32;

/// One frame of the control stream, bytes.
pub const FRAME_BYTES: usize = 64 << 10;
/// Proof path of a cohort: 2^32 devices.
pub const PROOF_STEPS: usize = 32;
/// Receipts that one gate carries.
pub const GATE_RECEIPTS: usize = 64;
/// Waves in a plan.
pub const WAVES: usize = 64;
/// Labels of a device.
pub const LABELS: usize = 64;
/// Facts a device reports.
pub const FACTS: usize = 64;
/// A device's name, bytes.
pub const DEVICE_NAME_BYTES: usize = 63;
/// Longest interval or delay that a device takes from a controller, seconds.
pub const CLAMP_S: u64 = 24 * 3600;

/// Longest life of each role that a device accepts, seconds.
pub const OFFLINE_ROLE_LIFE_S: u64 = 400 * 24 * 3600;
/// See [`OFFLINE_ROLE_LIFE_S`].
pub const SNAPSHOT_LIFE_S: u64 = 14 * 24 * 3600;
/// See [`OFFLINE_ROLE_LIFE_S`]. An air-gapped profile may ask for up to 30 days in root's policy.
pub const TIMESTAMP_LIFE_S: u64 = 3 * 24 * 3600;
/// Longest life of a timestamp that root's policy may ask for, seconds.
pub const AIR_GAPPED_TIMESTAMP_LIFE_S: u64 = 30 * 24 * 3600;
/// Longest life of a plan, seconds.
pub const PLAN_LIFE_S: u64 = 30 * 24 * 3600;
/// The latest time that anything may attest: 2200-01-01. A counter of seconds beyond it is no clock.
pub const LATEST_TIME: u64 = 7_258_118_400;
/// Issued further ahead of a synchronised clock than this is refused, seconds.
pub const ISSUED_AHEAD_S: u64 = 24 * 3600;
/// The number of a plan, a hold or a grant is at most this much above its `issued`: numbers are unix seconds, or the last one and 1.
pub const NUMBER_AHEAD_S: u64 = 24 * 3600;
/// Longest lease, seconds of the boot clock.
pub const LEASE_S: u64 = 15 * 60;
