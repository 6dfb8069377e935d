//! Releases over the operators' API: whole or not at all.

use ensign_api::{Metadata, Release};
use ensign_bundle::digest::Digest;
use serde_json::json;

use crate::fleet::{Client, Fleet, batch};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_without_a_login_and_little_to_a_viewer() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let mut client = Client::new(running.address, &fleet);
    assert_eq!(client.get("/v1/fleet").await.status, 200);
    client.token = "wrong".to_owned();
    for path in [
        "/v1/fleet",
        "/v1/devices",
        "/v1/rollouts",
        "/v1/metadata",
        "/v1/evidence",
    ] {
        let (code, exit) = client.get(path).await.refusal();
        assert_eq!((code.as_str(), exit), ("not-authorised", 31), "{path}");
    }
    client.token = "viewer".to_owned();
    assert_eq!(client.get("/v1/fleet").await.status, 200);
    let (code, _) = client.post("/v1/fleet/freeze", &json!({})).await.refusal();
    assert_eq!(code, "not-authorised");
    for (path, expected) in [
        ("/v1/nothing", "not-found"),
        ("/v1/blobs", "usage"),
        ("/v1/metadata?root=x", "usage"),
        ("/v1/devices/nobody", "not-found"),
        ("/v1/releases/app/1.0.0", "not-found"),
        ("/v1/releases/App/1.0.0", "usage"),
        ("/v1/documents/00", "usage"),
    ] {
        let (code, _) = client.get(path).await.refusal();
        assert_eq!(code, expected, "{path}");
    }
    client.token = crate::fleet::API_TOKEN.to_owned();
    let (code, _) = client.post_bytes("/v1/tokens", b"{").await.refusal();
    assert_eq!(code, "usage");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_with_missing_blocks_is_refused() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let client = Client::new(running.address, &fleet);
    let package = fleet.package("1.0.0", &b"content ".repeat(1000));
    for left_out in 0..package.blobs.len() {
        let fewer = package.blobs.iter().enumerate().filter(|(i, _)| *i != left_out);
        let fewer: Vec<_> = fewer.map(|(_, blob)| blob.clone()).collect();
        let fresh = Fleet::new();
        let other = fresh.serve().await;
        let client = Client::new(other.address, &fresh);
        assert_eq!(client.post_bytes("/v1/blobs", &batch(&fewer)).await.status, 200);
        let (code, exit) = client.post_bytes("/v1/releases", &package.document).await.refusal();
        assert_eq!(
            (code.as_str(), exit),
            ("content-mismatch", 23),
            "without blob {left_out}"
        );
        assert!(client.get("/v1/releases").await.json::<Vec<Release>>().is_empty());
        other.stop().await.unwrap();
    }
    let before = client.get("/v1/metadata").await.json::<Vec<Metadata>>();
    fleet.publish(&client, &package).await;
    let releases: Vec<Release> = client.get("/v1/releases").await.json();
    assert_eq!(releases.len(), 1);
    assert_eq!(releases[0].verdict, "ok");
    assert_eq!(releases[0].bytes, 8000);
    assert!(releases[0].signatures.iter().all(|s| s.valid && s.role == "release"));
    let after = client.get("/v1/metadata").await.json::<Vec<Metadata>>();
    assert_ne!(before, after);
    // The same bytes again: nothing changes, not even the snapshot.
    fleet.publish(&client, &package).await;
    assert_eq!(client.get("/v1/metadata").await.json::<Vec<Metadata>>(), after);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_has_one_content_and_one_set_of_signers() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let client = Client::new(running.address, &fleet);
    fleet.publish(&client, &fleet.package("1.0.0", b"one")).await;
    let other = fleet.package("1.0.0", b"two");
    client.post_bytes("/v1/blobs", &batch(&other.blobs)).await;
    let (code, exit) = client.post_bytes("/v1/releases", &other.document).await.refusal();
    assert_eq!((code.as_str(), exit), ("already-published", 33));

    let mut thief = Fleet::new();
    thief.release = crate::fleet::key(98);
    let forged = thief.package("1.1.0", b"three");
    client.post_bytes("/v1/blobs", &batch(&forged.blobs)).await;
    let (_, exit) = client.post_bytes("/v1/releases", &forged.document).await.refusal();
    assert_eq!(exit, 20);
    assert_eq!(client.get("/v1/releases").await.json::<Vec<Release>>().len(), 1);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_are_what_their_digest_says() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let client = Client::new(running.address, &fleet);
    let (good, bad) = (b"good".to_vec(), b"bad".to_vec());
    let digest = Digest::of(&good);
    let (_, exit) = client.post_bytes("/v1/blobs", &batch(&[(digest, bad)])).await.refusal();
    assert_eq!(exit, 23);
    let missing = client.post("/v1/blobs/missing", &json!({"digests": [digest]})).await;
    assert_eq!(missing.json::<serde_json::Value>(), json!({"missing": [digest]}));
    client.post_bytes("/v1/blobs", &batch(&[(digest, good)])).await;
    let missing = client.post("/v1/blobs/missing", &json!({"digests": [digest]})).await;
    assert_eq!(missing.json::<serde_json::Value>(), json!({"missing": []}));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_repeated_counts_once_and_a_bad_path_gets_an_error_document() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let client = Client::new(running.address, &fleet);
    let blob = (Digest::of(b"twice"), b"twice".to_vec());
    let answer = client.post_bytes("/v1/blobs", &batch(&[blob.clone(), blob])).await;
    assert_eq!(answer.json::<serde_json::Value>()["stored"], 1);
    let (code, exit) = client.get("/v1/devices/%ff").await.refusal();
    assert_eq!((code.as_str(), exit), ("usage", 2));
    running.stop().await.unwrap();
}
