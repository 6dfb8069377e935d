//! `device ls` and `device show`.

use ensign_api::{Device, DeviceDetail, DeviceState, DeviceStatus, Time};
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;

use crate::app::App;
use crate::device::which;
use crate::failure::{Failure, Result};
use crate::output::{Document, Facts, Format, Grid, Mood, Paint};
use crate::token::show_labels;
use crate::units::show_count;
use crate::{clock, units};

/// Characters of an id in a table.
const ID: usize = 12;

pub async fn list(app: &App, select: Option<&str>) -> Result<()> {
    let session = app.session()?;
    let mut rows: Vec<Device> = session.client.get("/v1/devices").await?;
    let all = rows.len();
    if let Some(select) = select {
        let selector = which::selector(select)?;
        rows.retain(|row| which::matches(&selector, row));
    }
    rows.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    match select {
        // Scripts still get their document.
        Some(select) if rows.is_empty() => {
            if app.shell.format != Format::Table {
                app.shell.print(&rows[..])?;
            }
            Err(Failure::new(
                Code::NobodyMatches,
                format!(
                    "none of {} matches `{}`",
                    show_count(all as u64, "device"),
                    printable(select, 200)
                ),
            )
            .hint("`ensign device ls` shows names, labels and states"))
        }
        _ => app.shell.print(&rows[..]),
    }
}

pub async fn show(app: &App, text: &str) -> Result<()> {
    let session = app.session()?;
    let rows: Vec<Device> = session.client.get("/v1/devices").await?;
    let id = which::find(&rows, text)?.id;
    let detail: DeviceDetail = session.client.get(&format!("/v1/devices/{id}")).await?;
    app.shell.print(&detail)
}

/// `app 1.0.0, os 7`.
fn running(device: &Device) -> String {
    let products = device.products.iter();
    let shown: Vec<String> = products.map(|(name, i)| format!("{name} {}", i.version)).collect();
    shown.join(", ")
}

/// `now`, `3m ago`, `never`.
fn last_seen(device: &Device) -> String {
    match device.last_seen {
        _ if device.connected => "now".to_owned(),
        None => "never".to_owned(),
        Some(Time(seen)) => format!("{} ago", units::show_seconds(clock::now().saturating_sub(seen))),
    }
}

fn state_mood(state: DeviceState) -> Mood {
    match state {
        DeviceState::Approved => Mood::Plain,
        DeviceState::Pending => Mood::Busy,
        DeviceState::Suspended | DeviceState::Revoked => Mood::Bad,
    }
}

fn status_mood(status: DeviceStatus) -> Mood {
    match status {
        DeviceStatus::Idle => Mood::Faint,
        DeviceStatus::Confirmed => Mood::Good,
        DeviceStatus::RollingBack | DeviceStatus::RolledBack | DeviceStatus::Rejected => Mood::Bad,
        _ => Mood::Busy,
    }
}

impl Document for [Device] {
    fn table(&self, paint: Paint) -> String {
        let headers = ["NAME", "ID", "STATE", "STATUS", "RUNS", "SEEN", "LABELS", "REASON"];
        let mut grid = Grid::new(&headers, paint);
        for d in self {
            let (state, state_mood) = if d.held {
                ("held", Mood::Busy)
            } else {
                (d.state.name(), state_mood(d.state))
            };
            let (status, status_mood) = if d.dark {
                ("dark", Mood::Bad)
            } else {
                (d.status.name(), status_mood(d.status))
            };
            grid.row([
                (&*d.name, Mood::Plain),
                (&d.id.to_string()[..ID], Mood::Faint),
                (state, state_mood),
                (status, status_mood),
                (&running(d), Mood::Plain),
                (&last_seen(d), if d.connected { Mood::Good } else { Mood::Busy }),
                (&show_labels(&d.labels), Mood::Faint),
                (d.reason.as_ref().map_or("", |r| r.code.name()), Mood::Bad),
            ]);
        }
        grid.or("no devices: `ensign token create`, then on each `ensign-agent enroll --token-file FILE`")
    }
}

impl Document for DeviceDetail {
    fn table(&self, paint: Paint) -> String {
        let d = &self.device;
        let also = |word: &str, more: bool, extra: &str| {
            let extra = if more { format!(", {extra}") } else { String::new() };
            format!("{word}{extra}")
        };
        let mut facts = Facts::new();
        facts
            .add("name", &d.name)
            .add("id", d.id.to_string())
            .add("state", also(d.state.name(), d.held, "held"))
            .add("status", also(d.status.name(), d.dark, "dark"))
            .add("seen", last_seen(d))
            .add("joined", self.joined.to_string())
            .add("labels", show_labels(&d.labels))
            .add("receipt key", self.receipt_key.to_string());
        for (product, i) in &d.products {
            let since = format!("{} in generation {} since {}", i.version, i.generation, i.since);
            facts.add(&format!("runs {product}"), since);
        }
        if let Some(reason) = &d.reason {
            facts.add("reason", format!("{} ({})", reason.text, reason.code));
        }
        if let Some(rollout) = &self.rollout {
            facts.add("rollout", rollout.to_string());
        }
        for digest in &d.denied {
            facts.add("denied", digest.to_string());
        }
        for (key, value) in d.facts.iter().chain(&self.claims) {
            facts.add(&printable(key, 40), value);
        }
        facts.text(paint)
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use ensign_api::{InstalledProduct, Reason};
    use ensign_bundle::digest::DeviceId;
    use ensign_bundle::ids::{Ident, Label, Labels, Version};

    use super::*;

    pub fn device(byte: u8, name: &str, version: &str, status: DeviceStatus) -> Device {
        let installed = InstalledProduct {
            version: Version::parse(version).unwrap(),
            generation: 1,
            since: Time(1_796_090_400),
            confirmed: true,
        };
        Device {
            id: DeviceId([byte; 32]),
            name: name.to_owned(),
            state: DeviceState::Approved,
            labels: Labels::from([(Label::parse("site").unwrap(), Label::parse("lyon").unwrap())]),
            products: BTreeMap::from([(Ident::parse("app").unwrap(), installed)]),
            status,
            reason: None,
            last_seen: None,
            connected: true,
            dark: false,
            facts: BTreeMap::new(),
            held: false,
            denied: Vec::new(),
        }
    }

    #[test]
    fn a_list_for_people() {
        let mut bad = device(0xcd, "till\u{202e}7", "1.0.0", DeviceStatus::RolledBack);
        bad.connected = false;
        bad.reason = Some(Reason {
            code: Code::Unhealthy,
            text: "3 probes failed in a row".to_owned(),
        });
        let mut dark = device(0xef, "till8", "1.1.0", DeviceStatus::Trial);
        (dark.dark, dark.connected) = (true, false);
        let mut held = device(1, "till9", "1.1.0", DeviceStatus::Idle);
        held.held = true;
        let rows = [device(0xab, "till6", "1.1.0", DeviceStatus::Confirmed), bad, dark, held];
        insta::assert_snapshot!(rows[..].table(Paint(false)));
        insta::assert_snapshot!(rows[..0].table(Paint(false)));
    }
}
