//! The time that devices without a clock are told.

use ensign_api::{Base64, Rollout, RolloutState, StartRollout};
use ensign_bundle::plan::evidence::TimeAttestation;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::statement;
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::Root;
use ensign_bundle::wire::FromDevice;
use ensign_controller::clock;
use ensign_controller::config::Config;
use ensign_controller::core::State;
use ensign_controller::serve::Running;

use crate::fleet::{Client, Device, FLEET, Fleet, key};

const DAY: u64 = 24 * 3600;

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

/// Does this at another time than it is.
async fn at<T: Send + 'static>(
    running: &Running,
    time: u64,
    synchronised: bool,
    job: impl FnOnce(&mut State) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let moved = move |state: &mut State| {
        (state.now, state.synchronised) = (time, synchronised);
        job(state)
    };
    running.core.change(moved).await
}

/// Whether a device that connects at this time is told it, and what people are told of the clock.
async fn attests(running: &Running, device: &mut Device, time: u64, synchronised: bool) -> (bool, Option<Code>) {
    device.session += 1;
    let FromDevice::Hello(hello) = device.hello() else {
        panic!("hello is a hello")
    };
    let peer = device.tls.public().id();
    let connect = move |state: &mut State| {
        let welcome = state.connect(&peer, 1000 + time, &hello)?.welcome;
        Ok((
            !welcome.time.is_empty(),
            state.view_fleet().clock.map(|reason| reason.code),
        ))
    };
    at(running, time, synchronised, connect).await.unwrap()
}

/// A device would keep the time as a floor, and take nothing until the timestamp key is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_far_ahead_is_attested_to_nobody() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    let mut device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    let root = running.core.read(|state| state.roles.root().expires).await.unwrap();
    let now = clock::unix_now();
    // Within the life of a timestamp, beyond it, beyond it where something keeps the clock; at the end of root; in 2100.
    for (time, synchronised, told) in [
        (now, false, true),
        (now + 12 * 3600, false, true),
        (now + 4 * DAY, false, false),
        (root, true, false),
        (4_102_444_800, false, false),
    ] {
        let doubt = (!told).then_some(Code::ClockSuspect);
        let answer = attests(&running, &mut device, time, synchronised).await;
        assert_eq!(answer, (told, doubt), "{time} {synchronised}");
    }
    // Right again: as if nothing had been.
    let (_link, welcome) = device.connect(running.address, &controller).await.unwrap();
    assert!(!welcome.time.is_empty());
    running.stop().await.unwrap();
}

/// What keeps the clock vouches for it, and where nothing does, whoever runs the controller may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_somebody_vouches_for_is_believed() {
    for (synchronised, trust_clock) in [(true, false), (false, true)] {
        let fleet = Fleet::new();
        let config = Config {
            trust_clock,
            ..Config::default()
        };
        let running = fleet.serve_as(&fleet.kit(), config).await.unwrap();
        let controller = fleet.controller.public().id();
        let token = fleet.token(&running, 50, 1).await;
        let mut device = Device::new(60);
        device.join(running.address, &controller, &token).await.unwrap();
        let later = clock::unix_now() + 4 * DAY;
        // What has expired by then is renewed first.
        at(&running, later, synchronised, State::reconcile).await.unwrap();
        let answer = attests(&running, &mut device, later, synchronised).await;
        assert_eq!(answer, (true, None), "{synchronised}");
        running.stop().await.unwrap();
    }
}

/// No role is signed with a time that is not believed, be it renewed or published, and no rule goes by it. What people signed then makes
/// it one that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_far_ahead_signs_nothing_and_ends_nothing() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    let device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    let client = Client::new(running.address, &fleet);
    let package = fleet.package("1.0.0", b"hello");
    fleet.publish(&client, &package).await;
    let (plan, waves) = fleet.plan(&package, &[&device]);
    let late = plan.expires + 10 * DAY;
    let plan = Base64(statement::sign(&plan, &[&fleet.deploy], &FLEET).unwrap());
    let body = serde_json::to_value(StartRollout { plan, waves }).unwrap();
    let started: Rollout = client.post("/v1/rollouts", &body).await.json();
    let path = format!("/v1/rollouts/{}", started.id);
    let root = |issued| {
        let root = statement::open_unverified::<Root>(&std::fs::read(fleet.kit().join("root.cbor")).unwrap());
        let next = root.unwrap().body.next(issued).unwrap();
        statement::sign(&next, &[&key(1)], &FLEET).unwrap()
    };
    let versions = async || {
        let read = |state: &State| (state.roles.root().version, state.roles.timestamp.version);
        running.core.read(read).await.unwrap()
    };
    let before = versions().await;
    let next = root(clock::unix_now());
    let refused = at(&running, late, false, |state| state.publish_root(next, None)).await;
    assert_eq!(refused.unwrap_err().code, Code::ClockSuspect);
    // A timestamp alone is due first, then a snapshot too.
    for time in [clock::unix_now() + 4 * DAY, late] {
        at(&running, time, false, State::reconcile).await.unwrap();
    }
    assert_eq!(versions().await, before, "neither published nor renewed");
    let state = client.get(&path).await.json::<Rollout>().state;
    assert_eq!(state, started.state, "it has not expired");

    let next = root(late);
    let publish = |state: &mut State| {
        state.publish_root(next, None)?;
        state.reconcile()
    };
    at(&running, late, false, publish).await.unwrap();
    let after = versions().await;
    assert_eq!(after.0, before.0 + 1);
    assert!(after.1 >= late, "{after:?}");
    let state = client.get(&path).await.json::<Rollout>().state;
    assert_eq!(state, RolloutState::Expired);
    running.stop().await.unwrap();
}
