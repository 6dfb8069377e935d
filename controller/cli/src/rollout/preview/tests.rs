use ensign_api::{DeviceState, DeviceStatus, Reason};
use ensign_bundle::reason::Refusal;

use super::*;
use crate::device::tests::device;
use crate::rollout::draft::{Moment, Open, draft, tests as fixture};

/// What runs on the canary is newer: nobody could vouch for the release, and that is said before anything is signed.
#[test]
fn a_wave_that_cannot_open_the_next_is_found() {
    let inventory = fixture::inventory(3);
    let two = fixture::words(|s| s.waves = Some("1,100%".to_owned()));
    let found = |words: &crate::rollout::words::Words, newer: &[usize]| {
        let moment = Moment {
            reason: "back".to_owned(),
            ..fixture::moment()
        };
        let drafted = draft(words, &inventory, &fixture::release(), &fixture::root(None), &moment).unwrap();
        let rows = newer.iter().map(|n| {
            let mut row = device(0, "dev", "9.0.0", DeviceStatus::Idle);
            let members: Vec<DeviceId> = drafted.cut.iter().flat_map(|w| &w.members).map(|m| m.device).collect();
            row.id = members[*n];
            row
        });
        let seen = Seen {
            rows: rows.collect(),
            ..Seen::default()
        };
        let preview = Preview::of(&drafted, &inventory, &seen, false);
        preview.stuck().map(|s| (s.wave, s.taking, s.evidence))
    };
    assert_eq!(found(&two, &[0]), Some((1, 0, 1)));
    assert_eq!(found(&two, &[1]), None, "the last wave opens nothing");
    let back = fixture::words(|s| {
        s.waves = Some("1,100%".to_owned());
        s.allow_downgrade = true;
    });
    assert_eq!(found(&back, &[0]), None);
}

#[test]
fn says_who_how_much_and_what_stops_it() {
    let mut inventory = fixture::inventory(15);
    let refusal = Refusal::new(Code::NotAuthorised, "the binding is for another token");
    inventory.refused.push(("evil\u{1b}[2J".to_owned(), refusal));
    inventory.known[12].state = DeviceState::Suspended;
    inventory.known[13].state = DeviceState::Suspended;
    inventory.known[14].state = DeviceState::Pending;
    let words = fixture::words(|s| {
        s.max_parallel = Some(4);
        s.gate = Some("manual".to_owned());
    });
    let mut drafted = draft(
        &words,
        &inventory,
        &fixture::release(),
        &fixture::root(None),
        &fixture::moment(),
    )
    .unwrap();
    let open = |byte, what: &str| Open {
        id: PlanId([byte; 16]),
        what: what.to_owned(),
    };
    drafted.open = vec![
        open(0x1f, "1f1f1f1f (halted)"),
        open(0x2f, "2f2f2f2f (halted, of others)"),
    ];
    let row = |n: usize, version| {
        let mut row = device(0, "dev", version, DeviceStatus::Idle);
        row.id = drafted.chosen[n].member.device;
        row
    };
    let (mut away, ahead, mut held, mut cloned, mut denied) = (
        row(0, "1.0.0"),
        row(1, "9.0.0"),
        row(2, "1.0.0"),
        row(3, "1.0.0"),
        row(4, "1.0.0"),
    );
    denied.denied = vec![fixture::release().manifest.digest];
    away.connected = false;
    away.rollouts = vec![PlanId([0x1f; 16])];
    held.held = true;
    cloned.reason = Some(Reason {
        code: Code::CloneDetected,
        text: String::new(),
    });
    let seen = Seen {
        rows: vec![away, ahead, held, cloned, denied],
        frozen: Some(Frozen {
            since: Time(1_796_090_400),
            reason: "storm".to_owned(),
            by: "ada".to_owned(),
        }),
        bytes: Some(56_340_000),
        example: true,
    };
    let preview = Preview::of(&drafted, &inventory, &seen, false);
    insta::assert_snapshot!(preview.table(Paint(false)));
    let listed = Preview::of(&drafted, &inventory, &Seen::default(), true);
    assert_eq!(listed.waves.iter().map(|w| w.names.len()).sum::<usize>(), 12);
    assert!(!listed.table(Paint(false)).contains("frozen"));
}
