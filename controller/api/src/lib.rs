//! Types of the operators' API, shared by the controller and the command `ensign`.
//!
//! Scripts depend on the JSON keys: they may be added, never renamed. Keys ending in `_s` are seconds, sizes are bytes,
//! times are RFC 3339 UTC ([`Time`]), bytes are standard base64 ([`Base64`]), digests and keys are lower-case hexadecimal.
//! Requests that carry a signed document alone send its envelope as `application/octet-stream`.
//!
//! | method and path | request | answer |
//! |---|---|---|
//! | `GET /v1/fleet` | | [`Fleet`] |
//! | `POST /v1/fleet/{freeze,unfreeze}` | [`Change`] | [`Fleet`] |
//! | `GET /v1/metadata` | [`MetadataQuery`] | list of [`Metadata`] |
//! | `GET /v1/documents/{digest}` | | bytes |
//! | `POST /v1/metadata/{root,targets}` | envelope, or [`NewRoot`], [`NewTargets`] | list of [`Metadata`] |
//! | `POST /v1/tokens` | [`NewToken`] | [`Token`] |
//! | `GET /v1/tokens` | | list of [`Token`] |
//! | `POST /v1/tokens/{key}/revoke` | [`Change`] | [`Token`] |
//! | `GET /v1/devices` | | list of [`Device`] |
//! | `GET /v1/devices/{id}` | | [`DeviceDetail`] |
//! | `GET /v1/devices/{id}/why` | | [`Why`] |
//! | `GET /v1/evidence` | | list of [`DeviceEvidence`] |
//! | `POST /v1/devices/{id}/{accept,reject,suspend,unsuspend,revoke}` | [`Change`] | [`Device`] |
//! | `POST /v1/devices/{id}/{grant,hold}` | envelope | [`Device`] |
//! | `POST /v1/blobs/missing` | [`Digests`] | [`Missing`] |
//! | `POST /v1/blobs` | records: digest 32 B ‖ u64 BE length ‖ bytes | [`Stored`] |
//! | `POST /v1/releases` | envelope | [`Release`] |
//! | `GET /v1/releases` | | list of [`Release`] |
//! | `GET /v1/releases/{product}/{version}` | | [`Release`] |
//! | `POST /v1/rollouts` | [`StartRollout`] | [`Rollout`] |
//! | `GET /v1/rollouts` | | list of [`Rollout`], newest first |
//! | `GET /v1/rollouts/{id}` | [`RolloutQuery`] | [`Rollout`] |
//! | `POST /v1/rollouts/{id}/{pause,resume}` | [`Change`] | [`Rollout`] |
//! | `POST /v1/rollouts/{id}/{cancel,promote}` | envelope | [`Rollout`] |
//! | `POST /v1/rollouts/{id}/release` | [`ReleaseSlots`] | [`Rollout`] |
//! | `GET /v1/rollouts/{id}/plan` | | [`SignedPlan`] |
//! | `GET /v1/rollouts/{id}/why` | [`WhyQuery`] | [`Why`] |
#![warn(missing_debug_implementations)]

mod device;
mod fleet;
mod release;
mod rollout;
mod value;

pub use device::{
    Change, Device, DeviceDetail, DeviceEvidence, DeviceState, DeviceStatus, InstalledProduct, NewToken, Token,
};
pub use fleet::{
    Fleet, Frozen, Halted, Metadata, MetadataKind, MetadataQuery, NewRoot, NewTargets, RoleState, Unheard,
};
pub use release::{BatchHeader, Component, Digests, Missing, Release, SignatureRow, Stored};
pub use rollout::{
    Away, Member, ReleaseSlots, Rollout, RolloutQuery, RolloutState, SignedPlan, StartRollout, TransferBytes, Waiting,
    WaveState, WaveStatus, Why, WhyQuery,
};
pub use value::{Base64, ErrorBody, ErrorDocument, Reason, Time};
