//! A controller for tests: real QUIC, the answers scripted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::Refusal;
use ensign_bundle::wire::frame::{self, ABSENT, LENGTH_BYTES};
use ensign_bundle::wire::{self, Enroll, EnrollReply, EnrollStep, FromDevice, Request, ToDevice, Welcome};
use ensign_crypto::{PublicKey, SecretKey};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier as _};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use serde_bytes::ByteBuf;
use tokio::sync::mpsc;

use super::session::Target;
use super::tls;

/// What it gives, and when it breaks off.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) blobs: HashMap<Digest, Vec<u8>>,
    /// Bytes of records that one connection may carry before it is closed; 0 = no bound.
    pub(super) cut_after: AtomicU64,
    /// Bytes of whole records that were written, over all connections.
    pub(super) sent: AtomicU64,
    pub(super) connections: AtomicUsize,
    /// Sent after `welcome`, and whenever a connection is made.
    pub(super) greeting: Mutex<Vec<ToDevice>>,
    pub(super) acknowledge: bool,
    /// The time in `welcome`.
    pub(super) time: Vec<u8>,
    /// What joining devices are told, and the bindings they joined with.
    pub(super) invitation: Option<Invitation>,
    pub(super) bindings: Mutex<Vec<Vec<u8>>>,
}

/// What lies behind a token.
#[derive(Clone, Debug)]
pub(super) struct Invitation {
    pub(super) roots: Vec<Vec<u8>>,
    pub(super) grant: Vec<u8>,
    /// Answer to the join itself.
    pub(super) refused: Option<Refusal>,
}

/// A running controller.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) key: SecretKey,
    pub(super) address: SocketAddr,
    pub(super) script: Arc<Script>,
    pub(super) heard: mpsc::UnboundedReceiver<FromDevice>,
    endpoint: Endpoint,
}

impl Fake {
    pub(super) fn start(seed: u8, script: Script) -> Self {
        let key = SecretKey::from_seed([seed; 32]);
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls(&key)).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let script = Arc::new(script);
        let (hear, heard) = mpsc::unbounded_channel();
        tokio::spawn(accept(endpoint.clone(), Arc::clone(&script), hear));
        Self {
            key,
            address: endpoint.local_addr().unwrap(),
            script,
            heard,
            endpoint,
        }
    }

    pub(super) fn target(&self) -> Target {
        Target {
            addresses: vec![self.address.to_string()],
            pins: vec![self.key.public().id()],
            keep_alive: std::time::Duration::from_secs(25),
            idle_timeout: std::time::Duration::from_secs(60),
        }
    }

    pub(super) fn stop(&self) {
        self.endpoint.close(1_u8.into(), b"stopped");
    }
}

async fn accept(endpoint: Endpoint, script: Arc<Script>, hear: mpsc::UnboundedSender<FromDevice>) {
    while let Some(incoming) = endpoint.accept().await {
        let (script, hear) = (Arc::clone(&script), hear.clone());
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                script.connections.fetch_add(1, Ordering::SeqCst);
                // Streams are answered one after the other: what was sent before a cut has arrived.
                let budget = Arc::new(tokio::sync::Mutex::new(match script.cut_after.load(Ordering::SeqCst) {
                    0 => u64::MAX,
                    bytes => bytes,
                }));
                while let Ok((send, recv)) = connection.accept_bi().await {
                    tokio::spawn(stream(
                        connection.clone(),
                        send,
                        recv,
                        Arc::clone(&script),
                        Arc::clone(&budget),
                        hear.clone(),
                    ));
                }
            }
        });
    }
}

/// The first frame tells a control stream from a fetching one.
async fn stream(
    connection: Connection,
    mut send: SendStream,
    mut recv: RecvStream,
    script: Arc<Script>,
    budget: Arc<tokio::sync::Mutex<u64>>,
    hear: mpsc::UnboundedSender<FromDevice>,
) {
    let Some(first) = body(&mut recv).await else { return };
    if let Ok(request) = frame::decode::<Request>(&first) {
        answer(&connection, &mut send, &script, &mut *budget.lock().await, request).await;
        return;
    }
    if let Ok(enroll) = frame::decode::<Enroll>(&first) {
        joining(&mut send, &mut recv, &script, enroll).await;
        return;
    }
    let mut next = frame::decode::<FromDevice>(&first).ok();
    while let Some(message) = next {
        let replies = match &message {
            FromDevice::Hello(_) => {
                let mut replies = vec![ToDevice::Welcome(welcome(&script.time))];
                replies.extend(script.greeting.lock().unwrap().clone());
                replies
            }
            FromDevice::Report(report) if script.acknowledge => vec![ToDevice::Ack { seq: report.seq }],
            FromDevice::Report(_) => Vec::new(),
            FromDevice::Rotate { .. } => vec![ToDevice::Rotated { refused: None }],
        };
        let _ = hear.send(message);
        for reply in replies {
            let _ = send.write_all(&frame::encode(&reply).unwrap()).await;
        }
        next = match body(&mut recv).await {
            Some(body) => frame::decode(&body).ok(),
            None => None,
        };
    }
}

async fn answer(connection: &Connection, send: &mut SendStream, script: &Script, budget: &mut u64, request: Request) {
    let (Request::Documents { digests } | Request::Blobs { digests, .. }) = request;
    for digest in digests {
        let record = match script.blobs.get(&digest) {
            None => ABSENT.to_be_bytes().to_vec(),
            Some(bytes) => [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes[..]].concat(),
        };
        let room = *budget;
        *budget = room.saturating_sub(record.len() as u64);
        if room < record.len() as u64 {
            let part = usize::try_from(room).unwrap();
            let _ = send.write_all(&record[..part]).await;
            // The part must arrive before the connection is torn down, or nothing would be cut inside a record.
            let _ = send.finish();
            let _ = send.stopped().await;
            connection.close(7_u8.into(), b"cut");
            return;
        }
        if send.write_all(&record).await.is_err() {
            return;
        }
        script.sent.fetch_add(record.len() as u64, Ordering::SeqCst);
    }
    let _ = send.finish();
    let _ = send.stopped().await;
}

async fn joining(send: &mut SendStream, recv: &mut RecvStream, script: &Script, first: Enroll) {
    let mut next = Some(first);
    while let (Some(message), Some(invitation)) = (next.take(), &script.invitation) {
        let reply = match message.step {
            EnrollStep::Ask { .. } => EnrollReply::Granted {
                roots: invitation.roots.iter().cloned().map(ByteBuf::from).collect(),
                grant: ByteBuf::from(invitation.grant.clone()),
            },
            EnrollStep::Join { binding } => {
                script.bindings.lock().unwrap().push(binding.into_vec());
                match &invitation.refused {
                    Some(refusal) => EnrollReply::Refused(refusal.clone()),
                    None => EnrollReply::Joined {
                        name: "dev1".to_owned(),
                        approved: true,
                    },
                }
            }
        };
        let _ = send.write_all(&frame::encode(&reply).unwrap()).await;
        next = match body(recv).await {
            Some(body) => frame::decode(&body).ok(),
            None => None,
        };
    }
}

pub(super) fn welcome(time: &[u8]) -> Welcome {
    Welcome {
        protocol: wire::PROTOCOL.1,
        device: ensign_bundle::digest::DeviceId([1; 32]),
        name: "dev1".to_owned(),
        fleet: ensign_bundle::digest::FleetId([2; 32]),
        time: ByteBuf::from(time),
        interval_s: 60,
        labels: ensign_bundle::ids::Labels::new(),
    }
}

async fn body(recv: &mut RecvStream) -> Option<Vec<u8>> {
    let mut word = [0; LENGTH_BYTES];
    recv.read_exact(&mut word).await.ok()?;
    let mut body = vec![0; frame::body_length(word).ok()?];
    recv.read_exact(&mut body).await.ok()?;
    Some(body)
}

pub(super) fn tls(key: &SecretKey) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certified = tls::certified(key, &provider).unwrap();
    let raw = tls::PinVerifier {
        pins: Vec::new(),
        shown: tls::ShownKey::default(),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Anyone(raw)))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(certified))));
    config.alpn_protocols = vec![wire::ALPN.to_vec(), wire::ALPN_ENROLL.to_vec()];
    config
}

/// Lets in whoever has the key it shows; signatures are verified as a device verifies its controller's.
#[derive(Debug)]
struct Anyone(tls::PinVerifier);

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        PublicKey::from_spki(end_entity).unwrap();
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
