//! `device why`: the one rule that decides about a device just now.

use ensign_api::{Device, Reason, Rollout, Why};
use ensign_bundle::reason::Code;
use serde::Serialize;

use crate::app::{App, Session};
use crate::device::which;
use crate::failure::Result;
use crate::output::{Document, Facts, Paint};

/// What the controller says, with the name that people use.
#[derive(Debug, Serialize)]
pub struct Answer {
    #[serde(flatten)]
    why: Why,
    name: String,
}

/// Rollouts that are looked through for the one that lists the device.
const LOOKED_THROUGH: usize = 8;

pub async fn run(app: &App, text: &str) -> Result<()> {
    let session = app.session()?;
    let devices: Vec<Device> = session.client.get("/v1/devices").await?;
    let device = which::find(&devices, text)?;
    let rollouts: Vec<Rollout> = session.client.get("/v1/rollouts").await?;
    let mut last = None;
    for rollout in rollouts.iter().take(LOOKED_THROUGH) {
        let why = ask(&session, rollout, device).await?;
        let listed = why.why.wave.is_some();
        // The newest rollout that lists the device decides about it; else the newest says that it does not.
        if listed || last.is_none() {
            last = Some(why);
        }
        if listed {
            break;
        }
    }
    app.shell.print(&last.unwrap_or_else(|| untouched(device)))
}

/// What the controller says about a device in one rollout.
pub async fn ask(session: &Session, rollout: &Rollout, device: &Device) -> Result<Answer> {
    let path = format!("/v1/rollouts/{}/why?device={}", rollout.id, device.id);
    let why = session.client.get(&path).await?;
    Ok(answer(why, device))
}

fn answer(why: Why, device: &Device) -> Answer {
    Answer {
        why,
        name: device.name.clone(),
    }
}

/// There has been no rollout at all.
fn untouched(device: &Device) -> Answer {
    let reason = device.reason.clone().unwrap_or_else(|| Reason {
        code: Code::NoRollout,
        text: "no rollout was started yet".to_owned(),
    });
    let why = Why {
        device: device.id,
        rollout: None,
        wave: None,
        status: device.status.name().to_owned(),
        reason: Some(reason),
        next_eligible: None,
        hint: Code::NoRollout.hint().to_owned(),
    };
    answer(why, device)
}

impl Document for Answer {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        let why = &self.why;
        let device = format!("{} ({})", self.name, why.device);
        facts.add("device", device).add("status", &why.status);
        match &why.reason {
            Some(reason) => facts.add("because", format!("{} ({})", reason.text, reason.code)),
            None => facts.add("because", "nothing holds it"),
        };
        match (&why.rollout, why.wave) {
            (Some(rollout), Some(wave)) => facts.add("rollout", format!("{rollout}, wave {wave}")),
            (Some(rollout), None) => facts.add("rollout", format!("{rollout}, in no wave")),
            (None, _) => facts.add("rollout", "none"),
        };
        if let Some(time) = why.next_eligible {
            facts.add("next chance", time.to_string());
        }
        if !why.hint.is_empty() {
            facts.add("hint", &why.hint);
        }
        facts.text(paint)
    }
}

#[cfg(test)]
mod tests {
    use ensign_api::{DeviceStatus, Time};
    use ensign_bundle::digest::{DeviceId, PlanId};

    use super::*;

    #[test]
    fn says_what_and_what_to_type() {
        let why = Why {
            device: DeviceId([0xab; 32]),
            rollout: Some(PlanId([0x12; 16])),
            wave: Some(2),
            status: "waiting".to_owned(),
            reason: Some(Reason {
                code: Code::Soaking,
                text: "wave 1 must stay healthy for 10m, 4m 12s are left".to_owned(),
            }),
            next_eligible: Some(Time(1_796_090_400)),
            hint: "wait".to_owned(),
        };
        let device = crate::device::show::tests::device(1, "dev1", "1.0.0", DeviceStatus::Idle);
        insta::assert_snapshot!(answer(why, &device).table(Paint(false)));
        insta::assert_snapshot!(untouched(&device).table(Paint(false)));
    }
}
