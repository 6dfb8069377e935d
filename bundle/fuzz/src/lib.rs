//! What each target does with foreign bytes: parse them, and where they are accepted, hold the parser to its promises.

use std::io::Cursor;

use ensign_bundle::blocks::{BlockKind, BlockRow, BlockTable, decode_block};
use ensign_bundle::codec;
use ensign_bundle::container;
use ensign_bundle::digest::Digest;
use ensign_bundle::each_document;
use ensign_bundle::limits;
use ensign_bundle::manifest::Manifest;
use ensign_bundle::path::TreePath;
use ensign_bundle::plan::evidence::Gate;
use ensign_bundle::plan::file::{self, PlanFile};
use ensign_bundle::plan::token::Token;
use ensign_bundle::selector::Selector;
use ensign_bundle::statement::{self, Document};
use ensign_bundle::text::printable;
use ensign_bundle::trust::Trusted;
use ensign_bundle::trust::roles::FileRef;
use ensign_bundle::wire::{Enroll, EnrollReply, FromDevice, Request, ToDevice, frame};
use ensign_crypto::{Envelope, cbor};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One byte string per envelope: what is accepted is what would be written.
pub fn envelope(data: &[u8]) {
    if let Ok(envelope) = Envelope::parse(data, limits::TARGETS_BYTES) {
        assert_eq!(envelope.encode(), data);
    }
}

/// What the scanner accepts, the decoder understands, and it is the only spelling.
pub fn cbor(data: &[u8]) {
    let limits = cbor::Limits {
        max_depth: 12,
        max_items: limits::ROLE_ITEMS,
    };
    let _ = cbor::scan_sequence(data, limits);
    if cbor::scan(data, limits).is_ok() {
        let value: serde_cbor::Value = serde_cbor::from_slice(data).expect("deterministic CBOR is CBOR");
        assert_eq!(serde_cbor::to_vec(&value).expect("it was decoded"), data);
    }
}

/// The payload of every signed document, as if its signatures were good: of an envelope, or after a byte that says which.
pub fn documents(data: &[u8]) {
    type Check = (&'static str, fn(&[u8]));
    macro_rules! checks {
        ($($document:ty),* $(,)?) => { &[$((<$document>::KIND, document::<$document>)),*] };
    }
    const CHECKS: &[Check] = each_document!(checks);
    if let Ok(envelope) = Envelope::parse(data, limits::TARGETS_BYTES) {
        if let Some((_, check)) = CHECKS.iter().find(|(kind, _)| *kind == envelope.kind()) {
            check(envelope.payload());
        }
    } else if let Some((kind, payload)) = data.split_first() {
        match CHECKS.get(usize::from(*kind)) {
            Some((_, check)) => check(payload),
            None => drop(Gate::decode(payload)),
        }
    }
}

/// A plan on its way between its signers, and one whose magic is right.
pub fn plan_file(data: &[u8]) {
    for bytes in [data.to_vec(), [&file::MAGIC, data].concat()] {
        if let Ok(file) = PlanFile::parse(&bytes) {
            assert_eq!(file.encode().expect("it was decoded"), bytes);
        }
    }
}

pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::parse(data) {
        for component in &manifest.components {
            let _ = component.tree_digest();
            assert!(component.entries().count() <= limits::FILES);
        }
    }
}

/// A whole bundle: preamble, header, chain, documents, manifests, tables.
pub fn container(data: &[u8]) {
    let mut reader = Cursor::new(data);
    if let Ok(bundle) = container::read(&mut reader) {
        assert_eq!(bundle.len(), data.len() as u64);
        let _ = bundle.check_content(&mut reader, &mut |_| {});
    }
}

/// A block table that the manifest names by exactly these bytes.
pub fn table(data: &[u8]) {
    let golden = include_bytes!("../../testdata/manifest-v1.cbor");
    let manifest = Manifest::parse(golden).expect("the golden manifest");
    for mut component in manifest.components {
        component.blocks = FileRef {
            digest: Digest::of(data),
            length: data.len() as u64,
        };
        if let Ok(table) = BlockTable::parse(data, &component) {
            assert_eq!(BlockTable::encode(table.rows()).expect("it was decoded"), data);
        }
    }
}

/// A stored block that its table names by exactly these bytes; the first two bytes say how long it is to be.
pub fn block(data: &[u8]) {
    let Some((length, stored)) = data.split_first_chunk::<2>() else {
        return;
    };
    let Ok(stored_len) = u32::try_from(stored.len()) else {
        return;
    };
    let row = BlockRow {
        kind: BlockKind::Zstd,
        plain_len: u32::from(u16::from_be_bytes(*length)).max(1),
        stored_len,
        plain: Digest::of(b""),
        stored: Digest::of(stored),
        pieces: Vec::new(),
    };
    let mut plain = Vec::new();
    let _ = decode_block(&row, stored, &mut plain);
    assert!(plain.capacity() <= limits::BLOCK_BYTES + 1);
}

/// Frames of the control stream, with their length word.
pub fn frames(data: &[u8]) {
    let Some((word, body)) = data.split_first_chunk::<{ frame::LENGTH_BYTES }>() else {
        return;
    };
    if frame::body_length(*word).is_err() {
        return;
    }
    message::<FromDevice>(frame::decode(body).ok());
    message::<ToDevice>(frame::decode(body).ok());
    message::<Request>(frame::decode(body).ok());
    message::<Enroll>(frame::decode(body).ok());
    message::<EnrollReply>(frame::decode(body).ok());
}

/// Packets between the processes of a device.
#[cfg(feature = "ipc")]
pub fn ipc(data: &[u8]) {
    use ensign_agent::ipc::{FromAdmin, FromApplier, FromRunner, ToAdmin, ToApplier, ToRunner};
    let items = 16_384;
    message::<ToApplier>(codec::decode(data, items).ok());
    message::<FromApplier>(codec::decode(data, items).ok());
    message::<ToAdmin>(codec::decode(data, items).ok());
    message::<FromAdmin>(codec::decode(data, items).ok());
    message::<ToRunner>(codec::decode(data, items).ok());
    message::<FromRunner>(codec::decode(data, items).ok());
}

/// A journal as it lies on the disk, and one whose only frame has this body.
pub fn journal(data: &[u8]) {
    let _ = ensign_apply::journal::replay(data);
    let Ok(length) = u32::try_from(data.len()) else { return };
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&1_u64.to_be_bytes());
    frame.extend_from_slice(&1_u16.to_be_bytes());
    frame.extend_from_slice(&1_u64.to_be_bytes());
    frame.extend_from_slice(data);
    frame.extend_from_slice(&crc32c::crc32c(&frame).to_be_bytes());
    if let Ok(replay) = ensign_apply::journal::replay(&frame)
        && replay.frames == 1
    {
        assert_eq!(replay.end, frame.len());
    }
}

/// A stored trust state.
pub fn trust_state(data: &[u8]) {
    if let Ok(trusted) = Trusted::decode(data) {
        let stored = trusted.encode().expect("it was decoded");
        let again = Trusted::decode(&stored).expect("it was encoded");
        assert_eq!(again.encode().expect("it was decoded"), stored);
    }
}

/// What people and devices write as text.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Selector::parse(text);
    let _ = text.parse::<Token>();
    if let Ok(path) = TreePath::parse(text) {
        assert!(path.names().all(|name| !name.is_empty() && name != "." && name != ".."));
    }
    let shown = printable(text, 200);
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
}

fn document<T: Document>(payload: &[u8]) {
    let Ok(body) = codec::decode_exact::<T>(payload, T::MAX_ITEMS) else {
        return;
    };
    if body.check().is_ok() && body.check_lifetime().is_ok() {
        let envelope = statement::seal(&body).expect("it was decoded");
        assert_eq!(envelope.payload(), payload, "another spelling of a {}", T::KIND);
    }
}

/// Messages may have fields that this version does not know; what it knows, it says again.
fn message<T: Serialize + DeserializeOwned>(message: Option<T>) {
    if let Some(message) = message {
        let bytes = codec::encode(&message).expect("it was decoded");
        assert!(codec::decode::<T>(&bytes, limits::ROLE_ITEMS).is_ok());
    }
}
