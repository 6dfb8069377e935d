//! When a report goes out, and how long nothing has to.

use std::time::Duration;

use super::Engine;
use crate::clock;

/// Before a report that was not acknowledged is sent again.
const REPORT_AGAIN: Duration = Duration::from_secs(10);
/// Longest time without any event: level triggers need no more.
const TICK: Duration = Duration::from_secs(60);

impl Engine {
    /// Sends the report if it is new, unacknowledged for long, or the interval is over.
    pub(super) fn report(&mut self) {
        let Some(session) = &mut self.session else { return };
        let mut report = match self.state.borrow().as_ref() {
            // The session belongs to an applier that is gone; the next one is being opened.
            Some(state) if state.nonce == session.up.nonce => state.report.clone(),
            _ => return,
        };
        report.status.reason = report.status.reason.or_else(|| self.unstored.clone());
        if let Some(need) = &self.need {
            let transfer = &mut report.status.transfer;
            transfer.received = transfer.received.max(need.received);
        }
        let now = clock::boot();
        let due = match &session.sent {
            None => true,
            Some((sent, at)) => {
                // Bytes alone are progress, not news: they travel with the next report.
                let changed = sent.seq != report.seq
                    || sent.receipts != report.receipts
                    || sent.root != report.root
                    || sent.status.phase != report.status.phase
                    || sent.status.reason != report.status.reason;
                let waiting = report.seq > session.acknowledged;
                changed
                    || now
                        >= *at
                            + if waiting {
                                REPORT_AGAIN.min(session.interval)
                            } else {
                                session.interval
                            }
            }
        };
        if due {
            session.up.reports.send_replace(Some(report.clone()));
            session.sent = Some((report, now));
        }
    }

    /// How long nothing needs to be done unless something happens.
    pub(super) fn pause(&self) -> Duration {
        let now = clock::boot();
        let again = self.delayed.values().min().map(|until| until.saturating_sub(now));
        let report = self.session.as_ref().and_then(|session| {
            let (sent, at) = session.sent.as_ref()?;
            let wait = if sent.seq > session.acknowledged {
                REPORT_AGAIN.min(session.interval)
            } else {
                session.interval
            };
            Some((*at + wait).saturating_sub(now))
        });
        let pause = TICK.min(again.unwrap_or(TICK)).min(report.unwrap_or(TICK));
        // A timer that fires a moment early must not spin.
        pause.max(Duration::from_millis(10))
    }
}
