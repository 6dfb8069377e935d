//! After a restart: what the journal says, what the machine shows, and what follows.

use ensign_bundle::reason::{Code, Refusal};

use crate::device::Device;
use crate::event::Action;
use crate::record::Record;
use crate::stage::{Stage, Switching, Trial};
use crate::step::Step;
use crate::uptime::Now;

/// Starts of the machine within one trial. One may be the update's own, two bad luck.
const BOOTS: u32 = 3;

/// What the shell found on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reality {
    /// The generation that `deploy/current` points at; 0 = it does not exist or points at nothing known.
    pub current: u64,
}

impl Device {
    /// What follows from a restart: a switch rolls forward unless the machine restarted too often, a rollback goes on, a trial is
    /// resumed with the time that it had, the pointer is mended where nothing was going on.
    #[must_use]
    pub fn resume(self, reality: Reality, now: &Now) -> Step {
        let mut step = Step::at(self);
        step.record(Record::Started(now.clone()));
        let circles = step.device.in_circles();
        match &step.device.stage {
            Stage::Switching(Switching {
                target,
                from,
                to,
                boots,
                ..
            })
            | Stage::Trial(Trial {
                target,
                from,
                to,
                boots,
                ..
            }) => {
                let crashed = (*boots >= BOOTS).then(|| {
                    Refusal::new(
                        Code::CrashLoop,
                        format!("the device restarted {boots} times in the trial, fewer than {BOOTS} are allowed"),
                    )
                });
                if let Some(reason) = crashed.or(circles) {
                    let (target, from, to) = (target.clone(), *to, *from);
                    step.record(Record::RollingBack {
                        target,
                        from,
                        to,
                        reason,
                    });
                } else if matches!(step.device.stage, Stage::Trial(_)) && reality.current != *to {
                    // Someone moved the pointer: the release on trial must be the one that runs.
                    step.actions.push(Action::Repoint { to: *to });
                }
            }
            Stage::RollingBack(_) => {}
            Stage::Idle
            | Stage::Fetching(_)
            | Stage::Staged(_)
            | Stage::Waiting(_)
            | Stage::Confirmed(_)
            | Stage::RolledBack(_)
            | Stage::Rejected(_) => {
                if reality.current != step.device.current {
                    step.actions.push(Action::Repoint {
                        to: step.device.current,
                    });
                }
                step.actions.push(Action::Collect);
            }
        }
        if let Some(duty) = step.device.duty() {
            step.actions.push(duty);
        }
        step
    }
}
