//! New targets: what is listed stays valid, or its renewed document comes along.

use ensign_api::{Base64, Metadata, MetadataKind, NewTargets};
use ensign_bundle::statement;
use ensign_bundle::trust::issue::Next as _;
use ensign_bundle::trust::roles::{Product, Release, Targets};
use ensign_controller::clock;
use ensign_crypto::SecretKey;

use crate::fleet::{Answer, Client, FLEET, Fleet, Package, key};

async fn current(client: &Client) -> Targets {
    let documents: Vec<Metadata> = client.get("/v1/metadata").await.json();
    let targets = documents.iter().find(|d| d.kind == MetadataKind::Targets).unwrap();
    statement::open_unverified::<Targets>(&targets.bytes.0).unwrap().body
}

async fn next(client: &Client, fleet: &Fleet, change: impl FnOnce(&mut Product)) -> Vec<u8> {
    let mut targets = current(client).await.next(clock::unix_now()).unwrap();
    change(&mut targets.products[0]);
    statement::sign(&targets, &[&fleet.targets], &FLEET).unwrap()
}

fn renewed(package: &Package, key: &SecretKey, change: impl FnOnce(&mut Release)) -> Vec<u8> {
    let release = statement::open_unverified::<Release>(&package.document).unwrap().body;
    let mut release = release.next(clock::unix_now()).unwrap();
    change(&mut release);
    statement::sign(&release, &[key], &FLEET).unwrap()
}

async fn publish(client: &Client, targets: Vec<u8>, releases: &[Vec<u8>]) -> Answer {
    let new = NewTargets {
        targets: Base64(targets),
        releases: releases.iter().cloned().map(Base64).collect(),
    };
    let body = serde_json::to_value(&new).unwrap();
    client.post("/v1/metadata/targets", &body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_that_would_invalidate_what_is_listed_come_with_its_renewal_or_not_at_all() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let client = Client::new(running.address, &fleet);
    let (one, two) = (fleet.package("1.0.0", b"one"), fleet.package("2.0.0", b"two"));
    fleet.publish(&client, &one).await;
    fleet.publish(&client, &two).await;
    let new_key = key(70);
    let other_keys = next(&client, &fleet, |product| product.role.keys = vec![new_key.public()]).await;
    let (code, exit) = client.post_bytes("/v1/metadata/targets", &other_keys).await.refusal();
    assert_eq!((code.as_str(), exit), ("conflict", 33));
    let renew = |package| renewed(package, &new_key, |_| {});
    let (code, exit) = publish(&client, other_keys.clone(), &[renew(&one)]).await.refusal();
    assert_eq!((code.as_str(), exit), ("conflict", 33), "one is missing");
    let other_content = renewed(&two, &new_key, |release| release.counter += 1);
    let (code, _) = publish(&client, other_keys.clone(), &[renew(&one), other_content])
        .await
        .refusal();
    assert_eq!(code, "already-published");
    let by_old_key = renewed(&two, &fleet.release, |_| {});
    let (_, exit) = publish(&client, other_keys.clone(), &[renew(&one), by_old_key])
        .await
        .refusal();
    assert_eq!(exit, 20);
    assert_eq!(current(&client).await.version, 1);
    let answer = publish(&client, other_keys, &[renew(&one), renew(&two)]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(current(&client).await.version, 2);
    // The new key signs from now on: a withdrawal, as the next version of the document.
    let yanked = renewed(&two, &new_key, |release| {
        release.version = 3;
        release.yanked = Some("eats files".into());
    });
    let answer = client.post_bytes("/v1/releases", &yanked).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (code, _) = client.post_bytes("/v1/releases", &renew(&two)).await.refusal();
    assert_eq!(code, "rollback-refused");
    running.stop().await.unwrap();
    // What was accepted together is still whole after a restart.
    let running = fleet.serve().await;
    let check = running.core.read(|s| s.roles.machine.delegated().len()).await.unwrap();
    assert_eq!(check, 2);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_are_not_drawn_through_a_published_release() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let client = Client::new(running.address, &fleet);
    fleet.publish(&client, &fleet.package("1.0.0", b"one")).await;
    for narrow in [
        (|product: &mut Product| product.components = vec!["pos-*".into()]) as fn(&mut Product),
        |product| product.kinds = vec!["image".into()],
    ] {
        let targets = next(&client, &fleet, narrow).await;
        let (code, exit) = client.post_bytes("/v1/metadata/targets", &targets).await.refusal();
        assert_eq!((code.as_str(), exit), ("conflict", 33));
    }
    let fitting = next(&client, &fleet, |product| product.components = vec!["web".into()]).await;
    assert_eq!(client.post_bytes("/v1/metadata/targets", &fitting).await.status, 200);
    // Below the lowest counter it leaves the snapshot.
    let higher = next(&client, &fleet, |product| product.lowest = u64::MAX).await;
    assert_eq!(client.post_bytes("/v1/metadata/targets", &higher).await.status, 200);
    assert_eq!(running.core.read(|s| s.releases.len()).await.unwrap(), 0);
    let lower = next(&client, &fleet, |product| product.lowest = 0).await;
    let (code, exit) = client.post_bytes("/v1/metadata/targets", &lower).await.refusal();
    assert_eq!((code.as_str(), exit), ("rollback-refused", 21));
    running.stop().await.unwrap();
}
