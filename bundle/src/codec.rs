//! The one place that calls serde_cbor: deterministic encoding (RFC 8949 §4.2.1) and strict decoding.
//!
//! Signed bytes are scanned strictly before serde sees them; unknown fields are refused by the types themselves
//! (`deny_unknown_fields`) where the document is signed, and ignored in messages.

use std::collections::BTreeMap;

use ensign_crypto::cbor::{self, Limits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Deepest nesting of any document or message.
const DEPTH: usize = 12;

/// The one place in a signed document where fields may stand that this version does not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ext(BTreeMap<String, serde_cbor::Value>);

impl Eq for Ext {}

impl Ext {
    /// No field of a later version is there; it is then left out of the encoding.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A field that is a text.
    pub fn text(&self, field: &str) -> Option<&str> {
        match self.0.get(field) {
            Some(serde_cbor::Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Sets a field to a text, or takes it away. The others stay.
    pub fn set_text(&mut self, field: &str, text: Option<String>) {
        match text {
            Some(text) => self.0.insert(field.to_owned(), serde_cbor::Value::Text(text)),
            None => self.0.remove(field),
        };
    }
}

/// Why bytes are not the CBOR that was expected, or a value cannot become some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("not deterministic cbor: {0}")]
    NotDeterministic(String),
    #[error("cbor of the wrong shape: {0}")]
    Shape(String),
    #[error("cannot be encoded: {0}")]
    Encode(String),
}

/// Deterministic bytes of `value`: shortest integers, definite lengths, map keys sorted by their encoded bytes.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    // Going through `Value` sorts map keys: its order is length first, then bytewise, which for the text keys of our structs is
    // the order of RFC 8949 §4.2.1.
    let value = serde_cbor::value::to_value(value).map_err(|e| CodecError::Encode(e.to_string()))?;
    serde_cbor::to_vec(&value).map_err(|e| CodecError::Encode(e.to_string()))
}

/// The value in `bytes`, after the strict scanner found them deterministic and within `max_items`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max_items: usize) -> Result<T, CodecError> {
    cbor::scan(
        bytes,
        Limits {
            max_depth: DEPTH,
            max_items,
        },
    )
    .map_err(|e| CodecError::NotDeterministic(e.to_string()))?;
    serde_cbor::from_slice(bytes).map_err(|e| CodecError::Shape(e.to_string()))
}

/// As [`decode`], and refuses bytes that [`encode`] would not write for the same value: serde takes a byte string for the name of a
/// variant, null for a field that is missing, and a default that is spelled out. Verified bytes are never made anew; this only
/// compares.
pub fn decode_exact<T: Serialize + DeserializeOwned>(bytes: &[u8], max_items: usize) -> Result<T, CodecError> {
    let value = decode(bytes, max_items)?;
    if encode(&value)? != bytes {
        return Err(CodecError::NotDeterministic(
            "another spelling of the same value".to_owned(),
        ));
    }
    Ok(value)
}

/// What follows `item` in a sequence that begins with it, spelled as [`append`] would.
pub fn after_exact<'a, T: Serialize>(sequence: &'a [u8], item: &T) -> Result<&'a [u8], CodecError> {
    sequence
        .strip_prefix(encode(item)?.as_slice())
        .ok_or_else(|| CodecError::NotDeterministic("another spelling of the same value".to_owned()))
}

/// Appends `item` to a CBOR sequence (RFC 8742).
pub fn append<T: Serialize>(sequence: &mut Vec<u8>, item: &T) -> Result<(), CodecError> {
    sequence.extend_from_slice(&encode(item)?);
    Ok(())
}

/// The items of a CBOR sequence (RFC 8742), decoded one by one. The bytes must have passed [`scan_sequence`].
pub fn sequence<'a, T: DeserializeOwned + 'a>(bytes: &'a [u8]) -> impl Iterator<Item = Result<T, CodecError>> + 'a {
    serde_cbor::Deserializer::from_slice(bytes)
        .into_iter::<T>()
        .map(|item| item.map_err(|e| CodecError::Shape(e.to_string())))
}

/// Checks a CBOR sequence strictly and returns how many items it has.
pub fn scan_sequence(bytes: &[u8], max_items: usize) -> Result<usize, CodecError> {
    cbor::scan_sequence(
        bytes,
        Limits {
            max_depth: DEPTH,
            max_items,
        },
    )
    .map_err(|e| CodecError::NotDeterministic(e.to_string()))
}
