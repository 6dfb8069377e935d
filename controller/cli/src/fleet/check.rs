//! `fleet status --check`: one line and an exit code, as monitoring plugins speak (0 fine, 1 warning, 2 critical).

use std::process::ExitCode;

use ensign_api::DeviceState;
use serde::Serialize;

use super::status::{Finding, Level, Status};
use crate::app::App;
use crate::failure::{Failure, Result};
use crate::output::{Document, Paint};
use crate::units::show_count;

/// The line, and what it is made of.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    status: State,
    exit: u8,
    /// What is wrong; what there is where nothing is.
    text: String,
    /// Without advice.
    findings: Vec<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Critical,
}

/// Prints the line. Not to get an answer is critical too: a check that cannot be made has not passed.
pub async fn check(app: &App) -> Result<ExitCode> {
    let check = match ask(app).await {
        Ok(status) => Check::of(&status),
        Err(failure) => Check::failed(&failure),
    };
    app.shell.print(&check)?;
    Ok(ExitCode::from(check.exit))
}

async fn ask(app: &App) -> Result<Status> {
    Status::ask(&mut app.session()?).await
}

impl Check {
    fn of(status: &Status) -> Self {
        let mut findings: Vec<Finding> = status.findings().to_vec();
        findings.retain(|f| f.level > Level::Advice);
        findings.sort_by_key(|f| std::cmp::Reverse(f.level));
        let state = match findings.first().map(|f| f.level) {
            Some(Level::Critical) => State::Critical,
            Some(Level::Warning) => State::Warning,
            Some(Level::Advice) | None => State::Ok,
        };
        let text = if findings.is_empty() {
            let fleet = status.fleet();
            let approved = fleet.devices.get(&DeviceState::Approved).copied().unwrap_or(0);
            format!(
                "{}: {} approved, {} connected, {} not finished",
                fleet.name,
                show_count(approved, "device"),
                fleet.connected,
                show_count(fleet.rollouts, "rollout")
            )
        } else {
            // Who is woken by this line gets to know what to type.
            let texts: Vec<String> = findings.iter().map(|f| format!("{} ({})", f.text, f.hint)).collect();
            format!("{}: {}", status.fleet().name, texts.join("; "))
        };
        Self::new(state, text, findings)
    }

    fn failed(failure: &Failure) -> Self {
        let text = format!("{failure} ({})", failure.code);
        let finding = Finding {
            level: Level::Critical,
            text: failure.text.clone(),
            hint: failure.hint_text().to_owned(),
        };
        Self::new(State::Critical, text, vec![finding])
    }

    fn new(status: State, text: String, findings: Vec<Finding>) -> Self {
        Self {
            status,
            exit: match status {
                State::Ok => 0,
                State::Warning => 1,
                State::Critical => 2,
            },
            text,
            findings,
        }
    }
}

impl Document for Check {
    fn table(&self, paint: Paint) -> String {
        let word = match self.status {
            State::Ok => paint.green("OK"),
            State::Warning => paint.yellow("WARNING"),
            State::Critical => paint.red("CRITICAL"),
        };
        // One line whatever stands in it; `|` would start performance data.
        let text = ensign_bundle::text::printable(&self.text, 1000).replace('|', "/");
        format!("ENSIGN {word} - {text}\n")
    }
}

#[cfg(test)]
mod tests {
    use ensign_api::Fleet;
    use ensign_api::{Frozen, Time};
    use ensign_bundle::reason::Code;

    use super::super::status::tests::fleet;
    use super::*;

    fn line(change: impl FnOnce(&mut Fleet)) -> (u8, String) {
        let mut fleet = fleet();
        for role in [
            &mut fleet.root,
            &mut fleet.targets,
            &mut fleet.snapshot,
            &mut fleet.timestamp,
        ] {
            role.expires = Time(u64::MAX / 2);
        }
        change(&mut fleet);
        let check = Check::of(&Status::of(fleet));
        (check.exit, check.table(Paint(false)))
    }

    #[test]
    fn one_line_and_an_exit_code() {
        assert_eq!(
            line(|_| {}),
            (
                0,
                "ENSIGN OK - acme: 12 devices approved, 11 connected, 1 rollout not finished\n".to_owned()
            )
        );
        let frozen = |fleet: &mut Fleet| {
            fleet.frozen = Some(Frozen {
                since: Time(1_800_000_000),
                reason: "a|b\nc".to_owned(),
                by: "ada".to_owned(),
            });
        };
        let (exit, text) = line(frozen);
        assert_eq!((exit, text.lines().count()), (1, 1), "{text}");
        assert!(
            text.starts_with("ENSIGN WARNING - acme: the fleet is frozen since") && !text.contains('|'),
            "{text}"
        );
        let (exit, text) = line(|fleet| fleet.halted.push(super::super::status::tests::halted()));
        assert_eq!(
            (exit, &*text),
            (
                1,
                "ENSIGN WARNING - acme: the rollout 1f1f1f1f1f1f of app@1.2.0 is halted: the only device of wave 1 failed \
                 (too-many-failed) (`ensign rollout why --rollout 1f1f1f1f1f1f`)\n"
            )
        );
        let (exit, text) = line(|fleet| {
            fleet.unwell.insert(Code::Unhealthy, 2);
        });
        assert_eq!(exit, 0, "what ended with its rollout is advice: {text}");
        let (exit, text) = line(|fleet| {
            frozen(fleet);
            fleet.dark = 2;
        });
        assert_eq!(exit, 2);
        assert!(text.starts_with("ENSIGN CRITICAL - acme: 2 devices dark"), "{text}");
        assert!(
            text.contains("; the fleet is frozen since"),
            "the warning is there too: {text}"
        );
    }

    #[test]
    fn no_answer_is_critical() {
        let check = Check::failed(&Failure::new(
            Code::ControllerUnreachable,
            "controller a:1 cannot be reached",
        ));
        assert_eq!(check.exit, 2);
        assert_eq!(
            check.table(Paint(false)),
            "ENSIGN CRITICAL - controller a:1 cannot be reached (controller-unreachable)\n"
        );
    }
}
