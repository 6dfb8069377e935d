//! The time that devices without a clock are told.

use ensign_bundle::plan::evidence::TimeAttestation;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::wire::FromDevice;
use ensign_controller::clock;

use crate::fleet::{Device, FLEET, Fleet, key};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn welcome_attests_the_time_for_one_device_and_one_nonce() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 2).await;
    for seed in [60, 61] {
        let mut device = Device::new(seed);
        device.join(running.address, &controller, &token).await.unwrap();
        let before = clock::unix_now();
        let (_link, welcome) = device.connect(running.address, &controller).await.unwrap();
        // Signed by the timestamp key and no other.
        let open = |seed| statement::open::<TimeAttestation>(&welcome.time, &[key(seed).public()], 1, &FLEET);
        assert!(open(5).is_err(), "by the snapshot key");
        let time = open(6).unwrap().body;
        assert_eq!(
            (time.fleet, time.device, time.nonce),
            (FLEET, device.id(), device.nonce)
        );
        assert!((before..=clock::unix_now()).contains(&time.time), "{}", time.time);
    }
    running.stop().await.unwrap();
}

/// A device would keep the time as a floor, and take nothing until the timestamp key is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_far_ahead_is_attested_to_nobody() {
    const DAY: u64 = 24 * 3600;
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    let mut device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    let root = running.core.read(|state| state.roles.root().expires).await.unwrap();
    let now = clock::unix_now();
    // Within the life of a timestamp, beyond it, beyond it where something keeps the clock; at the end of root; in 2100.
    for (time, synchronised, attests) in [
        (now, false, true),
        (now + 12 * 3600, false, true),
        (now + 4 * DAY, false, false),
        (root, true, false),
        (4_102_444_800, false, false),
    ] {
        device.session += 1;
        let FromDevice::Hello(hello) = device.hello() else {
            panic!("hello is a hello")
        };
        let peer = device.tls.public().id();
        let (welcome, shown) = running
            .core
            .change(move |state| {
                (state.now, state.synchronised) = (time, synchronised);
                let welcome = state.connect(&peer, 1000 + time, &hello)?.welcome;
                Ok((welcome, state.view_fleet().clock))
            })
            .await
            .unwrap();
        assert_eq!(!welcome.time.is_empty(), attests, "{time}");
        assert_eq!(
            shown.map(|reason| reason.code),
            (!attests).then_some(Code::ClockSuspect),
            "{time}"
        );
    }
    // Right again: as if nothing had been.
    let (_link, welcome) = device.connect(running.address, &controller).await.unwrap();
    assert!(!welcome.time.is_empty());
    running.stop().await.unwrap();
}
