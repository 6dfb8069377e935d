//! What a device accepts: a good offer, and one test for each code that refuses it.

use std::collections::{BTreeMap, BTreeSet};

use ensign_bundle::accept::{Accepted, DeviceFacts, Direction, HeldLease, Installed, Offer, Stage, Window, accept};
use ensign_bundle::digest::{DeviceId, Digest, Nonce};
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::evidence::{Gate, GateReceipt, Lease, Membership, ReceiptState};
use ensign_bundle::plan::statements::{Cancel, Cohort, Evidence, GateKind, Hold, Plan, Promote, Reverts};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::{FORMAT, ProductFloor};
use ensign_bundle::trust::{Clock, ReleaseName, Source, Trusted};
use serde_bytes::ByteBuf;

use crate::fleet::*;

const NONCE: Nonce = Nonce([0x33; 32]);

/// One device (of wave 1 unless said otherwise), and an offer that it accepts until a test spoils it.
#[derive(Clone)]
struct Bench {
    fleet: Fleet,
    devices: Vec<Device>,
    me: usize,
    release: ReleaseName,
    plan: Plan,
    waves: Vec<CutWave>,
    facts: DeviceFacts,
    signers: Vec<u8>,
    trusted: Trusted,
    member: Option<Membership>,
    gate: Option<Gate>,
    lease: Option<Lease>,
    lease_by: u8,
    lease_age_s: u64,
    forward: Option<Vec<u8>>,
    dwell_s: u64,
    source: Source,
    clock: Clock,
    stage: Stage,
}

fn bench() -> Bench {
    bench_with(|_| {}, "app", |_| {})
}

fn bench_with(
    before: impl FnOnce(&mut Fleet),
    product: &str,
    change: impl FnOnce(&mut ensign_bundle::trust::roles::Release),
) -> Bench {
    let mut fleet = Fleet::new();
    before(&mut fleet);
    let release = fleet.release(product, "2.0.0", change);
    fleet.publish();
    let mut trusted = fleet.fresh();
    trusted
        .find_release(&release, &mut |want| fleet.find(&want), fleet.now, Source::Online)
        .unwrap();
    let devices: Vec<_> = (0..10).map(Device::new).collect();
    let (plan, waves) = fleet.plan(&release, &devices, "40%,100%");
    let first = waves[0].members[0].device;
    let me = devices.iter().position(|d| d.id() == first).unwrap();
    let installed = Installed {
        version: version("1.0.0"),
        counter: version("1.0.0").counter().unwrap(),
        manifest: Digest([0x10; 32]),
        plan: Digest([0x11; 32]),
        switched_for_s: 5000,
    };
    let facts = DeviceFacts {
        id: first,
        name: "dev1".into(),
        receipt_key: devices[me].receipt.public(),
        nonce: NONCE,
        arch: "x86_64".into(),
        hardware: "pos-3".into(),
        agent: version("1.2.0"),
        installed: BTreeMap::from([(release.product.clone(), installed)]),
        denied: BTreeSet::new(),
        attempt: None,
        trust_degraded: false,
        window: Window::Open,
        lock: None,
    };
    Bench {
        clock: fleet.now.into(),
        fleet,
        devices,
        me,
        release,
        plan,
        waves,
        facts,
        signers: vec![5],
        trusted,
        member: None,
        gate: None,
        lease: None,
        lease_by: 7,
        lease_age_s: 10,
        forward: None,
        dwell_s: 0,
        source: Source::Online,
        stage: Stage::Switch,
    }
}

impl Bench {
    fn plan_bytes(&self) -> Vec<u8> {
        sign(&self.plan, &self.signers)
    }

    fn digest(&self) -> Digest {
        Digest(ensign_bundle::statement::seal(&self.plan).unwrap().payload_digest())
    }

    fn membership(&self) -> Membership {
        let proof = self.waves.iter().find_map(|wave| wave.proof(&self.facts.id));
        self.member.clone().or(proof).unwrap()
    }

    fn default_lease(&self) -> Lease {
        Lease {
            format: FORMAT,
            issued: self.fleet.now,
            plan: self.digest(),
            device: self.facts.id,
            nonce: NONCE,
            ttl_s: 900,
        }
    }

    fn answer(&self) -> Result<Accepted, ensign_bundle::reason::Refusal> {
        let plan = self.plan_bytes();
        let gate = self.gate.as_ref().map(|gate| gate.encode().unwrap());
        let lease = sign(
            &self.lease.clone().unwrap_or_else(|| self.default_lease()),
            &[self.lease_by],
        );
        let offer = Offer {
            plan: &plan,
            member: &self.membership(),
            gate: gate.as_deref(),
            lease: Some(HeldLease {
                envelope: &lease,
                age_s: self.lease_age_s,
            }),
            forward: self.forward.as_deref(),
            dwell_s: self.dwell_s,
            source: self.source,
        };
        accept(&self.trusted, &self.facts, &offer, self.clock, self.stage)
    }

    /// The answer after `spoil`, to switch and to prepare.
    fn both(&self, spoil: impl Fn(&mut Self)) -> (Option<Code>, Option<Code>) {
        let mut spoiled = self.clone();
        spoil(&mut spoiled);
        spoiled.stage = Stage::Switch;
        let switch = spoiled.answer().err().map(|r| r.code);
        spoiled.stage = Stage::Prepare;
        (switch, spoiled.answer().err().map(|r| r.code))
    }

    #[track_caller]
    fn refused(&self, wanted: Code, spoil: impl Fn(&mut Self)) {
        assert_eq!(self.both(spoil), (Some(wanted), Some(wanted)));
    }

    #[track_caller]
    fn refused_to_switch(&self, wanted: Code, spoil: impl Fn(&mut Self)) {
        assert_eq!(self.both(spoil), (Some(wanted), None));
    }

    fn installed(&mut self) -> &mut Installed {
        self.facts.installed.get_mut(&self.release.product).unwrap()
    }

    fn become_device(&mut self, id: DeviceId) {
        self.me = self.devices.iter().position(|d| d.id() == id).unwrap();
        self.facts.id = id;
        self.facts.receipt_key = self.devices[self.me].receipt.public();
    }

    fn second_wave(mut self) -> Self {
        let other = self.waves[1].members[0].device;
        self.become_device(other);
        self
    }

    fn receipt(&self, device: DeviceId, state: ReceiptState, healthy_for_s: u64, seq: u64) -> GateReceipt {
        let owner = self.devices.iter().find(|d| d.id() == device).unwrap();
        let wave = self.waves.iter().find(|w| w.proof(&device).is_some()).unwrap();
        GateReceipt {
            receipt: ByteBuf::from(owner.receipt(self.digest(), self.plan.release.manifest, state, healthy_for_s, seq)),
            device,
            member: wave.proof(&device).unwrap(),
        }
    }

    fn open_gate(&self) -> Gate {
        let good = self.waves[0].members.iter().take(2);
        Gate {
            format: FORMAT,
            plan: self.digest(),
            wave: 2,
            receipts: good
                .map(|m| self.receipt(m.device, ReceiptState::Confirmed, 600, 1))
                .collect(),
            promote: None,
        }
    }
}

#[test]
fn a_good_offer_is_accepted() {
    let bench = bench();
    let accepted = bench.answer().unwrap();
    assert_eq!((accepted.wave, accepted.direction), (1, Direction::Upgrade));
    assert_eq!(accepted.digest, bench.digest());
    assert_eq!(accepted.id().0[..], accepted.digest.0[..16]);
    assert_eq!(accepted.release.release, version("2.0.0"));
    let mut first = bench.clone();
    first.facts.installed.clear();
    assert_eq!(first.answer().unwrap().direction, Direction::Upgrade);
}

#[test]
fn signatures() {
    let bench = bench();
    bench.refused(Code::Unsigned, |b| b.signers = vec![]);
    bench.refused(Code::RoleNotAuthorised, |b| b.signers = vec![4]);
    // By the right key, for another fleet: that signature says nothing here.
    let plan = sign_for(&bench.plan, &[5], &ensign_bundle::digest::FleetId([1; 32]));
    let offer = Offer {
        plan: &plan,
        member: &bench.membership(),
        gate: None,
        lease: None,
        forward: None,
        dwell_s: 0,
        source: Source::Online,
    };
    let answer = |offer: &Offer<'_>| accept(&bench.trusted, &bench.facts, offer, bench.clock, Stage::Prepare);
    assert_eq!(code(answer(&offer)), Code::ThresholdNotMet);
    assert_eq!(
        code(answer(&Offer {
            plan: &plan[1..],
            ..offer
        })),
        Code::Malformed
    );
    let long = vec![0; ensign_bundle::limits::PLAN_BYTES + 1];
    assert_eq!(code(answer(&Offer { plan: &long, ..offer })), Code::LimitExceeded);
}

#[test]
fn every_scope_that_covers_the_device_must_sign() {
    let two = |fleet: &mut Fleet| {
        fleet.next_root(
            |root| {
                let mut lyon = root.scopes[0].clone();
                lyon.name = ident("lyon");
                lyon.select = "site = lyon".into();
                lyon.role.keys = vec![public(50)];
                root.scopes.push(lyon);
                root.protected = vec![ensign_bundle::ids::Label::parse("site").unwrap()];
            },
            &[],
        );
        fleet.publish();
    };
    let mut bench = bench_with(two, "app", |_| {});
    // No labels yet, and `site` is protected: counts as protected.
    bench.refused(Code::RoleNotAuthorised, |_| {});
    assert_eq!(bench.both(|b| b.signers = vec![5, 50]), (None, None));
    // Labelled for another site, by all who must agree.
    let id = bench.facts.id;
    let paris = device_grant(id, 1, &[("site", "paris")]);
    let by_one = sign(&paris, &[5]);
    assert_eq!(
        code(bench.trusted.take_grant(&by_one, &id, "dev1")),
        Code::RoleNotAuthorised
    );
    bench.trusted.take_grant(&sign(&paris, &[5, 50]), &id, "dev1").unwrap();
    assert_eq!(bench.both(|_| {}), (None, None));
    let none = bench_with(
        |f| f.next_root(|root| root.scopes[0].select = "x = y".into(), &[]),
        "app",
        |_| {},
    );
    none.refused(Code::RoleNotAuthorised, |_| {});
}

#[test]
fn metadata_and_delegation() {
    let bench = bench();
    bench.refused(Code::MetadataMissing, |b| b.trusted = b.fleet.trust());
    bench.refused(Code::MetadataMissing, |b| b.trusted.retain_releases(|_| false));
    bench.refused(Code::NotFound, |b| b.plan.release.version = version("2.0.1"));
    // The snapshot lists another counter than the document has.
    bench.refused(Code::ContentMismatch, |b| {
        let mut snapshot = b.fleet.snapshot.clone().unwrap();
        snapshot.version += 1;
        snapshot.releases[0].counter += 1;
        b.fleet.publish_snapshot(snapshot);
        b.fleet.refresh(&mut b.trusted).unwrap();
    });
    // Targets no longer cover the product.
    bench.refused(Code::MetadataMissing, |b| {
        b.fleet
            .next_targets(|targets| targets.products[0].name = "other".into());
        b.fleet.publish();
        b.fleet.refresh(&mut b.trusted).unwrap();
    });
}

#[test]
fn the_device_itself() {
    let with = |change: fn(&mut ensign_bundle::trust::roles::Compatible)| {
        bench_with(|_| {}, "app", |release| change(&mut release.compatible))
    };
    with(|c| c.arch = vec!["aarch64".into()]).refused(Code::HardwareMismatch, |_| {});
    with(|c| c.hardware = vec!["pos-4".into()]).refused(Code::HardwareMismatch, |_| {});
    with(|c| c.min_agent = Some(version("1.10.0"))).refused(Code::AgentTooOld, |_| {});
    with(|c| c.min_from = Some(version("1.0.1").counter().unwrap())).refused(Code::StepMissing, |_| {});
    let fits = with(|c| {
        c.arch = vec!["aarch64".into(), "x86_64".into()];
        c.hardware = vec!["pos-3".into()];
        c.min_agent = Some(version("1.2.0"));
        c.min_from = version("1.0.0").counter();
    });
    assert_eq!(fits.both(|_| {}), (None, None));
    assert_eq!(fits.both(|b| b.facts.agent = version("1.3.0-rc1")), (None, None));
}

#[test]
fn counters_never_go_back_by_themselves() {
    let bench = bench();
    let newer = |b: &mut Bench| b.installed().counter = version("3.0.0").counter().unwrap();
    bench.refused(Code::NewerInstalled, newer);
    let same_counter = |b: &mut Bench| b.installed().counter = b.plan.release.counter;
    bench.refused(Code::DowngradeRefused, same_counter);
    assert_eq!(
        bench.both(|b| {
            newer(b);
            b.plan.downgrade = Some("broken printer driver".into());
        }),
        (None, None)
    );
    let below = |floor: ProductFloor| {
        let change = move |fleet: &mut Fleet| {
            fleet.next_root(|root| root.floors.products.extend([(ident("app"), floor)]), &[]);
        };
        bench_with(change, "app", |_| {})
    };
    let floor = ProductFloor {
        security: version("2.0.1").counter().unwrap(),
        ..ProductFloor::default()
    };
    below(floor).refused(Code::BelowFloor, |b| b.plan.downgrade = Some("whatever".into()));
    let floor = ProductFloor {
        plan_seq: 2,
        ..ProductFloor::default()
    };
    below(floor).refused(Code::PlanReplayed, |_| {});
    // A release that proved itself here forbids what is below its floor, for ever.
    bench.refused(Code::BelowFloor, |b| {
        let mut release = b.fleet.releases[&b.release].clone();
        release.security_floor = version("2.0.1").counter().unwrap();
        b.trusted.confirmed(&release);
        b.trusted = Trusted::decode(&b.trusted.encode().unwrap()).unwrap();
    });
}

#[test]
fn a_plan_runs_once() {
    let bench = bench();
    let started = |b: &mut Bench| {
        let (plan, digest) = (b.plan.clone(), b.digest());
        b.trusted.started(&plan, digest).unwrap();
        b.trusted = Trusted::decode(&b.trusted.encode().unwrap()).unwrap();
    };
    bench.refused(Code::PlanReplayed, started);
    // It is the one under way.
    assert_eq!(
        bench.both(|b| {
            started(b);
            b.facts.attempt = Some(b.digest());
        }),
        (None, None)
    );
    // An older one, or another with the same number, is never taken.
    bench.refused(Code::PlanReplayed, |b| {
        started(b);
        b.plan.reason = "another".into();
        b.facts.attempt = Some(b.digest());
    });
    assert_eq!(
        bench.both(|b| {
            started(b);
            b.plan.seq += 1;
        }),
        (None, None)
    );
}

#[test]
fn what_runs_already_is_up_to_date() {
    let bench = bench();
    bench.refused(Code::UpToDate, |b| {
        b.installed().manifest = b.plan.release.manifest;
        b.installed().counter = b.plan.release.counter;
        let (plan, digest) = (b.plan.clone(), b.digest());
        b.trusted.started(&plan, digest).unwrap();
        b.lease_age_s = 9999;
    });
}

#[test]
fn time() {
    let bench = bench();
    let at = |now: u64| move |b: &mut Bench| b.clock = now.into();
    bench.refused(Code::MetadataExpired, at(START + DAY));
    bench.refused(Code::PlanExpired, |b| {
        b.plan.expires = b.plan.issued + 10;
        b.clock = (b.plan.issued + 10).into();
    });
    bench.refused(Code::ClockSuspect, |b| b.clock = Clock::untrusted(b.fleet.now));
    bench.refused(Code::ClockSuspect, |b| b.clock = (b.fleet.now - 601).into());
    assert_eq!(
        bench.both(|b| b.clock = (b.fleet.now - 600).into()).1,
        Some(Code::NotYet)
    );
    bench.refused(Code::LifetimeRefused, |b| {
        b.plan.issued += 25 * 3600;
    });
}

#[test]
fn the_plan() {
    let bench = bench();
    bench.refused(Code::PlanMismatch, |b| b.plan.release.manifest = Digest([1; 32]));
    bench.refused(Code::PlanMismatch, |b| b.plan.release.counter += 1);
    bench.refused(Code::PlanMismatch, |b| b.plan.release.length += 1);
    bench.refused(Code::Denied, |b| {
        b.facts.denied.insert(b.plan.release.manifest);
    });
    bench.refused(Code::TrustDegraded, |b| b.facts.trust_degraded = true);
    bench_with(|_| {}, "app", |release| release.yanked = Some("eats files".into())).refused(Code::Yanked, |_| {});
    bench.refused(Code::PlanCancelled, |b| {
        let cancel = Cancel {
            format: FORMAT,
            issued: START,
            plan: b.digest(),
            product: b.plan.product.clone(),
            reason: "wrong".into(),
        };
        let (id, name) = (b.facts.id, b.facts.name.clone());
        assert_eq!(
            code(b.trusted.take_cancel(&sign(&cancel, &[7]), &id, &name)),
            Code::RoleNotAuthorised
        );
        b.trusted.take_cancel(&sign(&cancel, &[5]), &id, &name).unwrap();
        b.trusted = Trusted::decode(&b.trusted.encode().unwrap()).unwrap();
    });
    let small = |fleet: &mut Fleet| fleet.next_root(|root| root.policy.first_wave_max = Some(3), &[]);
    bench_with(small, "app", |_| {}).refused(Code::PolicyRefused, |_| {});
}

#[test]
fn a_held_device_takes_nothing_until_it_is_let_go() {
    let mut bench = bench();
    let hold = |seq: u64, held: bool| Hold {
        format: FORMAT,
        issued: START,
        device: bench.facts.id,
        seq,
        held,
        reason: "under repair".into(),
    };
    let (first, go, again) = (
        sign(&hold(1, true), &[5]),
        sign(&hold(2, false), &[5]),
        sign(&hold(2, true), &[5]),
    );
    let foreign = sign(
        &Hold {
            device: DeviceId([1; 32]),
            ..hold(3, true)
        },
        &[5],
    );
    let id = bench.facts.id;
    let mut take = |bytes: &[u8]| {
        bench
            .trusted
            .take_hold(bytes, &id, "dev1")
            .map(|_| ())
            .map_err(|r| r.code)
    };
    assert_eq!(take(&foreign), Err(Code::WrongDevice));
    assert_eq!(take(&first), Ok(()));
    assert_eq!(take(&first), Ok(()), "the same again");
    bench.refused(Code::Held, |_| {});
    let mut take = |bytes: &[u8]| {
        bench
            .trusted
            .take_hold(bytes, &id, "dev1")
            .map(|_| ())
            .map_err(|r| r.code)
    };
    assert_eq!(take(&go), Ok(()));
    assert_eq!(take(&first), Err(Code::RollbackRefused));
    assert_eq!(take(&again), Err(Code::RollbackRefused));
    assert_eq!(bench.both(|_| {}), (None, None));
}

#[test]
fn the_place_in_a_wave() {
    let bench = bench();
    bench.refused(Code::IdentityChanged, |b| b.facts.receipt_key = public(90));
    bench.refused(Code::NotInPlan, |b| {
        let mut member = b.membership();
        member.index += 1;
        b.member = Some(member);
    });
    bench.refused(Code::NotInPlan, |b| {
        let mut member = b.membership();
        member.wave = 3;
        b.member = Some(member);
    });
    bench.refused(Code::NotInPlan, |b| {
        // The proof of a neighbour, who is in the plan.
        let neighbour = &b.waves[0].members[1];
        let mut member = b.waves[0].proof(&neighbour.device).unwrap();
        member.receipt_key = b.facts.receipt_key;
        b.member = Some(member);
    });
    bench.refused(Code::NotInPlan, |b| {
        // Listed for wave 2, claims wave 1.
        let other = b.waves[1].members[0].device;
        let mut member = b.waves[1].proof(&other).unwrap();
        b.become_device(other);
        member.wave = 1;
        b.member = Some(member);
    });
}

#[test]
fn a_selector_cohort_is_for_who_matches_and_falls_below_its_share() {
    let mut bench = bench();
    let id = bench.facts.id;
    bench
        .trusted
        .take_grant(&sign(&device_grant(id, 1, &[("site", "lyon")]), &[5]), &id, "dev1")
        .unwrap();
    let bucket = ensign_bundle::plan::cohort::bucket(&bench.plan.cut_seed, &id);
    let with = |expr: &str, cumulative_bp: u32| {
        let expr = expr.to_owned();
        move |b: &mut Bench| {
            b.plan.waves[0].cohort = Cohort::Selector {
                expr: expr.clone(),
                cumulative_bp,
            };
            b.plan.waves[1].evidence = Evidence::Dwell;
            b.member = Some(Membership {
                wave: 1,
                index: 0,
                receipt_key: b.facts.receipt_key,
                path: Vec::new(),
            });
        }
    };
    assert_eq!(bench.both(with("site = lyon", bucket + 1)), (None, None));
    bench.refused(Code::NotInPlan, with("site = lyon", bucket));
    bench.refused(Code::NotInPlan, with("site = paris", 10_000));
}

#[test]
fn a_gate_opens_on_receipts() {
    let bench = bench().second_wave();
    bench.refused(Code::GateNotOpen, |_| {});
    let open = |b: &mut Bench| b.gate = Some(b.open_gate());
    assert_eq!(bench.both(open), (None, None));
    let spoiled = |wanted: Code, spoil: &dyn Fn(&Bench, &mut Gate)| {
        bench.refused(wanted, |b| {
            let mut gate = b.open_gate();
            spoil(b, &mut gate);
            b.gate = Some(gate);
        });
    };
    let devices: Vec<_> = bench.waves[0].members.iter().map(|m| m.device).collect();
    spoiled(Code::GateNotOpen, &|_, gate| gate.plan = Digest([1; 32]));
    spoiled(Code::GateNotOpen, &|_, gate| gate.wave = 1);
    spoiled(Code::GateNotOpen, &|_, gate| gate.receipts.truncate(1));
    spoiled(Code::GateNotOpen, &|_, gate| {
        gate.receipts[1] = gate.receipts[0].clone();
    });
    spoiled(Code::GateNotOpen, &|b, gate| {
        gate.receipts[1] = b.receipt(devices[1], ReceiptState::Confirmed, 599, 1);
    });
    let failed = || ReceiptState::RolledBack { code: Code::Unhealthy };
    spoiled(Code::GateNotOpen, &|b, gate| {
        gate.receipts[1] = b.receipt(devices[1], failed(), 600, 1);
    });
    // A later bad one cancels an earlier good one, in whatever order they are shown.
    spoiled(Code::GateNotOpen, &|b, gate| {
        gate.receipts.insert(0, b.receipt(devices[1], failed(), 700, 2));
    });
    // Receipts of the wave that is to be opened.
    let later = bench.waves[1].members[1].device;
    spoiled(Code::GateNotOpen, &|b, gate| {
        gate.receipts[1] = b.receipt(later, ReceiptState::Confirmed, 600, 1);
    });
    // Of another plan, with another key, or for another device.
    let other = |b: &Bench, change: &dyn Fn(&mut Bench)| {
        let mut other = b.clone();
        change(&mut other);
        other.receipt(devices[1], ReceiptState::Confirmed, 600, 1).receipt
    };
    spoiled(Code::ReceiptInvalid, &|b, gate| {
        gate.receipts[1].receipt = other(b, &|o| o.plan.seq += 1);
    });
    spoiled(Code::ReceiptInvalid, &|b, gate| {
        let at = b.devices.iter().position(|d| d.id() == devices[1]).unwrap();
        gate.receipts[1].receipt = other(b, &|o| o.devices[at].receipt = key(91));
    });
    spoiled(Code::ReceiptInvalid, &|b, gate| {
        gate.receipts[1].receipt = b.open_gate().receipts[0].receipt.clone();
    });
    spoiled(Code::ReceiptInvalid, &|_, gate| gate.receipts[1].member.index ^= 1);
}

#[test]
fn a_manual_gate_waits_for_a_promotion() {
    let mut bench = bench().second_wave();
    bench.plan.waves[1].gate = GateKind::Manual;
    let with = |wave: u32, signers: &'static [u8]| {
        move |b: &mut Bench| {
            let promote = Promote {
                format: FORMAT,
                issued: START,
                plan: b.digest(),
                wave,
            };
            let mut gate = b.open_gate();
            gate.promote = Some(ByteBuf::from(sign(&promote, signers)));
            b.gate = Some(gate);
        }
    };
    bench.refused(Code::GateNotOpen, |b| b.gate = Some(b.open_gate()));
    bench.refused(Code::GateNotOpen, with(1, &[5]));
    bench.refused(Code::RoleNotAuthorised, with(2, &[7]));
    assert_eq!(bench.both(with(2, &[5])), (None, None));
}

#[test]
fn a_dwell_gate_goes_by_the_devices_own_time() {
    let mut bench = bench().second_wave();
    bench.plan.waves[1].evidence = Evidence::Dwell;
    bench.refused(Code::GateNotOpen, |b| b.dwell_s = 599);
    assert_eq!(bench.both(|b| b.dwell_s = 600), (None, None));
}

#[test]
fn not_before_and_prefetch() {
    let bench = bench();
    let later = |b: &mut Bench| b.plan.not_before = b.fleet.now + 60;
    bench.refused(Code::NotYet, later);
    bench.refused_to_switch(Code::NotYet, |b| {
        later(b);
        b.plan.pace.prefetch = true;
    });
    bench
        .second_wave()
        .refused_to_switch(Code::GateNotOpen, |b| b.plan.pace.prefetch = true);
}

#[test]
fn only_to_switch() {
    let bench = bench();
    let lease = |change: fn(&mut Lease)| {
        move |b: &mut Bench| {
            let mut lease = b.default_lease();
            change(&mut lease);
            b.lease = Some(lease);
        }
    };
    bench.refused_to_switch(Code::LeaseMissing, lease(|l| l.nonce = Nonce([1; 32])));
    bench.refused_to_switch(Code::LeaseMissing, lease(|l| l.device = DeviceId([1; 32])));
    bench.refused_to_switch(Code::LeaseMissing, lease(|l| l.plan = Digest([1; 32])));
    bench.refused_to_switch(Code::RoleNotAuthorised, |b| b.lease_by = 6);
    bench.refused_to_switch(Code::LeaseMissing, |b| b.lease_age_s = 900);
    bench.refused_to_switch(Code::LeaseMissing, |b| {
        lease(|l| l.ttl_s = u64::MAX)(b);
        b.lease_age_s = 901;
    });
    let closed = |b: &mut Bench| b.facts.window = Window::Closed { opens: Some(START + 9) };
    bench.refused_to_switch(Code::OutsideWindow, closed);
    bench.refused_to_switch(Code::OutsideWindow, |b| {
        b.facts.window = Window::Unknown("Feb 30".into());
    });
    let locked = |b: &mut Bench| b.facts.lock = Some("till is open".into());
    bench.refused_to_switch(Code::Locked, locked);
    let emergency = |b: &mut Bench| {
        closed(b);
        locked(b);
        b.plan.emergency = true;
    };
    assert_eq!(bench.both(emergency), (None, None));
    bench.refused_to_switch(Code::LeaseMissing, |b| {
        emergency(b);
        b.lease_age_s = 900;
    });
    let no_lease = bench.clone();
    let plan = no_lease.plan_bytes();
    let offer = Offer {
        plan: &plan,
        member: &no_lease.membership(),
        gate: None,
        lease: None,
        forward: None,
        dwell_s: 0,
        source: Source::Online,
    };
    let answer = accept(
        &no_lease.trusted,
        &no_lease.facts,
        &offer,
        no_lease.clock,
        Stage::Switch,
    );
    assert_eq!(code(answer), Code::LeaseMissing);
}

#[test]
fn offline() {
    let allowed = |fleet: &mut Fleet| fleet.next_root(|root| root.policy.offline = vec![ident("all")], &[]);
    let mut bench = bench_with(allowed, "app", |_| {});
    bench.source = Source::Bundle;
    bench.lease_age_s = 9999;
    bench.refused(Code::NoOfflinePlan, |_| {});
    bench.plan.offline = Some(Digest::of(&bench.fleet.snapshot_bytes));
    assert_eq!(bench.both(|_| {}), (None, None), "no lease is needed");
    // Timestamp and snapshot have expired: the plan is the proof of freshness.
    assert_eq!(bench.both(|b| b.clock = (START + 5 * DAY).into()), (None, None));
    assert_eq!(
        bench.both(|b| {
            b.source = Source::Online;
            b.clock = (START + 5 * DAY).into();
        }),
        (Some(Code::MetadataExpired), Some(Code::MetadataExpired))
    );
    bench.refused(Code::PlanExpired, |b| b.clock = (START + 7 * DAY).into());
    bench.refused(Code::NoOfflinePlan, |b| b.plan.offline = Some(Digest([1; 32])));
    bench.refused(Code::NoOfflinePlan, |b| b.plan.expires = b.plan.issued + 15 * DAY);
    bench.refused(Code::NoOfflinePlan, |b| {
        b.plan.waves[0].cohort = Cohort::Selector {
            expr: "all".into(),
            cumulative_bp: 10_000,
        };
        b.plan.waves[1].evidence = Evidence::Dwell;
    });
    bench.refused(Code::ClockSuspect, |b| b.clock = Clock::untrusted(START));
    bench.refused(Code::DowngradeRefused, |b| b.installed().counter = u64::MAX);
    let mut elsewhere = bench_with(|_| {}, "app", |_| {});
    elsewhere.source = Source::Bundle;
    elsewhere.plan.offline = Some(Digest::of(&elsewhere.fleet.snapshot_bytes));
    elsewhere.refused(Code::NoOfflinePlan, |_| {});
    let without_time = |fleet: &mut Fleet| {
        fleet.next_root(
            |root| {
                root.policy.offline = vec![ident("all")];
                root.policy.offline_without_time = true;
            },
            &[],
        );
    };
    let mut bench = bench_with(without_time, "app", |_| {});
    bench.source = Source::Bundle;
    bench.plan.offline = Some(Digest::of(&bench.fleet.snapshot_bytes));
    assert_eq!(bench.both(|b| b.clock = Clock::untrusted(START)), (None, None));
}

/// The device runs 3.0.0 of a forward plan for all ten; 2.0.0 is what the revert goes back to.
fn reverting() -> Bench {
    let mut bench = bench();
    let forward_release = bench.fleet.release("app", "3.0.0", |_| {});
    bench.fleet.publish();
    bench.fleet.refresh(&mut bench.trusted).unwrap();
    let (mut forward, waves) = bench.fleet.plan(&forward_release, &bench.devices, "40%,100%");
    forward.seq = 5;
    let back = bench.plan.release.clone();
    bench.plan = Plan {
        seq: 6,
        reverts: Some(Reverts {
            plan: Digest(ensign_bundle::statement::seal(&forward).unwrap().payload_digest()),
            from: forward.release.manifest,
            to: back.manifest,
            revert_for_s: DAY,
            failures: 2,
        }),
        ..bench.plan.clone()
    };
    let forward_digest = bench.plan.reverts.as_ref().unwrap().plan;
    *bench.installed() = Installed {
        version: version("3.0.0"),
        counter: forward.release.counter,
        manifest: forward.release.manifest,
        plan: forward_digest,
        switched_for_s: 3600,
    };
    bench.trusted.started(&forward, forward_digest).unwrap();
    bench.forward = Some(sign(&forward, &[5]));
    let receipts = waves[0].members.iter().take(2).map(|member| {
        let owner = bench.devices.iter().find(|d| d.id() == member.device).unwrap();
        let state = ReceiptState::RolledBack { code: Code::Unhealthy };
        GateReceipt {
            receipt: ByteBuf::from(owner.receipt(forward_digest, forward.release.manifest, state, 60, 1)),
            device: member.device,
            member: waves[0].proof(&member.device).unwrap(),
        }
    });
    bench.gate = Some(Gate {
        format: FORMAT,
        plan: bench.digest(),
        wave: 1,
        receipts: receipts.collect(),
        promote: None,
    });
    bench
}

/// After a change of the plan: the gate names the plan's new digest.
fn regate(b: &mut Bench) {
    let digest = b.digest();
    b.gate.as_mut().unwrap().plan = digest;
}

#[test]
fn a_prepared_revert_needs_its_plan_its_time_and_failures() {
    let bench = reverting();
    assert_eq!(bench.answer().unwrap().direction, Direction::Revert);
    bench.refused(Code::PlanMismatch, |b| b.installed().plan = Digest([1; 32]));
    bench.refused(Code::PlanMismatch, |b| b.installed().manifest = Digest([1; 32]));
    bench.refused(Code::PlanMismatch, |b| b.facts.installed.clear());
    bench.refused(Code::PlanExpired, |b| b.installed().switched_for_s = DAY + 1);
    bench.refused(Code::PlanMismatch, |b| {
        b.plan.reverts.as_mut().unwrap().to = Digest([1; 32]);
        regate(b);
    });
    bench.refused(Code::MetadataMissing, |b| b.forward = None);
    bench.refused(Code::PlanMismatch, |b| b.forward = Some(b.plan_bytes()));
    bench.refused(Code::GateNotOpen, |b| b.gate = None);
    bench.refused(Code::GateNotOpen, |b| {
        b.gate.as_mut().unwrap().receipts.pop();
    });
    bench.refused(Code::GateNotOpen, |b| {
        let gate = b.gate.as_mut().unwrap();
        gate.receipts[1] = gate.receipts[0].clone();
    });
    // Never below a floor, whatever failed.
    bench.refused(Code::BelowFloor, |b| {
        let mut release = b.fleet.releases[&b.release].clone();
        release.security_floor = release.counter + 1;
        b.trusted.confirmed(&release);
    });
}

#[test]
fn the_first_failing_group_is_the_answer() {
    // Everything wrong at once: signatures, device, counter, time, plan, lease.
    let mut bench = bench_with(
        |_| {},
        "app",
        |release| release.compatible.arch = vec!["riscv64".into()],
    );
    bench.signers = vec![4];
    bench.installed().counter = u64::MAX;
    bench.clock = (START + 100 * DAY).into();
    bench.facts.trust_degraded = true;
    bench.lease_age_s = 9999;
    let mut answers = Vec::new();
    let mends: [fn(&mut Bench); 6] = [
        |b| b.signers = vec![5],
        |b| b.facts.arch = "riscv64".into(),
        |b| b.installed().counter = 1,
        |b| b.clock = START.into(),
        |b| b.facts.trust_degraded = false,
        |b| b.lease_age_s = 0,
    ];
    for mend in mends {
        answers.push(bench.answer().unwrap_err().code);
        mend(&mut bench);
    }
    bench.answer().unwrap();
    assert_eq!(
        answers,
        [
            Code::RoleNotAuthorised,
            Code::HardwareMismatch,
            Code::NewerInstalled,
            Code::MetadataExpired,
            Code::TrustDegraded,
            Code::LeaseMissing
        ]
    );
}
