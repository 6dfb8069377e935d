//! What to type next. A hint is one or more steps separated by `; `: a command, or words, a colon and a command.

use ensign_bundle::digest::{DeviceId, PlanId};
use ensign_bundle::effect::Effect;
use ensign_bundle::ids::Label;
use ensign_bundle::reason::Code;

use crate::event::DeviceState;
use crate::fleet::{Device, Fleet};
use crate::index;
use crate::member::{Member, Outcome};
use crate::rollout::{Rollout, Stage};
use crate::rules;

/// Digits of an id that people are shown.
const SHORT: usize = 12;
/// Most devices that a selector names.
const NAMED: usize = 8;

/// The first digits of a rollout's id: enough for every command.
pub(crate) fn short(id: &PlanId) -> String {
    id.to_string().chars().take(SHORT).collect()
}

/// How commands name a rollout: by its product where it is the newest of it.
fn named(fleet: &Fleet, rollout: &Rollout) -> String {
    let newer = |r: &Rollout| r.spec.product == rollout.spec.product && r.order > rollout.order;
    if fleet.rollouts.values().any(newer) {
        short(&rollout.id)
    } else {
        rollout.spec.product.to_string()
    }
}

/// For a rollout in its present state; empty where there is nothing to do but to wait.
pub(crate) fn of_rollout(fleet: &Fleet, rollout: &Rollout, waits: Option<Code>) -> String {
    let name = named(fleet, rollout);
    let see = format!("see why: `ensign rollout why --rollout {name}`");
    let remedy = go_back(fleet, rollout).unwrap_or_else(|| remedy(rollout));
    let end = format!("or end it: `ensign rollout abort {name} --keep`");
    match &rollout.stage {
        Stage::Running => match waits {
            Some(Code::Frozen) => "`ensign fleet unfreeze`".to_owned(),
            Some(Code::GateNotOpen) => format!("open the next wave: `ensign rollout promote {name}`; {end}"),
            _ => String::new(),
        },
        Stage::Paused { .. } => format!("go on: `ensign rollout resume {name}`; {end}"),
        Stage::Halted { reason, .. } if reason.code == Code::PlanLost => format!(
            "bring the same release again: {}; or put metadata/ of the controller back from a backup, start it, and go on: `ensign rollout resume {name}`; {end}",
            again(rollout)
        ),
        Stage::Halted { .. } if rules::dead_end(rollout).is_some() => format!("{see}; {remedy}; {end}"),
        Stage::Halted { .. } => {
            format!("{see}; accept that and go on: `ensign rollout resume {name}`; {remedy}; {end}")
        }
        // An operator ended what was well: nothing is to be mended.
        Stage::Aborted { .. } if rollout.counts().failed == 0 => format!("to bring it after all: {}", again(rollout)),
        Stage::Aborted { .. } | Stage::Reverting { .. } | Stage::Reverted { .. } => {
            if rollout.counts().failed > 0 {
                remedy
            } else {
                mend(rollout)
            }
        }
        Stage::Superseded { by, .. } => format!("the one that counts: `ensign rollout status {}`", short(by)),
        Stage::Expired { .. } => format!("again for those that are left: {}", again(rollout)),
        Stage::Done { .. } if rollout.counts().failed > 0 => format!("{see}; {remedy}"),
        Stage::Done { .. } => String::new(),
    }
}

/// The gate waits for devices that run something newer: they go back on purpose, or it starts without them.
fn go_back(fleet: &Fleet, rollout: &Rollout) -> Option<String> {
    let Stage::Halted { reason, .. } = &rollout.stage else {
        return None;
    };
    let members = rollout.members().filter_map(|(id, _)| Some((id, fleet.device(id)?)));
    let newer: Vec<_> = members.filter(|(_, d)| index::runs_newer(rollout, d)).collect();
    if reason.code != Code::EvidenceMissing || newer.is_empty() {
        return None;
    }
    let again = again(rollout);
    let start = again.trim_end_matches('`');
    let back = format!("to go back on purpose: {start} --allow-downgrade --reason TEXT`");
    if newer.len() > NAMED || newer.iter().any(|(_, d)| !is_plain(fleet, d)) || start.contains("--select '") {
        return Some(format!(
            "{back}; or without those that run something newer: {start} --exclude EXPR`"
        ));
    }
    let names: Vec<&str> = newer.iter().map(|(_, d)| d.name.as_str()).collect();
    let spec = &rollout.spec;
    Some(format!(
        "{back}; or without those that run something newer: `ensign rollout start --product {} --version {} --select 'not name in ({})'`",
        spec.product,
        spec.version,
        names.join(", ")
    ))
}

/// What helps the devices that failed: another release where this one is at fault, else the same one again.
fn remedy(rollout: &Rollout) -> String {
    let blamed = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Failed { reason, .. }) if reason.code.effect() == Effect::Release);
    if rollout.members().any(|(_, m)| blamed(&m.outcome)) {
        mend(rollout)
    } else {
        format!(
            "once the devices are put right, bring the same release again: {}",
            again(rollout)
        )
    }
}

fn mend(rollout: &Rollout) -> String {
    format!(
        "mend it and bring a higher version: `ensign rollout start --product {} --version NEW`",
        rollout.spec.product
    )
}

/// The command that brings the same release to the same devices by a new plan.
fn again(rollout: &Rollout) -> String {
    let spec = &rollout.spec;
    let mut select = spec.select.clone();
    for excluded in &spec.exclude {
        select = match select.as_str() {
            "" | "all" => format!("not ({excluded})"),
            _ => format!("({select}) and not ({excluded})"),
        };
    }
    let select = match select.as_str() {
        // A selector with a quote in it cannot stand between quotes: the preview shows whom the product's own one means.
        quoted if quoted.contains('\'') => String::new(),
        "" => String::new(),
        "all" => " --select all".to_owned(),
        _ => format!(" --select '{select}'"),
    };
    format!(
        "`ensign rollout start --product {} --version {}{select}`",
        spec.product, spec.version
    )
}

/// For a device that `code` keeps from what the rollout brings.
pub(crate) fn of_device(
    fleet: &Fleet,
    rollout: Option<&Rollout>,
    known: Option<&Device>,
    device: &DeviceId,
    code: Code,
) -> String {
    let Some(d) = known else {
        return "`ensign device ls`".to_owned();
    };
    let name = word(fleet, d, device);
    match code {
        Code::Pending => format!("`ensign device accept {name}`"),
        Code::Suspended => format!("`ensign device unsuspend {name}`"),
        Code::Held => format!("`ensign device unhold {name}`"),
        Code::CloneDetected => {
            let genuine = match d.state {
                DeviceState::Suspended => format!("`ensign device unsuspend {name}`"),
                _ => format!("`ensign device accept {name}`"),
            };
            format!(
                "if it was restored from a backup: {genuine}; else, and the genuine one joins again: `ensign device revoke {name}`"
            )
        }
        Code::Revoked => "that is for ever, it may join anew: `ensign token create`".to_owned(),
        Code::NoRollout => "`ensign release ls`; `ensign rollout start --product PRODUCT --version VERSION`".to_owned(),
        Code::Frozen => "`ensign fleet unfreeze`".to_owned(),
        Code::UpToDate => "nothing to do".to_owned(),
        Code::Locked => "on the device: `ensign-agent unlock`".to_owned(),
        Code::Offline => format!("see whether it has power and network: `ensign device show {name}`"),
        _ => match rollout {
            Some(rollout) => in_rollout(fleet, rollout, device, &name, code),
            None => code.hint().to_owned(),
        },
    }
}

fn in_rollout(fleet: &Fleet, rollout: &Rollout, device: &DeviceId, name: &str, code: Code) -> String {
    let this = named(fleet, rollout);
    let (product, version) = (&rollout.spec.product, &rollout.spec.version);
    let alone = select(fleet, device);
    let again =
        format!("bring it again: `ensign rollout start --product {product} --version {version} --select '{alone}'`");
    match code {
        Code::NotInPlan if rollout.serves() => {
            format!(
                "bring it there too: `ensign rollout start --product {product} --version {version} --select '{alone}'`"
            )
        }
        Code::NotInPlan => format!("`ensign rollout start --product {product} --version NEW --select '{alone}'`"),
        Code::NewerInstalled => format!(
            "to go back on purpose: `ensign rollout start --product {product} --version {version} --select '{alone}' --allow-downgrade --reason TEXT`"
        ),
        Code::NoSpace => format!("free space on it, then {again}"),
        Code::Denied => format!("on the device: `ensign-agent clear-denied`; then {again}"),
        Code::OperatorRollback => format!(
            "somebody on the device went back, to update it after all, on the device: `ensign-agent clear-denied`; then {again}"
        ),
        Code::Dark => {
            let look = format!("power it on, it goes on by itself: `ensign device show {name}`");
            let holds_slot = rollout.member(device).is_some_and(Member::in_flight);
            if holds_slot && rollout.spec.pace.max_parallel.is_some() {
                format!("{look}; or give its slot to others: `ensign rollout release {this} {name}`")
            } else {
                look
            }
        }
        Code::InProgress
        | Code::WaveWaiting
        | Code::Soaking
        | Code::AtCapacity
        | Code::NotYet
        | Code::LeaseMissing
        | Code::OutsideWindow
        | Code::ClockSuspect => {
            format!("`ensign rollout status {this} -w`")
        }
        Code::GateNotOpen => format!("`ensign rollout promote {this}`"),
        Code::Superseded => match fleet.device(device).and_then(|d| d.newest.get(product)) {
            Some(newest) => format!("`ensign rollout why {name} --rollout {}`", short(newest)),
            None => "`ensign rollout ls`".to_owned(),
        },
        // What stops the rollout stops the device.
        Code::Paused
        | Code::TooManyFailed
        | Code::TooManyDark
        | Code::QuorumNotReached
        | Code::EvidenceMissing
        | Code::PlanLost
        | Code::Aborted
        | Code::Reverted
        | Code::PlanExpired => of_rollout(fleet, rollout, None),
        // It failed by itself.
        _ if code.effect() == Effect::Release => {
            format!("what it says: `ensign device show {name}`; {}", mend(rollout))
        }
        _ => format!("what it says: `ensign device show {name}`; once that is put right, {again}"),
    }
}

/// A device as a word of a command: its name where that is one word and no other device's, else its id.
fn word(fleet: &Fleet, d: &Device, device: &DeviceId) -> String {
    if is_plain(fleet, d) {
        d.name.clone()
    } else {
        device.to_string().chars().take(SHORT).collect()
    }
}

/// A selector that means one device.
fn select(fleet: &Fleet, device: &DeviceId) -> String {
    match fleet.device(device) {
        Some(d) if is_plain(fleet, d) => format!("name = {}", d.name),
        _ => format!("id = {device}"),
    }
}

/// One word, and no other living device's.
fn is_plain(fleet: &Fleet, d: &Device) -> bool {
    let others = fleet
        .devices
        .values()
        .filter(|o| o.state != DeviceState::Revoked && o.name == d.name);
    Label::parse(&d.name).is_ok() && d.state != DeviceState::Revoked && others.count() == 1
}
