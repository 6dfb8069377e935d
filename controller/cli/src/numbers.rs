//! The numbers of plans, holds and labels: each is above the last one that was verified, and close to the clock.
//!
//! So operators who do not see each other take different ones, and nobody who shows a high one gets the next near its end.

use ensign_api::Time;
use ensign_bundle::limits::NUMBER_AHEAD_S;
use ensign_bundle::reason::Code;

use crate::clock;
use crate::failure::{Failure, Result};

/// The number after `last`, which was verified or signed here. `what` begins the sentence of a refusal.
pub fn next(what: &str, last: u64) -> Result<u64> {
    after(what, last, clock::now())
}

fn after(what: &str, last: u64, now: u64) -> Result<u64> {
    let next = last.saturating_add(1).max(now);
    let most = now.saturating_add(NUMBER_AHEAD_S);
    if next <= most {
        return Ok(next);
    }
    Err(Failure::new(
        Code::NumberAhead,
        format!(
            "{what} would get number {next}, for {last} was the last one; by the clock here ({}) {most} is the highest",
            Time(now)
        ),
    )
    .hint("check the clock of this machine; if it is right, somebody else's was ahead: wait until it has passed, or free the numbers: `ensign key root rotate --reset`, then `ensign key root sign` and `ensign key root publish`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_up_and_stay_near_the_clock() {
        let now = 1_800_000_000;
        let after = |last| after("the plan", last, now).map_err(|e| (e.code, e.exit()));
        assert_eq!(after(0), Ok(now));
        assert_eq!(after(now + 5), Ok(now + 6));
        assert_eq!(after(now + NUMBER_AHEAD_S - 1), Ok(now + NUMBER_AHEAD_S));
        for last in [now + NUMBER_AHEAD_S, u64::MAX - 1, u64::MAX] {
            assert_eq!(after(last), Err((Code::NumberAhead, 22)), "{last}");
        }
    }
}
