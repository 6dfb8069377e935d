//! The least of HTTP that fetches a file (RFC 9110, as HTTP/1.0: one answer, then the end).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// Silence after which a server is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// Status line and header fields, bytes.
const HEAD_BYTES: usize = 16 << 10;

/// The file at `url` (`http://HOST:PORT/PATH`), of at most `limit` bytes; `None` where the server has none.
pub(super) fn get(url: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("{url}: only http:// is known"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).with_context(|| format!("connecting to {host}"))?;
    stream.set_read_timeout(Some(SILENCE))?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\nAccept: */*\r\n\r\n")?;
    let most = limit.saturating_add(HEAD_BYTES as u64);
    let mut answer = Vec::new();
    stream
        .take(most)
        .read_to_end(&mut answer)
        .with_context(|| format!("reading {url}"))?;

    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("an answer without an end of its head")?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).context("an answer with a head that is no text")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    match status {
        Some("200") => {}
        Some("403" | "404") => return Ok(None),
        other => bail!("{url}: the server answers {other:?}"),
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if let Some((_, length)) = length {
        let length: u64 = length.trim().parse().context("the length of an answer")?;
        ensure!(length <= limit, "{url} has {length} bytes, at most {limit} are taken");
        ensure!(length == body.len() as u64, "{url} ended early");
    }
    ensure!(body.len() as u64 <= limit, "{url} has more than {limit} bytes");
    Ok(Some(body))
}

/// `text` as one segment of a path (RFC 3986 §2.3): everything but unreserved characters is percent-encoded.
pub(super) fn quote(text: &str) -> String {
    let byte = |b: u8| match b {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        _ => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// What [`quote`] was given.
pub(super) fn unquote(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b == b'%' {
            let digits = [rest.next()?, rest.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok().filter(|plain| quote(plain) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_leaves_no_separator() {
        assert_eq!(quote("../a?b#c%é"), "..%2Fa%3Fb%23c%25%C3%A9");
        for text in ["", "../a?b#c%é", "plain", "a b"] {
            assert_eq!(unquote(&quote(text)).as_deref(), Some(text));
        }
        for text in ["%", "%2", "%zz", "%61", "a/b", "%ff"] {
            assert_eq!(unquote(text), None, "{text}");
        }
    }
}
