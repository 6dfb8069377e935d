//! docs/states.md, generated from what [`Device::step`](crate::Device::step) really does.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ensign_bundle::wire::Phase;

use crate::device::Device;
use crate::event::Event;
use crate::testkit::{Bed, events, now, staged, target};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/states.md");

/// What the states are, in words.
const MEANINGS: &str = "| state | means | told as | survives a restart |
|---|---|---|---|
| Idle | nothing is wanted, or it was withdrawn; what runs goes on | `idle` | yes |
| Fetching | a plan was accepted; documents and blocks come in and go to staging | `fetching` | what is whole is not fetched again |
| Staged | every tree is complete and synced; it switches when lease, gate and floors are judged once more | `staged` | yes |
| Waiting | something that passes holds it, before or after fetching: lease, gate, lock, window. The reason says what | `waiting` | yes |
| Switching | no way back to waiting: old units stop, `current` moves, new units start | `switching` | it is finished |
| Trial | the new release runs; probes and units are asked each second | `trial` | with the time that it had left |
| Confirmed | it was healthy for its whole window, or had nothing to be asked; a receipt says so | `confirmed` | yes |
| RollingBack | `current` moves back to the generation before, units follow | `rolling-back` | it goes on |
| RolledBack | the generation before runs again; a receipt says why | `rolled-back` | yes |
| Rejected | refused, or staging failed: nothing was switched. The reason says why | `rejected` | yes |

- From Switching to the end of RollingBack nothing else is begun: offers wait, a withdrawn plan changes nothing.
- A trial fails when three rounds of probes in a row fail after its first window, when a unit fails, or at its deadline. The third start of
  the machine within one ends it as `crash-loop`; restarts of Ensign's own processes do not count.
- A release that failed for a reason of its own is denied: it is not tried again before `clear-denied`. One that the surroundings stopped,
  such as a full disk, is tried again when it is offered again.
- Where the way back is blocked, the new release goes on running and the state is Rejected.
- In the diagram, `offered` leads to Confirmed where the release runs already.
";

/// Edges that every event can take from every state reached so far, until there are no new ones.
fn edges() -> BTreeSet<(Phase, Phase, &'static str)> {
    let mut bed = Bed::default();
    bed.install(2, 0);
    let mut seen: Vec<Device> = vec![Device::default(), bed.device];
    let mut edges = BTreeSet::new();
    let mut phases = BTreeSet::new();
    let mut at = 0;
    while at < seen.len() {
        let device = seen[at].clone();
        at += 1;
        let from = device.stage.phase();
        for event in events() {
            // Whole runs of probes at once: one round alone changes no state.
            let rounds = if matches!(event, Event::Probed { .. }) { 10 } else { 1 };
            let mut to = device.clone();
            for round in 0..rounds {
                to = to.step(event.clone(), &now(1000 + round)).device;
            }
            let phase = to.stage.phase();
            if phase == from {
                continue;
            }
            edges.insert((from, phase, name(&event)));
            let shape = (
                phase,
                to.stage.prepared().is_some(),
                to.current != 0,
                to.previous() != 0,
            );
            if phases.insert(shape) {
                seen.push(to);
            }
        }
    }
    edges
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::Met { .. } => "met",
        Event::Offered(_) => "offered",
        Event::Refused { .. } => "refused",
        Event::Withdrawn => "withdrawn",
        Event::Left => "left",
        Event::Staged { .. } => "staged",
        Event::StagingFailed { .. } => "staging failed",
        Event::Tampered { .. } => "tampered tree",
        Event::WayBackBlocked { .. } => "way back blocked",
        Event::Cleared { .. } => "cleared",
        Event::Switched => "switched",
        Event::SwitchFailed { .. } => "switch failed",
        Event::Probed { failure: None } => "healthy window",
        Event::Probed { .. } => "unhealthy or deadline",
        Event::Overdue { .. } => "no answer by the deadline",
        Event::UnitFailed { .. } => "unit failed",
        Event::SwitchedBack => "switched back",
        Event::RollbackAsked { .. } => "rollback asked",
        Event::Acknowledged { .. } => "acknowledged",
        Event::DenialsCleared { .. } => "denials cleared",
        Event::Locked(_) => "locked",
        Event::Unlocked => "unlocked",
        Event::Forgotten { .. } => "forgotten",
        Event::Tick => "tick",
    }
}

fn document() -> String {
    let mut text = String::from(
        "# States of an update on a device\n\n\
         Generated from the state machine in `agent/apply` by its test `the_diagram_is_current`; run it with `ENSIGN_BLESS=1` to write \
         this file again.\n\n\
         ```mermaid\nstateDiagram-v2\n    [*] --> Idle\n",
    );
    let edges = edges();
    let pairs: BTreeSet<_> = edges.iter().map(|(from, to, _)| (*from, *to)).collect();
    for (from, to) in pairs {
        let why: Vec<_> = edges.iter().filter(|e| (e.0, e.1) == (from, to)).map(|e| e.2).collect();
        let _ = writeln!(text, "    {from:?} --> {to:?}: {}", why.join(", "));
    }
    text.push_str("```\n\n## Meaning\n\n");
    text.push_str(MEANINGS);
    text
}

#[test]
fn the_diagram_is_current() {
    let document = document();
    if std::env::var_os("ENSIGN_BLESS").is_some() {
        #[expect(
            clippy::disallowed_methods,
            reason = "a document of the source tree, not a durable file"
        )]
        std::fs::write(PATH, &document).unwrap();
    }
    let written = std::fs::read_to_string(PATH).unwrap_or_default();
    assert_eq!(written, document, "docs/states.md is not current");
}

#[test]
fn every_state_is_reached_and_can_be_left() {
    let edges = edges();
    for phase in [
        Phase::Idle,
        Phase::Fetching,
        Phase::Staged,
        Phase::Waiting,
        Phase::Switching,
        Phase::Trial,
        Phase::Confirmed,
        Phase::RollingBack,
        Phase::RolledBack,
        Phase::Rejected,
    ] {
        assert!(edges.iter().any(|e| e.1 == phase), "{phase:?} is never reached");
        assert!(edges.iter().any(|e| e.0 == phase), "{phase:?} is never left");
    }
    // Switching only from what was staged and asked again.
    for (from, _, why) in edges.iter().filter(|e| e.1 == Phase::Switching) {
        assert!(matches!(from, Phase::Staged | Phase::Waiting), "{from:?}");
        assert_eq!(*why, "cleared");
    }
    assert!(staged(1, true) != staged(2, true) && target(1) != target(2));
}
