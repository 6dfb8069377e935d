//! What a thief tells operators: the HTTPS side of a stolen controller. It shows the pinned key, passes each request on to the real
//! controller, and changes the answers as it likes. What operators send is kept, so that a test sees what they signed.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
};
use serde_json::Value;

use crate::harness::Fleet;

/// Largest head of a request or an answer, bytes.
const HEAD_BYTES: usize = 64 << 10;

/// Changes an answer: path with query, status, body.
type Lie = dyn Fn(&str, &mut u16, &mut Value) + Send + Sync;

/// A stolen controller's operators' side. Ends when dropped.
pub struct Liar {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

/// What an operator sent.
#[derive(Clone, Debug)]
pub struct Posted {
    pub path: String,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Liar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Liar")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

struct Shared {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    real: SocketAddr,
    lie: Box<Lie>,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Liar {
    /// Stands in front of the fleet's controller.
    pub fn start(fleet: &Fleet, lie: impl Fn(&str, &mut u16, &mut Value) + Send + Sync + 'static) -> Result<Self> {
        let keys = fleet.path("controller/keys");
        let certificates =
            CertificateDer::pem_slice_iter(&fs::read(keys.join("https.crt"))?).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&fs::read(keys.join("https.pem"))?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(certificates, key)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let posted = Arc::default();
        let shared = Arc::new(Shared {
            server: Arc::new(server),
            client: Arc::new(client),
            real: fleet.address().parse()?,
            lie: Box::new(lie),
            posted: Arc::clone(&posted),
        });
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let listener = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // An operator that hangs up is no trouble here.
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Ok(Self {
            address,
            posted,
            stop,
            listener: Some(listener),
        })
    }

    /// `HOST:PORT` for `--controller`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What operators sent since this was last asked.
    pub fn posted(&self) -> Vec<Posted> {
        let mut posted = self.posted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut *posted)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            drop(listener.join());
        }
    }
}

impl Shared {
    /// One request on each connection.
    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut operator = StreamOwned::new(ServerConnection::new(Arc::clone(&self.server))?, stream);
        let request = Message::read(&mut operator)?;
        let mut words = request.head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if method != "GET" {
            let mut posted = self.posted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            posted.push(Posted {
                path: path.to_owned(),
                body: request.body.clone(),
            });
        }
        let answer = self.ask(&request)?;
        let status = answer.head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut status: u16 = status.context("a status")?;
        let body = match serde_json::from_slice::<Value>(&answer.body) {
            Ok(mut value) => {
                (self.lie)(path, &mut status, &mut value);
                value.to_string().into_bytes()
            }
            Err(_) => answer.body,
        };
        let head = format!(
            "HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        operator.write_all(head.as_bytes())?;
        operator.write_all(&body)?;
        operator.conn.send_close_notify();
        operator.flush()?;
        Ok(())
    }

    /// What the real controller says.
    fn ask(&self, request: &Message) -> Result<Message> {
        let name = ServerName::from(self.real.ip());
        let connection = ClientConnection::new(Arc::clone(&self.client), name)?;
        let mut real = StreamOwned::new(connection, TcpStream::connect(self.real)?);
        real.write_all(request.head.as_bytes())?;
        real.write_all(&request.body)?;
        real.flush()?;
        Message::read(&mut real)
    }
}

/// A request or an answer of HTTP/1.1.
struct Message {
    /// With the empty line.
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn read(from: &mut impl Read) -> Result<Self> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < HEAD_BYTES, "a head without end");
            from.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().ok())?
        });
        let mut body = vec![0; length.unwrap_or(0_usize)];
        match from.read_exact(&mut body) {
            Err(e) if e.kind() != ErrorKind::UnexpectedEof || !body.is_empty() => return Err(e.into()),
            _ => {}
        }
        Ok(Self { head, body })
    }
}

/// The thief knows whom it asks.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
