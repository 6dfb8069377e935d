//! Golden bytes of every signed kind: what earlier versions signed is read for ever, and signed again it is the same bytes.
//!
//! `KIND-v1.cose` is a usual one. `KIND-v1-more.cose` has what that one has not: every other variant and field, numbers of the widest
//! form, several signatures; its fields are all written out, so that a new one is missed by the compiler.
//!
//! `UPDATE_GOLDEN=1` writes files that are not there yet; those that are there are never changed.

mod more;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use ensign_bundle::codec;
use ensign_bundle::digest::{Digest, Nonce};
use ensign_bundle::each_document;
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::evidence::{Binding, Gate, GateReceipt, Lease, Receipt, ReceiptState, TimeAttestation};
use ensign_bundle::plan::file::{PlanDevice, PlanFile};
use ensign_bundle::plan::membership::Member;
use ensign_bundle::plan::rotation::Rotation;
use ensign_bundle::plan::statements::{Cancel, Grant, HealthBounds, Hold, Plan, Promote, Reverts};
use ensign_bundle::plan::token::Token;
use ensign_bundle::reason::Code;
use ensign_bundle::statement::{self, Document};
use ensign_bundle::trust::roles::{FORMAT, FileRef, ProductFloor, Release, Root, Snapshot, Targets, Timestamp};
use ensign_crypto::{Envelope, SecretKey};
use serde_bytes::ByteBuf;

use crate::fleet::*;

/// The file `NAME-v1.EXT`, which must have these bytes.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata")).join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        File::create(&path).unwrap().write_all(bytes).unwrap();
    }
    let found = fs::read(&path).unwrap();
    assert!(found == bytes, "{name} is not what this version signs");
    found
}

/// `KIND-v1.cose`.
fn envelope<T: Document + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    kept::<T>("", bytes);
}

/// `KIND-v1-more.cose`, signed by the keys of these seeds and those.
fn more<T: Document + PartialEq + std::fmt::Debug>(body: &T, seeds: &[u8], and: &[&SecretKey]) {
    let keys: Vec<SecretKey> = seeds.iter().map(|seed| key(*seed)).collect();
    let keys: Vec<&SecretKey> = keys.iter().chain(and.iter().copied()).collect();
    kept::<T>("-more", &statement::sign(body, &keys, &FLEET).unwrap());
}

fn kept<T: Document + PartialEq + std::fmt::Debug>(which: &str, bytes: &[u8]) {
    let found = golden(&format!("{}-v1{which}.cose", T::KIND), bytes);
    let opened = statement::open_unverified::<T>(&found).unwrap();
    assert_eq!(
        codec::encode(&opened.body).unwrap(),
        opened.envelope.payload(),
        "{}",
        T::KIND
    );
    assert_eq!(opened.envelope.encode(), found, "{}", T::KIND);
}

/// The list of kinds and the folder say the same.
#[test]
fn every_kind_has_its_golden_bytes() {
    macro_rules! kinds {
        ($($document:ty),* $(,)?) => { [$(<$document>::KIND),*] };
    }
    let wanted: BTreeSet<String> = each_document!(kinds)
        .iter()
        .flat_map(|kind| [format!("{kind}-v1.cose"), format!("{kind}-v1-more.cose")])
        .chain(["receipt-v1-failed.cose".to_owned()])
        .collect();
    let folder = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "cose"));
    let there: BTreeSet<String> = files
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(there, wanted);
}

#[test]
fn roles() {
    let mut fleet = Fleet::new();
    fleet.next_root(
        |root| {
            root.policy.first_wave_max = Some(10);
            root.policy.offline = vec![ident("all")];
            root.policy.timestamp_life_s = Some(7 * DAY);
            root.protected = labels(&[("env", "x")]).into_keys().collect();
            root.time_reset = Some(START);
            root.floors.reset_epoch = 1;
            let floor = ProductFloor {
                plan_seq: 1,
                counter: 2,
                security: 3,
            };
            root.floors.products.insert(ident("app"), floor);
        },
        &[2],
    );
    let app = fleet.release("app", "1.2.3", |release| {
        release.compatible.arch = vec!["x86_64".into()];
        release.compatible.hardware = vec!["pos-3".into()];
        release.compatible.min_agent = Some(version("1.0.0"));
        release.compatible.min_from = Some(1);
        release.yanked = Some("eats files".into());
        release.patch_index = Some(FileRef {
            digest: Digest([7; 32]),
            length: 9,
        });
    });
    fleet.publish();
    envelope::<Root>(&fleet.roots[1]);
    envelope::<Targets>(&fleet.targets_bytes);
    envelope::<Release>(&fleet.release_bytes[&app]);
    envelope::<Snapshot>(&fleet.snapshot_bytes);
    envelope::<Timestamp>(&fleet.timestamp_bytes);
}

#[test]
fn statements() {
    let mut fleet = Fleet::new();
    let release = fleet.release("app", "1.2.3", |_| {});
    let devices: Vec<_> = (0..3).map(Device::new).collect();
    let (mut plan, waves) = fleet.plan(&release, &devices, "1,100%");
    plan.windows = vec!["Mon-Fri 01:00-05:00 local".into()];
    plan.health = Some(HealthBounds {
        window_s: 60,
        deadline_s: 300,
    });
    plan.reverts = Some(Reverts {
        plan: Digest([1; 32]),
        from: Digest([2; 32]),
        to: plan.release.manifest,
        revert_for_s: DAY,
        failures: 2,
    });
    plan.downgrade = Some("printer".into());
    plan.offline = Some(Digest([3; 32]));
    plan.pace.max_parallel = Some(500);
    plan.pace.stop.dark_after_s = Some(1800);
    let bytes = sign(&plan, &[5]);
    let digest = statement::open_unverified::<Plan>(&bytes).unwrap().digest();
    envelope::<Plan>(&bytes);
    let id = devices[0].id();
    let cancel = Cancel {
        format: FORMAT,
        issued: START,
        plan: digest,
        product: ident("app"),
        reason: "wrong".into(),
    };
    envelope::<Cancel>(&sign(&cancel, &[5]));
    let hold = Hold {
        format: FORMAT,
        issued: START,
        device: id,
        seq: 1,
        held: true,
        reason: "under repair".into(),
    };
    envelope::<Hold>(&sign(&hold, &[5]));
    let promote = Promote {
        format: FORMAT,
        issued: START,
        plan: digest,
        wave: 2,
    };
    let promote = sign(&promote, &[5]);
    envelope::<Promote>(&promote);
    let grant = sign(&token_grant(60, &[("site", "lyon")]), &[5]);
    envelope::<Grant>(&grant);
    envelope::<Binding>(&devices[0].binding(60, Digest([4; 32])));
    let state = ReceiptState::RolledBack { code: Code::Unhealthy };
    let receipt = devices[0].receipt(digest, plan.release.manifest, state, 600, 1);
    envelope::<Receipt>(&receipt);
    let lease = Lease {
        format: FORMAT,
        issued: START,
        plan: digest,
        device: id,
        nonce: Nonce([5; 32]),
        ttl_s: 900,
    };
    envelope::<Lease>(&sign(&lease, &[7]));
    let time = TimeAttestation {
        format: FORMAT,
        fleet: FLEET,
        device: id,
        nonce: Nonce([5; 32]),
        time: START,
    };
    envelope::<TimeAttestation>(&sign(&time, &[7]));
    let Device { tls, receipt: own } = &devices[0];
    let rotation = Rotation::new(START, id, tls.public(), public(61), own.public());
    envelope::<Rotation>(&statement::sign(&rotation, &[tls, &key(61), own], &FLEET).unwrap());
    let gate = Gate {
        format: FORMAT,
        plan: digest,
        wave: 2,
        receipts: vec![GateReceipt {
            receipt: ByteBuf::from(receipt),
            device: id,
            member: waves.iter().find_map(|wave| wave.proof(&id)).unwrap(),
        }],
        promote: Some(ByteBuf::from(promote)),
    };
    let found = golden("gate-v1.cbor", &gate.encode().unwrap());
    assert_eq!(Gate::decode(&found), Ok(gate));
}

#[test]
fn tokens() {
    let fleet = Fleet::new();
    let token = Token {
        addresses: vec!["127.0.0.1:7443".into()],
        fleet: FLEET,
        root: Digest::of(&fleet.roots[0]),
        controller: public(8).id(),
        key: key(60),
    };
    let text = token.to_text().unwrap();
    let found = String::from_utf8(golden("token-v1.txt", text.as_bytes())).unwrap();
    assert_eq!(found.parse::<Token>().unwrap().public(), public(60));
}

/// A plan file of two devices, one of them with labels of its own, and what its members are.
fn plan_file() -> (PlanFile, Vec<Member>) {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.2.3", |_| {});
    fleet.publish();
    let devices: Vec<_> = (0..2).map(Device::new).collect();
    let (plan, waves) = fleet.plan(&app, &devices, "1,100%");
    let token = sign(&token_grant(60, &[("site", "lyon")]), &[5]);
    let digest = statement::open_unverified::<Grant>(&token).unwrap().digest();
    let in_order = waves
        .iter()
        .flat_map(|wave| wave.members.iter().map(|m| (wave.number, m.device)));
    let mut file = PlanFile {
        plan: statement::open_unverified(&sign(&plan, &[5])).unwrap(),
        chain: Vec::new(),
        tokens: vec![token.clone()],
        devices: Vec::new(),
    };
    let mut members = Vec::new();
    for (number, (wave, id)) in in_order.enumerate() {
        let device = devices.iter().find(|d| d.id() == id).unwrap();
        let binding = device.binding(60, digest);
        let grant = (number == 0).then(|| sign(&device_grant(id, 1, &[("site", "nice")]), &[5]));
        let grants: Vec<&[u8]> = grant.iter().map(Vec::as_slice).collect();
        members.push(Member::verify(&fleet.authority(), &binding, &token, &grants).unwrap());
        file.devices.push(PlanDevice {
            wave,
            token: 0,
            binding: ByteBuf::from(binding),
            grant: grant.map(ByteBuf::from),
        });
    }
    for bytes in [&fleet.timestamp_bytes, &fleet.snapshot_bytes, &fleet.targets_bytes] {
        file.chain.push(Envelope::parse(bytes, bytes.len()).unwrap());
    }
    (file, members)
}

#[test]
fn plan_files() {
    let (file, members) = plan_file();
    let found = golden("plan-file-v1.bin", &file.encode().unwrap());
    let read = PlanFile::parse(&found).unwrap();
    assert_eq!(read.encode().unwrap(), found);
    let all: Vec<&Member> = members.iter().collect();
    let cut = read.cut(&all).unwrap();
    assert_eq!(cut.iter().map(CutWave::count).collect::<Vec<_>>(), [1, 1]);
    // Each byte counts, and the end is the end.
    for end in 0..found.len() {
        assert_eq!(code(PlanFile::parse(&found[..end])), Code::Malformed, "{end} bytes");
    }
    let longer = [&found[..], b"x"].concat();
    assert_eq!(code(PlanFile::parse(&longer)), Code::Malformed);
}

#[test]
fn a_plan_file_lists_exactly_whom_the_plan_signs() {
    let (file, members) = plan_file();
    let refused = |change: &dyn Fn(&mut PlanFile, &mut Vec<&Member>)| {
        let (mut file, mut all) = (file.clone(), members.iter().collect());
        change(&mut file, &mut all);
        file.cut(&all).unwrap_err().code
    };
    let gone = refused(&|file, all| {
        file.devices.pop();
        all.pop();
    });
    assert_eq!(gone, Code::ContentMismatch);
    assert_eq!(refused(&|file, _| file.devices[1].wave = 1), Code::ContentMismatch);
    assert_eq!(refused(&|_, all| all.swap(0, 1)), Code::ContentMismatch);
    assert_eq!(refused(&|_, all| all[1] = all[0]), Code::Conflict);
    let fewer = refused(&|_, all| {
        all.pop();
    });
    assert_eq!(fewer, Code::Malformed);
    let unread = |change: &dyn Fn(&mut PlanFile)| {
        let mut file = file.clone();
        change(&mut file);
        code(PlanFile::parse(&file.encode().unwrap()))
    };
    assert_eq!(unread(&|file| file.devices[0].wave = 0), Code::Malformed);
    assert_eq!(unread(&|file| file.devices[0].wave = 3), Code::Malformed);
    assert_eq!(unread(&|file| file.devices[0].token = 1), Code::Malformed);
}

#[test]
fn a_stored_trust_state() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.2.3", |_| {});
    fleet.publish();
    let mut trusted = fleet.fresh();
    let mut docs = |want: ensign_bundle::trust::Want<'_>| fleet.find(&want);
    let online = ensign_bundle::trust::Source::Online;
    trusted.find_release(&app, &mut docs, fleet.now, online).unwrap();
    let id = Device::new(0).id();
    trusted
        .take_grant(
            &sign(&device_grant(id, 1, &[("site", "lyon")]), &[5]),
            &id,
            "dev1",
            START,
        )
        .unwrap();
    let (plan, _) = fleet.plan(&app, &[Device::new(0)], "100%");
    trusted.started(&plan, Digest([1; 32])).unwrap();
    let found = golden("trust-state-v1.cbor", &trusted.encode().unwrap());
    let loaded = ensign_bundle::trust::Trusted::decode(&found).unwrap();
    assert_eq!(loaded.state(), trusted.state());
}
