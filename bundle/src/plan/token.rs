//! The join token: one line of text that lets a device find and recognise its fleet, and prove that it was invited.
//!
//! ```text
//! base64url( 1 | n | n × (length | address) | fleet id 32 | SHA-256 of root 1 32 | controller's key id 32 | seed 32 | checksum 4 )
//! ```
//!
//! Counts and lengths are one byte. The checksum is the first four bytes of SHA-256 over everything before it: it finds typing
//! and copying errors, it protects nothing.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ensign_crypto::{KeyId, PublicKey, SecretKey};
use zeroize::Zeroizing;

use crate::digest::{Digest, FleetId};
use crate::reason::Refusal;
use crate::refuse;

/// Longest token, characters.
pub const TOKEN_CHARS: usize = 400;
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

/// A join token. `Debug` and errors never show its seed.
#[derive(Clone)]
pub struct Token {
    /// `HOST:PORT`, the first that answers is used.
    pub addresses: Vec<String>,
    pub fleet: FleetId,
    /// SHA-256 of the first root's bytes.
    pub root: Digest,
    /// The key that the controller must show.
    pub controller: KeyId,
    /// Proves the invitation: the grant names its public half.
    pub key: SecretKey,
}

impl Token {
    /// The text of the token; refused when the addresses make it longer than 400 characters.
    pub fn to_text(&self) -> Result<String, Refusal> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(TOKEN_CHARS));
        bytes.extend_from_slice(&[VERSION, length(self.addresses.len())?]);
        for address in &self.addresses {
            bytes.push(length(address.len())?);
            bytes.extend_from_slice(address.as_bytes());
        }
        bytes.extend_from_slice(&self.fleet.0);
        bytes.extend_from_slice(&self.root.0);
        bytes.extend_from_slice(&self.controller.0);
        bytes.extend_from_slice(&self.key.seed()[..]);
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        let text = URL_SAFE_NO_PAD.encode(bytes.as_slice());
        if text.len() > TOKEN_CHARS {
            return refuse!(
                LimitExceeded,
                "the addresses make the token {} characters long, at most {TOKEN_CHARS} are allowed",
                text.len()
            );
        }
        Ok(text)
    }

    /// The public key that the token's grant names.
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }
}

impl FromStr for Token {
    type Err = Refusal;

    /// Reads what [`Token::to_text`] writes, white space around it allowed.
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        if text.len() > TOKEN_CHARS {
            return refuse!(
                TokenMalformed,
                "the token has {} characters, at most {TOKEN_CHARS}",
                text.len()
            );
        }
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(text) else {
            return refuse!(TokenMalformed, "the token is not base64url text");
        };
        let bytes = Zeroizing::new(bytes);
        let Some((body, sum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
            return refuse!(TokenMalformed, "the token is too short");
        };
        if checksum(body) != *sum {
            return refuse!(TokenMalformed, "the token's checksum is wrong: it was not copied whole");
        }
        match parse(body) {
            Some(token) => Ok(token),
            None if body.first() != Some(&VERSION) => refuse!(TokenMalformed, "the token is of another version"),
            None => refuse!(TokenMalformed, "the token has the wrong shape"),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("addresses", &self.addresses)
            .field("fleet", &self.fleet)
            .field("key", &self.public())
            .finish_non_exhaustive()
    }
}

fn parse(body: &[u8]) -> Option<Token> {
    let (&version, rest) = body.split_first()?;
    let (&count, mut rest) = rest.split_first()?;
    if version != VERSION || count == 0 {
        return None;
    }
    let mut addresses = Vec::new();
    for _ in 0..count {
        let (&length, tail) = rest.split_first()?;
        let (address, tail) = tail.split_at_checked(usize::from(length))?;
        addresses.push(std::str::from_utf8(address).ok()?.to_owned());
        rest = tail;
    }
    let (fleet, rest) = rest.split_first_chunk()?;
    let (root, rest) = rest.split_first_chunk()?;
    let (controller, rest) = rest.split_first_chunk()?;
    let (seed, rest) = rest.split_first_chunk()?;
    rest.is_empty().then(|| Token {
        addresses,
        fleet: FleetId(*fleet),
        root: Digest(*root),
        controller: KeyId(*controller),
        key: SecretKey::from_seed(*seed),
    })
}

fn length(n: usize) -> Result<u8, Refusal> {
    match u8::try_from(n) {
        Ok(n) if n > 0 => Ok(n),
        _ => refuse!(
            LimitExceeded,
            "a token holds 1 to 255 addresses of 1 to 255 bytes, not {n}"
        ),
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let [a, b, c, d, ..] = Digest::of(bytes).0;
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Code;

    fn token() -> Token {
        Token {
            addresses: vec!["127.0.0.1:7443".into(), "[2001:db8::1]:7443".into()],
            fleet: FleetId([1; 32]),
            root: Digest([2; 32]),
            controller: KeyId([3; 32]),
            key: SecretKey::from_seed([4; 32]),
        }
    }

    #[test]
    fn text_round_trips_within_400_characters() {
        let text = token().to_text().unwrap();
        assert!(text.len() <= TOKEN_CHARS, "{}", text.len());
        let back: Token = format!(" {text}\n").parse().unwrap();
        assert_eq!(back.to_text().unwrap(), text);
        assert_eq!(back.addresses, token().addresses);
        assert_eq!(back.public(), token().public());
    }

    #[test]
    fn every_changed_or_missing_character_is_malformed() {
        let text = token().to_text().unwrap();
        for at in 0..text.len() {
            let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut changed = text.clone();
            changed.replace_range(at..=at, other);
            assert_eq!(changed.parse::<Token>().unwrap_err().code, Code::TokenMalformed, "{at}");
            assert_eq!(
                text[..at].parse::<Token>().unwrap_err().code,
                Code::TokenMalformed,
                "{at}"
            );
        }
    }

    #[test]
    fn the_seed_is_not_in_debug() {
        let shown = format!("{:?}", token());
        assert!(
            !shown.contains(&hex::encode([4; 32])) && !shown.contains("[4, 4"),
            "{shown}"
        );
    }

    #[test]
    fn too_long_addresses_are_refused() {
        let long = Token {
            addresses: vec!["a".repeat(200)],
            ..token()
        };
        assert_eq!(long.to_text().unwrap_err().code, Code::LimitExceeded);
        let none = Token {
            addresses: Vec::new(),
            ..token()
        };
        assert_eq!(none.to_text().unwrap_err().code, Code::LimitExceeded);
    }
}
