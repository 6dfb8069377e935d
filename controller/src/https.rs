//! The keys of the operators' port: ECDSA P-256, each in one file with the self-signed certificate that shows it.
//!
//! Root names them by the SHA-256 of their SPKI (`controller.api`), and which one is shown follows from root alone: the first that it names
//! among those that are here. So whatever a crash cuts off, the next start shows a key that operators take:
//!
//! ```text
//! keys new            ─▶  https-next.pem beside https.pem
//! root names the new  ─▶  it is shown, once root does not name the old one any more
//! next start          ─▶  https-next.pem takes the place of https.pem, then https.crt follows
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use ensign_bundle::digest::Digest;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_crypto::KeyId;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::keys::Listed;
use crate::paths::Paths;
use crate::{durable, kit};

/// In the names of its files, and of its role.
pub const NAME: &str = "https";
/// Where the certificate begins in the file of a key.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// The key that handshakes show, from the next one on.
#[derive(Debug)]
pub struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    pub fn new(key: Arc<CertifiedKey>) -> Self {
        Self(RwLock::new(key))
    }

    /// Shows another key; connections that stand stay.
    pub fn show(&self, key: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A key of the folder.
struct Held {
    name: &'static str,
    /// PEM.
    certificate: String,
    id: Digest,
    key: Arc<CertifiedKey>,
}

/// The key to show under a root that names these: the first of them that is here. Where none is, operators cannot connect whatever is
/// shown; devices can, so that is no reason not to start.
pub fn of_operators(paths: &Paths, named: &[Digest]) -> Result<Arc<CertifiedKey>, Refusal> {
    let held = held(paths)?;
    let find = |id: &Digest| held.iter().find(|held| held.id == *id);
    if let Some(found) = named.iter().find_map(find) {
        return Ok(Arc::clone(&found.key));
    }
    match held.first() {
        Some(first) => {
            tracing::error!(key = %first.id, "root does not name the key of the operators' port: no operator will connect");
            Ok(Arc::clone(&first.key))
        }
        None => refuse!(
            NotFound,
            "{} holds no key of the operators' port",
            paths.data().display()
        ),
    }
}

/// Refuses a root under which no operator could reach this controller.
pub fn check(paths: &Paths, named: &[Digest]) -> Result<(), Refusal> {
    let held = held(paths)?;
    if held.iter().any(|held| named.contains(&held.id)) {
        return Ok(());
    }
    let list = |ids: Vec<Digest>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    refuse!(
        KeysRefused,
        "root names the keys {} for operators, this controller holds {}: `ensign-controller keys new --role https --data DIR` makes one \
         for the next root",
        list(named.to_vec()),
        list(held.iter().map(|held| held.id).collect())
    )
}

/// Makes the next key unless one is waiting.
pub fn make_next(paths: &Paths) -> Result<(), Refusal> {
    let path = next_path(paths);
    if path.exists() {
        return Ok(());
    }
    let failed = |e: rcgen::Error| Refusal::new(Code::Failed, format!("the certificate of the operators' port: {e}"));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    // Nobody looks at names: operators pin the key.
    params.distinguished_name.push(DnType::CommonName, "ensign-controller");
    let certificate = params.self_signed(&key).map_err(failed)?;
    let private = Zeroizing::new(key.serialize_pem());
    // One file, so that neither is ever there without the other.
    let both = Zeroizing::new(format!("{}{}", *private, certificate.pem()));
    durable::write_secret(&path, both.as_bytes()).map_err(|e| io(&path, &e))
}

/// Lets a waiting key that root names take the place of the one that it no longer names: the old one is gone then. The certificate lies in
/// the same file, so one rename moves both; the copy beside it follows, now or at the next start.
pub fn settle(paths: &Paths, named: &[Digest]) -> Result<(), Refusal> {
    let held = held(paths)?;
    let is_named = |name: &str| held.iter().any(|held| held.name == name && named.contains(&held.id));
    if is_named(NEXT) && !is_named(NAME) {
        durable::rename(&next_path(paths), &path(paths)).map_err(|e| io(&path(paths), &e))?;
        tracing::info!(name = NAME, "the new key has taken the place of the old one");
    }
    let whole = Zeroizing::new(kit::read(&path(paths))?);
    let copy = paths.https_certificate();
    if let Some(certificate) = certificate_in(&whole)
        && !matches!(kit::read(&copy), Ok(there) if there == certificate.as_bytes())
    {
        durable::write(&copy, certificate.as_bytes()).map_err(|e| io(&copy, &e))?;
    }
    Ok(())
}

/// The keys in the folder, with their certificates as public halves.
pub fn list(paths: &Paths) -> Result<Vec<Listed>, Refusal> {
    let listed = held(paths)?.into_iter().map(|held| Listed {
        name: held.name.to_owned(),
        key: KeyId(held.id.0),
        public: held.certificate,
    });
    Ok(listed.collect())
}

/// What is in use, then what waits.
fn held(paths: &Paths) -> Result<Vec<Held>, Refusal> {
    let files = [(NAME, path(paths)), (NEXT, next_path(paths))];
    files
        .into_iter()
        .filter(|(_, path)| path.exists())
        .map(|(name, path)| load(paths, name, &path))
        .collect()
}

fn load(paths: &Paths, name: &'static str, path: &Path) -> Result<Held, Refusal> {
    let bad = |what: &dyn std::fmt::Display| Refusal::new(Code::Malformed, format!("{}: {what}", path.display()));
    let whole = Zeroizing::new(kit::read(path)?);
    let certificate = match certificate_in(&whole) {
        Some(certificate) => certificate,
        // The first key, as the kit brings it.
        None => String::from_utf8(kit::read(&paths.https_certificate())?).map_err(|e| bad(&e.utf8_error()))?,
    };
    let shown = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|e| bad(&e))?;
    let private = PrivateKeyDer::from_pem_slice(&whole).map_err(|e| bad(&e))?;
    let parsed = ParsedCertificate::try_from(&shown).map_err(|e| bad(&e))?;
    let id = Digest::of(&parsed.subject_public_key_info());
    let key =
        CertifiedKey::from_der(vec![shown.clone()], private, &aws_lc_rs::default_provider()).map_err(|e| bad(&e))?;
    Ok(Held {
        name,
        certificate,
        id,
        key: Arc::new(key),
    })
}

fn certificate_in(file: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(file).ok()?;
    Some(text[text.find(CERTIFICATE)?..].to_owned())
}

const NEXT: &str = "https-next";

fn path(paths: &Paths) -> PathBuf {
    paths.key("https.pem")
}

fn next_path(paths: &Paths) -> PathBuf {
    paths.key("https-next.pem")
}

fn io(path: &Path, error: &std::io::Error) -> Refusal {
    Refusal::new(Code::Io, format!("{}: {error}", path.display()))
}
