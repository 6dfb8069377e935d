//! What this machine has seen of devices: the number of their newest labels. Labels never go back, so whoever holds the controller cannot
//! make an operator resolve a selector with labels from before.

use std::collections::BTreeMap;
use std::fs::File;

use ensign_bundle::codec;
use ensign_bundle::digest::{DeviceId, Digest};
use ensign_bundle::reason::{Code, Refusal};
use ensign_bundle::refuse;
use serde::{Deserialize, Serialize};

use crate::app::Session;
use crate::durable::{self, SECRET};
use crate::failure::{Failure, Result, fail};
use crate::home::{self, Context};

/// The format number of the file.
const FORMAT: u16 = 1;
/// Largest file, bytes, and most items in it: a million devices.
const BYTES: u64 = 64 << 20;
const ITEMS: usize = 4 << 20;

/// The memory as it was read.
#[derive(Debug)]
pub struct Seen {
    known: Known,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    format: u16,
    /// Each device whose evidence was verified here, strictly increasing by id, and the number of its newest labels (0 = its token's).
    devices: Vec<(DeviceId, u64)>,
    /// Deploy scopes under which every device's grants counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sound: Option<Digest>,
}

impl Seen {
    pub fn load(context: &Context) -> Result<Self> {
        let path = context.seen_path();
        let known = match home::read_up_to(&path, BYTES) {
            Ok(bytes) => {
                let damaged = |e: &dyn std::fmt::Display| {
                    Failure::new(Code::Malformed, format!("{}: {e}", path.display())).hint(
                        "restore ENSIGN_HOME from a backup; without this file older labels of a device are not noticed",
                    )
                };
                let known: Known = codec::decode(&bytes, ITEMS).map_err(|e| damaged(&e))?;
                if known.format != FORMAT {
                    return fail!(
                        VersionUnknown,
                        "{} has format {}, this program knows {FORMAT}",
                        path.display(),
                        known.format
                    );
                }
                known
            }
            Err(e) if e.code == Code::NotFound => Known {
                format: FORMAT,
                ..Known::default()
            },
            Err(e) => return Err(e),
        };
        Ok(Self { known })
    }

    /// The number of the device's newest labels; none where its evidence was never verified here.
    pub fn labels(&self, device: &DeviceId) -> Option<u64> {
        let at = self.known.devices.binary_search_by_key(device, |(id, _)| *id).ok()?;
        self.known.devices.get(at).map(|(_, seq)| *seq)
    }

    /// Refuses labels that are older than what was seen.
    pub fn check(&self, device: &DeviceId, seq: u64) -> Result<(), Refusal> {
        match self.labels(device) {
            Some(known) if seq < known => refuse!(
                RollbackRefused,
                "labels number {seq} are shown, this machine has seen number {known}"
            ),
            _ => Ok(()),
        }
    }

    /// True where everybody's grants counted under these scopes, when they were looked at last.
    pub fn is_sound(&self, scopes: &Digest) -> bool {
        self.known.sound.as_ref() == Some(scopes)
    }
}

/// Remembers labels that were verified, or signed here and taken. Numbers only rise.
pub fn remember(context: &Context, labels: &[(DeviceId, u64)]) -> Result<()> {
    change(context, |known| {
        let mut all: BTreeMap<DeviceId, u64> = known.devices.drain(..).collect();
        for (device, seq) in labels {
            let entry = all.entry(*device).or_default();
            *entry = (*entry).max(*seq);
        }
        known.devices = all.into_iter().collect();
    })
}

/// Remembers that everybody's grants count under these scopes.
pub fn remember_sound(context: &Context, scopes: Digest) -> Result<()> {
    change(context, |known| known.sound = Some(scopes))
}

/// What decides whether a grant counts: the deploy scopes and the protected labels of root.
pub fn scopes(session: &Session) -> Result<Digest> {
    let root = session.trust.root();
    let bytes = codec::encode(&(&root.scopes, &root.protected))
        .map_err(|e| Failure::new(Code::Failed, format!("the scopes of root: {e}")))?;
    Ok(Digest::of(&bytes))
}

/// Reads, changes and stores under a lock: another run of this command may have seen more meanwhile.
fn change(context: &Context, change: impl FnOnce(&mut Known)) -> Result<()> {
    let path = context.seen_path();
    let failed = |e| Failure::io("lock", &path, &e);
    let lock = File::create(path.with_extension("lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let seen = Seen::load(context)?;
    let mut next = seen.known.clone();
    change(&mut next);
    if next == seen.known {
        return Ok(());
    }
    let bytes = codec::encode(&next).map_err(|e| Failure::new(Code::Failed, format!("{}: {e}", path.display())))?;
    durable::write(&path, &bytes, SECRET).map_err(|e| Failure::io("write", &path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_labels_only_rise() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context::for_test(dir.path());
        let device = |n| DeviceId([n; 32]);
        assert_eq!(Seen::load(&context).unwrap().labels(&device(1)), None);
        remember(&context, &[(device(2), 7), (device(1), 0)]).unwrap();
        remember(&context, &[(device(2), 5), (device(3), 1)]).unwrap();
        let seen = Seen::load(&context).unwrap();
        assert_eq!(
            [1, 2, 3, 4].map(|n| seen.labels(&device(n))),
            [Some(0), Some(7), Some(1), None]
        );
        assert!(seen.check(&device(2), 7).is_ok() && seen.check(&device(4), 0).is_ok());
        assert_eq!(seen.check(&device(2), 6).unwrap_err().code, Code::RollbackRefused);
        let scopes = Digest([1; 32]);
        assert!(!seen.is_sound(&scopes));
        remember_sound(&context, scopes).unwrap();
        let seen = Seen::load(&context).unwrap();
        assert!(seen.is_sound(&scopes) && seen.labels(&device(2)) == Some(7));
        durable::write(&context.seen_path(), b"no cbor", SECRET).unwrap();
        assert_eq!(Seen::load(&context).unwrap_err().code, Code::Malformed);
    }
}
