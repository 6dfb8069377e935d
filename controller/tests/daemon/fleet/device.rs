//! A device of its own kind: keys, a QUIC connection, frames. It installs nothing, it only says so.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ensign_bundle::digest::{DeviceId, Digest, Nonce};
use ensign_bundle::plan::evidence::{Binding, Receipt, ReceiptState};
use ensign_bundle::reason::Refusal;
use ensign_bundle::statement::{self, Signed};
use ensign_bundle::trust::roles::FORMAT;
use ensign_bundle::wire::{
    self, Desired, Enroll, EnrollReply, EnrollStep, FromDevice, Held, Hello, Installed, Phase, Report, Request, Status,
    ToDevice, Transfer, Welcome, frame,
};
use ensign_controller::clock;
use ensign_crypto::{KeyId, PublicKey, SecretKey};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::FLEET;

/// Longest wait for anything: only a broken test gets there.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Device {
    pub(crate) tls: SecretKey,
    pub(crate) receipt: SecretKey,
    pub(crate) name: String,
    /// Session counter.
    pub(crate) session: u64,
    pub(crate) nonce: Nonce,
    pub(crate) status: Status,
    /// Version of the root that it holds.
    pub(crate) root: u64,
}

/// A connection and its control stream.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    _endpoint: Endpoint,
}

impl Device {
    pub(crate) fn new(seed: u8) -> Self {
        Self {
            tls: super::key(seed),
            receipt: super::key(seed + 100),
            name: format!("dev{seed}"),
            session: 0,
            nonce: Nonce([seed; 32]),
            root: 0,
            status: Status {
                generation: 0,
                installed: Vec::new(),
                phase: Phase::Idle,
                plan: None,
                reason: None,
                denied: Vec::new(),
                transfer: Transfer::default(),
            },
        }
    }

    pub(crate) fn id(&self) -> DeviceId {
        DeviceId::from(self.tls.public().id())
    }

    /// Opens a connection with this protocol and its first stream.
    pub(crate) async fn dial(&self, address: SocketAddr, controller: &KeyId, alpn: &[u8]) -> Link {
        self.dial_as(address, client_config(&self.tls, *controller, alpn)).await
    }

    /// The same, as a client of one's own making.
    pub(crate) async fn dial_as(&self, address: SocketAddr, config: ClientConfig) -> Link {
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(config);
        let connecting = endpoint.connect(address, "controller").unwrap();
        let connection = within(connecting).await.unwrap();
        let (send, recv) = within(connection.open_bi()).await.unwrap();
        Link {
            connection,
            send,
            recv,
            _endpoint: endpoint,
        }
    }

    /// Joins as a device does: asks for the grant, then shows a binding that names it.
    pub(crate) async fn join(
        &self,
        address: SocketAddr,
        controller: &KeyId,
        token: &SecretKey,
    ) -> Result<(String, bool), Refusal> {
        let mut link = self.dial(address, controller, wire::ALPN_ENROLL).await;
        let ask = EnrollStep::Ask { token: token.public() };
        link.write(&enroll(ask)).await;
        let grant = match link.read::<EnrollReply>().await {
            EnrollReply::Granted { grant, .. } => grant,
            EnrollReply::Refused(refusal) => return Err(refusal),
            other => panic!("{other:?}"),
        };
        let binding = self.binding(token, &statement::open_unverified(&grant).unwrap());
        self.show(&mut link, binding).await
    }

    /// Sends a binding on an open enrolment connection.
    pub(crate) async fn show(&self, link: &mut Link, binding: Vec<u8>) -> Result<(String, bool), Refusal> {
        let step = EnrollStep::Join {
            binding: ByteBuf::from(binding),
        };
        link.write(&enroll(step)).await;
        match link.read::<EnrollReply>().await {
            EnrollReply::Joined { name, approved } => Ok((name, approved)),
            EnrollReply::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn binding(&self, token: &SecretKey, grant: &Signed<ensign_bundle::plan::statements::Grant>) -> Vec<u8> {
        let binding = Binding {
            format: FORMAT,
            issued: clock::unix_now(),
            device: self.id(),
            key: self.tls.public(),
            receipt_key: self.receipt.public(),
            token: token.public(),
            grant: grant.digest(),
            name: self.name.clone(),
            claims: BTreeMap::new(),
        };
        statement::sign(&binding, &[token, &self.tls, &self.receipt], &FLEET).unwrap()
    }

    /// Connects and says hello; each time with the next session number.
    pub(crate) async fn connect(
        &mut self,
        address: SocketAddr,
        controller: &KeyId,
    ) -> Result<(Link, Welcome), Refusal> {
        let link = self.dial(address, controller, wire::ALPN).await;
        self.greet(link).await
    }

    /// Says hello on an open connection.
    pub(crate) async fn greet(&mut self, mut link: Link) -> Result<(Link, Welcome), Refusal> {
        self.session += 1;
        link.write(&self.hello()).await;
        match link.read::<ToDevice>().await {
            ToDevice::Welcome(welcome) => Ok((link, welcome)),
            ToDevice::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn hello(&self) -> FromDevice {
        FromDevice::Hello(Hello {
            protocol: wire::PROTOCOL,
            agent: "0.1.0".to_owned(),
            facts: BTreeMap::from([("arch".to_owned(), "x86_64".to_owned())]),
            held: Held {
                root: self.root,
                ..Held::default()
            },
            session: self.session,
            boot_id: "boot".to_owned(),
            nonce: self.nonce,
            status: self.status.clone(),
        })
    }

    /// A receipt for what the plan brought.
    pub(crate) fn receipt(&self, plan: Digest, release: Digest, seq: u64) -> Vec<u8> {
        self.receipt_for(self, plan, release, seq)
    }

    /// One that names another device.
    pub(crate) fn receipt_for(&self, named: &Self, plan: Digest, release: Digest, seq: u64) -> Vec<u8> {
        let receipt = Receipt {
            format: FORMAT,
            issued: clock::unix_now(),
            plan,
            release,
            device: named.id(),
            state: ReceiptState::Confirmed,
            healthy_for_s: 5,
            seq,
        };
        statement::sign(&receipt, &[&self.receipt], &FLEET).unwrap()
    }

    /// Runs this release from now on.
    pub(crate) fn install(&mut self, installed: Installed) {
        self.status.phase = Phase::Confirmed;
        self.status.plan = Some(installed.plan);
        self.status.generation += 1;
        self.status.installed = vec![installed];
    }

    pub(crate) fn report(&self, seq: u64, receipts: Vec<Vec<u8>>) -> FromDevice {
        FromDevice::Report(Report {
            seq,
            status: self.status.clone(),
            receipts: receipts.into_iter().map(ByteBuf::from).collect(),
            root: self.root,
        })
    }
}

impl Link {
    /// The close code and reason of the controller.
    pub(crate) async fn closed(&self) -> (u64, String) {
        match within(self.connection.closed()).await {
            quinn::ConnectionError::ApplicationClosed(close) => (
                close.error_code.into_inner(),
                String::from_utf8_lossy(&close.reason).into_owned(),
            ),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn write<T: Serialize>(&mut self, message: &T) {
        let bytes = frame::encode(message).unwrap();
        within(self.send.write_all(&bytes)).await.unwrap();
    }

    pub(crate) async fn read<T: DeserializeOwned>(&mut self) -> T {
        read(&mut self.recv).await
    }

    /// The next wish for which `wanted` holds.
    pub(crate) async fn desired(&mut self, wanted: impl Fn(&Desired) -> bool) -> Desired {
        loop {
            match self.read::<ToDevice>().await {
                ToDevice::Desired(desired) if wanted(&desired) => return desired,
                ToDevice::Desired(_) | ToDevice::Ack { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until the controller acknowledged this report.
    pub(crate) async fn acknowledged(&mut self, wanted: u64) {
        loop {
            match self.read::<ToDevice>().await {
                ToDevice::Ack { seq } if seq >= wanted => return,
                ToDevice::Ack { .. } | ToDevice::Desired(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// One record per digest; `None` = absent.
    pub(crate) async fn fetch(&self, request: &Request, records: usize) -> Vec<Option<Vec<u8>>> {
        let (mut send, mut recv) = within(self.connection.open_bi()).await.unwrap();
        let bytes = frame::encode(request).unwrap();
        within(send.write_all(&bytes)).await.unwrap();
        send.finish().unwrap();
        let mut all = Vec::new();
        for _ in 0..records {
            let mut word = [0; frame::LENGTH_BYTES];
            within(recv.read_exact(&mut word)).await.unwrap();
            let length = u32::from_be_bytes(word);
            if length == frame::ABSENT {
                all.push(None);
                continue;
            }
            let mut bytes = vec![0; length as usize];
            within(recv.read_exact(&mut bytes)).await.unwrap();
            all.push(Some(bytes));
        }
        assert!(
            within(recv.read_to_end(1)).await.unwrap().is_empty(),
            "bytes after the last record"
        );
        all
    }
}

async fn read<T: DeserializeOwned>(recv: &mut RecvStream) -> T {
    let mut word = [0; frame::LENGTH_BYTES];
    within(recv.read_exact(&mut word)).await.unwrap();
    let mut body = vec![0; frame::body_length(word).unwrap()];
    within(recv.read_exact(&mut body)).await.unwrap();
    frame::decode(&body).unwrap()
}

pub(crate) async fn within<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future.into_future())
        .await
        .expect("an answer in time")
}

fn enroll(step: EnrollStep) -> Enroll {
    Enroll {
        protocol: wire::PROTOCOL,
        step,
    }
}

pub(crate) fn client_config(key: &SecretKey, controller: KeyId, alpn: &[u8]) -> ClientConfig {
    let private = PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec());
    showing(
        private.into(),
        CertificateDer::from(key.public().to_spki()),
        controller,
        alpn,
    )
}

/// A client with a key of another kind: ECDSA P-256.
pub(crate) fn ecdsa_config(controller: KeyId) -> ClientConfig {
    let pair = rcgen::KeyPair::generate().unwrap();
    let private = PrivatePkcs8KeyDer::from(pair.serialize_der());
    let spki = CertificateDer::from(rcgen::PublicKeyData::subject_public_key_info(&pair));
    showing(private.into(), spki, controller, wire::ALPN)
}

/// A client that shows no key at all.
pub(crate) fn keyless_config(controller: KeyId) -> ClientConfig {
    quic(pinning(controller).with_no_client_auth(), wire::ALPN)
}

fn showing(
    private: PrivateKeyDer<'static>,
    shown: CertificateDer<'static>,
    controller: KeyId,
    alpn: &[u8],
) -> ClientConfig {
    let provider = ensign_controller::server::tls::provider();
    let signing = provider.key_provider.load_private_key(private).unwrap();
    let certified = Arc::new(CertifiedKey::new(vec![shown], signing));
    let resolver = rustls::client::AlwaysResolvesClientRawPublicKeys::new(certified);
    quic(pinning(controller).with_client_cert_resolver(Arc::new(resolver)), alpn)
}

fn pinning(controller: KeyId) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(ensign_controller::server::tls::provider());
    rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { controller, provider }))
}

fn quic(mut config: rustls::ClientConfig, alpn: &[u8]) -> ClientConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_early_data = true;
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

#[derive(Debug)]
struct Pinned {
    controller: KeyId,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = PublicKey::from_spki(end_entity).unwrap();
        assert_eq!(
            key.id(),
            self.controller,
            "the controller shows the key that root names"
        );
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
