//! Joining: the way in, and each way to be turned away.

use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::wire::{self, EnrollReply, EnrollStep};
use ensign_controller::clock;
use ensign_crypto::SecretKey;

use crate::fleet::{Device, Fleet, key, known};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_joins_once_however_often_it_asks() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    let device = Device::new(60);
    let joined = device.join(running.address, &controller, &token).await.unwrap();
    assert_eq!(joined, ("dev60".to_owned(), true));
    // Its answer may have been lost: the same device again uses nothing up.
    let again = device.join(running.address, &controller, &token).await.unwrap();
    assert_eq!(again, joined);
    let row = known(&running, device.id()).await.unwrap();
    assert_eq!(row.labels.len(), 1);
    assert_eq!(row.receipt_key, device.receipt.public());
    let public = token.public();
    let used = running
        .core
        .read(move |state| state.tokens[&public].used)
        .await
        .unwrap();
    assert_eq!(used, 1);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e70_each_token_that_is_no_good_has_its_own_code() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let join = async |device: &Device, token: &SecretKey| device.join(running.address, &controller, token).await;

    let unknown = join(&Device::new(61), &key(51)).await.unwrap_err();
    assert_eq!(unknown.code, Code::TokenUnknown);

    let once = fleet.token(&running, 52, 1).await;
    join(&Device::new(62), &once).await.unwrap();
    let used = join(&Device::new(63), &once).await.unwrap_err();
    assert_eq!(used.code, Code::TokenUsedUp);

    // Nobody makes one that lives for ever, or that was over before it began.
    let grant = |life: u64| fleet.grant(&key(56), 1, clock::unix_now() + life, true);
    for (grant, code) in [
        (grant(401 * 24 * 3600), Code::LifetimeRefused),
        (grant(0), Code::TokenExpired),
    ] {
        let made = running.core.change(move |state| state.create_token(&grant)).await;
        assert_eq!(made.unwrap_err().code, code);
    }

    let revoked = fleet.token(&running, 53, 5).await;
    let public = revoked.public();
    running
        .core
        .change(move |state| state.revoke_token(&public, "", "test"))
        .await
        .unwrap();
    let refusal = join(&Device::new(64), &revoked).await.unwrap_err();
    assert_eq!(refusal.code, Code::TokenRevoked);

    let short = key(54);
    let grant = fleet.grant(&short, 1, clock::unix_now() + 1, true);
    running
        .core
        .change(move |state| state.create_token(&grant))
        .await
        .unwrap();
    let public = short.public();
    running
        .core
        .change(move |state| {
            if let Some(row) = state.tokens.get_mut(&public) {
                row.expires = 1;
            }
            Ok(())
        })
        .await
        .unwrap();
    let expired = join(&Device::new(65), &short).await.unwrap_err();
    assert_eq!(expired.code, Code::TokenExpired);
    assert!(known(&running, Device::new(65).id()).await.is_none());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e70_the_last_use_of_a_token_goes_to_one_device() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 55, 2).await;
    let devices: Vec<Device> = (70..76).map(Device::new).collect();
    let mut tries = tokio::task::JoinSet::new();
    for device in devices {
        let (address, token) = (running.address, token.clone());
        tries.spawn(async move { device.join(address, &controller, &token).await });
    }
    let results = tries.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 2, "{results:?}");
    assert!(
        results
            .iter()
            .filter_map(|r| r.as_ref().err())
            .all(|r| r.code == Code::TokenUsedUp),
        "{results:?}"
    );
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e70_a_binding_counts_only_with_three_signatures_on_its_own_connection() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 56, 5).await;
    let (device, thief) = (Device::new(77), Device::new(78));

    let mut link = device.dial(running.address, &controller, wire::ALPN_ENROLL).await;
    link.write(&wire::Enroll {
        protocol: wire::PROTOCOL,
        step: EnrollStep::Ask { token: token.public() },
    })
    .await;
    let EnrollReply::Granted { grant, roots } = link.read::<EnrollReply>().await else {
        panic!("the token is good");
    };
    assert_eq!(roots.len(), 1);
    let open = || statement::open_unverified(&grant).unwrap();
    let binding = device.binding(&token, &open());

    // The same binding on the connection of another device.
    let mut other = thief.dial(running.address, &controller, wire::ALPN_ENROLL).await;
    let refusal = thief.show(&mut other, binding.clone()).await.unwrap_err();
    assert_eq!(refusal.code, Code::WrongDevice);

    // Signed with another seed than the token's: whoever knows the public key alone cannot join.
    let forged = {
        let mut body = statement::open_unverified::<ensign_bundle::plan::evidence::Binding>(&binding)
            .unwrap()
            .body;
        body.token = token.public();
        statement::sign(&body, &[&key(99), &device.tls, &device.receipt], &crate::fleet::FLEET).unwrap()
    };
    let refusal = device.show(&mut link, forged).await.unwrap_err();
    assert_eq!(refusal.code.exit(), 20, "{refusal:?}");

    device.show(&mut link, binding).await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_of_one_name_are_told_apart() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 57, 2).await;
    let (first, mut second) = (Device::new(80), Device::new(81));
    second.name.clone_from(&first.name);
    let (name, _) = first.join(running.address, &controller, &token).await.unwrap();
    let (other, _) = second.join(running.address, &controller, &token).await.unwrap();
    assert_ne!(name, other);
    assert!(other.starts_with(&name), "{other}");
    running.stop().await.unwrap();
}
