//! What a device may be called, and whom a word means.

use ensign_bundle::reason::Code;
use ensign_controller::core::State;

use crate::fleet::{Client, Device, Fleet, known};

/// Names that could be taken for something else are refused by the controller too, whatever a device says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_joins_under_a_name_that_means_something_else() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    for name in ["deadbeef", "all", "-x", "../x"] {
        let mut device = Device::new(60);
        name.clone_into(&mut device.name);
        let refusal = device.join(running.address, &controller, &token).await.unwrap_err();
        assert_eq!(refusal.code, Code::Usage, "{name}: {}", refusal.text);
        assert!(known(&running, device.id()).await.is_none(), "{name}");
    }
    // The one use of the token is still there.
    Device::new(61)
        .join(running.address, &controller, &token)
        .await
        .unwrap();
    running.stop().await.unwrap();
}

/// Ledgers may hold such names from before they were refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_also_the_beginning_of_another_id_means_neither() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 2).await;
    let (one, other) = (Device::new(60), Device::new(61));
    for device in [&one, &other] {
        device.join(running.address, &controller, &token).await.unwrap();
    }
    let ids = [one.id(), other.id()];
    let prefix = ids[1].to_string()[..8].to_owned();
    let client = Client::new(running.address, &fleet);
    let ask = async |word: &str| client.get(&format!("/v1/devices/{word}")).await;
    assert_eq!(ask(&prefix).await.status, 200);
    assert_eq!(ask(&prefix[..7]).await.refusal(), ("not-found".to_owned(), 32));
    let name = prefix.clone();
    let rename = move |state: &mut State| {
        name.clone_into(&mut state.devices.get_mut(&ids[0]).unwrap().name);
        state.names.insert(name, ids[0]);
        Ok(())
    };
    running.core.change(rename).await.unwrap();
    let answer = ask(&prefix).await;
    assert_eq!(answer.refusal(), ("conflict".to_owned(), 33));
    for id in ids {
        assert!(answer.text().contains(&id.to_string()), "{}", answer.text());
        assert_eq!(ask(&id.to_string()).await.status, 200, "a whole id means one");
    }
    running.stop().await.unwrap();
}
