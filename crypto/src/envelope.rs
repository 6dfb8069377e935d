//! The signed envelope: a tagged COSE_Sign (RFC 9052 §4.1) of one fixed shape, so one byte string per content.
//!
//! ```text
//! 98([ << {3: "application/vnd.ensign.KIND+cbor"} >>, {}, payload,
//!      [ [ << {1: -19, 4: kid} >>, {}, signature ], ... ] ])        kids strictly increasing, at most 64
//! ```
//!
//! -19 is Ed25519 (RFC 9864). The signatures are over the payload as it stands in the file; nothing is ever encoded again to
//! be verified. COSE asks for at least one signature; here none is allowed too, the file that goes to its first signer. It
//! satisfies no threshold.

use sha2::{Digest as _, Sha256};

use crate::{
    cbor::{self, Reader, ScanError},
    key::{KEY_BYTES, KeyId, SIGNATURE_BYTES, SecretKey},
};

/// Signatures that one envelope may carry: bounds the work that a stranger can ask for.
pub const MAX_SIGNATURES: usize = 64;

/// Tag 98 (COSE_Sign) and an array of four.
const START: [u8; 3] = [0xd8, 0x62, 0x84];
/// The unprotected headers: always empty, since nothing protects them.
const EMPTY_MAP: [u8; 1] = [0xa0];
/// A map of one entry, key 3 (content type).
const BODY_HEADER_START: [u8; 2] = [0xa1, 0x03];
/// An array of three: one signature.
const SIGNATURE_START: [u8; 1] = [0x83];
/// A map of two entries, key 1 (algorithm): ...
const SIGNATURE_HEADER_START: [u8; 2] = [0xa2, 0x01];
/// ... -19, Ed25519 (RFC 9864 §2.2), ...
const ALGORITHM_ED25519: [u8; 1] = [0x32];
/// ... and key 4 (kid), a byte string of 32.
const KID_START: [u8; 3] = [0x04, 0x58, 0x20];

const CONTENT_TYPE_START: &str = "application/vnd.ensign.";
const CONTENT_TYPE_END: &str = "+cbor";
/// Characters of a kind.
const MAX_KIND: usize = 32;

/// What binds every signature to this version of Ensign; the fleet's id follows it.
const AAD_START: &[u8] = b"ensign/v1";

/// A document of one kind with the signatures over it. Parsing proves its shape, not its signatures: see
/// [`require_threshold`](crate::require_threshold).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    kind: String,
    payload: Vec<u8>,
    /// Strictly increasing by key, so the order of signing does not show.
    signatures: Vec<Signature>,
}

/// One signature, and whose it claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The signer's key id (COSE kid).
    pub key: KeyId,
    /// The Ed25519 signature over [`Envelope::signed_bytes`].
    pub bytes: [u8; SIGNATURE_BYTES],
}

/// Why bytes are not an envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// More bytes than this kind of document may have. Nothing was read.
    #[error("{size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not deterministic CBOR.
    #[error("not deterministic CBOR")]
    Encoding(#[from] ScanError),
    /// Something else than the shape asks for.
    #[error("expected {expected} at offset {offset}")]
    Shape {
        /// What should stand there.
        expected: &'static str,
        /// Bytes from the start of the part that is being read.
        offset: usize,
    },
    /// The content type is not `application/vnd.ensign.KIND+cbor` with a kind of `[a-z0-9-]{1,32}`.
    #[error("the content type is not that of an Ensign document")]
    ContentType,
    /// A signature by another algorithm than Ed25519 (-19).
    #[error("signature {index} is not by Ed25519 (-19)")]
    Algorithm {
        /// Which one, from 0.
        index: usize,
    },
    /// More than [`MAX_SIGNATURES`].
    #[error("{found} signatures, at most {MAX_SIGNATURES} are allowed")]
    TooManySignatures {
        /// Signatures claimed.
        found: u64,
    },
    /// One key signed twice.
    #[error("two signatures by key {key}")]
    DuplicateKey {
        /// The key.
        key: KeyId,
    },
    /// The signatures are not sorted by key.
    #[error("the signature by key {key} is out of order")]
    SignatureOrder {
        /// The key that sorts before the one in front of it.
        key: KeyId,
    },
}

/// Why a detached signature was not added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// This key's signature is there already.
    #[error("the document already carries a signature by key {key}")]
    DuplicateKey {
        /// The key.
        key: KeyId,
    },
    /// The envelope is full.
    #[error("the document already carries {MAX_SIGNATURES} signatures")]
    TooManySignatures,
}

/// The external data that every signature covers (RFC 9052 §4.3): `"ensign/v1" ‖ fleet_id`. A signature made in one fleet
/// says nothing in another.
#[must_use]
pub fn aad(fleet_id: &[u8; 32]) -> Vec<u8> {
    [AAD_START, fleet_id].concat()
}

impl Envelope {
    /// An unsigned document. `kind` must be `[a-z0-9-]{1,32}`: of any other, [`Self::parse`] refuses the encoding.
    #[must_use]
    pub fn new(kind: &str, payload: Vec<u8>) -> Self {
        debug_assert!(is_kind(kind), "{kind:?} is no kind of document");
        Self {
            kind: kind.to_owned(),
            payload,
            signatures: Vec::new(),
        }
    }

    /// Reads an envelope of at most `max_bytes`. Accepts exactly what [`Self::encode`] writes, byte for byte. Signatures are
    /// not checked.
    pub fn parse(bytes: &[u8], max_bytes: usize) -> Result<Self, EnvelopeError> {
        if bytes.len() > max_bytes {
            return Err(EnvelopeError::TooLarge {
                size: bytes.len(),
                limit: max_bytes,
            });
        }
        let mut reader = Reader::new(bytes);
        literal(&mut reader, &START, "a tagged COSE_Sign")?;
        let kind = parse_body_header(byte_string(&mut reader, "the protected header")?)?;
        literal(&mut reader, &EMPTY_MAP, "an empty unprotected header")?;
        let payload = byte_string(&mut reader, "the payload")?;
        let offset = reader.offset;
        let count = reader.array()?.ok_or(EnvelopeError::Shape {
            expected: "the signatures",
            offset,
        })?;
        if count > MAX_SIGNATURES as u64 {
            return Err(EnvelopeError::TooManySignatures { found: count });
        }
        let mut signatures: Vec<Signature> = Vec::new();
        for _ in 0..count {
            let signature = parse_signature(&mut reader, signatures.len())?;
            let key = signature.key;
            match signatures.last() {
                Some(last) if last.key == key => return Err(EnvelopeError::DuplicateKey { key }),
                Some(last) if last.key > key => return Err(EnvelopeError::SignatureOrder { key }),
                _ => signatures.push(signature),
            }
        }
        reader.end()?;
        Ok(Self {
            kind: kind.to_owned(),
            payload: payload.to_vec(),
            signatures,
        })
    }

    /// The bytes that [`Self::parse`] reads; the same for the same content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = START.to_vec();
        cbor::put_bytes(&mut out, &self.body_header());
        out.extend(EMPTY_MAP);
        cbor::put_bytes(&mut out, &self.payload);
        cbor::put_array(&mut out, self.signatures.len());
        for signature in &self.signatures {
            out.extend(SIGNATURE_START);
            cbor::put_bytes(&mut out, &signature_header(&signature.key));
            out.extend(EMPTY_MAP);
            cbor::put_bytes(&mut out, &signature.bytes);
        }
        out
    }

    /// What kind of document this is: `plan` for `application/vnd.ensign.plan+cbor`. Covered by the signatures.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The document, exactly as received.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// SHA-256 of the payload: the name of the document, whoever signed it.
    pub fn payload_digest(&self) -> [u8; 32] {
        Sha256::digest(&self.payload).into()
    }

    /// The signatures, strictly increasing by key. None of them is checked.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Adds this key's signature, or replaces the one that is there. More than [`MAX_SIGNATURES`] keys make a file that
    /// [`Self::parse`] refuses.
    pub fn sign(&mut self, key: &SecretKey, aad: &[u8]) {
        let kid = key.public().id();
        let signature = Signature {
            key: kid,
            bytes: key.sign(&self.signed_bytes(&kid, aad)),
        };
        match self.position(&kid) {
            Ok(present) => self.signatures[present] = signature,
            Err(place) => self.signatures.insert(place, signature),
        }
    }

    /// Adds a signature that was made elsewhere, unchecked.
    pub fn add(&mut self, signature: Signature) -> Result<(), AddError> {
        match self.position(&signature.key) {
            Ok(_) => Err(AddError::DuplicateKey { key: signature.key }),
            Err(_) if self.signatures.len() >= MAX_SIGNATURES => Err(AddError::TooManySignatures),
            Err(place) => {
                self.signatures.insert(place, signature);
                Ok(())
            }
        }
    }

    /// What the key with this id signs: the Sig_structure (RFC 9052 §4.4) `["Signature", body_protected, sign_protected,
    /// external_aad, payload]`.
    #[must_use]
    pub fn signed_bytes(&self, kid: &KeyId, aad: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        cbor::put_array(&mut out, 5);
        cbor::put_text(&mut out, "Signature");
        cbor::put_bytes(&mut out, &self.body_header());
        cbor::put_bytes(&mut out, &signature_header(kid));
        cbor::put_bytes(&mut out, aad);
        cbor::put_bytes(&mut out, &self.payload);
        out
    }

    fn position(&self, kid: &KeyId) -> Result<usize, usize> {
        self.signatures.binary_search_by_key(kid, |signature| signature.key)
    }

    fn body_header(&self) -> Vec<u8> {
        let mut out = BODY_HEADER_START.to_vec();
        cbor::put_text(
            &mut out,
            &format!("{CONTENT_TYPE_START}{}{CONTENT_TYPE_END}", self.kind),
        );
        out
    }
}

fn signature_header(kid: &KeyId) -> Vec<u8> {
    [&SIGNATURE_HEADER_START[..], &ALGORITHM_ED25519, &KID_START, &kid.0].concat()
}

fn parse_body_header(header: &[u8]) -> Result<&str, EnvelopeError> {
    let mut reader = Reader::new(header);
    literal(&mut reader, &BODY_HEADER_START, "a header with the content type alone")?;
    let content_type = reader.text()?.ok_or(EnvelopeError::ContentType)?;
    reader.end()?;
    content_type
        .strip_prefix(CONTENT_TYPE_START)
        .and_then(|rest| rest.strip_suffix(CONTENT_TYPE_END))
        .filter(|kind| is_kind(kind))
        .ok_or(EnvelopeError::ContentType)
}

fn parse_signature(reader: &mut Reader<'_>, index: usize) -> Result<Signature, EnvelopeError> {
    literal(reader, &SIGNATURE_START, "a signature")?;
    let key = parse_signature_header(byte_string(reader, "a signature's protected header")?, index)?;
    literal(reader, &EMPTY_MAP, "a signature's empty unprotected header")?;
    let offset = reader.offset;
    let bytes = byte_string(reader, "the bytes of a signature")?
        .try_into()
        .map_err(|_| EnvelopeError::Shape {
            expected: "a signature of 64 bytes",
            offset,
        })?;
    Ok(Signature { key, bytes })
}

fn parse_signature_header(header: &[u8], index: usize) -> Result<KeyId, EnvelopeError> {
    let mut reader = Reader::new(header);
    literal(
        &mut reader,
        &SIGNATURE_HEADER_START,
        "a header with the algorithm and the key id",
    )?;
    if !reader.skip(&ALGORITHM_ED25519) {
        return Err(EnvelopeError::Algorithm { index });
    }
    literal(&mut reader, &KID_START, "a key id of 32 bytes")?;
    let offset = reader.offset;
    let kid: [u8; KEY_BYTES] =
        header
            .get(offset..)
            .and_then(|kid| kid.try_into().ok())
            .ok_or(EnvelopeError::Shape {
                expected: "a key id of 32 bytes and nothing else",
                offset,
            })?;
    Ok(KeyId(kid))
}

fn literal(reader: &mut Reader<'_>, bytes: &[u8], expected: &'static str) -> Result<(), EnvelopeError> {
    let offset = reader.offset;
    if reader.skip(bytes) {
        Ok(())
    } else {
        Err(EnvelopeError::Shape { expected, offset })
    }
}

fn byte_string<'a>(reader: &mut Reader<'a>, expected: &'static str) -> Result<&'a [u8], EnvelopeError> {
    let offset = reader.offset;
    reader.byte_string()?.ok_or(EnvelopeError::Shape { expected, offset })
}

fn is_kind(kind: &str) -> bool {
    (1..=MAX_KIND).contains(&kind.len())
        && kind
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
