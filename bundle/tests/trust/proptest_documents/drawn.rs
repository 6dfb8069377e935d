//! Documents with any content that their types can hold.

use std::collections::BTreeMap;

use ensign_bundle::codec::{self, Ext};
use ensign_bundle::digest::{CutSeed, DeviceId, Digest, FleetId, Nonce};
use ensign_bundle::ids::{Ident, Label, Version};
use ensign_bundle::plan::evidence::{
    Binding, Gate, GateReceipt, Lease, Membership, Receipt, ReceiptState, TimeAttestation,
};
use ensign_bundle::plan::rotation::Rotation;
use ensign_bundle::plan::statements::{
    Bound, Cancel, Cohort, Evidence, GateKind, Grant, HealthBounds, Hold, OnBreach, Pace, Plan, PlanRelease, Promote,
    Reverts, Stop, Subject, Wave,
};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::{
    Compatible, Controller, FileRef, Floors, Listed, ListedRelease, Policy, Product, ProductFloor, Release, Role, Root,
    RootRoles, Scope, Snapshot, Targets, Timestamp,
};
use ensign_crypto::{KeyId, PublicKey};
use serde_bytes::ByteBuf;

use crate::fleet::public;

/// Values from a seed: the same seed draws the same.
pub(super) struct Draw {
    seed: u64,
    drawn: u64,
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    pub(super) fn draw<T: Drawn>(&mut self) -> T {
        T::drawn(self)
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn bytes(&mut self) -> [u8; 32] {
        self.drawn += 1;
        Digest::of(&[self.seed.to_be_bytes(), self.drawn.to_be_bytes()].concat()).0
    }

    pub(super) fn below(&mut self, most: u64) -> u64 {
        let [a, b, c, d, ..] = self.bytes();
        u64::from(u32::from_be_bytes([a, b, c, d])) % most
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn name(&mut self, first: &str, rest: &str, most: u64) -> String {
        let mut name = String::from(char::from(self.pick(first.as_bytes())));
        for _ in 0..self.below(most) {
            name.push(char::from(self.pick(rest.as_bytes())));
        }
        name
    }
}

/// What can be drawn.
pub(super) trait Drawn: Sized {
    fn drawn(from: &mut Draw) -> Self;
}

impl Drawn for u64 {
    /// Around each border of a number's width, and anything.
    fn drawn(from: &mut Draw) -> Self {
        let border = from.pick(&[0, 1, 24, 1 << 8, 1 << 16, 1 << 32, Self::MAX]);
        match from.below(4) {
            0 => border,
            1 => border.saturating_sub(1),
            2 => border.saturating_add(1),
            _ => from.below(1 << 32) << from.below(33),
        }
    }
}

impl Drawn for u32 {
    fn drawn(from: &mut Draw) -> Self {
        Self::try_from(from.draw::<u64>()).unwrap_or(Self::MAX)
    }
}

impl Drawn for u16 {
    fn drawn(from: &mut Draw) -> Self {
        Self::try_from(from.draw::<u64>()).unwrap_or(Self::MAX)
    }
}

impl Drawn for bool {
    fn drawn(from: &mut Draw) -> Self {
        from.one_in(2)
    }
}

impl Drawn for String {
    /// Lengths on both sides of 24 and 256 bytes, some beyond ASCII.
    fn drawn(from: &mut Draw) -> Self {
        let piece = from.pick(&["", "a", "halt", "é☕", "\u{0}\"\n", "confirmed"]);
        let times = from.pick(&[1, 1, 1, 5, 23, 24, 255, 256]);
        piece.repeat(times)
    }
}

impl Drawn for Ident {
    fn drawn(from: &mut Draw) -> Self {
        Self::parse(&from.name("abz09", "az09._-", 64)).unwrap()
    }
}

impl Drawn for Version {
    fn drawn(from: &mut Draw) -> Self {
        Self::parse(&from.name("aZ09", "aZ09.+_-", 63)).unwrap()
    }
}

impl Drawn for Label {
    fn drawn(from: &mut Draw) -> Self {
        Self::parse(&from.name("aZ09", "aZ09._/-", 63)).unwrap()
    }
}

macro_rules! bytes {
    ($($name:ident),*) => { $(impl Drawn for $name {
        fn drawn(from: &mut Draw) -> Self {
            Self(from.bytes())
        }
    })* };
}
bytes!(Digest, DeviceId, FleetId, Nonce, KeyId);

impl Drawn for CutSeed {
    fn drawn(from: &mut Draw) -> Self {
        Self(*from.bytes().first_chunk().unwrap())
    }
}

impl Drawn for PublicKey {
    fn drawn(from: &mut Draw) -> Self {
        public(from.bytes()[0] % 8)
    }
}

impl Drawn for ByteBuf {
    fn drawn(from: &mut Draw) -> Self {
        let times = from.pick(&[0, 1, 9]);
        Self::from(from.bytes().repeat(times))
    }
}

impl Drawn for Ext {
    fn drawn(from: &mut Draw) -> Self {
        let fields: &[&[u8]] = &[
            b"\xa0",
            b"\xa0",
            b"\xa1\x61a\x00",
            b"\xa2\x61b\xf6\x62aa\x84\x20\xf5\x41\x00\xa1\x61c\x80",
        ];
        codec::decode(from.pick(fields), 20).unwrap()
    }
}

impl Drawn for Code {
    fn drawn(from: &mut Draw) -> Self {
        from.pick(Self::ALL)
    }
}

impl<T: Drawn> Drawn for Option<T> {
    fn drawn(from: &mut Draw) -> Self {
        from.one_in(2).then(|| from.draw())
    }
}

impl<T: Drawn> Drawn for Vec<T> {
    fn drawn(from: &mut Draw) -> Self {
        let length = from.pick(&[0, 1, 1, 2, 2, 25]);
        (0..length).map(|_| from.draw()).collect()
    }
}

impl<K: Drawn + Ord, V: Drawn> Drawn for BTreeMap<K, V> {
    fn drawn(from: &mut Draw) -> Self {
        let length = from.below(4);
        (0..length).map(|_| (from.draw(), from.draw())).collect()
    }
}

/// Every field of a struct.
macro_rules! structs {
    ($($name:ident { $($field:ident),* $(,)? })*) => { $(impl Drawn for $name {
        fn drawn(from: &mut Draw) -> Self {
            Self { $($field: from.draw()),* }
        }
    })* };
}
structs! {
    Role { keys, threshold }
    FileRef { digest, length }
    Listed { version, length, digest }
    Root { format, version, issued, expires, fleet, name, roles, scopes, protected, policy, controller, floors, time_reset, min_protocol, ext }
    RootRoles { root, targets, snapshot, timestamp }
    Scope { name, select, role }
    Policy { lab, first_wave_max, offline, offline_without_time, timestamp_life_s, known_canaries }
    Controller { keys, api, addresses }
    Floors { reset_epoch, targets_version, products }
    ProductFloor { plan_seq, counter, security }
    Targets { format, version, issued, expires, products, ext }
    Product { name, role, components, kinds, handlers, units, security_floor, lowest, network, ext }
    Release { format, version, issued, expires, product, release, counter, security_floor, manifest, compatible, yanked, patch_index, ext }
    Compatible { arch, hardware, min_agent, min_from }
    Snapshot { format, version, issued, expires, targets, releases, ext }
    ListedRelease { product, release, counter, document }
    Timestamp { format, version, issued, expires, snapshot, ext }
    Plan {
        format, issued, product, seq, cut_seed, release, waves, not_before, expires, windows, health, reverts, downgrade, offline, emergency, pace,
        select, exclude, reason, ext,
    }
    PlanRelease { version, counter, manifest, length }
    Wave { cohort, min_soak_s, gate, evidence }
    HealthBounds { window_s, deadline_s }
    Reverts { plan, from, to, revert_for_s, failures }
    Pace { max_parallel, one_per, rate_per_h, prefetch, priority, stop }
    Stop { failed, dark, min_sample, dark_after_s, quorum_bp, reach_s, on_breach }
    Cancel { format, issued, plan, product, reason }
    Hold { format, issued, device, seq, held, reason }
    Promote { format, issued, plan, wave }
    Grant { format, issued, subject, labels, label_seq }
    Binding { format, issued, device, key, receipt_key, token, grant, name, claims }
    Receipt { format, issued, plan, release, device, state, healthy_for_s, seq }
    Gate { format, plan, wave, receipts, promote }
    GateReceipt { receipt, device, member }
    Membership { wave, index, receipt_key, path }
    Lease { format, issued, plan, device, nonce, ttl_s }
    TimeAttestation { format, fleet, device, nonce, time }
    Rotation { format, issued, device, old, new, receipt_key }
}

impl Drawn for Cohort {
    fn drawn(from: &mut Draw) -> Self {
        if from.draw() {
            Self::Listed {
                root: from.draw(),
                count: from.draw(),
            }
        } else {
            Self::Selector {
                expr: from.draw(),
                cumulative_bp: from.draw(),
            }
        }
    }
}

impl Drawn for Evidence {
    fn drawn(from: &mut Draw) -> Self {
        from.draw::<Option<u32>>().map_or(Self::Dwell, Self::Receipts)
    }
}

impl Drawn for GateKind {
    fn drawn(from: &mut Draw) -> Self {
        from.pick(&[Self::Auto, Self::Manual])
    }
}

impl Drawn for OnBreach {
    fn drawn(from: &mut Draw) -> Self {
        from.pick(&[Self::Halt, Self::Revert])
    }
}

impl Drawn for Bound {
    fn drawn(from: &mut Draw) -> Self {
        if from.draw() {
            Self::Count(from.draw())
        } else {
            Self::BasisPoints(from.draw())
        }
    }
}

impl Drawn for Subject {
    fn drawn(from: &mut Draw) -> Self {
        if from.draw() {
            return Self::Device(from.draw());
        }
        Self::Token {
            key: from.draw(),
            uses: from.draw(),
            expires: from.draw(),
            approve: from.draw(),
        }
    }
}

impl Drawn for ReceiptState {
    fn drawn(from: &mut Draw) -> Self {
        match from.below(3) {
            0 => Self::Confirmed,
            1 => Self::Failed { code: from.draw() },
            _ => Self::RolledBack { code: from.draw() },
        }
    }
}
