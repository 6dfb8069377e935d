//! Many strangers at once: operators and enrolled devices have rooms of their own.

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use ensign_bundle::wire;
use hyper::Method;
use tokio::net::{TcpStream, UdpSocket};

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

/// First packets of so many connections, none of which will go on: a trap in the place of the controller has caught them.
async fn first_packets(fleet: &Fleet, count: usize) -> VecDeque<Vec<u8>> {
    let trap = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = trap.local_addr().unwrap();
    let client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = crate::fleet::client_config(&key(90), fleet.controller.public().id(), wire::ALPN);
    let connect = || client.connect_with(config.clone(), address, "controller").unwrap();
    let mut connecting = Vec::new();
    let (mut caught, mut seen) = (VecDeque::new(), BTreeSet::new());
    let mut buffer = [0; 2048];
    while caught.len() < count {
        // One after the other: the trap's buffer holds few.
        connecting.push(connect());
        loop {
            let (length, _) = within(trap.recv_from(&mut buffer)).await.unwrap();
            let packet = &buffer[..length];
            // A long header (RFC 9000 §17.2): the connection id is behind flags, version and its own length.
            let id = packet[6..6 + usize::from(packet[5])].to_vec();
            if seen.insert(id) {
                caught.push_back(packet.to_vec());
                break;
            }
        }
    }
    caught
}

/// Whether the answer to this first packet is a Retry; none within a second is no answer.
async fn is_retried(controller: SocketAddr, packet: &[u8]) -> Option<bool> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(packet, controller).await.unwrap();
    let mut buffer = [0; 2048];
    let answer = tokio::time::timeout(Duration::from_secs(1), socket.recv_from(&mut buffer)).await;
    answer.ok().map(|received| {
        received.unwrap();
        // Long header, type 3 (RFC 9000 §17.2.5).
        buffer[0] & 0xb0 == 0xb0
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e73_many_unfinished_handshakes_make_addresses_prove_themselves_until_they_are_given_up() {
    let fleet = Fleet::new();
    let running = fleet.serve().await;
    let controller = fleet.controller.public().id();
    let token = fleet.token(&running, 50, 1).await;
    let mut device = Device::new(60);
    device.join(running.address, &controller, &token).await.unwrap();
    let mut packets = first_packets(&fleet, 160).await;
    assert_ne!(
        is_retried(running.address, &packets[0]).await,
        Some(true),
        "nobody waits yet"
    );
    packets.pop_front();
    // More than may wait before that; what is lost on the way or comes late is sent once more by the next ones.
    let flood = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for packet in packets.drain(..80) {
        flood.send_to(&packet, running.address).await.unwrap();
    }
    let mut retried = false;
    for packet in packets.drain(..40) {
        retried |= is_retried(running.address, &packet).await == Some(true);
        if retried {
            break;
        }
    }
    assert!(retried, "a first packet costs nothing but its answer");
    // A device proves its address, and is served in the midst of it.
    let (mut link, _): (Link, _) = device.connect(running.address, &controller).await.unwrap();
    link.desired(|_| true).await;
    // The places are free again, long before the idle time of a connection.
    let patience = Duration::from_secs(30);
    let given_up = tokio::time::timeout(patience, async {
        while is_retried(running.address, &packets[0]).await == Some(true) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    given_up.await.expect("unfinished handshakes are given up");
    running.stop().await.unwrap();
}
