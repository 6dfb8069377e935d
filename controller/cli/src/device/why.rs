//! `device why`: the one rule that decides about a device just now.

use ensign_api::{Device, Rollout, Why};
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;
use serde::Serialize;

use crate::app::{App, Session};
use crate::device::show::about;
use crate::device::which;
use crate::failure::Result;
use crate::output::{Document, Facts, Paint, steps};
use crate::rollout;

/// What the controller says, with the name that people use.
#[derive(Debug, Serialize)]
pub struct Answer {
    #[serde(flatten)]
    why: Why,
    name: String,
}

/// `product`: what its newest rollout means for the device, whatever others do.
pub async fn run(app: &App, text: &str, product: Option<&Ident>) -> Result<()> {
    let session = app.session()?;
    let devices: Vec<Device> = session.client.get("/v1/devices").await?;
    let device = which::find(&devices, text)?;
    let answer = match product {
        Some(product) => {
            let rollout = rollout::newest_of(&session, product).await?;
            ask(&session, &rollout, device).await?
        }
        None => of_device(&session, device).await?,
    };
    app.shell.print(&answer)
}

/// What the controller says about a device now.
pub async fn of_device(session: &Session, device: &Device) -> Result<Answer> {
    let why = session.client.get(&format!("/v1/devices/{}/why", device.id)).await?;
    Ok(answer(why, device))
}

/// What the controller says about a device in one rollout.
pub async fn ask(session: &Session, rollout: &Rollout, device: &Device) -> Result<Answer> {
    let path = format!("/v1/rollouts/{}/why?device={}", rollout.id, device.id);
    let why = session.client.get(&path).await?;
    Ok(answer(why, device))
}

impl Answer {
    /// `dev1: wave 1 must stay healthy for 10m (soaking); next: ...`
    pub fn in_a_line(&self) -> String {
        let because = match &self.why.reason {
            Some(reason) => format!("{} ({})", printable(&reason.text, 300), reason.code),
            None => "nothing holds it".to_owned(),
        };
        let next = if self.why.hint.is_empty() {
            String::new()
        } else {
            format!("; next: {}", printable(&self.why.hint, 300))
        };
        format!("{} takes part again: {because}{next}", printable(&self.name, 63))
    }

    /// The rule that decides; none = nothing holds it.
    pub fn code(&self) -> Option<Code> {
        self.why.reason.as_ref().map(|r| r.code)
    }
}

fn answer(why: Why, device: &Device) -> Answer {
    Answer {
        why,
        name: device.name.clone(),
    }
}

impl Document for Answer {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        let why = &self.why;
        let device = format!("{} ({})", self.name, why.device);
        let status = about(why.status.clone(), why.status_of.as_deref());
        facts.add("device", device).add("status", status);
        match &why.reason {
            Some(reason) => facts.add("because", format!("{} ({})", reason.text, reason.code)),
            None => facts.add("because", "nothing holds it"),
        };
        let of = why
            .release
            .as_ref()
            .map_or_else(String::new, |release| format!(" of {release}"));
        match (&why.rollout, why.wave) {
            (Some(rollout), Some(wave)) => facts.add("rollout", format!("{rollout}{of}, wave {wave}")),
            (Some(rollout), None) => facts.add("rollout", format!("{rollout}{of}, in no wave")),
            (None, _) => facts.add("rollout", "none"),
        };
        if let Some(time) = why.next_eligible {
            facts.add("next chance", time.to_string());
        }
        let mut out = facts.text(paint);
        out.push_str(&steps(&why.hint, paint));
        out
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use clap::error::ErrorKind;
    use ensign_api::{DeviceStatus, Reason, Time};
    use ensign_bundle::digest::{DeviceId, PlanId};

    use super::*;

    #[test]
    fn says_what_and_what_to_type() {
        let mut why = Why {
            device: DeviceId([0xab; 32]),
            rollout: Some(PlanId([0x12; 16])),
            release: Some("app@1.2.0".to_owned()),
            wave: Some(2),
            status: "confirmed".to_owned(),
            status_of: Some("shop@2.0.0".to_owned()),
            reason: Some(Reason {
                code: Code::Soaking,
                text: "wave 1 must stay healthy for 10m, 4m 12s are left".to_owned(),
            }),
            next_eligible: Some(Time(1_796_090_400)),
            hint: "`ensign rollout status app -w`".to_owned(),
        };
        let device = crate::device::show::tests::device(1, "dev1", "1.0.0", DeviceStatus::Idle);
        insta::assert_snapshot!(answer(why.clone(), &device).table(Paint(false)));
        why.reason = Some(Reason {
            code: Code::NotInPlan,
            text: "not selected by the rollout 121212121212 of app 1.1.0 (running): it selects `site = paris`; dev1 runs app 1.0.0"
                .to_owned(),
        });
        (why.wave, why.next_eligible) = (None, None);
        why.hint = "bring it there too: `ensign rollout start --product app --version 1.1.0 --select 'name = dev1'`"
            .to_owned();
        insta::assert_snapshot!(answer(why, &device).table(Paint(false)));
    }

    /// After `unhold`.
    #[test]
    fn a_line_says_what_a_device_does_now() {
        let mut why = Why {
            device: DeviceId([0xab; 32]),
            rollout: None,
            release: None,
            wave: None,
            status: "idle".to_owned(),
            status_of: None,
            reason: None,
            next_eligible: None,
            hint: String::new(),
        };
        let device = crate::device::show::tests::device(1, "dev1", "1.0.0", DeviceStatus::Idle);
        let said = |why: &Why| answer(why.clone(), &device).in_a_line();
        assert_eq!(said(&why), "dev1 takes part again: nothing holds it");
        why.reason = Some(Reason {
            code: Code::Soaking,
            text: "wave 1 must stay healthy for 10m".to_owned(),
        });
        why.hint = "`ensign rollout status app -w`".to_owned();
        assert_eq!(
            said(&why),
            "dev1 takes part again: wave 1 must stay healthy for 10m (soaking); next: `ensign rollout status app -w`"
        );
    }

    /// Every hint of the planner's snapshots is made of commands that this program has.
    #[test]
    fn hints_are_commands_that_exist() {
        let snapshots = concat!(env!("CARGO_MANIFEST_DIR"), "/../rollout/tests/snapshots");
        let mut seen = 0;
        for file in std::fs::read_dir(snapshots).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let hints = text.lines().filter_map(|line| line.trim().strip_prefix("hint: "));
            for step in hints.flat_map(|hint| hint.split("; ")) {
                if step == "nothing to do" || step.contains("on the device: `ensign-agent ") {
                    continue;
                }
                let command = step.split('`').nth(1).and_then(|c| c.strip_prefix("ensign "));
                let command = command.unwrap_or_else(|| panic!("`{step}` is no command"));
                // One argument in quotes is as much as a hint has.
                let words = command.split('\'').enumerate().flat_map(|(i, part)| match i {
                    1 => vec![part],
                    _ => part.split_whitespace().collect(),
                });
                let parsed = crate::args::Cli::try_parse_from(std::iter::once("ensign").chain(words));
                if let Err(e) = parsed {
                    assert_eq!(e.kind(), ErrorKind::MissingRequiredArgument, "`{command}`: {e}");
                }
                seen += 1;
            }
        }
        assert!(seen > 40, "{seen} hints");
    }
}
