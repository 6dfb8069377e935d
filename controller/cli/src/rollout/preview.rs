//! What a rollout would do, shown before anything is signed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ensign_api::{Device, Time};
use ensign_bundle::digest::DeviceId;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::limits::LEASE_S;
use ensign_bundle::plan::statements::Evidence;
use ensign_bundle::text::printable;
use serde::Serialize;

use crate::evidence::Inventory;
use crate::output::{Document, Facts, Grid, Mood, Paint, bar, some_of};
use crate::rollout::draft::Draft;
use crate::units;

/// Cells of a wave's bar.
const BAR: usize = 20;
/// Lines and names of one sort that a person is shown.
const SHOWN: usize = 8;

#[derive(Debug, Serialize)]
pub struct Preview {
    product: Ident,
    version: Version,
    devices: u32,
    waves: Vec<PreviewWave>,
    bytes: PreviewBytes,
    soak_s: u64,
    expires: Time,
    /// None: at once.
    start_at: Option<Time>,
    brakes: Brakes,
    /// Devices that will not change, and why.
    refused: Vec<Refused>,
    /// Selected devices that are not connected now: they take part when they return.
    away: Vec<String>,
    /// Rollouts of the product that this one ends on the devices that they share.
    supersedes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PreviewWave {
    index: u32,
    devices: u32,
    cumulative: u32,
    /// Receipts of the wave before that a device wants to see.
    evidence: u32,
    /// With `--print-devices`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
}

/// What would be sent at most: nothing of it is on a device already.
#[derive(Debug, Serialize)]
struct PreviewBytes {
    per_device: u64,
    total: u64,
}

#[derive(Debug, Serialize)]
struct Brakes {
    stop_failed: String,
    stop_dark: String,
    stop_min_sample: u32,
    quorum: String,
    reach_s: u64,
    max_parallel: Option<u32>,
    /// A halt reaches connected devices at once and all others within this time.
    lease_s: u64,
}

#[derive(Debug, Serialize)]
struct Refused {
    device: String,
    why: String,
    /// What it runs, where that is newer.
    #[serde(skip)]
    newer: Option<Version>,
}

impl Preview {
    /// `rows`: what the controller says of devices; only for showing. `plain`: bytes of the release.
    pub fn of(draft: &Draft<'_>, inventory: &Inventory, rows: &[Device], plain: u64, print_devices: bool) -> Self {
        let (refused, away) = unchanged(draft, inventory, rows);
        let plan = &draft.plan;
        let names: BTreeMap<DeviceId, &str> = draft
            .chosen
            .iter()
            .map(|k| (k.member.device, k.member.name.as_str()))
            .collect();
        let mut cumulative = 0u32;
        let waves = draft.cut.iter().zip(&plan.waves).map(|(cut, wave)| {
            cumulative = cumulative.saturating_add(cut.count());
            let listed = cut.members.iter().filter(|_| print_devices);
            PreviewWave {
                index: cut.number,
                devices: cut.count(),
                cumulative,
                evidence: match wave.evidence {
                    Evidence::Receipts(m) => m,
                    Evidence::Dwell => 0,
                },
                names: listed
                    .filter_map(|m| names.get(&m.device))
                    .map(|name| (*name).to_owned())
                    .collect(),
            }
        });
        let waves: Vec<PreviewWave> = waves.collect();
        let stop = &plan.pace.stop;
        let devices = u32::try_from(draft.chosen.len()).unwrap_or(u32::MAX);
        Self {
            product: plan.product.clone(),
            version: plan.release.version.clone(),
            devices,
            waves,
            bytes: PreviewBytes {
                per_device: plain,
                total: plain.saturating_mul(u64::from(devices)),
            },
            soak_s: plan.waves.first().map_or(0, |w| w.min_soak_s),
            expires: Time(plan.expires),
            start_at: (plan.not_before > 0).then_some(Time(plan.not_before)),
            brakes: Brakes {
                stop_failed: units::show_bound(stop.failed),
                stop_dark: units::show_bound(stop.dark),
                stop_min_sample: stop.min_sample,
                quorum: units::show_bound(ensign_bundle::plan::statements::Bound::BasisPoints(stop.quorum_bp)),
                reach_s: stop.reach_s,
                max_parallel: plan.pace.max_parallel,
                lease_s: LEASE_S,
            },
            refused,
            away,
            supersedes: draft.supersedes.clone(),
        }
    }

    pub fn devices(&self) -> u32 {
        self.devices
    }

    /// Where nobody would take the release, because what runs is newer everywhere: one of the versions that run.
    pub fn all_run_newer(&self) -> Option<&Version> {
        let newer: Vec<&Version> = self.refused.iter().filter_map(|r| r.newer.as_ref()).collect();
        let all = u32::try_from(newer.len()).is_ok_and(|n| n == self.devices);
        newer.first().copied().filter(|_| all)
    }
}

/// Who will not change, and who is not there now.
fn unchanged(draft: &Draft<'_>, inventory: &Inventory, rows: &[Device]) -> (Vec<Refused>, Vec<String>) {
    let plan = &draft.plan;
    let mut refused: Vec<Refused> = inventory
        .refused
        .iter()
        .map(|(name, refusal)| Refused {
            device: name.clone(),
            why: format!("left out, its evidence does not hold: {}", refusal.text),
            newer: None,
        })
        .collect();
    let mut away = Vec::new();
    let rows: BTreeMap<DeviceId, &Device> = rows.iter().map(|r| (r.id, r)).collect();
    for known in &draft.chosen {
        let Some(row) = rows.get(&known.member.device) else {
            continue;
        };
        let running = row.products.get(&plan.product).map(|i| &i.version);
        let newer = running
            .and_then(Version::counter)
            .is_some_and(|c| c > plan.release.counter);
        let why = match running {
            _ if row.held => "held by an operator".to_owned(),
            Some(version) if newer && plan.downgrade.is_none() => format!("runs {version}, which is newer"),
            _ if !row.connected => {
                away.push(known.member.name.clone());
                continue;
            }
            _ => continue,
        };
        refused.push(Refused {
            device: known.member.name.clone(),
            why,
            newer: running
                .filter(|_| newer && plan.downgrade.is_none() && !row.held)
                .cloned(),
        });
    }
    (refused, away)
}

/// When a wave opens, in words.
fn opens(wave: &PreviewWave, soak_s: u64) -> String {
    match (wave.devices, wave.evidence, soak_s) {
        (0, ..) => "adds nobody".to_owned(),
        (_, 0, _) if wave.cumulative == wave.devices => "at once".to_owned(),
        (_, 0, _) => "with the wave before".to_owned(),
        (_, m, 0) => format!("after {m} healthy"),
        (_, m, s) => format!("after {m} healthy for {}", units::show_seconds(s)),
    }
}

impl Document for Preview {
    fn table(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["WAVE", "DEVICES", "", "OPENS"], paint).right(&[0, 1]);
        for w in &self.waves {
            let opens = opens(w, self.soak_s);
            grid.row([
                (&*w.index.to_string(), Mood::Plain),
                (&w.devices.to_string(), Mood::Plain),
                (&bar(u64::from(w.cumulative), u64::from(self.devices), BAR), Mood::Good),
                (&opens, Mood::Plain),
            ]);
        }
        let brakes = &self.brakes;
        let mut facts = Facts::new();
        facts
            .add(
                "rollout",
                format!(
                    "{}@{} to {}",
                    self.product,
                    self.version,
                    units::show_count(u64::from(self.devices), "device")
                ),
            )
            .add(
                "bytes",
                format!(
                    "at most {} a device, {} in all",
                    units::show_bytes(self.bytes.per_device),
                    units::show_bytes(self.bytes.total)
                ),
            )
            .add(
                "halts at",
                format!(
                    "{} failed, {} dark (percentages from {} finished), below {} healthy in a wave",
                    brakes.stop_failed, brakes.stop_dark, brakes.stop_min_sample, brakes.quorum
                ),
            )
            .add(
                "a halt",
                format!(
                    "reaches connected devices at once, all others within {}",
                    units::show_seconds(brakes.lease_s)
                ),
            )
            .add("valid until", self.expires.to_string());
        if let Some(time) = self.start_at {
            facts.add("starts", time.to_string());
        }
        if let Some(most) = brakes.max_parallel {
            facts.add("at once", format!("at most {most} devices"));
        }
        let mut out = format!("{}\n{}", facts.text(paint), grid.text());
        // Writing to a string cannot fail.
        for w in self.waves.iter().filter(|w| !w.names.is_empty()) {
            let names: Vec<String> = w.names.iter().map(|n| printable(n, 63)).collect();
            let _ = writeln!(out, "wave {}: {}", w.index, names.join(" "));
        }
        let note = paint.yellow("note:");
        for r in self.refused.iter().take(SHOWN) {
            let _ = writeln!(out, "{note} {}: {}", printable(&r.device, 63), printable(&r.why, 200));
        }
        if self.refused.len() > SHOWN {
            let _ = writeln!(out, "{note} {} more like these", self.refused.len() - SHOWN);
        }
        if !self.away.is_empty() {
            let _ = writeln!(
                out,
                "{note} not connected now, taking part when they return: {}",
                some_of(&self.away)
            );
        }
        for rollout in &self.supersedes {
            let _ = writeln!(
                out,
                "{note} takes the place of the rollout {rollout} on the devices they share"
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use ensign_api::DeviceStatus;
    use ensign_bundle::reason::{Code, Refusal};

    use super::*;
    use crate::device::tests::device;
    use crate::rollout::draft::{draft, tests as fixture};

    #[test]
    fn says_who_how_much_and_what_stops_it() {
        let mut inventory = fixture::inventory(12);
        let refusal = Refusal::new(Code::NotAuthorised, "the binding is for another token");
        inventory.refused.push(("evil\u{1b}[2J".to_owned(), refusal));
        let words = fixture::words(|s| s.max_parallel = Some(4));
        let mut drafted = draft(
            &words,
            &inventory,
            &fixture::release(),
            &fixture::root(None),
            &fixture::moment(),
        )
        .unwrap();
        drafted.supersedes.push("1f1f1f1f (halted)".to_owned());
        let mut row = device(0, "dev0", "1.0.0", DeviceStatus::Idle);
        (row.id, row.connected) = (drafted.chosen[0].member.device, false);
        let mut ahead = device(0, "dev1", "9.0.0", DeviceStatus::Idle);
        ahead.id = drafted.chosen[1].member.device;
        let preview = Preview::of(&drafted, &inventory, &[row, ahead], 56_340_000, false);
        insta::assert_snapshot!(preview.table(Paint(false)));
        let listed = Preview::of(&drafted, &inventory, &[], 0, true);
        assert_eq!(listed.waves.iter().map(|w| w.names.len()).sum::<usize>(), 12);
    }
}
