//! Many strangers at once: operators and enrolled devices have rooms of their own.

use std::io::ErrorKind;

use ensign_bundle::wire;
use hyper::Method;
use tokio::net::TcpStream;

use crate::fleet::{Client, Device, Fleet, Kept, Link, key, within};

/// More than either room of strangers holds, and than the room that operators have by default.
const CROWD: usize = 700;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_gets_in_past_idle_connections() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let mut idle = Vec::new();
    for _ in 0..CROWD {
        idle.push(within(TcpStream::connect(running.address)).await.unwrap());
    }
    let client = Client::new(running.address, &fleet);
    assert_eq!(client.get("/v1/fleet").await.status, 200);
    // The crowd was not waited out: all but its oldest are still there.
    let is_open =
        |stream: &&TcpStream| matches!(stream.try_read(&mut [0]), Err(e) if e.kind() == ErrorKind::WouldBlock);
    let open = idle.iter().filter(is_open).count();
    assert!(open > CROWD / 2, "{open} of {CROWD} are left");
    running.stop().await.unwrap();
}

/// Who has done the work of a handshake shares places with others who have, whether or not a token was shown yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_handshake_is_kept_past_idle_connections() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let mut client = Client::new(running.address, &fleet);
    client.token = "of nobody".to_owned();
    let mut kept = within(client.connect()).await.unwrap();
    let ask = async |kept: &mut Kept| {
        let answer = kept.call(Method::GET, "/v1/fleet", "application/json", Vec::new());
        within(answer).await.map(|answer| answer.status)
    };
    assert_eq!(ask(&mut kept).await.unwrap(), 403);
    let mut idle = Vec::new();
    for _ in 0..CROWD {
        idle.push(within(TcpStream::connect(running.address)).await.unwrap());
    }
    // Served in the order in which they came: the whole crowd has its places, or has lost them.
    assert_eq!(Client::new(running.address, &fleet).get("/v1/fleet").await.status, 200);
    assert_eq!(ask(&mut kept).await.unwrap(), 403);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e73_enrolled_devices_get_in_past_joiners_and_strangers() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    let mut device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    // One socket for the whole crowd: each connection is one of its own to the controller.
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut crowd = Vec::new();
    for n in 0..1200 {
        let alpn = if n % 2 == 0 { wire::ALPN_ENROLL } else { wire::ALPN };
        let config = crate::fleet::client_config(&key(90), controller, alpn);
        let connecting = endpoint.connect_with(config, running.address, "controller").unwrap();
        // Says nothing from now on.
        if let Ok(connection) = within(connecting).await {
            crowd.push(connection);
        }
    }
    let (mut link, _): (Link, _) = device.connect(running.address, &controller).await.unwrap();
    link.desired(|_| true).await;
    drop(crowd);
    running.stop().await.unwrap();
}
