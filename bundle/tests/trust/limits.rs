//! Every limit on roles, statements, gates, frames and lifetimes, by the figures of the documents: met exactly, and one more.

use std::collections::BTreeMap;

use ensign_bundle::codec::{self, Ext};
use ensign_bundle::digest::{CutSeed, Digest};
use ensign_bundle::each_document;
use ensign_bundle::ids::{Label, Labels};
use ensign_bundle::plan::cohort::{Waves, cut};
use ensign_bundle::plan::evidence::{Binding, Gate};
use ensign_bundle::plan::statements::{Cancel, Evidence, Grant, Hold, Plan, Reverts};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::selector::Selector;
use ensign_bundle::statement::{self, Document};
use ensign_bundle::trust::Source;
use ensign_bundle::trust::roles::{FORMAT, FileRef, Release, Root, Snapshot, Targets, Timestamp};
use ensign_bundle::wire::{ToDevice, frame};
use ensign_crypto::cbor::{self, Limits};
use ensign_crypto::{Envelope, aad};
use serde_bytes::ByteBuf;

use crate::bench::bench;
use crate::fleet::*;

const KIB: u64 = 1 << 10;
/// Signs what is only opened here.
const SIGNER: u8 = 9;

/// What is limited, the most that is taken, what one more is refused with, and the trial.
type Row = (&'static str, u64, Code, fn(u64) -> Option<Code>);

const ROWS: &[Row] = &[
    ("bytes of root", 64 * KIB, Code::LimitExceeded, |n| {
        sized(n, |pad| Root {
            name: "x".repeat(pad),
            ..fleet().root
        })
    }),
    ("bytes of targets", 1024 * KIB, Code::LimitExceeded, |n| {
        sized(n, |pad| Targets {
            ext: padding(pad),
            ..fleet().targets
        })
    }),
    ("bytes of a snapshot", 1024 * KIB, Code::LimitExceeded, |n| {
        sized(n, |pad| Snapshot {
            ext: padding(pad),
            ..fleet().snapshot.unwrap()
        })
    }),
    ("bytes of a timestamp", 16 * KIB, Code::LimitExceeded, |n| {
        sized(n, |pad| Timestamp {
            ext: padding(pad),
            ..fleet().timestamp.unwrap()
        })
    }),
    ("bytes of a release document", 64 * KIB, Code::LimitExceeded, |n| {
        sized(n, |pad| Release {
            yanked: Some("x".repeat(pad)),
            ..release()
        })
    }),
    ("bytes of a plan", 64 * KIB, Code::LimitExceeded, |n| {
        sized(n, |pad| Plan {
            reason: "x".repeat(pad),
            ..plan()
        })
    }),
    ("bytes of a cancel", 4 * KIB, Code::LimitExceeded, |n| {
        sized(n, |pad| Cancel {
            format: FORMAT,
            issued: START,
            plan: Digest([1; 32]),
            product: ident("app"),
            reason: "x".repeat(pad),
        })
    }),
    ("bytes of a hold", 4 * KIB, Code::LimitExceeded, |n| {
        sized(n, |pad| Hold {
            format: FORMAT,
            issued: START,
            device: Device::new(0).id(),
            seq: 1,
            held: true,
            reason: "x".repeat(pad),
        })
    }),
    ("bytes of a binding", 4 * KIB, Code::LimitExceeded, |n| {
        sized(n, |pad| Binding {
            claims: BTreeMap::from([(String::new(), "x".repeat(pad))]),
            ..Device::new(0).binding_body(60, Digest([4; 32]))
        })
    }),
    ("bytes of a grant", 4 * KIB, Code::LimitExceeded, |n| {
        // Labels are short: so many bytes in values of 60, the rest in the last one.
        sized(n, |pad| {
            let mut grant = token_grant(60, &[]);
            let value = |length: usize| label(&"x".repeat(length));
            let full = (0..pad / 66 - 1).map(|i| (label(&format!("k{i:02}")), value(60)));
            grant.labels = full.collect();
            let rest = pad % 66;
            grant.labels.insert(label(&"y".repeat(1 + rest.min(60))), value(30));
            grant.labels.insert(label("z"), value(1 + rest.saturating_sub(60)));
            grant
        })
    }),
    ("bytes of a gate", 64 * KIB, Code::LimitExceeded, |n| {
        let gate = |pad: usize| Gate {
            format: FORMAT,
            plan: Digest([1; 32]),
            wave: 2,
            receipts: Vec::new(),
            promote: Some(ByteBuf::from(vec![0; pad])),
        };
        let of = |pad| gate(pad).encode().unwrap();
        refusal(Gate::decode(&exactly(n, of)))
    }),
    ("receipts of a gate", 64, Code::LimitExceeded, |n| {
        let mut gate = bench().second_wave().open_gate();
        let mut one = gate.receipts.remove(0);
        one.receipt = ByteBuf::new();
        gate.receipts = vec![one; usize::try_from(n).unwrap()];
        refusal(Gate::decode(&gate.encode().unwrap()))
    }),
    ("signatures", 64, Code::Malformed, |n| {
        let seeds: Vec<u8> = (SIGNER..).take(usize::try_from(n).unwrap()).collect();
        opened::<Root>(&signed("root", payload(&fleet().root), &seeds))
    }),
    ("items of targets", 100_000, Code::Malformed, |n| {
        items(n, |many| Targets {
            ext: numbers(many),
            ..fleet().targets
        })
    }),
    ("items of a snapshot", 100_000, Code::Malformed, |n| {
        items(n, |many| Snapshot {
            ext: numbers(many),
            ..fleet().snapshot.unwrap()
        })
    }),
    ("waves", 64, Code::LimitExceeded, |n| {
        let mut plan = plan();
        let mut later = plan.waves[0].clone();
        later.evidence = Evidence::Receipts(1);
        plan.waves.truncate(1);
        plan.waves.resize(usize::try_from(n).unwrap(), later);
        unsealed(&plan)
    }),
    ("waves that are asked for", 64, Code::Usage, |n| refusal(waves(n))),
    ("waves with that of the canaries", 64, Code::Usage, |n| {
        let mut candidates: Vec<_> = (0..3).map(|n| Device::new(n).candidate()).collect();
        candidates[1].canary = true;
        refusal(cut(&candidates, &waves(n - 1).unwrap(), &CutSeed([9; 16])))
    }),
    ("receipts that a wave asks for", 64, Code::Malformed, |n| {
        let mut plan = plan();
        let Some([first, second]) = plan.waves.first_chunk_mut() else {
            panic!("two waves");
        };
        if let ensign_bundle::plan::statements::Cohort::Listed { count, .. } = &mut first.cohort {
            *count = 1000;
        }
        second.evidence = Evidence::Receipts(u32::try_from(n).unwrap());
        unsealed(&plan)
    }),
    ("failures that a revert asks for", 64, Code::Malformed, |n| {
        let mut plan = plan();
        plan.reverts = Some(Reverts {
            plan: Digest([1; 32]),
            from: Digest([2; 32]),
            to: Digest([3; 32]),
            revert_for_s: DAY,
            failures: u32::try_from(n).unwrap(),
        });
        unsealed(&plan)
    }),
    ("labels", 64, Code::LimitExceeded, |n| {
        let mut grant = token_grant(60, &[]);
        grant.labels = (0..n)
            .map(|i| (label(&format!("k{i}")), label("v")))
            .collect::<Labels>();
        unsealed::<Grant>(&grant)
    }),
    ("bytes of a device's name", 63, Code::LimitExceeded, |n| {
        let mut binding = Device::new(0).binding_body(60, Digest([4; 32]));
        binding.name = "n".repeat(usize::try_from(n).unwrap());
        unsealed(&binding)
    }),
    ("bytes of a manifest", 64 * KIB * KIB, Code::LimitExceeded, |n| {
        let manifest = FileRef {
            digest: Digest([1; 32]),
            length: n,
        };
        unsealed(&Release { manifest, ..release() })
    }),
    ("bytes of a selector", 4096, Code::Usage, |n| {
        refusal(Selector::parse(&format!(
            "{:width$}",
            "site=lyon",
            width = usize::try_from(n).unwrap()
        )))
    }),
    ("tests of a selector", 512, Code::Usage, |n| {
        let values: Vec<_> = (0..n).map(|i| i.to_string()).collect();
        refusal(Selector::parse(&format!("site in ({})", values.join(","))))
    }),
    ("nesting of a selector", 32, Code::Usage, |n| {
        let n = usize::try_from(n).unwrap();
        refusal(Selector::parse(&format!("{}site{}", "(".repeat(n), ")".repeat(n))))
    }),
    ("bytes of a frame that is written", 64 * KIB, Code::LimitExceeded, |n| {
        let frame = |pad| {
            frame::encode(&ToDevice::Refused(Refusal::new(Code::Failed, "x".repeat(pad)))).map(|frame| frame.len() - 4)
        };
        // How much of it is not the text is the same below and above the limit.
        let around = frame(60_000).unwrap() - 60_000;
        let wanted = usize::try_from(n).unwrap();
        let written = frame(wanted - around);
        assert!(written.as_ref().is_err() || written == Ok(wanted));
        refusal(written)
    }),
    ("bytes of a frame that is read", 64 * KIB, Code::LimitExceeded, |n| {
        refusal(frame::body_length(u32::try_from(n).unwrap().to_be_bytes()))
    }),
    ("items of a frame", 16_384, Code::Malformed, |n| {
        // `{"ack": {"new": [0, ...], "seq": 1}}`
        let many = u16::try_from(n - 7).unwrap().to_be_bytes();
        let start = [&b"\xa1\x63ack\xa2\x63new\x99"[..], &many].concat();
        let body = [start, vec![0; usize::try_from(n - 7).unwrap()], b"\x63seq\x01".to_vec()].concat();
        refusal(frame::decode::<ToDevice>(&body))
    }),
    ("life of root", 400 * DAY, Code::LifetimeRefused, |n| {
        let mut fleet = fleet();
        fleet.next_root(|root| root.expires = root.issued + n, &[]);
        refreshed(&fleet)
    }),
    ("life of targets", 400 * DAY, Code::LifetimeRefused, |n| {
        let mut fleet = fleet();
        fleet.next_targets(|targets| targets.expires = targets.issued + n);
        fleet.publish();
        refreshed(&fleet)
    }),
    ("life of a release document", 400 * DAY, Code::LifetimeRefused, |n| {
        let mut fleet = fleet();
        let app = fleet.release("app", "1.0.0", |release| release.expires = release.issued + n);
        fleet.publish();
        let mut trusted = fleet.fresh();
        let find = &mut |want: ensign_bundle::trust::Want<'_>| fleet.find(&want);
        refusal(trusted.find_release(&app, find, fleet.now, Source::Online))
    }),
    ("life of a snapshot", 14 * DAY, Code::LifetimeRefused, |n| {
        let mut fleet = fleet();
        let mut snapshot = fleet.snapshot.clone().unwrap();
        snapshot.expires = snapshot.issued + n;
        fleet.publish_snapshot(snapshot);
        refreshed(&fleet)
    }),
    ("life of a timestamp", 3 * DAY, Code::LifetimeRefused, |n| {
        refreshed(&with_timestamp(fleet(), n))
    }),
    (
        "life of a timestamp without a network",
        30 * DAY,
        Code::LifetimeRefused,
        |n| {
            let mut fleet = fleet();
            fleet.next_root(|root| root.policy.timestamp_life_s = Some(30 * DAY), &[]);
            refreshed(&with_timestamp(fleet, n))
        },
    ),
    (
        "life that a policy gives a timestamp",
        30 * DAY,
        Code::LifetimeRefused,
        |n| {
            let mut root = fleet().root;
            root.policy.timestamp_life_s = Some(n);
            unsealed(&root)
        },
    ),
    ("life of a plan", 30 * DAY, Code::LifetimeRefused, |n| {
        let mut plan = plan();
        plan.expires = plan.issued + n;
        unsealed(&plan)
    }),
    ("age of a lease, below", 899, Code::LeaseMissing, |n| {
        let mut bench = bench();
        let mut lease = bench.default_lease();
        lease.ttl_s = DAY;
        (bench.lease, bench.lease_age_s) = (Some(lease), n);
        refusal(bench.answer())
    }),
    (
        "how far ahead of the clock something is issued",
        DAY,
        Code::LifetimeRefused,
        |n| {
            let mut fleet = fleet();
            let device = fleet.now;
            let mut timestamp = fleet.timestamp.clone().unwrap();
            (timestamp.issued, timestamp.expires) = (device + n, device + n + DAY);
            fleet.timestamp_bytes = sign(&timestamp, &fleet.seeds.timestamp);
            refreshed(&fleet)
        },
    ),
];

#[test]
fn each_limit_is_met_exactly_and_not_by_one_more() {
    for (what, most, code, refused) in ROWS {
        assert_eq!(refused(*most), None, "{what}: {most}");
        assert_eq!(refused(most + 1), Some(*code), "{what}: one more than {most}");
    }
}

/// The length is looked at before anything else, of every kind.
#[test]
fn garbage_of_the_largest_size_is_garbage_and_one_byte_more_is_too_long() {
    fn tried<T: Document>() {
        let code = |bytes: &[u8]| statement::open_unverified::<T>(bytes).map(drop).unwrap_err().code;
        assert_eq!(code(&vec![0; T::MAX_BYTES]), Code::Malformed, "{}", T::KIND);
        assert_eq!(code(&vec![0; T::MAX_BYTES + 1]), Code::LimitExceeded, "{}", T::KIND);
        let most = match T::KIND {
            "targets" | "snapshot" => 1024 * KIB,
            "root" | "release" | "plan" => 64 * KIB,
            "timestamp" => 16 * KIB,
            _ => 4 * KIB,
        };
        assert_eq!(T::MAX_BYTES as u64, most, "{}", T::KIND);
    }
    macro_rules! all {
        ($($document:ty),* $(,)?) => { $(tried::<$document>();)* };
    }
    each_document!(all);
}

#[test]
fn a_run_follows_256_roots_and_the_next_one_goes_on() {
    let mut fleet = Fleet::new();
    let start = fleet.trust();
    for _ in 0..257 {
        fleet.next_root(|_| {}, &[]);
    }
    let reached = |behind: usize| {
        let mut trusted = start.clone();
        let mut find = |want: ensign_bundle::trust::Want<'_>| match want {
            ensign_bundle::trust::Want::Root(version) if version > 1 + behind as u64 => None,
            want => fleet.find(&want),
        };
        trusted.refresh_root(&mut find, fleet.now).unwrap();
        let first = trusted.root().version;
        trusted.refresh_root(&mut find, fleet.now).unwrap();
        (first, trusted.root().version)
    };
    assert_eq!(reached(256), (257, 257));
    assert_eq!(reached(257), (257, 258));
}

fn fleet() -> Fleet {
    Fleet::new()
}

fn release() -> Release {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.releases[&app].clone()
}

fn plan() -> Plan {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    let devices: Vec<_> = (0..3).map(Device::new).collect();
    fleet.plan(&app, &devices, "1,100%").0
}

/// So many waves, each of all devices.
fn waves(many: u64) -> Result<Waves, Refusal> {
    Waves::parse(&vec!["100%"; usize::try_from(many).unwrap()].join(","))
}

fn label(text: &str) -> Label {
    Label::parse(text).unwrap()
}

fn payload<T: Document>(body: &T) -> Vec<u8> {
    codec::encode(body).unwrap()
}

/// Signed without any check.
fn signed(kind: &str, payload: Vec<u8>, seeds: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::new(kind, payload);
    for seed in seeds {
        envelope.sign(&key(*seed), &aad(&FLEET.0));
    }
    envelope.encode()
}

fn refusal<T>(result: Result<T, Refusal>) -> Option<Code> {
    result.err().map(|refusal| refusal.code)
}

fn opened<T: Document>(bytes: &[u8]) -> Option<Code> {
    refusal(statement::open::<T>(bytes, &[public(SIGNER)], 1, &FLEET))
}

fn unsealed<T: Document>(body: &T) -> Option<Code> {
    let met = opened::<T>(&signed(T::KIND, payload(body), &[SIGNER]));
    assert_eq!(refusal(statement::seal(body)), met, "signers and readers agree");
    met
}

/// The bytes of exactly this length among those that `of` makes of more and more padding.
fn exactly(length: u64, of: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let length = usize::try_from(length).unwrap();
    let mut pad = length / 2;
    for _ in 0..3 {
        let bytes = of(pad);
        if bytes.len() == length {
            return bytes;
        }
        pad = pad + length - bytes.len();
    }
    // The heads of what grows are of several widths.
    let near = pad.saturating_sub(100)..pad + 100;
    near.map(of).find(|bytes| bytes.len() == length).unwrap()
}

fn sized<T: Document>(length: u64, of: impl Fn(usize) -> T) -> Option<Code> {
    let bytes = exactly(length, |pad| signed(T::KIND, payload(&of(pad)), &[SIGNER]));
    opened::<T>(&bytes)
}

fn items<T: Document>(number: u64, of: impl Fn(usize) -> T) -> Option<Code> {
    let number = usize::try_from(number).unwrap();
    let has = |payload: &[u8], most| {
        let limits = Limits {
            max_items: most,
            ..Limits::default()
        };
        cbor::scan(payload, limits).is_ok()
    };
    let few = payload(&of(0));
    let around = (1..1000).find(|most| has(&few, *most)).unwrap();
    let payload = payload(&of(number - around));
    assert!(has(&payload, number) && !has(&payload, number - 1));
    opened::<T>(&signed(T::KIND, payload, &[SIGNER]))
}

/// `{"x": "xxx..."}`
fn padding(length: usize) -> Ext {
    let text = codec::encode(&"x".repeat(length)).unwrap();
    codec::decode(&[&b"\xa1\x61x"[..], &text].concat(), 10).unwrap()
}

/// `{"x": [0, 0, ...]}`
fn numbers(many: usize) -> Ext {
    let array = codec::encode(&vec![0_u8; many]).unwrap();
    codec::decode(&[&b"\xa1\x61x"[..], &array].concat(), many + 10).unwrap()
}

fn with_timestamp(mut fleet: Fleet, life: u64) -> Fleet {
    let mut timestamp = fleet.timestamp.clone().unwrap();
    timestamp.expires = timestamp.issued + life;
    fleet.timestamp_bytes = sign(&timestamp, &fleet.seeds.timestamp);
    fleet
}

fn refreshed(fleet: &Fleet) -> Option<Code> {
    refusal(fleet.refresh(&mut fleet.trust()))
}
