//! `fleet show` and `fleet status`: who the fleet is, and how it is.

use std::fmt::Write as _;

use ensign_api::{DeviceState, Fleet, RoleState, Time, Unheard};
use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::Role;
use ensign_crypto::KeyId;
use serde::Serialize;

use super::grants;
use crate::app::{App, Session};
use crate::clock;
use crate::failure::Result;
use crate::output::{Document, Facts, Paint, Shell};
use crate::rollout::view;
use crate::units;

/// Offline roles that expire sooner than this need a signer, seconds: 30 days.
const OFFLINE_SOON_S: u64 = 30 * 24 * 3600;
/// The online roles renew themselves; less than this left means that they did not, seconds: 6 h.
const ONLINE_SOON_S: u64 = 6 * 3600;
/// Characters of an id that people are shown.
const ID: usize = 12;

/// `fleet show`: what the root says.
#[derive(Debug, Serialize)]
struct Identity {
    id: FleetId,
    name: String,
    root_hash: Digest,
    root_version: u64,
    expires: Time,
    addresses: Vec<String>,
    lab: bool,
    roles: Vec<RoleRow>,
}

#[derive(Debug, Serialize)]
struct RoleRow {
    role: String,
    threshold: u32,
    keys: Vec<KeyId>,
}

/// `fleet status`: the controller's view, and what an operator should do about it.
#[derive(Debug, Serialize)]
pub struct Status {
    #[serde(flatten)]
    fleet: Fleet,
    findings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    pub text: String,
    pub hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Advice,
    Warning,
    Critical,
}

pub async fn show(app: &App) -> Result<()> {
    let mut session = app.session()?;
    match session.trust.refresh(&session.client).await {
        Err(e) if e.code != Code::ControllerUnreachable => return Err(e),
        Err(e) => Shell::warn(&format!("{e}; this is what was last seen")),
        Ok(()) => {}
    }
    let root = session.trust.root();
    let row = |name: &str, role: &Role| RoleRow {
        role: name.to_owned(),
        threshold: role.threshold,
        keys: role.keys.iter().map(ensign_crypto::PublicKey::id).collect(),
    };
    let mut roles = vec![
        row("root", &root.roles.root),
        row("targets", &root.roles.targets),
        row("snapshot", &root.roles.snapshot),
        row("timestamp", &root.roles.timestamp),
    ];
    roles.extend(
        root.scopes
            .iter()
            .map(|s| row(&format!("deploy ({})", s.name), &s.role)),
    );
    app.shell.print(&Identity {
        id: root.fleet,
        name: root.name.clone(),
        root_hash: session.context.file.root_hash,
        root_version: root.version,
        expires: Time(root.expires),
        addresses: root.controller.addresses.clone(),
        lab: root.policy.lab,
        roles,
    })
}

pub async fn status(app: &App) -> Result<()> {
    let status = Status::ask(&mut app.session()?).await?;
    app.shell.print(&status)
}

impl Status {
    /// What the controller says, and what this machine verifies itself.
    pub async fn ask(session: &mut Session) -> Result<Self> {
        let fleet: Fleet = session.client.get("/v1/fleet").await?;
        let mut status = Self::of(fleet);
        status.findings.extend(grants::finding(session).await);
        Ok(status)
    }

    pub fn of(fleet: Fleet) -> Self {
        let findings = findings(&fleet, clock::now());
        Self { fleet, findings }
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

fn findings(fleet: &Fleet, now: u64) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut find = |level, text: String, hint: &str| {
        out.push(Finding {
            level,
            text,
            hint: hint.to_owned(),
        });
    };
    if let Some(frozen) = &fleet.frozen {
        let text = format!("{}; nothing starts, what switches already finishes", view::said(frozen));
        find(Level::Warning, text, "`ensign fleet unfreeze`");
    }
    if fleet.dark > 0 {
        let text = format!(
            "{} dark: no sign of life since an update",
            units::show_count(fleet.dark, "device")
        );
        find(
            Level::Critical,
            text,
            "`ensign device ls --status dark`, then `ensign device why DEVICE`",
        );
    }
    for halted in &fleet.halted {
        let id = &halted.rollout.to_string()[..ID];
        let text = format!(
            "the rollout {id} of {}@{} is halted: {} ({})",
            halted.product, halted.version, halted.reason.text, halted.reason.code
        );
        find(Level::Warning, text, &format!("`ensign rollout why --rollout {id}`"));
    }
    for (code, devices) in &fleet.unwell {
        let (level, what, hint) = in_trouble(*code);
        let text = format!("{} {what} ({code})", units::show_count(*devices, "device"));
        find(level, text, hint);
    }
    if let Some(clock) = &fleet.clock {
        find(
            Level::Critical,
            format!("{}: {}", clock.code, ensign_bundle::text::printable(&clock.text, 300)),
            "synchronise the clock where the controller runs (`timedatectl`): it goes on by itself; if it is right, `trust_clock = true` in controller.toml",
        );
    }
    if let Some(unheard) = &fleet.unheard {
        let (level, hint) = if unheard.shown {
            (
                Level::Warning,
                "it was not connected in between: `ensign-agent enroll` brings it back as a new device, `ensign device revoke` ends the wait",
            )
        } else {
            (
                Level::Advice,
                "leave the old key in root until then: they could not connect without it",
            )
        };
        find(level, said_unheard(unheard), hint);
    }
    let roles = [
        ("root", fleet.root, OFFLINE_SOON_S),
        ("targets", fleet.targets, OFFLINE_SOON_S),
        ("snapshot", fleet.snapshot, ONLINE_SOON_S),
        ("timestamp", fleet.timestamp, ONLINE_SOON_S),
    ];
    for (name, role, soon) in roles {
        let left = role.expires.0.saturating_sub(now);
        let hint = match name {
            "root" => "its next version: `ensign key root rotate`, `ensign key root sign`, `ensign key root publish`",
            "targets" => "its next version: `ensign product set '*'`, `ensign product publish`",
            _ => "look at the controller's log",
        };
        if left == 0 {
            find(
                Level::Critical,
                format!("{name} expired at {}: devices take nothing new", role.expires),
                hint,
            );
        } else if left < soon {
            find(
                Level::Warning,
                format!("{name} expires in {}", units::show_seconds(left)),
                hint,
            );
        }
    }
    if let Some(pending) = fleet.devices.get(&DeviceState::Pending).filter(|n| **n > 0) {
        find(
            Level::Advice,
            format!("waiting for approval: {}", units::show_count(*pending, "device")),
            "`ensign device ls`, then `ensign device accept DEVICE`",
        );
    }
    if fleet.lab {
        let text = "a lab fleet: its signing keys have no passphrase, and devices on `/` do not join it".to_owned();
        find(
            Level::Advice,
            text,
            "`ensign fleet set lab=false`; for production also: keys on separate machines, targets and release 2 of 3, root 3 of 5",
        );
    }
    out
}

/// Who does not know the newest TLS key of the controller; `root` in `device ls -o json` says which.
pub fn said_unheard(unheard: &Unheard) -> String {
    let key = &unheard.key.to_string()[..ID];
    let devices = units::show_count(unheard.devices, "device");
    let end = if unheard.shown {
        "which is in use"
    } else {
        "which is next"
    };
    format!(
        "{devices} not at root {} yet, which brings the controller's key {key}, {end}",
        unheard.root
    )
}

/// How bad it is, what is said of devices in this trouble, and what to type.
fn in_trouble(code: Code) -> (Level, &'static str, &'static str) {
    match code {
        Code::CloneDetected => (
            Level::Warning,
            "with a second copy connected: nothing is installed on either",
            "`ensign device ls --reason clone-detected`, then `ensign device why DEVICE`",
        ),
        Code::NoSpace => (
            Level::Advice,
            "without the space for an update",
            "`ensign device ls --reason no-space`, then `ensign device why DEVICE`",
        ),
        Code::OperatorRollback => (
            Level::Advice,
            "taken back by somebody at the device",
            "`ensign device ls --reason operator-rollback`, then `ensign device why DEVICE`",
        ),
        _ => (
            Level::Advice,
            "did not take the last update",
            "`ensign device ls --status rolled-back,rejected`, then `ensign device why DEVICE`",
        ),
    }
}

impl Document for Identity {
    fn table(&self, paint: Paint) -> String {
        let mut facts = Facts::new();
        facts
            .add("fleet", &self.name)
            .add("id", self.id.to_string())
            .add("root 1", format!("sha256 {}", self.root_hash))
            .add("root", format!("version {}, until {}", self.root_version, self.expires))
            .add("controller", self.addresses.join(" "))
            .add(
                "lab",
                if self.lab {
                    "yes: keys without passphrases"
                } else {
                    "no"
                },
            );
        for r in &self.roles {
            let keys: Vec<String> = r.keys.iter().map(|k| k.to_string()[..16].to_owned()).collect();
            facts.add(
                &r.role,
                format!("{} of {}: {}", r.threshold, r.keys.len(), keys.join(" ")),
            );
        }
        facts.text(paint)
    }
}

impl Document for Status {
    fn table(&self, paint: Paint) -> String {
        let f = &self.fleet;
        let of = |state| f.devices.get(&state).copied().unwrap_or(0);
        let others: Vec<String> = [DeviceState::Pending, DeviceState::Suspended, DeviceState::Revoked]
            .into_iter()
            .filter(|s| of(*s) > 0)
            .map(|s| format!(", {} {}", of(s), s.name()))
            .collect();
        let role = |r: RoleState| format!("version {}, until {}", r.version, r.expires);
        let mut facts = Facts::new();
        facts
            .add("fleet", format!("{} ({})", f.name, f.id))
            .add("controller", format!("{}, version {}", f.address, f.version))
            .add(
                "devices",
                format!(
                    "{} approved, {} connected, {} dark{}",
                    of(DeviceState::Approved),
                    f.connected,
                    f.dark,
                    others.concat()
                ),
            )
            .add("releases", f.releases.to_string())
            .add(
                "rollouts",
                match (&f.frozen, f.rollouts) {
                    (Some(_), rollouts) if rollouts > 0 => format!("{rollouts} not finished, standing still: frozen"),
                    (_, rollouts) => format!("{rollouts} not finished"),
                },
            )
            .add("root", role(f.root))
            .add("targets", role(f.targets))
            .add("snapshot", role(f.snapshot))
            .add("timestamp", role(f.timestamp));
        let mut out = facts.text(paint);
        for finding in &self.findings {
            let word = match finding.level {
                Level::Advice => paint.dim("advice:"),
                Level::Warning => paint.yellow("warning:"),
                Level::Critical => paint.red("critical:"),
            };
            let text = ensign_bundle::text::printable(&finding.text, 400);
            // Writing to a string cannot fail.
            let _ = writeln!(out, "\n{word} {text}\n  {} {}", paint.dim("hint:"), finding.hint);
        }
        out
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use super::*;

    pub fn fleet() -> Fleet {
        let role = |expires| RoleState {
            version: 1,
            expires: Time(expires),
        };
        Fleet {
            id: FleetId([9; 32]),
            name: "acme".to_owned(),
            address: "127.0.0.1:7443".to_owned(),
            version: "0.1.0".to_owned(),
            lab: true,
            frozen: None,
            devices: BTreeMap::from([(DeviceState::Approved, 12), (DeviceState::Pending, 1)]),
            connected: 11,
            dark: 0,
            releases: 3,
            rollouts: 1,
            halted: Vec::new(),
            unwell: BTreeMap::new(),
            root: role(1_830_000_000),
            targets: role(1_830_000_000),
            snapshot: role(1_800_500_000),
            timestamp: role(1_800_100_000),
            clock: None,
            unheard: None,
        }
    }

    pub fn halted() -> ensign_api::Halted {
        ensign_api::Halted {
            rollout: ensign_bundle::digest::PlanId([0x1f; 16]),
            product: "app".parse().unwrap(),
            version: "1.2.0".parse().unwrap(),
            reason: ensign_api::Reason {
                code: Code::TooManyFailed,
                text: "the only device of wave 1 failed".to_owned(),
            },
        }
    }

    #[test]
    fn a_key_that_not_all_devices_know_is_said_until_they_do() {
        let now = 1_800_000_000;
        let said = |shown| {
            let mut fleet = fleet();
            fleet.unheard = Some(Unheard {
                key: KeyId([0xab; 32]),
                root: 2,
                shown,
                devices: 3,
            });
            let found = findings(&fleet, now)
                .into_iter()
                .find(|f| f.text.contains("abababababab"));
            found.map(|f| (f.level, f.text))
        };
        let (level, text) = said(false).unwrap();
        assert_eq!(level, Level::Advice);
        assert_eq!(
            text,
            "3 devices not at root 2 yet, which brings the controller's key abababababab, which is next"
        );
        assert_eq!(said(true).unwrap().0, Level::Warning, "they are locked out");
    }

    #[test]
    fn a_quiet_fleet_and_a_bad_night() {
        let now = 1_800_000_000;
        let quiet = Status {
            findings: findings(&fleet(), now),
            fleet: fleet(),
        };
        insta::assert_snapshot!(quiet.table(Paint(false)));
        let mut bad = fleet();
        bad.dark = 2;
        bad.frozen = Some(ensign_api::Frozen {
            since: Time(now - 60),
            reason: String::new(),
            by: "ada".to_owned(),
        });
        bad.timestamp.expires = Time(now - 5);
        bad.targets.expires = Time(now + 3600);
        bad.halted = vec![halted()];
        bad.unwell = BTreeMap::from([(Code::NoSpace, 1), (Code::Unhealthy, 2), (Code::CloneDetected, 1)]);
        bad.clock = Some(ensign_api::Reason {
            code: Code::ClockSuspect,
            text: "the clock of the controller says 2100-01-01T00:00:00Z".to_owned(),
        });
        let findings = findings(&bad, now);
        assert_eq!(findings.iter().filter(|f| f.level == Level::Critical).count(), 3);
        assert_eq!(findings.iter().filter(|f| f.level == Level::Warning).count(), 4);
        insta::assert_snapshot!(Status { fleet: bad, findings }.table(Paint(false)));
    }
}
