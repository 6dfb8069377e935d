//! E12 and E24 to E37: documents that are not what they should be.

use ensign_bundle::codec::{self, Ext};
use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::each_document;
use ensign_bundle::limits;
use ensign_bundle::manifest::Manifest;
use ensign_bundle::plan::statements::Plan;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement::{self, Document};
use ensign_bundle::trust::roles::{FileRef, Listed, Release, Role, Root, Snapshot, Targets, Timestamp};
use ensign_bundle::trust::{Source, Trusted};
use ensign_crypto::{Envelope, Signature, aad};

use super::{holds, payload, raw, swap, text};
use crate::fleet::*;

fn open<T: Document>(bytes: &[u8]) -> Option<Code> {
    statement::open_unverified::<T>(bytes).err().map(|r| r.code)
}

fn a_plan() -> Plan {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    let devices: Vec<_> = (0..3).map(Device::new).collect();
    fleet.plan(&app, &devices, "1,100%").0
}

/// A fleet with a release, published.
fn full() -> Fleet {
    let mut fleet = Fleet::new();
    fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    fleet
}

#[test]
fn e12_each_role_has_a_largest_size_that_is_looked_at_first() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let mut device = fleet.fresh();
    let now = fleet.now;
    let online = Source::Online;
    let long = |most: usize| vec![0; most + 1];
    let code = |result: Result<(), Refusal>| result.unwrap_err().code;
    let limit = Code::LimitExceeded;
    assert_eq!(code(device.update_root(&long(limits::ROOT_BYTES), now)), limit);
    let timestamp = device.update_timestamp(&long(limits::TIMESTAMP_BYTES), now, online);
    assert_eq!(code(timestamp.map(drop)), limit);
    // The others are pinned by their length before anything else.
    let snapshot = device.update_snapshot(&long(limits::SNAPSHOT_BYTES), now, online);
    assert_eq!(code(snapshot.map(drop)), Code::ContentMismatch);
    let targets = device.update_targets(&long(limits::TARGETS_BYTES), now, online);
    assert_eq!(code(targets.map(drop)), Code::ContentMismatch);
    let release = device.update_release(&app, &long(limits::RELEASE_BYTES), now, online);
    assert_eq!(code(release.map(drop)), Code::ContentMismatch);
    assert_eq!(open::<Snapshot>(&long(limits::SNAPSHOT_BYTES)), Some(limit));
    assert_eq!(open::<Targets>(&long(limits::TARGETS_BYTES)), Some(limit));
    assert_eq!(open::<Release>(&long(limits::RELEASE_BYTES)), Some(limit));
    assert_eq!(open::<Plan>(&long(limits::PLAN_BYTES)), Some(limit));
    // A signer is stopped as well.
    let mut wide = fleet.root.clone();
    wide.name = "x".repeat(limits::ROOT_BYTES);
    assert_eq!(statement::sign(&wide, &[&key(1)], &FLEET).unwrap_err().code, limit);
}

#[test]
fn e24_a_signature_counts_for_the_key_that_made_it_and_no_other() {
    let mut fleet = Fleet::new();
    fleet.next_root(
        |root| {
            root.roles.targets = Role {
                keys: vec![public(3), public(30)],
                threshold: 2,
            };
        },
        &[],
    );
    let mut device = fleet.trust();
    device.update_root(&fleet.roots[1], fleet.now).unwrap();
    // One key's signature under its own id and, once more, under the other's.
    let mut envelope = statement::seal(&fleet.targets).unwrap();
    envelope.sign(&key(3), &aad(&FLEET.0));
    let bytes = envelope.signatures()[0].bytes;
    let id = public(30).id();
    envelope.add(Signature { key: id, bytes }).unwrap();
    fleet.targets_bytes = envelope.encode();
    fleet.publish();
    assert_eq!(code(fleet.refresh(&mut device)), Code::ThresholdNotMet);
    assert!(device.targets().is_none());
}

#[test]
fn e25_a_root_without_keys_or_with_other_roles_is_no_root() {
    let root = full().root;
    let empty = |change: fn(&mut Root)| {
        let mut root = root.clone();
        change(&mut root);
        let bytes = raw("root", codec::encode(&root).unwrap(), &[1]);
        open::<Root>(&bytes)
    };
    let keys = Some(Code::KeysRefused);
    assert_eq!(empty(|r| r.roles.root.keys.clear()), keys);
    assert_eq!(empty(|r| r.roles.timestamp.keys.clear()), keys);
    assert_eq!(empty(|r| r.scopes[0].role.keys.clear()), keys);
    assert_eq!(empty(|r| r.roles.snapshot.threshold = 0), keys);
    assert_eq!(empty(|r| r.roles.snapshot.threshold = 2), keys);
    let good = payload(&root);
    let role = [text("snapshot"), codec::encode(&root.roles.snapshot).unwrap()].concat();
    let malformed = Some(Code::Malformed);
    let roles = |from: u8, to: u8, what: &[u8], other: &[u8]| {
        let start = [&text("roles")[..], &[from]].concat();
        let good = swap(&good, &start, &[&text("roles")[..], &[to]].concat());
        open::<Root>(&raw("root", swap(&good, what, other), &[1]))
    };
    assert_eq!(
        roles(0xa4, 0xa4, &role, &role),
        None,
        "each change below is the only one"
    );
    // A role that is missing.
    assert_eq!(roles(0xa4, 0xa3, &role, &[]), malformed);
    // One that nobody knows, beside those that must be there; where the order of keys wants it.
    let mirrors = [&text("tutelage")[..], &role[text("snapshot").len()..]].concat();
    assert_eq!(roles(0xa4, 0xa5, &role, &[&role[..], &mirrors].concat()), malformed);
    // A role that is null.
    let null = [text("snapshot"), vec![0xf6]].concat();
    assert_eq!(roles(0xa4, 0xa4, &role, &null), malformed);
}

/// Every byte of the payload replaced by what means something else, and the payload cut off there: refused or understood.
fn hammer<T: Document>() {
    let name = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/{}-v1.cose"), T::KIND);
    let golden = std::fs::read(name).unwrap();
    let good = Envelope::parse(&golden, golden.len()).unwrap().payload().to_vec();
    assert_eq!(open::<T>(&raw(T::KIND, good.clone(), &[])), None, "{}", T::KIND);
    for at in 0..good.len() {
        for byte in [
            0x00, 0x20, 0x40, 0x5f, 0x7b, 0x80, 0x9b, 0xa0, 0xbb, 0xd8, 0xf4, 0xf6, 0xfb, 0xff,
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            let _ = open::<T>(&raw(T::KIND, bad, &[]));
        }
        let cut = raw(T::KIND, good[..at].to_vec(), &[]);
        assert_eq!(open::<T>(&cut), Some(Code::Malformed), "{} cut at {at}", T::KIND);
    }
    let envelope = raw(T::KIND, good, &[1]);
    for at in 0..envelope.len() {
        assert_eq!(
            open::<T>(&envelope[..at]),
            Some(Code::Malformed),
            "{} cut at {at}",
            T::KIND
        );
    }
    for garbage in [&[0xf6][..], &[0x80], &[0xa0], b"{}", &[0xff; 64]] {
        assert_eq!(open::<T>(&raw(T::KIND, garbage.to_vec(), &[])), Some(Code::Malformed));
        assert_eq!(open::<T>(garbage), Some(Code::Malformed));
    }
}

#[test]
fn e27_nothing_panics_before_the_signature_is_checked() {
    macro_rules! all {
        ($($document:ty),* $(,)?) => { $(hammer::<$document>();)* };
    }
    each_document!(all);
}

#[test]
fn e28_fields_out_of_range_are_refused() {
    let fleet = full();
    let timestamp = fleet.timestamp.clone().unwrap();
    let of = |change: &dyn Fn(&mut Timestamp)| {
        let mut body = timestamp.clone();
        change(&mut body);
        let bytes = raw("timestamp", codec::encode(&body).unwrap(), &[7]);
        statement::open::<Timestamp>(&bytes, &[public(7)], 1, &FLEET)
            .err()
            .map(|r| r.code)
    };
    assert_eq!(of(&|_| {}), None);
    assert_eq!(of(&|t| t.version = 0), Some(Code::Malformed));
    assert_eq!(of(&|t| t.expires = t.issued), Some(Code::LifetimeRefused));
    assert_eq!(of(&|t| t.expires = 0), Some(Code::LifetimeRefused));
    assert_eq!(of(&|t| t.version = u64::MAX), None);
    // Signatures come first: what flipped in a time is no lifetime.
    let mut flipped = timestamp.clone();
    flipped.expires = 0;
    let bytes = raw("timestamp", codec::encode(&flipped).unwrap(), &[8]);
    assert_eq!(open::<Timestamp>(&bytes), None);
    let refused = statement::open::<Timestamp>(&bytes, &[public(7)], 1, &FLEET).unwrap_err();
    assert_eq!(refused.code.exit(), 20, "{refused}");
    // A first root names its own keys: its lifetime counts as that of any other.
    let first = |change: &dyn Fn(&mut Root), seeds: &[u8]| {
        let mut root = fleet.root.clone();
        change(&mut root);
        let bytes = raw("root", codec::encode(&root).unwrap(), seeds);
        let pinned = Digest::of(&bytes);
        ensign_bundle::trust::TrustState::new(&bytes, &pinned, &FLEET)
            .err()
            .map(|r| r.code)
    };
    let signers = &fleet.seeds.root[..];
    assert_eq!(first(&|_| {}, signers), None);
    assert_eq!(first(&|r| r.expires = r.issued, signers), Some(Code::LifetimeRefused));
    assert_eq!(
        first(&|r| r.policy.timestamp_life_s = Some(31 * DAY), signers),
        Some(Code::LifetimeRefused)
    );
    assert_eq!(first(&|r| r.expires = r.issued, &[]), Some(Code::Unsigned));
    // Versions that have no next one are refused when the next is to be made.
    let last = Timestamp {
        version: u64::MAX,
        ..timestamp.clone()
    };
    let listed = fleet.timestamp.as_ref().unwrap().snapshot;
    let next = ensign_bundle::trust::issue::timestamp(Some(&last), listed, START, 60);
    assert_eq!(code(next), Code::LimitExceeded);
    let good = payload(&timestamp);
    let version = codec::encode(&timestamp.version).unwrap();
    let field = |value: &[u8]| {
        swap(
            &good,
            &[text("version"), version.clone()].concat(),
            &[&text("version"), value].concat(),
        )
    };
    let malformed = Some(Code::Malformed);
    // Negative, a float, text, an array, a bignum.
    for value in [
        &[0x20][..],
        &[0xfb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0],
        &text("2"),
        &[0x80],
        &[0xc2, 0x41, 1],
    ] {
        assert_eq!(
            open::<Timestamp>(&raw("timestamp", field(value), &[7])),
            malformed,
            "{value:02x?}"
        );
    }
    // The same field twice, a field of the wrong name, a digest of 31 bytes.
    let twice = [&[0xa7][..], &good[1..], &text("version"), &[1]].concat();
    assert_eq!(open::<Timestamp>(&raw("timestamp", twice, &[7])), malformed);
    let short = swap(
        &good,
        &[&[0x58, 0x20][..], &listed.digest.0].concat(),
        &[&[0x58, 0x1f][..], &listed.digest.0[1..]].concat(),
    );
    assert_eq!(open::<Timestamp>(&raw("timestamp", short, &[7])), malformed);
    // Bounds of lists and of what refers to another file.
    let mut snapshot = fleet.snapshot.clone().unwrap();
    snapshot.releases.push(snapshot.releases[0].clone());
    assert_eq!(code(statement::seal(&snapshot)), Code::Malformed);
    let mut release = fleet.releases.values().next().unwrap().clone();
    release.manifest.length = limits::MANIFEST_BYTES as u64 + 1;
    assert_eq!(code(statement::seal(&release)), Code::LimitExceeded);
}

#[test]
fn e29_a_format_of_the_future_is_refused_by_its_number() {
    fn future<T: Document + Clone>(body: &T, set: fn(&mut T)) -> Option<Code> {
        let mut body = body.clone();
        set(&mut body);
        open::<T>(&raw(T::KIND, codec::encode(&body).unwrap(), &[1]))
    }
    let fleet = full();
    let unknown = Some(Code::VersionUnknown);
    assert_eq!(future(&fleet.root, |d| d.format = 2), unknown);
    assert_eq!(future(&fleet.root, |d| d.format = 0), unknown);
    assert_eq!(future(&fleet.targets, |d| d.format = 2), unknown);
    assert_eq!(
        future(fleet.releases.values().next().unwrap(), |d| d.format = 2),
        unknown
    );
    assert_eq!(future(&fleet.snapshot.unwrap(), |d| d.format = 2), unknown);
    assert_eq!(future(&fleet.timestamp.unwrap(), |d| d.format = 2), unknown);
    assert_eq!(future(&a_plan(), |d| d.format = 2), unknown);
}

#[test]
fn e30_unknown_fields_stand_in_ext_and_nowhere_else() {
    let mut fleet = Fleet::new();
    let ext: Ext = codec::decode(&[&[0xa1][..], &text("new"), &[0x18, 42]].concat(), 10).unwrap();
    fleet.next_targets(|targets| targets.ext = ext.clone());
    fleet.publish();
    let device = fleet.fresh();
    assert_eq!(device.targets().unwrap().ext, ext);
    assert!(holds(&device, &fleet.targets_bytes));
    let again = Trusted::decode(&device.encode().unwrap()).unwrap();
    assert_eq!(again.targets().unwrap().ext, ext, "kept, and under the signature");
    let elsewhere = swap(&payload(&fleet.targets), &text("ext"), &text("ex_"));
    assert_eq!(open::<Targets>(&raw("targets", elsewhere, &[3])), Some(Code::Malformed));
}

#[test]
fn e31_one_encoding_even_where_another_is_signed() {
    let fleet = Fleet::new();
    let timestamp = fleet.timestamp.clone().unwrap();
    let good = payload(&timestamp);
    let format = [text("format"), vec![0x01]].concat();
    let field = |value: &[u8]| swap(&good, &format, &[&text("format"), value].concat());
    let pairs = good.len();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("longer integer", field(&[0x18, 0x01])),
        ("indefinite map", [&[0xbf][..], &good[1..], &[0xff]].concat()),
        ("tag", field(&[0xc0, 0x01])),
        ("float", field(&[0xf9, 0x3c, 0x00])),
        ("trailing bytes", [&good[..], &[0x00]].concat()),
        ("bad text", swap(&good, b"format", b"form\xff\xfe")),
        (
            "array for a struct",
            [&[0x86][..], &codec::encode(&1u8).unwrap().repeat(6)].concat(),
        ),
        ("keys out of order", {
            let issued = [text("issued"), codec::encode(&timestamp.issued).unwrap()].concat();
            let at = good.windows(format.len()).position(|w| w == format).unwrap();
            let to = good.windows(issued.len()).position(|w| w == issued).unwrap();
            assert_eq!(to, at + format.len(), "neighbours");
            [&good[..at], &issued, &format, &good[to + issued.len()..]].concat()
        }),
    ];
    assert!(pairs > 0);
    let mut device = fleet.trust();
    for (what, payload) in cases {
        let bytes = raw("timestamp", payload, &fleet.seeds.timestamp);
        let refused = device.update_timestamp(&bytes, fleet.now, Source::Online);
        assert_eq!(code(refused), Code::Malformed, "{what}");
    }
    let same = raw("timestamp", good, &fleet.seeds.timestamp);
    device.update_timestamp(&same, fleet.now, Source::Online).unwrap();
}

#[test]
fn e34_a_document_of_another_role_fleet_or_protocol_is_refused() {
    let mut fleet = Fleet::new();
    // One key for both, so that nothing but the kind tells them apart. (No root like this is read; the envelopes are.)
    fleet.seeds.timestamp = vec![7];
    let mut device = fleet.trust();
    let now = fleet.now;
    let timestamp = fleet.timestamp.clone().unwrap();
    let as_kind = |kind: &str| raw(kind, payload(&timestamp), &[7]);
    for kind in ["snapshot", "targets", "root", "lease", "timestamp2"] {
        let refused = device.update_timestamp(&as_kind(kind), now, Source::Online);
        assert_eq!(code(refused), Code::Malformed, "{kind}");
    }
    // The right kind around another document.
    let snapshot = raw("timestamp", payload(&fleet.snapshot.clone().unwrap()), &[7]);
    assert_eq!(
        code(device.update_timestamp(&snapshot, now, Source::Online)),
        Code::Malformed
    );
    let foreign = sign_for(&timestamp, &[7], &FleetId([2; 32]));
    assert_eq!(
        code(device.update_timestamp(&foreign, now, Source::Online)),
        Code::ThresholdNotMet
    );
    // The same bytes signed for another protocol: without, or with other external data.
    for aad in [&b""[..], &FLEET.0, b"ensign/v2"] {
        let mut envelope = Envelope::new("timestamp", payload(&timestamp));
        envelope.sign(&key(7), aad);
        let refused = device.update_timestamp(&envelope.encode(), now, Source::Online);
        assert_eq!(code(refused), Code::ThresholdNotMet);
    }
    device
        .update_timestamp(&as_kind("timestamp"), now, Source::Online)
        .unwrap();
}

#[test]
fn e36_what_was_received_is_verified_and_kept_never_what_would_be_written() {
    let mut fleet = Fleet::new();
    // Values that a program would not write today, in the one place where it may not know what they are.
    let odd = [&[0xa1][..], &text("odd"), &[0x84, 0xf6, 0xf5, 0x20, 0xa0]].concat();
    let ext: Ext = codec::decode(&odd, 20).unwrap();
    fleet.next_root(|root| root.ext = ext.clone(), &[]);
    fleet.next_targets(|targets| targets.ext = ext.clone());
    fleet.publish();
    let device = fleet.fresh();
    let again = Trusted::decode(&device.encode().unwrap()).unwrap();
    for received in [
        &fleet.roots[1],
        &fleet.targets_bytes,
        &fleet.timestamp_bytes,
        &fleet.snapshot_bytes,
    ] {
        assert!(holds(&again, received));
    }
    again.check_fresh(fleet.now).unwrap();
}

#[test]
fn e37_length_and_hash_of_what_is_named_must_both_be_right() {
    let fleet = full();
    let mut device = fleet.trust();
    device
        .update_timestamp(&fleet.timestamp_bytes, fleet.now, Source::Online)
        .unwrap();
    let good = &fleet.snapshot_bytes;
    let mut longer = good.clone();
    longer.push(0);
    let mut other = good.clone();
    other[good.len() - 1] ^= 1;
    for bad in [&good[..good.len() - 1], &longer, &other, b""] {
        let refused = device.update_snapshot(bad, fleet.now, Source::Online);
        assert_eq!(code(refused), Code::ContentMismatch);
    }
    device.update_snapshot(good, fleet.now, Source::Online).unwrap();
    // Listed with a wrong length and the right hash, and the other way round.
    for wrong in [
        |listed: &mut Listed| listed.length += 1,
        |listed: &mut Listed| listed.digest = Digest([0; 32]),
    ] {
        let mut evil = fleet.clone();
        evil.now += 60;
        let mut snapshot = evil.snapshot.clone().unwrap();
        snapshot.version += 60;
        wrong(&mut snapshot.targets);
        evil.publish_snapshot(snapshot);
        assert_eq!(code(evil.refresh(&mut device.clone())), Code::ContentMismatch);
    }
    // A manifest likewise.
    let manifest = include_bytes!("../../../testdata/manifest-v1.cbor");
    let parsed = Manifest::parse(manifest).unwrap();
    let mut release = fleet.releases.values().next().unwrap().clone();
    (release.product, release.release) = (parsed.product.clone(), parsed.version.clone());
    (release.counter, release.security_floor) = (parsed.release_counter, parsed.security_floor);
    release.compatible = parsed.compatible.clone();
    let named = |digest, length| Release {
        manifest: FileRef { digest, length },
        ..release.clone()
    };
    let (digest, length) = (Digest::of(manifest), manifest.len() as u64);
    Manifest::open(manifest, &named(digest, length)).unwrap();
    for (digest, length) in [(digest, length + 1), (digest, length - 1), (Digest([0; 32]), length)] {
        assert_eq!(
            code(Manifest::open(manifest, &named(digest, length))),
            Code::ContentMismatch
        );
    }
}
