//! What a release must answer during its trial.

use ensign_apply::{Component, Policy};
use ensign_bundle::manifest::{CONTROLLER_WITHIN_S, Manifest, Probe};
use ensign_bundle::plan::statements::HealthBounds;
use ensign_bundle::reason::Refusal;
use ensign_bundle::refuse;

use crate::ipc::{ToRunner, UnitVerb};

/// Longest run of one probe, seconds.
const PROBE_S: u64 = 10;

/// One question of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Ask(ToRunner),
    /// An authenticated connection to the controller within so many seconds of the switch.
    Controller {
        within_s: u64,
    },
    /// Never passes: what was to be asked is not known.
    Never(String),
}

impl Check {
    /// What it is called where it fails.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Ask(ToRunner::Unit { name, .. }) => name.clone(),
            Self::Ask(ToRunner::Exec { component, args, .. }) => {
                format!("{component}/{}", args.first().map_or("", String::as_str))
            }
            Self::Ask(ToRunner::Tcp { address, .. }) => address.clone(),
            Self::Ask(ToRunner::Http { url, .. }) => url.clone(),
            Self::Ask(ToRunner::LabelsChanged) => "labels".to_owned(),
            Self::Controller { .. } => "controller".to_owned(),
            Self::Never(reason) => reason.clone(),
        }
    }
}

/// The checks of a release: its probes, then that its units are active. Where `network` stands or falls with the product, the
/// controller must be reached too.
pub(super) fn of(manifest: &Manifest, components: &[Component], network: bool) -> Vec<Check> {
    let named = &manifest.health.probes;
    let asks_controller = named.iter().any(|probe| matches!(probe, Probe::Controller { .. }));
    let default = (network && !asks_controller).then_some(Probe::Controller {
        within_s: CONTROLLER_WITHIN_S,
    });
    let probes = named.iter().chain(&default).map(|probe| match probe {
        Probe::Exec { component, path, args } => {
            let mut argv = vec![path.as_str().to_owned()];
            argv.extend(args.iter().cloned());
            Check::Ask(ToRunner::Exec {
                component: component.to_string(),
                args: argv,
                product: manifest.product.to_string(),
                version: manifest.version.to_string(),
                timeout_s: PROBE_S,
            })
        }
        Probe::Unit { unit } => is_active(unit),
        Probe::Controller { within_s } => Check::Controller { within_s: *within_s },
        Probe::Http { url } => Check::Ask(ToRunner::Http {
            url: url.clone(),
            timeout_s: PROBE_S,
        }),
        Probe::Tcp { address } => Check::Ask(ToRunner::Tcp {
            address: address.clone(),
            timeout_s: PROBE_S,
        }),
    });
    let mut checks: Vec<Check> = probes.collect();
    for unit in components.iter().flat_map(|c| &c.units) {
        let check = is_active(unit);
        if !checks.contains(&check) {
            checks.push(check);
        }
    }
    checks
}

/// Refuses a release with a kind of component that this version cannot serve.
pub(super) fn supported(manifest: &Manifest) -> Result<(), Refusal> {
    for component in &manifest.components {
        if component.kind != ensign_bundle::manifest::Kind::Tree {
            return refuse!(
                AgentTooOld,
                "this agent cannot install kind {} (component {})",
                component.kind.name(),
                component.name
            );
        }
    }
    Ok(())
}

/// The numbers of the trial. A plan may tighten them only.
pub(super) fn policy(manifest: &Manifest, bounds: Option<&HealthBounds>, network: bool) -> Policy {
    let health = &manifest.health;
    // Tighter is a longer window and a nearer deadline.
    let window_s = bounds.map_or(health.window_s, |b| b.window_s.max(health.window_s));
    let deadline_s = bounds.map_or(health.deadline_s, |b| b.deadline_s.min(health.deadline_s));
    Policy {
        window_ms: window_s * 1000,
        deadline_ms: deadline_s.max(window_s) * 1000,
        probed: network || !health.probes.is_empty() || manifest.components.iter().any(|c| !c.units.is_empty()),
    }
}

fn is_active(unit: &str) -> Check {
    Check::Ask(ToRunner::Unit {
        verb: UnitVerb::IsActive,
        name: unit.to_owned(),
    })
}
