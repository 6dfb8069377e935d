//! The frames of `ensign/1` and `ensign-enroll/1`, kept: a later version of this protocol may add fields, but reads these.
//!
//! `ENSIGN_BLESS=1 cargo test -p ensign-bundle golden` writes a file where it is missing.

use std::io::Write as _;
use std::path::Path;

use ensign_crypto::SecretKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::*;
use crate::reason::Code;

/// The frame of `message` is what stands in `NAME-v1.frame`, and reads as `message` again.
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, message: &T) {
    let bytes = frame::encode(message).unwrap();
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata")).join(format!("{name}-v1.frame"));
    if std::env::var_os("ENSIGN_BLESS").is_some() && !path.exists() {
        std::fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    assert!(kept == bytes, "{name} is not what this version sends");
    let (word, body) = kept.split_first_chunk().unwrap();
    assert_eq!(frame::body_length(*word).unwrap(), body.len());
    assert_eq!(&frame::decode::<T>(body).unwrap(), message);
}

fn document(kind: DocKind, byte: u8) -> DocRef {
    DocRef {
        kind,
        digest: Digest([byte; 32]),
        length: u64::from(byte),
    }
}

fn status() -> Status {
    Status {
        generation: 2,
        installed: vec![Installed {
            product: Ident::parse("app").unwrap(),
            version: Version::parse("1.2.3").unwrap(),
            counter: 1_000_002_000_003,
            manifest: Digest([1; 32]),
            confirmed: true,
            plan: Digest([2; 32]),
            since: 1_800_000_000,
        }],
        phase: Phase::RolledBack,
        plan: Some(Digest([3; 32])),
        reason: Some(Refusal::new(Code::Unhealthy, "exit 1")),
        denied: vec![Digest([4; 32])],
        transfer: Transfer { received: 5, plain: 6 },
    }
}

#[test]
fn golden_frames_of_a_device() {
    let hello = Hello {
        protocol: PROTOCOL,
        agent: "0.1.0".to_owned(),
        facts: [("arch".to_owned(), "x86_64".to_owned())].into(),
        held: Held {
            root: 1,
            timestamp: 2,
            snapshot: 3,
            targets: 4,
        },
        session: 5,
        boot_id: "boot".to_owned(),
        nonce: Nonce([6; 32]),
        status: status(),
    };
    golden("hello", &FromDevice::Hello(hello));
    let report = Report {
        seq: 7,
        status: Status {
            plan: None,
            reason: None,
            ..status()
        },
        receipts: vec![ByteBuf::from([8; 9])],
        root: 0,
    };
    golden("report", &FromDevice::Report(report.clone()));
    golden("report-root", &FromDevice::Report(Report { root: 3, ..report }));
    let statement = ByteBuf::from([9; 10]);
    golden("rotate", &FromDevice::Rotate { statement });
    let digests = vec![Digest([10; 32]), Digest([11; 32])];
    golden(
        "request-documents",
        &Request::Documents {
            digests: digests.clone(),
        },
    );
    let manifest = Digest([12; 32]);
    golden("request-blobs", &Request::Blobs { manifest, digests });
}

#[test]
fn golden_frames_of_a_controller() {
    let welcome = Welcome {
        protocol: 1,
        device: DeviceId([1; 32]),
        name: "till-7".to_owned(),
        fleet: FleetId([2; 32]),
        time: ByteBuf::from([3; 4]),
        interval_s: 300,
        labels: Labels::default(),
    };
    golden("welcome", &ToDevice::Welcome(welcome));
    let member = Membership {
        wave: 2,
        index: 3,
        receipt_key: SecretKey::from_seed([4; 32]).public(),
        path: vec![Digest([5; 32])],
    };
    let all = [
        DocKind::Root,
        DocKind::Timestamp,
        DocKind::Snapshot,
        DocKind::Targets,
        DocKind::Release,
        DocKind::Plan,
        DocKind::Gate,
        DocKind::Cancel,
        DocKind::Hold,
        DocKind::Grant,
    ];
    let desired = Desired {
        generation: 6,
        documents: (7..).zip(all).map(|(byte, kind)| document(kind, byte)).collect(),
        rollout: Some(DesiredRollout {
            plan: document(DocKind::Plan, 20),
            release: document(DocKind::Release, 21),
            gate: Some(document(DocKind::Gate, 22)),
            member,
            lease: Some(ByteBuf::from([23; 5])),
        }),
    };
    golden("desired", &ToDevice::Desired(desired));
    golden("desired-nothing", &ToDevice::Desired(Desired::default()));
    golden("ack", &ToDevice::Ack { seq: 24 });
    golden("rotated", &ToDevice::Rotated { refused: None });
    let refused = Some(Refusal::new(Code::KeysRefused, "in use"));
    golden("rotated-not", &ToDevice::Rotated { refused });
    let refusal = Refusal::new(Code::Revoked, "stolen");
    golden("refused", &ToDevice::Refused(refusal));
}

#[test]
fn golden_frames_of_joining() {
    let ask = EnrollStep::Ask {
        token: SecretKey::from_seed([1; 32]).public(),
    };
    let join = EnrollStep::Join {
        binding: ByteBuf::from([2; 3]),
    };
    for (name, step) in [("enroll-ask", ask), ("enroll-join", join)] {
        let protocol = PROTOCOL;
        golden(name, &Enroll { protocol, step });
    }
    let granted = EnrollReply::Granted {
        roots: vec![ByteBuf::from([3; 4])],
        grant: ByteBuf::from([5; 6]),
    };
    golden("enroll-granted", &granted);
    let joined = EnrollReply::Joined {
        name: "till-7".to_owned(),
        approved: false,
    };
    golden("enroll-joined", &joined);
    let refused = EnrollReply::Refused(Refusal::new(Code::TokenExpired, "an hour ago"));
    golden("enroll-refused", &refused);
}
