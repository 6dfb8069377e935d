//! Plans whose documents are damaged on disk: their rollouts are halted or stay ended, everything else goes on.

use ensign_api::{Base64, Rollout, RolloutState, SignedPlan, StartRollout, Why};
use ensign_bundle::digest::Digest;
use ensign_bundle::ids::Ident;
use ensign_bundle::plan::statements::Cancel;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::FORMAT;
use ensign_controller::clock;
use ensign_controller::serve::Running;
use serde_json::{Value, json};

use crate::fleet::{Client, Device, FLEET, Fleet};

/// Devices that joined, and releases for them.
struct Scene {
    fleet: Fleet,
    devices: Vec<Device>,
}

/// A rollout of one version to one device.
struct Started {
    body: Value,
    id: String,
    plan: Digest,
    /// Of its envelope.
    document: Digest,
}

impl Scene {
    async fn new() -> (Self, Running, Client) {
        let fleet = Fleet::new();
        let running = fleet.serve().await;
        let token = fleet.token(&running, 50, 2).await;
        let devices = vec![Device::new(60), Device::new(61)];
        for device in &devices {
            let controller = fleet.controller.public().id();
            device.join(running.address, &controller, &token).await.unwrap();
        }
        let client = Client::new(running.address, &fleet);
        (Self { fleet, devices }, running, client)
    }

    async fn start(&self, client: &Client, version: &str, device: usize) -> Started {
        let package = self.fleet.package(version, b"hello");
        self.fleet.publish(client, &package).await;
        let (plan, waves) = self.fleet.plan(&package, &[&self.devices[device]]);
        let signed = statement::sign(&plan, &[&self.fleet.deploy], &FLEET).unwrap();
        let document = Digest::of(&signed);
        let body = serde_json::to_value(StartRollout {
            plan: Base64(signed),
            waves,
        })
        .unwrap();
        let started: Rollout = client.post("/v1/rollouts", &body).await.json();
        Started {
            body,
            id: started.id.to_string(),
            plan: started.plan,
            document,
        }
    }

    fn cancel(&self, plan: Digest) -> Vec<u8> {
        let cancel = Cancel {
            format: FORMAT,
            issued: clock::unix_now(),
            plan,
            product: Ident::parse("app").unwrap(),
            reason: "no".to_owned(),
        };
        statement::sign(&cancel, &[&self.fleet.deploy], &FLEET).unwrap()
    }

    async fn again(&self, running: Running) -> (Running, Client) {
        running.stop().await.unwrap();
        let running = self.fleet.serve().await;
        let client = Client::new(running.address, &self.fleet);
        (running, client)
    }
}

async fn rollout(client: &Client, id: &str) -> Rollout {
    client.get(&format!("/v1/rollouts/{id}")).await.json()
}

/// What an operator orders, and the state after it or the code of the refusal.
async fn order(client: &Client, id: &str, verb: &str) -> Result<RolloutState, String> {
    let answer = client.post(&format!("/v1/rollouts/{id}/{verb}"), &json!({})).await;
    if answer.status == 200 {
        return Ok(answer.json::<Rollout>().state);
    }
    Err(answer.refusal().0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_under_way_is_halted_the_others_run_and_it_goes_on_with_its_plan_back() {
    let (mut scene, running, client) = Scene::new().await;
    let lost = scene.start(&client, "1.0.0", 0).await;
    let other = scene.start(&client, "1.1.0", 1).await;
    let whole = scene.fleet.damage(&lost.document);
    let (running, client) = scene.again(running).await;

    let shown = rollout(&client, &lost.id).await;
    assert_eq!(shown.state, RolloutState::Halted);
    assert_eq!(shown.reason.as_ref().unwrap().code.name(), "plan-lost");
    assert!(
        shown.hint.contains("rollout start --product app --version 1.0.0") && shown.hint.contains("backup"),
        "{}",
        shown.hint
    );
    let why = format!("/v1/rollouts/{}/why?device={}", lost.id, scene.devices[0].id());
    let why: Why = client.get(&why).await.json();
    assert_eq!(why.reason.unwrap().code.name(), "plan-lost");
    assert_eq!(order(&client, &lost.id, "resume").await, Err("plan-lost".to_owned()));

    // People who sign about it are told so, and see the plan of the other as it was signed.
    let plan = |id: &str| format!("/v1/rollouts/{id}/plan");
    assert_eq!(client.get(&plan(&lost.id)).await.refusal().0, "plan-lost");
    let signed: SignedPlan = client.get(&plan(&other.id)).await.json();
    let started: StartRollout = serde_json::from_value(other.body.clone()).unwrap();
    assert_eq!((signed.plan, signed.waves), (started.plan, started.waves));
    assert_eq!(signed.promotes, []);

    // The other one is in the same list, and serves its device.
    let all: Vec<Rollout> = client.get("/v1/rollouts").await.json();
    assert_eq!(all.len(), 2);
    assert_eq!(rollout(&client, &other.id).await.state, RolloutState::Running);
    let controller = scene.fleet.controller.public().id();
    let (mut link, _) = scene.devices[1].connect(running.address, &controller).await.unwrap();
    link.desired(|d| d.rollout.as_ref().is_some_and(|r| r.lease.is_some()))
        .await;
    drop(link);

    // Still halted where nothing was mended; it goes on once its plan is back.
    let (running, client) = scene.again(running).await;
    assert_eq!(order(&client, &lost.id, "resume").await, Err("plan-lost".to_owned()));
    ensign_controller::durable::write(&scene.fleet.document(&lost.document), &whole).unwrap();
    let (running, client) = scene.again(running).await;
    assert_eq!(rollout(&client, &lost.id).await.state, RolloutState::Halted);
    assert_eq!(order(&client, &lost.id, "resume").await, Ok(RolloutState::Running));
    let (mut link, _) = scene.devices[0].connect(running.address, &controller).await.unwrap();
    link.desired(|d| d.rollout.as_ref().is_some_and(|r| r.lease.is_some()))
        .await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_plan_a_rollout_can_be_ended_and_what_it_was_is_shown() {
    let (scene, running, client) = Scene::new().await;
    let lost = scene.start(&client, "1.0.0", 0).await;
    assert_eq!(order(&client, &lost.id, "pause").await, Ok(RolloutState::Paused));
    scene.fleet.damage(&lost.document);
    let (running, client) = scene.again(running).await;
    // Whoever paused it learns of it too.
    assert_eq!(rollout(&client, &lost.id).await.state, RolloutState::Halted);
    let path = format!("/v1/rollouts/{}/cancel", lost.id);
    let ended: Rollout = client.post_bytes(&path, &scene.cancel(lost.plan)).await.json();
    assert_eq!(ended.state, RolloutState::Aborted);

    let (running, client) = scene.again(running).await;
    let all: Vec<Rollout> = client.get("/v1/rollouts").await.json();
    assert_eq!(
        (all.len(), all[0].state, all[0].seq),
        (1, RolloutState::Aborted, ended.seq)
    );
    let again: Rollout = client.post("/v1/rollouts", &lost.body).await.json();
    assert_eq!(again.state, RolloutState::Aborted, "its number still counts");
    running.stop().await.unwrap();
}
