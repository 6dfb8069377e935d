//! Who this device is to its fleet: the receipt key, made here and never leaving, and the binding it joined with.

use ensign_bundle::digest::{DeviceId, FleetId};
use ensign_bundle::limits;
use ensign_bundle::plan::evidence::Binding;
use ensign_bundle::plan::rotation::Rotation;
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use ensign_bundle::statement;
use ensign_crypto::{Envelope, PublicKey, SecretKey, aad};

use crate::durable;
use crate::paths::Paths;

/// Longest PEM of a private key, bytes.
const PEM_BYTES: usize = 4096;
const KEY_MODE: u32 = 0o600;

/// An enrolled device.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub id: DeviceId,
    pub name: String,
    pub receipt_key: SecretKey,
}

/// The receipt key, if there is one.
pub(super) fn receipt_key(paths: &Paths) -> Result<Option<SecretKey>, Refusal> {
    let path = paths.receipt_key();
    let Some(bytes) = durable::read(&path, PEM_BYTES).map_err(|e| io(&path, &e))? else {
        return Ok(None);
    };
    let pem = String::from_utf8(bytes).map_err(|_| Refusal::new(Code::Malformed, "receipt.pem is not text"))?;
    SecretKey::from_pem(&pem)
        .map(Some)
        .map_err(|e| Refusal::new(Code::Malformed, format!("{}: {e}", path.display())))
}

/// Makes a receipt key for joining. Always a new one: what the one before was bound to may be revoked, or be known to the controller
/// alone.
pub(super) fn new_receipt_key(paths: &Paths) -> Result<SecretKey, Refusal> {
    let mut seed = [0; ensign_crypto::KEY_BYTES];
    getrandom::fill(&mut seed).map_err(|e| Refusal::new(Code::Failed, format!("no randomness: {e}")))?;
    let key = SecretKey::from_seed(seed);
    let path = paths.receipt_key();
    let disk = paths.disk();
    disk.write(&path, key.to_pem().as_bytes(), KEY_MODE)
        .map_err(|e| io(&path, &e))?;
    Ok(key)
}

/// Signatures of a binding: token, TLS key, receipt key.
const BINDING_KEYS: u32 = 3;

/// Who this device is; `None` before it joined. Where the trust state is lost there is no `fleet` to verify the binding for: then nothing
/// is done by it.
pub(super) fn load(paths: &Paths, fleet: Option<&FleetId>) -> Result<Option<Identity>, Refusal> {
    let path = paths.binding();
    let Some(bytes) = durable::read(&path, limits::STATEMENT_BYTES).map_err(|e| io(&path, &e))? else {
        return Ok(None);
    };
    // It joined: whoever leaves removes the binding first.
    let Some(receipt_key) = receipt_key(paths)? else {
        return refuse!(
            NeedsReprovision,
            "the receipt key {} is gone",
            paths.receipt_key().display()
        );
    };
    let opened = statement::open_unverified::<Binding>(&bytes)?;
    let binding = opened.body;
    if let Some(fleet) = fleet {
        let keys = [binding.token, binding.key, binding.receipt_key];
        statement::count(&opened.envelope, &keys, BINDING_KEYS, fleet)?;
    }
    if binding.receipt_key != receipt_key.public() {
        return refuse!(
            IdentityChanged,
            "the binding names receipt key {}, the device has {}",
            binding.receipt_key.id(),
            receipt_key.public().id()
        );
    }
    Ok(Some(Identity {
        id: binding.device,
        name: binding.name,
        receipt_key,
    }))
}

/// The receipt key's signature over a binding's payload.
pub(super) fn sign_binding(payload: &[u8], key: &SecretKey, fleet: &FleetId) -> Result<Vec<u8>, Refusal> {
    use ensign_bundle::statement::Document;
    let mut envelope = Envelope::new(Binding::KIND, payload.to_vec());
    let bytes = envelope.encode();
    names_key(&statement::open_unverified::<Binding>(&bytes)?.body, &key.public())?;
    envelope.sign(key, &aad(&fleet.0));
    match envelope.signatures() {
        [only] => Ok(only.bytes.to_vec()),
        _ => refuse!(Failed, "the binding was not signed"),
    }
}

/// The receipt key's signature over a change of the TLS key of this device.
pub(super) fn sign_rotation(payload: &[u8], identity: &Identity, fleet: &FleetId) -> Result<Vec<u8>, Refusal> {
    use ensign_bundle::statement::Document;
    let mut envelope = Envelope::new(Rotation::KIND, payload.to_vec());
    let rotation = statement::open_unverified::<Rotation>(&envelope.encode())?.body;
    let key = &identity.receipt_key;
    if rotation.device != identity.id || rotation.receipt_key != key.public() {
        return refuse!(
            WrongDevice,
            "a change of the key of device {}, this is {}",
            rotation.device,
            identity.id
        );
    }
    envelope.sign(key, &aad(&fleet.0));
    match envelope.signatures() {
        [only] => Ok(only.bytes.to_vec()),
        _ => refuse!(Failed, "the change was not signed"),
    }
}

fn names_key(binding: &Binding, key: &PublicKey) -> Result<(), Refusal> {
    if binding.receipt_key != *key {
        return refuse!(
            IdentityChanged,
            "the binding names receipt key {}, this device has {}",
            binding.receipt_key.id(),
            key.id()
        );
    }
    Ok(())
}

fn io(path: &std::path::Path, error: &std::io::Error) -> Refusal {
    durable::refusal(path.display(), error)
}
