//! The controller over HTTPS: TLS 1.3, its key pinned by SPKI, connections re-used.
//!
//! Root names the pins, so a controller that shows another key may be one whose key was changed while this operator was away. Then the
//! roots that follow the one held here are asked for, from whoever answers: they are signed, and no login goes that way. Only when they
//! lead to a root that names the key is anything else said to it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ensign_api::{Base64, ErrorDocument};
use ensign_bundle::digest::Digest;
use ensign_bundle::reason::Code;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::clock;
use crate::failure::{Failure, Result};
use crate::trust::Following;

/// Longest wait for a connection. That nobody answers is said within 10 s.
const CONNECT: Duration = Duration::from_secs(8);
/// A connection that lay idle for longer is not used again: the controller closes idle ones after 10 s, and whoever types a passphrase or
/// derives a key from it does not see that before a request is on its way.
const REUSE: Duration = Duration::from_secs(5);
/// Longest wait for an answer, on top of what a long poll asks for.
const ANSWER: Duration = Duration::from_secs(120);
/// Largest answer: the documents of a fleet of 100,000 devices fit.
const ANSWER_BYTES: usize = 512 << 20;
/// Largest answer of one that may be anybody: 64 roots of the largest size, as base64.
const ROOTS_BYTES: usize = 8 << 20;
const ALPN: &[u8] = b"http/1.1";
const JSON: &str = "application/json";
const BINARY: &str = "application/octet-stream";

/// One controller.
pub struct Client {
    address: String,
    authorization: String,
    /// Takes the pinned keys alone.
    tls: RwLock<TlsConnector>,
    name: ServerName<'static>,
    wrong_key: Arc<AtomicBool>,
    /// The trust state whose root names the pins; none = they never change.
    follows: Option<PathBuf>,
    idle: Mutex<Vec<(Instant, SendRequest<Full<Bytes>>)>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of the SPKI in a certificate: what contexts and roots pin.
pub fn spki_digest(certificate: &CertificateDer<'_>) -> Result<Digest, rustls::Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(Digest::of(&parsed.subject_public_key_info()))
}

impl Client {
    /// `pins`: SPKI digests, one of which the controller must show.
    pub fn new(address: &str, pins: Vec<Digest>, api_token: &str) -> Result<Self> {
        let host = host(address)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Failure::usage(format!("`{host}` is no host name or address")))?;
        let wrong_key = Arc::new(AtomicBool::new(false));
        Ok(Self {
            address: address.to_owned(),
            authorization: format!("Bearer {api_token}"),
            tls: RwLock::new(connector(Pins::These(pins), &wrong_key)?),
            name,
            wrong_key,
            follows: None,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Follows the roots of this trust state where the controller shows a key that it does not name.
    #[must_use]
    pub fn following(self, trust: &Path) -> Self {
        Self {
            follows: Some(trust.to_owned()),
            ..self
        }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        parse(&self.call(Method::GET, path, JSON, Bytes::new()).await?)
    }

    /// Bytes that are no JSON: a document.
    pub async fn get_bytes(&self, path: &str) -> Result<Bytes> {
        self.call(Method::GET, path, BINARY, Bytes::new()).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::new(Code::Failed, e.to_string()))?;
        parse(&self.call(Method::POST, path, JSON, body.into()).await?)
    }

    /// Posts an envelope or a batch of blobs.
    pub async fn post_bytes<T: DeserializeOwned>(&self, path: &str, body: impl Into<Bytes>) -> Result<T> {
        parse(&self.call(Method::POST, path, BINARY, body.into()).await?)
    }

    async fn call(&self, method: Method, path: &str, content: &'static str, body: Bytes) -> Result<Bytes> {
        // A connection that lay idle may have been closed meanwhile; then the request was not taken and goes out once more.
        let mut fresh = false;
        loop {
            let (mut connection, reused) = self.connection(fresh).await?;
            let request = self.request(&method, path, content, body.clone())?;
            let sent = tokio::time::timeout(ANSWER, connection.send_request(request)).await;
            let response = match sent {
                Ok(Ok(response)) => response,
                Ok(Err(e)) if reused && (e.is_canceled() || e.is_closed() || method == Method::GET) => {
                    fresh = true;
                    continue;
                }
                Ok(Err(e)) => return Err(self.unreachable(&format!("the connection broke: {e}"))),
                Err(_) => return Err(self.unreachable(&format!("no answer within {} s", ANSWER.as_secs()))),
            };
            let status = response.status();
            let collected =
                tokio::time::timeout(ANSWER, Limited::new(response.into_body(), ANSWER_BYTES).collect()).await;
            let bytes = match collected {
                Ok(Ok(collected)) => collected.to_bytes(),
                Ok(Err(e)) => return Err(self.unreachable(&format!("the answer broke off: {e}"))),
                Err(_) => return Err(self.unreachable("the answer broke off")),
            };
            self.idle.lock().await.push((clock::monotonic(), connection));
            return if status.is_success() {
                Ok(bytes)
            } else {
                Err(refused(status, path, &bytes))
            };
        }
    }

    fn request(&self, method: &Method, path: &str, content: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
        Request::builder()
            .method(method.clone())
            .uri(path)
            .header(HOST, &self.address)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, content)
            .body(Full::new(body))
            .map_err(|e| Failure::new(Code::Failed, format!("cannot ask for {path}: {e}")))
    }

    /// An idle connection that still lives, or a new one.
    async fn connection(&self, fresh: bool) -> Result<(SendRequest<Full<Bytes>>, bool)> {
        if !fresh {
            while let Some(mut connection) = self.take_idle().await {
                if connection.ready().await.is_ok() {
                    return Ok((connection, true));
                }
            }
        }
        match tokio::time::timeout(CONNECT, self.connect_or_follow()).await {
            Ok(connected) => Ok((connected?, false)),
            Err(_) => Err(self.unreachable(&format!("no connection within {} s", CONNECT.as_secs()))),
        }
    }

    /// Connects; where another key is shown, once more when the roots that follow name others.
    async fn connect_or_follow(&self) -> Result<SendRequest<Full<Bytes>>> {
        let wrong = match self.connect().await {
            Err(failure) if failure.code == Code::WrongControllerKey => failure,
            connected => return connected,
        };
        let Some(trust) = &self.follows else {
            return Err(wrong);
        };
        // What is not the next root, signed by the one held, changes nothing: then it is a stranger who answers.
        let Ok(Some(pins)) = self.follow(trust).await else {
            return Err(wrong);
        };
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = connector(Pins::These(pins), &self.wrong_key)?;
        self.wrong_key.store(false, Ordering::Relaxed);
        self.connect().await
    }

    async fn follow(&self, trust: &Path) -> Result<Option<Vec<Digest>>> {
        let mut following = Following::start(trust)?;
        for _ in 0..ensign_bundle::limits::ROOT_STEPS {
            if !following.take(&self.roots_after(following.held()).await?)? {
                break;
            }
        }
        Ok(following.pins())
    }

    /// The roots after the one with this digest, as whoever answers has them. No login is sent.
    async fn roots_after(&self, held: Digest) -> Result<Vec<Vec<u8>>> {
        let mut connection = self.connect_by(&connector(Pins::Anyone, &self.wrong_key)?).await?;
        let request = Request::get(format!("/v1/roots/{held}"))
            .header(HOST, &self.address)
            .body(Full::default())
            .map_err(|e| Failure::new(Code::Failed, e.to_string()))?;
        let response = connection
            .send_request(request)
            .await
            .map_err(|e| self.unreachable(&e.to_string()))?;
        let (status, body) = (response.status(), response.into_body());
        let body = Limited::new(body, ROOTS_BYTES).collect().await;
        let bytes = body.map_err(|e| self.unreachable(&e.to_string()))?.to_bytes();
        if !status.is_success() {
            return Err(refused(status, "/v1/roots", &bytes));
        }
        let roots: Vec<Base64> = parse(&bytes)?;
        Ok(roots.into_iter().map(|root| root.0).collect())
    }

    async fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let (since, connection) = self.idle.lock().await.pop()?;
        // Those below lie there for longer still.
        (clock::monotonic().duration_since(since) < REUSE).then_some(connection)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let tls = self.tls.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.connect_by(&tls).await
    }

    async fn connect_by(&self, tls: &TlsConnector) -> Result<SendRequest<Full<Bytes>>> {
        let tcp = TcpStream::connect(&self.address)
            .await
            .map_err(|e| self.refused_connection(&e))?;
        // Small requests wait for nothing.
        tcp.set_nodelay(true).map_err(|e| self.unreachable(&e.to_string()))?;
        let tls = tls.connect(self.name.clone(), tcp).await.map_err(|e| {
            if self.wrong_key.load(Ordering::Relaxed) {
                Failure::new(
                    Code::WrongControllerKey,
                    format!("{} shows another key than the one this fleet pins", self.address),
                )
                .hint("check who answers there: it is not this fleet's controller")
            } else {
                self.unreachable(&e.to_string())
            }
        })?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|e| self.unreachable(&e.to_string()))?;
        // Ends with the sender; its error reaches the request that it breaks.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Nobody listens: on this machine that means that the controller does not run.
    fn refused_connection(&self, error: &std::io::Error) -> Failure {
        let failure = self.unreachable(&error.to_string());
        let here = host(&self.address).is_ok_and(|host| {
            host == "localhost"
                || host
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        });
        if here && error.kind() == std::io::ErrorKind::ConnectionRefused {
            return failure.hint("nobody listens there: is `ensign-controller serve --data DIR` running?");
        }
        failure
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::new(
            Code::ControllerUnreachable,
            format!("controller {} cannot be reached: {why}", self.address),
        )
    }
}

/// `HOST` of `HOST:PORT`; `[::1]:7443` works too.
pub fn host(address: &str) -> Result<&str> {
    let (host, port) = address
        .rsplit_once(':')
        .ok_or_else(|| Failure::usage(format!("`{address}` is not HOST:PORT")))?;
    if port.parse::<u16>().is_err() {
        return Err(Failure::usage(format!(
            "`{address}` is not HOST:PORT: `{port}` is no port"
        )));
    }
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(Failure::usage(format!(
            "`{address}` is not HOST:PORT: the host is empty"
        )));
    }
    Ok(host)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        Failure::new(
            Code::VersionUnknown,
            format!("the controller's answer is not understood: {e}"),
        )
        .hint("use the ensign of the controller's version")
    })
}

fn refused(status: StatusCode, path: &str, body: &[u8]) -> Failure {
    if let Ok(document) = serde_json::from_slice::<ErrorDocument>(body) {
        return document.into();
    }
    let code = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Code::NotAuthorised,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT => Code::Conflict,
        _ => Code::Failed,
    };
    Failure::new(code, format!("the controller answers {status} to {path}"))
}

/// TLS that takes these keys; `wrong_key` is raised where another one was shown.
fn connector(pins: Pins, wrong_key: &Arc<AtomicBool>) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = PinnedKey {
        pins,
        provider: provider.clone(),
        wrong_key: wrong_key.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Failure::new(Code::Failed, format!("tls: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Which keys may be shown.
#[derive(Debug)]
enum Pins {
    These(Vec<Digest>),
    /// Only to be asked for roots, which prove themselves.
    Anyone,
}

/// Takes a certificate for its key alone: the fleet's root names that key.
#[derive(Debug)]
struct PinnedKey {
    pins: Pins,
    provider: Arc<CryptoProvider>,
    wrong_key: Arc<AtomicBool>,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = spki_digest(end_entity)?;
        match &self.pins {
            Pins::Anyone => Ok(ServerCertVerified::assertion()),
            Pins::These(pins) if pins.contains(&shown) => Ok(ServerCertVerified::assertion()),
            Pins::These(_) => {
                self.wrong_key.store(true, Ordering::Relaxed);
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn hosts() {
        for (address, expected) in [
            ("127.0.0.1:7443", "127.0.0.1"),
            ("[::1]:7443", "::1"),
            ("a.example:1", "a.example"),
        ] {
            assert_eq!(host(address).unwrap(), expected);
        }
        for bad in ["localhost", ":7443", "a:b", "a:70000"] {
            assert_eq!(host(bad).unwrap_err().exit(), 2, "{bad}");
        }
    }

    /// A controller that answers every request with this status and body, and counts its connections.
    async fn controller(status: u16, body: &'static str) -> (String, Digest, Arc<AtomicUsize>) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pin = spki_digest(certificate.der()).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                counted.fetch_add(1, Ordering::Relaxed);
                let service = hyper::service::service_fn(move |_| async move {
                    let response = hyper::Response::builder().status(status);
                    response.body(Full::new(Bytes::from_static(body.as_bytes())))
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service));
            }
        });
        (address, pin, connections)
    }

    #[tokio::test]
    async fn one_connection_serves_many_requests() {
        let (address, pin, connections) = controller(200, "[1, 2]").await;
        let client = Client::new(&address, vec![pin], "t").unwrap();
        for _ in 0..3 {
            assert_eq!(client.get::<Vec<u8>>("/v1/x").await.unwrap(), [1, 2]);
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn another_key_than_the_pinned_one_is_exit_30() {
        let (address, _, connections) = controller(200, "[]").await;
        let client = Client::new(&address, vec![Digest::of(b"another")], "secret").unwrap();
        let failure = client.get::<Vec<u8>>("/v1/x").await.unwrap_err();
        assert_eq!((failure.code, failure.exit()), (Code::WrongControllerKey, 30));
        assert_eq!(connections.load(Ordering::Relaxed), 0, "the token was not sent");
    }

    #[tokio::test]
    async fn refusals_keep_their_code_and_lose_their_control_characters() {
        let body = r#"{"error":{"code":"token-expired","exit":31,"message":"old\u001b[2J","hint":"make one"}}"#;
        let (address, pin, _) = controller(403, body).await;
        let client = Client::new(&address, vec![pin], "t").unwrap();
        let failure = client.get::<Vec<u8>>("/v1/x").await.unwrap_err();
        assert_eq!((failure.exit(), failure.hint_text()), (31, "make one"));
        assert!(!failure.text.contains('\u{1b}'), "{failure:?}");
        let (address, pin, _) = controller(404, "what?").await;
        let client = Client::new(&address, vec![pin], "t").unwrap();
        assert_eq!(client.get::<Vec<u8>>("/v1/x").await.unwrap_err().exit(), 32);
    }

    #[tokio::test]
    async fn nobody_there_is_exit_30() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let client = Client::new(&address, vec![], "t").unwrap();
        let failure = client.get::<ensign_api::Fleet>("/v1/fleet").await.unwrap_err();
        assert_eq!((failure.code, failure.exit()), (Code::ControllerUnreachable, 30));
        let hint = failure.hint_text();
        assert!(
            hint.contains("is `ensign-controller serve --data DIR` running?"),
            "{hint}"
        );
    }
}
