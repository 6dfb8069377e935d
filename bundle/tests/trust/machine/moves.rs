//! Any repository, honest or not, in any order: no version goes back, and an honest one wins in the end.

use crate::fleet::*;
use ensign_bundle::trust::Trusted;
use proptest::prelude::*;

/// What a repository, honest or not, may do next.
#[derive(Clone, Debug)]
enum Move {
    Publish,
    Release(u8),
    Renew(u8),
    Drop(u8),
    NextTargets(u8),
    NextRoot,
    /// Serve what was published so many moves ago.
    Replay(u8),
    /// Serve the timestamp of one time with the snapshot and targets of another.
    Mix(u8, u8),
    Flip(u16),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => Just(Move::Publish),
        2 => (0u8..4).prop_map(Move::Release),
        1 => (0u8..4).prop_map(Move::Renew),
        1 => (0u8..4).prop_map(Move::Drop),
        1 => (0u8..4).prop_map(Move::NextTargets),
        1 => Just(Move::NextRoot),
        2 => any::<u8>().prop_map(Move::Replay),
        2 => any::<(u8, u8)>().prop_map(|(a, b)| Move::Mix(a, b)),
        1 => any::<u16>().prop_map(Move::Flip),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_version_ever_goes_back_and_an_honest_repository_always_wins(moves in proptest::collection::vec(moves(), 1..25)) {
        let mut honest = Fleet::new();
        let mut history = vec![honest.clone()];
        let mut device = honest.trust();
        let release = |n: u8| format!("{n}.0.0");
        for step in moves {
            honest.now += 60;
            let mut served = honest.clone();
            match step {
                Move::Publish => {}
                Move::Release(n) => {
                    let dropped = honest.targets.products[0].lowest > u64::from(n) * 1_000_000_000_000;
                    if !dropped && !honest.releases.contains_key(&name("app", &release(n))) {
                        honest.release("app", &release(n), |_| {});
                    }
                }
                Move::Renew(n) => {
                    if honest.releases.contains_key(&name("app", &release(n))) {
                        honest.release("app", &release(n), |_| {});
                    }
                }
                Move::Drop(n) => {
                    served.releases.remove(&name("app", &release(n)));
                    served.publish();
                }
                Move::NextTargets(lowest) => {
                    let lowest = u64::from(lowest) * 1_000_000_000_000;
                    let lowest = lowest.max(honest.targets.products[0].lowest);
                    honest.next_targets(|targets| targets.products[0].lowest = lowest);
                    honest.releases.retain(|_, release| release.counter >= lowest);
                }
                Move::NextRoot => honest.next_root(|_| {}, &[]),
                Move::Replay(n) => {
                    served = history[usize::from(n) % history.len()].clone();
                    served.now = honest.now;
                }
                Move::Mix(a, b) => {
                    let (a, b) = (&history[usize::from(a) % history.len()], &history[usize::from(b) % history.len()]);
                    served.timestamp_bytes.clone_from(&a.timestamp_bytes);
                    served.snapshot_bytes.clone_from(&b.snapshot_bytes);
                    served.targets_bytes.clone_from(&b.targets_bytes);
                }
                Move::Flip(at) => {
                    for bytes in [&mut served.timestamp_bytes, &mut served.snapshot_bytes, &mut served.targets_bytes] {
                        let at = usize::from(at) % bytes.len();
                        bytes[at] ^= 4;
                    }
                }
            }
            if matches!(step, Move::Publish | Move::Release(_) | Move::Renew(_) | Move::NextTargets(_) | Move::NextRoot) {
                honest.publish();
                history.push(honest.clone());
                served = honest.clone();
            }
            let before = device.clone();
            let _ = served.refresh(&mut device);
            let (was, is) = (before.held(), device.held());
            prop_assert!(is.root >= was.root && is.timestamp >= was.timestamp);
            prop_assert!(is.snapshot >= was.snapshot && is.targets >= was.targets);
            if let (Some(was), Some(is)) = (before.snapshot(), device.snapshot()) {
                for entry in &was.releases {
                    let listed = is.releases.iter().find(|e| (&e.product, &e.release) == (&entry.product, &entry.release));
                    match listed {
                        Some(listed) => prop_assert!(listed.document.version >= entry.document.version),
                        None => prop_assert!(entry.counter < device.targets().unwrap().products[0].lowest),
                    }
                }
            }
            // A crash between any two moves: what was stored is what goes on.
            device = Trusted::decode(&device.encode().unwrap()).unwrap();
        }
        // Whatever was served in between: the honest repository is followed in the end.
        honest.now += 60;
        honest.publish();
        let followed = honest.refresh(&mut device);
        prop_assert!(followed.is_ok(), "{followed:?}");
        prop_assert_eq!(device.held().timestamp, honest.timestamp.unwrap().version);
    }
}
