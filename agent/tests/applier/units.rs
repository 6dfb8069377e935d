//! Units and probes: what restarts, what goes back.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use ensign_agent::ipc::{FromAdmin, FromRunner, ToAdmin, ToRunner, UnitVerb};
use ensign_bundle::plan::evidence::ReceiptState;
use ensign_bundle::reason::Code;
use ensign_bundle::wire::Phase;

use crate::kit::device::{Device, receipts};
use crate::kit::{Fleet, Recipe, files, probed};

#[test]
fn only_units_of_changed_components_restart_in_order() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let page = |text: &str| files(&[("page", text.as_bytes())]);
    let first = Recipe::new("1.0.0", page("web 1"))
        .unit("web.service")
        .component("api", page("api 1"), "api.service")
        .component("ui", page("ui 1"), "ui.service")
        .build();
    let state = device.update(&mut fleet, &first);
    assert_eq!(
        state.report.status.phase,
        Phase::Confirmed,
        "{:?}",
        state.report.status.reason
    );
    assert_eq!(
        device.runner.units(),
        ["Start web.service", "Start api.service", "Start ui.service"]
    );
    let tree = std::fs::read_link(device.paths.live("web")).unwrap();

    let second = Recipe::new("1.1.0", page("web 1"))
        .unit("web.service")
        .component("api", page("api 2"), "api.service")
        .component("ui", page("ui 2"), "ui.service")
        .build();
    device.update(&mut fleet, &second);
    assert_eq!(
        device.runner.units(),
        [
            "Stop ui.service",
            "Stop api.service",
            "Start api.service",
            "Start ui.service"
        ]
    );
    assert_eq!(std::fs::read_link(device.paths.live("web")).unwrap(), tree);
    assert_eq!(device.live("ui"), page("ui 2"));
}

#[test]
fn a_failing_probe_goes_back_and_the_release_is_denied() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &probed("1.0.0", "one"));
    device.runner.units();
    device.runner.answer(|question| match question {
        ToRunner::Exec { version, .. } if version == "2.0.0" => FromRunner::Failed {
            text: "exit 7: no database".to_owned(),
        },
        _ => FromRunner::Ok,
    });
    let bad = probed("2.0.0", "two");
    let state = device.update(&mut fleet, &bad);
    assert_eq!(state.report.status.phase, Phase::RolledBack);
    let reason = state.report.status.reason.clone().unwrap();
    assert_eq!(reason.code, Code::Unhealthy);
    assert!(reason.text.contains("no database"), "{}", reason.text);
    assert_eq!(state.report.status.generation, 1);
    assert_eq!(state.report.status.denied, [bad.manifest]);
    assert_eq!(device.live("web"), files(&[("*check", b"one")]));
    assert_eq!(
        device.runner.units(),
        [
            "Stop web.service",
            "Start web.service",
            "Stop web.service",
            "Start web.service"
        ]
    );
    let last = receipts(&device, &state).pop().unwrap();
    assert_eq!(last.state, ReceiptState::RolledBack { code: Code::Unhealthy });

    // The same release by another plan: not again, until somebody says so.
    let rollout = device.rollout(&mut fleet, &bad);
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    assert_eq!(
        link.until_phase(Phase::Rejected).report.status.reason.unwrap().code,
        Code::Denied
    );
    device.runner.answer(|_| FromRunner::Ok);
    let cleared = device.admin(&ToAdmin::ClearDenied { manifest: None }, None);
    assert!(matches!(cleared, FromAdmin::Done { .. }));
    let mut link = device.link();
    link.offer(&device, &fleet, Some(&rollout));
    link.provide_all(&bad.blobs);
    assert_eq!(link.until_settled().report.status.phase, Phase::Confirmed);
}

#[test]
fn a_unit_that_does_not_start_goes_back() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    let release = |version, text: &str| {
        Recipe::new(version, files(&[("page", text.as_bytes())]))
            .unit("web.service")
            .build()
    };
    device.update(&mut fleet, &release("1.0.0", "one"));
    let mut starts = 0;
    device.runner.answer(move |question| match question {
        ToRunner::Unit {
            verb: UnitVerb::Start, ..
        } => {
            starts += 1;
            if starts == 1 {
                FromRunner::Failed {
                    text: "exit 1".to_owned(),
                }
            } else {
                FromRunner::Ok
            }
        }
        _ => FromRunner::Ok,
    });
    let state = device.update(&mut fleet, &release("2.0.0", "two"));
    assert_eq!(state.report.status.reason.unwrap().code, Code::UnitFailed);
    assert_eq!(device.live("web"), files(&[("page", b"one")]));
}

#[test]
fn rollback_by_hand_goes_to_the_previous_generation_unless_it_was_tampered_with() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    assert_eq!(
        device.refusal(&ToAdmin::Rollback { reason: String::new() }, None).code,
        Code::NotFound
    );
    device.update(&mut fleet, &Recipe::new("1.0.0", files(&[("page", b"one")])).build());
    let old = std::fs::canonicalize(device.paths.live("web")).unwrap();
    device.update(&mut fleet, &Recipe::new("2.0.0", files(&[("page", b"two")])).build());
    let rollback = ToAdmin::Rollback {
        reason: "it is slow".to_owned(),
    };

    let page = old.join("page");
    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o644)).unwrap();
    let write = |bytes: &[u8]| {
        File::options()
            .write(true)
            .open(&page)
            .unwrap()
            .write_all_at(bytes, 0)
            .unwrap();
    };
    write(b"0ne");
    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(device.refusal(&rollback, None).code, Code::GenerationTampered);
    assert_eq!(device.live("web"), files(&[("page", b"two")]));

    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o644)).unwrap();
    write(b"one");
    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o444)).unwrap();
    let mut link = device.link();
    assert!(matches!(device.admin(&rollback, None), FromAdmin::Done { .. }));
    let state = link.until_phase(Phase::RolledBack);
    assert_eq!(state.report.status.reason.unwrap().code, Code::OperatorRollback);
    assert_eq!(device.live("web"), files(&[("page", b"one")]));
}

/// It starts, says so, and falls over each time: every question finds it down.
#[test]
fn a_unit_that_falls_over_again_and_again_goes_back() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &probed("1.0.0", "one"));
    let mut asked = 0_u32;
    device.runner.answer(move |question| match question {
        ToRunner::Unit {
            verb: UnitVerb::IsActive,
            ..
        } => {
            asked += 1;
            // Restarted by its manager, it is up now and then.
            if asked % 4 == 1 {
                FromRunner::Ok
            } else {
                FromRunner::Failed {
                    text: "activating (auto-restart)".to_owned(),
                }
            }
        }
        _ => FromRunner::Ok,
    });
    let state = device.update(&mut fleet, &probed("2.0.0", "two"));
    assert_eq!(state.report.status.phase, Phase::RolledBack);
    assert_eq!(device.live("web"), files(&[("*check", b"one")]));
}
