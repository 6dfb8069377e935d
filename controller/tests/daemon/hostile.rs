//! Clients that mean harm, each against a controller that serves an honest device: the harm ends with the right close code, and the
//! honest device never notices.

use std::sync::Arc;

use ensign_bundle::digest::Digest;
use ensign_bundle::ids::{Ident, Version};
use ensign_bundle::limits::FRAME_BYTES;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::wire::{self, Enroll, EnrollReply, EnrollStep, Installed, Request, ToDevice, frame};
use ensign_controller::core::Verb;
use ensign_controller::serve::Running;
use ensign_crypto::KeyId;
use quinn::{ClientConfig, ConnectionError, TransportConfig, VarInt};
use tokio::net::UdpSocket;

use crate::fleet::{Client, Device, Fleet, Link, client_config, key, known, within};

const DONE: u64 = 0;
const REFUSED: u64 = 1;
const PROTOCOL_ERROR: u64 = 2;

/// A controller with an honest device that stays connected.
struct Scene {
    fleet: Fleet,
    running: Running,
    honest: Device,
    link: Link,
    /// Of the honest device's reports.
    seq: u64,
}

impl Scene {
    async fn new() -> Self {
        let fleet = Fleet::new();
        let running = fleet.serve().await;
        let controller = fleet.controller.public().id();
        let token = fleet.token(&running, 50, 1).await;
        let mut honest = Device::new(60);
        honest.join(running.address, &controller, &token).await.unwrap();
        let (link, _) = honest.connect(running.address, &controller).await.unwrap();
        Self {
            fleet,
            running,
            honest,
            link,
            seq: 0,
        }
    }

    fn controller(&self) -> KeyId {
        self.fleet.controller.public().id()
    }

    /// Another approved device.
    async fn member(&self, seed: u8) -> Device {
        let token = self.fleet.token(&self.running, seed + 20, 1).await;
        let device = Device::new(seed);
        device
            .join(self.running.address, &self.controller(), &token)
            .await
            .unwrap();
        device
    }

    async fn dial(&self, device: &Device) -> Link {
        device.dial(self.running.address, &self.controller(), wire::ALPN).await
    }

    async fn connect(&self, device: &mut Device) -> Link {
        device
            .connect(self.running.address, &self.controller())
            .await
            .unwrap()
            .0
    }

    /// The honest device is served on the connection that it had from the start.
    async fn end(mut self) {
        self.seq += 1;
        self.link.write(&self.honest.report(self.seq, Vec::new())).await;
        self.link.acknowledged(self.seq).await;
        self.running.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e73_garbage_datagrams_cost_nothing() {
    let scene = Scene::new().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..2000_u32 {
        // Long and short headers, versions that do not exist, Initials that decrypt to nothing.
        let mut bytes: Vec<u8> = Digest::of(&n.to_be_bytes()).0.repeat(38);
        bytes[0] = [0x40, 0xc0, 0xff, 0x00, 0xe0][n as usize % 5];
        if n % 3 == 0 {
            bytes[1..5].copy_from_slice(&1_u32.to_be_bytes());
        }
        bytes.truncate([1, 20, 1200][n as usize % 3]);
        within(socket.send_to(&bytes, scene.running.address)).await.unwrap();
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_says_nothing_is_dropped() {
    let scene = Scene::new().await;
    // The stream exists for the controller once it carries something.
    let stranger = scene.dial(&Device::new(61)).await;
    assert_eq!(stranger.closed().await, (PROTOCOL_ERROR, "no hello".to_owned()));
    let device = Device::new(62);
    let joiner = device
        .dial(scene.running.address, &scene.controller(), wire::ALPN_ENROLL)
        .await;
    assert_eq!(joiner.closed().await.0, PROTOCOL_ERROR);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dribbles_its_first_frame_is_dropped() {
    let scene = Scene::new().await;
    let device = scene.member(61).await;
    let Link {
        connection,
        mut send,
        recv,
        ..
    } = scene.dial(&device).await;
    let bytes = frame::encode(&device.hello()).unwrap();
    let dribble = tokio::spawn(async move {
        let mut second = tokio::time::interval(std::time::Duration::from_secs(1));
        for byte in bytes {
            second.tick().await;
            if send.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    });
    let ConnectionError::ApplicationClosed(close) = within(connection.closed()).await else {
        panic!("the controller closes");
    };
    assert_eq!(
        (close.error_code.into_inner(), &close.reason[..]),
        (PROTOCOL_ERROR, &b"no hello"[..])
    );
    within(dribble).await.unwrap();
    drop(recv);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e74_frames_over_the_limit_end_the_connection() {
    let scene = Scene::new().await;
    let too_long = u32::try_from(FRAME_BYTES + 1).unwrap().to_be_bytes();
    // As the first frame, as a later one, and of a request.
    let mut first = scene.dial(&Device::new(61)).await;
    within(first.send.write_all(&too_long)).await.unwrap();
    assert_eq!(first.closed().await.0, PROTOCOL_ERROR);
    let mut device = scene.member(62).await;
    let mut later = scene.connect(&mut device).await;
    within(later.send.write_all(&too_long)).await.unwrap();
    assert_eq!(later.closed().await.0, PROTOCOL_ERROR);
    let link = scene.connect(&mut device).await;
    let (mut send, mut recv) = within(link.connection.open_bi()).await.unwrap();
    within(send.write_all(&too_long)).await.unwrap();
    let end = within(recv.read_to_end(1)).await.unwrap_err();
    let reset = quinn::ReadToEndError::Read(quinn::ReadError::Reset(VarInt::from_u32(2)));
    assert_eq!(end, reset, "the stream alone");
    assert!(link.connection.close_reason().is_none());
    scene.end().await;
}

/// Bodies that are no message: nothing, no CBOR, CBOR of another shape, messages that are cut, longer, or of the other side.
fn garbage() -> Vec<Vec<u8>> {
    let ack = frame::encode(&ToDevice::Ack { seq: 1 }).unwrap().split_off(4);
    let request = frame::encode(&Request::Documents { digests: Vec::new() })
        .unwrap()
        .split_off(4);
    let unsorted = b"\xa1\x66report\xa2\x63seq\x01\x63abc\x00".to_vec();
    let nested = [vec![0x81; 60_000], vec![0x80]].concat();
    let many = [&b"\x99\x40\x00"[..], &[0; 0x4000]].concat();
    let lying = b"\xa1\x66report\x9b\xff\xff\xff\xff\xff\xff\xff\xff".to_vec();
    let mut all = vec![
        vec![0],
        vec![0xa0],
        vec![0xff; 64],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        Vec::new(),
    ];
    all.extend([ack, request, unsorted, nested, many, lying]);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e75_malformed_control_frames_end_the_session_and_nothing_else() {
    let scene = Scene::new().await;
    let mut device = scene.member(61).await;
    let hello = frame::encode(&device.hello()).unwrap().split_off(4);
    let report = frame::encode(&device.report(1, Vec::new())).unwrap().split_off(4);
    let mut bodies = garbage();
    for whole in [hello, report] {
        let cut = whole[..whole.len() - 1].to_vec();
        let longer = [&whole[..], &[0]].concat();
        let mut flipped = whole;
        flipped[3] ^= 0x40;
        bodies.extend([cut, longer, flipped]);
    }
    for body in bodies {
        let bytes = [&u32::try_from(body.len()).unwrap().to_be_bytes(), &body[..]].concat();
        let what = format!("{:02x?}", &body[..body.len().min(24)]);
        let mut first = scene.dial(&device).await;
        within(first.send.write_all(&bytes)).await.unwrap();
        assert_eq!(first.closed().await.0, PROTOCOL_ERROR, "first frame {what}");
        let mut later = scene.connect(&mut device).await;
        within(later.send.write_all(&bytes)).await.unwrap();
        assert_eq!(later.closed().await.0, PROTOCOL_ERROR, "later frame {what}");
    }
    // The device itself is none the worse for it.
    let mut link = scene.connect(&mut device).await;
    link.write(&device.report(1, Vec::new())).await;
    link.acknowledged(1).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_names_1024_files_and_a_report_64_products_and_no_more() {
    let scene = Scene::new().await;
    let mut device = scene.member(61).await;
    let mut link = scene.connect(&mut device).await;
    let digests = |many: u32| (0..many).map(|n| Digest::of(&n.to_be_bytes())).collect::<Vec<_>>();
    let manifest = Digest([1; 32]);
    let requests = |many| {
        let digests = digests(many);
        [
            Request::Blobs {
                manifest,
                digests: digests.clone(),
            },
            Request::Documents { digests },
        ]
    };
    for request in requests(1024) {
        assert_eq!(link.fetch(&request, 1024).await, vec![None; 1024]);
    }
    for request in requests(1025) {
        let (mut send, mut recv) = within(link.connection.open_bi()).await.unwrap();
        within(send.write_all(&frame::encode(&request).unwrap())).await.unwrap();
        let end = within(recv.read_to_end(1)).await.unwrap_err();
        let reset = quinn::ReadToEndError::Read(quinn::ReadError::Reset(VarInt::from_u32(2)));
        assert_eq!(end, reset, "the stream alone");
    }
    let installed = |many: u32| {
        let product = |n| Ident::parse(&format!("p{n}")).unwrap();
        let one = |n| Installed {
            product: product(n),
            version: Version::parse("1.0.0").unwrap(),
            counter: 1,
            manifest,
            confirmed: true,
            plan: manifest,
            since: 0,
        };
        (0..many).map(one).collect::<Vec<_>>()
    };
    device.status.denied = digests(64);
    device.status.installed = installed(64);
    link.write(&device.report(1, Vec::new())).await;
    link.acknowledged(1).await;
    for more in [(digests(65), installed(64)), (digests(64), installed(65))] {
        (device.status.denied, device.status.installed) = more;
        link.write(&device.report(2, Vec::new())).await;
        loop {
            match link.read::<ToDevice>().await {
                ToDevice::Refused(refusal) => break assert_eq!(refusal.code, Code::LimitExceeded),
                ToDevice::Ack { seq } => assert!(seq < 2, "more than 64 are taken"),
                _ => {}
            }
        }
        (device.status.denied, device.status.installed) = (digests(64), installed(64));
        link = scene.connect(&mut device).await;
    }
    drop(link);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_asks_four_times_on_a_stream_and_no_more() {
    let scene = Scene::new().await;
    let device = Device::new(61);
    let mut link = device
        .dial(scene.running.address, &scene.controller(), wire::ALPN_ENROLL)
        .await;
    let ask = Enroll {
        protocol: wire::PROTOCOL,
        step: EnrollStep::Ask {
            token: key(99).public(),
        },
    };
    for _ in 0..5 {
        link.write(&ask).await;
    }
    for _ in 0..4 {
        let EnrollReply::Refused(refusal) = link.read::<EnrollReply>().await else {
            panic!("nobody knows the token");
        };
        assert_eq!(refusal.code, Code::TokenUnknown);
    }
    assert!(within(link.recv.read_to_end(1)).await.unwrap().is_empty());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_few_and_empty_ones_hold_nobody_up() {
    let scene = Scene::new().await;
    let mut device = scene.member(61).await;
    let mut link = scene.connect(&mut device).await;
    let mut open = Vec::new();
    // The control stream is one of seventeen.
    for _ in 0..16 {
        let (mut send, recv) = within(link.connection.open_bi()).await.unwrap();
        // Half a length word.
        within(send.write_all(&[0, 0])).await.unwrap();
        open.push((send, recv));
    }
    let one_more = tokio::time::timeout(std::time::Duration::from_millis(50), link.connection.open_bi());
    assert!(one_more.await.is_err(), "a device has seventeen streams");
    link.write(&device.report(1, Vec::new())).await;
    link.acknowledged(1).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol_or_another_kind_of_key_gets_no_connection() {
    let scene = Scene::new().await;
    let refused = async |config: ClientConfig| {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint
            .connect_with(config, scene.running.address, "controller")
            .unwrap();
        match within(connecting).await {
            Err(error) => error,
            // The server's side of TLS 1.3 ends last.
            Ok(connection) => within(connection.closed()).await,
        }
    };
    let alert = |error: ConnectionError| match error {
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        other => panic!("{other:?}"),
    };
    // CRYPTO_ERROR (RFC 9001 §4.8): 0x100 and the alert.
    let unknown = refused(client_config(&key(61), scene.controller(), b"h3")).await;
    assert_eq!(alert(unknown), 0x100 + 120, "no_application_protocol");
    let without = refused(crate::fleet::keyless_config(scene.controller())).await;
    assert!((0x100..0x200).contains(&alert(without)));
    let ecdsa = refused(crate::fleet::ecdsa_config(scene.controller())).await;
    assert!((0x100..0x200).contains(&alert(ecdsa)));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e67_there_is_no_early_data() {
    let scene = Scene::new().await;
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = client_config(&key(61), scene.controller(), wire::ALPN);
    let connect = || {
        endpoint
            .connect_with(config.clone(), scene.running.address, "controller")
            .unwrap()
    };
    drop(within(connect()).await.unwrap());
    // A session that could be resumed would be one now.
    assert!(connect().into_0rtt().is_err());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_approved_devices_are_told_or_given_anything() {
    let scene = Scene::new().await;
    let package = scene.fleet.package("1.0.0", &b"content ".repeat(100));
    scene
        .fleet
        .publish(&Client::new(scene.running.address, &scene.fleet), &package)
        .await;
    let request = Request::Blobs {
        manifest: package.manifest,
        digests: package.blobs.iter().map(|(digest, _)| *digest).collect(),
    };

    // Approved, but no plan names it.
    let mut member = scene.member(61).await;
    let link = scene.connect(&mut member).await;
    let records = link.fetch(&request, package.blobs.len()).await;
    assert!(records.iter().all(Option::is_none));
    drop(link);

    let stranger = Device::new(62);
    let pending = Device::new(63);
    let token = key(83);
    let grant = scene
        .fleet
        .grant(&token, 1, ensign_controller::clock::unix_now() + 3600, false);
    scene
        .running
        .core
        .change(move |s| s.create_token(&grant))
        .await
        .unwrap();
    pending
        .join(scene.running.address, &scene.controller(), &token)
        .await
        .unwrap();
    let (suspended, revoked) = (scene.member(64).await, scene.member(65).await);
    for (id, verb) in [(suspended.id(), Verb::Suspend), (revoked.id(), Verb::Revoke)] {
        scene
            .running
            .core
            .change(move |s| s.set_standing(&id, verb, "", "test"))
            .await
            .unwrap();
    }
    for (mut device, code) in [
        (stranger, Code::NotAuthorised),
        (pending, Code::Pending),
        (suspended, Code::Suspended),
        (revoked, Code::Revoked),
    ] {
        let mut link = scene.dial(&device).await;
        // Asks before it is answered: on a stream of its own, which nobody serves.
        let (mut send, mut recv) = within(link.connection.open_bi()).await.unwrap();
        within(send.write_all(&frame::encode(&request).unwrap())).await.unwrap();
        device.session += 1;
        link.write(&device.hello()).await;
        let ToDevice::Refused(refusal) = link.read::<ToDevice>().await else {
            panic!("{code}: refused");
        };
        assert_eq!(refusal.code, code);
        assert_eq!(link.closed().await, (REFUSED, code.name().to_owned()));
        assert!(within(recv.read_to_end(1)).await.is_err(), "{code}: not a byte");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e68_nobody_reports_for_another_device_and_nothing_counts_twice() {
    let scene = Scene::new().await;
    let client = Client::new(scene.running.address, &scene.fleet);
    let package = scene.fleet.package("1.0.0", b"content");
    scene.fleet.publish(&client, &package).await;
    let (victim, mut thief) = (scene.member(61).await, scene.member(62).await);
    let (plan, waves) = scene.fleet.plan(&package, &[&victim, &thief]);
    let envelope = statement::sign(&plan, &[&scene.fleet.deploy], &crate::fleet::FLEET).unwrap();
    let digest = statement::open_unverified::<ensign_bundle::plan::statements::Plan>(&envelope)
        .unwrap()
        .digest();
    let started = scene
        .running
        .core
        .change(move |s| s.start_rollout(&envelope, &waves, "test"))
        .await;
    let id = started.unwrap();
    let mut link = scene.connect(&mut thief).await;
    // The victim's own receipt, stolen; one in its name that the thief signed; the thief's own, old and new.
    let stolen = victim.receipt(digest, package.manifest, 1);
    let forged = thief.receipt_for(&victim, digest, package.manifest, 1);
    let own = thief.receipt(digest, package.manifest, 5);
    link.write(&thief.report(1, vec![stolen, forged, own.clone()])).await;
    link.acknowledged(1).await;
    let ok = async || {
        let status = scene
            .running
            .core
            .read(move |s| s.view_rollout(&id))
            .await
            .unwrap()
            .unwrap();
        (status.waves[0].ok, status.waves[0].failed)
    };
    assert_eq!(ok().await, (1, 0), "the thief's own receipt alone");
    // The same again, and an older one: the ledger does not move.
    let older = thief.receipt(digest, package.manifest, 4);
    link.write(&thief.report(1, vec![own.clone()])).await;
    link.acknowledged(1).await;
    let before = known(&scene.running, thief.id()).await.unwrap();
    link.write(&thief.report(1, vec![older, own])).await;
    link.acknowledged(1).await;
    assert_eq!(
        known(&scene.running, thief.id()).await.unwrap().receipt_seq,
        before.receipt_seq
    );
    assert_eq!(known(&scene.running, victim.id()).await.unwrap().receipt_seq, 0);
    assert_eq!(ok().await, (1, 0));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_hello_ends_the_connection() {
    let scene = Scene::new().await;
    let mut device = scene.member(61).await;
    let mut link = scene.connect(&mut device).await;
    link.write(&device.hello()).await;
    assert_eq!(link.closed().await.0, PROTOCOL_ERROR);
    let mut link = scene.connect(&mut device).await;
    link.send.finish().unwrap();
    assert_eq!(link.closed().await.0, DONE);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_nothing_is_dropped_within_a_second_of_its_revocation() {
    let scene = Scene::new().await;
    let mut device = scene.member(61).await;
    // Room for `welcome` and little else: the next words of the controller do not fit.
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(900));
    let mut config = client_config(&device.tls, scene.controller(), wire::ALPN);
    config.transport_config(Arc::new(transport));
    let link = device.dial_as(scene.running.address, config).await;
    let (link, _) = device.greet(link).await.unwrap();
    let id = device.id();
    // Something new to say, until the stream is full.
    for version in ["1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0"] {
        let package = scene.fleet.package(version, version.as_bytes());
        scene
            .fleet
            .publish(&Client::new(scene.running.address, &scene.fleet), &package)
            .await;
    }
    scene
        .running
        .core
        .change(move |s| s.set_standing(&id, Verb::Revoke, "stolen", "test"))
        .await
        .unwrap();
    let closed = within(link.closed()).await;
    assert_eq!(closed, (REFUSED, "revoked".to_owned()));
    scene.end().await;
}
