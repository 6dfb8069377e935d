//! Public keys of TUF's JSON and their signatures. Ed25519 goes through [`ensign_crypto::verify`], as everywhere.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// A key as metadata spells it. Its scheme stands in the key's record and is never chosen by a signature (TAP 9).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Record {
    keytype: String,
    scheme: String,
    keyval: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct Value {
    public: String,
}

/// A public key. Two records with the same key are equal, whatever their ids are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Ed25519(ensign_crypto::PublicKey),
    /// SubjectPublicKeyInfo, as the library writes it.
    EcdsaP256(Vec<u8>),
    /// SubjectPublicKeyInfo, as the library writes it.
    RsaPss(Vec<u8>),
    /// A scheme that this client does not know, or a key that is none: it has signed nothing.
    Unknown {
        scheme: String,
        public: String,
    },
}

/// Keys by their ids, which are opaque (TAP 12).
pub(super) type Keys = BTreeMap<String, Record>;

impl Record {
    pub(super) fn key(&self) -> Key {
        self.known().unwrap_or_else(|_| Key::Unknown {
            scheme: self.scheme.clone(),
            public: self.keyval.public.clone(),
        })
    }

    fn known(&self) -> Result<Key> {
        let public = &self.keyval.public;
        Ok(match (self.keytype.as_str(), self.scheme.as_str()) {
            ("ed25519", "ed25519") => Key::Ed25519(public.parse()?),
            ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => {
                Key::EcdsaP256(spki(&signature::ECDSA_P256_SHA256_ASN1, public)?)
            }
            ("rsa", "rsassa-pss-sha256") => Key::RsaPss(spki(&signature::RSA_PSS_2048_8192_SHA256, public)?),
            (keytype, scheme) => anyhow::bail!("keys of type {keytype} with scheme {scheme} are not known"),
        })
    }
}

impl Key {
    /// Whether `signature` is this key's over `message`.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => signature
                .try_into()
                .is_ok_and(|bytes| ensign_crypto::verify(key, message, bytes)),
            Self::EcdsaP256(spki) => verify(&signature::ECDSA_P256_SHA256_ASN1, spki, message, signature),
            Self::RsaPss(spki) => verify(&signature::RSA_PSS_2048_8192_SHA256, spki, message, signature),
            Self::Unknown { .. } => false,
        }
    }
}

fn verify(algorithm: &'static dyn VerificationAlgorithm, spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    ParsedPublicKey::new(algorithm, spki).is_ok_and(|key| key.verify_sig(message, signature).is_ok())
}

/// The one spelling of a key that came as PEM: a point may be written compressed or not, and is one key.
fn spki(algorithm: &'static dyn VerificationAlgorithm, pem: &str) -> Result<Vec<u8>> {
    let lines = pem.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    let [first, body @ .., last] = lines.as_slice() else {
        anyhow::bail!("no PEM text");
    };
    ensure!(
        *first == "-----BEGIN PUBLIC KEY-----" && *last == "-----END PUBLIC KEY-----",
        "no public key in PEM"
    );
    let der = STANDARD.decode(body.concat()).context("PEM")?;
    let key = ParsedPublicKey::new(algorithm, der)
        .ok()
        .context("no key of its type")?;
    let spki = key.as_der().ok().context("a key without SPKI")?;
    Ok(spki.as_ref().to_vec())
}
