//! Keys that change while everything goes on: a device's, and the controller's own.

use ensign_bundle::digest::DeviceId;
use ensign_bundle::plan::rotation::Rotation;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement;
use ensign_bundle::wire::{FromDevice, ToDevice};
use ensign_controller::clock;
use ensign_crypto::SecretKey;
use serde_bytes::ByteBuf;

use crate::fleet::{Device, FLEET, Fleet, Link, key, known};

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
