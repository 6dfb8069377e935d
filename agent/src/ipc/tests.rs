//! Each message between the processes of a device, and what a process that was taken over may say instead. Fuzzing them needs all of the
//! agent built for it (`bundle/fuzz/run 60 ipc`); this is what every run of the tests does of it.
//!
//! `ENSIGN_BLESS=1` writes the messages to where fuzzing starts from, as far as they are missing.

use std::io::Write as _;
use std::path::Path;

use ensign_bundle::codec;
use ensign_bundle::trust::roles::Controller;
use ensign_bundle::wire::{Phase, Status, Transfer};
use ensign_crypto::SecretKey;
use serde::de::DeserializeOwned;

use super::socket::ITEMS;
use super::*;

/// Read as each message there is: how many understood it. What is understood can be said again.
fn read_all(bytes: &[u8]) -> usize {
    fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> usize {
        let Ok(message) = codec::decode::<T>(bytes, ITEMS) else {
            return 0;
        };
        let again = codec::encode(&message).unwrap();
        assert!(codec::decode::<T>(&again, ITEMS).is_ok(), "{bytes:02x?}");
        1
    }
    read::<ToApplier>(bytes)
        + read::<FromApplier>(bytes)
        + read::<ToAdmin>(bytes)
        + read::<FromAdmin>(bytes)
        + read::<ToRunner>(bytes)
        + read::<FromRunner>(bytes)
}

fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn state() -> Box<State> {
    let key = SecretKey::from_seed([1; 32]).public();
    Box::new(State {
        device: Some(DeviceId([1; 32])),
        held: Held::default(),
        nonce: Nonce([2; 32]),
        report: Report {
            seq: 3,
            status: Status {
                generation: 1,
                installed: Vec::new(),
                phase: Phase::Trial,
                plan: Some(digest(3)),
                reason: Some(Refusal::new(Code::Unhealthy, "exit 1")),
                denied: vec![digest(4)],
                transfer: Transfer::default(),
            },
            receipts: vec![ByteBuf::from([5; 5])],
            root: 7,
        },
        controller: Some(Controller {
            keys: vec![key.id()],
            api: vec![digest(6)],
            addresses: vec!["127.0.0.1:7443".to_owned()],
        }),
    })
}

fn messages() -> Vec<(&'static str, Vec<u8>)> {
    fn bytes<T: Serialize>(message: &T) -> Vec<u8> {
        codec::encode(message).unwrap()
    }
    let key = SecretKey::from_seed([1; 32]).public();
    let member = Membership {
        wave: 1,
        index: 2,
        receipt_key: key,
        path: vec![digest(1)],
    };
    let offer = Offer {
        documents: vec![Piece {
            kind: DocKind::Plan,
            length: 300,
        }],
        rollout: Some(OfferedRollout {
            member,
            lease: Some(ByteBuf::from([2; 3])),
        }),
        cache: Some(CacheSize { device: 1, bytes: 2 }),
    };
    let blobs = vec![digest(1), digest(2)];
    let need = Need::Blobs {
        manifest: digest(1),
        blobs: vec![FileRef {
            digest: digest(2),
            length: 1 << 20,
        }],
        spare: Some(u64::MAX),
    };
    let payload = ByteBuf::from([7; 9]);
    let refusal = Refusal::new(Code::NoSpace, "full");
    let text = || "why".to_owned();
    vec![
        ("to-applier-hello", bytes(&ToApplier::Hello)),
        ("to-applier-offer", bytes(&ToApplier::Offer(offer))),
        ("to-applier-provide", bytes(&ToApplier::Provide { blobs })),
        ("to-applier-acknowledged", bytes(&ToApplier::Acknowledged { seq: 300 })),
        (
            "to-applier-time",
            bytes(&ToApplier::Time {
                attestation: payload.clone(),
            }),
        ),
        ("from-applier-state", bytes(&FromApplier::State(state()))),
        ("from-applier-changed", bytes(&FromApplier::Changed(state()))),
        ("from-applier-need", bytes(&FromApplier::Need(need))),
        ("from-applier-nothing", bytes(&FromApplier::Need(Need::Nothing))),
        ("from-applier-refused", bytes(&FromApplier::Refused(refusal.clone()))),
        ("to-admin-status", bytes(&ToAdmin::Status)),
        (
            "to-admin-begin-enroll",
            bytes(&ToAdmin::BeginEnroll {
                fleet: FleetId([1; 32]),
                fresh: true,
            }),
        ),
        (
            "to-admin-sign-binding",
            bytes(&ToAdmin::SignBinding {
                payload: payload.clone(),
            }),
        ),
        (
            "to-admin-sign-rotation",
            bytes(&ToAdmin::SignRotation {
                payload: payload.clone(),
            }),
        ),
        (
            "to-admin-finish-enroll",
            bytes(&ToAdmin::FinishEnroll {
                root_hash: digest(1),
                fleet: FleetId([2; 32]),
                roots: vec![1, 300],
                grant: 4,
                binding: 5,
            }),
        ),
        ("to-admin-rollback", bytes(&ToAdmin::Rollback { reason: text() })),
        (
            "to-admin-lock",
            bytes(&ToAdmin::Lock {
                reason: text(),
                ttl_s: 3600,
            }),
        ),
        ("to-admin-unlock", bytes(&ToAdmin::Unlock)),
        (
            "to-admin-clear-denied",
            bytes(&ToAdmin::ClearDenied {
                manifest: Some(digest(1)),
            }),
        ),
        ("to-admin-apply", bytes(&ToAdmin::Apply)),
        ("to-admin-leave", bytes(&ToAdmin::Leave)),
        ("from-admin-done", bytes(&FromAdmin::Done { text: text() })),
        ("from-admin-refused", bytes(&FromAdmin::Refused(refusal.clone()))),
        ("from-admin-state", bytes(&FromAdmin::State(state()))),
        ("from-admin-receipt-key", bytes(&FromAdmin::ReceiptKey { key })),
        (
            "from-admin-signature",
            bytes(&FromAdmin::Signature { key, bytes: payload }),
        ),
        (
            "to-runner-unit",
            bytes(&ToRunner::Unit {
                verb: UnitVerb::IsActive,
                name: "web.service".to_owned(),
            }),
        ),
        (
            "to-runner-exec",
            bytes(&ToRunner::Exec {
                component: "web".to_owned(),
                args: vec!["bin/check".to_owned(), "--all".to_owned()],
                product: "app".to_owned(),
                version: "1.0.0".to_owned(),
                timeout_s: 60,
            }),
        ),
        (
            "to-runner-tcp",
            bytes(&ToRunner::Tcp {
                address: "127.0.0.1:80".to_owned(),
                timeout_s: 5,
            }),
        ),
        (
            "to-runner-http",
            bytes(&ToRunner::Http {
                url: "http://127.0.0.1/".to_owned(),
                timeout_s: 5,
            }),
        ),
        ("to-runner-labels-changed", bytes(&ToRunner::LabelsChanged)),
        ("from-runner-ok", bytes(&FromRunner::Ok)),
        ("from-runner-failed", bytes(&FromRunner::Failed { text: text() })),
        (
            "from-runner-unit-failed",
            bytes(&FromRunner::UnitFailed { text: text() }),
        ),
        ("from-runner-not-managed", bytes(&FromRunner::NotManaged)),
        ("from-runner-refused", bytes(&FromRunner::Refused(refusal))),
    ]
}

#[test]
fn e75_no_message_that_is_cut_longer_or_changed_makes_a_process_panic() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundle/fuzz/corpus/ipc");
    for (name, bytes) in messages() {
        if std::env::var_os("ENSIGN_BLESS").is_some() && !corpus.join(name).exists() {
            let mut file = std::fs::File::create(corpus.join(name)).unwrap();
            file.write_all(&bytes).unwrap();
        }
        assert!(read_all(&bytes) > 0, "{name}");
        for end in 0..bytes.len() {
            assert_eq!(read_all(&bytes[..end]), 0, "{name} cut at {end}");
        }
        assert_eq!(read_all(&[&bytes[..], &[0]].concat()), 0, "{name} and more");
        for at in 0..bytes.len() {
            for byte in [0x00, 0x5f, 0x9b, 0xbb, 0xf6] {
                let mut changed = bytes.clone();
                changed[at] = byte;
                read_all(&changed);
            }
        }
    }
    for entry in std::fs::read_dir(&corpus).unwrap() {
        read_all(&std::fs::read(entry.unwrap().path()).unwrap());
    }
}
