//! `ensign-agent rotate-key`: a new TLS key for this device. Its id, its name and its receipts stay.

use ensign_bundle::limits::STATEMENT_BYTES;
use ensign_bundle::plan::evidence::Binding;
use ensign_bundle::reason::Code;
use ensign_bundle::statement::{self, seal};
use ensign_crypto::{KeyId, Signature, aad};
use serde::Serialize;
use serde_bytes::ByteBuf;

use super::admin::{self, Admin};
use super::output::Failure;
use crate::chain::chain;
use crate::clock;
use crate::durable;
use crate::ipc::{FromAdmin, ToAdmin};
use crate::link::identity::{self, Device, IdentityError};
use crate::link::rotation;
use crate::paths::Paths;

/// What the command shows.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    old: KeyId,
    new: KeyId,
}

impl Document {
    pub(super) fn sentence(&self) -> String {
        format!(
            "the key {} will take the place of {}: the device announces it at its next session, within a minute where it runs",
            self.new, self.old
        )
    }
}

/// Prepares the change. Run again before it is done, it changes nothing.
pub(super) fn run(paths: &Paths) -> Result<Document, Failure> {
    let joined = Device::load(paths).map_err(|e| io(&e))?;
    let Some(device) = joined else {
        return Err(not_joined());
    };
    let Some(_preparing) = rotation::Preparing::begin(paths).map_err(|e| io(&e))? else {
        return Err(
            Failure::new(Code::InUse, "another `ensign-agent rotate-key` is at work")
                .hint("wait for its end: `ensign-agent status`"),
        );
    };
    let Some(old) = identity::key(paths).map_err(|e| io(&e))? else {
        return Err(not_joined());
    };
    let admin = Admin::connect(paths)?;
    let binding = durable::read(&paths.binding(), STATEMENT_BYTES)
        .map_err(|e| durable::refusal(paths.binding().display(), &e))?
        .ok_or_else(|| Failure::new(Code::NeedsReprovision, "the binding of this device is gone"))?;
    let receipt_key = statement::open_unverified::<Binding>(&binding)?.body.receipt_key;
    let new = rotation::next_key(paths, &old.public()).map_err(|e| io(&e))?;
    let body = rotation::body(clock::unix(), device.id, &old, &new, receipt_key);
    let mut envelope = seal(&body)?;
    let aad = aad(&device.fleet.0);
    envelope.sign(&old, &aad);
    envelope.sign(&new, &aad);
    let payload = ByteBuf::from(envelope.payload().to_vec());
    match admin.ask(&ToAdmin::SignRotation { payload })? {
        FromAdmin::Signature { key, bytes } => {
            let wrong = || Failure::new(Code::Malformed, "the applier's signature has a wrong length");
            let signature = Signature {
                key: key.id(),
                bytes: bytes.as_slice().try_into().map_err(|_| wrong())?,
            };
            envelope
                .add(signature)
                .map_err(|e| Failure::new(Code::KeysRefused, e.to_string()))?;
        }
        other => return Err(admin::unexpected(&other)),
    }
    rotation::begin(paths, &envelope.encode()).map_err(|e| io(&e))?;
    Ok(Document {
        old: old.public().id(),
        new: new.public().id(),
    })
}

fn not_joined() -> Failure {
    Failure::new(Code::NotFound, "this device has not joined a fleet").hint("`ensign-agent enroll --token-file FILE`")
}

fn io(error: &IdentityError) -> Failure {
    Failure::new(Code::Io, chain(error))
}
