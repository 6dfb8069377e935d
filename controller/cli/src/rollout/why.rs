//! `rollout why`: the device that says most about where a rollout stands, else what the rollout itself waits for.

use ensign_api::{Device, DeviceState, DeviceStatus, Reason, Rollout, RolloutState, Time, WaveState};
use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::ids::Label;
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;
use serde::Serialize;

use crate::app::App;
use crate::failure::Result;
use crate::output::{Document, Facts, Paint, steps};
use crate::rollout::view;
use crate::{clock, device, rollout, units};

/// Most devices that are asked about before the rollout speaks for itself.
const ASKED: usize = 8;

/// An answer about the whole rollout, with the keys of one about a device.
#[derive(Debug, Serialize)]
struct Whole {
    device: Option<DeviceId>,
    rollout: PlanId,
    /// The wave that it stands in.
    wave: Option<u32>,
    /// Of the rollout.
    status: RolloutState,
    reason: Reason,
    next_eligible: Option<Time>,
    hint: String,
    #[serde(skip)]
    release: String,
}

pub async fn run(app: &App, name: Option<&str>, which: Option<&str>) -> Result<()> {
    let session = app.session()?;
    let found = rollout::find(&session, which).await?;
    let rows: Vec<Device> = session.client.get("/v1/devices").await?;
    if let Some(name) = name {
        let why = device::ask(&session, &found, device::find(&rows, name)?).await?;
        return app.shell.print(&why);
    }
    let whole = whole(&found, clock::now());
    for row in telling(&rows, &found, whole.reason.code).into_iter().take(ASKED) {
        let why = device::ask(&session, &found, row).await?;
        // What another rollout made of a device says nothing about this one.
        if !matches!(
            why.code(),
            None | Some(Code::UpToDate | Code::NotInPlan | Code::Superseded)
        ) {
            return app.shell.print(&why);
        }
    }
    app.shell.print(&whole)
}

/// Devices that may say why the rollout stands where it stands, the one that says most first. `code`: what it says itself.
fn telling<'a>(rows: &'a [Device], rollout: &Rollout, code: Code) -> Vec<&'a Device> {
    let unwell = rollout.waves.iter().any(|w| w.failed > 0 || w.dark > 0);
    let failed = |d: &Device| matches!(d.status, DeviceStatus::Rejected | DeviceStatus::RolledBack);
    let reasoned = |d: &Device| d.reason.is_some() && d.state == DeviceState::Approved && !d.held;
    let mut ranked: Vec<(u8, &Device)> = Vec::new();
    for row in rows {
        let rank = match () {
            // What brakes all of it comes before what one of them says.
            () if brakes(rollout, code) => continue,
            () if unwell && failed(row) => 0,
            () if unwell && row.dark => 1,
            () if unwell && reasoned(row) => 2,
            () if code == Code::InProgress && reasoned(row) => 3,
            () => continue,
        };
        ranked.push((rank, row));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, row)| row).collect()
}

/// A rollout that would go on, was it not for this.
fn brakes(rollout: &Rollout, code: Code) -> bool {
    let goes = matches!(rollout.state, RolloutState::Scheduled | RolloutState::Running);
    goes && matches!(code, Code::Frozen | Code::NotYet | Code::GateNotOpen)
}

fn whole(r: &Rollout, now: u64) -> Whole {
    let (wave, reason, next_eligible, hint) = waits(r, now);
    Whole {
        device: None,
        rollout: r.id,
        wave,
        status: r.state,
        reason,
        next_eligible: next_eligible.map(Time),
        hint: if hint.is_empty() {
            format!("`ensign rollout status {}`", r.id)
        } else {
            hint
        },
        release: format!("{}@{}", r.product, r.version),
    }
}

/// The wave, the reason, when time alone ends it, and what to type.
fn waits(r: &Rollout, now: u64) -> (Option<u32>, Reason, Option<u64>, String) {
    let because = |code, text: String| Reason { code, text };
    if let Some(reason) = &r.reason {
        return (None, reason.clone(), None, r.hint.clone());
    }
    let watch = format!("`ensign rollout status {} -w`", r.id);
    if r.state == RolloutState::Done {
        let count = |of: fn(&ensign_api::WaveStatus) -> u32| r.waves.iter().map(|w| u64::from(of(w))).sum::<u64>();
        let text = format!(
            "it is done: {} of {} ok",
            count(|w| w.ok),
            units::show_count(count(|w| w.target), "device")
        );
        return (None, because(Code::UpToDate, text), None, "nothing to do".to_owned());
    }
    if let Some(frozen) = &r.frozen {
        let hint = "`ensign fleet unfreeze`".to_owned();
        return (None, because(Code::Frozen, view::said(frozen)), None, hint);
    }
    if let Some(away) = r.away.first() {
        let others = r.waves.iter().map(|w| w.away).sum::<u32>().saturating_sub(1);
        let more = match others {
            0 => String::new(),
            n => format!("; {} more away", units::show_count(u64::from(n), "device")),
        };
        let text = format!(
            "waits for {}, not connected for {} (since {}), counts as {} at {}; it goes on by itself when it is back{more}",
            printable(&away.name, 63),
            units::show_seconds(now.saturating_sub(away.since.0)),
            away.since,
            printable(&away.counts_as, 20),
            away.at
        );
        let word = match Label::parse(&away.name) {
            Ok(name) => name.to_string(),
            Err(_) => away.device.to_string(),
        };
        let hint = format!("see whether it has power and network: `ensign device show {word}`");
        return (Some(away.wave), because(Code::Offline, text), Some(away.at.0), hint);
    }
    let soaking = r.waves.iter().find(|w| w.state == WaveState::Soaking);
    if let Some(wave) = soaking {
        let text = format!(
            "wave {} soaks, {} to go",
            wave.index,
            units::show_seconds(wave.soak_left_s)
        );
        let next = now.saturating_add(wave.soak_left_s);
        return (Some(wave.index), because(Code::Soaking, text), Some(next), watch);
    }
    let open = r.waves.iter().find(|w| w.state == WaveState::Open);
    let text = open.map_or_else(
        || "the next wave opens".to_owned(),
        |w| {
            format!(
                "wave {} is under way: {} of {} ok, {} updating, {} waiting",
                w.index,
                w.ok,
                units::show_count(u64::from(w.target), "device"),
                w.active,
                w.pending
            )
        },
    );
    (open.map(|w| w.index), because(Code::InProgress, text), None, watch)
}

impl Document for Whole {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts
            .add("rollout", format!("{} of {}", self.rollout, self.release))
            .add("status", self.status.name())
            .add("because", format!("{} ({})", self.reason.text, self.reason.code));
        if let Some(wave) = self.wave {
            facts.add("wave", wave.to_string());
        }
        if let Some(time) = self.next_eligible {
            facts.add("next chance", time.to_string());
        }
        let mut out = facts.text(paint);
        out.push_str(&steps(&self.hint, paint));
        out
    }
}

#[cfg(test)]
mod tests {
    use ensign_api::{Away, Frozen};

    use super::*;
    use crate::device::tests::device;
    use crate::rollout::view::tests::rollout;

    const NOW: u64 = 1_796_090_400;

    /// No device is unwell: the rollout has a reason of its own all the same.
    #[test]
    fn a_rollout_speaks_for_itself() {
        let mut out = String::new();
        let mut r = rollout(0x1f, "app");
        let mut say = |r: &Rollout| {
            assert!(telling(&[device(1, "dev1", "1.0.0", DeviceStatus::Idle)], r, Code::Soaking).is_empty());
            out.push_str(&whole(r, NOW).table(Paint(false)));
            out.push('\n');
        };
        r.waves[1].soak_left_s = 595;
        say(&r);
        r.waves[1].state = WaveState::Open;
        say(&r);
        r.waves[1].away = 2;
        r.away = vec![Away {
            device: DeviceId([1; 32]),
            name: "till7".to_owned(),
            wave: 2,
            since: Time(NOW - 125),
            counts_as: "unreached".to_owned(),
            at: Time(NOW + 3475),
        }];
        say(&r);
        r.frozen = Some(Frozen {
            since: Time(NOW - 60),
            reason: "storm".to_owned(),
            by: "ada".to_owned(),
        });
        say(&r);
        r.state = RolloutState::Done;
        say(&r);
        insta::assert_snapshot!(out);
    }

    #[test]
    fn devices_speak_first_where_one_failed() {
        let mut r = rollout(0x1f, "app");
        let rows = [
            device(1, "dev1", "1.0.0", DeviceStatus::Idle),
            device(2, "dev2", "1.0.0", DeviceStatus::RolledBack),
        ];
        r.waves[1].failed = 1;
        let first = |r: &Rollout, code| telling(&rows, r, code).first().map(|d| d.name.clone());
        assert_eq!(first(&r, Code::TooManyFailed).as_deref(), Some("dev2"));
        assert_eq!(first(&r, Code::Frozen), None, "a brake on all of it says more");
    }
}
