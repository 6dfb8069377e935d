//! The first root and targets of a fleet, and the keys that its controller holds.

use ensign_bundle::codec::Ext;
use ensign_bundle::digest::{Digest, FleetId};
use ensign_bundle::ids::Ident;
use ensign_bundle::reason::Code;
use ensign_bundle::statement;
use ensign_bundle::trust::roles::{Controller, FORMAT, Floors, Policy, Product, Role, Root, RootRoles, Scope, Targets};
use ensign_crypto::SecretKey;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::failure::{Failure, Result};
use crate::home::KeyRole;
use crate::{client, random};

/// Life of the first root and targets, seconds: a year.
const LIFE_S: u64 = 365 * 24 * 3600;
/// What every release may hold unless a product says otherwise.
const KINDS: [&str; 2] = ["tree", "oci"];

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

/// Root 1, signed by the root key: root 1 of 2 (one is the recovery key), everything else 1 of 1, one deploy scope for all.
pub fn root(
    fleet: &FleetId,
    name: &Ident,
    address: &str,
    now: u64,
    lab: bool,
    signing: &Signing,
    online: &Online,
) -> Result<Vec<u8>> {
    let role = |wanted: &[KeyRole]| {
        let keys = signing.iter().filter(|(role, _)| wanted.contains(role));
        one_of(&keys.map(|(_, key)| key).collect::<Vec<_>>())
    };
    let all = Ident::parse("all").map_err(|e| Failure::new(Code::Failed, e.to_string()))?;
    let root = Root {
        format: FORMAT,
        version: 1,
        issued: now,
        expires: now + LIFE_S,
        fleet: *fleet,
        name: name.to_string(),
        roles: RootRoles {
            root: role(&[KeyRole::Root, KeyRole::Recovery]),
            targets: role(&[KeyRole::Targets]),
            snapshot: one_of(&[&online.snapshot]),
            timestamp: one_of(&[&online.timestamp]),
        },
        scopes: vec![Scope {
            name: all,
            select: String::new(),
            role: role(&[KeyRole::Deploy]),
        }],
        protected: Vec::new(),
        policy: Policy {
            lab,
            ..Policy::default()
        },
        controller: Controller {
            keys: vec![online.controller.public().id()],
            api: vec![online.https_spki],
            addresses: vec![address.to_owned()],
        },
        floors: Floors::default(),
        time_reset: None,
        min_protocol: 1,
        ext: Ext::default(),
    };
    Ok(statement::sign(&root, &[key(signing, KeyRole::Root)?], fleet)?)
}

/// Targets 1: the entry `*` for every product, signed by the targets key.
pub fn targets(fleet: &FleetId, now: u64, signing: &Signing) -> Result<Vec<u8>> {
    let targets = Targets {
        format: FORMAT,
        version: 1,
        issued: now,
        expires: now + LIFE_S,
        products: vec![Product {
            name: "*".to_owned(),
            role: one_of(&[key(signing, KeyRole::Release)?]),
            components: vec!["*".to_owned()],
            kinds: KINDS.map(str::to_owned).to_vec(),
            handlers: Vec::new(),
            units: vec!["*".to_owned()],
            security_floor: 0,
            lowest: 0,
            network: false,
            ext: Ext::default(),
        }],
        ext: Ext::default(),
    };
    Ok(statement::sign(&targets, &[key(signing, KeyRole::Targets)?], fleet)?)
}

fn key(signing: &Signing, wanted: KeyRole) -> Result<&SecretKey> {
    signing
        .iter()
        .find_map(|(role, key)| (*role == wanted).then_some(key))
        .ok_or_else(|| Failure::new(Code::Failed, format!("no {} key was made", wanted.name())))
}

fn one_of(keys: &[&SecretKey]) -> Role {
    Role {
        keys: keys.iter().map(|k| k.public()).collect(),
        threshold: 1,
    }
}
