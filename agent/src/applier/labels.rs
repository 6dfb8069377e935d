//! `labels.json`: what operators say of this device, for applications on it.

use serde::Serialize;

use super::shell::Shell;
use crate::durable;

const MODE: u32 = 0o644;
/// Largest file: 64 labels of 126 bytes.
const BYTES: usize = 64 << 10;

#[derive(Serialize)]
struct Document<'a> {
    id: String,
    name: &'a str,
    labels: ensign_bundle::ids::Labels,
}

/// Writes the file where it says something else, and notes that the hook must be told.
pub(super) fn write(shell: &mut Shell) {
    let (Some(identity), Some(trusted)) = (&shell.identity, &shell.trusted) else {
        return;
    };
    let document = Document {
        id: identity.id.to_string(),
        name: &identity.name,
        labels: trusted.labels(&identity.id),
    };
    let Ok(mut bytes) = serde_json::to_vec_pretty(&document) else {
        return;
    };
    bytes.push(b'\n');
    let path = shell.paths.labels();
    if durable::read(&path, BYTES).ok().flatten().as_ref() == Some(&bytes) {
        return;
    }
    match shell.paths.disk().write(&path, &bytes, MODE) {
        Ok(()) => shell.labels_changed = true,
        Err(error) => tracing::warn!(file = %path.display(), %error, "labels are not written"),
    }
}
