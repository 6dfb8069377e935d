//! The operators' side over real HTTPS, with the certificate of the kit as the only trusted one.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use ensign_bundle::digest::Digest;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::device::within;

pub(crate) struct Https {
    pub(crate) key: String,
    pub(crate) certificate: String,
    /// SHA-256 of its SPKI.
    pub(crate) id: Digest,
}

/// A self-signed ECDSA P-256 certificate for loopback.
pub(crate) fn certificate() -> Https {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    Https {
        key: made.signing_key.serialize_pem(),
        certificate: made.cert.pem(),
        id: spki(made.cert.der()),
    }
}

fn spki(certificate: &CertificateDer<'_>) -> Digest {
    let parsed = ParsedCertificate::try_from(certificate).unwrap();
    Digest::of(&parsed.subject_public_key_info())
}

/// What somebody without a login or a pin gets: the SPKI digest of the key that is shown, and the answer.
pub(crate) async fn stranger(address: SocketAddr, path: &str) -> (Digest, Answer) {
    within(async {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        let tcp = TcpStream::connect(address).await.unwrap();
        let tls = TlsConnector::from(Arc::new(config));
        let tls = tls
            .connect(ServerName::try_from("localhost").unwrap(), tcp)
            .await
            .unwrap();
        let shown = spki(&tls.get_ref().1.peer_certificates().unwrap()[0]);
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", "localhost")
            .body(Full::new(Bytes::new()));
        let response = sender.send_request(request.unwrap()).await.unwrap();
        let answer = Answer {
            status: response.status().as_u16(),
            body: response.into_body().collect().await.unwrap().to_bytes(),
        };
        (shown, answer)
    })
    .await
}

/// Takes every certificate whose key signs.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

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
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) struct Client {
    address: SocketAddr,
    tls: TlsConnector,
    pub(crate) token: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, fleet: &super::Fleet) -> Self {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(fleet.kit().join("https.crt")).unwrap();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address,
            tls: TlsConnector::from(Arc::new(config)),
            token: super::API_TOKEN.to_owned(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "application/json", Vec::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, "application/json", body.to_string().into_bytes())
            .await
    }

    pub(crate) async fn post_bytes(&self, path: &str, body: &[u8]) -> Answer {
        self.call(Method::POST, path, "application/octet-stream", body.to_vec())
            .await
    }

    async fn call(&self, method: Method, path: &str, content: &str, body: Vec<u8>) -> Answer {
        within(self.try_call(method, path, content, body)).await.unwrap()
    }

    /// The same against a controller that may end meanwhile.
    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Vec<u8>,
    ) -> Result<Answer, Failed> {
        self.connect().await?.call(method, path, content, body).await
    }

    /// A connection that stays open.
    pub(crate) async fn connect(&self) -> Result<Kept, Failed> {
        let tcp = TcpStream::connect(self.address).await?;
        let tls = self.tls.connect(ServerName::try_from("localhost")?, tcp).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Kept {
            sender,
            token: self.token.clone(),
        })
    }
}

/// What an operator's connection may fail with.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// An open connection of an operator.
pub(crate) struct Kept {
    sender: http1::SendRequest<Full<Bytes>>,
    token: String,
}

impl Kept {
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        content: &str,
        body: Vec<u8>,
    ) -> Result<Answer, Failed> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", content)
            .body(Full::new(Bytes::from(body)))?;
        let response = self.sender.send_request(request).await?;
        Ok(Answer {
            status: response.status().as_u16(),
            body: response.into_body().collect().await?.to_bytes(),
        })
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The code and exit of a refusal.
    pub(crate) fn refusal(&self) -> (String, u64) {
        assert!(self.status >= 400, "{} {}", self.status, self.text());
        let error = serde_json::from_slice::<Value>(&self.body).unwrap()["error"].clone();
        assert!(error["message"].is_string() && error["hint"].is_string(), "{error}");
        (
            error["code"].as_str().unwrap().to_owned(),
            error["exit"].as_u64().unwrap(),
        )
    }
}
