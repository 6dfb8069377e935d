//! The stop rules as they will hold in each wave of a plan: what a preview shows. [`crate::rules`] is what decides.

use ensign_bundle::plan::statements::{Bound, Stop};
use ensign_bundle::words::show_share;
use serde::{Deserialize, Serialize};

use crate::rules::CONTROL_AT_LEAST;

/// All of something, basis points.
const ALL_BP: u64 = 10_000;

/// What halts a rollout while a wave is under way. Failed and dark devices are counted over the whole rollout since its last resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaveBrakes {
    /// From 1.
    pub wave: u32,
    /// Devices of the wave alone.
    pub devices: u32,
    pub failed: Brake,
    pub dark: Brake,
    /// Fewer healthy ones than this, of all devices of the wave reached and not held, halt it at its end.
    pub healthy: u32,
}

/// A number of devices, and the share that takes its place once enough have finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brake {
    /// This many halt it.
    pub at: u32,
    /// From `min_sample` finished on: this share of them, basis points; none = the sample is never reached.
    pub share_bp: Option<u32>,
    pub min_sample: u32,
}

/// The brakes of a plan with waves of these sizes.
pub fn brakes(stop: &Stop, sizes: &[u32]) -> Vec<WaveBrakes> {
    let total: u32 = sizes.iter().copied().fold(0, u32::saturating_add);
    let mut before = 0u32;
    let mut brakes = Vec::with_capacity(sizes.len());
    for (size, wave) in sizes.iter().zip(1u32..) {
        let finished = before.saturating_add(*size);
        let sampled = finished >= stop.min_sample.max(1);
        // Who was not offered anything when the wave opened.
        let control = total - before >= CONTROL_AT_LEAST;
        let small = if *size == 1 { 1 } else { 2 };
        let brake = |bound: Bound, share: bool| match bound {
            Bound::Count(limit) => Brake {
                at: limit.max(1),
                share_bp: None,
                min_sample: stop.min_sample,
            },
            Bound::BasisPoints(bp) => Brake {
                at: small,
                share_bp: share.then_some(bp),
                min_sample: stop.min_sample,
            },
        };
        brakes.push(WaveBrakes {
            wave,
            devices: *size,
            failed: brake(stop.failed, sampled),
            dark: brake(stop.dark, sampled && control),
            healthy: quorum(*size, stop.quorum_bp),
        });
        before = finished;
    }
    brakes
}

/// The smallest number of `of` that is at least the share.
fn quorum(of: u32, bp: u32) -> u32 {
    let healthy = (u64::from(of) * u64::from(bp)).div_ceil(ALL_BP);
    u32::try_from(healthy).unwrap_or(of)
}

impl WaveBrakes {
    /// `2 failed or 2 dark, or below 9 of 10 healthy`.
    pub fn words(&self) -> String {
        let (failed, dark) = (self.failed, self.dark);
        let sample = failed.min_sample;
        let shares = match (failed.share_bp, dark.share_bp) {
            (Some(f), Some(d)) => format!(
                " ({} failed or {} dark from {sample} finished on)",
                show_share(f),
                show_share(d)
            ),
            (Some(f), None) => format!(" ({} failed from {sample} finished on)", show_share(f)),
            (None, Some(d)) => format!(" ({} dark from {sample} finished on)", show_share(d)),
            (None, None) => String::new(),
        };
        let quorum = match (self.healthy, self.devices) {
            // The one that is not healthy has halted it already.
            (0, _) | (_, 0 | 1) => String::new(),
            (healthy, devices) => format!(", or below {healthy} of {devices} healthy"),
        };
        // What fewer devices are enough for comes first.
        let spare = self.devices.saturating_sub(self.healthy);
        if !quorum.is_empty() && spare + 1 < failed.at.min(dark.at) {
            return format!(
                "below {} of {} healthy at its end, at once at {} failed or {} dark{shares}",
                self.healthy, self.devices, failed.at, dark.at
            );
        }
        format!("{} failed or {} dark{shares}{quorum}", failed.at, dark.at)
    }
}
