//! A fleet of one root for the unit tests of this module.

use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::statement;
use ensign_bundle::trust::issue::NewFleet;
use ensign_bundle::trust::roles::{Controller, Root};
use ensign_bundle::trust::{TrustState, Trusted};
use ensign_crypto::SecretKey;

const FLEET: FleetId = FleetId([3; 32]);

pub(super) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// The bytes of a root, signed by the fleet's one root key.
pub(super) fn signed(root: &Root) -> Vec<u8> {
    statement::sign(root, &[&key(1)], &FLEET).unwrap()
}

/// The first root, and a state that holds it.
pub(super) fn trusted() -> (Root, Trusted) {
    let new = NewFleet {
        fleet: FLEET,
        name: "test".to_owned(),
        root: vec![key(1).public()],
        targets: key(2).public(),
        release: key(3).public(),
        deploy: key(4).public(),
        snapshot: key(5).public(),
        timestamp: key(6).public(),
        controller: Controller {
            keys: vec![key(7).public().id()],
            api: Vec::new(),
            addresses: Vec::new(),
        },
        lab: true,
    };
    let root = new.root(1000).unwrap();
    let bytes = signed(&root);
    let state = TrustState::new(&bytes, &Digest::of(&bytes), &FLEET).unwrap();
    (root, state)
}
