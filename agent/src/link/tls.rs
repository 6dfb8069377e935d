//! TLS between a device and its controller: version 1.3, raw public keys (RFC 7250), Ed25519, X25519MLKEM768 and nothing else.
//!
//! No tickets and no early data: a session that cannot be resumed cannot be replayed.

use std::sync::{Arc, Mutex, PoisonError};

use ensign_crypto::{KeyId, PublicKey, SecretKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// Name in the handshake's SNI: the same for everyone, so that it tells an observer nothing.
pub const SERVER_NAME: &str = "ensign.invalid";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the TLS key cannot be used")]
    Key(#[source] Error),
    #[error("TLS cannot be configured")]
    Config(#[source] Error),
    #[error("no cipher suite for QUIC")]
    Suite(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// What a pinned handshake is configured with, and where it leaves the key that it refused.
#[derive(Debug)]
pub struct Pinned {
    pub config: ClientConfig,
    pub shown: ShownKey,
}

/// The last key a server showed that is none of the pins.
#[derive(Clone, Debug, Default)]
pub struct ShownKey(Arc<Mutex<Option<KeyId>>>);

impl ShownKey {
    /// Takes it out.
    pub fn take(&self) -> Option<KeyId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, key: KeyId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}

/// Shows `key` and accepts only servers whose key is one of `pins`.
pub fn client(key: &SecretKey, pins: &[KeyId], alpn: &[u8]) -> Result<Pinned, TlsError> {
    let provider = Arc::new(provider());
    let shown = ShownKey::default();
    let verifier = PinVerifier {
        pins: pins.to_vec(),
        shown: shown.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let resolver = AlwaysResolvesClientRawPublicKeys::new(Arc::new(certified(key, &provider)?));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Pinned { config, shown })
}

/// aws-lc-rs with the one hybrid key exchange: recorded traffic stays closed to a quantum computer.
fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    }
}

pub(super) fn certified(key: &SecretKey, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec()));
    let signing = provider.key_provider.load_private_key(der).map_err(TlsError::Key)?;
    Ok(CertifiedKey::new(
        vec![CertificateDer::from(key.public().to_spki())],
        signing,
    ))
}

/// Accepts a raw public key by its SPKI digest alone: no names, no dates, no authorities.
#[derive(Debug)]
pub(super) struct PinVerifier {
    pub(super) pins: Vec<KeyId>,
    pub(super) shown: ShownKey,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = PublicKey::from_spki(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if self.pins.contains(&key.id()) && intermediates.is_empty() {
            return Ok(ServerCertVerified::assertion());
        }
        self.shown.put(key.id());
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(cert.as_ref()),
            dss,
            &self.algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConnection, ServerConnection};

    use super::super::fake;
    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    /// Both ends in memory, until one fails or both are done.
    fn shake(
        client: ClientConfig,
        server: rustls::ServerConfig,
    ) -> Result<(ClientConnection, ServerConnection), Error> {
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut flight = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut flight).unwrap();
            }
            let mut rest = &flight[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets()?;
            }
            let mut flight = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut flight).unwrap();
            }
            let mut rest = &flight[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok((client, server))
    }

    #[test]
    fn the_pinned_key_passes_over_the_hybrid_key_exchange_in_tls_1_3() {
        let pinned = client(&key(1), &[key(2).public().id()], b"ensign/1").unwrap();
        let (client, server) = shake(pinned.config, fake::tls(&key(2))).unwrap();
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let group = client.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        // The device showed its own key, raw.
        let shown = &server.peer_certificates().unwrap()[0];
        assert_eq!(PublicKey::from_spki(shown).unwrap(), key(1).public());
    }

    #[test]
    fn another_key_is_refused_and_named() {
        let pinned = client(&key(1), &[key(3).public().id()], b"ensign/1").unwrap();
        let error = shake(pinned.config, fake::tls(&key(2))).unwrap_err();
        assert_eq!(
            error,
            Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
        );
        assert_eq!(pinned.shown.take(), Some(key(2).public().id()));
        assert_eq!(pinned.shown.take(), None);
    }

    #[test]
    fn a_server_without_the_hybrid_key_exchange_is_refused() {
        let pinned = client(&key(1), &[key(2).public().id()], b"ensign/1").unwrap();
        let mut server = fake::tls(&key(2));
        let classic = CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let resolver = Arc::clone(&server.cert_resolver);
        server = rustls::ServerConfig::builder_with_provider(Arc::new(classic))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        assert!(shake(pinned.config, server).is_err());
    }

    /// A server that speaks TLS 1.2 answers with that version in its hello; there is no such version for this client.
    #[test]
    fn tls_1_2_is_neither_offered_nor_taken() {
        let pinned = client(&key(1), &[key(2).public().id()], b"ensign/1").unwrap();
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let mut client = ClientConnection::new(Arc::new(pinned.config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        // supported_versions (43), 3 bytes, a list of 2: TLS 1.3 (0x0304) alone.
        let only_1_3 = [0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x04];
        assert!(hello.windows(only_1_3.len()).any(|w| w == only_1_3));
        // A TLS 1.2 ServerHello: no supported_versions, ECDHE-ECDSA with AES-128-GCM.
        let mut answer = vec![0x16, 0x03, 0x03, 0x00, 0x2a, 0x02, 0x00, 0x00, 0x26, 0x03, 0x03];
        answer.extend([7; 32]);
        answer.extend([0x00, 0xc0, 0x2b, 0x00]);
        client.read_tls(&mut &answer[..]).unwrap();
        assert!(client.process_new_packets().is_err());
    }

    #[test]
    fn e67_nothing_is_resumed_or_sent_early() {
        let pinned = client(&key(1), &[], b"ensign/1").unwrap();
        assert!(!pinned.config.enable_early_data);
        let shown = format!("{:?}", pinned.config.resumption);
        assert!(
            shown.contains("Disabled") || shown.contains("NoClientSessionStorage"),
            "{shown}"
        );
    }
}
