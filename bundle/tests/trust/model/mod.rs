//! A device against everything at once: an honest fleet, its operators' statements, receipts of other devices, and a thief who holds
//! the network, the online keys and one key of each quorum. A small model knows who has really signed what; it never sees the code
//! that decides.
//!
//! `ENSIGN_MODEL_CASES` makes it larger.

mod laws;
mod thief;
mod world;

use proptest::prelude::*;

use world::{Opens, World};

#[derive(Clone, Copy, Debug)]
enum Move {
    Release {
        n: u8,
        thief: bool,
    },
    /// Other bytes under the name of a release, honest or not.
    Forge(u8),
    Renew {
        n: u8,
        yank: bool,
    },
    Floor(u8),
    Lowest(u8),
    Reset,
    /// New online keys.
    Rotate,
    /// New deploy keys.
    Replace,
    Plan {
        of: u8,
        thief: bool,
        downgrade: bool,
        hours: u8,
        opens: Opens,
    },
    Promote {
        plan: u8,
        thief: bool,
    },
    /// The device goes on knowing a plan.
    Dwell {
        plan: u8,
        seconds: u64,
    },
    /// A word on the time, by whoever holds the timestamp key or by somebody else.
    Attest {
        far: bool,
        key: bool,
    },
    Cancel {
        plan: u8,
        thief: bool,
    },
    Hold {
        held: bool,
        thief: bool,
    },
    Receipt {
        plan: u8,
        canary: u8,
        good: bool,
        healthy_s: u64,
        forged: bool,
    },
    /// All that the plan's second wave needs.
    Receipts(u8),
    Wait(u16),
    WrongClock(u8),
    Refresh(Repository),
    Offer {
        plan: u8,
        repository: Repository,
        all_receipts: bool,
        lease: Leased,
        /// Nothing keeps the device's clock right.
        clock: bool,
    },
}

/// The permission to start that comes with an offer.
#[derive(Clone, Copy, Debug)]
enum Leased {
    Live,
    None,
    OfAnotherPlan,
    OfAnotherDevice,
    OfAnotherStart,
    RunOut,
    LongerThanAny,
    ByAKeyOfOld,
}

/// Where metadata comes from.
#[derive(Clone, Copy, Debug)]
enum Repository {
    Honest,
    /// What was published so many times ago.
    Old(u8),
    /// Timestamp of one time, snapshot and targets of another.
    Mixed(u8, u8),
    Flipped(u16),
    /// Signed with the stolen online keys, with the thief's documents in it.
    Stolen,
    /// The same with a root of the thief's after the last one.
    OwnRoot,
    /// The same with targets of the thief's.
    OwnTargets,
    /// The same, so many versions ahead that nothing honest follows.
    FastForward,
}

fn repositories() -> impl Strategy<Value = Repository> {
    prop_oneof![
        20 => Just(Repository::Honest),
        2 => any::<u8>().prop_map(Repository::Old),
        2 => any::<(u8, u8)>().prop_map(|(a, b)| Repository::Mixed(a, b)),
        2 => any::<u16>().prop_map(Repository::Flipped),
        3 => Just(Repository::Stolen),
        1 => Just(Repository::OwnRoot),
        1 => Just(Repository::OwnTargets),
        1 => Just(Repository::FastForward),
    ]
}

fn leases() -> impl Strategy<Value = Leased> {
    prop_oneof![
        20 => Just(Leased::Live),
        1 => Just(Leased::None),
        1 => Just(Leased::OfAnotherPlan),
        1 => Just(Leased::OfAnotherDevice),
        1 => Just(Leased::OfAnotherStart),
        1 => Just(Leased::RunOut),
        1 => Just(Leased::LongerThanAny),
        2 => Just(Leased::ByAKeyOfOld),
    ]
}

/// Plans are counted from the newest, so that most of what happens is about few of them.
fn moves() -> impl Strategy<Value = Move> {
    let n = || 1u8..6;
    let plan = || prop_oneof![5 => Just(0u8), 2 => Just(1), 1 => 2u8..8];
    let thief = || prop::bool::weighted(0.15);
    let healthy = prop_oneof![1 => Just(world::SOAK_S - 1), 6 => Just(world::SOAK_S)];
    prop_oneof![
        4 => (n(), thief()).prop_map(|(n, thief)| Move::Release { n, thief }),
        1 => n().prop_map(Move::Forge),
        1 => (n(), any::<bool>()).prop_map(|(n, yank)| Move::Renew { n, yank }),
        1 => (1u8..4).prop_map(Move::Floor),
        1 => (1u8..4).prop_map(Move::Lowest),
        1 => Just(Move::Reset),
        2 => Just(Move::Rotate),
        1 => Just(Move::Replace),
        8 => (n(), thief(), any::<bool>(), 1u8..48, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(of, thief, downgrade, hours, by_hand, by_dwell)| {
                let opens = Opens { by_hand, by_dwell };
                Move::Plan { of, thief, downgrade, hours, opens }
            }),
        3 => (plan(), prop::bool::weighted(0.4)).prop_map(|(plan, thief)| Move::Promote { plan, thief }),
        3 => (plan(), 1u64..world::SOAK_S).prop_map(|(plan, seconds)| Move::Dwell { plan, seconds }),
        1 => any::<(bool, bool)>().prop_map(|(far, key)| Move::Attest { far, key }),
        1 => (plan(), any::<bool>()).prop_map(|(plan, thief)| Move::Cancel { plan, thief }),
        2 => (prop::bool::weighted(0.3), thief()).prop_map(|(held, thief)| Move::Hold { held, thief }),
        20 => (plan(), 0u8..4, prop::bool::weighted(0.9), healthy, thief())
            .prop_map(|(plan, canary, good, healthy_s, forged)| Move::Receipt { plan, canary, good, healthy_s, forged }),
        8 => plan().prop_map(Move::Receipts),
        1 => (1u16..1500).prop_map(Move::Wait),
        1 => (0u8..4).prop_map(Move::WrongClock),
        2 => repositories().prop_map(Move::Refresh),
        20 => (plan(), repositories(), prop::bool::weighted(0.2), leases(), prop::bool::weighted(0.05))
            .prop_map(|(plan, repository, all_receipts, lease, clock)| {
                Move::Offer { plan, repository, all_receipts, lease, clock }
            }),
    ]
}

fn cases() -> u32 {
    let asked = std::env::var("ENSIGN_MODEL_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    asked.unwrap_or(128)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn nothing_is_installed_that_should_not_be_and_the_honest_fleet_wins(moves in prop::collection::vec(moves(), 1..100)) {
        let mut world = World::new();
        for step in moves {
            let before = world.bench.trusted.clone();
            world.act(step);
            world.check(&before);
        }
        world.ends_well();
    }
}

/// The model says something only if devices do install under it: one plain course of events.
#[test]
fn the_model_installs() {
    let mut world = World::new();
    let steps = [
        Move::Release { n: 3, thief: false },
        Move::Plan {
            of: 3,
            thief: false,
            downgrade: false,
            hours: 24,
            opens: Opens::default(),
        },
        Move::Receipt {
            plan: 0,
            canary: 0,
            good: true,
            healthy_s: world::SOAK_S,
            forged: false,
        },
        Move::Offer {
            plan: 0,
            repository: Repository::Honest,
            all_receipts: true,
            lease: Leased::Live,
            clock: false,
        },
        Move::Receipt {
            plan: 0,
            canary: 1,
            good: true,
            healthy_s: world::SOAK_S,
            forged: false,
        },
        Move::Offer {
            plan: 0,
            repository: Repository::Stolen,
            all_receipts: true,
            lease: Leased::Live,
            clock: false,
        },
    ];
    let mut installs = Vec::new();
    for step in steps {
        let before = world.bench.trusted.clone();
        world.act(step);
        world.check(&before);
        installs.push(world.installs);
    }
    assert_eq!(installs, [0, 0, 0, 0, 0, 1]);
    world.ends_well();
}
