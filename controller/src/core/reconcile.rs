//! load → plan → commit → push: what follows from state is decided here, with every batch and whenever time alone changes it.
//!
//! Nothing polls: the core sleeps until the next job or the next time that the planner or a role's renewal names.

use ensign_bundle::reason::Refusal;
use ensign_rollout::{Action, next_wakeup, plan};

use super::rollouts::Dirty;
use super::rows::key;
use super::state::State;

/// Rounds of planning in one batch: each takes up to [`ensign_rollout::ACTIONS_AT_ONCE`] actions. What is left comes at once in the
/// next batch, so that answers are not kept waiting.
const ROUNDS: usize = 16;
/// Wait before a failed renewal is tried again, seconds.
const RETRY_S: u64 = 60;

impl State {
    /// Renews roles, plans, and writes the rows of what changed. Returns when to come again without a job.
    pub fn reconcile(&mut self) -> Result<Option<u64>, Refusal> {
        let renew_at = match self.renew() {
            Ok(at) => at,
            Err(refusal) => {
                // Expired targets or a root without our keys: people must act, devices keep running.
                tracing::error!(code = %refusal.code, text = %refusal.text, "snapshot or timestamp cannot be signed");
                self.now + RETRY_S
            }
        };
        // Rules go by times: none expires, halts or opens anything at one that is not believed.
        let believed = self.clock_doubt(0).is_none();
        let more = believed && self.plan_rollouts();
        self.write_model()?;
        let planned = if more {
            Some(self.now)
        } else if believed {
            next_wakeup(&self.rollouts.model, self.now)
        } else {
            None
        };
        Ok(Some(planned.map_or(renew_at, |at| at.min(renew_at))))
    }

    /// True when there is more to do than fits into one batch.
    fn plan_rollouts(&mut self) -> bool {
        for _ in 0..ROUNDS {
            let planned = plan(&self.rollouts.model, self.now);
            if planned.actions.is_empty() {
                return false;
            }
            let wrong = ensign_rollout::check(&self.rollouts.model, &planned);
            if !wrong.is_empty() {
                tracing::error!(?wrong, "the plan contradicts itself; nothing of it is done");
                return false;
            }
            for action in planned.actions {
                if let Action::OpenWave {
                    rollout,
                    wave,
                    evidence,
                    ..
                } = &action
                    && let Err(refusal) = self.make_gate(rollout, *wave, evidence)
                {
                    // Its own trouble: the others go on.
                    self.halt(*rollout, refusal);
                    continue;
                }
                log(&action);
                self.happened(&action.event(self.now));
            }
        }
        true
    }

    fn write_model(&mut self) -> Result<(), Refusal> {
        for dirty in std::mem::take(&mut self.rollouts.dirty) {
            match dirty {
                Dirty::Fleet => {
                    let row = self.rollouts.model.row();
                    self.put(key::MODEL_FLEET.to_owned(), &row)?;
                }
                Dirty::Device(id) => {
                    if self.devices.contains_key(&id) {
                        self.put_device(&id)?;
                    }
                }
                Dirty::Rollout(id) => {
                    if let Some(row) = self.rollouts.model.rollout(&id).map(ensign_rollout::Rollout::row) {
                        self.put(key::rollout(&id), &row)?;
                    }
                    if self.rollouts.counted.contains(&id) {
                        self.put_plan(&id)?;
                    }
                }
                Dirty::Member(id, device) => {
                    let rollout = self.rollouts.model.rollout(&id);
                    if let Some(row) = rollout.and_then(|r| r.member(&device)).cloned() {
                        self.put(key::slot(&id, &device), &row)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// State changes of rollouts are what an operator reads the log for; what happens to one device is detail.
fn log(action: &Action) {
    match action {
        Action::OpenWave { rollout, wave, .. } => tracing::info!(%rollout, wave, "a wave opens"),
        Action::CloseWave { rollout, wave } => tracing::info!(%rollout, wave, "a wave is done"),
        Action::Halt { rollout, reason } => {
            tracing::warn!(%rollout, code = %reason.code, text = %reason.text, "halted");
        }
        Action::Supersede { rollout, by } => tracing::info!(%rollout, %by, "superseded"),
        Action::Expire { rollout } => tracing::info!(%rollout, "expired"),
        Action::Finish { rollout } => tracing::info!(%rollout, "done"),
        Action::MarkDark { rollout, device } => tracing::warn!(%rollout, %device, "dark"),
        Action::MarkUnreached { rollout, device } => tracing::info!(%rollout, %device, "not reached"),
        Action::Offer { rollout, device, .. } => tracing::debug!(%rollout, %device, "offered"),
    }
}
