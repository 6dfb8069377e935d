//! Cases of `docs/conformance.md` that need a whole applier.

use ensign_agent::ipc::{FromRunner, ToRunner, UnitVerb};
use ensign_bundle::reason::Code;

use crate::kit::device::Device;
use crate::kit::{Fleet, Recipe, Release, files};

fn two_components(version: &'static str, text: &str) -> Release {
    Recipe::new(version, files(&[("page", text.as_bytes())]))
        .unit("web.service")
        .component("api", files(&[("handler", text.as_bytes())]), "api.service")
        .build()
}

#[test]
fn e57_a_release_of_several_components_is_there_whole_or_not_at_all() {
    let mut fleet = Fleet::new();
    let device = Device::enrolled(&fleet);
    device.update(&mut fleet, &two_components("1.0.0", "one"));
    let mut failed = false;
    device.runner.answer(move |question| match question {
        // The second component of the new release does not start; the way back does.
        ToRunner::Unit {
            verb: UnitVerb::Start,
            name,
        } if name == "api.service" && !failed => {
            failed = true;
            FromRunner::Failed {
                text: "exit 1".to_owned(),
            }
        }
        _ => FromRunner::Ok,
    });
    let state = device.update(&mut fleet, &two_components("2.0.0", "two"));
    assert_eq!(state.report.status.reason.unwrap().code, Code::UnitFailed);
    assert_eq!(device.live("web"), files(&[("page", b"one")]));
    assert_eq!(device.live("api"), files(&[("handler", b"one")]));
}
