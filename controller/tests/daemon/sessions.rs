//! Connected devices: who is served, who is dropped, what one of them may read.

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::wire::{DocKind, Request, ToDevice};
use ensign_controller::core::Verb;

use crate::fleet::{Client, Device, Fleet, known};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e65_a_stranger_is_refused_and_a_member_is_told_what_is_current() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let mut device = Device::new(60);
    let refusal = device.connect(running.address, &controller).await.err().unwrap();
    assert_eq!(refusal.code, Code::NotAuthorised);
    let token = fleet.token(&running, 50, 1).await;
    device.join(running.address, &controller, &token).await.unwrap();
    let (mut link, welcome) = device.connect(running.address, &controller).await.unwrap();
    assert_eq!(welcome.device, device.id());
    assert_eq!(welcome.name, "dev60");
    let desired = link.desired(|_| true).await;
    assert!(desired.rollout.is_none());
    let kinds: Vec<DocKind> = desired.documents.iter().map(|d| d.kind).collect();
    assert_eq!(
        kinds,
        [DocKind::Root, DocKind::Timestamp, DocKind::Snapshot, DocKind::Targets]
    );
    // Each of them can be fetched and is what its digest says; anything else is not there.
    let mut digests: Vec<_> = desired.documents.iter().map(|d| d.digest).collect();
    digests.push(known(&running, device.id()).await.unwrap().binding);
    let records = link
        .fetch(
            &Request::Documents {
                digests: digests.clone(),
            },
            5,
        )
        .await;
    for (record, digest) in records.iter().zip(&digests).take(4) {
        let bytes = record.as_ref().unwrap();
        assert_eq!(Digest::of(bytes), *digest);
    }
    assert!(records[4].is_none());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e66_revoking_drops_the_live_connection_and_refuses_the_next() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    let mut device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    let (mut link, _) = device.connect(running.address, &controller).await.unwrap();
    let client = Client::new(running.address, &fleet);
    let path = format!("/v1/devices/{}/revoke", device.name);
    let answer = client.post(&path, &serde_json::json!({"reason": "stolen"})).await;
    assert_eq!(answer.json::<serde_json::Value>()["state"], "revoked");
    let refusal = loop {
        if let ToDevice::Refused(refusal) = link.read::<ToDevice>().await {
            break refusal;
        }
    };
    assert_eq!(refusal.code, Code::Revoked);
    crate::fleet::within(link.connection.closed()).await;
    let refusal = device.connect(running.address, &controller).await.err().unwrap();
    assert_eq!(refusal.code, Code::Revoked);
    // For ever: not even the token brings it back.
    let refusal = device.join(running.address, &controller, &token).await.unwrap_err();
    assert_eq!(refusal.code, Code::Revoked);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suspended_devices_wait_and_come_back() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    let mut device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    let id = device.id();
    let set = async |verb| {
        running
            .core
            .change(move |s| s.set_standing(&id, verb, "", "test"))
            .await
    };
    set(Verb::Suspend).await.unwrap();
    let refusal = device.connect(running.address, &controller).await.err().unwrap();
    assert_eq!(refusal.code, Code::Suspended);
    set(Verb::Unsuspend).await.unwrap();
    assert!(device.connect(running.address, &controller).await.is_ok());
    assert_eq!(set(Verb::Reject).await.unwrap_err().code, Code::Conflict);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_takes_the_place_of_the_older() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    let mut device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    let (mut first, _) = device.connect(running.address, &controller).await.unwrap();
    let (mut second, _) = device.connect(running.address, &controller).await.unwrap();
    loop {
        if let ToDevice::Refused(refusal) = first.read::<ToDevice>().await {
            assert_eq!(refusal.code, Code::Conflict);
            break;
        }
    }
    second.desired(|_| true).await;
    let id = device.id();
    assert!(running.core.read(move |s| s.sessions.is_connected(&id)).await.unwrap());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_talks_too_much_harms_itself_alone() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 2).await;
    let (mut loud, mut other) = (Device::new(60), Device::new(61));
    for device in [&loud, &other] {
        device.join(running.address, &controller, &token).await.unwrap();
    }
    // As large as a frame can be: a row of the ledger is smaller.
    loud.status.reason = Some(Refusal::new(Code::Failed, "x".repeat(60_000)));
    let (mut link, _) = loud.connect(running.address, &controller).await.unwrap();
    link.write(&loud.report(1, vec![b"no receipt".to_vec()])).await;
    link.acknowledged(1).await;
    let kept = known(&running, loud.id()).await.unwrap();
    assert!(kept.status.as_ref().unwrap().reason.as_ref().unwrap().text.len() <= 1024);
    // More denied releases than fit: refused, and the connection ends.
    loud.status.reason = None;
    loud.status.denied = (0..1000u32).map(|n| Digest::of(&n.to_be_bytes())).collect();
    link.write(&loud.report(2, Vec::new())).await;
    loop {
        if let ToDevice::Refused(refusal) = link.read::<ToDevice>().await {
            assert_eq!(refusal.code, Code::LimitExceeded);
            break;
        }
    }
    let (mut link, _) = other.connect(running.address, &controller).await.unwrap();
    link.desired(|_| true).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_release_is_told_to_everybody() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    let mut device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    let (mut link, _) = device.connect(running.address, &controller).await.unwrap();
    let before = link.desired(|_| true).await;
    let package = fleet.package("1.0.0", b"content");
    fleet.publish(&Client::new(running.address, &fleet), &package).await;
    let after = link.desired(|d| d.documents != before.documents).await;
    assert!(after.generation > before.generation);
    running.stop().await.unwrap();
}
