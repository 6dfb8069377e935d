//! A rollout from the signed plan to its end, and the plans that nobody may start.

use ensign_api::{Base64, Rollout, RolloutState, StartRollout, WaveState, Why};
use ensign_bundle::digest::{Digest, PlanId};
use ensign_bundle::ids::Ident;
use ensign_bundle::plan::evidence::Lease;
use ensign_bundle::plan::statements::{Cancel, Plan};
use ensign_bundle::statement;
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::wire::{DocKind, Installed, Request};
use ensign_controller::clock;
use ensign_controller::serve::Running;
use ensign_crypto::SecretKey;
use serde_json::{Value, json};

use crate::fleet::{Answer, Client, Device, FLEET, Fleet, Package, key};

struct Scene {
    fleet: Fleet,
    running: Running,
    client: Client,
    devices: Vec<Device>,
    package: Package,
}

impl Scene {
    async fn new(devices: u8) -> Self {
        let fleet = Fleet::new();
        let running = fleet.serve().await;
        let controller = fleet.controller.public().id();
        let token = fleet.token(&running, 50, devices.into()).await;
        let devices: Vec<Device> = (0..devices).map(|n| Device::new(60 + n)).collect();
        for device in &devices {
            device.join(running.address, &controller, &token).await.unwrap();
        }
        let client = Client::new(running.address, &fleet);
        let package = fleet.package("1.0.0", &b"content ".repeat(100));
        fleet.publish(&client, &package).await;
        Self {
            fleet,
            running,
            client,
            devices,
            package,
        }
    }

    fn plan(&self) -> (Plan, Vec<Vec<ensign_api::Member>>) {
        self.fleet.plan(&self.package, &self.devices.iter().collect::<Vec<_>>())
    }

    async fn start(&self, plan: &Plan, by: &SecretKey, waves: Vec<Vec<ensign_api::Member>>) -> Answer {
        let body = StartRollout {
            plan: Base64(statement::sign(plan, &[by], &FLEET).unwrap()),
            waves,
        };
        self.client
            .post("/v1/rollouts", &serde_json::to_value(body).unwrap())
            .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_gets_what_the_plan_names_and_its_receipt_ends_the_rollout() {
    let mut scene = Scene::new(1).await;
    let controller = scene.fleet.controller.public().id();
    let (plan, waves) = scene.plan();
    let deploy = scene.fleet.deploy.clone();
    let started: Rollout = scene.start(&plan, &deploy, waves.clone()).await.json();
    // The same plan again is the same rollout.
    let again: Rollout = scene.start(&plan, &deploy, waves).await.json();
    assert_eq!(again.id, started.id);
    let address = scene.running.address;
    let (mut link, _) = scene.devices[0].connect(address, &controller).await.unwrap();
    let desired = link
        .desired(|d| d.rollout.as_ref().is_some_and(|r| r.lease.is_some()))
        .await;
    let wanted = desired.rollout.unwrap();
    assert_eq!(wanted.member.wave, 1);
    let lease = wanted.lease.unwrap();
    let lease = statement::open::<Lease>(&lease, &[key(6).public()], 1, &FLEET)
        .unwrap()
        .body;
    assert_eq!(lease.nonce, scene.devices[0].nonce);
    assert_eq!(lease.device, scene.devices[0].id());
    assert!(lease.ttl_s <= 900);

    let documents = vec![wanted.plan.digest, wanted.release.digest];
    let documents = link.fetch(&Request::Documents { digests: documents }, 2).await;
    let plan_bytes = documents[0].as_ref().unwrap();
    let digest = statement::open_unverified::<Plan>(plan_bytes).unwrap().digest();
    assert_eq!(PlanId::of(&digest), started.id);

    // Every blob of the release, and nothing of anything else.
    let manifest = scene.package.manifest;
    let mut digests: Vec<Digest> = scene.package.blobs.iter().map(|(d, _)| *d).collect();
    digests.push(Digest::of(b"nobody has this"));
    let count = digests.len();
    let blobs = link.fetch(&Request::Blobs { manifest, digests }, count).await;
    for (found, (_, bytes)) in blobs.iter().zip(&scene.package.blobs) {
        assert_eq!(found.as_ref(), Some(bytes));
    }
    assert!(blobs[count - 1].is_none());
    let other = Request::Blobs {
        manifest: Digest::of(b"another release"),
        digests: vec![scene.package.blobs[0].0],
    };
    assert_eq!(link.fetch(&other, 1).await, [None]);

    let installed = Installed {
        product: plan.product.clone(),
        version: plan.release.version.clone(),
        counter: plan.release.counter,
        manifest,
        confirmed: true,
        plan: digest,
        since: clock::unix_now(),
    };
    scene.devices[0].install(installed);
    let receipt = scene.devices[0].receipt(digest, manifest, 1);
    let report = scene.devices[0].report(1, vec![receipt]);
    link.write(&report).await;
    link.acknowledged(1).await;

    let path = format!("/v1/rollouts/{}?after={}&wait_s=20", started.id, 0);
    let done: Rollout = scene.client.get(&path).await.json();
    assert_eq!(done.state, RolloutState::Done, "{done:?}");
    assert_eq!((done.waves[0].ok, done.waves[0].failed), (1, 0));
    // Records of blocks with their framing: neither the manifest and the tables of blocks, nor what nobody has.
    let blocks = scene
        .package
        .blobs
        .iter()
        .filter(|(digest, _)| scene.package.blocks.contains(digest));
    let framed: u64 = blocks.map(|(_, b)| b.len() as u64 + 4).sum();
    assert_eq!(done.bytes.sent, framed);
    let devices: Value = scene.client.get("/v1/devices").await.json();
    assert_eq!(devices[0]["products"]["app"]["version"], "1.0.0");
    assert_eq!(devices[0]["connected"], true);
    drop(link);
    scene.running.stop().await.unwrap();

    // It is done after a restart, too.
    let running = scene.fleet.serve().await;
    let client = Client::new(running.address, &scene.fleet);
    let all: Vec<Rollout> = client.get("/v1/rollouts").await.json();
    assert_eq!(all[0].state, RolloutState::Done);
    assert_eq!(all[0].waves, done.waves);
    assert_eq!(all[0].bytes, done.bytes);
    assert!(all[0].revision > done.revision, "{} {}", all[0].revision, done.revision);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e47_plans_that_nobody_may_start_change_nothing() {
    let scene = Scene::new(2).await;
    let deploy = scene.fleet.deploy.clone();
    let refused = async |plan: &Plan, by: &SecretKey, waves| scene.start(plan, by, waves).await.refusal();

    let (plan, waves) = scene.plan();
    let (_, exit) = refused(&plan, &key(97), waves.clone()).await;
    assert_eq!(exit, 20, "another key");
    let (_, exit) = refused(&plan, &scene.fleet.release, waves.clone()).await;
    assert_eq!(exit, 20, "the key of another role");

    let mut fewer = waves.clone();
    fewer[0].pop();
    let (code, _) = refused(&plan, &deploy, fewer).await;
    assert_eq!(code, "content-mismatch", "a list that does not hash to the root");
    let mut swapped = waves.clone();
    swapped[0].reverse();
    let (code, _) = refused(&plan, &deploy, swapped).await;
    assert_eq!(code, "malformed", "a list out of order");

    let stranger = Device::new(99);
    let (unknown, lists) = scene.fleet.plan(&scene.package, &[&scene.devices[0], &stranger]);
    let (code, exit) = refused(&unknown, &deploy, lists).await;
    assert_eq!(
        (code.as_str(), exit),
        ("not-found", 32),
        "a device that is not in the fleet"
    );

    let mut other = plan.clone();
    other.release.manifest = Digest::of(b"x");
    let (code, _) = refused(&other, &deploy, waves.clone()).await;
    assert_eq!(code, "plan-mismatch");
    other = plan.clone();
    other.release.version = "9.9.9".parse().unwrap();
    let (code, _) = refused(&other, &deploy, waves.clone()).await;
    assert_eq!(code, "not-found", "a release that is not there");
    other = plan.clone();
    other.issued = 1000;
    other.expires = 2000;
    let (code, _) = refused(&other, &deploy, waves.clone()).await;
    assert_eq!(code, "plan-expired");
    assert!(scene.client.get("/v1/rollouts").await.json::<Vec<Rollout>>().is_empty());

    scene.start(&plan, &deploy, waves.clone()).await.json::<Rollout>();
    let mut replayed = plan.clone();
    replayed.reason = "once more".to_owned();
    let (code, exit) = refused(&replayed, &deploy, waves).await;
    assert_eq!((code.as_str(), exit), ("plan-replayed", 21));
    scene.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brakes_take_the_lease_away_at_once_and_a_cancel_reaches_the_device() {
    let mut scene = Scene::new(1).await;
    let controller = scene.fleet.controller.public().id();
    let (plan, waves) = scene.plan();
    let deploy = scene.fleet.deploy.clone();
    let started: Rollout = scene.start(&plan, &deploy, waves).await.json();
    let address = scene.running.address;
    let (mut link, _) = scene.devices[0].connect(address, &controller).await.unwrap();
    let leased = |d: &ensign_bundle::wire::Desired| d.rollout.as_ref().is_some_and(|r| r.lease.is_some());
    link.desired(leased).await;

    let post = async |path: &str| scene.client.post(path, &json!({})).await;
    post("/v1/fleet/freeze").await.json::<Value>();
    link.desired(|d| !leased(d)).await;
    let frozen: Rollout = scene.client.get(&format!("/v1/rollouts/{}", started.id)).await.json();
    assert!(frozen.frozen.is_some_and(|f| !f.by.is_empty() && f.since.0 > 0));
    assert_eq!(frozen.hint, "`ensign fleet unfreeze`");
    post("/v1/fleet/unfreeze").await.json::<Value>();
    link.desired(leased).await;
    let paused: Rollout = post(&format!("/v1/rollouts/{}/pause", started.id)).await.json();
    assert_eq!(paused.state, RolloutState::Paused);
    link.desired(|d| !leased(d)).await;
    post(&format!("/v1/rollouts/{}/resume", started.id))
        .await
        .json::<Rollout>();
    link.desired(leased).await;

    let cancel = |by: &SecretKey| {
        let body = Cancel {
            format: FORMAT,
            issued: clock::unix_now(),
            plan: started.plan,
            product: Ident::parse("app").unwrap(),
            reason: "no".to_owned(),
        };
        statement::sign(&body, &[by], &FLEET).unwrap()
    };
    let path = format!("/v1/rollouts/{}/cancel", started.id);
    let (_, exit) = scene.client.post_bytes(&path, &cancel(&key(97))).await.refusal();
    assert_eq!(exit, 20);
    let order = cancel(&deploy);
    let aborted: Rollout = scene.client.post_bytes(&path, &order).await.json();
    assert_eq!(aborted.state, RolloutState::Aborted);
    let told = link
        .desired(|d| d.documents.iter().any(|doc| doc.kind == DocKind::Cancel))
        .await;
    assert!(told.rollout.is_none());

    // What has ended takes no orders any more, and says where it stands; its open wave is halted.
    assert_eq!(aborted.waves[0].state, WaveState::Halted);
    for verb in ["pause", "resume"] {
        let path = format!("/v1/rollouts/{}/{verb}", started.id);
        let answer = scene.client.post(&path, &json!({})).await;
        assert!(answer.text().contains("is aborted"), "{verb}: {}", answer.text());
        let (code, exit) = answer.refusal();
        assert_eq!((code.as_str(), exit), ("conflict", 33), "{verb}");
    }
    assert_eq!(
        scene.client.post_bytes(&path, &order).await.status,
        200,
        "the same statement again"
    );
    let another = {
        let mut body = statement::open_unverified::<Cancel>(&order).unwrap().body;
        body.reason = "another".to_owned();
        statement::sign(&body, &[&deploy], &FLEET).unwrap()
    };
    let (code, exit) = scene.client.post_bytes(&path, &another).await.refusal();
    assert_eq!((code.as_str(), exit), ("conflict", 33));
    scene.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_told_apart_from_what_its_last_rollout_says() {
    let scene = Scene::new(2).await;
    let (plan, waves) = scene.fleet.plan(&scene.package, &[&scene.devices[0]]);
    let started: Rollout = scene.start(&plan, &scene.fleet.deploy.clone(), waves).await.json();
    let why = async |device: &Device| {
        let path = format!("/v1/devices/{}/why", device.id());
        scene.client.get(&path).await.json::<Why>()
    };
    let outside = why(&scene.devices[1]).await;
    let reason = outside.reason.unwrap();
    assert_eq!(
        (reason.code.name(), outside.rollout, outside.wave),
        ("not-in-plan", Some(started.id), None)
    );
    let path = format!("/v1/devices/{}/suspend", scene.devices[0].id());
    scene
        .client
        .post(&path, &json!({"reason": "stolen"}))
        .await
        .json::<Value>();
    let suspended = why(&scene.devices[0]).await;
    let reason = suspended.reason.unwrap();
    assert_eq!(reason.code.name(), "suspended");
    assert!(
        reason.text.contains(" by ") && reason.text.ends_with(": stolen"),
        "{}",
        reason.text
    );
    assert!(
        suspended.hint.starts_with("`ensign device unsuspend "),
        "{}",
        suspended.hint
    );
    scene.running.stop().await.unwrap();
}
