//! Keys that change while everything goes on: a device's, and the controller's own.

use std::net::SocketAddr;

use ensign_api::Base64;
use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::plan::rotation::Rotation;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement;
use ensign_bundle::trust::roles::Root;
use ensign_bundle::wire::{FromDevice, ToDevice};
use ensign_controller::paths::Paths;
use ensign_controller::{clock, keys};
use ensign_crypto::SecretKey;
use serde_bytes::ByteBuf;

use crate::fleet::{Client, Device, FLEET, Fleet, Link, key, known, stranger, within};

fn change(id: DeviceId, old: &SecretKey, new: &SecretKey, receipt: &SecretKey, by: &[&SecretKey]) -> Vec<u8> {
    let body = Rotation::new(clock::unix_now(), id, old.public(), new.public(), receipt.public());
    statement::sign(&body, by, &FLEET).unwrap()
}

/// What the controller says to the announcement.
async fn announce(link: &mut Link, statement: &[u8]) -> Option<Refusal> {
    let statement = ByteBuf::from(statement);
    link.write(&FromDevice::Rotate { statement }).await;
    loop {
        if let ToDevice::Rotated { refused } = link.read::<ToDevice>().await {
            return refused;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e71_the_old_key_is_accepted_until_the_new_one_is_proven() {
    let fleet = Fleet::new();
    let mut running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 2).await;
    let mut device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    let other = Device::new(61);
    other.join(running.address, &controller, &token).await.unwrap();
    let (id, old, new) = (device.id(), key(60), key(70));
    let receipt = key(160);

    let (mut link, _) = device.connect(running.address, &controller).await.unwrap();
    // A thief of the TLS key has not the receipt key; nobody takes a key that is in use.
    let forged = change(id, &old, &new, &receipt, &[&old, &new]);
    assert_eq!(announce(&mut link, &forged).await.unwrap().code, Code::ThresholdNotMet);
    let taken = change(id, &old, &other.tls, &receipt, &[&old, &other.tls, &receipt]);
    assert_eq!(announce(&mut link, &taken).await.unwrap().code, Code::KeysRefused);
    device.tls = new.clone();
    let refusal = device.connect(running.address, &controller).await.err().unwrap();
    assert_eq!(refusal.code, Code::NotAuthorised, "not announced yet");

    let good = change(id, &old, &new, &receipt, &[&old, &new, &receipt]);
    assert_eq!(announce(&mut link, &good).await, None);
    assert_eq!(announce(&mut link, &good).await, None, "its answer was lost");
    drop(link);
    // Whatever stops between the steps, the old key is good until the new one was seen.
    for restart in [false, true, true] {
        if restart {
            running.stop().await.unwrap();
            running = fleet.serve().await;
        }
        device.tls = old.clone();
        let (_link, welcome) = device.connect(running.address, &controller).await.unwrap();
        assert_eq!(welcome.device, id);
    }
    device.tls = new.clone();
    let (_link, welcome) = device.connect(running.address, &controller).await.unwrap();
    assert_eq!((welcome.device, welcome.name.as_str()), (id, "dev60"));
    for restart in [false, true] {
        if restart {
            running.stop().await.unwrap();
            running = fleet.serve().await;
        }
        device.tls = old.clone();
        let refusal = device.connect(running.address, &controller).await.err().unwrap();
        assert_eq!(refusal.code, Code::IdentityChanged);
        assert!(refusal.text.contains(&new.public().id().to_string()), "{refusal}");
        device.tls = new.clone();
        device.connect(running.address, &controller).await.unwrap();
    }
    let row = known(&running, id).await.unwrap();
    assert_eq!((row.key, row.next, row.rotations.len()), (new.public(), None, 1));
    // The old key is nobody's any more: it neither joins as this device nor as another.
    device.tls = old;
    let refusal = device.join(running.address, &controller, &token).await.unwrap_err();
    assert_eq!(refusal.code, Code::IdentityChanged);
    running.stop().await.unwrap();
}

/// The key that the operators' port shows.
async fn shown(address: SocketAddr) -> Digest {
    stranger(address, "/v1/openapi.json").await.0
}

async fn shows(address: SocketAddr, wanted: Digest) {
    within(async {
        while shown(address).await != wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The id of a key in the folder.
fn id_of(paths: &Paths, name: &str) -> Option<Digest> {
    let listed = keys::list(paths).unwrap();
    listed
        .into_iter()
        .find(|key| key.name == name)
        .map(|key| Digest(key.key.0))
}

/// Stops and starts after every step, and once between the two of the last: what is on disk then is all that a crash leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_operators_key_cut_at_any_step_shows_the_key_that_root_names() {
    for overlap in [false, true] {
        let fleet = Fleet::new();
        let paths = Paths::new(&fleet.data());
        let mut running = fleet.serve().await;
        let old = shown(running.address).await;
        assert_eq!(id_of(&paths, "https"), Some(old));
        let foreign = fleet
            .publish_root(&running, |root| root.controller.api = vec![Digest([9; 32])])
            .await;
        assert_eq!(foreign.unwrap_err().code, Code::KeysRefused, "no operator would get in");

        for _ in 0..2 {
            keys::make_next(&paths, &["https"]).unwrap();
        }
        let next = id_of(&paths, "https-next").unwrap();
        keys::make_next(&paths, &["https"]).unwrap();
        assert_eq!(id_of(&paths, "https-next"), Some(next), "made once");
        running.stop().await.unwrap();
        running = fleet.serve().await;
        assert_eq!(shown(running.address).await, old, "root does not name the new one");

        let first_copy = std::fs::read(paths.https_certificate()).unwrap();
        let roots = if overlap {
            vec![vec![old, next], vec![next]]
        } else {
            vec![vec![next]]
        };
        for named in roots {
            let first = named[0];
            let published = fleet.publish_root(&running, |root| root.controller.api = named).await;
            published.unwrap();
            // At once, and after a start.
            shows(running.address, first).await;
            running.stop().await.unwrap();
            running = fleet.serve().await;
            assert_eq!(shown(running.address).await, first);
        }
        assert_eq!(
            (id_of(&paths, "https"), id_of(&paths, "https-next")),
            (Some(next), None)
        );
        // The start was cut after its rename.
        let second_copy = std::fs::read(paths.https_certificate()).unwrap();
        assert_ne!(second_copy, first_copy);
        running.stop().await.unwrap();
        ensign_controller::durable::write(&paths.https_certificate(), &first_copy).unwrap();
        running = fleet.serve().await;
        assert_eq!(shown(running.address).await, next);
        assert_eq!(std::fs::read(paths.https_certificate()).unwrap(), second_copy);
        running.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_a_root_gets_those_that_follow_it_and_nobody_else_any() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let paths = Paths::new(&fleet.data());
    let first = Digest::of(&std::fs::read(fleet.kit().join("root.cbor")).unwrap());
    keys::make_next(&paths, &["https"]).unwrap();
    let next = id_of(&paths, "https-next").unwrap();
    fleet.publish_root(&running, |_| {}).await.unwrap();
    fleet
        .publish_root(&running, |root| root.controller.api = vec![next])
        .await
        .unwrap();
    let ask = async |digest: Digest| stranger(running.address, &format!("/v1/roots/{digest}")).await.1;
    let after: Vec<Base64> = ask(first).await.json();
    let roots: Vec<Root> = after
        .iter()
        .map(|root| statement::open_unverified(&root.0).unwrap().body)
        .collect();
    assert_eq!(roots.iter().map(|root| root.version).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(roots[1].controller.api, [next]);
    let newest = Digest::of(&after[1].0);
    assert_eq!(ask(newest).await.json::<Vec<Base64>>().len(), 0);
    assert_eq!(ask(Digest([1; 32])).await.refusal(), ("not-found".to_owned(), 32));
    let (_, other) = stranger(running.address, "/v1/metadata?root=0").await;
    assert_eq!(other.refusal().0, "not-authorised");
    running.stop().await.unwrap();
}

/// What `ensign fleet status` says of a key of the devices' side that is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_tls_key_is_counted_until_every_approved_device_has_heard_of_it() {
    let fleet = Fleet::new();
    let mut running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 3).await;
    let mut devices = [60, 61, 62].map(Device::new);
    for device in &devices {
        device.join(running.address, &controller, &token).await.unwrap();
    }
    let unheard = async |running: &ensign_controller::serve::Running| {
        let fleet: ensign_api::Fleet = Client::new(running.address, &fleet).get("/v1/fleet").await.json();
        fleet.unheard.map(|u| (u.root, u.shown, u.devices, u.key))
    };
    assert_eq!(
        unheard(&running).await,
        None,
        "there is one key, and devices join with it"
    );
    let paths = Paths::new(&fleet.data());
    keys::make_next(&paths, &["controller"]).unwrap();
    let listed = keys::list(&paths).unwrap();
    let next = listed.iter().find(|key| key.name == "controller-next").unwrap().key;
    fleet.publish_root(&running, |_| {}).await.unwrap();
    fleet
        .publish_root(&running, |root| root.controller.keys.push(next))
        .await
        .unwrap();
    assert_eq!(unheard(&running).await, Some((3, false, 3, next)));
    // One says so as it connects, one later on the connection that it has, one not at all.
    devices[0].root = 3;
    let _first = devices[0].connect(running.address, &controller).await.unwrap();
    devices[1].root = 2;
    let (mut second, _) = devices[1].connect(running.address, &controller).await.unwrap();
    assert_eq!(unheard(&running).await, Some((3, false, 2, next)));
    devices[1].root = 3;
    second.write(&devices[1].report(1, Vec::new())).await;
    second.acknowledged(1).await;
    assert_eq!(unheard(&running).await, Some((3, false, 1, next)));
    // It is in the ledger, and a later root that names the key as well changes nothing.
    fleet.publish_root(&running, |_| {}).await.unwrap();
    running.stop().await.unwrap();
    running = fleet.serve().await;
    assert_eq!(unheard(&running).await, Some((3, false, 1, next)));
    // Who is left out when the old key goes is still counted, until an operator has given it up.
    fleet
        .publish_root(&running, |root| root.controller.keys = vec![next])
        .await
        .unwrap();
    assert_eq!(unheard(&running).await, Some((3, true, 1, next)));
    let answer = Client::new(running.address, &fleet)
        .post("/v1/devices/dev62/revoke", &serde_json::json!({}))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(unheard(&running).await, None);
    running.stop().await.unwrap();
}
