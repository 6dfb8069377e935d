//! Watching a rollout: long polls, a live view on a terminal, a line per change elsewhere.

use std::io::Write as _;
use std::time::{Duration, Instant};

use ensign_api::{Rollout, RolloutState, Time, WaveState};
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;

use crate::app::Session;
use crate::args::WaitFor;
use crate::clock;
use crate::failure::{Failure, Result};
use crate::output::{Document as _, Format, Paint, Shell, rows_on_terminal};

/// Longest time that one question waits at the controller, seconds.
const POLL_S: u64 = 20;
/// A controller that restarts is waited for this long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two tries to reach it.
const RETRY: Duration = Duration::from_millis(500);

/// Waits, prints the last status, and returns the exit code of where the rollout ended.
pub async fn until(
    shell: &Shell,
    session: &Session,
    rollout: Rollout,
    goal: WaitFor,
    timeout_s: Option<u64>,
) -> Result<()> {
    let deadline = timeout_s.map(|s| clock::monotonic() + Duration::from_secs(s));
    let (rollout, ended) = follow(shell, session, rollout, deadline, |r| outcome(r, goal)).await?;
    shell.print(&rollout)?;
    ended.map_err(|failure| shown(shell, &rollout, failure))
}

/// Watches until nothing changes any more, or Ctrl-C.
pub async fn watch(shell: &Shell, session: &Session, rollout: Rollout) -> Result<Rollout> {
    let (rollout, _) = follow(shell, session, rollout, None, |r| r.state.is_final().then_some(Ok(()))).await?;
    Ok(rollout)
}

/// How waiting ends, if it does.
fn outcome(rollout: &Rollout, goal: WaitFor) -> Option<Result<()>> {
    let failure = |fallback: Code| Some(Err(stands(rollout, fallback)));
    match rollout.state {
        RolloutState::Done => Some(Ok(())),
        RolloutState::Paused | RolloutState::Halted => failure(Code::Paused),
        RolloutState::Aborted | RolloutState::Reverted => failure(Code::Aborted),
        RolloutState::Superseded => failure(Code::Superseded),
        RolloutState::Expired => failure(Code::PlanExpired),
        RolloutState::Scheduled | RolloutState::Running | RolloutState::Reverting => match goal {
            WaitFor::Done => None,
            WaitFor::Wave(number) => rollout
                .waves
                .iter()
                .any(|w| w.index == number && w.state == WaveState::Done)
                .then_some(Ok(())),
        },
    }
}

/// Why a rollout does not go on, as the failure of a command. `fallback` where its reason means another exit.
pub fn stands(rollout: &Rollout, fallback: Code) -> Failure {
    let reason = rollout.reason.as_ref();
    // The code of the reason where it means the same exit, so that the hint fits.
    let code = reason
        .map(|r| r.code)
        .filter(|code| code.exit() == fallback.exit())
        .unwrap_or(fallback);
    let why = reason.map_or(String::new(), |r| format!(": {}", printable(&r.text, 400)));
    let failure = Failure::new(code, format!("{}{why}", state_of(rollout)));
    if rollout.hint.is_empty() {
        failure
    } else {
        failure.hint(printable(&rollout.hint, 500))
    }
}

/// `failure` once the status of the rollout was printed: what people read there already is not said again.
pub fn shown(shell: &Shell, rollout: &Rollout, failure: Failure) -> Failure {
    let said = rollout
        .reason
        .as_ref()
        .is_some_and(|r| failure.text.ends_with(&printable(&r.text, 400)));
    if shell.format != Format::Table || !said {
        return failure;
    }
    Failure::new(failure.code, state_of(rollout)).hint("the status above says why, and what to do next")
}

fn state_of(rollout: &Rollout) -> String {
    format!(
        "the rollout of {}@{} is {}",
        rollout.product,
        rollout.version,
        rollout.state.name()
    )
}

async fn follow(
    shell: &Shell,
    session: &Session,
    mut rollout: Rollout,
    deadline: Option<Instant>,
    ended: impl Fn(&Rollout) -> Option<Result<()>>,
) -> Result<(Rollout, Result<()>)> {
    let mut view = View::new(shell);
    let mut lost: Option<Instant> = None;
    loop {
        view.show(&rollout);
        if let Some(end) = ended(&rollout) {
            view.close();
            return Ok((rollout, end));
        }
        let left = deadline.map(|d| d.saturating_duration_since(clock::monotonic()));
        if left.is_some_and(|l| l.is_zero()) {
            view.close();
            let end = timed_out(&rollout);
            return Ok((rollout, Err(end)));
        }
        let wait_s = left.map_or(POLL_S, |l| (l.as_secs() + 1).min(POLL_S));
        let path = format!("/v1/rollouts/{}?after={}&wait_s={wait_s}", rollout.id, rollout.revision);
        let asked = tokio::select! {
            asked = session.client.get::<Rollout>(&path) => asked,
            () = until_deadline(left) => continue,
            _ = tokio::signal::ctrl_c() => {
                view.close();
                let end = interrupted(&rollout);
                return Ok((rollout, Err(end)));
            }
        };
        match asked {
            Ok(newer) => {
                lost = None;
                rollout = newer;
            }
            Err(e) if e.code == Code::ControllerUnreachable => {
                let since = *lost.get_or_insert_with(|| {
                    shell.note(&format!("{e}; trying again"));
                    clock::monotonic()
                });
                if since.elapsed() > PATIENCE {
                    view.close();
                    return Err(e.hint("the rollout goes on: `ensign rollout status -w`"));
                }
                tokio::time::sleep(RETRY).await;
            }
            Err(e) => {
                view.close();
                return Err(e);
            }
        }
    }
}

async fn until_deadline(left: Option<Duration>) {
    match left {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

fn timed_out(rollout: &Rollout) -> Failure {
    goes_on(rollout, Code::TimedOut, "the time to wait is over")
}

fn interrupted(rollout: &Rollout) -> Failure {
    goes_on(rollout, Code::Interrupted, "no longer waiting")
}

/// Waiting ended, the rollout did not.
fn goes_on(rollout: &Rollout, code: Code, why: &str) -> Failure {
    let release = format!("{}@{}", rollout.product, rollout.version);
    Failure::new(
        code,
        format!("{why}; the rollout of {release} goes on ({} now)", rollout.state.name()),
    )
    .hint(format!("`ensign rollout status {} -w`", rollout.id))
}

/// Redraws the status in place on a terminal; elsewhere writes a line for each wave that changed its state.
struct View<'a> {
    shell: &'a Shell,
    /// Lines of the last drawing.
    drawn: usize,
    told: Vec<(u32, WaveState)>,
    /// What was waited for when it was looked at last.
    waits: Vec<String>,
}

impl<'a> View<'a> {
    fn new(shell: &'a Shell) -> Self {
        Self {
            shell,
            drawn: 0,
            told: Vec::new(),
            waits: Vec::new(),
        }
    }

    fn show(&mut self, rollout: &Rollout) {
        if self.shell.is_watched() {
            self.close();
            let text = rollout.table(Paint::of_diagnostics());
            self.drawn = rows_on_terminal(&text);
            self.shell.block(&text);
            return;
        }
        self.tell_waits(rollout);
        for wave in &rollout.waves {
            let now = (wave.index, wave.state);
            if wave.state == WaveState::Waiting || self.told.contains(&now) {
                continue;
            }
            self.told.push(now);
            self.shell.note(&format!(
                "{} wave {} {}: {} of {} ok, {} failed, {} dark",
                Time(clock::now()),
                wave.index,
                wave.state.name(),
                wave.ok,
                wave.target,
                wave.failed,
                wave.dark
            ));
        }
    }

    /// What a rollout waits for that nothing has stopped: a frozen fleet, an operator, its start, devices that are gone. Each once.
    fn tell_waits(&mut self, rollout: &Rollout) {
        let mut waits: Vec<String> = Vec::new();
        if let Some(reason) = &rollout.reason
            && matches!(
                rollout.state,
                RolloutState::Scheduled | RolloutState::Running | RolloutState::Reverting
            )
        {
            let text = printable(&reason.text, 400);
            // What is left of a wait changes all the time; that it waits is told once.
            let said = if reason.code == Code::NotYet {
                "waits for its start".to_owned()
            } else {
                text
            };
            waits.push(if rollout.hint.is_empty() {
                said
            } else {
                format!("{said} ({})", printable(&rollout.hint, 500))
            });
        }
        waits.extend(rollout.away.iter().map(|away| {
            format!(
                "{} (wave {}) is not connected since {}, counts as {} at {}",
                printable(&away.name, 63),
                away.wave,
                away.since,
                printable(&away.counts_as, 20),
                away.at
            )
        }));
        for wait in waits.iter().filter(|wait| !self.waits.contains(wait)) {
            self.shell.note(&format!("{} {wait}", Time(clock::now())));
        }
        self.waits = waits;
    }

    /// Takes the drawing away: the document follows on standard output.
    fn close(&mut self) {
        if self.drawn > 0 {
            // Up, and clear to the end of the screen (ECMA-48 CUU, ED). Standard error is gone: nobody watches.
            let _ = write!(std::io::stderr().lock(), "\u{1b}[{}A\u{1b}[J", self.drawn);
            self.drawn = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use ensign_api::Reason;

    use super::*;
    use crate::rollout::view::tests::rollout;

    #[test]
    fn documented_exits() {
        let exit = |state, goal| {
            let mut r = rollout(1, "app");
            r.state = state;
            outcome(&r, goal).map(|end| end.map_or_else(|e| e.exit(), |()| 0))
        };
        let done = |state| exit(state, WaitFor::Done);
        assert_eq!(done(RolloutState::Done), Some(0));
        assert_eq!(done(RolloutState::Paused), Some(10));
        assert_eq!(done(RolloutState::Halted), Some(10));
        for state in [RolloutState::Aborted, RolloutState::Reverted, RolloutState::Superseded] {
            assert_eq!(done(state), Some(11));
        }
        assert_eq!(done(RolloutState::Expired), Some(22));
        for state in [RolloutState::Scheduled, RolloutState::Running, RolloutState::Reverting] {
            assert_eq!(done(state), None);
        }
        let r = rollout(1, "app");
        assert_eq!(timed_out(&r).exit(), 12);
        let ctrl_c = interrupted(&r);
        assert_eq!((ctrl_c.code, ctrl_c.exit()), (Code::Interrupted, 1), "no time was over");
        assert!(ctrl_c.text.contains("the rollout of app@1.1.0 goes on"), "{ctrl_c}");
        assert_eq!(
            exit(RolloutState::Running, WaitFor::Wave(1)),
            Some(0),
            "its first wave is done"
        );
        assert_eq!(exit(RolloutState::Running, WaitFor::Wave(2)), None);
    }

    #[test]
    fn each_wait_is_told_once() {
        let shell = Shell {
            quiet: true,
            ..Shell::default()
        };
        let mut view = View::new(&shell);
        let mut r = rollout(1, "app");
        let waits = |view: &mut View<'_>, r: &Rollout| {
            view.tell_waits(r);
            view.waits.clone()
        };
        assert!(waits(&mut view, &r).is_empty());
        r.reason = Some(Reason {
            code: Code::Frozen,
            text: "the fleet is frozen".to_owned(),
        });
        r.hint = "`ensign fleet unfreeze`".to_owned();
        assert_eq!(waits(&mut view, &r), ["the fleet is frozen (`ensign fleet unfreeze`)"]);
        r.state = RolloutState::Halted;
        assert!(waits(&mut view, &r).is_empty(), "how it ends says that");
    }

    #[test]
    fn the_reason_of_a_halt_is_told_with_its_code() {
        let mut r = rollout(1, "app");
        r.state = RolloutState::Halted;
        r.reason = Some(Reason {
            code: Code::TooManyFailed,
            text: "2 devices failed, 1 is allowed".to_owned(),
        });
        let failure = outcome(&r, WaitFor::Done).unwrap().unwrap_err();
        assert_eq!(failure.code, Code::TooManyFailed);
        assert!(failure.text.contains("2 devices failed"), "{failure}");
        let json = Shell {
            format: Format::Json,
            ..Shell::default()
        };
        assert_eq!(shown(&json, &r, failure.clone()), failure);
        let once = shown(&Shell::default(), &r, failure);
        assert_eq!(once.text, "the rollout of app@1.1.0 is halted", "the table says why");
        assert_eq!(once.code, Code::TooManyFailed);
    }
}
