//! The first root and targets of a fleet, and the keys that its controller holds.

use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::issue::NewFleet;
use ensign_bundle::trust::roles::Controller;
use ensign_crypto::SecretKey;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::failure::{Failure, Result};
use crate::home::KeyRole;
use crate::{client, random};

/// The operator's keys, each with its role.
pub type Signing = [(KeyRole, SecretKey)];

/// The controller's keys: they go into the kit and nowhere else, so there is no `Debug`.
pub struct Online {
    pub timestamp: SecretKey,
    pub snapshot: SecretKey,
    pub controller: SecretKey,
    pub https_key: String,
    pub https_certificate: String,
    pub https_spki: Digest,
}

impl Online {
    pub fn make(host: &str) -> Result<Self> {
        let failed = |e: rcgen::Error| Failure::new(Code::Failed, format!("the https certificate: {e}"));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::new([host.to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, "ensign-controller");
        let certificate = params.self_signed(&key).map_err(failed)?;
        let https_spki = client::spki_digest(certificate.der())
            .map_err(|e| Failure::new(Code::Failed, format!("the https certificate: {e}")))?;
        Ok(Self {
            timestamp: random::key()?,
            snapshot: random::key()?,
            controller: random::key()?,
            https_key: key.serialize_pem(),
            https_certificate: certificate.pem(),
            https_spki,
        })
    }
}

/// What the fleet starts with: one root key and a recovery key, one key for everything else, one controller.
pub fn new_fleet(
    fleet: &FleetId,
    name: &Ident,
    address: &str,
    lab: bool,
    signing: &Signing,
    online: &Online,
) -> Result<NewFleet> {
    let public = |wanted| key(signing, wanted).map(SecretKey::public);
    Ok(NewFleet {
        fleet: *fleet,
        name: name.to_string(),
        root: vec![public(KeyRole::Root)?, public(KeyRole::Recovery)?],
        targets: public(KeyRole::Targets)?,
        release: public(KeyRole::Release)?,
        deploy: public(KeyRole::Deploy)?,
        snapshot: online.snapshot.public(),
        timestamp: online.timestamp.public(),
        controller: Controller {
            keys: vec![online.controller.public().id()],
            api: vec![online.https_spki],
            addresses: vec![address.to_owned()],
        },
        lab,
    })
}

/// Root 1, signed by the root key.
pub fn root(new: &NewFleet, now: u64, signing: &Signing) -> Result<Vec<u8>> {
    Ok(statement::sign(
        &new.root(now)?,
        &[key(signing, KeyRole::Root)?],
        &new.fleet,
    )?)
}

/// Targets 1, signed by the targets key.
pub fn targets(new: &NewFleet, now: u64, signing: &Signing) -> Result<Vec<u8>> {
    Ok(statement::sign(
        &new.targets(now),
        &[key(signing, KeyRole::Targets)?],
        &new.fleet,
    )?)
}

fn key(signing: &Signing, wanted: KeyRole) -> Result<&SecretKey> {
    signing
        .iter()
        .find_map(|(role, key)| (*role == wanted).then_some(key))
        .ok_or_else(|| Failure::new(Code::Failed, format!("no {} key was made", wanted.name())))
}
