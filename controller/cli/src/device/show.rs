//! `device ls` and `device show`.

use ensign_api::{Device, DeviceDetail, DeviceState, DeviceStatus, Time};
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;
use serde::Serialize;

use crate::app::App;
use crate::args::DeviceList;
use crate::device::which;
use crate::failure::{Failure, Result};
use crate::output::{Document, Facts, Format, Grid, Mood, Paint};
use crate::token::show_labels;
use crate::{clock, units};

/// Characters of an id in a table.
const ID: usize = 12;

/// `device ls`.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct List {
    rows: Vec<Device>,
    /// What is said where there are none.
    #[serde(skip)]
    nothing: String,
}

pub async fn list(app: &App, which: &DeviceList) -> Result<()> {
    let session = app.session()?;
    let rows: Vec<Device> = session.client.get("/v1/devices").await?;
    let list = pick(rows, which, &app.shell.reason);
    if app.shell.format != Format::Table && list.as_ref().is_err_and(|e| e.code == Code::NobodyMatches) {
        // Scripts still get their document.
        let none: [Device; 0] = [];
        app.shell.print(&none[..])?;
    }
    app.shell.print(&list?)
}

/// A selector that matches nobody is refused; a status or a reason that nobody has is an answer.
fn pick(mut rows: Vec<Device>, which: &DeviceList, reason: &str) -> Result<List> {
    let all = rows.len();
    if let Some(select) = &which.select {
        let selector = which::selector(select)?;
        rows.retain(|row| which::matches(&selector, row));
        if rows.is_empty() {
            return Err(which::nobody(select, &selector, all));
        }
    }
    if !reason.is_empty() {
        let Some(code) = Code::ALL.iter().find(|code| code.name() == reason) else {
            let shown = printable(reason, 40);
            return Err(Failure::usage(format!("there is no reason `{shown}`"))
                .hint("`ensign device ls` shows those that devices have"));
        };
        rows.retain(|row| row.reason.as_ref().is_some_and(|r| r.code == *code));
    }
    if !which.status.is_empty() {
        let shown = |row: &Device| if row.dark { "dark" } else { row.status.name() };
        rows.retain(|row| which.status.iter().any(|s| s == shown(row) || s == row.status.name()));
    }
    rows.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    let nothing = if all == 0 {
        "no devices: `ensign token create`, then on each `ensign-agent enroll --token-file FILE`".to_owned()
    } else {
        let also = if reason.is_empty() {
            String::new()
        } else {
            format!(" {reason}")
        };
        format!(
            "none of {} is{also} {}",
            units::show_count(all as u64, "device"),
            which.status.join(" or ")
        )
    };
    Ok(List { rows, nothing })
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
        table(self, "no device changed", paint)
    }
}

impl Document for List {
    fn table(&self, paint: Paint) -> String {
        table(&self.rows, self.nothing.trim_end(), paint)
    }
}

fn table(rows: &[Device], nothing: &str, paint: Paint) -> String {
    let headers = ["NAME", "ID", "STATE", "STATUS", "RUNS", "SEEN", "LABELS", "REASON"];
    let mut grid = Grid::new(&headers, paint);
    for d in rows {
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
    grid.or(nothing)
}

/// What a status is about stands beside it: a device may run several products.
pub fn about(status: String, release: Option<&str>) -> String {
    match release {
        Some(release) if status != DeviceStatus::Idle.name() => format!("{status} ({})", printable(release, 130)),
        _ => status,
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
            .add(
                "status",
                about(also(d.status.name(), d.dark, "dark"), d.status_of.as_deref()),
            )
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
            status_of: None,
            reason: None,
            last_seen: None,
            connected: true,
            dark: false,
            facts: BTreeMap::new(),
            held: false,
            denied: Vec::new(),
            rollouts: Vec::new(),
            root: 1,
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
        let list = |rows: &[Device]| pick(rows.to_vec(), &DeviceList::default(), "").unwrap();
        insta::assert_snapshot!(list(&rows).table(Paint(false)));
        insta::assert_snapshot!(list(&rows[..0]).table(Paint(false)));
    }

    #[test]
    fn whom_a_selector_a_status_or_a_reason_means() {
        let mut full = device(2, "till2", "1.0.0", DeviceStatus::Rejected);
        full.reason = Some(Reason {
            code: Code::NoSpace,
            text: String::new(),
        });
        let mut dark = device(3, "till3", "1.0.0", DeviceStatus::Trial);
        dark.dark = true;
        let rows = [device(1, "till1", "1.1.0", DeviceStatus::Confirmed), full, dark];
        let names = |select: Option<&str>, status: &[&str], reason: &str| {
            let which = DeviceList {
                select: select.map(str::to_owned),
                status: status.iter().map(|s| (*s).to_owned()).collect(),
            };
            pick(rows.to_vec(), &which, reason).map(|list| list.rows.iter().map(|d| d.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(names(None, &["rejected", "dark"], "").unwrap(), ["till2", "till3"]);
        assert_eq!(names(None, &["trial"], "").unwrap(), ["till3"]);
        assert_eq!(names(Some("site = lyon"), &[], "no-space").unwrap(), ["till2"]);
        assert_eq!(
            names(None, &["rolled-back"], "").unwrap(),
            [""; 0],
            "an answer, not a refusal"
        );
        assert_eq!(names(None, &[], "no-spice").unwrap_err().exit(), 2);
        let nobody = names(Some("site = rome"), &[], "").unwrap_err();
        assert_eq!(
            (nobody.exit(), &*nobody.text),
            (32, "none of 3 devices matches `site = rome`")
        );
        let hint = nobody.hint_text();
        assert!(
            hint.contains("keys are labels, name and id") && hint.contains("`ensign device ls`"),
            "{hint}"
        );
        let hint = names(Some("status = rolled-back"), &[], "").unwrap_err();
        assert!(
            hint.hint_text()
                .contains("`ensign device ls --status rolled-back,rejected`"),
            "{}",
            hint.hint_text()
        );
        let wrong = names(Some("site == rome"), &[], "").unwrap_err();
        assert_eq!(wrong.exit(), 2);
        assert!(
            wrong.hint_text().contains("'site = lyon'") && wrong.hint_text().contains("`ensign device ls --help`"),
            "{}",
            wrong.hint_text()
        );
    }
}
