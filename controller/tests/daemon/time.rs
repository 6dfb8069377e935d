//! The time that devices without a clock are told.

use ensign_bundle::plan::evidence::TimeAttestation;
use ensign_bundle::statement;
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
