//! TLS 1.3 with raw public keys on both sides and nothing around it: no socket, no QUIC, no second thread. What is left is the arithmetic
//! that every handshake of this kind must do, so figures of the product can be given as multiples of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ensign_crypto::SecretKey;
use nix::time::{ClockId, clock_gettime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, ServerConnection,
    SignatureScheme,
};

/// Both exchanges in turn, so that whatever else the machine does falls on both alike.
const ROUNDS: u32 = 20;
/// Handshakes of each exchange in a round.
const EACH: u32 = 100;

/// Processor time of one handshake, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) server_ms: f64,
    pub(super) client_ms: f64,
}

/// Prints both exchanges and their ratio. Returns the cost of the hybrid one, which the product uses.
pub(super) fn run() -> Result<Cost> {
    let hybrid = Ends::new(aws_lc_rs::kx_group::X25519MLKEM768)?;
    let plain = Ends::new(aws_lc_rs::kx_group::X25519)?;
    let mut spent = [(Duration::ZERO, Duration::ZERO); 2];
    for _ in 0..ROUNDS {
        for (ends, (server, client)) in [&hybrid, &plain].into_iter().zip(&mut spent) {
            for _ in 0..EACH {
                ends.shake(server, client)?;
            }
        }
    }
    let [hybrid, plain] = spent.map(|(server, client)| Cost {
        server_ms: server.as_secs_f64() * 1000.0 / f64::from(ROUNDS * EACH),
        client_ms: client.as_secs_f64() * 1000.0 / f64::from(ROUNDS * EACH),
    });
    for (name, cost) in [("X25519MLKEM768", hybrid), ("X25519", plain)] {
        println!(
            "TLS alone, raw public keys, {name}: server {:.3} ms, client {:.3} ms of processor time",
            cost.server_ms, cost.client_ms
        );
    }
    println!(
        "TLS alone, hybrid against X25519: server {:.2} times, client {:.2} times",
        hybrid.server_ms / plain.server_ms,
        hybrid.client_ms / plain.client_ms
    );
    Ok(hybrid)
}

/// The two ends of a handshake.
struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Ends {
    fn new(exchange: &'static dyn SupportedKxGroup) -> Result<Self> {
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![exchange],
            ..aws_lc_rs::default_provider()
        });
        let anyone = Arc::new(Anyone(provider.clone()));
        let of = |seed| certified(&provider, &SecretKey::from_seed([seed; 32]));
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(anyone.clone())
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(of(1)?)));
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(anyone)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(of(2)?)));
        client.resumption = Resumption::disabled();
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }

    /// One handshake, from the making of both ends; adds what each of them took.
    fn shake(&self, server_took: &mut Duration, client_took: &mut Duration) -> Result<()> {
        let mut at = spent()?;
        let mut lap = |took: &mut Duration| -> Result<()> {
            let now = spent()?;
            *took += now.saturating_sub(std::mem::replace(&mut at, now));
            Ok(())
        };
        let mut client = ClientConnection::new(self.client.clone(), ServerName::try_from("ensign.invalid")?)?;
        lap(client_took)?;
        let mut server = ServerConnection::new(self.server.clone())?;
        lap(server_took)?;
        for _ in 0..4 {
            let mut flight = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut flight)?;
            }
            lap(client_took)?;
            let mut flight = &flight[..];
            while !flight.is_empty() {
                server.read_tls(&mut flight)?;
                server.process_new_packets()?;
            }
            let mut answer = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut answer)?;
            }
            lap(server_took)?;
            let mut answer = &answer[..];
            while !answer.is_empty() {
                client.read_tls(&mut answer)?;
                client.process_new_packets()?;
            }
            lap(client_took)?;
            if !client.is_handshaking() && !server.is_handshaking() {
                return Ok(());
            }
        }
        ensure!(false, "the handshake does not end");
        Ok(())
    }
}

/// Processor time of this thread so far.
fn spent() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .context("the clock of this thread")?
        .into())
}

fn certified(provider: &CryptoProvider, key: &SecretKey) -> Result<Arc<CertifiedKey>> {
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec()));
    let signing = provider.key_provider.load_private_key(private)?;
    let shown = CertificateDer::from(key.public().to_spki());
    Ok(Arc::new(CertifiedKey::new(vec![shown], signing)))
}

/// Takes every key whose signature is good, as both ends of the product do before they look at whose it is.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl Anyone {
    fn verify(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signed, &self.0.signature_verification_algorithms)
    }
}

fn no_tls12() -> Error {
    Error::General("TLS 1.2 is not spoken here".to_owned())
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
