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

fn certified(key: &SecretKey, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec()));
    let signing = provider.key_provider.load_private_key(der).map_err(TlsError::Key)?;
    Ok(CertifiedKey::new(
        vec![CertificateDer::from(key.public().to_spki())],
        signing,
    ))
}

/// Accepts a raw public key by its SPKI digest alone: no names, no dates, no authorities.
#[derive(Debug)]
struct PinVerifier {
    pins: Vec<KeyId>,
    shown: ShownKey,
    algorithms: WebPkiSupportedAlgorithms,
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
