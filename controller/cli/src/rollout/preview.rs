//! What a rollout would do, shown before anything is signed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ensign_api::{Device, Frozen, Time};
use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::limits::LEASE_S;
use ensign_bundle::plan::cohort::CutWave;
use ensign_bundle::plan::statements::{Evidence, GateKind};
use ensign_bundle::reason::Code;
use ensign_bundle::text::printable;
use ensign_rollout::WaveBrakes;
use serde::Serialize;

use crate::evidence::Inventory;
use crate::output::{Document, Facts, Grid, Mood, Paint, bar, some_of, terminal_width};
use crate::rollout::draft::Draft;
use crate::rollout::view;
use crate::seen::Changed;
use crate::units;

/// Cells of a wave's bar.
const BAR: usize = 10;
/// Reasons that a person is shown.
const SHOWN: usize = 8;

#[derive(Debug, Serialize)]
pub struct Preview {
    product: Ident,
    version: Version,
    devices: u32,
    waves: Vec<PreviewWave>,
    /// None: not known without the controller.
    bytes: Option<PreviewBytes>,
    soak_s: u64,
    expires: Time,
    /// None: at once.
    start_at: Option<Time>,
    brakes: Brakes,
    /// Nothing starts before the fleet is unfrozen.
    frozen: Option<Frozen>,
    /// Devices that are not what they were when this machine last looked.
    changed: Changed,
    /// Devices that match and will not change, and why.
    refused: Vec<Refused>,
    /// Selected devices that are not connected now: they take part when they return.
    away: Vec<String>,
    /// Rollouts of the product that this one ends on the devices that they share.
    supersedes: Vec<String>,
    /// A wave that could never open the next one, for what its devices run already.
    stuck: Option<Stuck>,
    /// The draw is made anew at the start: who is in which wave is an example.
    example: bool,
    /// The plan file that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    written: Option<Written>,
}

/// A plan file, and the id that its rollout will have.
#[derive(Debug, Serialize)]
struct Written {
    id: PlanId,
    file: PathBuf,
}

/// Too few devices of a wave would take the release: nobody could vouch for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stuck {
    pub wave: u32,
    pub devices: u32,
    /// Those of them that would take it.
    pub taking: u32,
    /// What the gate of the next wave wants to see.
    pub evidence: u32,
    /// What one of the others runs.
    pub running: Version,
    /// Names of the others.
    pub newer: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PreviewWave {
    index: u32,
    devices: u32,
    cumulative: u32,
    /// Receipts of the wave before that a device wants to see.
    evidence: u32,
    /// `auto`, or `manual`: waits for `rollout promote`.
    gate: GateKind,
    /// What halts the rollout while this wave is under way.
    halts: WaveBrakes,
    /// The same in words.
    halts_at: String,
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

/// What holds for every wave; the numbers that differ are with the waves.
#[derive(Debug, Serialize)]
struct Brakes {
    stop_failed: String,
    stop_dark: String,
    stop_min_sample: u32,
    quorum: String,
    reach_s: u64,
    /// None: three check-ins of the controller, at least 30 min.
    dark_after_s: Option<u64>,
    max_parallel: Option<u32>,
    /// A halt reaches connected devices at once and all others within this time.
    lease_s: u64,
}

#[derive(Debug, Serialize)]
struct Refused {
    device: String,
    #[serde(skip)]
    id: Option<DeviceId>,
    code: Code,
    why: String,
    /// What it runs, where that is newer.
    #[serde(skip)]
    newer: Option<Version>,
}

/// What the controller says, only for showing.
#[derive(Debug, Default)]
pub struct Seen {
    pub rows: Vec<Device>,
    pub frozen: Option<Frozen>,
    /// Plain size of the release, bytes; none where nobody could be asked.
    pub bytes: Option<u64>,
    /// Nothing is signed: the start draws anew.
    pub example: bool,
}

impl Preview {
    pub fn of(draft: &Draft<'_>, inventory: &Inventory, seen: &Seen, print_devices: bool) -> Self {
        let (refused, away) = unchanged(draft, inventory, &seen.rows);
        let stuck = stuck(draft, &refused);
        let plan = &draft.plan;
        let sizes: Vec<u32> = draft.cut.iter().map(CutWave::count).collect();
        let brakes = ensign_rollout::brakes(&plan.pace.stop, &sizes);
        let names: BTreeMap<DeviceId, &str> = draft
            .chosen
            .iter()
            .map(|k| (k.member.device, k.member.name.as_str()))
            .collect();
        let mut cumulative = 0u32;
        let waves = draft
            .cut
            .iter()
            .zip(&plan.waves)
            .zip(brakes)
            .map(|((cut, wave), halts)| {
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
                    gate: wave.gate,
                    halts,
                    halts_at: if cut.count() == 0 { String::new() } else { halts.words() },
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
            bytes: seen.bytes.map(|bytes| PreviewBytes {
                per_device: bytes,
                total: bytes.saturating_mul(u64::from(devices)),
            }),
            soak_s: plan.waves.first().map_or(0, |w| w.min_soak_s),
            expires: Time(plan.expires),
            start_at: (plan.not_before > 0).then_some(Time(plan.not_before)),
            brakes: Brakes {
                stop_failed: units::show_bound(stop.failed),
                stop_dark: units::show_bound(stop.dark),
                stop_min_sample: stop.min_sample,
                quorum: units::show_bound(ensign_bundle::plan::statements::Bound::BasisPoints(stop.quorum_bp)),
                reach_s: stop.reach_s,
                dark_after_s: stop.dark_after_s,
                max_parallel: plan.pace.max_parallel,
                lease_s: LEASE_S,
            },
            frozen: seen.frozen.clone(),
            changed: inventory.changed.clone(),
            refused,
            away,
            supersedes: supersedes(draft, &seen.rows),
            stuck,
            example: seen.example,
            written: None,
        }
    }

    /// The plan lies in a file now, for those who sign it.
    pub fn written(&mut self, id: PlanId, file: &Path) {
        self.written = Some(Written {
            id,
            file: file.to_owned(),
        });
    }

    pub fn frozen(&self) -> Option<&Frozen> {
        self.frozen.as_ref()
    }

    pub fn devices(&self) -> u32 {
        self.devices
    }

    /// Why it would halt before its second wave, whatever happens.
    pub fn stuck(&self) -> Option<&Stuck> {
        self.stuck.as_ref()
    }

    /// Where nobody would take the release, because what runs is newer everywhere: one of the versions that run.
    pub fn all_run_newer(&self) -> Option<&Version> {
        let newer: Vec<&Version> = self.refused.iter().filter_map(|r| r.newer.as_ref()).collect();
        let all = u32::try_from(newer.len()).is_ok_and(|n| n == self.devices);
        newer.first().copied().filter(|_| all)
    }
}

/// Open rollouts that list some of the chosen devices, and how many.
fn supersedes(draft: &Draft<'_>, rows: &[Device]) -> Vec<String> {
    let chosen: BTreeSet<DeviceId> = draft.chosen.iter().map(|k| k.member.device).collect();
    let rows: Vec<&Device> = rows.iter().filter(|row| chosen.contains(&row.id)).collect();
    let shared = |id: &PlanId| rows.iter().filter(|row| row.rollouts.contains(id)).count() as u64;
    let open = draft.open.iter().map(|open| (&open.what, shared(&open.id)));
    open.filter(|(_, shared)| *shared > 0)
        .map(|(what, shared)| format!("{what} on {}", units::show_count(shared, "device")))
        .collect()
}

/// The first wave whose devices run something newer, so that too few are left to open the next wave.
fn stuck(draft: &Draft<'_>, refused: &[Refused]) -> Option<Stuck> {
    let waves = draft.cut.iter().zip(&draft.plan.waves);
    let filled: Vec<_> = waves.filter(|(cut, _)| cut.count() > 0).collect();
    filled.windows(2).find_map(|pair| {
        let [(cut, _), (_, next)] = pair else { return None };
        let Evidence::Receipts(evidence) = next.evidence else {
            return None;
        };
        let unchanged = refused
            .iter()
            .filter(|r| cut.members.iter().any(|m| Some(m.device) == r.id));
        let (newer, others): (Vec<&Refused>, Vec<&Refused>) = unchanged.partition(|r| r.newer.is_some());
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let taking = cut.count().saturating_sub(count(newer.len() + others.len()));
        let running = newer.first()?.newer.clone()?;
        (taking < evidence).then(|| Stuck {
            wave: cut.number,
            devices: cut.count(),
            taking,
            evidence,
            running,
            newer: newer.iter().map(|r| r.device.clone()).collect(),
        })
    })
}

impl Stuck {
    /// What would become of it.
    pub fn words(&self) -> String {
        format!(
            "wave {} can never open the next one: {} of {} would take the release and {} must vouch for it ({} runs {}, which is newer)",
            self.wave,
            self.taking,
            units::show_count(u64::from(self.devices), "device"),
            self.evidence,
            some_of(&self.newer),
            self.running
        )
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
            id: None,
            code: refusal.code,
            why: format!("left out, the evidence does not hold: {}", refusal.text),
            newer: None,
        })
        .collect();
    refused.extend(draft.left_out.iter().map(|out| {
        Refused {
            device: out.name.clone(),
            id: None,
            code: out.why,
            newer: None,
            why: match out.why {
                Code::Suspended => "left out, suspended (`ensign device unsuspend DEVICE`)",
                Code::Pending => "left out, waiting for approval (`ensign device accept DEVICE`)",
                _ => "left out by --exclude",
            }
            .to_owned(),
        }
    }));
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
        let cloned = row.reason.as_ref().is_some_and(|r| r.code == Code::CloneDetected);
        let (code, why) = match running {
            _ if cloned => (
                Code::CloneDetected,
                "held, another copy of it connected (`ensign device why DEVICE`)".to_owned(),
            ),
            _ if row.denied.contains(&plan.release.manifest) => (
                Code::Denied,
                "refuses: this release failed on it before; on the device `ensign-agent clear-denied`, or a higher version"
                    .to_owned(),
            ),
            _ if row.held => (
                Code::Held,
                "held by an operator (`ensign device unhold DEVICE`)".to_owned(),
            ),
            Some(version) if newer && plan.downgrade.is_none() => (
                Code::NewerInstalled,
                format!("unchanged, running {version}, which is newer"),
            ),
            _ if !row.connected => {
                away.push(known.member.name.clone());
                continue;
            }
            _ => continue,
        };
        refused.push(Refused {
            device: known.member.name.clone(),
            id: Some(known.member.device),
            code,
            why,
            newer: running.filter(|_| code == Code::NewerInstalled).cloned(),
        });
    }
    (refused, away)
}

/// One line for all devices with the same fate.
fn alike(refused: &[Refused]) -> Vec<String> {
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for r in refused {
        match groups.iter_mut().find(|(why, _)| *why == r.why) {
            Some((_, names)) => names.push(r.device.clone()),
            None => groups.push((&r.why, vec![r.device.clone()])),
        }
    }
    let line = |(why, names): &(&str, Vec<String>)| {
        let count = units::show_count(names.len() as u64, "device");
        format!("{count} {}: {}", printable(why, 200), some_of(names))
    };
    groups.iter().map(line).collect()
}

/// When a wave opens, in words.
fn opens(wave: &PreviewWave, soak_s: u64) -> String {
    let opens = match (wave.devices, wave.evidence, soak_s) {
        (0, ..) => "adds nobody".to_owned(),
        (_, 0, _) if wave.cumulative == wave.devices => "at once".to_owned(),
        (_, 0, _) => "with the wave before".to_owned(),
        (_, m, 0) => format!("after {m} healthy"),
        (_, m, s) => format!("after {m} healthy for {}", units::show_seconds(s)),
    };
    match wave.gate {
        GateKind::Auto => opens,
        GateKind::Manual => format!("{opens}, by promote"),
    }
}

impl Document for Preview {
    fn table(&self, paint: Paint) -> String {
        let mut grid = Grid::new(&["WAVE", "DEVICES", "", "OPENS", "HALTS AT"], paint)
            .right(&[0, 1])
            .sentences(terminal_width());
        for w in &self.waves {
            let opens = opens(w, self.soak_s);
            grid.row([
                (&*w.index.to_string(), Mood::Plain),
                (&w.devices.to_string(), Mood::Plain),
                (&bar(u64::from(w.cumulative), u64::from(self.devices), BAR), Mood::Good),
                (&opens, Mood::Plain),
                (&w.halts_at, Mood::Plain),
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
                match &self.bytes {
                    Some(bytes) => format!(
                        "at most {} a device, {} in all",
                        units::show_bytes(bytes.per_device),
                        units::show_bytes(bytes.total)
                    ),
                    None => "not known without the controller".to_owned(),
                },
            )
            .add(
                "brakes",
                format!(
                    "counted over the whole rollout; dark: took the update, then silent for {}",
                    brakes.dark_after_s.map_or_else(
                        || "30m (or 3 check-ins, if that is longer)".to_owned(),
                        units::show_seconds
                    )
                ),
            )
            .add(
                "a wave",
                format!(
                    "waits {} for devices that are not connected; they update when they return",
                    units::show_seconds(brakes.reach_s)
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
            facts.add(
                "at once",
                format!("at most {}", units::show_count(u64::from(most), "device")),
            );
        }
        let mut out = format!("{}\n{}", facts.text(paint), grid.text());
        // Writing to a string cannot fail.
        for w in self.waves.iter().filter(|w| !w.names.is_empty()) {
            let names: Vec<String> = w.names.iter().map(|n| printable(n, 63)).collect();
            let example = if self.example { ", for example" } else { "" };
            let _ = writeln!(out, "wave {}{example}: {}", w.index, names.join(" "));
        }
        let note = paint.yellow("note:");
        if self.example && self.waves.iter().filter(|w| w.devices > 0).count() > 1 {
            let _ = writeln!(
                out,
                "{note} the start draws anew who comes first; --canary EXPR makes the first wave exactly those"
            );
        }
        if let Some(since) = self.changed.since {
            for (what, who) in self.changed.lines() {
                let _ = writeln!(out, "{note} {what} since {since}: {who}");
            }
        }
        let lines = alike(&self.refused);
        for line in lines.iter().take(SHOWN) {
            let _ = writeln!(out, "{note} {line}");
        }
        if lines.len() > SHOWN {
            let _ = writeln!(out, "{note} {} more reasons: -o json names all", lines.len() - SHOWN);
        }
        if !self.away.is_empty() {
            let _ = writeln!(
                out,
                "{note} {} not connected now, taking part on return: {}",
                units::show_count(self.away.len() as u64, "device"),
                some_of(&self.away)
            );
        }
        for rollout in &self.supersedes {
            let _ = writeln!(out, "{note} takes the place of the rollout {rollout}");
        }
        if let Some(stuck) = &self.stuck {
            let _ = writeln!(out, "{} {}", paint.red("refused:"), stuck.words());
        }
        if let Some(frozen) = &self.frozen {
            let warning = paint.red("frozen:");
            let _ = writeln!(
                out,
                "{warning} {}; nothing starts until: {}",
                view::said(frozen),
                paint.bold("`ensign fleet unfreeze`")
            );
        }
        if let Some(written) = &self.written {
            let next = format!("ensign rollout sign {}", written.file.display());
            let _ = writeln!(out, "\nNext, each key holder: {}", paint.bold(&next));
        }
        out
    }
}

#[cfg(test)]
mod tests;
