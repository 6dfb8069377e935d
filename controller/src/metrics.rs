//! `/metrics`: derived from state when it is asked for, so nothing is counted twice and nothing ticks.

use std::fmt;
use std::sync::atomic::Ordering;

use ensign_api::{DeviceState, DeviceStatus, RolloutState};
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::core::{Parts, State};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    name: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabels {
    state: &'static str,
    status: &'static str,
}

/// The text of `/metrics`.
pub fn text(state: &State, parts: &Parts) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ensign");
    let devices = Family::<DeviceLabels, Gauge>::default();
    for row in state.devices.values() {
        let view = state.view_device(row);
        let labels = DeviceLabels {
            state: DeviceState::name(view.state),
            status: DeviceStatus::name(view.status),
        };
        devices.get_or_create(&labels).inc();
    }
    registry.register("devices", "Devices by standing and status", devices);
    gauge(
        &mut registry,
        "devices_connected",
        "Devices with a connection",
        state.sessions.count() as u64,
    );
    let rollouts = Family::<Named, Gauge>::default();
    for rollout in state.view_rollouts().unwrap_or_default() {
        let name = RolloutState::name(rollout.state);
        rollouts.get_or_create(&Named { name }).inc();
    }
    registry.register("rollouts", "Rollouts by state", rollouts);
    gauge(
        &mut registry,
        "releases",
        "Published releases",
        state.releases.len() as u64,
    );
    gauge(
        &mut registry,
        "frozen",
        "1 while the fleet is frozen",
        u64::from(state.frozen().is_some()),
    );
    let roles = Family::<Named, Gauge>::default();
    let root = state.roles.root();
    let expiries = [
        ("root", root.expires),
        ("targets", state.roles.targets.expires),
        ("snapshot", state.roles.snapshot.expires),
        ("timestamp", state.roles.timestamp.expires),
    ];
    for (name, expires) in expiries {
        roles
            .get_or_create(&Named { name })
            .set(i64::try_from(expires).unwrap_or(i64::MAX));
    }
    registry.register("role_expires", "Expiry of each role, unix seconds", roles);
    let sent = Counter::<u64>::default();
    sent.inc_by(parts.bytes_sent.load(Ordering::Relaxed));
    registry.register_with_unit(
        "sent",
        "Records sent to devices since the start, with framing",
        Unit::Bytes,
        sent,
    );
    let commits = Counter::<u64>::default();
    commits.inc_by(state.commits);
    registry.register("commits", "Commits to the ledger since the start", commits);
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}
