//! What silence means: dark only for who took the update, unreached for who was still on the way to it.

#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "tests and their helpers")]

mod common;

use common::*;
use ensign_bundle::wire::Phase;
use ensign_rollout::*;

#[test]
fn killed_while_it_fetched_it_is_unreached_and_goes_on_by_itself() {
    let mut w = World::new(3);
    let mut plan = spec(&[3]);
    plan.pace.max_parallel = Some(1);
    w.start(1, &plan);
    w.settle();
    w.report(1, 0, Phase::Fetching, None);
    w.disconnect(0);
    let away = &w.status(1).away[0];
    assert_eq!((away.counts_as, away.at), (Standing::Unreached, T0 + 3600));
    assert!(w.why(1, 0).reason.text.contains("counts as unreached in 1h"));
    assert_eq!(w.wait(1800).settle(), [], "the dark limit is none of its business");
    w.wait(1800);
    assert_eq!(World::offers(&w.settle()), [dev(1)], "its slot is free again");
    assert_eq!(w.standing(1, 0), Standing::Unreached);
    assert!(!is_dark(&w.fleet, &dev(0)));
    w.connect(0);
    assert_eq!(w.settle(), [], "one at a time");
    w.confirm(1, 1);
    assert_eq!(World::offers(&w.settle()), [dev(0)]);
    w.confirm(1, 0);
    w.settle();
    w.confirm(1, 2);
    w.settle();
    assert_eq!((w.state(1), w.wave(1, 1).ok), (RolloutState::Done, 3));
}

#[test]
fn whoever_has_the_release_and_falls_silent_is_dark() {
    for phase in [Phase::Staged, Phase::Switching, Phase::Trial] {
        let mut w = World::new(2);
        w.start(1, &spec(&[2]));
        w.settle();
        w.report(1, 0, phase, None);
        w.disconnect(0);
        w.wait(1800).settle();
        assert_eq!(w.standing(1, 0), Standing::Dark, "{phase:?}");
    }
}
