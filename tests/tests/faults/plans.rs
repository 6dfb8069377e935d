//! A controller in a thief's hands: it has every online key, serves whom it likes, and lies about plans. Devices refuse each lie for
//! its own reason, keep what they run, and take the honest plan when the controller is theirs again.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use ensign_bundle::plan::evidence::{Gate, Lease, Receipt};
use ensign_bundle::plan::statements::{Cancel, Plan};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::FORMAT;
use ensign_crypto::{Envelope, SecretKey};
use ensign_tests::harness::{ALL_AT_ONCE, Fleet, Profile, Standing, build, write_tree};
use ensign_tests::hostile::{Hostile, Offer, Stolen, Wish, unix_now};
use serde_bytes::ByteBuf;

/// Starts 2.0.0 with two canaries and two receipts as evidence, while the device of wave 2 is away; then the controller is stolen.
pub(super) fn robbed() -> Result<(Fleet, Arc<Stolen>, Standing)> {
    robbed_after("0s", |status| status["waves"][1]["state"] == "open")
}

/// The same with a soak, and the moment of the theft.
pub(super) fn robbed_after(
    soak: &str,
    when: impl Fn(&serde_json::Value) -> bool,
) -> Result<(Fleet, Arc<Stolen>, Standing)> {
    let (mut fleet, first) = Fleet::with_first_release(&build(Profile::Dev)?, 3)?;
    fleet.device("dev3")?.stop();
    let tree = fleet.path("second");
    write_tree(&tree, &[("version", "2.0.0")])?;
    fleet.release("2.0.0", &[("web", &tree)], &[])?;
    let start = [
        "rollout",
        "start",
        "--product",
        "app",
        "--version",
        "2.0.0",
        "--yes",
        "--canary",
        "name in (dev1, dev2)",
        "--waves",
        "100%",
        "--soak",
        soak,
        "--evidence",
        "2",
    ];
    fleet.ensign(start, [""; 0])?;
    fleet.wait_for("the rollout has come as far as the thief wants it", |f| {
        Ok(when(&f.json(["rollout", "status"])?))
    })?;
    fleet.controller()?.kill_all();
    let stolen = Arc::new(Stolen::from(&fleet)?);
    let standing = fleet.standing("dev3", &first)?;
    Ok((fleet, stolen, standing))
}

/// How a lease is changed before it is signed.
type Change = fn(&mut Lease);

/// The honest offer of a version for a device of a robbed fleet.
pub(super) fn honest(fleet: &Fleet, stolen: &Stolen, version: &str, device: &str) -> Result<Offer> {
    let (plan, bytes) = stolen.plan(version)?;
    let all = fleet
        .device_names()
        .iter()
        .map(|d| fleet.member(d))
        .collect::<Result<Vec<_>>>()?;
    let member = Stolen::place(&plan.body, &all, &fleet.member(device)?.device)?;
    let gate = stolen.gate(&plan.digest(), member.wave).ok();
    Ok(Offer {
        plan: bytes,
        release: stolen.release(version)?.1,
        gate: gate.map(|gate| gate.encode()).transpose()?,
        member,
        lease: Some(|_| ()),
    })
}

/// The device meets the thief with this offer and must refuse it for this reason.
pub(super) fn lie(
    fleet: &mut Fleet,
    stolen: &Arc<Stolen>,
    device: &str,
    offer: Offer,
    code: Code,
    values: &[&str],
) -> Result<()> {
    let before = fleet.status(device)?;
    if before["status"] == "waiting" && before["reason"]["code"] == code.name() {
        // A device that waits keeps the words of its first refusal of a kind, to write less: let it forget them.
        let nothing = Hostile::start(stolen, fleet.address(), Wish::new(stolen, None)?)?;
        fleet.start_device(device)?;
        fleet.wait_for("an offer that is withdrawn is forgotten", |f| {
            Ok(f.status(device)?["reason"].is_null())
        })?;
        fleet.device(device)?.stop();
        drop(nothing);
    }
    meet(fleet, stolen, device, Wish::new(stolen, Some(offer))?, code, values)
}

/// The device meets a thief with this wish, and says this of it.
pub(super) fn meet(
    fleet: &mut Fleet,
    stolen: &Arc<Stolen>,
    device: &str,
    wish: Wish,
    code: Code,
    values: &[&str],
) -> Result<()> {
    let thief = Hostile::start(stolen, fleet.address(), wish)?;
    fleet.start_device(device)?;
    fleet.wait_for_refusal(device, code, values)?;
    fleet.device(device)?.stop();
    drop(thief);
    Ok(())
}

/// The controller is honest again: the plan that was misused is taken now, and so is the next release.
pub(super) fn honest_again(mut fleet: Fleet, standing: &Standing) -> Result<()> {
    fleet.unmoved(standing)?;
    fleet.start_controller()?;
    fleet.start_device("dev3")?;
    fleet.wait_for("the device of wave 2 takes the honest plan", |f| {
        Ok(f.versions()?["dev3"].as_deref() == Some("2.0.0"))
    })?;
    fleet.goes_on("3.0.0")?;
    Ok(())
}

/// The same where the device refused the honest plan itself for what came with it: it says so, counts as failed in that plan, and
/// takes a fresh one.
pub(super) fn honest_again_with_a_fresh_plan(mut fleet: Fleet, standing: &Standing) -> Result<()> {
    fleet.unmoved(standing)?;
    fleet.start_controller()?;
    fleet.start_device("dev3")?;
    let exit = fleet.rollout("2.0.0", ALL_AT_ONCE)?;
    assert_eq!(exit, 0, "{}", fleet.logs());
    fleet.runs("dev3", &fleet.path("second"))?;
    fleet.goes_on("3.0.0")?;
    Ok(())
}

#[test]
fn a_gate_without_enough_receipts_stays_closed() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let good = honest(&fleet, &stolen, "2.0.0", "dev3")?;
    let gate = Gate::decode(good.gate.as_ref().context("the stolen gate")?)?;
    assert_eq!((gate.wave, gate.receipts.len()), (2, 2));
    let with = |change: &dyn Fn(&mut Gate)| -> Result<Offer> {
        let mut gate = gate.clone();
        change(&mut gate);
        Ok(Offer {
            gate: Some(gate.encode()?),
            ..good.clone()
        })
    };

    let none = Offer {
        gate: None,
        ..good.clone()
    };
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        none,
        Code::GateNotOpen,
        &["2 receipts", "0 are there"],
    )?;
    let twice = with(&|gate| gate.receipts[1] = gate.receipts[0].clone())?;
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        twice,
        Code::GateNotOpen,
        &["2 receipts", "1 are there"],
    )?;
    let other_wave = with(&|gate| gate.wave = 1)?;
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        other_wave,
        Code::GateNotOpen,
        &["wave 1", "2"],
    )?;

    // A receipt of the missing device, signed by the best key that the thief has.
    let other = gate.receipts[1].device;
    let forged = Receipt {
        seq: 1 << 40,
        ..statement::open_unverified::<Receipt>(&gate.receipts[1].receipt)?.body
    };
    let forged = statement::sign(&forged, &[&stolen.timestamp], &stolen.fleet)?;
    let forged = with(&|gate| gate.receipts[1].receipt = ByteBuf::from(forged.clone()))?;
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        forged,
        Code::ReceiptInvalid,
        &[&other.to_string()],
    )?;

    // A device that the thief made up, with a key of its own, in the place of a real one.
    let own = SecretKey::from_seed([5; 32]);
    let invented = Receipt {
        seq: 1,
        ..statement::open_unverified::<Receipt>(&gate.receipts[1].receipt)?.body
    };
    let invented = statement::sign(&invented, &[&own], &stolen.fleet)?;
    let invented = with(&|gate| {
        gate.receipts[1].receipt = ByteBuf::from(invented.clone());
        gate.receipts[1].member.receipt_key = own.public();
    })?;
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        invented,
        Code::ReceiptInvalid,
        &["the proof ends at", "the plan has"],
    )?;
    honest_again_with_a_fresh_plan(fleet, &standing)
}

#[test]
fn a_plan_for_another_device_or_with_a_forged_proof_is_refused() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let good = honest(&fleet, &stolen, "2.0.0", "dev3")?;
    let theirs = honest(&fleet, &stolen, "2.0.0", "dev1")?;

    // The place of a canary, whole: no proof for this device, whatever its key.
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        theirs.clone(),
        Code::NotInPlan,
        &["the proof ends at", "the plan has"],
    )?;
    // The place of a canary with this device's key.
    let mut forged = theirs;
    forged.member.receipt_key = good.member.receipt_key;
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        forged.clone(),
        Code::NotInPlan,
        &["the proof ends at", "the plan has"],
    )?;
    // A path that is too long, and a place outside of the wave.
    let mut long = good.clone();
    long.member.path.push(
        long.member
            .path
            .first()
            .copied()
            .unwrap_or(ensign_bundle::digest::Digest([1; 32])),
    );
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        long,
        Code::NotInPlan,
        &["the proof has 1 steps"],
    )?;
    let mut outside = good.clone();
    outside.member.index = 7;
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        outside,
        Code::NotInPlan,
        &["place 7", "wave of 1"],
    )?;
    let mut no_wave = good;
    no_wave.member.wave = 9;
    lie(&mut fleet, &stolen, "dev3", no_wave, Code::NotInPlan, &["wave 9"])?;
    honest_again_with_a_fresh_plan(fleet, &standing)
}

#[test]
fn a_plan_that_operators_did_not_sign_is_refused() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let good = honest(&fleet, &stolen, "2.0.0", "dev3")?;
    let (plan, _) = stolen.plan("2.0.0")?;
    // Everybody in the first wave, where no evidence is asked for.
    let mut eager = plan.body.clone();
    eager.seq += 1;
    eager.waves = vec![eager.waves[1].clone()];
    eager.waves[0].evidence = ensign_bundle::plan::statements::Evidence::Receipts(0);
    let mine = statement::sign(
        &eager,
        &[&stolen.timestamp, &stolen.snapshot, &stolen.tls],
        &stolen.fleet,
    )?;
    let signed = Offer {
        plan: mine,
        ..good.clone()
    };
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        signed,
        Code::RoleNotAuthorised,
        &["0 ", "1 "],
    )?;
    // The operators' signatures under another text.
    let mut moved = statement::seal(&eager)?;
    for signature in plan.envelope.signatures() {
        moved.add(signature.clone())?;
    }
    let moved = Offer {
        plan: moved.encode(),
        ..good.clone()
    };
    lie(&mut fleet, &stolen, "dev3", moved, Code::ThresholdNotMet, &["0 ", "1 "])?;
    // None at all.
    let bare = Envelope::new("plan", plan.envelope.payload().to_vec());
    let bare = Offer {
        plan: bare.encode(),
        ..good
    };
    lie(&mut fleet, &stolen, "dev3", bare, Code::Unsigned, &["no signature"])?;
    honest_again(fleet, &standing)
}

#[test]
fn a_plan_that_ran_already_is_refused() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    fleet.device("dev1")?.stop();
    let second = fleet.path("second");
    let there = fleet.standing("dev1", &second)?;
    let old = honest(&fleet, &stolen, "1.0.0", "dev1")?;
    let (number, last) = (stolen.plan("1.0.0")?.0.body.seq, stolen.plan("2.0.0")?.0.body.seq);
    let values = [
        format!("plan number {number} of app"),
        format!("number {last} was started"),
    ];
    lie(
        &mut fleet,
        &stolen,
        "dev1",
        old,
        Code::PlanReplayed,
        &[&values[0], &values[1]],
    )?;
    fleet.unmoved(&there)?;
    fleet.start_device("dev1")?;
    honest_again(fleet, &standing)
}

#[test]
fn without_a_lease_of_its_own_a_device_does_not_switch() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let good = honest(&fleet, &stolen, "2.0.0", "dev3")?;
    let zero = "0".repeat(64);
    let lies: [(Option<Change>, &[&str]); 5] = [
        (None, &["no permission"]),
        (Some(|lease| lease.device.0 = [0; 32]), &["no permission"]),
        (Some(|lease| lease.plan.0 = [0; 32]), &["plan", &zero]),
        (Some(|lease| lease.nonce.0 = [0; 32]), &["no permission"]),
        (Some(|lease| lease.ttl_s = 0), &["good for 0 s"]),
    ];
    for (lease, values) in lies {
        let offer = Offer { lease, ..good.clone() };
        lie(&mut fleet, &stolen, "dev3", offer, Code::LeaseMissing, values)?;
    }
    honest_again(fleet, &standing)
}

#[test]
fn a_cancelled_plan_stays_cancelled_whoever_offers_it() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let good = honest(&fleet, &stolen, "2.0.0", "dev3")?;
    let (plan, _) = stolen.plan("2.0.0")?;
    let cancel = Cancel {
        format: FORMAT,
        issued: unix_now(),
        plan: plan.digest(),
        product: plan.body.product.clone(),
        reason: "stolen".to_owned(),
    };
    let cancel = statement::sign(&cancel, &[&stolen.operator_key("deploy")?], &stolen.fleet)?;
    // The cancel reaches the device once, by whatever way ...
    let mut wish = Wish::new(&stolen, Some(good.clone()))?;
    wish.documents.push((ensign_bundle::wire::DocKind::Cancel, cancel));
    let text = plan.digest().to_string();
    let once = Hostile::start(&stolen, fleet.address(), wish)?;
    fleet.start_device("dev3")?;
    fleet.wait_for_refusal("dev3", Code::PlanCancelled, &[&text])?;
    fleet.device("dev3")?.stop();
    drop(once);
    // ... and a thief that hides it later gains nothing.
    lie(&mut fleet, &stolen, "dev3", good, Code::PlanCancelled, &[&text])?;
    fleet.unmoved(&standing)?;
    fleet.start_controller()?;
    fleet.start_device("dev3")?;
    fleet.goes_on("3.0.0")?;
    Ok(())
}

#[test]
fn a_plan_past_its_expiry_is_refused() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let good = honest(&fleet, &stolen, "2.0.0", "dev3")?;
    let mut late: Plan = stolen.plan("2.0.0")?.0.body;
    (late.issued, late.not_before, late.expires) = (unix_now() - 7200, unix_now() - 7200, unix_now() - 3600);
    late.waves = vec![late.waves[1].clone()];
    late.waves[0].evidence = ensign_bundle::plan::statements::Evidence::Receipts(0);
    let expired = late.expires.to_string();
    let plan = statement::sign(&late, &[&stolen.operator_key("deploy")?], &stolen.fleet)?;
    let mut offer = Offer {
        plan,
        gate: None,
        ..good
    };
    offer.member.wave = 1;
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        offer,
        Code::PlanExpired,
        &[&expired, "it is"],
    )?;
    honest_again(fleet, &standing)
}
