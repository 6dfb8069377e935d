//! A controller in a thief's hands, fifth part: plans that fewer operators signed than root asks for.

use std::sync::Arc;

use anyhow::Result;
use ensign_bundle::plan::statements::Evidence;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::Root;
use ensign_bundle::wire::DocKind;
use ensign_tests::harness::{ALL_AT_ONCE, Fleet, put};
use ensign_tests::hostile::{Hostile, Offer, Stolen, Wish, unix_now};

use super::plans::{honest, lie, robbed};

/// Changes who signs plans, and how many of them.
fn deploy_keys(fleet: &Fleet, words: &[&str]) -> Result<()> {
    fleet.ensign(["key", "root", "rotate", "--role", "deploy:all"], words)?;
    fleet.ensign(["key", "root"], ["sign"])?;
    fleet.ensign(["key", "root"], ["publish", "--yes"])?;
    Ok(())
}

/// Two operators are asked for, one has signed; the thief fills up the number with every key of its own. A device that knows the root
/// which asks for two takes none of it, whether or not that root is shown to it again.
#[test]
fn a_plan_below_the_quorum_is_refused_whatever_fills_it_up() -> Result<()> {
    let (mut fleet, _, standing) = robbed()?;
    fleet.start_controller()?;
    fleet.ensign(["key", "gen"], ["deploy-2"])?;
    let public = fleet.ensign(["key", "export-pub"], ["deploy-2"])?;
    put(&fleet.path("deploy-2.pub"), &public.stdout, 0o644)?;
    deploy_keys(&fleet, &["--add", "deploy-2.pub", "--threshold", "2"])?;
    fleet.controller()?.kill_all();
    let stolen = Arc::new(Stolen::from(&fleet)?);
    let (root, bytes) = stolen.newest::<Root>(|root| root.version)?;
    let mut wish = Wish::new(&stolen, None)?;
    wish.documents.insert(0, (DocKind::Root, bytes));
    let once = Hostile::start(&stolen, fleet.address(), wish)?;
    fleet.start_device("dev3")?;
    fleet.wait_for("the device knows the root that asks for two", |f| {
        Ok(f.status("dev3")?["trust"]["root"] == root.version)
    })?;
    fleet.device("dev3")?.stop();
    drop(once);

    // The plan that was enough before the root was changed.
    let good = honest(&fleet, &stolen, "2.0.0", "dev3")?;
    let says = ["1 ", "2 "];
    lie(&mut fleet, &stolen, "dev3", good.clone(), Code::ThresholdNotMet, &says)?;
    // A newer one by the thief with one operator's key, for everybody at once.
    let mut eager = stolen.plan("2.0.0")?.0.body;
    (eager.seq, eager.issued) = (eager.seq + 1, unix_now());
    eager.waves = vec![eager.waves[1].clone()];
    eager.waves[0].evidence = Evidence::Receipts(0);
    let one = stolen.operator_key("deploy")?;
    let signers = [&one, &stolen.timestamp, &stolen.snapshot, &stolen.tls];
    let mut offer = Offer {
        plan: statement::sign(&eager, &signers, &stolen.fleet)?,
        gate: None,
        ..good
    };
    offer.member.wave = 1;
    lie(&mut fleet, &stolen, "dev3", offer, Code::ThresholdNotMet, &says)?;

    fleet.unmoved(&standing)?;
    fleet.start_controller()?;
    // One is enough again: it has signed the grants by which the devices are in plans.
    deploy_keys(&fleet, &["--threshold", "1"])?;
    fleet.start_device("dev3")?;
    let exit = fleet.rollout("2.0.0", ALL_AT_ONCE)?;
    assert_eq!(exit, 0, "{}", fleet.logs());
    fleet.runs("dev3", &fleet.path("second"))?;
    fleet.goes_on("3.0.0")?;
    Ok(())
}
