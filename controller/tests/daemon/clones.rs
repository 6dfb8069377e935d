//! Two devices with one identity: noticed, named, and no weapon of the network.

use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::wire::{Desired, FromDevice, ToDevice};
use ensign_controller::clock;
use ensign_controller::core::Verb;
use ensign_controller::serve::Running;
use ensign_rollout::DeviceState;

use crate::fleet::{Client, Device, FLEET, Fleet, Link, known};

/// A device and its copy.
struct Pair {
    device: Device,
    copy: Device,
}

impl Pair {
    async fn new(fleet: &Fleet, running: &Running, seed: u8) -> Self {
        let token = fleet.token(running, seed + 60, 1).await;
        let (mut device, mut copy) = (Device::new(seed), Device::new(seed));
        device
            .join(running.address, &fleet.controller.public().id(), &token)
            .await
            .unwrap();
        device.session = 10;
        copy.session = 5;
        Self { device, copy }
    }
}

/// Connects, and reports as a device does that has read its welcome.
async fn live(device: &mut Device, fleet: &Fleet, running: &Running) -> Link {
    let mut link = connect(device, fleet, running).await;
    link.write(&device.report(1, Vec::new())).await;
    link
}

async fn connect(device: &mut Device, fleet: &Fleet, running: &Running) -> Link {
    let controller = fleet.controller.public().id();
    device.connect(running.address, &controller).await.unwrap().0
}

async fn refused(link: &mut Link) -> Code {
    loop {
        if let ToDevice::Refused(refusal) = link.read::<ToDevice>().await {
            return refusal.code;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_was_held_back_on_the_way_does_nothing() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let mut pair = Pair::new(&fleet, &running, 60).await;
    let mut link = live(&mut pair.device, &fleet, &running).await;
    link.acknowledged(1).await;
    // An older connection of the same device comes through at last; nobody is at its other end.
    let mut late = connect(&mut pair.copy, &fleet, &running).await;
    late.desired(|wish| wish.rollout.is_none()).await;
    link.write(&pair.device.report(2, Vec::new())).await;
    link.acknowledged(2).await;
    let row = known(&running, pair.device.id()).await.unwrap();
    assert!(!row.is_cloned());
    assert_eq!(row.session, 11);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e72_a_copy_that_lives_raises_the_alarm_and_an_operator_ends_it() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let mut pair = Pair::new(&fleet, &running, 60).await;
    let mut first = live(&mut pair.device, &fleet, &running).await;
    first.acknowledged(1).await;
    let mut second = live(&mut pair.copy, &fleet, &running).await;
    second.acknowledged(1).await;
    assert_eq!(refused(&mut first).await, Code::Conflict);
    let client = Client::new(running.address, &fleet);
    let shown = |answer: serde_json::Value| (answer["reason"]["code"].clone(), answer["held"].clone());
    let show = async || client.get("/v1/devices/dev60").await.json::<serde_json::Value>();
    // No operator holds it: the alarm is a reason of its own.
    assert_eq!(shown(show().await), ("clone-detected".into(), false.into()));
    let row = known(&running, pair.device.id()).await.unwrap();
    assert_eq!(row.state, DeviceState::Approved);
    // It outlives a restart.
    running.stop().await.unwrap();
    let running = fleet.serve().await;
    let client = Client::new(running.address, &fleet);
    let show = async |path: &str| client.get(path).await.json::<serde_json::Value>();
    assert_eq!(shown(show("/v1/devices/dev60").await).0, "clone-detected");
    client.post("/v1/devices/dev60/accept", &serde_json::json!({})).await;
    assert!(show("/v1/devices/dev60").await["reason"].is_null());
    // The counter starts again with whoever comes next.
    let mut link = live(&mut pair.copy, &fleet, &running).await;
    link.acknowledged(1).await;
    assert!(!known(&running, pair.copy.id()).await.unwrap().is_cloned());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_device_is_not_suspended() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let mut pair = Pair::new(&fleet, &running, 60).await;
    live(&mut pair.device, &fleet, &running).await.acknowledged(1).await;
    // The only device there is: its counter climbs past the old one.
    for _ in 0..8 {
        live(&mut pair.copy, &fleet, &running).await.acknowledged(1).await;
    }
    let row = known(&running, pair.copy.id()).await.unwrap();
    assert_eq!(
        (row.state, row.is_cloned(), row.session),
        (DeviceState::Approved, true, 13)
    );
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_alternate_are_suspended_ten_an_hour() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let mut states = Vec::new();
    for seed in 60..71 {
        let mut pair = Pair::new(&fleet, &running, seed).await;
        live(&mut pair.device, &fleet, &running).await.acknowledged(1).await;
        live(&mut pair.copy, &fleet, &running).await.acknowledged(1).await;
        live(&mut pair.device, &fleet, &running).await.acknowledged(1).await;
        let mut last = live(&mut pair.copy, &fleet, &running).await;
        if seed < 70 {
            assert_eq!(refused(&mut last).await, Code::Suspended);
        } else {
            last.acknowledged(1).await;
        }
        let row = known(&running, pair.device.id()).await.unwrap();
        assert!(row.is_cloned());
        states.push(row.state);
    }
    assert_eq!(states.iter().filter(|s| **s == DeviceState::Suspended).count(), 10);
    assert_eq!(
        states.last(),
        Some(&DeviceState::Approved),
        "its installs are stopped all the same"
    );
    // An operator has looked at one of them.
    let id = Device::new(60).id();
    let unsuspended = running
        .core
        .change(move |s| s.set_standing(&id, Verb::Unsuspend, "", "test"))
        .await;
    unsuspended.unwrap();
    let row = known(&running, id).await.unwrap();
    assert_eq!((row.state, row.is_cloned()), (DeviceState::Approved, false));
    running.stop().await.unwrap();
}

/// A session at a time of its own: connects and reports, as a device does that has read its welcome. Its standing after it.
async fn at(device: &mut Device, running: &Running, time: u64) -> DeviceState {
    device.session += 1;
    let (FromDevice::Hello(hello), FromDevice::Report(report)) = (device.hello(), device.report(1, Vec::new())) else {
        unreachable!("as they are named");
    };
    let (id, peer) = (device.id(), device.tls.public().id());
    // No connection of this process has such a number.
    let number = u64::MAX - hello.session;
    let lived = running.core.change(move |state| {
        state.now = time;
        state.connect(&peer, number, &hello)?;
        state.report(&id, number, report)
    });
    match lived.await {
        Ok(()) => {}
        // It is told so as well.
        Err(refusal) => assert_eq!(refusal.code, Code::Suspended),
    }
    known(running, id).await.unwrap().state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_connections_that_alternate_within_an_hour_suspend_and_an_hour_has_ten() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let start = clock::unix_now();
    let mut slow = Pair::new(&fleet, &running, 60).await;
    let end = start + 100 + 3600;
    for (is_copy, time) in [
        (false, start),
        (true, start + 100),
        (false, start + 200),
        (true, end + 1),
    ] {
        let device = if is_copy { &mut slow.copy } else { &mut slow.device };
        assert_eq!(at(device, &running, time).await, DeviceState::Approved, "{time}");
    }
    // The alarm was renewed then: an hour from it counts again.
    assert_eq!(at(&mut slow.device, &running, end + 100).await, DeviceState::Approved);
    assert_eq!(
        at(&mut slow.copy, &running, end + 1 + 3600).await,
        DeviceState::Suspended
    );

    let first = end + 7201;
    for seed in 61..71 {
        let mut pair = Pair::new(&fleet, &running, seed).await;
        at(&mut pair.device, &running, first).await;
        at(&mut pair.copy, &running, first).await;
        at(&mut pair.device, &running, first).await;
        assert_eq!(
            at(&mut pair.copy, &running, first).await,
            DeviceState::Suspended,
            "{seed}"
        );
    }
    let mut pair = Pair::new(&fleet, &running, 71).await;
    at(&mut pair.device, &running, first + 3000).await;
    at(&mut pair.copy, &running, first + 3000).await;
    for (time, state) in [(3599, DeviceState::Approved), (3600, DeviceState::Suspended)] {
        at(&mut pair.device, &running, first + time).await;
        assert_eq!(at(&mut pair.copy, &running, first + time).await, state, "{time}");
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_of_two_copies_may_start_anything_and_both_go_when_the_device_does() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let mut pair = Pair::new(&fleet, &running, 60).await;
    let package = fleet.package("1.0.0", b"content");
    fleet.publish(&Client::new(running.address, &fleet), &package).await;
    let (plan, waves) = fleet.plan(&package, &[&pair.device]);
    let envelope = statement::sign(&plan, &[&fleet.deploy], &FLEET).unwrap();
    let started = running
        .core
        .change(move |state| state.start_rollout(&envelope, &waves, "test"));
    started.await.unwrap();
    let mut first = connect(&mut pair.device, &fleet, &running).await;
    let may_start = |wish: &Desired| wish.rollout.as_ref().is_some_and(|rollout| rollout.lease.is_some());
    first.desired(may_start).await;
    // The very number that was seen last is no newer one.
    pair.copy.session = pair.device.session - 1;
    let mut second = connect(&mut pair.copy, &fleet, &running).await;
    assert!(second.desired(|_| true).await.rollout.is_none());
    // Nobody has lived behind it yet: the first one keeps what it was told, and goes on.
    first.write(&pair.device.report(1, Vec::new())).await;
    first.acknowledged(1).await;
    second.write(&pair.copy.report(1, Vec::new())).await;
    second.acknowledged(1).await;
    assert_eq!(refused(&mut first).await, Code::Conflict);
    let mut again = live(&mut pair.device, &fleet, &running).await;
    again.acknowledged(1).await;
    let mut third = connect(&mut pair.device, &fleet, &running).await;
    assert!(!may_start(&third.desired(|_| true).await), "the alarm stands");

    // One that is only suspected is dropped with the device as well.
    pair.copy.session = 0;
    let mut suspect = connect(&mut pair.copy, &fleet, &running).await;
    let id = pair.device.id();
    let revoked = running
        .core
        .change(move |state| state.set_standing(&id, Verb::Revoke, "", "test"));
    revoked.await.unwrap();
    assert_eq!(refused(&mut third).await, Code::Revoked);
    assert_eq!(refused(&mut suspect).await, Code::Revoked);
    running.stop().await.unwrap();
}
