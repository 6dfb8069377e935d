//! `ensign device ...`

mod change;
mod regrant;
mod show;
mod which;
mod why;

use crate::app::App;
use crate::args::DeviceVerb;
use crate::failure::Result;

#[cfg(test)]
pub use show::tests;
pub use which::{find, selector};
pub use why::ask;

pub async fn run(app: &App, verb: DeviceVerb) -> Result<()> {
    match verb {
        DeviceVerb::Ls(which) => show::list(app, &which).await,
        DeviceVerb::Show { device } => show::show(app, &device).await,
        DeviceVerb::Why { device, product } => why::run(app, &device, product.as_ref()).await,
        DeviceVerb::Accept(which) => change::state(app, "accept", &which).await,
        DeviceVerb::Reject(which) => change::state(app, "reject", &which).await,
        DeviceVerb::Suspend(which) => change::state(app, "suspend", &which).await,
        DeviceVerb::Unsuspend(which) => change::state(app, "unsuspend", &which).await,
        DeviceVerb::Revoke(which) => change::state(app, "revoke", &which).await,
        DeviceVerb::Label { which, label, remove } => change::label(app, &which, &label, &remove).await,
        DeviceVerb::Regrant(which) => regrant::run(app, &which).await,
        DeviceVerb::Hold(which) => change::hold(app, &which, true).await,
        DeviceVerb::Unhold(which) => change::hold(app, &which, false).await,
    }
}
