//! `ensign rollout ...`

mod change;
mod draft;
mod preview;
mod running;
mod sign;
mod start;
mod travel;
pub mod view;
mod wait;
mod why;
mod words;

#[cfg(test)]
pub use draft::tests as draft_tests;
use ensign_api::Rollout;
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;
use ensign_bundle::words::{Fits, ROLLOUT_PREFIX, by_prefix};

use crate::app::{App, Session};
use crate::args::RolloutVerb;
use crate::failure::{Failure, Result};

pub async fn run(app: &App, verb: RolloutVerb) -> Result<()> {
    match verb {
        RolloutVerb::Plan { words, out } => start::plan(app, &words, out.as_deref()).await,
        RolloutVerb::Sign(words) => sign::run(app, &words).await,
        RolloutVerb::Start {
            plan: Some(path),
            words,
        } => start::start_file(app, &path, &words).await,
        RolloutVerb::Start { plan: None, words } => start::start(app, &words).await,
        RolloutVerb::Status { rollout, watch } => {
            let session = app.session()?;
            let mut rollout = find(&session, rollout.rollout.as_deref()).await?;
            if watch {
                rollout = wait::watch(&app.shell, &session, rollout).await?;
            }
            app.shell.print(&rollout)
        }
        RolloutVerb::Ls => {
            let session = app.session()?;
            app.shell.print(&all(&session).await?[..])
        }
        RolloutVerb::Pause { rollout } => change::pause(app, rollout.rollout.as_deref(), true).await,
        RolloutVerb::Resume { rollout } => change::pause(app, rollout.rollout.as_deref(), false).await,
        RolloutVerb::Promote { rollout, wave } => change::promote(app, rollout.rollout.as_deref(), wave).await,
        RolloutVerb::Abort { rollout, keep } => change::abort(app, rollout.rollout.as_deref(), keep).await,
        RolloutVerb::Release { rollout, devices } => change::release(app, &rollout, &devices).await,
        RolloutVerb::Why { device, rollout } => why::run(app, device.as_deref(), rollout.as_deref()).await,
    }
}

/// Newest first.
async fn all(session: &Session) -> Result<Vec<Rollout>> {
    let mut rollouts: Vec<Rollout> = session.client.get("/v1/rollouts").await?;
    rollouts.sort_by_key(|r| std::cmp::Reverse((r.started, r.seq)));
    Ok(rollouts)
}

/// The newest rollout of a product.
pub async fn newest_of(session: &Session, product: &Ident) -> Result<Rollout> {
    let newest = all(session).await?.into_iter().find(|r| r.product == *product);
    newest.ok_or_else(|| {
        Failure::new(Code::NoRollout, format!("no rollout of {product} was started yet")).hint("`ensign rollout ls`")
    })
}

/// The rollout that `text` names; none = the newest.
async fn find(session: &Session, text: Option<&str>) -> Result<Rollout> {
    pick(all(session).await?, text)
}

/// An id, a unique prefix, or a product (its newest). `rollouts` newest first.
fn pick(rollouts: Vec<Rollout>, text: Option<&str>) -> Result<Rollout> {
    let nothing = |what: String| Err(Failure::new(Code::NotFound, what).hint("`ensign rollout ls`"));
    let Some(text) = text else {
        return match rollouts.into_iter().next() {
            Some(newest) => Ok(newest),
            None => nothing("there is no rollout".to_owned()),
        };
    };
    if let Some(newest) = rollouts.iter().find(|r| r.product.as_str() == text) {
        return Ok(newest.clone());
    }
    let shown = printable(text, 80);
    match by_prefix(rollouts, |r| r.id.to_string(), text, ROLLOUT_PREFIX) {
        Fits::One(one) => Ok(one),
        Fits::Several(n) => Err(
            Failure::new(Code::Conflict, format!("{n} rollout ids start with {shown}"))
                .hint("write more digits of the id: `ensign rollout ls`"),
        ),
        Fits::Nothing => nothing(format!("there is no rollout {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_prefixes_products_and_the_newest() {
        let rollouts = || {
            vec![
                view::tests::rollout(0x21, "pos"),
                view::tests::rollout(0x12, "app"),
                view::tests::rollout(0x13, "app"),
            ]
        };
        let picked = |text| pick(rollouts(), text).map(|r| r.id.0[0]).map_err(|e| e.exit());
        assert_eq!(picked(None), Ok(0x21));
        assert_eq!(picked(Some("app")), Ok(0x12));
        assert_eq!(picked(Some("1313")), Ok(0x13));
        assert_eq!(picked(Some("131")), Err(32), "too short");
        assert_eq!(picked(Some("none")), Err(32));
        assert_eq!(pick(Vec::new(), None).unwrap_err().exit(), 32);
    }
}
