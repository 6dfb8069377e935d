//! `ensign fleet ...`

mod begun;
mod check;
mod files;
mod founding;
mod freeze;
mod grants;
mod init;
mod set;
mod status;

pub use check::check;
pub use status::said_unheard;

use crate::app::App;
use crate::args::FleetVerb;
use crate::failure::{Failure, Result};

pub async fn run(app: &App, verb: FleetVerb) -> Result<()> {
    match verb {
        FleetVerb::Init {
            name,
            kit,
            no_passphrase,
        } => {
            let address = app.shell.controller.clone();
            let address = address.ok_or_else(|| {
                Failure::usage(
                    "--controller HOST:PORT is missing: where devices and operators will reach the controller",
                )
                .hint("`ensign fleet init --name NAME --controller HOST:PORT --kit DIR`")
            })?;
            let words = init::Init {
                name,
                address,
                kit,
                no_passphrase,
            };
            init::run(&app.shell, &app.home, &words)
        }
        FleetVerb::Set { change: (key, value) } => set::run(app, &key, &value).await,
        FleetVerb::Show => status::show(app).await,
        FleetVerb::Status { .. } => status::status(app).await,
        FleetVerb::Freeze => freeze::run(app, true).await,
        FleetVerb::Unfreeze => freeze::run(app, false).await,
    }
}
