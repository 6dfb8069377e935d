//! Probes over the network: does it accept a connection, does it answer a GET. On loopback, unless agent.toml names the host.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use ensign_bundle::manifest::HttpUrl;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::text::printable;

use super::failed;
use crate::clock;
use crate::ipc::FromRunner;

/// Longest time of one probe, seconds, whatever is asked for.
const MAX_TIMEOUT_S: u64 = 10;
/// Longest status line, bytes.
const LINE_BYTES: usize = 1024;
/// Answers that are healthy.
const HEALTHY: std::ops::RangeInclusive<u16> = 200..=399;

/// Whether `HOST:PORT` accepts a connection.
pub(super) fn tcp(allowed: &[String], address: &str, timeout_s: u64) -> FromRunner {
    let deadline = deadline(timeout_s);
    match connect(allowed, address, deadline) {
        Ok(_) => FromRunner::Ok,
        Err(problem) => problem.answer(),
    }
}

/// Whether a GET of `http://HOST[:PORT][/PATH]` answers 200 to 399. Redirects are not followed.
pub(super) fn http(allowed: &[String], url: &str, timeout_s: u64) -> FromRunner {
    let deadline = deadline(timeout_s);
    let asked = HttpUrl::parse(url).map_err(Problem::Refused).and_then(|target| {
        let mut stream = connect(allowed, &target.address, deadline)?;
        Ok(status(&mut stream, &target, deadline)?)
    });
    match asked {
        Ok(code) if HEALTHY.contains(&code) => FromRunner::Ok,
        Ok(code) => failed(format!("it answers {code}")),
        Err(problem) => problem.answer(),
    }
}

/// Why there is no answer: it may not be asked, or there was none.
#[derive(Debug)]
enum Problem {
    Refused(Refusal),
    Io(io::Error),
}

impl Problem {
    /// Whoever asked knows what it asked for.
    fn answer(self) -> FromRunner {
        match self {
            Self::Refused(refusal) => FromRunner::Refused(refusal),
            Self::Io(error) => failed(error.to_string()),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn deadline(timeout_s: u64) -> Duration {
    clock::boot() + Duration::from_secs(timeout_s.clamp(1, MAX_TIMEOUT_S))
}

/// What is left until the deadline; an error when nothing is.
fn left(deadline: Duration) -> io::Result<Duration> {
    let left = deadline.saturating_sub(clock::boot());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// Connects to the first of the host's addresses that accepts. A host that is not allowed must be loopback in all of them.
fn connect(allowed: &[String], address: &str, deadline: Duration) -> Result<TcpStream, Problem> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let allowed = allowed.iter().any(|a| a == host);
    let refused = |what: String| {
        let text = format!(
            "{what}; runner.probe_hosts of agent.toml may name {}",
            printable(host, 200)
        );
        Err(Problem::Refused(Refusal::new(Code::NotAuthorised, text)))
    };
    let found: Vec<SocketAddr> = match address.to_socket_addrs() {
        Ok(found) => found.collect(),
        // Whether its name is known or not, it is not loopback.
        Err(error) if !allowed => return refused(format!("it is no name of loopback ({error})")),
        Err(error) => return Err(error.into()),
    };
    if !allowed && let Some(outside) = found.iter().find(|a| !a.ip().is_loopback()) {
        return refused(format!("it is {}, which is not loopback", outside.ip()));
    }
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for socket in found {
        match TcpStream::connect_timeout(&socket, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure.into())
}

/// The status code of the answer (RFC 9112 §4).
fn status(stream: &mut TcpStream, target: &HttpUrl, deadline: Duration) -> io::Result<u16> {
    stream.set_write_timeout(Some(left(deadline)?))?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: ensign\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        target.path, target.authority
    );
    stream.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        if line.len() >= LINE_BYTES {
            return Err(io::Error::other("its first line has no end"));
        }
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut chunk = [0; LINE_BYTES];
        match stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => line.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let text = String::from_utf8_lossy(&line);
    let mut words = text.split_ascii_whitespace();
    let version = words.next().unwrap_or_default();
    match words.next().and_then(|code| code.parse().ok()) {
        Some(code) if version.starts_with("HTTP/1.") => Ok(code),
        _ => Err(io::Error::other("it does not speak HTTP/1")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection with these bytes.
    fn serve(answer: &'static [u8]) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            let mut chunk = [0; 1024];
            while !heard.ends_with(b"\r\n\r\n") {
                let n = stream.read(&mut chunk).unwrap();
                heard.extend_from_slice(&chunk[..n]);
            }
            stream.write_all(answer).unwrap();
            String::from_utf8(heard).unwrap()
        });
        (address, thread)
    }

    #[test]
    fn the_status_decides() {
        for (answer, healthy) in [
            (&b"HTTP/1.1 200 OK\r\n\r\n"[..], true),
            (b"HTTP/1.0 399 x\r\n\r\n", true),
            (b"HTTP/1.1 503 down\r\n\r\n", false),
            (b"HTTP/1.1 199 x\r\n", false),
            (b"SSH-2.0-x 200\r\n", false),
            (b"", false),
        ] {
            let (address, thread) = serve(answer);
            let answered = http(&[], &format!("http://{address}/health?deep=1#x"), 5);
            assert_eq!(answered == FromRunner::Ok, healthy, "{answered:?}");
            let heard = thread.join().unwrap();
            assert!(heard.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{heard}");
            assert!(heard.contains(&format!("\r\nHost: {address}\r\n")), "{heard}");
        }
    }

    #[test]
    fn a_server_that_says_nothing_ends_with_its_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let started = clock::boot();
        let answer = http(&[], &format!("http://{address}"), 1);
        assert!(matches!(answer, FromRunner::Failed { .. }), "{answer:?}");
        assert!(clock::boot() < started + Duration::from_secs(5));
        // The kernel accepts on its own: that is what a TCP probe asks.
        assert_eq!(tcp(&[], &address.to_string(), 1), FromRunner::Ok);
        drop(listener);
        assert!(matches!(tcp(&[], &address.to_string(), 1), FromRunner::Failed { .. }));
    }

    #[test]
    fn other_machines_are_not_asked_unless_named() {
        let unknown = http(&[], "http://no-such-host.invalid/", 5);
        for answer in [tcp(&[], "192.0.2.1:80", 1), http(&[], "http://192.0.2.1/", 1), unknown] {
            assert!(
                matches!(&answer, FromRunner::Refused(r) if r.code == Code::NotAuthorised),
                "{answer:?}"
            );
        }
    }
}
