//! What network probes ask: `http://HOST[:PORT][/PATH]` (RFC 9110 §4.2.1, without user information) and `HOST:PORT`.

use crate::reason::Refusal;
use crate::refuse;
use crate::text::printable;

/// Longest URL or address, bytes.
const BYTES: usize = 1024;
/// Port of `http:` URLs without one.
const HTTP_PORT: u16 = 80;

/// The parts of a URL, as a client needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    /// `HOST:PORT`.
    pub address: String,
    /// As it stands in `Host:`.
    pub authority: String,
    /// With the query, from `/`; a fragment is no part of it.
    pub path: String,
}

impl HttpUrl {
    pub fn parse(url: &str) -> Result<Self, Refusal> {
        let rest = plain(url).then(|| url.strip_prefix("http://")).flatten();
        let Some(rest) = rest else {
            return refuse!(Malformed, "`{}` is no http://HOST[:PORT][/PATH]", printable(url, 200));
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let address = if port(authority).is_some() {
            authority.to_owned()
        } else {
            format!("{authority}:{HTTP_PORT}")
        };
        if check_address(&address).is_err() {
            return refuse!(Malformed, "`{}` names no HOST or HOST:PORT", printable(url, 200));
        }
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(Self {
            address,
            authority: authority.to_owned(),
            path,
        })
    }
}

/// `HOST:PORT`: a name, an IPv4 address or an IPv6 address in brackets; the port from 1.
pub fn check_address(address: &str) -> Result<(), Refusal> {
    let host = |text: &str| match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    match port(address) {
        Some((name, port)) if plain(address) && host(name) && port.parse::<u16>().is_ok_and(|p| p > 0) => Ok(()),
        _ => refuse!(Malformed, "`{}` is no HOST:PORT", printable(address, 200)),
    }
}

/// What stands before and after the colon of a port.
fn port(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once(':')
        .filter(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn plain(text: &str) -> bool {
    text.len() <= BYTES && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = |text| HttpUrl::parse(text).map(|u| (u.address, u.authority, u.path));
        let parts = |a: &str, b: &str, c: &str| Ok((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(url("http://localhost"), parts("localhost:80", "localhost", "/"));
        assert_eq!(url("http://[::1]/x"), parts("[::1]:80", "[::1]", "/x"));
        assert_eq!(url("http://[::1]:8080?q"), parts("[::1]:8080", "[::1]:8080", "/?q"));
        assert_eq!(url("http://a:1/x?b=c#d"), parts("a:1", "a:1", "/x?b=c"));
        for bad in [
            "https://localhost/",
            "http:///x",
            "http://a@b/",
            "http://a:0/",
            "http://a:65536/",
            "http://a:/",
            "http://[::1/",
            "http://a/\r\nX: y",
            "http://a b/",
            "",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
        let longest = format!("http://a/{}", "x".repeat(BYTES - 9));
        assert!(url(&longest).is_ok());
        assert!(url(&format!("{longest}x")).is_err());
    }

    #[test]
    fn addresses() {
        for good in ["localhost:1", "127.0.0.1:65535", "[fe80::1]:80", "a_b.example:8080"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in [
            "localhost",
            "localhost:",
            ":80",
            "a:0",
            "a:65536",
            "::1:80",
            "[::1]",
            "a b:1",
            "a/b:1",
            "a@b:1",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
