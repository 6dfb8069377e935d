//! What the usual golden bytes leave out.

use std::collections::BTreeMap;

use ensign_bundle::codec::Ext;
use ensign_bundle::digest::CutSeed;
use ensign_bundle::ids::Label;
use ensign_bundle::plan::statements::{
    Bound, Cohort, Evidence, GateKind, OnBreach, Pace, PlanRelease, Stop, Subject, Wave,
};
use ensign_bundle::trust::issue::OFFLINE_LIFE_S;
use ensign_bundle::trust::roles::{
    Compatible, Controller, Floors, Listed, ListedRelease, Policy, Product, Role, RootRoles, Scope,
};

use super::*;

/// Of each width: what follows the first byte of a number, and the largest one.
const WIDE: [u64; 5] = [23, 0xff, 0x1_0000, 1 << 32, u64::MAX];

/// Fields of a later version: `{"new": [0, false, null, -1, {"in": "text"}]}`.
fn ext() -> Ext {
    let bytes = b"\xa1\x63new\x85\x00\xf4\xf6\x20\xa1\x62in\x64text";
    codec::decode(bytes, 10).unwrap()
}

fn role<const N: usize>(threshold: u32, seeds: [u8; N]) -> Role {
    Role {
        keys: seeds.map(public).to_vec(),
        threshold,
    }
}

fn listed(version: u64, byte: u8) -> Listed {
    Listed {
        version,
        length: WIDE[2],
        digest: Digest([byte; 32]),
    }
}

#[test]
fn more_of_root_and_targets() {
    let floor = ProductFloor {
        plan_seq: WIDE[1],
        counter: WIDE[2],
        security: WIDE[3],
    };
    let scope = |name: &str, select: &str, role| Scope {
        name: ident(name),
        select: select.into(),
        role,
    };
    let root = Root {
        format: FORMAT,
        version: u64::MAX,
        issued: START,
        expires: START + OFFLINE_LIFE_S,
        fleet: FLEET,
        name: "Café ☕".into(),
        roles: RootRoles {
            root: role(2, [1, 2, 11]),
            targets: role(1, [3]),
            snapshot: role(1, [6, 16]),
            timestamp: role(2, [7, 17]),
        },
        scopes: vec![
            scope("all", "", role(1, [5])),
            scope(
                "edge",
                "site=lyon and not (env=prod or tier in (a,b))",
                role(2, [5, 15, 25]),
            ),
        ],
        protected: labels(&[("env", "x"), ("tier", "x")]).into_keys().collect(),
        policy: Policy {
            lab: false,
            first_wave_max: Some(u32::MAX),
            offline: vec![ident("all"), ident("edge")],
            offline_without_time: true,
            timestamp_life_s: Some(30 * DAY),
            known_canaries: true,
        },
        controller: Controller {
            keys: vec![public(8).id(), public(18).id()],
            api: vec![Digest([9; 32]), Digest([10; 32])],
            addresses: vec!["ensign.example:7443".into(), "[2001:db8::1]:443".into()],
        },
        floors: Floors {
            reset_epoch: WIDE[0],
            targets_version: WIDE[4],
            products: [(ident("app"), floor), (ident("gateway-os"), floor)].into(),
        },
        time_reset: Some(u64::MAX),
        min_protocol: u16::MAX,
        ext: ext(),
    };
    more(&root, &[1, 2], &[]);
    let product = |name: &str, seed: u8| Product {
        name: name.into(),
        role: role(1, [seed]),
        components: vec!["web".into(), "pos-*".into()],
        kinds: ["tree", "image", "oci", "agent", "handler"].map(String::from).to_vec(),
        handlers: vec![ident("podman"), ident("stm32")],
        units: vec!["pos-*.service".into()],
        security_floor: WIDE[3],
        lowest: WIDE[4],
        network: true,
        ext: ext(),
    };
    let targets = Targets {
        format: FORMAT,
        version: WIDE[0],
        issued: WIDE[0],
        expires: WIDE[1],
        products: vec![product("*", 4), product("app", 14)],
        ext: ext(),
    };
    more(&targets, &[3, 2], &[]);
}

#[test]
fn more_of_what_changes_often() {
    let release = Release {
        format: FORMAT,
        version: WIDE[3],
        issued: WIDE[2],
        expires: WIDE[3],
        product: ident("0.a_b-c"),
        release: version("Z.z+_-0"),
        counter: u64::MAX,
        security_floor: u64::MAX,
        manifest: FileRef {
            digest: Digest([7; 32]),
            length: 64 << 20,
        },
        compatible: Compatible {
            arch: Vec::new(),
            hardware: Vec::new(),
            min_agent: None,
            min_from: None,
        },
        yanked: None,
        patch_index: None,
        ext: ext(),
    };
    more(&release, &[4, 2], &[]);
    let entry = |product: &str, release: &str, number: usize| ListedRelease {
        product: ident(product),
        release: version(release),
        counter: WIDE[number],
        document: listed(WIDE[number], 1),
    };
    let snapshot = Snapshot {
        format: FORMAT,
        version: WIDE[2],
        issued: 0,
        expires: 1,
        targets: listed(WIDE[4], 2),
        releases: vec![entry("app", "1.0.0", 1), entry("app", "1.0.1", 2), entry("os", "x", 4)],
        ext: ext(),
    };
    more(&snapshot, &[6, 7], &[]);
    let timestamp = Timestamp {
        format: FORMAT,
        version: WIDE[4],
        issued: WIDE[3],
        expires: WIDE[4],
        snapshot: listed(WIDE[3], 3),
        ext: ext(),
    };
    more(&timestamp, &[7, 6], &[]);
}

/// A plan with every variant, its waves, and its devices.
fn plan() -> (Plan, Vec<CutWave>, Vec<Device>) {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.2.3", |_| {});
    let devices: Vec<_> = (0..6).map(Device::new).collect();
    let (_, cut) = fleet.plan(&app, &devices, "5,100%");
    let wave = |cohort, gate, evidence, number: usize| Wave {
        cohort,
        min_soak_s: WIDE[number],
        gate,
        evidence,
    };
    let selector = |expr: &str, cumulative_bp| Cohort::Selector {
        expr: expr.into(),
        cumulative_bp,
    };
    let plan = Plan {
        format: FORMAT,
        issued: START,
        product: ident("app"),
        seq: START + DAY,
        cut_seed: CutSeed([0; 16]),
        release: PlanRelease {
            version: version("1.2.3"),
            counter: WIDE[4],
            manifest: Digest([2; 32]),
            length: WIDE[2],
        },
        waves: vec![
            wave(cut[0].cohort(), GateKind::Auto, Evidence::Receipts(0), 0),
            wave(cut[1].cohort(), GateKind::Manual, Evidence::Receipts(3), 1),
            wave(selector("", 1), GateKind::Auto, Evidence::Dwell, 2),
            wave(selector("site=lyon", 10_000), GateKind::Manual, Evidence::Dwell, 4),
        ],
        not_before: 0,
        expires: START + 30 * DAY,
        windows: vec!["Mon-Fri 01:00-05:00 local".into(), "Sat,Sun 00:00-24:00 UTC".into()],
        health: Some(HealthBounds {
            window_s: 0,
            deadline_s: WIDE[2],
        }),
        reverts: Some(Reverts {
            plan: Digest([1; 32]),
            from: Digest([3; 32]),
            to: Digest([2; 32]),
            revert_for_s: WIDE[3],
            failures: 64,
        }),
        downgrade: Some(String::new()),
        offline: Some(Digest([4; 32])),
        emergency: true,
        pace: Pace {
            max_parallel: Some(u32::MAX),
            one_per: Some(Label::parse("Store/unit").unwrap()),
            rate_per_h: Some(0),
            prefetch: true,
            priority: u32::MAX,
            stop: Stop {
                failed: Bound::Count(u32::MAX),
                dark: Bound::BasisPoints(10_000),
                min_sample: 0,
                dark_after_s: Some(u64::MAX),
                quorum_bp: 10_000,
                reach_s: 0,
                on_breach: OnBreach::Revert,
            },
        },
        select: "site=lyon".into(),
        exclude: vec!["till-7".into(), "till-8".into()],
        reason: "it prints \"nothing\"\n".into(),
        ext: ext(),
    };
    (plan, cut, devices)
}

#[test]
fn more_of_what_is_asked() {
    let (plan, _, devices) = plan();
    more(&plan, &[5, 15], &[]);
    let digest = Digest(statement::seal(&plan).unwrap().payload_digest());
    let id = devices[5].id();
    let cancel = Cancel {
        format: FORMAT,
        issued: u64::MAX,
        plan: digest,
        product: ident("gateway-os"),
        reason: String::new(),
    };
    more(&cancel, &[5, 15], &[]);
    let hold = Hold {
        format: FORMAT,
        issued: u64::MAX,
        device: id,
        seq: u64::MAX,
        held: false,
        reason: "réparé".into(),
    };
    more(&hold, &[5, 15], &[]);
    let promote = Promote {
        format: FORMAT,
        issued: WIDE[4],
        plan: digest,
        wave: u32::MAX,
    };
    more(&promote, &[5, 15], &[]);
    let grant = Grant {
        format: FORMAT,
        issued: 0,
        subject: Subject::Device(id),
        labels: labels(&[("9", "0"), ("Store/unit", "C.d_e-f"), ("site", "lyon")]),
        label_seq: DAY,
    };
    more(&grant, &[5, 15], &[]);
}

#[test]
fn more_of_what_happened() {
    let (plan, cut, devices) = plan();
    let digest = Digest(statement::seal(&plan).unwrap().payload_digest());
    let Device { tls, receipt: own } = &devices[0];
    let id = devices[0].id();
    let binding = Binding {
        format: FORMAT,
        issued: u64::MAX,
        device: id,
        key: tls.public(),
        receipt_key: own.public(),
        token: public(60),
        grant: Digest([4; 32]),
        name: "n".repeat(63),
        claims: BTreeMap::from([("serial".into(), "Nº 7".into()), ("mac".into(), String::new())]),
    };
    more(&binding, &[60, 61], &[tls, own]);
    let receipt = |state| Receipt {
        format: FORMAT,
        issued: WIDE[4],
        plan: digest,
        release: plan.release.manifest,
        device: id,
        state,
        healthy_for_s: WIDE[3],
        seq: u64::MAX,
    };
    more(&receipt(ReceiptState::Confirmed), &[61], &[own]);
    let failed = receipt(ReceiptState::Failed { code: Code::NoSpace });
    kept::<Receipt>("-failed", &statement::sign(&failed, &[own], &FLEET).unwrap());
    let lease = Lease {
        format: FORMAT,
        issued: u64::MAX,
        plan: digest,
        device: id,
        nonce: Nonce([0; 32]),
        ttl_s: u64::MAX,
    };
    more(&lease, &[7, 17], &[]);
    let time = TimeAttestation {
        format: FORMAT,
        fleet: FLEET,
        device: id,
        nonce: Nonce([0xff; 32]),
        time: u64::MAX,
    };
    more(&time, &[7, 17], &[]);
    let rotation = Rotation {
        format: FORMAT,
        issued: u64::MAX,
        device: id,
        old: public(61),
        new: public(62),
        receipt_key: own.public(),
    };
    more(&rotation, &[61, 62, 60], &[own]);
    // Without a promotion, with the longest paths that this wave has.
    let first = cut[0].members.iter().take(3);
    let shown = first.zip([
        ReceiptState::Confirmed,
        ReceiptState::Confirmed,
        ReceiptState::Failed { code: Code::Io },
    ]);
    let receipts = shown.map(|(member, state)| {
        let device = devices.iter().find(|d| d.id() == member.device).unwrap();
        GateReceipt {
            receipt: ByteBuf::from(device.receipt(digest, plan.release.manifest, state, WIDE[4], WIDE[4])),
            device: member.device,
            member: cut[0].proof(&member.device).unwrap(),
        }
    });
    let gate = Gate {
        format: FORMAT,
        plan: digest,
        wave: 2,
        receipts: receipts.collect(),
        promote: None,
    };
    let found = golden("gate-v1-more.cbor", &gate.encode().unwrap());
    assert_eq!(Gate::decode(&found), Ok(gate));
}
