//! The cases that TUF's own suite does not have: from other clients, from advisories, from Uptane and SUIT. `docs/conformance.md`
//! lists each with its test; those about keys, paths, devices and connections stand in the crates that they belong to.

mod deploy;
mod parsing;
mod roles;

use ensign_bundle::statement::{self, Document};
use ensign_crypto::{Envelope, aad};

use crate::fleet::*;

/// A document of this kind with any payload at all, properly signed.
fn raw(kind: &str, payload: Vec<u8>, seeds: &[u8]) -> Vec<u8> {
    let mut envelope = Envelope::new(kind, payload);
    for seed in seeds {
        envelope.sign(&key(*seed), &aad(&FLEET.0));
    }
    envelope.encode()
}

fn payload<T: Document>(body: &T) -> Vec<u8> {
    statement::seal(body).unwrap().payload().to_vec()
}

/// `bytes` with the first `from` replaced.
#[track_caller]
fn swap(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// A text item as CBOR has it.
fn text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    let mut bytes = if length < 24 {
        vec![0x60 + length]
    } else {
        vec![0x78, length]
    };
    bytes.extend(text.as_bytes());
    bytes
}

/// True when the stored state has exactly these bytes in it.
fn holds(device: &ensign_bundle::trust::Trusted, received: &[u8]) -> bool {
    let stored = device.encode().unwrap();
    stored.windows(received.len()).any(|w| w == received)
}
