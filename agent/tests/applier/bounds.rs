//! What a release may touch on this device, whoever signed it: the bounds that the applier itself keeps.

use ensign_agent::ipc::{FromAdmin, ToAdmin};
use ensign_apply::{Stage, journal};
use ensign_bundle::plan::statements::HealthBounds;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::trust::roles::Product;
use ensign_bundle::wire::Phase;

use crate::kit::device::Device;
use crate::kit::{Fleet, Recipe, Release, files};

fn page(version: &'static str) -> Recipe {
    Recipe::new(version, files(&[("page", version.as_bytes())]))
}

/// Why the device does not take `release`, of which nothing is to be seen afterwards.
fn refused(device: &Device, fleet: &mut Fleet, release: &Release) -> Refusal {
    let before = std::fs::read_link(device.paths.current()).ok();
    let status = device.update(fleet, release).report.status;
    assert_eq!(status.phase, Phase::Rejected, "{:?}", status.reason);
    assert_eq!(std::fs::read_link(device.paths.current()).ok(), before);
    let Some(reason) = status.reason else {
        panic!("no reason");
    };
    reason
}

#[test]
fn a_release_stays_within_the_delegation_of_its_product() {
    type Bound = fn(&mut Product);
    let bounds: [(Bound, &str); 3] = [
        (|p| p.components = vec!["api-*".to_owned()], "component web"),
        (|p| p.kinds = vec!["oci".to_owned()], "kind tree"),
        (|p| p.units = vec!["pos-*.service".to_owned()], "unit web.service"),
    ];
    for (bound, names) in bounds {
        let mut fleet = Fleet::with(bound);
        let device = Device::enrolled(&fleet);
        let reason = refused(&device, &mut fleet, &page("1.0.0").unit("web.service").build());
        assert_eq!(reason.code, Code::OutsideDelegation);
        assert!(reason.text.contains(names), "{}", reason.text);
    }
}

#[test]
fn a_manifest_is_what_its_release_document_says() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = page("1.0.0").build().told_otherwise(|document| document.counter += 1);
    assert_eq!(refused(&device, &mut fleet, &release).code, Code::ManifestMismatch);
}

#[test]
fn a_component_belongs_to_one_product() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &page("1.0.0").build());
    let mut other = page("1.0.0");
    other.product = "other";
    let reason = refused(&device, &mut fleet, &other.build());
    assert_eq!(reason.code, Code::Conflict);
    assert!(
        reason.text.contains("web") && reason.text.contains("app"),
        "{}",
        reason.text
    );
}

#[test]
fn a_release_fits_the_hardware_that_the_machine_is_said_to_be() {
    let mut recipe = page("1.0.0");
    recipe.hardware = vec!["till-3".to_owned()];
    let release = recipe.build();
    for (config, taken) in [
        ("", false),
        ("hardware = \"till-2\"\n", false),
        ("hardware = \"till-3\"\n", true),
    ] {
        let mut fleet = Fleet::new();
        let mut device = Device::new();
        device.config(&format!("[applier]\n{config}"));
        device.start();
        device.enroll(&fleet);
        let status = device.update(&mut fleet, &release).report.status;
        let code = status.reason.map(|reason| reason.code);
        if taken {
            assert_eq!((status.phase, code), (Phase::Confirmed, None));
        } else {
            assert_eq!(
                (status.phase, code),
                (Phase::Rejected, Some(Code::HardwareMismatch)),
                "{config}"
            );
        }
    }
}

/// The previous release stands there whole, and is too old all the same.
#[test]
fn root_cannot_go_back_below_the_floor_of_what_proved_itself() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &page("1.0.0").build());
    let mut recipe = page("2.0.0");
    recipe.security_floor = 2_000_000_000_000;
    device.update(&mut fleet, &recipe.build());
    let rollback = ToAdmin::Rollback {
        reason: "a test".to_owned(),
    };
    let refusal = device.refusal(&rollback, None);
    assert_eq!(refusal.code, Code::BelowFloor);
    assert!(
        refusal.text.contains("2000000000000") && refusal.text.contains("1000000000000"),
        "{}",
        refusal.text
    );
    assert_eq!(device.live("web"), files(&[("page", b"2.0.0")]));
    // One without a floor of its own goes back as far as the other.
    device.update(&mut fleet, &page("3.0.0").build());
    assert!(matches!(device.admin(&rollback, None), FromAdmin::Done { .. }));
}

/// What the plan tightens of the trial outlasts the applier that read the plan.
#[test]
fn a_plan_tightens_the_trial_across_a_restart() {
    let mut fleet = Fleet::new();
    let mut device = Device::enrolled(&fleet);
    let release = page("1.0.0").unit("web.service").build();
    fleet.publish(&release);
    let mut rollout = device.rollout(&mut fleet, &release);
    let bounds = HealthBounds {
        window_s: 3,
        deadline_s: 9,
    };
    rollout.plan = fleet.plan_with(&release, &rollout.wave, 0, |plan| plan.health = Some(bounds));
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    // The manifest is here, and nothing else.
    link.provide_some(&release.blobs, 1);
    drop(link);
    device.restart();
    let mut link = device.link();
    link.provide_all(&release.blobs);
    link.offer(&device, &fleet, Some(&rollout));
    link.until_phase(Phase::Trial);
    let known = journal::replay(&std::fs::read(device.paths.journal()).unwrap()).unwrap();
    let Stage::Trial(trial) = &known.device.stage else {
        panic!("{:?}", known.device.stage);
    };
    assert_eq!((trial.policy.window_ms, trial.policy.deadline_ms), (3000, 9000));
}
