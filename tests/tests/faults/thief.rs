//! A controller in a thief's hands, third part: true words in the wrong place or at the wrong time, and no manners at all.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use ensign_bundle::ids::{Label, Labels};
use ensign_bundle::plan::evidence::{Gate, GateReceipt};
use ensign_bundle::plan::statements::{Evidence, Grant, Subject};
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::{FORMAT, Snapshot, Targets};
use ensign_tests::harness::Fleet;
use ensign_tests::hostile::{Hostile, Manner, Offer, Wish, unix_now};
use serde_bytes::ByteBuf;
use serde_json::Value;

use super::plans::{honest, honest_again, honest_again_with_a_fresh_plan, lie, meet, robbed, robbed_after};

/// Ten years, seconds.
const LONG: u64 = 10 * 365 * 24 * 3600;
/// The soak that a thief would like to be over, seconds.
const SOAK: u64 = 3600;
/// What the link half may keep of bytes that nobody asked for.
const LITTER: u64 = 1 << 20;

/// Genuine receipts, each of another device or of another plan than it is shown for, and a genuine gate of another plan.
#[test]
fn borrowed_receipts_and_gates_open_nothing() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let good = honest(&fleet, &stolen, "2.0.0", "dev3")?;
    let gate = Gate::decode(good.gate.as_ref().context("the stolen gate")?)?;
    let with = |change: &dyn Fn(&mut Gate)| -> Result<Offer> {
        let mut gate = gate.clone();
        change(&mut gate);
        Ok(Offer {
            gate: Some(gate.encode()?),
            ..good.clone()
        })
    };
    let mut refuse = |offer, code, values: &[&str]| lie(&mut fleet, &stolen, "dev3", offer, code, values);

    // The receipt of one canary in the place of the other.
    let (one, other) = (gate.receipts[0].clone(), gate.receipts[1].clone());
    let offer = with(&|gate| gate.receipts[1].receipt = one.receipt.clone())?;
    refuse(offer, Code::ReceiptInvalid, &[&other.device.to_string()])?;
    // The receipt that it signed for the plan before this one.
    let (before, now) = (stolen.plan("1.0.0")?.0.digest(), stolen.plan("2.0.0")?.0.digest());
    let earlier = stolen.receipt(&before, &other.device)?;
    let offer = with(&|gate| gate.receipts[1].receipt = ByteBuf::from(earlier.clone()))?;
    refuse(offer, Code::ReceiptInvalid, &[&before.to_string()])?;
    // The gate of that plan, had it had one.
    let offer = with(&|gate| gate.plan = before)?;
    refuse(offer, Code::GateNotOpen, &[&before.to_string(), &now.to_string()])?;
    honest_again_with_a_fresh_plan(fleet, &standing)
}

/// Receipts count the time on the devices that signed them: nothing that a thief says of the clock makes a soak shorter.
#[test]
fn a_soak_that_is_not_over_opens_nothing_whatever_time_it_is_said_to_be() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed_after(&format!("{SOAK}s"), |status| status["waves"][0]["ok"] == 2)?;
    let (plan, _) = stolen.plan("2.0.0")?;
    let canaries = ["dev1", "dev2"].map(|name| honest(&fleet, &stolen, "2.0.0", name));
    let mut receipts = Vec::new();
    for (name, place) in ["dev1", "dev2"].iter().zip(canaries) {
        let device = fleet.member(name)?.device;
        receipts.push(GateReceipt {
            receipt: ByteBuf::from(stolen.receipt(&plan.digest(), &device)?),
            device,
            member: place?.member,
        });
    }
    let gate = Gate {
        format: FORMAT,
        plan: plan.digest(),
        wave: 2,
        receipts,
        promote: None,
    };
    let offer = Offer {
        gate: Some(gate.encode()?),
        ..honest(&fleet, &stolen, "2.0.0", "dev3")?
    };
    let mut wish = Wish::new(&stolen, Some(offer))?;
    wish.ahead_s = 2 * SOAK;
    meet(
        &mut fleet,
        &stolen,
        "dev3",
        wish,
        Code::GateNotOpen,
        &["2 receipts", "healthy for 3600 s", "0 are there"],
    )?;
    honest_again_with_a_fresh_plan(fleet, &standing)
}

/// A plan that operators signed, with another release beside it; and one of theirs for a release that is older than what runs.
#[test]
fn another_release_than_the_plan_names_and_an_older_one_are_refused() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let good = honest(&fleet, &stolen, "2.0.0", "dev3")?;
    let other = Offer {
        release: stolen.release("1.0.0")?.1,
        ..good
    };
    lie(
        &mut fleet,
        &stolen,
        "dev3",
        other,
        Code::MetadataMissing,
        &["app/2.0.0"],
    )?;

    // The canary runs 2.0.0; the deploy key signs 1.0.0 for it, without a word of going back.
    fleet.device("dev1")?.stop();
    let there = fleet.standing("dev1", &fleet.path("second"))?;
    let (old, document) = stolen.release("1.0.0")?;
    let mut plan = stolen.plan("1.0.0")?.0.body;
    plan.seq += 10;
    (plan.issued, plan.expires) = (unix_now(), unix_now() + 3600);
    for wave in &mut plan.waves {
        wave.evidence = Evidence::Receipts(0);
    }
    let down = Offer {
        plan: statement::sign(&plan, &[&stolen.operator_key("deploy")?], &stolen.fleet)?,
        release: document,
        gate: None,
        ..honest(&fleet, &stolen, "1.0.0", "dev1")?
    };
    let counters = [old.counter, stolen.release("2.0.0")?.0.counter].map(|counter| counter.to_string());
    lie(
        &mut fleet,
        &stolen,
        "dev1",
        down,
        Code::NewerInstalled,
        &[&counters[0], &counters[1]],
    )?;
    fleet.unmoved(&there)?;
    fleet.start_device("dev1")?;
    honest_again_with_a_fresh_plan(fleet, &standing)
}

fn site(fleet: &Fleet, device: &str) -> Result<String> {
    let text = fs::read_to_string(fleet.root(device).join("var/lib/ensign/labels.json"))?;
    let labels: Value = serde_json::from_str(&text)?;
    Ok(labels["labels"]["site"].as_str().unwrap_or_default().to_owned())
}

/// Labels that the thief signs, and those that an operator signed before the newest.
#[test]
fn labels_are_what_operators_signed_last() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let device = fleet.member("dev3")?.device;
    let grant = |site: &str, label_seq| Grant {
        format: FORMAT,
        issued: unix_now(),
        subject: Subject::Device(device),
        labels: Labels::from([(
            Label::parse("site").expect("a label"),
            Label::parse(site).expect("a label"),
        )]),
        label_seq,
    };
    let deploy = stolen.operator_key("deploy")?;
    let [older, newer] =
        [("paris", 1), ("oslo", 2)].map(|(site, n)| statement::sign(&grant(site, n), &[&deploy], &stolen.fleet));
    let forged = statement::sign(
        &grant("rome", 9),
        &[&stolen.timestamp, &stolen.snapshot, &stolen.tls],
        &stolen.fleet,
    )?;
    // Nothing may start: that the offer is judged shows that what came with it was.
    let waiting = Offer {
        lease: None,
        ..honest(&fleet, &stolen, "2.0.0", "dev3")?
    };
    // Each of these looks other than the one before it: what is seen is of this visit.
    for (grant, offer) in [(newer?, Some(&waiting)), (older?, None), (forged, Some(&waiting))] {
        let mut wish = Wish::new(&stolen, offer.cloned())?;
        wish.documents.push((ensign_bundle::wire::DocKind::Grant, grant));
        let thief = Hostile::start(&stolen, fleet.address(), wish)?;
        fleet.start_device("dev3")?;
        fleet.wait_for("what the thief offers is judged", |f| {
            let reason = &f.status("dev3")?["reason"];
            Ok(reason["code"] == offer.map_or(Value::Null, |_| Code::LeaseMissing.name().into()))
        })?;
        fleet.device("dev3")?.stop();
        drop(thief);
        assert_eq!(site(&fleet, "dev3")?, "oslo");
    }
    honest_again_with_a_fresh_plan(fleet, &standing)
}

/// Neither silence nor a flood of bytes changes what runs; the device says what it waits for.
#[test]
fn a_thief_without_manners_only_costs_time() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let offer = honest(&fleet, &stolen, "2.0.0", "dev3")?;
    for (manner, code, says) in [
        (Manner::Silent, Code::ControllerUnreachable, "no welcome"),
        (Manner::Babbling, Code::ControllerUnreachable, "4294967295"),
        (Manner::Endless, Code::ContentMismatch, ""),
    ] {
        let mut wish = Wish::new(&stolen, Some(offer.clone()))?;
        wish.manner = manner;
        meet(&mut fleet, &stolen, "dev3", wish, code, &[says])?;
        fleet.unmoved(&standing)?;
        let kept = bytes_below(&fleet.root("dev3").join("var/lib/ensign/link"))?;
        ensure!(kept < LITTER, "{manner:?} left {kept} bytes");
    }
    honest_again(fleet, &standing)
}

/// A byte a second: the device gives up at the deadline of the record, which does not grow by what dribbles in.
#[test]
fn a_thief_that_drips_is_left() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let mut wish = Wish::new(&stolen, Some(honest(&fleet, &stolen, "2.0.0", "dev3")?))?;
    wish.manner = Manner::Dripping;
    meet(
        &mut fleet,
        &stolen,
        "dev3",
        wish,
        Code::ControllerUnreachable,
        &["was not there 60 s after it was asked for"],
    )?;
    honest_again(fleet, &standing)
}

/// Signed with the stolen key for a time that has not come.
#[test]
fn metadata_of_the_far_future_is_refused() -> Result<()> {
    let (mut fleet, stolen, standing) = robbed()?;
    let (_, snapshot) = stolen.newest::<Snapshot>(|s| s.version)?;
    let targets = stolen.newest::<Targets>(|t| t.version)?.1;
    let issued = unix_now() + LONG;
    let future = stolen.forge_timestamp(&snapshot, |t| (t.issued, t.expires) = (issued, issued + 3600))?;
    let wish = Wish::with_roles(
        future,
        snapshot,
        targets,
        Some(honest(&fleet, &stolen, "2.0.0", "dev3")?),
    );
    let thief = Hostile::start(&stolen, fleet.address(), wish)?;
    fleet.start_device("dev3")?;
    fleet.wait_for("the far future is refused", |f| {
        let reason = &f.status("dev3")?["reason"];
        // A clock that nothing keeps right cannot call it the future: then everything else is late, and root has to change the key.
        let codes = [Code::LifetimeRefused, Code::MetadataExpired].map(Code::name);
        let code = reason["code"].as_str().is_some_and(|code| codes.contains(&code));
        Ok(code
            && reason["text"]
                .as_str()
                .is_some_and(|text| text.contains(&issued.to_string())))
    })?;
    drop(thief);
    fleet.unmoved(&standing)
}

fn bytes_below(folder: &std::path::Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() {
            bytes_below(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(sum)
}
