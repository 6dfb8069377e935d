//! The client workflow of TUF 1.0.34 §5 with Ensign's codec and profile: what goes forward, and what never goes back.

mod moves;
mod online;
mod roots;
mod time;

use crate::fleet::*;
use ensign_bundle::reason::Code;
use ensign_bundle::trust::roles::Role;
use ensign_bundle::trust::{Source, Step, Trusted};

fn role(seeds: &[u8], threshold: u32) -> Role {
    Role {
        keys: seeds.iter().map(|seed| public(*seed)).collect(),
        threshold,
    }
}

/// What must be unchanged after a refusal.
fn bytes(trusted: &Trusted) -> Vec<u8> {
    trusted.encode().unwrap()
}

#[test]
fn a_whole_run_and_the_same_again() {
    let mut fleet = Fleet::new();
    let app = fleet.release("app", "1.0.0", |_| {});
    fleet.publish();
    let mut device = fleet.trust();
    assert_eq!(fleet.refresh(&mut device), Ok(Step::Updated));
    assert_eq!(fleet.refresh(&mut device), Ok(Step::Unchanged));
    device.check_fresh(fleet.now).unwrap();
    let release = device
        .find_release(&app, &mut |want| fleet.find(&want), fleet.now, Source::Online)
        .unwrap();
    assert_eq!(release, &fleet.releases[&app]);
    let unknown = device.find_release(&name("app", "9.0.0"), &mut |_| None, fleet.now, Source::Online);
    assert_eq!(code(unknown.cloned()), Code::NotFound);

    let again = Trusted::decode(&device.encode().unwrap()).unwrap();
    assert_eq!(again.state(), device.state());
    assert_eq!(again.release(&app), device.release(&app));
    again.check_fresh(fleet.now).unwrap();
}

#[test]
fn a_bundles_old_metadata_is_taken_but_never_goes_back() {
    let mut fleet = Fleet::new();
    let old = fleet.clone();
    fleet.now += 60;
    fleet.publish();
    let late = START + 10 * DAY;
    let mut device = fleet.trust();
    let mut docs = |want: ensign_bundle::trust::Want<'_>| fleet.find(&want);
    device.refresh(&mut docs, late, Source::Bundle).unwrap();
    assert_eq!(code(device.check_fresh(late)), Code::MetadataExpired);
    let refused = device.refresh(&mut |want| old.find(&want), late, Source::Bundle);
    assert_eq!(code(refused), Code::RollbackRefused);
}

#[test]
fn a_stored_state_with_foreign_bytes_is_refused_or_fetched_anew() {
    let device = Fleet::new().fresh();
    let good = device.encode().unwrap();
    assert_eq!(code(Trusted::decode(&good[..good.len() - 1])), Code::Malformed);
    let mut extra = good.clone();
    extra.push(0);
    assert_eq!(code(Trusted::decode(&extra)), Code::Malformed);
    let timestamp = device.timestamp_bytes().unwrap();
    let at = good.windows(timestamp.len()).position(|w| w == timestamp).unwrap();
    let mut flipped = good;
    flipped[at + timestamp.len() - 1] ^= 1;
    let loaded = Trusted::decode(&flipped).unwrap();
    assert!(loaded.timestamp().is_none() && loaded.snapshot().is_some());
}
